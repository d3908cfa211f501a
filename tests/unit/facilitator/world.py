"""A facilitator and its clients in one process, each with a real Driver, under a virtual clock."""

from collections import deque
from hashlib import sha256
from types import SimpleNamespace

from convergence.circuit.relaying import Relaying, RelayLimits
from convergence.crypto.keys import NodeKeys
from convergence.driver import Driver
from convergence.effects import Failure, Protocol
from convergence.facilitator.client import LIFETIME, FacilitatorClient
from convergence.facilitator.service import FacilitatorService
from convergence.link.neighbours import Neighbours
from convergence.netdir.headers import Headers
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.facilitator import Hello, Register, register_statement
from convergence.wire.target import Role
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
START = 1_800_000_000.0
ADDRESS = "ws://facilitator.example/"
SEED = b"f" * 32


class HashRng:
    def __init__(self):
        self.count = 0

    def random(self, size):
        self.count += 1
        return sha256(self.count.to_bytes(8, "big")).digest()[:size]


def node_seed(number):
    return bytes([number]) * 32


def node_keys(number):
    seed = node_seed(number)
    return NodeKeys.from_secrets(CRYPTO, identity_seed=seed, signing_seed=seed, ntor_secret=seed)


def describe(number, now, *, lifetime=LIFETIME, roles=Role.RELAY | Role.RDV, transports=None):
    """The signed descriptor of node `number` as of `now`."""
    seed = node_seed(number)
    transports = transports or (Transport(1, f"ws://10.0.0.{number}:9001/"),)
    keys = node_keys(number)
    unsigned = Descriptor(keys.identity, keys.ntor_public, int(now), int(now) + lifetime, roles, transports)
    return unsigned.sign(lambda message: CRYPTO.ed25519_sign(seed, message))


def registration(number, hello, raw):
    """The REGISTER body of node `number` for the channel on which the facilitator said `hello`."""
    return Register(CRYPTO.ed25519_sign(node_seed(number), register_statement(Hello.parse(hello))), raw).encode()


class Door:
    """What stands at a node's address: its links and circuits, and nothing else. A driver.Machine."""

    def __init__(self, keys):
        self.outbox = Outbox()
        rng = HashRng()
        services = SimpleNamespace(circuit_closed=lambda circuit, now: None)
        self.relaying = Relaying(self.outbox, CRYPTO, rng, keys, services, limits=RelayLimits())
        self.neighbours = Neighbours(
            self.outbox, CRYPTO, rng, keys, lambda *arguments: None, lambda *arguments: self.relaying.create(*arguments)
        )
        self.relaying.neighbours = self.neighbours
        self.silent = False

    def link_opened(self, channel, now, *, protocol, binding):
        assert protocol is Protocol.LINK
        self.neighbours.opened(channel, binding, now)

    def link_data(self, channel, data, now):
        if not self.silent:
            self.neighbours.data(channel, data, now)

    def link_closed(self, channel, now, reason):
        self.neighbours.closed(channel, reason, now)

    def link_congested(self, channel, congested, now):
        self.neighbours.congested(channel, congested, now)

    def done(self, request, result, now): ...

    def timer(self, now):
        self.outbox.run_timers(now)

    def poll(self, now):
        return self.outbox.poll(now)

    def deadline(self):
        return self.outbox.deadline()


def doors():
    """What stands at the addresses of nodes 1 to 9, by URL."""
    return {f"ws://10.0.0.{number}:9001/": Door(node_keys(number)) for number in range(1, 10)}


class MemoryStorage:
    """Answers at once; with `broken`, that it cannot."""

    def __init__(self):
        self.items = {}
        self.broken = False

    def store(self, items, reply):
        if not self.broken:
            for bucket, key, value in items:
                self.items[bucket, key] = value
                if value is None:
                    del self.items[bucket, key]
        reply(Failure("io", "disk broken") if self.broken else None)

    def load(self, bucket, key, reply):
        reply(Failure("io", "disk broken") if self.broken else self.items.get((bucket, key)))

    def scan(self, bucket, prefix, reply):
        keys = sorted(key for kind, key in self.items if kind == bucket and key.startswith(prefix))
        reply(Failure("io", "disk broken") if self.broken else keys)


class Machine:
    """The part of a node that matters here: a client with an outbox."""

    def __init__(self, world, number, facilitator, with_descriptor, callbacks=None):
        self.outbox = Outbox()
        self.directory = NodeDirectory(CRYPTO, facilitator)
        self.headers = Headers(CRYPTO, lambda: self.directory.facilitator)
        self.troubles = []
        self.updates = 0
        self.registrations = 0
        self.delivered = []
        self.roles = Role.RELAY | Role.RDV
        self.client = FacilitatorClient(
            self.outbox,
            CRYPTO,
            HashRng(),
            node_keys(number),
            self.directory,
            self.headers,
            ADDRESS,
            describe=(lambda now: describe(number, now, roles=self.roles)) if with_descriptor else (lambda now: None),
            **{
                "on_nodes": self._on_nodes,
                "on_registered": self._on_registered,
                "on_trouble": lambda message, now: self.troubles.append(message),
                "on_delivered": self._on_delivered,
                **(callbacks or {}),
            },
        )

    def _on_nodes(self, now):
        self.updates += 1

    def _on_registered(self, now):
        self.registrations += 1

    def _on_delivered(self, sealed, reply, source, now):
        assert source is self.client
        self.delivered.append((sealed, reply))

    def link_opened(self, channel, now, *, protocol, binding):
        assert protocol is Protocol.FACILITATOR
        self.client.opened(channel, now)

    def link_data(self, channel, data, now):
        self.client.data(channel, data, now)

    def link_closed(self, channel, now, reason):
        self.client.closed(channel, now, reason)

    def link_congested(self, channel, congested, now):
        pass

    def woke(self, by, now):
        self.outbox.shift(by)

    def done(self, request, result, now):
        self.outbox.done(request, result, now)

    def timer(self, now):
        self.outbox.run_timers(now)

    def poll(self, now):
        return self.outbox.poll(now)

    def deadline(self):
        return self.outbox.deadline()


class Port:
    """Transport and timer of one driver."""

    def __init__(self, world):
        self.world = world
        self.driver = None
        self.deadline = None
        self.peers = {}  # channel -> (port, its channel)

    def arm(self, deadline):
        self.deadline = deadline

    def connect(self, channel, protocol, address, source):
        self.world.later(lambda: self.world.connect(self, channel, protocol, address))

    def send(self, channel, buffers):
        if self.world.silent:
            return True
        if channel in self.peers:
            port, other = self.peers[channel]
            data = b"".join(buffers)
            # Cut where no record ends, to have every message arrive in pieces.
            for at in range(0, len(data), 97):
                piece = data[at : at + 97]
                self.world.later(lambda piece=piece: other in port.peers and port.driver.received(other, piece))
        return True

    def close(self, channel, reason):
        if channel in self.peers:
            port, other = self.peers.pop(channel)
            self.world.later(lambda: port.peers.pop(other, None) and port.driver.closed(other, reason))

    def pause(self, channel, paused):
        raise AssertionError("no channel here is ever paused")


class World:
    def __init__(self, storage=None, **settings):
        self.settings = settings
        self.time = START
        self.set = 0.0  # by how much the clock was set
        self.ports = []
        self.queue = deque()
        self.events = []
        self.rng = HashRng()
        self.storage = storage or MemoryStorage()
        self.reachable = True
        self.silent = False
        self.doors = {url: self.add(door) for url, door in doors().items()}
        self.start_service()

    def now(self):
        return self.time

    def elapsed(self):
        return self.time - self.set

    def set_clock(self, by):
        self.time += by
        self.set += by

    def later(self, call):
        self.queue.append(call)

    def add(self, machine, **ports):
        port = Port(self)
        port.driver = Driver(machine, port, self, port, **ports)
        self.ports.append(port)
        return port

    def start_service(self):
        self.service = FacilitatorService(CRYPTO, self.rng, SEED, **self.settings)
        self.service_port = self.add(self.service, storage=self.storage, on_event=self.events.append)
        self.service_port.driver.run(self.service.start)

    def restart_service(self):
        self.kill(self.service_port)
        self.start_service()

    def kill(self, port):
        """The process of this port dies: its channels close."""
        for channel in list(port.peers):
            port.close(channel, "connection reset")
        self.ports.remove(port)

    def client(self, number, *, facilitator=None, with_descriptor=True, callbacks=None):
        machine = Machine(self, number, facilitator, with_descriptor, callbacks)
        machine.port = self.add(machine)
        machine.port.driver.run(machine.client.start)
        return machine

    def connect(self, port, channel, protocol, address):
        target = self.service_port if protocol is Protocol.FACILITATOR else self.doors.get(address)
        if self.silent:
            return
        if not self.reachable or target is None:
            port.driver.closed(channel, "connection refused")
            return
        other = target.driver.accept()
        port.peers[channel] = (target, other)
        target.peers[other] = (port, channel)
        target.driver.opened(other, protocol)
        port.driver.opened(channel, protocol)

    def settle(self):
        """Deliver all that is on its way."""
        while self.queue:
            self.queue.popleft()()

    def run(self, seconds):
        """Let time pass, firing timers in order."""
        end = self.time + seconds
        while True:
            self.settle()
            due = [port for port in self.ports if port.deadline is not None and port.deadline <= end]
            if not due:
                break
            port = min(due, key=lambda item: item.deadline)
            self.time = max(self.time, port.deadline)
            port.deadline = None
            port.driver.tick()
        self.time = end

    def kinds(self):
        return [event.kind for event in self.events]
