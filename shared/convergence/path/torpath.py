"""Paths through the Tor network (path-spec 2.2).

Does: choose an exit by what is to be reached, a guard, and relays between, each by its bandwidth; keep apart what may
be of one operator: relays of one family, of one subnet, or with an identity in common. Refuse to choose while a
directory may still be choosing for us. Where a node that is none of these relays comes first, do without a guard.
Does not: build circuits, or know which guards work (guards.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from convergence.circuit.client import MAX_HOPS
from convergence.codes import PathWhy
from convergence.errors import LocalError, Problem
from convergence.netdir.consensus import TOLERANCE
from convergence.netdir.tor import TorRelay, TorView
from convergence.path.guards import Guards, GuardUse
from convergence.path.weights import Lottery, Position, Suits, path_fraction
from convergence.ports import Rng
from convergence.wire.consensus import RelayStatus
from convergence.wire.exitpolicy import Address
from convergence.wire.protovers import Protocols
from convergence.wire.target import RelayTarget

MIN_HOPS = 2
LEG_HOPS = 3
LONG_LIVED = frozenset((21, 22, 706, 1863, 5050, 5190, 5222, 5223, 6667, 6697, 8300))
"""Ports whose connections last: only Stable relays carry them (path-spec 2.2)."""
LINKING = Protocols.parse("Conflux=1 FlowCtrl=2 Relay=4")
"""What an exit speaks that ends a conflux set: congestion control comes about by ntor-v3 only."""
LAST_TRIED = 8
"""Last relays that are tried for one path, if no guard or no relay between suits the first one."""

COUNTED_AGAIN = 32
"""How many times, at most, the paths that known relays allow are counted anew while a directory sends descriptors:
counting looks at all relays. In between it may be a little too low."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be reached through an exit.

    Args:
        address: None: a host name, which the exit looks up.
    """

    port: int
    address: Address | None = None


@dataclass(frozen=True, eq=False, slots=True)
class TorPath:
    """A path.

    Args:
        relays: those of the Tor network, the first one leading.
        use: of its guard, which has to hear how the circuit goes.
        entry: the node before them, in place of a guard.
    """

    relays: tuple[TorRelay, ...]
    use: GuardUse | None
    entry: RelayTarget | None = None

    @property
    def targets(self) -> tuple[RelayTarget, ...]:
        before = () if self.entry is None else (self.entry,)
        return (*before, *(relay.target for relay in self.relays))


@dataclass(frozen=True, slots=True)
class _Search:
    """What is asked of one path."""

    view: TorView
    hops: int
    stable: bool
    avoid: Collection[bytes]
    entry: RelayTarget | None = None
    beyond: RelayTarget | None = None
    leg: bool = False  # of a conflux set
    taken: Collection[TorRelay] = ()  # relays of its other legs

    @property
    def ends(self) -> list[RelayTarget]:
        """The nodes of the circuit that no consensus lists."""
        return [node for node in (self.entry, self.beyond) if node is not None]

    def __post_init__(self) -> None:
        if not MIN_HOPS <= self.hops <= MAX_HOPS:
            raise LocalError(f"a circuit has {MIN_HOPS} to {MAX_HOPS} hops, not {self.hops}")

    def relay(self, status: RelayStatus) -> TorRelay | None:
        """One that may stand anywhere but at the beginning."""
        return None if self.stable and "Stable" not in status.flags else self.view.relay(status)

    def is_free(self, relay: TorRelay) -> bool:
        """Whether no other leg goes through it."""
        return not any(map(relay.is_same, self.taken))

    def served(self, status: RelayStatus, wanted: frozenset[Wanted]) -> frozenset[Wanted]:
        """What a relay would connect to of all that is wanted."""
        if self.leg and not status.protocols.covers(LINKING):
            return frozenset()
        exit = self.view.exit(status)
        return frozenset(item for item in wanted if exit.allows(item.address, item.port))


class TorPaths:
    """Chooses paths.

    Args:
        guards: None: paths have none, and begin behind a node that leads into the network.
        distinct_subnets: whether relays of one subnet are kept apart. Off for a network on one machine only.

    Attributes:
        view: of the consensus in use.
    """

    def __init__(self, rng: Rng, guards: Guards | None, *, distinct_subnets: bool = True) -> None:
        self.guards = guards
        self._rng = rng
        self._distinct_subnets = distinct_subnets
        self.view: TorView | None = None
        self._lotteries: dict[Position, Lottery] = {}
        self._fraction = 0.0
        self._counted = -1  # microdescriptors, when the fraction was computed

    def update(self, view: TorView, now: float) -> None:
        """Use this consensus from now on. Microdescriptors may be added to it later."""
        if view is self.view:
            return
        self.view = view
        self._lotteries = {}
        self._counted = -1
        if self.guards is not None:
            self.guards.update(view, now)

    def check(self, now: float) -> TorView:
        """Raises Problem (PathWhy) as long as paths are not to be chosen: there is no consensus that still counts, or
        too few microdescriptors are known, or that of the guard to use is not."""
        view = self.view
        if view is None or now >= view.consensus.valid_until + TOLERANCE:
            raise Problem(PathWhy.NO_CONSENSUS)
        news = view.known - self._counted
        if self._counted < 0 or news * COUNTED_AGAIN >= len(view.relays) or (news and not view.missing()):
            self._counted, self._fraction = view.known, path_fraction(view)
        needed = view.consensus.param("min_paths_for_circs_pct", 60, 25, 95)
        if self._fraction < needed / 100:
            raise Problem(PathWhy.FEW_DESCRIPTORS, needed=needed, known=int(100 * self._fraction))
        if self.guards is not None and not all(map(view.knows, self.guards.needed(now))):
            raise Problem(PathWhy.NO_GUARD_DESCRIPTOR)
        return view

    def ready(self, now: float) -> bool:
        """Whether paths may be chosen."""
        try:
            self.check(now)
        except Problem:
            return False
        return True

    def exit_path(
        self,
        wanted: Collection[Wanted],
        now: float,
        *,
        hops: int = 3,
        avoid: Collection[bytes] = (),
        entry: RelayTarget | None = None,
    ) -> TorPath:
        """A path to an exit that most likely serves the most of what is wanted.

        Args:
            wanted: one thing at least.
            hops: 2 to 5, of the Tor network.
            avoid: Ed25519 identities of relays to take only if there are no others. They do not count for the guard.
            entry: the node before them, where there is no guard.

        Raises Problem (PathWhy).
        """
        search = _Search(self.check(now), hops, any(item.port in LONG_LIVED for item in wanted), avoid, entry)
        served = self._most_served(search, frozenset(wanted))
        return self._path_to_any(search, lambda status: search.served(status, served) == served, Position.EXIT, now)

    def leg_path(
        self, wanted: Collection[Wanted], legs: Collection[TorPath], now: float, *, avoid: Collection[bytes] = ()
    ) -> TorPath:
        """A path for one more leg of a conflux set (proposal 329 section 2.2): to the exit of the other `legs`, through
        no relay of theirs; if there are none yet, to an exit that links. The rest is as for `exit_path`."""
        taken = [relay for leg in legs for relay in leg.relays[:-1]]
        stable = any(item.port in LONG_LIVED for item in wanted)
        search = _Search(self.check(now), LEG_HOPS, stable, avoid, leg=True, taken=taken)
        for leg in legs:
            return self._path_to(search, leg.relays[-1], now)
        served = self._most_served(search, frozenset(wanted))
        return self._path_to_any(search, lambda status: search.served(status, served) == served, Position.EXIT, now)

    def internal_path(
        self,
        now: float,
        *,
        hops: int = 3,
        last: TorRelay | None = None,
        stable: bool = False,
        avoid: Collection[bytes] = (),
        entry: RelayTarget | None = None,
        beyond: RelayTarget | None = None,
    ) -> TorPath:
        """A path that leads out nowhere, to any relay or to `last`.

        Args:
            stable: only relays that rarely go down.
            beyond: where the circuit goes on to, a node that no consensus lists.

        The others are as for `exit_path`. Raises Problem (PathWhy).
        """
        search = _Search(self.check(now), hops, stable, avoid, entry, beyond)
        if last is not None:
            return self._path_to(search, last, now)
        return self._path_to_any(search, lambda status: True, Position.MIDDLE, now)

    def directory_guard(self, now: float) -> TorPath:
        """A path of one hop, to a guard that is to be asked for documents: no microdescriptor has to be known for it
        but its own. Raises Problem (PathWhy)."""
        view = self.view
        if view is None or self.guards is None:
            raise Problem(PathWhy.NO_CONSENSUS)
        use = self.guards.select(lambda status: view.relay(status) is not None, now, directory=True)
        relay = view.relay(use.status)
        assert relay is not None
        return TorPath((relay,), use)

    # -- inside

    def _most_served(self, search: _Search, wanted: frozenset[Wanted]) -> frozenset[Wanted]:
        """Of all that is wanted, the most that any exit serves. Raises Problem if none serves any of it."""
        if not wanted:
            raise LocalError("there is nothing that an exit would be for")
        if self._draw(search, Position.EXIT, lambda status: search.served(status, wanted) == wanted, ()) is not None:
            return wanted
        most: frozenset[Wanted] = frozenset()
        for status in self._lottery(search.view, Position.EXIT).relays:
            served = search.served(status, wanted)
            if len(served) > len(most) and search.relay(status) is not None:
                most = served
        if not most:
            raise Problem(PathWhy.NO_EXIT)
        return most

    def _path_to_any(self, search: _Search, suits: Suits, position: Position, now: float) -> TorPath:
        problem = Problem(PathWhy.NO_EXIT if position is Position.EXIT else PathWhy.NO_PATH)
        tried: list[RelayStatus] = []
        while len(tried) < LAST_TRIED:
            last = self._draw(search, position, lambda status: suits(status) and status not in tried, ())
            if last is None:
                break
            try:
                return self._path_to(search, last, now)
            except Problem as error:
                problem = error
                tried.append(last.status)
        raise problem

    def _path_to(self, search: _Search, last: TorRelay, now: float) -> TorPath:
        """The guard is chosen after the last relay, and those between come at the end."""

        def suits_guard(status: RelayStatus) -> bool:
            relay = search.view.relay(status)
            return relay is not None and search.is_free(relay) and self._apart(relay, (last,), search.ends)

        path, use = [last], None
        if self.guards is not None:
            use = self.guards.select(suits_guard, now)
            entry = search.view.relay(use.status)
            assert entry is not None
            path = [entry, last]
        while len(path) < search.hops:
            middle = self._draw(search, Position.MIDDLE, lambda status: True, path)
            if middle is None:
                if use is not None:
                    use.over(now)
                raise Problem(PathWhy.NO_PATH)
            path.insert(-1, middle)
        return TorPath(tuple(path), use, search.entry)

    def _draw(self, search: _Search, position: Position, suits: Suits, others: Collection[TorRelay]) -> TorRelay | None:
        """One that suits and may be on a path with others; of those to avoid only if there is nobody else."""

        def fits(status: RelayStatus, avoid: Collection[bytes]) -> bool:
            relay = search.relay(status) if suits(status) else None
            if relay is None or relay.target.identity in avoid or not search.is_free(relay):
                return False
            return self._apart(relay, others, search.ends)

        lottery = self._lottery(search.view, position)
        status = lottery.draw(self._rng, lambda status: fits(status, search.avoid))
        if status is None and search.avoid:
            status = lottery.draw(self._rng, lambda status: fits(status, ()))
        return None if status is None else search.view.relay(status)

    def _lottery(self, view: TorView, position: Position) -> Lottery:
        if position not in self._lotteries:
            fast = [status for status in view.relays if "Fast" in status.flags]
            self._lotteries[position] = Lottery(view.consensus, fast, position)
        return self._lotteries[position]

    def _apart(self, relay: TorRelay, others: Collection[TorRelay], ends: Collection[RelayTarget]) -> bool:
        """Whether nothing hints that one operator has it and one of the others, or a node before or behind them that no
        consensus lists."""
        near = self._distinct_subnets and any(not relay.target.subnets.isdisjoint(end.subnets) for end in ends)
        return (
            not near
            and not any(map(relay.is_named, ends))
            and not any(
                relay.is_same(other)
                or relay.is_family(other)
                or (self._distinct_subnets and relay.shares_subnet(other))
                for other in others
            )
        )
