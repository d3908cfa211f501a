"""Bounded fuzzing of links and circuits.

Whatever a neighbour or the far end of a circuit says, nothing but a close with a reason comes of it. An exception out
of the core fails the test: the rig catches none.
"""

import random
from dataclasses import replace

import pytest

from convergence.circuit.exit import ExitService
from convergence.effects import Connect, Resolve
from convergence.errors import LinkError
from convergence.link.handshake import Handshake
from convergence.ports import TlsBinding
from convergence.rdv.point import RdvPoint
from convergence.wire.cells import CELL_LEN, PAYLOAD_LEN, Command, encode_cell
from convergence.wire.create import Create2, Created2
from convergence.wire.linkspec import ed25519_specifier
from convergence.wire.rdv import Advert, DbInfo, Name, Proof, format_rdv_target
from convergence.wire.relay import (
    Answer,
    Begin,
    Connected,
    End,
    Extend2,
    Extended2,
    RelayCommand,
    Resolved,
    Sendme,
    Truncated,
    pack_message,
)
from convergence.wire.relay import (
    Resolve as ResolveMessage,
)
from pynode.torkeys import RsaSecret
from tests.fuzz.test_fuzz import mutate
from tests.unit.circuit.rig import CRYPTO, START, Net, Recorder, SeededRng, endpoint_of, say_early
from tests.unit.link.test_handshake import BINDING, DIALLER, RELAY, initiator, responder, run

ROUNDS = 400
NAME = Name(bytes(range(32)))
OWNED = Name(NAME.blinded, owned=True)
ADVERTS = (
    (Advert.add(NAME), Advert.remove(NAME)),
    (Advert.add(OWNED, Proof(20_000, bytes(64))), Advert.remove(OWNED)),
)


# -- the handshake


@pytest.mark.parametrize("binding", [BINDING, None])
@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_a_handshake_ends_in_link_error_only(side, binding):
    shake_hands_badly(side, binding, DIALLER, RELAY)


@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_a_handshake_on_tls_ends_in_link_error_only(side):
    dialler, relay = (replace(keys, rsa=RsaSecret.generate()) for keys in (DIALLER, RELAY))
    shake_hands_badly(side, TlsBinding(b"certificate", lambda context: bytes(32)), dialler, relay)


def shake_hands_badly(side, binding, dialler, relay):
    rng = random.Random(f"{side}{type(binding)}")
    from_initiator, from_responder = run(initiator(binding, node=dialler), responder(binding, node=relay))
    script = from_responder if side == "initiator" else from_initiator
    refused = 0
    for number in range(ROUNDS):
        data = mutate(rng, script) if number % 4 else rng.randbytes(rng.randrange(2000))
        keys = dialler if side == "initiator" else relay
        handshake = Handshake(
            CRYPTO,
            SeededRng(f"fuzz-{number}"),
            initiator=side == "initiator",
            keys=keys,
            binding=binding,
            expected=RELAY.identity if side == "initiator" else None,
        )
        handshake.start()
        border = rng.randrange(len(data) + 1)
        try:
            handshake.receive(data[:border], START)
            handshake.receive(data[border:], START)
            handshake.leftover()
        except LinkError:
            refused += 1
            assert not handshake.open or len(data) > len(script) // 2
    assert refused > ROUNDS // 5


# -- an open link


def cells_to_try(rng, ids):
    """Cells that make some sense, in any order."""
    payloads = [
        b"",
        Create2(2, bytes(84)).encode(),
        Created2(bytes(64)).encode(),
        bytes([rng.randrange(256)]),
        rng.randbytes(PAYLOAD_LEN),
    ]
    commands = [*(command for command in Command if command < 128 and command != Command.VERSIONS), 99]
    circ_id = rng.choice([*ids, rng.randrange(1 << 32), rng.randrange(1 << 31) | 1 << 31])
    return encode_cell(circ_id, rng.choice(commands), rng.choice(payloads))


@pytest.mark.parametrize("seed", range(4))
def test_an_open_link_survives_any_bytes_or_closes(seed):
    rng = random.Random(seed)
    closed = 0
    for number in range(ROUNDS // 10):
        net = Net(f"link-{seed}-{number}")
        client = net.add("client", relays=False)
        path = net.relays(2)
        circuit = net.build(client, path)
        net.open(circuit)
        victim, link = rng.choice([(machine, link) for machine in net.machines for link in machine.links.values()])
        for _ in range(20):
            data = b"".join(cells_to_try(rng, list(link.circuits)) for _ in range(rng.randrange(1, 6)))
            if rng.random() < 0.2:
                data = mutate(rng, data)
            if link.open:
                net.deliver(victim, link, data)
        closed += not link.open
        assert link.open or any(reason for gone, reason in victim.closed_links if gone is link)
        assert len(link._partial) < CELL_LEN
    assert closed


# -- relay messages


def messages(rng, streams):
    """One relay message: valid, or a mutation, or noise."""
    samples = {
        RelayCommand.BEGIN: [Begin("host.example", 80).encode(), format_rdv_target(NAME).encode() + b"\0"],
        RelayCommand.DATA: [b"data", b"", bytes(498)],
        RelayCommand.END: [End(6).encode(), b"", b"\4\x7f\0\0\1"],
        RelayCommand.CONNECTED: [Connected().encode(), Connected("192.0.2.1", 9).encode()],
        RelayCommand.SENDME: [b"", Sendme(1, bytes(20)).encode()],
        RelayCommand.TRUNCATE: [b"\1"],
        RelayCommand.TRUNCATED: [Truncated(1).encode()],
        RelayCommand.DROP: [b"noise"],
        RelayCommand.RESOLVE: [ResolveMessage("host.example").encode()],
        RelayCommand.RESOLVED: [Resolved((Answer.of("192.0.2.1", 9),)).encode()],
        RelayCommand.EXTEND2: [Extend2((ed25519_specifier(NAME.blinded),), 2, bytes(84)).encode()],
        RelayCommand.EXTENDED2: [Extended2(bytes(64)).encode()],
        RelayCommand.DB_INFO: [DbInfo(adverts).encode() for adverts in ADVERTS],
        RelayCommand.BEGIN_DIR: [b""],
        99: [b"?"],
    }
    command = rng.choice(list(samples))
    payload = rng.choice(samples[command])
    if rng.random() < 0.4:
        payload = mutate(rng, payload)[:498]
    stream_id = rng.choice([0, *streams, rng.randrange(1 << 16)])
    message = bytearray(pack_message(command, stream_id, payload))
    if rng.random() < 0.05:
        message[9:11] = rng.randbytes(2)  # a length that may be anything
    return bytes(message)


class Relay:
    """What a node does at the last hop: an exit and a rendezvous point at once."""

    def __init__(self, machine):
        self.exit, self.point = ExitService(machine.outbox), RdvPoint(machine.outbox, CRYPTO)
        machine.services = self

    def begin(self, circuit, stream_id, begin, now):
        if begin.host.endswith(".rdv"):
            self.point.begin(circuit, stream_id, begin, now)
        else:
            self.exit.begin(circuit, stream_id, begin, now)

    def resolve(self, circuit, stream_id, host, now):
        self.exit.resolve(circuit, stream_id, host, now)

    def message(self, circuit, command, payload, now):
        self.point.message(circuit, payload, now)

    def sent(self, cells):
        pass

    def circuit_closed(self, circuit, now):
        self.point.circuit_closed(circuit)


def answer_all(net, machine, relay, rng):
    """The shell opens channels and answers look-ups, or does not."""
    effects, machine.effects = machine.effects, []
    for effect in effects:
        if isinstance(effect, Connect) and rng.random() < 0.7:
            relay.exit.opened(effect.channel, net.now)
            relay.exit.data(effect.channel, b"hello", net.now)
            if rng.random() < 0.3:
                relay.exit.closed(effect.channel, "reset", net.now)
        elif isinstance(effect, Resolve):
            machine.outbox.done(effect.request, ["192.0.2.1"], net.now)
    net.pump()


@pytest.mark.parametrize("seed", range(4))
def test_a_relay_outlives_any_relay_messages(seed):
    rng = random.Random(seed)
    closed = 0
    for number in range(ROUNDS // 10):
        net = Net(f"relay-{seed}-{number}")
        client, other = net.add("client", relays=False), net.add("other", relays=False)
        path = net.relays(2)
        relay = Relay(path[-1])
        provider = net.build(other, [path[1]])
        provider.on_begin = lambda target, stream, now: Recorder(stream)
        provider.send_message(RelayCommand.DB_INFO, DbInfo((Advert.add(NAME),)).encode())
        circuit = net.build(client, path)
        for target in ("host.example:80", format_rdv_target(NAME)):
            handler = Recorder()
            handler.pipe = circuit.open_stream(target, handler, net.now)
        net.pump()
        for _ in range(20):
            if circuit.closed:
                break
            endpoint = endpoint_of(circuit)
            for _ in range(rng.randrange(1, 4)):
                body = messages(rng, [1, 2, 3])
                if rng.random() < 0.1:
                    say_early(circuit, body[0], body[11:400])
                else:
                    endpoint._transmit([body])
            net.pump()
            answer_all(net, path[-1], relay, rng)
        closed += circuit.closed
        circuit.destroy(0, net.now)
        net.pump()
        assert provider.built, "what one circuit does is no matter to another"
        assert [offer.nb for offer in relay.point._adverts.of(NAME)] == [0]
        provider.destroy(0, net.now)
        net.pump()
        answer_all(net, path[-1], relay, rng)
        assert not relay.point._adverts.names and not relay.point._adverts.providers and not relay.exit._look_ups
    assert closed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("speaker", [0, 1])
def test_an_origin_outlives_any_relay_messages(seed, speaker):
    rng = random.Random(f"{seed}-{speaker}")
    closed = 0
    for number in range(ROUNDS // 10):
        net = Net(f"origin-{seed}-{speaker}-{number}")
        client = net.add("client", relays=False)
        path = net.relays(2)
        answers, handler = [], Recorder()
        circuit = net.build(client, path)
        circuit.on_begin = lambda target, stream, now: Recorder(stream) if ".rdv" in target else None
        stream, _ = net.open(circuit, handler=handler)
        circuit.resolve("host.example", lambda resolved, now, answers=answers: answers.append(resolved))
        net.pump()
        for _ in range(20):
            relay_end = path[speaker].circuits[0]
            if relay_end.closed:
                break
            for _ in range(rng.randrange(1, 4)):
                relay_end._transmit([messages(rng, [stream.id, 2, 0x8001, 0x8002])])
            net.pump()
        closed += circuit.closed
        circuit.destroy(0, net.now)
        net.pump()
        assert handler.reason is not None and len(answers) == 1
        assert all(not link.circuits for machine in net.machines for link in machine.links.values())
    assert closed


@pytest.mark.parametrize("seed", range(2))
def test_a_relay_outlives_any_create_and_extend(seed):
    rng = random.Random(seed)
    for number in range(ROUNDS // 10):
        net = Net(f"extend-{seed}-{number}")
        client = net.add("client", relays=False)
        one, two = net.relays(2)
        circuit = net.build(client, [one])
        identity = rng.choice([one, two]).keys.identity
        skin = rng.choice([bytes(84), two.keys.onion.node_id + two.keys.ntor_public + rng.randbytes(32), b""])
        extend = Extend2((ed25519_specifier(identity),), rng.choice([0, 2, 3]), skin).encode()
        for _ in range(6):
            if not circuit.closed:
                say_early(circuit, RelayCommand.EXTEND2, mutate(rng, extend)[:498] if rng.random() < 0.7 else extend)
                net.pump()
        link = net.other_side(client, net.link_between(client, one))
        if link is not None:
            payload = mutate(rng, Create2(2, skin).encode())[:PAYLOAD_LEN]
            net.deliver(one, link, encode_cell(rng.randrange(1 << 31) | 1 << 31, Command.CREATE2, payload))
