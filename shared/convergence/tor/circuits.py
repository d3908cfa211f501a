"""The circuits of a client in the Tor network: which relays they go through.

Does: have paths chosen by policy, bandwidth and guards (path/torpath.py), keep some circuits ready for the ports that
will be wanted, tell guards how their circuits went, replace those that take longer to build than most
(path/buildtimes.py), build circuits of one hop to directories.
Does not: build them (path/building.py), or know what goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from typing import Protocol as Shape

from convergence.circuit.client import ClientCircuit
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, ParseError, Why
from convergence.link.neighbours import Neighbours
from convergence.netdir.tor import TorRelay
from convergence.outbox import Outbox, ignore
from convergence.path.building import CircuitBuilding
from convergence.path.buildtimes import BuildTimes
from convergence.path.exits import ExitCircuit, ExitReady
from convergence.path.guards import GuardUse, Stage
from convergence.path.place import Failed, Place, Ready, Request, at_once
from convergence.path.predicted import FIRST_PORT, PredictedPorts
from convergence.path.torpath import LONG_LIVED, TorPath, Wanted
from convergence.ports import Crypto, Rng
from convergence.wire.exitpolicy import Address
from convergence.wire.relay import IPV6_OKAY
from convergence.wire.target import RelayTarget

if TYPE_CHECKING:
    from convergence.tor.sets import SetCircuit, Sets

SIZE = 3  # circuits kept ready
BUCKET = "build-times"
STORE_EVERY = 10  # circuits whose build times are kept at once


@dataclass(eq=False)
class TorRequest(Request):
    """A request, and the path on which it is served now.

    Args:
        relays: of that path, those of the Tor network; none for a circuit to a directory.
        use: of its guard.
        late: its circuit is built on only to learn how long that takes.
    """

    relays: tuple[TorRelay, ...] = ()
    use: GuardUse | None = None
    late: bool = False


class Paths(Shape):
    """Who chooses paths."""

    def exit_path(self, wanted: Collection[Wanted], now: float, *, avoid: Collection[bytes] = ()) -> TorPath: ...

    def point_path(self, point: RelayTarget, now: float, *, avoid: Collection[bytes] = ()) -> TorPath: ...

    def hop_ended(self, path: Sequence[RelayTarget], hop: int, stood: bool, now: float) -> None:
        """The hop of this number (0, 1, ...) came to stand, or did not."""


class LegPaths(Shape):
    """Who chooses paths for conflux sets, as `Paths` does for circuits."""

    def leg_path(
        self, wanted: Collection[Wanted], legs: Collection[TorPath], now: float, *, avoid: Collection[bytes] = ()
    ) -> TorPath: ...


class DirectoryCircuits(CircuitBuilding):
    """Circuits of one hop, to directories only."""

    def __init__(self, outbox: Outbox, crypto: Crypto, rng: Rng, neighbours: Neighbours) -> None:
        super().__init__(outbox, crypto, rng, neighbours, size=0)

    def directory_circuit(self, directory: RelayTarget, on_ready: Ready, on_failed: Failed, now: float) -> None:
        self._serve(Request(at_once(lambda now: (directory,)), "directory", on_ready, on_failed, attempts=1), now)

    def _blame(self, place: Place, hop: int, now: float) -> None:
        """Whoever asked takes another directory."""


class TorCircuits(CircuitBuilding):
    """Circuits of three hops to exits, and of one hop to directories.

    Args:
        sets: makes the conflux sets; None: there are none. A page has only one way in, which all legs would share, and
            does not load their code.
        legs: their paths; None likewise.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        paths: Paths,
        legs: LegPaths | None = None,
        sets: type[Sets] | None = None,
        *,
        size: int = SIZE,
        on_full: Callable[[float], None] = lambda now: None,
    ) -> None:
        super().__init__(outbox, crypto, rng, neighbours, size=size, on_full=on_full)
        self.times = BuildTimes()
        self._paths = paths
        self.sets = None if legs is None or sets is None else sets(outbox, rng, legs, self, self._expected)
        self._predicted: PredictedPorts | None = None  # until `start`
        self._name = b""
        self._unstored = 0

    def start(self, now: float, network: str = "") -> None:
        """`network`: its name in the store."""
        self._predicted = PredictedPorts(self._outbox, now)
        self._name = network.encode()

        def loaded(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                with suppress(ParseError):
                    self.times.restore(value)

        self._outbox.load(BUCKET, self._name, loaded)

    def fill(self, now: float) -> None:
        super().fill(now)
        if self.sets is not None and not self._filling:  # single circuits first: they are there sooner
            self.sets.fill(now)

    def stop(self, now: float) -> None:
        if self.sets is not None:
            self.sets.stop(now)
        super().stop(now)

    # -- for those who need circuits

    def exit_circuit(
        self, host: str, port: int, on_ready: ExitReady, on_failed: Failed, now: float, *, avoid: Collection[bytes] = ()
    ) -> None:
        """A circuit of its own to an exit that most likely connects there: if one suits, a conflux set that is ready,
        or a circuit that is, or one that is on its way to become ready. `avoid`: identities of exits to take only if
        there are no others."""
        if self._predicted is not None:
            self._predicted.used(port, now)
        wanted = Wanted(port, _address(host))

        def suits(exit: TorRelay) -> bool:
            return exit.allows(wanted.address, port) and exit.target.identity not in avoid

        linked = self.sets.take(suits, port in LONG_LIVED, now) if self.sets is not None else None
        if linked is not None:
            on_ready(linked, now)
            return
        request = TorRequest(
            at_once(lambda now: self._exit_path(request, wanted, now)),
            "exit",
            on_ready,
            on_failed,
            avoided=dict.fromkeys(avoid),
        )
        for place in (*self._ready, *self._places.values()):
            kept = _of(place)
            if kept.on_ready is None and suits(kept.relays[-1]):
                request.relays, request.use = kept.relays, kept.use
                self._take(place, request, now)
                return
        self._serve(request, now)

    def serves(self, circuit: ExitCircuit, host: str, port: int) -> bool:
        """Whether the exit of this circuit most likely connects there."""
        exit = self._exit(circuit)
        return exit is not None and exit.allows(_address(host), port)

    def better(self, circuit: ExitCircuit, host: str, port: int) -> bool:
        """A conflux set is better than a circuit."""
        if self.sets is None or self._set(circuit) is not None:
            return False
        address = _address(host)
        return self.sets.offered(lambda exit: exit.allows(address, port), port in LONG_LIVED) is not None

    def begin_flags(self, circuit: ExitCircuit, port: int) -> int:
        """A host that has IPv6 addresses only is reached too, where the exit connects to such."""
        exit = self._exit(circuit)
        return IPV6_OKAY if exit is not None and exit.exit.policy6.allows(None, port) else 0

    def number(self, circuit: object) -> int | None:
        """Of a set, that of its first leg which is left."""
        linked = self._set(circuit)
        if linked is None:
            return super().number(circuit)
        return next(filter(None, map(super().number, linked.circuits)), None)

    def rdv_circuit(
        self, point: RelayTarget, hash_name: bytes, provider: bool, on_ready: Ready, on_failed: Failed, now: float
    ) -> None:
        """A circuit of its own to a rendezvous point of our network, which takes links of relays of Tor. Guards are the
        same for all names: these do not count."""

        def make_path(now: float) -> tuple[RelayTarget, ...]:
            path = self._paths.point_path(point, now, avoid=request.avoided)
            request.relays, request.use = path.relays, path.use
            return (*path.targets, point.behind_tor)

        request = TorRequest(at_once(make_path), "rendezvous", on_ready, on_failed)
        self._serve(request, now)

    def may_extend(self, circuit: ClientCircuit) -> bool:
        """Paths through Tor end at the points that we chose."""
        return False

    def extend(
        self, circuit: ClientCircuit, point: RelayTarget, on_ready: Ready, on_failed: Failed, now: float
    ) -> None:
        on_failed(Why(PathWhy.NO_PATH), now)

    def look_up(self, descriptor: bytes, now: float, then: Callable[[RelayTarget | None, float], None]) -> None:
        then(None, now)

    def forget(self, hash_name: bytes, provider: bool) -> None:
        """Nothing is kept of a name."""

    def directory_circuit(
        self, directory: RelayTarget, use: GuardUse | None, on_ready: Ready, on_failed: Failed, now: float
    ) -> None:
        """A circuit of one hop. `use`: the directory is one of our guards."""
        request = TorRequest(at_once(lambda now: (directory,)), "directory", on_ready, on_failed, attempts=1, use=use)
        self._serve(request, now)

    # -- what sets ask

    def build_leg(
        self, make_path: Callable[[float], TorPath], on_ready: Ready, on_failed: Callable[[float], None], now: float
    ) -> None:
        def make(now: float) -> tuple[RelayTarget, ...]:
            path = make_path(now)
            request.relays, request.use = path.relays, path.use
            return path.targets

        request = TorRequest(at_once(make), "leg", on_ready, lambda why, now: on_failed(now))
        self._serve(request, now)

    def lend(self, circuits: Collection[ClientCircuit]) -> None:
        for place in self._places.values():
            if place.circuit in circuits:
                place.request.purpose = "exit"

    # -- what building asks

    def _lacks(self, now: float) -> bool:
        return super()._lacks(now) and bool(self._lacking(now))

    def _ready_request(self) -> Request:
        request = TorRequest(at_once(lambda now: self._predicted_path(request, now)), "ready", None, self._fill_failed)
        return request

    def _await_hop(self, place: Place, now: float) -> None:
        super()._await_hop(place, now)
        if place.hops_built or not _of(place).relays:
            return
        place.started = self._outbox.steady(now)
        timeout = self.times.timeout(len(place.path))
        if timeout is not None:
            place.timers.append(self._outbox.call_at(now + timeout, partial(self._is_late, place)))

    def _all_stand(self, place: Place, now: float) -> None:
        request = _of(place)
        self._stop_timers(place)
        self._measured(place, now)
        use = request.use
        if request.late:
            if use is not None:
                use.worked(now)
            place.machine.move("held", now)
            self._close(place, DestroyReason.FINISHED, now)
            return
        if use is None:
            self._hand_over(place, now)
            return
        use.on_usable = partial(self._hand_over, place)
        use.on_over = lambda now: self._close(place, DestroyReason.FINISHED, now)
        use.worked(now)
        if use.stage is Stage.WAITING:  # for better guards, which may still answer
            place.machine.move("held", now)

    def _blame(self, place: Place, hop: int, now: float) -> None:
        """A guard is to blame only for what it does itself (guard-spec 4.7): no link, a link that died, a bad answer to
        the first handshake, or none. Who says that a later hop failed may lie: other relays are taken for both."""
        request = _of(place)
        if hop == 0 and request.use is not None:
            request.use.failed(now)
        elif hop > 0:
            request.avoid(*place.path[max(hop - 1, 1) : hop + 1])
        self._paths.hop_ended(place.path, hop, False, now)

    def _hop_stands(self, place: Place, hop: int, now: float) -> None:
        self._paths.hop_ended(place.path, hop, True, now)

    def _gone(self, place: Place, now: float) -> None:
        use = _of(place).use
        if use is not None:
            use.over(now)

    # -- inside

    def _is_late(self, place: Place, now: float) -> None:
        """Build another in its place. This one tells how long it takes, or which hop does not come to stand. On its
        last path a request waits longer: rather slow than not at all."""
        request = _of(place)
        if place.hops_built:
            self.times.outcome(late=True)
        if not request.attempts:
            return
        place.request = replace(request, attempts=0, late=True, on_ready=ignore, on_failed=ignore)
        if place.hops_built:
            request.avoid(place.path[place.hops_built])
        self._serve(request, now)

    def _measured(self, place: Place, now: float) -> None:
        request = _of(place)
        if not request.relays or len(place.path) != 3:
            return
        took = self._outbox.steady(now) - place.started
        timeout = self.times.timeout(3)
        if timeout is None or took <= timeout:
            self.times.outcome(late=False)
        self.times.built(took)
        self._unstored += 1
        if self._unstored >= STORE_EVERY:
            self._unstored = 0
            self._outbox.store([(BUCKET, self._name, self.times.encode())])

    def _set(self, circuit: object) -> SetCircuit | None:
        """What this circuit is a set of, if it is one."""
        return None if self.sets is None else self.sets.find(circuit)

    def _exit(self, circuit: ExitCircuit) -> TorRelay | None:
        """The last hop of a circuit of ours."""
        linked = self._set(circuit)
        if linked is not None:
            return linked.exit
        place = next((place for place in self._places.values() if place.circuit is circuit), None)
        return None if place is None else _of(place).relays[-1]

    def _exit_path(self, request: TorRequest, wanted: Wanted, now: float) -> tuple[RelayTarget, ...]:
        path = self._paths.exit_path([wanted], now, avoid=request.avoided)
        request.relays, request.use = path.relays, path.use
        return path.targets

    def _predicted_path(self, request: TorRequest, now: float) -> tuple[RelayTarget, ...]:
        return self._exit_path(request, Wanted((self._lacking(now) or [FIRST_PORT])[0]), now)

    def _expected(self, now: float) -> list[int]:
        """The ports that will be wanted."""
        return [] if self._predicted is None else self._predicted.expected(now)

    def _lacking(self, now: float) -> list[int]:
        """The ports for which another circuit should be ready."""
        if self._predicted is None:
            return []
        waiting = [
            _of(place).relays[-1] for place in self._places.values() if place.path and place.request.on_ready is None
        ]
        return self._predicted.lacking([partial(relay.allows, None) for relay in waiting], now)


def _of(place: Place) -> TorRequest:
    assert isinstance(place.request, TorRequest)
    return place.request


def _address(host: str) -> Address | None:
    """None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
