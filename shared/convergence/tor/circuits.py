"""The circuits of a client in the Tor network: which relays they go through.

Does: have paths chosen by policy, bandwidth and guards (path/torpath.py), keep some circuits ready for the ports that
will be wanted, tell guards how their circuits went, build circuits of one hop to directories.
Does not: build them (path/building.py), or know what goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Protocol as Shape

from convergence.circuit.client import ClientCircuit
from convergence.errors import DestroyReason
from convergence.link.neighbours import Neighbours
from convergence.netdir.tor import TorRelay
from convergence.outbox import Outbox
from convergence.path.building import CircuitBuilding
from convergence.path.guards import GuardUse, Stage
from convergence.path.place import Failed, Place, Ready, Request
from convergence.path.predicted import FIRST_PORT, PredictedPorts
from convergence.path.torpath import TorPath, Wanted
from convergence.ports import Crypto, Rng
from convergence.wire.exitpolicy import Address
from convergence.wire.target import RelayTarget

SIZE = 3  # circuits kept ready


@dataclass(eq=False)
class TorRequest(Request):
    """A request, and the path on which it is served now.

    Args:
        relays: of that path, those of the Tor network; none for a circuit to a directory.
        use: of its guard.
    """

    relays: tuple[TorRelay, ...] = ()
    use: GuardUse | None = None


class Paths(Shape):
    """Who chooses paths."""

    def exit_path(self, wanted: Collection[Wanted], now: float, *, avoid: Collection[bytes] = ()) -> TorPath: ...

    def point_path(self, point: RelayTarget, now: float, *, avoid: Collection[bytes] = ()) -> TorPath: ...

    def hop_ended(self, path: Sequence[RelayTarget], hop: int, stood: bool, now: float) -> None:
        """The hop of this number (0, 1, ...) came to stand, or did not."""


class DirectoryCircuits(CircuitBuilding):
    """Circuits of one hop, to directories only."""

    def __init__(self, outbox: Outbox, crypto: Crypto, rng: Rng, neighbours: Neighbours) -> None:
        super().__init__(outbox, crypto, rng, neighbours, size=0)

    def directory_circuit(self, directory: RelayTarget, on_ready: Ready, on_failed: Failed, now: float) -> None:
        self._serve(Request(lambda now: (directory,), "directory", on_ready, on_failed, attempts=1), now)

    def _blame(self, place: Place, hop: int, now: float) -> None:
        """Whoever asked takes another directory."""


class TorCircuits(CircuitBuilding):
    """Circuits of three hops to exits, and of one hop to directories."""

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        paths: Paths,
        *,
        size: int = SIZE,
        on_full: Callable[[float], None] = lambda now: None,
    ) -> None:
        super().__init__(outbox, crypto, rng, neighbours, size=size, on_full=on_full)
        self._paths = paths
        self._predicted: PredictedPorts | None = None  # until `start`

    def start(self, now: float) -> None:
        self._predicted = PredictedPorts(self._outbox, now)

    # -- for those who need circuits

    def exit_circuit(
        self, host: str, port: int, on_ready: Ready, on_failed: Failed, now: float, *, avoid: Collection[bytes] = ()
    ) -> None:
        """A circuit of its own to an exit that most likely connects there: a ready one if one suits. `avoid`:
        identities of exits to take only if there are no others."""
        if self._predicted is not None:
            self._predicted.used(port, now)
        wanted = Wanted(port, _address(host))
        request = TorRequest(
            lambda now: self._exit_path(request, wanted, now),
            "exit",
            on_ready,
            on_failed,
            avoided=dict.fromkeys(avoid),
        )
        for place in self._ready:
            ready = _of(place)
            if ready.relays[-1].allows(wanted.address, port) and place.path[-1].identity not in avoid:
                request.relays, request.use = ready.relays, ready.use
                self._take(place, request, now)
                return
        self._serve(request, now)

    def serves(self, circuit: ClientCircuit, host: str, port: int) -> bool:
        """Whether the exit of this circuit most likely connects there."""
        place = next((place for place in self._places.values() if place.circuit is circuit), None)
        return place is not None and _of(place).relays[-1].allows(_address(host), port)

    def rdv_circuit(
        self, point: RelayTarget, hash_name: bytes, provider: bool, on_ready: Ready, on_failed: Failed, now: float
    ) -> None:
        """A circuit of its own to a rendezvous point of our network, which takes links of relays of Tor. Guards are the
        same for all names: these do not count."""

        def make_path(now: float) -> tuple[RelayTarget, ...]:
            path = self._paths.point_path(point, now, avoid=request.avoided)
            request.relays, request.use = path.relays, path.use
            return (*path.targets, point.behind_tor)

        request = TorRequest(make_path, "rendezvous", on_ready, on_failed)
        self._serve(request, now)

    def forget(self, hash_name: bytes, provider: bool) -> None:
        """Nothing is kept of a name."""

    def directory_circuit(
        self, directory: RelayTarget, use: GuardUse | None, on_ready: Ready, on_failed: Failed, now: float
    ) -> None:
        """A circuit of one hop. `use`: the directory is one of our guards."""
        request = TorRequest(lambda now: (directory,), "directory", on_ready, on_failed, attempts=1, use=use)
        self._serve(request, now)

    # -- what building asks

    def _lacks(self, now: float) -> bool:
        return super()._lacks(now) and bool(self._lacking(now))

    def _ready_request(self) -> Request:
        request = TorRequest(lambda now: self._predicted_path(request, now), "ready", None, self._fill_failed)
        return request

    def _all_stand(self, place: Place, now: float) -> None:
        use = _of(place).use
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

    def _exit_path(self, request: TorRequest, wanted: Wanted, now: float) -> tuple[RelayTarget, ...]:
        path = self._paths.exit_path([wanted], now, avoid=request.avoided)
        request.relays, request.use = path.relays, path.use
        return path.targets

    def _predicted_path(self, request: TorRequest, now: float) -> tuple[RelayTarget, ...]:
        return self._exit_path(request, Wanted((self._lacking(now) or [FIRST_PORT])[0]), now)

    def _lacking(self, now: float) -> list[int]:
        """The ports for which another circuit should be ready."""
        if self._predicted is None:
            return []
        waiting = [_of(place).relays[-1] for place in self._places.values() if place.request.on_ready is None]
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
