"""The ways to an introduction: whom to ask, in which order.

Does: find one carrier after the other, each only when the one before did not help.
Does not: ask them (courier.py), or keep pipes (pipes.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeAlias

from convergence.chance import choose, sample
from convergence.introduction.asker import CircuitCarrier
from convergence.introduction.pipes import Pipes, relay_of
from convergence.introduction.signalling import Carrier
from convergence.limits import SharedPerMinute
from convergence.netdir.lookup import Lookup
from convergence.netdir.view import Class, View
from convergence.outbox import Outbox
from convergence.path.pool import CircuitPool
from convergence.ports import Rng
from convergence.wire.descriptor import Descriptor

OTHER_CARRIERS = 3
"""Pipes asked for an introduction although nothing says that they lead to the node."""
DIALLED = 32
"""Relays with an address of which one may be asked last."""
CIRCUITS_PER_MINUTE = 12
"""Circuits to introducers; beyond, for each source its equal part of them. Each relay of such a circuit may need an
introduction to the next one. Without a limit, a few descriptors of absent nodes that name each other would keep a whole
network building circuits."""

Finder: TypeAlias = Callable[[float], Carrier | None]
"""Gives the next carrier of one kind as of `now`, or None when there is none left."""


class Route:
    """The ways to one node: a `courier.Carriers`."""

    def __init__(self, finders: Sequence[Finder], last: Sequence[Finder]) -> None:
        self._finders = finders
        self._last = last

    def next(self, now: float) -> Carrier | None:
        """The best one that was not given yet."""
        return _first(self._finders, now)

    def last(self, now: float) -> Carrier | None:
        """Whom to ask last, one after the other."""
        return _first(self._last, now)


def _first(finders: Iterable[Finder], now: float) -> Carrier | None:
    return next((carrier for finder in finders if (carrier := finder(now)) is not None), None)


class Ways:
    """Finds carriers.

    Args:
        own: our identity.
        view, lookup: which nodes there are, and what is known of those with a name.
        pipes: those that there are.
        pool: builds circuits to introducers.
        dials: whether a link to a node needs no introduction.
        facilitator: gives the way to be introduced by the facilitator, while there is one.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        own: bytes,
        view: View[Descriptor],
        lookup: Lookup,
        pipes: Pipes,
        pool: CircuitPool,
        dials: Callable[[Descriptor], bool],
        facilitator: Callable[[], Carrier | None],
    ) -> None:
        self._outbox = outbox
        self._rng = rng
        self._own = own
        self._view = view
        self._lookup = lookup
        self._pipes = pipes
        self._pool = pool
        self._dials = dials
        self._facilitator = facilitator
        self._circuits = SharedPerMinute(outbox, CIRCUITS_PER_MINUTE)

    def to(self, target: bytes, named: bytes | None, source: Hashable, now: float) -> Route:
        """The ways to `target` for `source`, best first: through `named` if given, through peers that are said to know
        the node, through a few others, through circuits. The facilitator comes last, because it need not learn what a
        peer can do; only a node without a pipe asks it at once. A node that has lost all its links can still ask an
        introducer whose address it can dial."""
        node = self._lookup.get(target, now)
        introducers = () if node is None else node.introducers
        dialled: list[Descriptor] = []
        self._view.sample(Class.DIALLED, DIALLED, now, lambda nodes, now: dialled.extend(nodes))
        for identity in introducers:  # so that they are known by the time they are asked
            self._lookup.get(identity, now)
        first = () if named is None else (named,)
        tried = {self._own}  # by a pipe
        facilitator = _once(lambda now: self._facilitator())
        return Route(
            (
                self._pipes_to(first, tried),
                self._circuits_to(first, tried, source),
                lambda now: None if any(pipe.ready for pipe in self._pipes) else facilitator(now),
                self._pipes_to((target, *introducers), tried),
                self._others(tried),
                self._circuits_to((item for item in introducers if item not in (target, named)), tried, source),
            ),
            (facilitator, _once(lambda now: self._dialled(dialled, introducers, tried, target, source, now))),
        )

    def _pipes_to(self, identities: Iterable[bytes], tried: set[bytes]) -> Finder:
        left = deque(identities)

        def find(now: float) -> Carrier | None:
            while left:
                identity = left.popleft()
                pipe = None if identity in tried else self._pipes.to(identity)
                if pipe is not None:
                    tried.add(identity)
                    return pipe.signals
            return None

        return find

    def _others(self, tried: set[bytes]) -> Finder:
        """A few neighbours that may happen to know a node; relays that we chose ourselves know more than others."""
        finder: Finder | None = None

        def find(now: float) -> Carrier | None:
            nonlocal finder
            if finder is None:
                opened = [peer for peer, pipe in self._pipes.opened.items() if pipe.ready and peer not in tried]
                accepted = {pipe.peer for pipe in self._pipes.accepted if pipe.peer is not None} - tried
                others = opened or sorted(accepted)
                finder = self._pipes_to(sample(self._rng, others, min(OTHER_CARRIERS, len(others))), tried)
            return finder(now)

        return find

    def _circuits_to(self, identities: Iterable[bytes], tried: set[bytes], source: Hashable) -> Finder:
        """Those of which nothing is known yet are left for the next time."""
        left = list(dict.fromkeys(identities))

        def find(now: float) -> Carrier | None:
            for identity in list(left):
                node = relay_of(self._lookup, identity, now)
                if node is not None or identity in tried:
                    left.remove(identity)
                if node is not None and identity not in tried and self._circuits.spend(source, now):
                    return CircuitCarrier(self._outbox, self._pool, node.target)
            return None

        return find

    def _dialled(
        self,
        known: Iterable[Descriptor],
        introducers: Iterable[bytes],
        tried: set[bytes],
        target: bytes,
        source: Hashable,
        now: float,
    ) -> Carrier | None:
        """An introducer whose address can be dialled, or else any such relay of those that are known."""

        def suit(nodes: Iterable[Descriptor | None]) -> list[Descriptor]:
            return [node for node in nodes if node and self._dials(node) and node.identity not in tried | {target}]

        able = suit(relay_of(self._lookup, identity, now) for identity in introducers) or suit(known)
        if able and self._circuits.spend(source, now):
            return CircuitCarrier(self._outbox, self._pool, choose(self._rng, able).target, direct=True)
        return None


def _once(find: Finder) -> Finder:
    """The same finder, limited to one carrier."""
    given = False

    def find_once(now: float) -> Carrier | None:
        nonlocal given
        carrier = None if given else find(now)
        given = given or carrier is not None
        return carrier

    return find_once
