"""Hops extension: where a point knows nobody, the asker goes on over the same circuit, to points that this one names.

Does: ask for referrals, judge them, extend the circuit to one point after the other; remember for one request where it
asked, and whose referrals led nowhere.
Does not: know names, open sessions, or believe anything: a node that is referred to comes into no list and no other
path. It may be an end of this circuit because its descriptor holds (netdir/nodes.py, `vouch`).

A point cannot know what it is asked for, so it names the same points to everybody. It learns that the circuit goes on,
and not what is asked for there: that is blinded for the next point. What one request learns of a point stays with it:
else the point could tell by whose referrals are followed which requests are of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

from convergence.circuit.client import ClientCircuit
from convergence.errors import RemoteError
from convergence.netdir.view import Class, Found, View, place_of
from convergence.outbox import Outbox
from convergence.rdv.circuits import CircuitSource
from convergence.wire.descriptor import Descriptor
from convergence.wire.relay import MAX_DATA, REFERRALS_OKAY
from convergence.wire.target import RelayTarget, Role

REFERRALS = 3  # points that one point names in an answer...
BEFORE = 2  # ...of which about so many stand before it on the ring
MAX_VISITED = 32  # points of one request, its own counted (ring.py); beyond, it goes on to no more in...
REVISIT_AFTER = 600.0  # ...so many seconds, after which all is forgotten
MAX_MISSES = 2 * REFERRALS  # of one point's referrals that led nowhere; then it is asked for none


def around(view: View[Descriptor], own: bytes, now: float, then: Found[list[bytes]]) -> None:
    """What a point names: the encoded descriptors of some that stand beside it on the ring, BEFORE of them before it
    on average. Whoever looks for a name asks the points behind its place; where he finds nobody, he may not know those
    between.

    Args:
        own: the point's identity.
    """
    back = (BEFORE << 256) // max(view.count(Class.POINTS, now), BEFORE + 1)

    def start(value: bytes, identity: bytes) -> bytes:
        place = int.from_bytes(place_of(value, identity), "big")
        return ((place - back) % (1 << 256)).to_bytes(32, "big")

    def found(rings: Sequence[Sequence[Descriptor]], now: float) -> None:
        named = [node.encode() for node in chain(*rings[:1]) if node.identity != own]
        then([descriptor for descriptor in named if len(descriptor) <= MAX_DATA][:REFERRALS], now)

    view.closest(Class.POINTS, own, REFERRALS + 1, now, found, place=start)


class Told:
    """What the last hop of a circuit named: the circuit's `on_info`.

    Args:
        flooded: called when it names more than it may.
    """

    def __init__(self, flooded: Callable[[], None]) -> None:
        self._flooded = flooded
        self.due = 0  # that it may still name
        self.descriptors: dict[bytes, None] = {}  # encoded, REFERRALS at most

    def __call__(self, descriptor: bytes) -> None:
        self.due -= 1
        if self.due < 0:
            self._flooded()
            raise RemoteError("a referral that was not asked for")
        if len(self.descriptors) < REFERRALS:
            self.descriptors[descriptor] = None


class Referrals:
    """Those of one request: of all that looks for one hash_name."""

    def __init__(self, circuits: CircuitSource, outbox: Outbox) -> None:
        self._circuits = circuits
        self._outbox = outbox
        self._since = 0.0  # when the first of what is remembered came, in steady time
        self._visited: set[bytes] = set()  # identities of points that were asked; MAX_VISITED, and its own
        self._misses: dict[bytes, int] = {}  # by identity; of points that were asked

    def flags(self, circuit: ClientCircuit, now: float) -> int:
        """Of a query to the last hop: whether it may name other points. To be called once for each query. A circuit
        that can go on to none asks too: how long it is, the point must not be told."""
        point = circuit.path[-1].identity
        self._forget(now)
        self._visited.add(point)
        if self._misses.get(point, 0) >= MAX_MISSES:
            return 0
        told = circuit.on_info
        if not isinstance(told, Told):
            told = circuit.on_info = Told(partial(self._miss, point, MAX_MISSES))
        told.due += REFERRALS
        return REFERRALS_OKAY

    def any(self, circuit: ClientCircuit) -> bool:
        """Whether an idle circuit can go on to points that its last hop named."""
        named = isinstance(circuit.on_info, Told) and bool(circuit.on_info.descriptors)
        return named and circuit.idle and self._circuits.may_extend(circuit)

    def follow(
        self,
        circuit: ClientCircuit,
        on_ready: Callable[[float], None],
        on_failed: Callable[[float], None],
        now: float,
    ) -> None:
        """Extend the circuit to one of these. One of on_ready and on_failed follows, perhaps at once, or neither, if no
        answer to a look-up comes. After on_failed the circuit may be gone."""
        point = circuit.path[-1].identity
        told = list(circuit.on_info.descriptors) if isinstance(circuit.on_info, Told) else []
        circuit.on_info = None

        def look(now: float) -> None:
            if told and not circuit.closed:
                self._miss(point)  # until somebody is there
                self._circuits.look_up(told.pop(0), now, met)
            else:
                on_failed(now)

        def met(node: RelayTarget | None, now: float) -> None:
            if circuit.closed:
                on_failed(now)
            elif node is not None and node.identity in self._visited:
                self._miss(point, -1)  # points beside each other name the same ones
                look(now)
            elif node is None or not node.roles & Role.RDV or len(self._visited) >= MAX_VISITED:
                look(now)
            else:
                self._visited.add(node.identity)
                self._circuits.extend(
                    circuit, node, lambda circuit, now: on_ready(now), lambda why, now: look(now), now
                )

        look(now)

    def found(self, circuit: ClientCircuit) -> None:
        """Somebody was there."""
        *_, before, last = (None, *circuit.path)
        self._visited.discard(last.identity)
        if before is not None:
            self._misses.pop(before.identity, None)

    def _miss(self, point: bytes, count: int = 1) -> None:
        self._misses[point] = self._misses.get(point, 0) + count

    def _forget(self, now: float) -> None:
        steady = self._outbox.steady(now)
        if steady - self._since >= REVISIT_AFTER:
            self._since = steady
            self._visited.clear()
            self._misses.clear()
