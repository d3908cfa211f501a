"""What circuit handshakes agree on: ntor or ntor-v3, fixed windows or congestion control."""

from dataclasses import replace
from hashlib import sha1

import pytest

from convergence.circuit.congestion import Vegas
from convergence.circuit.flow import FixedWindows
from convergence.circuit.hop import BINDING_LEN, MOST_APART, OFFERED, SENDME_INC, answer_handshake, begin_handshake
from convergence.crypto import ntor_v3
from convergence.crypto.keys import NodeKeys
from convergence.errors import DestroyReason, RemoteError
from convergence.link.link import INITIATOR_ID_BIT
from convergence.ports import TlsBinding
from convergence.wire.cells import Command, encode_cell
from convergence.wire.create import Create2, HandshakeType
from convergence.wire.extensions import Capability, CircuitRequest, CircuitResponse
from convergence.wire.relay import MAX_DATA
from convergence.wire.target import Protocols
from pynode.torkeys import RsaSecret
from tests.unit.circuit.rig import CRYPTO, Net, SeededRng, endpoint_of

RNG = SeededRng("hop")
KEYS = NodeKeys.generate(CRYPTO, RNG)


def target(protocols=OFFERED):
    net = Net()
    net.protocols = protocols
    relay = net.add("relay")
    relay.keys = KEYS
    return relay.target


def shake(client, keys=KEYS.onion):
    """Both hops, or what either side raises."""
    reply, far = answer_handshake(CRYPTO, RNG, keys, Create2(client.kind, client.onionskin))
    return client.finish(reply), far


@pytest.mark.parametrize(
    ("protocols", "kind", "flow"),
    [
        (Protocols(0), HandshakeType.NTOR, FixedWindows),
        (Protocols.NTOR_V3, HandshakeType.NTOR_V3, FixedWindows),
        (Protocols.CONGESTION_CONTROL, HandshakeType.NTOR, FixedWindows),
        (OFFERED, HandshakeType.NTOR_V3, Vegas),
    ],
)
def test_the_best_that_a_relay_offers_is_agreed_on(protocols, kind, flow):
    client = begin_handshake(CRYPTO, RNG, target(protocols))
    assert client.kind == kind
    near, far = shake(client)
    assert type(near.new_flow()) is type(far.new_flow()) is flow
    assert near.keys.forward.crypt(bytes(9)) == far.keys.forward.crypt(bytes(9))
    assert near.keys.backward.crypt(bytes(9)) == far.keys.backward.crypt(bytes(9))
    assert near.format is far.format
    assert near.binding == far.binding and len(near.binding) == BINDING_LEN


@pytest.mark.parametrize("protocols", [Protocols(0), OFFERED])
def test_no_two_circuits_are_bound_alike_even_if_one_end_repeats_itself(protocols):
    """A relay that gets an onionskin a second time still has a secret of its own to add."""
    client = begin_handshake(CRYPTO, RNG, target(protocols))
    create = Create2(client.kind, client.onionskin)
    bindings = {answer_handshake(CRYPTO, RNG, KEYS.onion, create)[1].binding for _ in range(2)}
    assert len(bindings) == 2


def test_each_end_has_flow_control_of_its_own():
    near, _ = shake(begin_handshake(CRYPTO, RNG, target()))
    assert near.new_flow() is not near.new_flow()


def answering(monkeypatch, message):
    """A relay that answers every ntor-v3 request with this message."""
    honest = ntor_v3.server_reply

    def lie(crypto, secret, identity, keys, onionskin, length, reply):
        return honest(crypto, secret, identity, keys, onionskin, length, lambda asked: message)

    monkeypatch.setattr(ntor_v3, "server_reply", lie)


@pytest.mark.parametrize("increment", [1, SENDME_INC // MOST_APART, SENDME_INC * MOST_APART + 1, 255])
def test_a_relay_that_wants_far_other_sendmes_is_refused(monkeypatch, increment):
    """It would make us send more for each SENDME, or measure nothing."""
    answering(monkeypatch, CircuitResponse(increment).encode())
    with pytest.raises(RemoteError, match="acknowledges every"):
        shake(begin_handshake(CRYPTO, RNG, target()))


@pytest.mark.parametrize("increment", [SENDME_INC // MOST_APART + 1, SENDME_INC * MOST_APART])
def test_a_relay_may_acknowledge_somewhat_more_or_less_often(monkeypatch, increment):
    answering(monkeypatch, CircuitResponse(increment).encode())
    near, _ = shake(begin_handshake(CRYPTO, RNG, target()))
    flow = near.new_flow()
    assert [*flow.received(increment)] == [increment - 1]


def test_a_relay_that_declines_gets_fixed_windows(monkeypatch):
    answering(monkeypatch, CircuitResponse().encode())
    near, _ = shake(begin_handshake(CRYPTO, RNG, target()))
    assert isinstance(near.new_flow(), FixedWindows)


def test_an_answer_to_what_was_not_asked_is_refused(monkeypatch):
    answering(monkeypatch, CircuitResponse(SENDME_INC).encode())
    with pytest.raises(RemoteError, match="not asked"):
        shake(begin_handshake(CRYPTO, RNG, target(Protocols.NTOR_V3)))


@pytest.mark.parametrize("message", [b"", b"\1", b"\1\2\1\x1f\0", b"\1\2\0"])
def test_a_malformed_answer_is_refused(monkeypatch, message):
    answering(monkeypatch, message)
    with pytest.raises(RemoteError):
        shake(begin_handshake(CRYPTO, RNG, target()))


def ask(message):
    _, onionskin = ntor_v3.client_start(CRYPTO, RNG.random(32), KEYS.identity, KEYS.ntor_public, message)
    return answer_handshake(CRYPTO, RNG, KEYS.onion, Create2(HandshakeType.NTOR_V3, onionskin))


def test_a_relay_refuses_capabilities_that_it_lacks():
    with pytest.raises(RemoteError):
        ask(CircuitRequest(capabilities=frozenset({Capability(2, 6)})).encode())


def test_a_relay_ignores_what_it_does_not_know():
    _, hop = ask(b"\2\x63\3abc\1\0")
    assert isinstance(hop.new_flow(), Vegas)


@pytest.mark.parametrize("kind", [HandshakeType.TAP, 1, 4, 0xFFFF])
def test_other_handshakes_are_not_offered(kind):
    with pytest.raises(RemoteError, match="not offered"):
        answer_handshake(CRYPTO, RNG, KEYS.onion, Create2(kind, bytes(128)))


def test_a_reply_of_another_relay_is_refused():
    other = NodeKeys.generate(CRYPTO, RNG)
    with pytest.raises(RemoteError):
        shake(begin_handshake(CRYPTO, RNG, target()), other.onion)
    lying = replace(other.onion, identity=KEYS.identity)
    with pytest.raises(RemoteError):
        shake(begin_handshake(CRYPTO, RNG, target()), lying)


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("size", [1, MAX_DATA, 2 << 20])
def test_data_arrives_both_ways_under_congestion_control(hops, size):
    net = Net()
    net.protocols = OFFERED
    client = net.add("client", relays=False)
    path = net.relays(hops)
    circuit = net.build(client, path)
    stream, handler = net.open(circuit)
    [(far, heard)] = path[-1].services.streams
    data = bytes(range(256)) * (size // 256 + 1)
    for end in (stream, far):
        end.write(data[:size], net.now)
    net.pump()
    assert handler.received == heard.received == data[:size]
    assert isinstance(endpoint_of(circuit)._flow, Vegas) and circuit.built


def test_a_reader_that_stops_stops_the_writer_and_nobody_else():
    net = Net()
    net.protocols = OFFERED
    client = net.add("client", relays=False)
    path = net.relays(2)
    circuit = net.build(client, path)
    stream, _ = net.open(circuit)
    other, _ = net.open(circuit)
    (far, heard), (_, heard_too) = path[-1].services.streams
    heard.pipe = None
    sent = 0
    while not stream.congested:
        stream.write(bytes(65_536), net.now)
        sent += 65_536
        net.pump()
        assert sent < 4 << 20
    other.write(b"x" * 1_000_000, net.now)
    net.pump()
    assert len(heard_too.received) == 1_000_000
    heard.pipe = far
    far.consumed(len(heard.received), net.now)
    net.pump()
    assert len(heard.received) == sent


@pytest.mark.parametrize("changed", [None, 130])
@pytest.mark.parametrize("hops", [1, 2])
def test_who_changes_the_request_on_its_way_ends_the_circuit(hops, changed):
    """So nobody between can talk us down to a weaker handshake or to fixed windows."""
    net = Net()
    net.protocols = OFFERED
    client = net.add("client", relays=False)
    path = net.relays(hops)
    honest = path[-1]._create

    def create(link, circ_id, create, now):
        assert create.handshake_type == HandshakeType.NTOR_V3
        if changed is not None:
            payload = create.encode()
            create = Create2.parse(payload[:changed] + bytes([payload[changed] ^ 1]) + payload[changed + 1 :])
        honest(link, circ_id, create, now)

    path[-1]._create = create
    circuit = net.build(client, path)
    assert circuit.built is (changed is None)
    assert len(circuit.gone) == (changed is not None)


# -- CREATE_FAST (tor-spec "CREATE_FAST/CREATED_FAST cells")


TLS = TlsBinding(b"certificate", lambda context: bytes(32))


def fast_circuit():
    """A client, a relay of which it has no onion key, and a circuit from one to the other over TLS."""
    net = Net()
    client, relay = net.add("client", relays=False), net.add("relay")
    relay.keys = replace(relay.keys, rsa=RsaSecret.generate())
    net._between[client, relay] = net.connect(client, relay, binding=TLS, expected=relay.keys.identity)[0]
    return net, relay, net.build(client, [relay], targets=[replace(relay.target, ntor_key=b"")])


def test_create_fast_is_answered_on_tls():
    net, relay, circuit = fast_circuit()
    assert circuit.built
    stream, handler = net.open(circuit)
    [(far, heard)] = relay.services.streams
    stream.write(b"question", net.now)
    far.write(b"answer", net.now)
    net.pump()
    assert (heard.received, handler.received) == (b"question", b"answer")


def test_create_fast_is_refused_on_a_transport_that_protects_no_keys():
    net = Net()
    client, relay = net.add("client", relays=False), net.add("relay")
    link = net.other_side(client, net.link_between(client, relay))
    net.pump()
    sent = []
    net.tap = lambda sender, receiver, data: sent.append(data) or data
    net.deliver(relay, link, encode_cell(INITIATOR_ID_BIT | 1, Command.CREATE_FAST, bytes(20)))
    assert sent == [encode_cell(INITIATOR_ID_BIT | 1, Command.DESTROY, bytes([DestroyReason.PROTOCOL]))]
    assert not relay.circuits and link.open


def test_no_create2_leads_to_create_fast():
    """Whoever extends a circuit could else have a relay use keys that the one before it knows."""
    for kind in range(0x10000):
        assert Create2.parse(kind.to_bytes(2, "big") + b"\0\0").handshake_type != HandshakeType.FAST


def test_a_relay_of_the_tor_network_is_named_by_its_rsa_identity_in_ntor():
    keys = NodeKeys.generate(CRYPTO, SeededRng("tor"))
    rsa = RsaSecret.generate()
    assert replace(keys, rsa=rsa).onion.node_id == sha1(rsa.public).digest() != keys.onion.node_id
