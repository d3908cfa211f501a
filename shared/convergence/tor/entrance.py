"""The ways into the Tor network: by guards of its own, or through a node of ours that leads there.

Does: say where paths begin, where their first relays take links, and who is asked for documents.
Does not: believe anybody: documents are checked the same (directory.py), whoever they come from.

A node of ours stands where a guard stands. So it is kept over restarts like one, others are taken only while it fails,
and few in all; and the rest of the path is two relays of Tor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from convergence.codes import PathWhy
from convergence.errors import LocalError, Problem, Why
from convergence.events import Trouble
from convergence.link.neighbours import LinkAddress
from convergence.netdir.view import Class, Known, View, together
from convergence.outbox import Outbox
from convergence.path.entries import StickyEntries
from convergence.path.guards import Guards, GuardUse
from convergence.path.reputation import Reputation
from convergence.path.torpath import TorPath, TorPaths, Wanted
from convergence.ports import Rng
from convergence.wire.target import RelayTarget

if TYPE_CHECKING:
    from convergence.tor.network import TorConfig

KNOWN = 32  # nodes that lead there of which one is chosen
ASK_AGAIN = 10.0  # seconds until a View that did not answer is asked again
RELAYS = 2  # of Tor, behind a node of ours
MAX_ENTRIES = 128  # addresses of entries that are remembered; those that were chosen longest ago are forgotten first
LATEST = 6  # different relays that entries were to extend to
UNDER_WAY = 5.0  # seconds in which "extended" after "not extended" is the answer to something asked before
REFUSED = 3  # of them; an entry that did not extend to so many is left, and ATTEMPTS leave one more
LEFT = 3600.0  # seconds for which it is left: one that extends to its friends only would soon win by coming back

Rests = Callable[[bytes, float], bool]
"""(identity, now) -> whether it failed as a directory, or lied, and is not to be asked."""


class ByGuards:
    """Guards of the Tor network (path/guards.py).

    Args:
        rests: of directories.
    """

    def __init__(self, outbox: Outbox, rng: Rng, config: TorConfig, rests: Rests) -> None:
        self._rests = rests
        self._config = config
        self._addresses: dict[bytes, LinkAddress] = {}  # of entries that were chosen lately
        self._uses: dict[bytes, GuardUse] = {}  # of guards that are to be asked for documents
        self._guards = Guards(outbox, rng, config.name)
        self.paths = TorPaths(rng, self._guards, distinct_subnets=config.distinct_subnets)

    def start(self, now: float, then: Callable[[float], None]) -> None:
        """Read what earlier runs kept; then(now) follows."""
        self._guards.restore(now, then)

    def exit_path(self, wanted: Collection[Wanted], now: float, *, avoid: Collection[bytes] = ()) -> TorPath:
        """A path, whose entry we can reach from now on."""
        path = self.paths.exit_path(wanted, now, avoid=avoid)
        self._enter(path)
        return path

    def leg_path(
        self, wanted: Collection[Wanted], legs: Collection[TorPath], now: float, *, avoid: Collection[bytes] = ()
    ) -> TorPath:
        """Likewise, for a leg of a conflux set."""
        path = self.paths.leg_path(wanted, legs, now, avoid=avoid)
        self._enter(path)
        return path

    def point_path(self, point: RelayTarget, now: float, *, avoid: Collection[bytes] = ()) -> TorPath:
        """Likewise, to a rendezvous point of our own network, which comes behind the path."""
        path = self.paths.internal_path(now, avoid=avoid, beyond=point)
        self._enter(path)
        return path

    def directories(self, now: float) -> Sequence[RelayTarget]:
        """A guard of ours, so that few learn that we are there; before we have any, the first ones."""
        try:
            path = self.paths.directory_guard(now)
        except LocalError:
            return self._config.first_targets
        assert path.use is not None
        [target] = path.targets
        if self._rests(target.identity, now):
            path.use.over(now)
            return self._config.first_targets
        self._enter(path)
        replaced = self._uses.pop(target.identity, None)
        if replaced is not None:
            replaced.over(now)
        self._uses[target.identity] = path.use
        return [target]

    def directory_use(self, directory: RelayTarget) -> GuardUse | None:
        """For one circuit to a directory that `directories` gave."""
        return self._uses.pop(directory.identity, None)

    def address(self, identity: bytes) -> LinkAddress | None:
        """Where a relay takes links; `identity` as in RelayTarget."""
        return self._config.link_address(identity) or self._addresses.get(identity)

    def hop_ended(self, path: Sequence[RelayTarget], hop: int, stood: bool, now: float) -> None:
        """The uses of guards tell."""

    def nodes_changed(self, now: float) -> None:
        """Nodes of our own network do not matter."""

    def known(self, now: float) -> int | None:
        """How many nodes of ours lead there; None where that does not matter."""
        return None

    def _enter(self, path: TorPath) -> None:
        entry = path.relays[0]
        self._addresses.pop(entry.target.identity, None)
        self._addresses[entry.target.identity] = entry.link_address
        if len(self._addresses) > MAX_ENTRIES:
            del self._addresses[next(iter(self._addresses))]


class _Extended(NamedTuple):
    """Whether an entry extended to a relay.

    Args:
        at: when that was known, in steady time.
    """

    stood: bool
    at: float


class ByNodes:
    """One node of our own network that extends circuits to relays of Tor.

    Args:
        rests: of directories. Whoever lies there gets no circuits either.
        entries: which one was taken, over restarts.
        view: says which nodes there are.
        suits: whether we can open links to a node.
        on_found: called with `now` when there is an entry, after one was wanted in vain.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        config: TorConfig,
        rests: Rests,
        entries: StickyEntries,
        view: View[Known],
        suits: Callable[[RelayTarget], bool],
        on_found: Callable[[float], None],
    ) -> None:
        self.paths = TorPaths(rng, None, distinct_subnets=config.distinct_subnets)
        self._outbox = outbox
        self._rng = rng
        self._rests = rests
        self._entries = entries
        self._view = view
        self._suits = suits
        self._on_found = on_found
        self._nodes: list[RelayTarget] = []  # as the View told last; KNOWN, and those that were chosen before
        self._asked = float("-inf")  # when the View was last asked and did not answer yet, in steady time
        self._reputation = Reputation(outbox)
        self._user = sha256(b"convergence:tor-entries" + config.name.encode()).digest()
        self._lacking = False  # whether an entry was wanted in vain
        self._told = False  # whether people know that there is none
        self._left: dict[bytes, float] = {}  # entries that refused: identity -> until when, in steady time
        self._extended: dict[tuple[bytes, bytes], _Extended] = {}  # (entry, relay) -> whether it did; the latest last

    def start(self, now: float, then: Callable[[float], None]) -> None:
        """The entries were restored before."""
        then(now)

    def exit_path(self, wanted: Collection[Wanted], now: float, *, avoid: Collection[bytes] = ()) -> TorPath:
        """A path behind our entry."""
        entry = self._entry(self._now_known(now), now)
        return self.paths.exit_path(wanted, now, hops=RELAYS, avoid=avoid, entry=entry)

    def point_path(self, point: RelayTarget, now: float, *, avoid: Collection[bytes] = ()) -> TorPath:
        """Likewise, to a rendezvous point of our own network, which comes behind the path and is not the entry."""
        entry = self._entry([node for node in self._now_known(now) if node.identity != point.identity], now)
        return self.paths.internal_path(now, hops=RELAYS, avoid=avoid, entry=entry, beyond=point)

    def directories(self, now: float) -> Sequence[RelayTarget]:
        """The entry knows anyway that we are there, so nobody else is asked."""
        try:
            found = [self._entry(self._now_known(now), now)]
        except Problem:
            found = []
        self._lacking = not found
        return found

    def directory_use(self, directory: RelayTarget) -> GuardUse | None:
        return None

    def address(self, identity: bytes) -> LinkAddress | None:
        """Our own network knows where its nodes are."""
        return None

    def hop_ended(self, path: Sequence[RelayTarget], hop: int, stood: bool, now: float) -> None:
        """The entry answers for its link and its handshake. If an extension fails, the next relay may be to blame, but
        not half of the latest ones. It does not help it to extend to some again and again: they may be its friends."""
        entry = path[0].identity
        if hop == 0 and not stood:
            self._reputation.failed(entry, now)
        if hop != 1:
            return
        if stood:
            self._reputation.worked(entry)
        extended, pair, steady = self._extended, (entry, path[1].identity), self._outbox.steady(now)
        before = extended.pop(pair, None)
        if stood and before is not None and not before.stood and steady < before.at + UNDER_WAY:
            extended[pair] = before
            return
        extended[pair] = _Extended(stood, steady)
        if len(extended) > LATEST:
            del extended[next(iter(extended))]
        if sum(pair[0] == entry and not last.stood for pair, last in extended.items()) >= REFUSED:
            self._left[entry] = steady + LEFT
            self._extended = {pair: last for pair, last in extended.items() if pair[0] != entry}

    def nodes_changed(self, now: float) -> None:
        """Other nodes are known. Tells if nobody leads there."""

        def asked(now: float) -> None:
            found = bool(self._nodes)
            if not found and not self._told:
                self._outbox.emit(Trouble(Why(PathWhy.NO_TOR_ENTRY), retrying=True))
            self._told = not found
            if self._lacking and found:
                self._on_found(now)

        self._ask(now, asked)

    def known(self, now: float) -> int | None:
        """How many nodes of ours lead there, up to KNOWN that are looked at."""
        return len(self._now_known(now))

    def _now_known(self, now: float) -> list[RelayTarget]:
        """Those that there are: what the View answers at once counts already."""
        if self._outbox.steady(now) >= self._asked + ASK_AGAIN:
            self._ask(now, lambda now: None)
        return self._nodes

    def _ask(self, now: float, then: Callable[[float], None]) -> None:
        kept = self._entries.kept(self._user)

        def answered(answers: list[Any], now: float) -> None:
            self._asked = float("-inf")
            drawn, *named = answers
            known = {node.target.identity: node.target for node in (*named, *drawn) if node is not None}
            self._nodes = [node for node in known.values() if Class.TOR.holds(node) and self._suits(node)]
            then(now)

        self._asked = self._outbox.steady(now)
        together(
            [
                partial(self._view.sample, Class.TOR, KNOWN, now),
                *(partial(self._view.get, identity, now) for identity in kept),
            ],
            answered,
            now,
        )

    def _entry(self, side: Sequence[RelayTarget], now: float) -> RelayTarget:
        """Raises Problem if there is none."""
        if not side:
            raise Problem(PathWhy.NO_TOR_ENTRY)
        identities = {node.identity for node in side}
        steady = self._outbox.steady(now)
        self._left = {identity: until for identity, until in self._left.items() if until > steady}
        resting = {identity for identity in identities if self._rests(identity, now)}
        avoided = [*self._reputation.avoided(identities, now), *sorted(resting), *self._left]
        return self._entries.first(self._user, side, avoided)
