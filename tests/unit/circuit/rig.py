"""Machines with real links, circuits and cryptography in one process, without a driver: two ends (or six) in memory.

`Net.pump` carries what the machines send until all is quiet; an exception in any of them fails the test. A channel can
be cut into pieces anywhere (`Net.cut`), held (`Net.hold`) and closed.
"""

from __future__ import annotations

import math
import random
from collections import deque
from types import SimpleNamespace

from convergence.circuit.client import ClientCircuit
from convergence.circuit.endpoint import Endpoint
from convergence.circuit.relay import RelayCircuit
from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Send
from convergence.errors import EndReason, RemoteError
from convergence.events import Event
from convergence.link.handshake import Handshake
from convergence.link.link import Link
from convergence.link.onionskins import Onionskins
from convergence.outbox import Outbox
from convergence.ports import DtlsBinding
from convergence.wire.cells import Command, encode_cell
from convergence.wire.descriptor import Descriptor
from convergence.wire.linkspec import ed25519_identity
from convergence.wire.relay import RelayCommand, pack_message
from convergence.wire.target import Protocols, Role
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
START = 1_800_000_000.0


class SeededRng:
    """Not for secrets: tests only."""

    def __init__(self, seed):
        self._random = random.Random(seed)

    def random(self, size):
        return self._random.randbytes(size)


class Recorder:
    """A Handler that keeps what it is told. What it gets it consumes if it knows the pipe; else the far end has to stop
    after a window."""

    def __init__(self, pipe=None, on_data=None):
        self.pipe = pipe
        self.received = bytearray()
        self.calls = []  # all but `data`
        self.reason = None  # DONE once the far end has ended, else the code of the abort
        self._on_data = on_data

    def opened(self, now):
        self.calls.append("opened")

    def data(self, data, now):
        assert data and self.reason is None, "nothing, or something after the last call"
        self.received += data
        if self._on_data is not None:
            self._on_data(data)
        if self.pipe is not None:
            self.pipe.consumed(len(data), now)

    def drained(self, now):
        self.calls.append("drained")

    def ended(self, now):
        self._over("ended", EndReason.DONE)

    def aborted(self, code, now):
        self._over("aborted", code)

    def _over(self, call, reason):
        assert self.reason is None, "over twice"
        self.calls.append(call)
        self.reason = reason


class Services:
    """What a relay of the rig does with BEGIN: by default it accepts and records."""

    def __init__(self):
        self.streams = []  # (stream, recorder) in order of their BEGINs
        self.targets = []
        self.messages = []
        self.resolves = []
        self.closed = []
        self.cells = 0  # sent on circuits of others
        self.on_begin = self.accept

    def accept(self, circuit, stream_id, begin):
        stream = circuit.endpoint.accept_stream(stream_id)
        stream.handler = Recorder(stream)
        self.streams.append((stream, stream.handler))
        stream.accept(START)

    def begin(self, circuit, stream_id, begin, now):
        self.targets.append(begin.target)
        self.on_begin(circuit, stream_id, begin)

    def resolve(self, circuit, stream_id, host, now):
        self.resolves.append((stream_id, host))

    def message(self, circuit, command, payload, now):
        if command != RelayCommand.DB_INFO:
            raise RemoteError(f"relay command {command} is not offered")
        self.messages.append(payload)

    def sent(self, cells):
        self.cells += cells

    def circuit_closed(self, circuit, now):
        assert circuit not in self.closed, "closed twice"
        self.closed.append(circuit)


class Machine:
    """One node: links, and relay circuits for whoever asks."""

    def __init__(self, net, name, *, relays=True):
        self.net = net
        self.name = name
        self.outbox = Outbox()
        self.rng = SeededRng(f"{net.seed}-{name}")
        self.keys = NodeKeys.generate(CRYPTO, self.rng) if relays else None
        self.services = Services()
        self.links = {}  # channel -> Link
        self.closed_links = []  # (link, reason)
        self.circuits = []  # RelayCircuits, oldest first
        self.effects = []  # all but Send and CloseLink
        self.refuse_reach = False
        self.throttle = None  # of links made from then on
        self.onionskins = Onionskins(self.outbox, burst=math.inf)  # time stands still here: nothing would be paid back

    def __repr__(self):
        return self.name

    @property
    def target(self):
        keys = self.keys
        descriptor = Descriptor(keys.identity, keys.ntor_public, 0, 1 << 40, Role(7), (), protocols=self.net.protocols)
        return descriptor.target

    @property
    def events(self):
        return [effect for effect in self.effects if isinstance(effect, Event)]

    def make_link(self, channel, *, initiator, binding=None, expected=None, keys=None):
        handshake = Handshake(
            CRYPTO, self.rng, initiator=initiator, keys=keys or self.keys, binding=binding, expected=expected
        )
        link = self.links[channel] = Link(
            self.outbox,
            self.rng,
            channel,
            handshake,
            self.net.now,
            initiator=initiator,
            on_create=None if self.keys is None else self._create,
            on_open=self._open,
            on_closed=self._closed,
            throttle=self.throttle,
            onionskins=self.onionskins,
        )
        return link

    def reach(self, identity, reply, now, source=None, address=None):
        """As Neighbours do: links come at once, over links of the rig that stand, or are made and opened first."""
        target = self.net.by_identity.get(identity)
        if target is None or target is self or self.refuse_reach:
            reply(None, now)
            return
        link = self.net.link_between(self, target)
        if link.open:
            reply(link, now)
        else:
            self.net.when_open.setdefault(link, []).append(reply)

    def _reach(self, source, specifiers, *arguments):
        self.reach(ed25519_identity(specifiers), *arguments)

    def _create(self, link, circ_id, create, now):
        keys = self.keys
        self.circuits.append(
            RelayCircuit.accept(
                self.outbox,
                CRYPTO,
                self.rng,
                link,
                circ_id,
                create,
                keys=keys.onion,
                services=self.services,
                reach=SimpleNamespace(reach=self._reach),
            )
        )

    def _open(self, link, now):
        for reply in self.net.when_open.pop(link, ()):
            reply(link, now)

    def _closed(self, link, reason, now):
        del self.links[link.channel]
        self.closed_links.append((link, reason))


class Net:
    """Machines and the channels between them."""

    def __init__(self, seed="net", cut=None):
        self.seed = seed
        self.now = START
        self.machines = []
        self.by_identity = {}
        self.when_open = {}
        self.cut = cut or (lambda data: [data])
        self.protocols = Protocols(0)  # that relays say they speak
        self.tap = None  # tap(sender, receiver, data) -> data to deliver
        self._channels = 0
        self._peers = {}  # (machine, channel) -> (machine, channel)
        self._between = {}
        self._held = {}  # (receiver, channel) -> data that waits
        self._under_way = deque()

    def add(self, name, *, relays=True):
        machine = Machine(self, name, relays=relays)
        self.machines.append(machine)
        if machine.keys is not None:
            self.by_identity[machine.keys.identity] = machine
        return machine

    def relays(self, count):
        return [self.add(f"relay{index}") for index in range(count)]

    # -- links

    def connect(self, a, b, *, binding=None, expected=None):
        """A new channel; returns both links, a's first. `pump` opens them."""
        self._channels += 2
        ours, theirs = (a, self._channels - 1), (b, self._channels)
        self._peers[ours], self._peers[theirs] = theirs, ours
        right = b.make_link(theirs[1], initiator=False, binding=binding)
        left = a.make_link(ours[1], initiator=True, binding=binding, expected=expected)
        return left, right

    def link_between(self, a, b):
        """a's link to b, made if there is none."""
        link = self._between.get((a, b))
        if link is None or link.channel not in a.links:
            link = self._between[a, b] = self.connect(a, b, expected=b.keys.identity)[0]
        return link

    def prove(self, a, b):
        """a's link to b is one on which a proves who it is."""
        self._between[a, b] = self.connect(a, b, binding=DtlsBinding(b"the connection"), expected=b.keys.identity)[0]

    def other_side(self, machine, link):
        """The neighbour's end of a link."""
        peer, channel = self._peers[machine, link.channel]
        return peer.links.get(channel)

    def hold(self, machine, link, held=True):
        """Stop delivering what arrives at `machine` over this link; deliver it all when held is False."""
        key = (machine, link.channel)
        if held:
            self._held.setdefault(key, [])
        else:
            for data in self._held.pop(key, ()):
                self._under_way.append((key, data))
            self.pump()

    def congest(self, machine, link, congested=True):
        """The transport under this end tells that it is full, or that it has drained."""
        link.set_congested(congested, self.now)
        self.pump()

    def break_link(self, machine, link):
        """The channel breaks under both ends."""
        for side, channel in ((machine, link.channel), self._peers[machine, link.channel]):
            end = side.links.get(channel)
            if end is not None:
                end.gone("connection lost", self.now)
        self.pump()

    def deliver(self, machine, link, data):
        """Bytes to one end, from nowhere."""
        link.receive(data, self.now)
        self.pump()

    # -- circuits

    def build(self, client, path, *, pump=True, targets=None):
        """A circuit of `client` through these machines, or what `targets` make of them.

        Its attribute `times_built` holds it once for each time it was built, `gone` the reasons of its end.
        """
        link = self.link_between(client, path[0])
        self.pump()
        built, gone = [], []
        circuit = ClientCircuit(
            client.outbox,
            CRYPTO,
            client.rng,
            link,
            [machine.target for machine in path] if targets is None else targets,
            lambda circuit, now: built.append(circuit),
            lambda circuit, reason, now: gone.append(reason),
            self.now,
        )
        circuit.times_built, circuit.gone, circuit.client = built, gone, client
        if pump:
            self.pump()
        return circuit

    def open(self, circuit, target="host.example:80", handler=None, flags=0):
        """A stream; returns it and its handler, a Recorder that knows the stream."""
        handler = handler or Recorder()
        stream = handler.pipe = circuit.open_stream(target, handler, self.now, flags)
        self.pump()
        return stream, handler

    # -- time

    def pump(self):
        """Carry everything until all is quiet."""
        busy = True
        while busy:
            busy = False
            for machine in self.machines:
                effects = machine.outbox.poll(self.now)
                busy = busy or bool(effects)
                for effect in effects:
                    self._perform(machine, effect)
            while self._under_way:
                busy = True
                (machine, channel), data = self._under_way.popleft()
                self._arrive(machine, channel, data)

    def tick(self, seconds):
        """Let time pass: due timers fire."""
        self.now += seconds
        for machine in self.machines:
            machine.outbox.run_timers(self.now)
        self.pump()

    def _perform(self, machine, effect):
        peer = self._peers.get((machine, getattr(effect, "channel", None)))
        if peer is None or not isinstance(effect, (Send, CloseLink)):
            machine.effects.append(effect)
        elif isinstance(effect, CloseLink):
            self._under_way.append((peer, effect))
        else:
            for buffer in effect.buffers:
                data = bytes(buffer)
                if self.tap is not None:
                    data = self.tap(machine, peer[0], data)
                for piece in self.cut(data):
                    self._under_way.append((peer, piece))

    def _arrive(self, machine, channel, data):
        if (machine, channel) in self._held:
            self._held[machine, channel].append(data)
            return
        link = machine.links.get(channel)
        if link is None:
            return
        if isinstance(data, CloseLink):
            link.gone(data.reason, self.now)
        else:
            link.receive(data, self.now)


def say(end, command, stream_id=0, payload=b""):
    """One relay message, whatever it is, from this end of a circuit: a ClientCircuit or a RelayCircuit."""
    endpoint_of(end).send_message(command, stream_id, payload)


def say_data(end, stream_id, data):
    """One DATA cell that no stream window has allowed; the circuit's window counts it, so that SENDMEs are due."""
    endpoint = endpoint_of(end)
    endpoint._flow.sent(endpoint._transmit([pack_message(RelayCommand.DATA, stream_id, data)]), START)


def say_early(circuit, command, payload=b"", stream_id=0):
    """The same from an origin, in a RELAY_EARLY cell."""
    run, _ = circuit._wrap([pack_message(command, stream_id, payload)])
    circuit._link.send(circuit.id, Command.RELAY_EARLY, run)


def endpoint_of(end) -> Endpoint:
    return end._endpoint if isinstance(end, ClientCircuit) else end.endpoint


def cell(circ_id, command, payload=b""):
    return encode_cell(circ_id, command, payload)
