"""A node between a hostile neighbour and a hostile facilitator.

Both say what makes sense, what made sense a moment ago, and mutations of either, in any order, while the node's own
shell opens channels or does not. An exception out of the node fails the test: nothing here catches one. All that the
node keeps stays within its named limits, and nothing of it is left once the hostile ones are gone.
"""

import random

import pytest

from convergence.crypto import hpke
from convergence.crypto.keys import NodeKeys
from convergence.effects import OFFERER, CloseLink, Connect, Describe, DescriptionKind, Protocol, Send
from convergence.introduction.links import MAX_PENDING, MAX_SEEN, MAX_SESSIONS, OFFERS_IN_ALL
from convergence.introduction.pipe import PEER_TARGET, PEERING
from convergence.introduction.pipes import MAX_ACCEPTED, MAX_PIPES
from convergence.introduction.signalling import MAX_INTRODUCTIONS_PER_MINUTE, MAX_TAGS
from convergence.limits import MAX_KEYS, most_in_parts
from convergence.link.neighbours import MAX_WAYS
from convergence.netdir.nodes import MAX_HEARD
from convergence.node import Node, NodeConfig
from convergence.wire.descriptor import Descriptor, Transport, TransportKind
from convergence.wire.facilitator import (
    Ask,
    Delivery,
    Descriptors,
    Hello,
    NodeList,
    RecordCutter,
    RecordType,
    Register,
    Signal,
    Unreachable,
    encode_record,
    register_statement,
)
from convergence.wire.linkspec import ed25519_specifier
from convergence.wire.relay import Extend2, RelayCommand
from convergence.wire.sdp import Candidates
from convergence.wire.signals import Introduction, sealing_info
from convergence.wire.target import Role
from tests.fuzz.test_fuzz import mutate
from tests.unit.circuit.rig import CRYPTO, Net, SeededRng, say_early
from tests.unit.introduction.parties import candidate, description

PARTS = 2
ROUNDS = 12  # games in each
STEPS = 150  # moves in each
WORKS = Role.RELAY | Role.RDV
URL = "ws://hostile/"
CARRIED = (RecordType.DELIVER, RecordType.REPLY, RecordType.UNREACHABLE)
ASKED = (RecordType.SIGNAL, RecordType.SIGNAL, RecordType.REGISTER, RecordType.ASK, RecordType.DESCRIPTORS)
KEPT = MAX_INTRODUCTIONS_PER_MINUTE  # of what the hostile ones heard, to say it again


def sign_with(keys):
    return lambda message: CRYPTO.ed25519_sign(keys.identity_seed, message)


class Shell:
    """The node as a machine of a `Net`, with a shell that does what is asked, or what is worse."""

    def __init__(self, net, rng):
        self.net = net
        self.rng = rng
        self.keys = NodeKeys.generate(CRYPTO, SeededRng(f"{net.seed}-node"))
        config = NodeConfig("ws://facilitator/", roles=WORKS, urls=("ws://node/",), rtc=True, circuits=2)
        self.node = Node(config, CRYPTO, SeededRng(f"{net.seed}-draws"), keys=self.keys)
        self.outbox = self.node.outbox
        self.links = self.node.neighbours.links
        self.effects = []
        self.hostile = None  # whom it reaches, wherever it dials
        self.facilitator = None  # the channel, while it is open
        self.to_facilitator = bytearray()
        self.rtc = []  # channels that may open
        self.node.start(net.now)

    @property
    def target(self):
        return self.node.announcement.describe(self.net.now).target

    def make_link(self, channel, *, initiator, binding=None, expected=None):
        assert not initiator
        self.node.link_opened(channel, self.net.now, protocol=Protocol.LINK, binding=binding)
        return self.links[channel]

    def serve(self):
        """Do what the node asked for, and carry what comes of it."""
        while self.effects:
            effects, self.effects = self.effects, []
            self.node._channels.note(effects)
            for effect in effects:
                self._do(effect)
            self.net.pump()

    def _do(self, effect):
        node, now = self.node, self.net.now
        match effect:
            case Connect(channel, Protocol.FACILITATOR, _):
                self.facilitator = channel
                node.link_opened(channel, now, protocol=Protocol.FACILITATOR, binding=None)
            case Connect(channel, Protocol.LINK, _) if self.rng.random() < 0.8:
                self.net.dialled(self, channel, self.hostile)
                node.link_opened(channel, now, protocol=Protocol.LINK, binding=None)
            case Connect(channel, Protocol.LINK, _):
                node.link_closed(channel, now, "refused")
            case Connect(channel, Protocol.RTC, part):
                self.rtc.append(channel)
                if part == OFFERER:
                    self._describe(channel, DescriptionKind.OFFER)
            case Describe(channel, DescriptionKind.OFFER, _):
                self._describe(channel, DescriptionKind.ANSWER)
            case Send(channel, buffers) if channel == self.facilitator:
                self.to_facilitator += b"".join(buffers)
            case CloseLink(channel, _):
                if channel == self.facilitator:
                    self.facilitator = None
                if channel in self.rtc:
                    self.rtc.remove(channel)

    def _describe(self, channel, kind):
        if self.rng.random() < 0.9:
            self.node.link_described(channel, kind, description(kind, str(channel)).to_sdp(kind), self.net.now)
            lines = Candidates((candidate(channel),)).to_lines()
            self.node.link_described(channel, DescriptionKind.CANDIDATES, lines, self.net.now)

    def check(self):
        """All tables are within their limits."""
        node = self.node
        board, rtc, pipes = node.switchboard, node._rtc, node._peers._pipes
        assert len(board._live) <= MAX_TAGS
        assert len(board._ports) <= len(pipes._accepted) + len(pipes._opened) + 1
        assert len(pipes._accepted) <= MAX_ACCEPTED and len(pipes._opened) <= MAX_PIPES
        assert all(len(pipe.signals._asked) <= MAX_INTRODUCTIONS_PER_MINUTE for pipe in pipes)
        assert len(rtc._sessions) <= MAX_SESSIONS + MAX_PENDING and len(rtc._by_name) <= MAX_SESSIONS
        assert all(len(budget._spent) <= MAX_KEYS for budget in (rtc._sources, rtc._senders))
        assert len(rtc._all._spent) <= most_in_parts(OFFERS_IN_ALL)
        assert len(rtc._seen._seen) <= MAX_SEEN
        unlisted = node.directory._heard.keys() - node.directory._listed.keys()
        assert len(unlisted) <= MAX_HEARD
        assert sum(way.source is not None for way in node.neighbours._ways.values()) <= MAX_WAYS
        assert self.keys.identity not in node.neighbours._reusable


class Between(Net):
    """Channels between the node and the hostile neighbour."""

    def dialled(self, machine, channel, target):
        self._channels += 2
        ours, theirs = (machine, channel), (target, self._channels)
        self._peers[ours], self._peers[theirs] = theirs, ours
        target.make_link(self._channels, initiator=False)


class Hostile:
    """A neighbour and a facilitator under one hand, with a few identities."""

    def __init__(self, net, shell, rng):
        self.net = net
        self.shell = shell
        self.rng = rng
        self.machine = net.add("hostile")
        self.seed = rng.randbytes(32)
        self.identity = CRYPTO.ed25519_public(self.seed)
        self.faces = [
            self.machine.keys,
            *(NodeKeys.generate(CRYPTO, SeededRng(f"{net.seed}-face-{n}")) for n in range(5)),
        ]
        self.hellos = {}  # stream or channel -> what the node said there
        self.heard = []  # bodies of records that the node sent
        self.kinds = set()  # of all that it ever sent
        self.said = []  # records
        self.circuits = []
        self.streams = []  # (stream, recorder)
        shell.hostile = self.machine

    def describe(self, keys):
        published = int(self.net.now) + self.rng.choice([*range(-3, 4), 500, -500, 700])
        transports = [
            Transport.rtc(self.rng.sample([face.identity for face in self.faces] + [self.shell.keys.identity], 3))
        ]
        if keys is self.machine.keys or self.rng.random() < 0.2:
            transports.append(Transport(TransportKind.WS, URL))
        roles = self.rng.choice([WORKS, WORKS, Role.RELAY, Role(0)])
        life = self.rng.choice([900, 3600, 7 * 3600])
        unsigned = Descriptor(keys.identity, keys.ntor_public, published, published + life, roles, tuple(transports))
        return unsigned.sign(sign_with(keys)).encode()

    def introduction(self):
        """Sealed for the node: an offer, an answer, or candidates by one of the faces."""
        rng, to, face = self.rng, self.shell.keys, self.rng.choice(self.faces)
        kind = rng.choice([DescriptionKind.OFFER, *DescriptionKind])
        if kind is DescriptionKind.CANDIDATES:
            what = Candidates(tuple(candidate(rng.randrange(99)) for _ in range(rng.randrange(4))))
        else:
            what = description(kind, f"{rng.randrange(3)}", rng.randrange(3))
        names = [session.name for session in self.shell.node._rtc._sessions.values()]
        session = rng.choice([*names, bytes([rng.randrange(4)]) * 16, rng.randbytes(16)])
        sent = int(self.net.now) + rng.choice([*range(5), 599, -599, 700])
        key = rng.choice([face.ntor_public] * 9 + [bytes(32)])
        message = Introduction(kind, session, face.identity, key, max(sent, 0), what).sign(sign_with(face), to.identity)
        data = message.encode()
        if rng.random() < 0.1:
            data = mutate(rng, data)
        return hpke.seal(CRYPTO, rng.randbytes(32), to.ntor_public, sealing_info(to.identity), data)

    def record(self, hello, usual):
        """Something to say where the node said this `hello` (or nothing), mostly of the `usual` kinds."""
        rng = self.rng
        kind = rng.choice(list(RecordType) if rng.random() < 0.03 else usual)
        face = self.machine.keys if rng.random() < 0.5 else rng.choice(self.faces)
        sealed = self.introduction() if rng.random() < 0.9 else rng.randbytes(rng.randrange(99))
        tags = [int.from_bytes(body[:4], "big") for sort, body in self.heard if sort in (6, 8, 9)]
        tag = rng.choice([*tags, rng.randrange(20)])
        to = rng.choice([self.shell.keys, *self.faces]).identity
        match kind:
            case RecordType.HELLO:
                body = Hello(rng.choice([face.identity, self.identity]), rng.randbytes(32)).encode()
            case RecordType.REGISTER:
                proof = bytes(64) if hello is None else sign_with(face)(register_statement(hello))
                body = Register(proof, self.describe(face)).encode()
            case RecordType.SIGNAL:
                body = Signal(tag, to, sealed).encode()
            case RecordType.DELIVER | RecordType.REPLY:
                body = Delivery(tag, sealed).encode()
            case RecordType.UNREACHABLE:
                body = Unreachable(tag, rng.randrange(4)).encode()
            case RecordType.ASK:
                body = Ask(rng.choice([0, int(self.net.now) - 60, 2**64 - 1])).encode()
            case RecordType.DESCRIPTORS:
                faces = rng.sample(self.faces, rng.randrange(4))
                body = Descriptors(tuple(self.describe(keys) for keys in faces)).encode()
            case RecordType.NODES:
                listed = tuple(self.describe(keys) for keys in self.faces)
                nodes = NodeList(int(self.net.now), int(self.net.now) + 3600, listed, self.identity)
                body = nodes.sign(lambda message: CRYPTO.ed25519_sign(self.seed, message)).encode()
            case _:
                body = b""
        if rng.random() < 0.03:
            body = mutate(rng, body)
        data = len(body).to_bytes(4, "big") + bytes([kind]) + body
        self.said.append(data)
        if rng.random() < 0.1:
            data = rng.choice(self.said[-KEPT:])
        return mutate(rng, data) if rng.random() < 0.01 else data

    def listen(self):
        """Take down what the node said."""
        for stream, recorder in [*self.streams, *self.machine.services.streams]:
            self._listen(stream, recorder.received, PEERING)
        if self.shell.facilitator is not None:
            accepted = (RecordType.REGISTER, RecordType.LIST, RecordType.SIGNAL, RecordType.REPLY)
            self._listen(self.shell.facilitator, self.shell.to_facilitator, accepted)
        del self.heard[:-KEPT]

    def _listen(self, where, data, accepted):
        taken, data[:] = bytes(data), b""
        for kind, body in RecordCutter(accepted).feed(taken):
            self.heard.append((kind, body))
            self.kinds.add(kind.name)
            if kind is RecordType.HELLO:
                self.hellos[where] = Hello.parse(body)

    # -- moves

    def greet(self):
        """What an honest facilitator would say first."""
        if self.shell.facilitator is not None and self.shell.facilitator not in self.hellos:
            hello = self.hellos[self.shell.facilitator] = Hello(self.identity, self.rng.randbytes(32))
            listed = tuple(self.describe(keys) for keys in self.faces)
            nodes = NodeList(int(self.net.now), int(self.net.now) + 3600, listed, self.identity)
            signed = nodes.sign(lambda message: CRYPTO.ed25519_sign(self.seed, message))
            self._as_facilitator(encode_record(RecordType.HELLO, hello.encode()))
            self._as_facilitator(encode_record(RecordType.NODES, signed.encode()))

    def facilitate(self):
        if self.shell.facilitator is not None:
            self._as_facilitator(self.record(self.hellos.get(self.shell.facilitator), CARRIED))

    def _as_facilitator(self, data):
        if self.shell.facilitator is not None:
            self.shell.node.link_data(self.shell.facilitator, data, self.net.now)
            self.net.pump()

    def open(self):
        if len(self.circuits) < 6:
            circuit = self.net.build(self.machine, [self.shell])
            self.circuits.append(circuit)
            if circuit.built:
                stream, recorder = self.net.open(circuit, PEER_TARGET)
                self.streams.append((stream, recorder))
                face = self.machine.keys if self.rng.random() < 0.7 else self.rng.choice(self.faces)
                self.listen()
                hello = self.hellos.get(stream)
                if hello is not None and self.rng.random() < 0.9:
                    proof = sign_with(face)(register_statement(hello))
                    stream.write(
                        encode_record(RecordType.HELLO, Hello(face.identity, bytes(32)).encode()), self.net.now
                    )
                    stream.write(
                        encode_record(RecordType.REGISTER, Register(proof, self.describe(face)).encode()), self.net.now
                    )

    def say(self, stream, data):
        stream.write(data, self.net.now)

    def speak(self):
        streams = [*self.streams, *self.machine.services.streams]
        if streams:
            stream, recorder = self.rng.choice(streams)
            if stream in {item for item, _ in self.machine.services.streams} and "greeted" not in recorder.calls:
                recorder.calls.append("greeted")
                stream.write(
                    encode_record(RecordType.HELLO, Hello(self.machine.keys.identity, bytes(32)).encode()), self.net.now
                )
            for _ in range(self.rng.randrange(1, 4)):
                self.say(stream, self.record(self.hellos.get(stream), (*CARRIED, *ASKED)))

    def extend(self):
        live = [circuit for circuit in self.circuits if circuit.built and not circuit.closed]
        if live:
            circuit, face = self.rng.choice(live), self.rng.choice(self.faces)
            body = Extend2((ed25519_specifier(face.identity),), 2, self.rng.randbytes(84)).encode()
            say_early(circuit, RelayCommand.EXTEND2, body)

    def end(self):
        if self.circuits and self.rng.random() < 0.3:
            circuit = self.circuits.pop(self.rng.randrange(len(self.circuits)))
            circuit.destroy(0, self.net.now)

    def break_off(self):
        links = list(self.machine.links.values())
        if links and self.rng.random() < 0.3:
            self.net.break_link(self.machine, self.rng.choice(links))

    def connect(self):
        """An RTC channel opens, or breaks."""
        if self.shell.rtc:
            channel = self.rng.choice(self.shell.rtc)
            if self.rng.random() < 0.7:
                self.shell.node.link_opened(channel, self.net.now, protocol=Protocol.RTC, binding=None)
                self.shell.node.link_data(channel, self.rng.randbytes(40), self.net.now)
            else:
                self.shell.rtc.remove(channel)
                self.shell.node.link_closed(channel, self.net.now, "lost")

    def leave(self):
        if self.rng.random() < 0.7:
            return
        channel, self.shell.facilitator = self.shell.facilitator, None
        if channel is not None:
            self.shell.node.link_closed(channel, self.net.now, "lost")

    def wait(self):
        self.net.tick(self.rng.choice([0.1, 1, 5, 30]))

    def pause(self):
        node = self.shell.node
        node.relay(None if self.rng.random() < 0.3 else node.relaying._limits or self.limits(), WORKS, self.net.now)

    def limits(self):
        return NodeConfig("ws://facilitator/").limits


@pytest.mark.parametrize("part", range(PARTS))
def test_a_node_outlives_a_hostile_neighbour_and_a_hostile_facilitator(part):
    came_about = set().union(*(play(f"{part}-{number}") for number in range(ROUNDS)))
    wanted = {"HELLO", "REGISTER", "REGISTERED", "SIGNAL", "DELIVER", "REPLY", "UNREACHABLE", "ASK", "DESCRIPTORS"}
    assert {*wanted, "a session"} <= came_about, "a rig that says only nonsense proves nothing"


def play(seed):
    """One game to its end; returns what came about."""
    rng = random.Random(f"introduction-{seed}")
    net = Between(f"introduction-{seed}")
    shell = Shell(net, rng)
    net.machines.append(shell)
    net.by_identity[shell.keys.identity] = shell
    hostile = Hostile(net, shell, rng)
    moves = [
        *[hostile.facilitate] * 4,
        *[hostile.speak] * 8,
        *[hostile.open, hostile.extend, hostile.connect, hostile.wait] * 2,
        *[hostile.end, hostile.break_off, hostile.leave, hostile.pause],
    ]
    net.pump()
    shell.serve()
    for _ in range(STEPS):
        hostile.greet()
        rng.choice(moves)()
        net.pump()
        shell.serve()
        hostile.listen()
        shell.check()
    # All of them go, and time passes.
    shell.hostile = net.add("nobody")
    for link in list(hostile.machine.links.values()):
        net.break_link(hostile.machine, link)
    node = shell.node
    node.stop(net.now)
    net.pump()
    shell.serve()
    for _ in range(80):
        net.tick(30)
        shell.serve()
    board, rtc, neighbours = node.switchboard, node._rtc, node.neighbours
    assert not board._live and len(board._ports) == 1, "its own is left"
    assert not rtc._sessions and not rtc._by_name
    assert not neighbours.links and not neighbours._ways and not neighbours._unopened
    assert not node.relaying.circuits and not node.relaying._of and not node.relaying._pipes
    assert not list(node._peers._pipes)
    assert node.outbox.deadline() is None, "a timer stays for ever"
    return hostile.kinds | ({"a session"} if rtc._seen._seen else set())
