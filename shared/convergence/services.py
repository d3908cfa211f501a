"""What this node offers and uses besides files: services, found by a hash.

Does: put RdvService together with whoever answers connections, and a Connector with whoever asks for them.
Does not: know what connections carry, build circuits, or keep anything between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from convergence.codes import AddressFlaw, Limit
from convergence.errors import Problem, Why
from convergence.events import ServiceStands
from convergence.limits import gives_way
from convergence.netdir.view import Class, Known, View
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex, Handler
from convergence.ports import Crypto, Rng
from convergence.rdv.circuits import CircuitSource
from convergence.rdv.connector import PATIENCE, Connector
from convergence.rdv.guests import SERVICES
from convergence.rdv.keys import Subject
from convergence.rdv.own import OwnPoint
from convergence.rdv.service import RdvService
from convergence.rdv.way import Connection
from convergence.wire.address import PrivateAddress, ServiceAddress

MAX_CONNECTORS = 256  # services that this node is connected to at once, three circuits each
MAX_OF_KEY = 192  # of them for one isolation key: a page that names very many services shuts out no others

Accept = Callable[[Duplex, float], Handler]
"""accept(pipe, now): the handler of a connection whose client proved that it has the address."""


def public_id(hash_name: bytes) -> str:
    """16 hex digits that name a service to people and logs without giving the capability away."""
    return sha256(b"convergence:service-id" + hash_name).hexdigest()[:16]


def private_address(crypto: Crypto, secret: bytes) -> PrivateAddress:
    """The address that the holder of this secret (32 random bytes) serves."""
    return PrivateAddress(crypto.x25519_public(secret))


@dataclass(eq=False, repr=False)
class Service:
    """One service that this node offers."""

    hash_name: bytes
    served: int = 0  # connections so far
    points: int = 0
    points_wanted: int = 0
    on_standing: Callable[[int, float], None] = lambda points, now: None


def _subject(address: ServiceAddress, secret: bytes | None = None) -> Subject:
    if isinstance(address, PrivateAddress):
        return Subject.private(address.hash_name, address.key, secret)
    return Subject.public(address.hash_name)


@dataclass(frozen=True, slots=True)
class _Place:
    """What an isolation key has of MAX_CONNECTORS."""

    source: Hashable
    connector: Connector


def _longest_idle(places: Sequence[_Place]) -> _Place | None:
    idle = (place for place in places if not place.connector.connections)
    return min(idle, key=lambda place: place.connector.idle_since, default=None)


def _searching(places: Sequence[_Place], isolation: Hashable) -> _Place | None:
    crowded = gives_way(places, isolation)
    if crowded is None:
        return None
    return next((place for place in places if place.source == crowded.source and not place.connector.open), None)


class Services:
    """All services of a node, and its connections to those of others.

    Args:
        circuits: builds circuits to rendezvous points.
        own, group: as in RdvService.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        circuits: CircuitSource,
        view: View[Known],
        own: OwnPoint | None = None,
        group: bool = False,
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._circuits = circuits
        self._points: Class | None = None
        self._services: dict[str, Service] = {}
        self._connectors: dict[tuple[bytes, Hashable], Connector] = {}  # by hash_name and isolation; MAX_CONNECTORS
        self._view = view
        self._rdv = RdvService(
            circuits, view, outbox, crypto, rng, SERVICES, own=own, group=group, on_standing=self._on_standing
        )

    def serve(
        self,
        address: ServiceAddress,
        accept: Accept,
        now: float,
        *,
        secret: bytes | None = None,
        on_standing: Callable[[int, float], None] = lambda points, now: None,
    ) -> str:
        """Offer a service until `unserve`; returns its id.

        Args:
            secret: of a private address's owner.
            on_standing: (points that it is advertised at, now), on each change.

        Raises Problem when it is offered already, at the limit, and for a private address of somebody else.
        """
        if isinstance(address, PrivateAddress):
            if secret is None or private_address(self._crypto, secret) != address:
                raise Problem(AddressFlaw.NO_SECRET)
        service_id = public_id(address.hash_name)
        if service_id in self._services:
            raise Problem(AddressFlaw.SERVED)
        service = Service(address.hash_name, on_standing=on_standing)
        self._rdv.offer(_subject(address, secret), lambda pipe: _Client(pipe, accept, service), now)
        self._services[service_id] = service
        return service_id

    def unserve(self, service_id: str, now: float) -> None:
        """Withdraw a service and end its connections."""
        service = self._services.pop(service_id, None)
        if service is not None:
            self._rdv.withdraw(service.hash_name, now)
            self._circuits.forget(service.hash_name, True)

    def connect(
        self, address: ServiceAddress, now: float, patience: float = PATIENCE, isolation: Hashable = None
    ) -> Connection:
        """A pipe to a service: set its handler before the next input. Raises Problem at a limit, and for an address
        that nobody can own.

        Args:
            isolation: connections share circuits only where this is equal.
        """
        key = (address.hash_name, isolation)
        connector = self._connectors.get(key)
        if connector is None:
            if not _subject(address).names(self._crypto, bytes(32), now):
                raise Problem(AddressFlaw.NO_KEY)
            self._make_way(isolation, now)
            connector = self._connectors[key] = self._connector(address, isolation)
            connector.set_points(self._points, now)
        return connector.connect(now, patience)

    def set_points(self, points: Class | None, now: float) -> None:
        """Rendezvous points are nodes of this class (None: there are none yet), and other nodes may be known."""
        self._points = points
        self._rdv.set_points(points, now)
        for connector in list(self._connectors.values()):
            connector.set_points(points, now)

    def use(self, circuits: CircuitSource, now: float) -> None:
        """Other circuits from now on, once there are points. Connections over those before end."""
        self._circuits = circuits
        self._points = None
        self._rdv.use(circuits, now)
        self._disconnect(now)

    def share_circuits(self, group: bool, now: float) -> None:
        """Whether all that is offered here shares circuits, from now on. Raises Problem for too much that is not to."""
        self._rdv.share_circuits(group, now)

    def use_own(self, own: OwnPoint | None, now: float) -> None:
        """As in RdvService."""
        self._rdv.use_own(own, now)

    def woke(self, by: float, now: float) -> None:
        """The clock jumped."""
        self._rdv.woke(by, now)
        for connector in list(self._connectors.values()):
            connector.woke(now)

    def stop(self, now: float) -> None:
        """End everything."""
        self._rdv.stop(now)
        self._services.clear()
        self._disconnect(now)

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state, without addresses."""
        return {
            "services": [
                {
                    "id": service_id,
                    "connections": self._rdv.clients(service.hash_name),
                    "served": service.served,
                    "points": service.points,
                    "points_wanted": service.points_wanted,
                }
                for service_id, service in self._services.items()
            ],
            "connections": sum(connector.connections for connector in self._connectors.values()),
        }

    def _disconnect(self, now: float) -> None:
        for connector in list(self._connectors.values()):
            connector.stop(now)
        self._connectors.clear()

    def _make_way(self, isolation: Hashable, now: float) -> None:
        """If there are as many as may be, one gives way: the one that nobody has used for longest; else, of the key
        that has most, the first that has found nobody yet. Raises Problem if there is none."""
        places = [_Place(key, connector) for (_, key), connector in self._connectors.items()]
        own = [place for place in places if place.source == isolation]
        if len(own) >= MAX_OF_KEY:
            most, place = MAX_OF_KEY, _longest_idle(own)
        elif len(places) >= MAX_CONNECTORS:
            most, place = MAX_CONNECTORS, _longest_idle(places) or _searching(places, isolation)
        else:
            return
        if place is None:
            raise Problem(Limit.SERVICES, most=most)
        place.connector.give_way(now, Why(Limit.SERVICES, {"most": most}))

    def _connector(self, address: ServiceAddress, isolation: Hashable) -> Connector:
        hash_name = address.hash_name

        def idle(now: float) -> None:
            del self._connectors[hash_name, isolation]
            if not any(other == hash_name for other, _ in self._connectors):
                self._circuits.forget(hash_name, False)

        return Connector(
            _subject(address), self._circuits, self._view, self._outbox, self._crypto, self._rng, on_idle=idle
        )

    def _on_standing(self, hash_name: bytes, standing: int, wanted: int, now: float) -> None:
        service = self._services.get(public_id(hash_name))
        if service is not None:
            service.points, service.points_wanted = standing, wanted
            self._outbox.emit(ServiceStands(public_id(hash_name), standing, wanted))
            service.on_standing(standing, now)


class _Client:
    """A connection that came: counted, then handed to whoever answers it. Before `opened` nothing comes."""

    def __init__(self, pipe: Duplex, accept: Accept, service: Service) -> None:
        self._pipe = pipe
        self._accept = accept
        self._service = service
        self._handler: Handler | None = None

    def opened(self, now: float) -> None:
        self._service.served += 1
        self._handler = self._accept(self._pipe, now)
        if not self._pipe.closed:  # it was not refused
            self._handler.opened(now)

    def data(self, data: bytes, now: float) -> None:
        if self._handler is not None:
            self._handler.data(data, now)

    def drained(self, now: float) -> None:
        if self._handler is not None:
            self._handler.drained(now)

    def ended(self, now: float) -> None:
        if self._handler is not None:
            self._handler.ended(now)

    def aborted(self, code: int, now: float) -> None:
        if self._handler is not None:
            self._handler.aborted(code, now)

    def queued(self, position: int, now: float) -> None:
        """Never: services have no queue."""

    def idle(self, now: float) -> bool:
        """Never asked, as there is no queue: `Limits.quiet` says who gives way."""
        return False
