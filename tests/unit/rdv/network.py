"""Rendezvous points and circuits in memory, a node that shares and one that gets: the rig of the tests for rdv/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convergence.circuit.client import MAX_HOPS
from convergence.codes import PathWhy, TransferWhy
from convergence.errors import DestroyReason, EndReason, LocalError, RemoteError, StreamError, Why
from convergence.netdir.view import Class
from convergence.ordb.download import Phase
from convergence.rdv.blind import check_advert
from convergence.rdv.client import RdvClient
from convergence.rdv.guests import FILES
from convergence.rdv.keys import Subject
from convergence.rdv.service import RdvService
from convergence.rdv.session import Session
from convergence.wire.descriptor import Descriptor
from convergence.wire.ordb import PIECE_SIZE, Info, Piece, Queued, Request
from convergence.wire.rdv import DbInfo, Name, format_rdv_target, parse_rdv_target
from convergence.wire.relay import REFERRALS_OKAY, RelayCommand
from convergence.wire.target import RelayTarget, Role
from tests.unit.ordb.memory import (
    CRYPTO,
    MemoryStream,
    Node,
    Receiver,
    Script,
    Sender,
    World,
    content,
    link_of,
    put_file,
)
from tests.views import given_view, points_of


def target(number: int, roles: Role = Role.RELAY | Role.RDV) -> RelayTarget:
    return Descriptor(bytes([number]) * 32, bytes(32), 0, 1, roles).target


NODES = [target(number) for number in range(1, 7)] + [target(9, Role.RELAY)]
ENTRY = target(255, Role.RELAY)


def target_of(identity: bytes) -> RelayTarget:
    return target(identity[0])


class FakeCircuit:
    """A circuit that ends at a FakePoint."""

    def __init__(self, network: Network, point: FakePoint, provider: bool) -> None:
        self.network, self.point, self.provider = network, point, provider
        self.path = (ENTRY, target_of(point.identity))
        self.binding = network.world.rng.random(20)
        self.on_begin: Any = None
        self.on_closed: Any = None
        self.on_info: Any = None
        self.flags: dict[MemoryStream, int] = {}
        self.closed = False
        self.streams: list[MemoryStream] = []
        self.nb = 0
        self.chosen = 0
        self.given: dict[FakeCircuit, int] = {}

    @property
    def idle(self) -> bool:
        return not self.closed and all(stream.over for stream in self.streams)

    def open_stream(self, target: str, handler: Any, now: float, flags: int = 0) -> MemoryStream:
        if self.closed:
            raise LocalError("this circuit is not open")
        self.network.begun.append((self.point.identity, parse_rdv_target(target), now))
        near, middle = self.network.world.pair()
        near.handler = handler
        self.flags[near] = flags
        self.streams.append(near)
        self.network.soon(lambda now: self.point.begin(self, target, near, middle, now))
        return near

    def send_message(self, command: int, payload: bytes) -> None:
        assert command == RelayCommand.DB_INFO
        if not self.closed and not self.point.dead:
            for advert in DbInfo.parse(payload).adverts:
                circuits = self.point.adverts.setdefault(advert.name, [])
                if advert.adds:
                    if advert.name.owned and not self.point.lies:
                        check_advert(CRYPTO, advert, self.binding, self.network.world.now)
                    circuits.append(self)
                else:
                    circuits.remove(self)

    def destroy(self, reason: int, now: float) -> None:
        if self.closed:
            return
        self.closed = True
        for circuits in self.point.adverts.values():
            if self in circuits:
                circuits.remove(self)
        for stream in self.streams:
            stream.cut_off()
        if self.on_closed is not None:
            self.on_closed(reason, now)


class FakePoint:
    """A rendezvous point as rdv/point.py behaves: whom this asker was given least first, then the least busy, then who
    waited longest."""

    def __init__(self, network: Network, identity: bytes) -> None:
        self.network, self.identity = network, identity
        self.adverts: dict[Name, list[FakeCircuit]] = {}
        self.others: list[bytes] = []  # whom it names where it knows nobody: identities stand for descriptors
        self.dead = False
        self.silent = False
        self.lies = False  # checks no proofs

    def begin(self, asker: FakeCircuit, target: str, near: MemoryStream, middle: MemoryStream, now: float) -> None:
        if near.over or near.handler is None or self.silent:
            return
        given = asker.given
        offers = sorted(
            self.adverts.get(parse_rdv_target(target), []),
            key=lambda offer: (given.get(offer, 0), offer.nb, offer.chosen),
        )
        reason = EndReason.RESOLVEFAILED
        for offer in offers:
            given[offer] = given.get(offer, 0) + 1
            try:
                handler = offer.on_begin(target, middle, now)
            except StreamError as refusal:
                reason = EndReason(refusal.reason)
                continue
            if handler is not None:
                self.network.choices += 1
                offer.chosen = self.network.choices
                offer.nb += 1
                self.network.watch(middle, offer)
                offer.streams.append(middle)
                middle.handler = handler
                handler.opened(now)
                near.handler.opened(now)
                return
        if asker.flags[near] & REFERRALS_OKAY and reason == EndReason.RESOLVEFAILED:
            try:
                for other in self.others:
                    asker.on_info(other)
            except RemoteError as error:
                asker.destroy(error.reason, now)
                return
        middle.abort(reason, now)


class Network:
    """A CircuitSource over points in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.node()  # its outbox times the network's own doings
        self.points: dict[bytes, FakePoint] = {}
        self.circuits: list[FakeCircuit] = []
        self.begun: list[tuple[bytes, Name, float]] = []
        self.built: list[tuple[bytes, bool]] = []
        self.extended: list[tuple[bytes, ...]] = []  # identities of paths, whether they came to stand or not
        self.looked_up: list[bytes] = []
        self.known: dict[bytes, RelayTarget] = {node.identity: node for node in NODES}  # what look-ups find
        self.refused: set[bytes] = set()  # hash_names whose entries extend to no point
        self.choices = 0
        self.delay = 0.1
        self.open: dict[MemoryStream, FakeCircuit] = {}

    def soon(self, call: Callable[[float], None]) -> None:
        self.node.outbox.call_at(self.world.now + 0.05, call)

    def watch(self, stream: MemoryStream, offer: FakeCircuit) -> None:
        self.open[stream] = offer
        stream.on_leave = lambda: self.over(stream)
        stream.peer.on_leave = lambda: self.soon(lambda now: self.over(stream))

    def over(self, stream: MemoryStream) -> None:
        offer = self.open.pop(stream, None)
        if offer is not None:
            offer.nb -= 1

    def point(self, identity: bytes) -> FakePoint:
        return self.points.setdefault(identity, FakePoint(self, identity))

    def rdv_circuit(
        self, point: Descriptor, hash_name: bytes, provider: bool, on_ready: Any, on_failed: Any, now: float
    ) -> None:
        self.built.append((point.identity, provider))

        def ready(now: float) -> None:
            there = self.point(point.identity)
            if there.dead or hash_name in self.refused:
                on_failed(Why(PathWhy.RELAY_SILENT), now)
            else:
                self.circuits.append(FakeCircuit(self, there, provider))
                on_ready(self.circuits[-1], now)

        self.node.outbox.call_at(now + self.delay, ready)

    def may_extend(self, circuit: Any) -> bool:
        return len(circuit.path) < MAX_HOPS

    def extend(self, circuit: Any, point: RelayTarget, on_ready: Any, on_failed: Any, now: float) -> None:
        assert circuit.idle
        if point in circuit.path:
            on_failed(Why(PathWhy.NO_PATH), now)
            return
        self.extended.append(tuple(node.identity for node in (*circuit.path, point)))

        def ready(now: float) -> None:
            there = self.point(point.identity)
            if there.dead:
                circuit.destroy(DestroyReason.CONNECTFAILED, now)
                on_failed(Why(PathWhy.RELAY_SILENT), now)
            elif not circuit.closed:
                circuit.path, circuit.point = (*circuit.path, point), there
                on_ready(circuit, now)

        self.node.outbox.call_at(now + self.delay, ready)

    def look_up(self, descriptor: bytes, now: float, then: Any) -> None:
        self.looked_up.append(descriptor)
        then(self.known.get(descriptor), now)

    def forget(self, hash_name: bytes, provider: bool) -> None:
        """There are no entries here."""

    def kill(self, point: FakePoint) -> None:
        """The point's machine goes down."""
        point.dead = True
        for circuit in list(self.circuits):
            if circuit.point is point:
                circuit.destroy(DestroyReason.CHANNEL_CLOSED, self.world.now)

    def kill_circuits(self, provider: bool) -> None:
        for circuit in list(self.circuits):
            if circuit.provider is provider:
                circuit.destroy(DestroyReason.DESTROYED, self.world.now)


class Getter:
    """A receiving node: a download and the client that finds its sources."""

    def __init__(self, rig: Rig, node: Node, wanted: int = 3) -> None:
        self.receiver = Receiver(node, link_of(rig.file), wanted)
        self.download = self.receiver.download
        self.statuses: list[TransferWhy] = []
        self.gave_up: list[TransferWhy] = []
        self.client = RdvClient(
            Subject.file(rig.file.hash_name, rig.file.key),
            rig.network,
            rig.view,
            node.outbox,
            CRYPTO,
            rig.world.rng,
            attach=self.download.attach,
            needed=lambda: self.download.sources_wanted,
            progress=lambda: self.download.have_bytes,
            on_status=lambda why, now: self.statuses.append(why),
            on_give_up=self._give_up,
        )
        self.download._on_need_source = self.client.wake
        rig.directory.known = rig.nodes
        self.client.start(Class.POINTS, rig.world.now)

    def _give_up(self, why: TransferWhy, now: float) -> None:
        self.gave_up.append(why)
        self.download.fail(why, now)


class Rig:
    def __init__(self, size: int = 10 * PIECE_SIZE, seed: int = 1) -> None:
        self.world = World(seed, smallest_cut=1000)
        self.network = Network(self.world)
        self.nodes = list(NODES)
        self.directory, self.view = given_view(self.nodes, self.world.rng)
        self.data = content(size)
        self.node = self.world.node()
        self.file = put_file(self.node, self.data)
        self.sender = Sender(self.node, self.file)
        self.standing: list[tuple[int, int]] = []
        self.service = self.new_service(self.node)

    def new_service(self, node: Node) -> RdvService:
        return RdvService(
            self.network,
            self.view,
            node.outbox,
            CRYPTO,
            self.world.rng,
            FILES,
            on_standing=lambda name, standing, points, now: self.standing.append((standing, points)),
        )

    @property
    def subject(self) -> Subject:
        """As its owner has it."""
        return Subject.file(self.file.hash_name, self.file.key, self.file.secret)

    def share(self, service: RdvService | None = None, serve: Any = None, owner: bool = True) -> RdvService:
        service = service or self.service
        self.know(self.nodes, service)
        subject = self.subject if owner else Subject.file(self.file.hash_name, self.file.key)
        service.offer(subject, serve or self.sender.serve, self.world.now)
        self.world.advance(1)
        return service

    def know(self, nodes: list[RelayTarget], *parts: Any) -> None:
        """From now on there are these nodes, and these parts of nodes hear so."""
        self.directory.known = nodes
        for part in parts:
            part.set_points(Class.POINTS, self.world.now)

    def get(self, wanted: int = 3) -> Getter:
        self.getter = Getter(self, self.world.node(), wanted)
        return self.getter

    @property
    def points(self) -> list[FakePoint]:
        chosen = points_of(self.file.hash_name, [node for node in self.nodes if node.roles & Role.RDV])
        return [self.network.point(point.identity) for point in chosen]

    def check_done(self) -> None:
        getter = self.getter
        assert getter.gave_up == []
        assert getter.download.phase is Phase.DONE
        assert getter.receiver.bytes == self.data
        assert getter.download.duplicates == 0
        assert getter.download.pieces_fetched == -(-len(self.data) // PIECE_SIZE)


def bad_server(rig: Rig, made: list[Script] | None = None) -> Callable[[Any], Script]:
    """Serves zeros in place of every piece, with the right description and proofs."""

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            proof = tuple(rig.sender.tree.proof(message.index) or ())
            script.say(Piece(message.index, proof, bytes(PIECE_SIZE)))

    def serve(stream: Any) -> Script:
        script = Script(stream)
        script.on_open = lambda script: script.say(Info(rig.file.salt, rig.file.info))
        script.on_message = answer
        if made is not None:
            made.append(script)
        return script

    return serve


def offered(rig: Rig, network: Network | None = None) -> list[tuple[FakeCircuit, str]]:
    """Every circuit of the node with the target that it answers."""
    return [
        (circuit, format_rdv_target(name))
        for point in (network or rig.network).points.values()
        for name, circuits in point.adverts.items()
        for circuit in circuits
    ]


def first(rig: Rig) -> tuple[FakeCircuit, str]:
    """One circuit of the node that shares, and the target that it answers."""
    return next(pair for pair in offered(rig))


class Visitor:
    """Who comes to a provider's circuit with the link's key, or with none."""

    def __init__(self, rig: Rig, circuit: FakeCircuit, target: str, *, mute: bool = False) -> None:
        self.refused = 0
        self.near, middle = rig.world.pair()
        try:
            handler = circuit.on_begin(target, middle, rig.world.now)
        except StreamError as error:
            self.refused = error.reason
            return
        self.script: Script

        def attach(stream: Any) -> Script:
            self.script = Script(stream)
            return self.script

        name = parse_rdv_target(target)
        now, outbox = rig.world.now, rig.world.node().outbox
        keys = Subject.file(rig.file.hash_name, rig.file.key).keys(name)
        self.session = Session(
            CRYPTO, rig.world.rng, outbox, keys, name.blinded, now=now, initiator=True, attach=attach
        )
        self.session.bind(self.near)
        middle.handler, self.near.handler = handler, self.session
        handler.opened(now)
        if not mute:
            self.session.opened(now)
        rig.world.run()

    def ask(self, rig: Rig, index: int = 0) -> None:
        self.script.say(Request(index))
        rig.world.run()

    @property
    def places(self) -> list[int]:
        return [message.position for message in self.script.messages if isinstance(message, Queued)]

    @property
    def served(self) -> bool:
        return any(isinstance(message, Info) for message in self.script.messages)
