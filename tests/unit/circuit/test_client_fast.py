"""CREATE_FAST: a circuit of one hop to a directory whose onion key is not known (tor-spec "CREATE_FAST")."""

from dataclasses import replace
from hashlib import sha1

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from convergence.circuit.client import ClientCircuit
from convergence.circuit.hop import FastClient
from convergence.crypto.onion import HopKeys
from convergence.errors import CryptoError, DestroyReason, EndReason, LocalError
from convergence.events import CircuitBroken
from convergence.wire.cells import PAYLOAD_LEN, Command
from convergence.wire.create import FAST_LEN, Created2
from convergence.wire.relay import RelayCommand, pack_message, unpack_message
from tests.unit.circuit.rig import CRYPTO, Net, Recorder, SeededRng, cell

Y = bytes(range(FAST_LEN))


def material(x):
    """KDF-TOR by hand: KH | Df | Db | Kf | Kb."""
    return b"".join(sha1(x + Y + bytes([number])).digest() for number in range(5))[:92]


def answer(x):
    return Y + material(x)[:FAST_LEN]


class Scene:
    """A client and the far end of its link, where the test speaks for the directory."""

    def __init__(self, proven=True):
        self.net = Net()
        self.client = self.net.add("client", relays=False)
        [self.relay] = self.net.relays(1)
        if proven:
            self.net.prove(self.client, self.relay)
        self.link = self.net.link_between(self.client, self.relay)
        self.net.pump()
        self.sent = []  # cells of the client
        self.net.tap = self._tap

    def _tap(self, sender, receiver, data):
        if sender is self.client:
            self.sent.append(data)
            return b""
        return data

    def build(self, *targets):
        return self.net.build(self.client, [self.relay], targets=targets or [replace(self.relay.target, ntor_key=b"")])

    def say(self, circuit, command, payload):
        self.net.deliver(self.client, self.link, cell(circuit.id, command, payload))

    @property
    def x(self):
        """Of the CREATE_FAST that was sent."""
        [data] = self.sent
        assert data[4] == Command.CREATE_FAST and not any(data[5 + FAST_LEN :])
        return data[5 : 5 + FAST_LEN]


def test_both_ends_have_the_same_keys():
    scene = Scene()
    circuit = scene.build()
    keys = HopKeys.from_material(CRYPTO, material(scene.x)[FAST_LEN:])
    scene.say(circuit, Command.CREATED_FAST, answer(scene.x))
    assert circuit.built and circuit.hops_built == 1
    scene.sent.clear()
    handler = Recorder()
    handler.pipe = circuit.open_directory(handler, scene.net.now)
    scene.net.pump()
    [data] = scene.sent
    assert data[4] == Command.RELAY
    [begin], _ = keys.forward.accept_all(keys.forward.crypt(data[5:]))
    command, stream_id, body = unpack_message(begin)
    assert (command, body) == (RelayCommand.BEGIN_DIR, b"") and stream_id != 0
    for command, body in ((RelayCommand.CONNECTED, b""), (RelayCommand.DATA, b"HTTP/1.0 200 OK\r\n")):
        sealed = keys.backward.crypt(keys.backward.seal(pack_message(command, stream_id, body)))
        scene.say(circuit, Command.RELAY, sealed)
    assert handler.calls == ["opened"] and handler.received == b"HTTP/1.0 200 OK\r\n"
    circuit.destroy(DestroyReason.FINISHED, scene.net.now)
    assert handler.reason == EndReason.DESTROY


def test_the_keys_are_those_of_the_specification():
    fast = FastClient(CRYPTO, SeededRng("fast"))
    hop = fast.finish(answer(fast.onionskin))
    forward_key = material(fast.onionskin)[60:76]
    keystream = Cipher(algorithms.AES(forward_key), modes.CTR(bytes(16))).encryptor()
    assert hop.keys.forward.crypt(bytes(PAYLOAD_LEN)) == keystream.update(bytes(PAYLOAD_LEN))


def test_each_circuit_has_another_secret():
    scene = Scene()
    scene.build()
    first = scene.x
    scene.sent.clear()
    scene.build()
    assert scene.x != first


@pytest.mark.parametrize("wrong", range(2 * FAST_LEN))
def test_an_answer_that_does_not_prove_the_keys_closes(wrong):
    fast = FastClient(CRYPTO, SeededRng("fast"))
    reply = bytearray(answer(fast.onionskin))
    reply[wrong] ^= 1
    with pytest.raises(CryptoError, match="does not prove"):
        fast.finish(bytes(reply))


@pytest.mark.parametrize("length", [0, 1, 20, 39, 41, 64])
def test_an_answer_of_another_length_is_refused(length):
    fast = FastClient(CRYPTO, SeededRng("fast"))
    with pytest.raises(CryptoError, match="length"):
        fast.finish((answer(fast.onionskin) + bytes(64))[:length])


@pytest.mark.parametrize("known", [True, False], ids=["CREATED_FAST for CREATE2", "CREATED2 for CREATE_FAST"])
def test_the_answer_to_another_handshake_closes(known):
    scene = Scene()
    circuit = scene.build(scene.relay.target) if known else scene.build()
    reply = (Command.CREATED_FAST, bytes(40)) if known else (Command.CREATED2, Created2(answer(scene.x)).encode())
    scene.say(circuit, *reply)
    assert circuit.gone == [DestroyReason.PROTOCOL] and scene.link.open
    [event] = [event for event in scene.client.events if isinstance(event, CircuitBroken)]
    assert event.reason == "CREATED_FAST in answer to CREATE2, or the reverse"


@pytest.mark.parametrize("payload", [bytes(40), bytes(PAYLOAD_LEN), b"\xff" * PAYLOAD_LEN, bytes(20)])
def test_garbage_closes(payload):
    scene = Scene()
    circuit = scene.build()
    scene.say(circuit, Command.CREATED_FAST, payload)
    assert circuit.gone == [DestroyReason.PROTOCOL] and circuit.closed


def test_created_fast_twice_closes():
    scene = Scene()
    circuit = scene.build()
    for _ in range(2):
        scene.say(circuit, Command.CREATED_FAST, answer(scene.x) if len(scene.sent) == 1 else bytes(40))
    assert circuit.gone == [DestroyReason.PROTOCOL]


def test_never_over_a_link_that_is_not_authenticated():
    scene = Scene(proven=False)
    assert scene.link.open and not scene.link.handshake.authenticated
    with pytest.raises(LocalError, match="authenticated link"):
        scene.build()
    assert scene.sent == [] and not scene.link.circuits


@pytest.mark.parametrize("without", [(0,), (1,), (0, 1)])
def test_never_for_more_than_one_hop(without):
    scene = Scene()
    targets = [scene.relay.target, scene.net.add("far").target]
    for index in without:
        targets[index] = replace(targets[index], ntor_key=b"")
    with pytest.raises(LocalError, match="only hop"):
        scene.build(*targets)
    assert scene.sent == [] and not scene.link.circuits


@pytest.mark.parametrize("fast", [True, False], ids=["first hop", "second hop"])
def test_a_circuit_with_a_relay_whose_key_is_not_known_is_not_extended(fast):
    scene = Scene()
    other = scene.net.add("far").target
    if fast:
        circuit = scene.build()
        scene.say(circuit, Command.CREATED_FAST, answer(scene.x))
    else:
        scene.net.tap = None
        circuit = scene.build(scene.relay.target)
        other = replace(other, ntor_key=b"")
    assert circuit.built
    with pytest.raises(LocalError, match="only hop"):
        circuit.extend(other, lambda circuit, now: None, scene.net.now)
    assert circuit.built and len(circuit.path) == 1


def test_no_stream_to_a_directory_before_the_circuit_stands():
    scene = Scene()
    circuit = scene.build()
    with pytest.raises(LocalError):
        circuit.open_directory(Recorder(), scene.net.now)
    assert isinstance(circuit, ClientCircuit) and not circuit.in_use
