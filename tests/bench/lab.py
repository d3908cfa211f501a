"""What the in-memory benches share: real neighbours, links and circuits of one process, with a clock for each node.

Does: carry effects from node to node in memory, charge to each node the CPU time of its own core, give figures.
Does not: use sockets, or a driver: what is measured is the core alone.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convergence.circuit.client import ClientCircuit
from convergence.circuit.relay import RelayCircuit
from convergence.circuit.streams import Stream
from convergence.crypto.keys import NodeKeys
from convergence.crypto.onion import Layer
from convergence.effects import Connect, Protocol, Send
from convergence.errors import EndReason, RemoteError
from convergence.link.link import Link
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.link.onionskins import Onionskins
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex
from convergence.rdv.point import RdvPoint
from convergence.wire.cells import CELL_LEN, PAYLOAD_LEN
from convergence.wire.create import Create2
from convergence.wire.descriptor import Descriptor, Transport, TransportKind
from convergence.wire.linkspec import LinkSpecifier, ed25519_identity
from convergence.wire.relay import RDV_SUFFIX, Begin
from convergence.wire.target import Role
from pynode.crypto import CPythonCrypto, SystemRng
from tests.bench.supervise import step

NOW = 1_790_000_000.0  # Unix seconds; no time passes
BATCH = 127  # cells in a full message
ROUNDS = 180.0  # seconds in which all rounds of one figure must be over
CRYPTO = CPythonCrypto()
RNG = SystemRng()


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Args:
        target: what the project set itself; None where it set nothing.
        at_most: the target is an upper bound.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


class Lab:
    """All nodes of a bench and the wires between them."""

    def __init__(self) -> None:
        self.nodes: list[LabNode] = []
        self.wires: dict[tuple[LabNode, int], tuple[LabNode, int]] = {}

    def node(self, name: str, *, keys: bool = True) -> LabNode:
        """A node; one without keys is a client."""
        node = LabNode(self, name, keys)
        self.nodes.append(node)
        return node

    def settle(self) -> None:
        """Carry everything until nothing moves."""
        while any([node.step() for node in self.nodes]):
            pass

    def circuit(self, origin: LabNode, *path: LabNode) -> ClientCircuit:
        """A circuit that stands."""
        done: list[ClientCircuit] = []

        def reached(link: Link | None, now: float) -> None:
            assert link is not None
            hops = [node.descriptor.target for node in path]
            ClientCircuit(
                origin.outbox, CRYPTO, RNG, link, hops, lambda circuit, now: done.append(circuit), lambda *_: None, now
            )

        origin.neighbours.reach(path[0].identity, reached, NOW)
        self.settle()
        assert done and done[0].built
        return done[0]

    def reset(self) -> None:
        """All clocks to zero."""
        for node in self.nodes:
            node.busy = 0.0


class LabNode:
    """One node: a real Neighbours, relay circuits, a rendezvous point. Implements relay.Services.

    Attributes:
        busy: CPU seconds of its core so far.
        on_begin: takes BEGINs that are not for the rendezvous point.
        outgoing: set to a list, it keeps the messages that would go to other nodes.
    """

    def __init__(self, lab: Lab, name: str, keys: bool) -> None:
        self.busy = 0.0
        self.outbox = Outbox()
        self.circuits: list[RelayCircuit] = []
        self.on_begin: Callable[[RelayCircuit, int], None] | None = None
        self.url = f"ws://{name}/"
        self._lab = lab
        self._keys = NodeKeys.generate(CRYPTO, RNG)
        self._point = RdvPoint(self.outbox, CRYPTO)
        self.neighbours = Neighbours(
            self.outbox, CRYPTO, RNG, self._keys, self._address, self._on_create if keys else None
        )
        self.neighbours._onionskins = Onionskins(self.outbox, burst=math.inf)  # no time passes that would allow more
        self._channels = 0

    @property
    def identity(self) -> bytes:
        return self._keys.identity

    @property
    def descriptor(self) -> Descriptor:
        ways = (Transport(TransportKind.WS, self.url),)
        return Descriptor(self.identity, self._keys.ntor_public, int(NOW), int(NOW) + 3600, Role.RELAY | Role.RDV, ways)

    def accept(self) -> int:
        self._channels += 2
        return self._channels

    def receive(self, channel: int, message: bytes) -> None:
        """One message of a neighbour; its cost is ours."""
        started = time.process_time()
        self.neighbours.data(channel, message, NOW)
        self.busy += time.process_time() - started

    def work(self, call: Callable[[], None]) -> None:
        """What the node's user asks of it; its cost is ours."""
        started = time.process_time()
        call()
        self.busy += time.process_time() - started

    def poll(self) -> list[object]:
        started = time.process_time()
        effects = self.outbox.poll(NOW)
        self.busy += time.process_time() - started
        return list(effects)

    def step(self) -> bool:
        """Do what the core asks for. False when that was nothing."""
        effects = self.poll()
        for effect in effects:
            if isinstance(effect, Send):
                peer, channel = self._lab.wires[self, effect.channel]
                for buffer in effect.buffers:
                    peer.receive(channel, buffer)
            elif isinstance(effect, Connect):
                peer = next(node for node in self._lab.nodes if node.url == effect.address)
                channel = peer.accept()
                self._lab.wires[self, effect.channel] = (peer, channel)
                self._lab.wires[peer, channel] = (self, effect.channel)
                peer.neighbours.opened(channel, None, NOW)
                self.neighbours.opened(effect.channel, None, NOW)
        return bool(effects)

    # -- relay.Services

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        if begin.host.endswith(RDV_SUFFIX):
            self._point.begin(circuit, stream_id, begin, now)
        elif self.on_begin is not None:
            self.on_begin(circuit, stream_id)
        else:
            circuit.endpoint.refuse(stream_id, EndReason.EXITPOLICY)

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None:
        raise RemoteError("no exit")

    def message(self, circuit: RelayCircuit, command: int, payload: bytes, now: float) -> None:
        self._point.message(circuit, payload, now)

    def sent(self, cells: int) -> None: ...

    def circuit_closed(self, circuit: RelayCircuit, now: float) -> None:
        raise AssertionError("a circuit of the bench broke")

    # -- wiring

    def _address(self, identity: bytes, now: float) -> LinkAddress | None:
        urls = (node.url for node in self._lab.nodes if node._keys and node.identity == identity)
        return next((LinkAddress(Protocol.LINK, url) for url in urls), None)

    def reach(
        self,
        source: Link,
        specifiers: Sequence[LinkSpecifier],
        reply: Callable[[Link | None, float], None],
        now: float,
    ) -> None:
        """relay.Extender."""
        self.neighbours.reach(ed25519_identity(specifiers), reply, now)

    def _on_create(self, link: Link, circ_id: int, create: Create2, now: float) -> None:
        keys = self._keys
        assert keys is not None
        self.circuits.append(
            RelayCircuit.accept(
                self.outbox,
                CRYPTO,
                RNG,
                link,
                circ_id,
                create,
                keys=keys.onion,
                services=self,
                reach=self,
            )
        )


class Sink:
    """A Handler that counts what comes, and consumes it."""

    def __init__(self) -> None:
        self.received = 0
        self.pipe: Duplex | None = None

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None:
        self.received += len(data)
        assert self.pipe is not None
        self.pipe.consumed(len(data), now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        raise AssertionError("a stream of the bench ended")

    def aborted(self, code: int, now: float) -> None:
        raise AssertionError("a stream of the bench broke")


def serve(node: LabNode, handler: Sink) -> list[Stream]:
    """Accept the stream that begins at this node; returns a list that will hold it."""
    streams: list[Stream] = []

    def begin(circuit: RelayCircuit, stream_id: int) -> None:
        stream = circuit.endpoint.accept_stream(stream_id)
        stream.handler, handler.pipe = handler, stream
        stream.accept(NOW)
        streams.append(stream)

    node.on_begin = begin
    return streams


def best(name: str, rounds: int, measure: Callable[[], float]) -> float:
    """The best of several rounds, a step of that name: other programs on the machine only ever slow one down."""
    step(name, ROUNDS)
    return max(measure() for _ in range(rounds))


def cost_of_layers(layers: int, digest: bool) -> float:
    """Cells per CPU second of the bare cryptography on batches of cells: what no Python around it can pass."""
    batch = RNG.random(BATCH * PAYLOAD_LEN)
    streams = [Layer(CRYPTO, bytes(20), RNG.random(16)) for _ in range(layers)]
    running = hashlib.sha1(usedforsecurity=False)
    started = time.process_time()
    for _ in range(200):
        for stream in streams:
            stream.crypt(batch)
        if digest:
            for at in range(0, len(batch), PAYLOAD_LEN):
                running.update(batch[at : at + PAYLOAD_LEN])
                running.digest()
    return 200 * BATCH / (time.process_time() - started)


def cells_in(messages: Sequence[object]) -> int:
    """Cells in the Send effects among these."""
    return sum(len(buffer) for effect in messages if isinstance(effect, Send) for buffer in effect.buffers) // CELL_LEN
