"""What the published vector (tests/ports) does not show: which handshakes are refused."""

from __future__ import annotations

import pytest

from convergence.crypto import ntor
from convergence.errors import CryptoError
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
NODE_ID = bytes(range(20))
CURRENT, PREVIOUS = ((CRYPTO.x25519_public(secret), secret) for secret in (b"\1" * 32, b"\2" * 32))
KEYS = (CURRENT, PREVIOUS)


def start(node_key=CURRENT[0], node_id=NODE_ID):
    return ntor.client_start(CRYPTO, b"\3" * 32, node_id, node_key)


def answer(onionskin, keys=KEYS):
    return ntor.server_reply(CRYPTO, b"\4" * 32, NODE_ID, keys, onionskin, 72)


@pytest.mark.parametrize("node_key", [CURRENT[0], PREVIOUS[0]], ids=["current", "previous"])
def test_both_sides_agree_with_the_current_and_the_previous_key(node_key):
    state, onionskin = start(node_key)
    assert len(onionskin) == ntor.ONIONSKIN_LEN == 84
    reply, material = answer(onionskin)
    assert len(reply) == ntor.REPLY_LEN == 64
    assert ntor.client_finish(CRYPTO, state, reply, 72) == material
    assert len(material) == 72


def test_key_material_of_any_length_is_a_prefix_of_the_same_stream():
    state, onionskin = start()
    reply, material = answer(onionskin)
    assert ntor.client_finish(CRYPTO, state, reply, 200)[:72] == material


@pytest.mark.parametrize("keys", [(PREVIOUS,), ()], ids=["other", "none"])
def test_an_onionskin_for_a_key_we_lack_is_refused(keys):
    with pytest.raises(CryptoError):
        answer(start()[1], keys)


def test_an_onionskin_for_another_node_is_refused():
    with pytest.raises(CryptoError):
        answer(start(node_id=bytes(20))[1])


@pytest.mark.parametrize("size", [0, 83, 85])
def test_an_onionskin_of_a_wrong_length_is_refused(size):
    with pytest.raises(CryptoError):
        answer((start()[1] * 2)[:size])


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_reply_of_a_wrong_length_is_refused(size):
    state, onionskin = start()
    with pytest.raises(CryptoError):
        ntor.client_finish(CRYPTO, state, (answer(onionskin)[0] * 2)[:size], 72)


def test_low_order_keys_are_refused_on_both_sides():
    state, onionskin = start()
    with pytest.raises(CryptoError):
        answer(onionskin[:52] + bytes(32))
    with pytest.raises(CryptoError):
        ntor.client_finish(CRYPTO, state, bytes(32) + answer(onionskin)[0][32:], 72)


def test_a_relay_without_the_secret_cannot_answer():
    state, onionskin = start()
    impostor = (CURRENT[0], b"\5" * 32)
    reply, _ = answer(onionskin, [impostor])
    with pytest.raises(CryptoError):
        ntor.client_finish(CRYPTO, state, reply, 72)


def test_the_state_does_not_show_its_secret():
    state, _ = start()
    assert (b"\3" * 32).hex() not in repr(state) and "\\x03" not in repr(state)
