"""What the published vector (tests/ports) does not show: which handshakes are refused, and that nobody hears them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto import ntor_v3
from convergence.errors import CryptoError, ParseError
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
IDENTITY = bytes(range(32))
CURRENT, PREVIOUS = ((CRYPTO.x25519_public(secret), secret) for secret in (b"\1" * 32, b"\2" * 32))
KEYS = (CURRENT, PREVIOUS)
CLIENT_MESSAGE, SERVER_MESSAGE = b"\1\1\0", b"\1\2\1\x1f"


def start(node_key=CURRENT[0], identity=IDENTITY, message=CLIENT_MESSAGE, **verification):
    return ntor_v3.client_start(CRYPTO, b"\3" * 32, identity, node_key, message, **verification)


def answer(onionskin, keys=KEYS, reply=lambda message: SERVER_MESSAGE, crypto=CRYPTO, **verification):
    return ntor_v3.server_reply(crypto, b"\4" * 32, IDENTITY, keys, onionskin, 92, reply, **verification)


def finish(state, reply, crypto=CRYPTO):
    return ntor_v3.client_finish(crypto, state, reply, 92)


class Idle(CPythonCrypto):
    """For what has to be refused before it costs an exponentiation."""

    def x25519(self, secret, public, /):
        pytest.fail("an exponentiation for nothing")


def refuse(onionskin, **arguments):
    """The relay refuses it, and nobody is asked about the message."""
    with pytest.raises(CryptoError):
        answer(
            onionskin, reply=lambda message: pytest.fail("a message that does not authenticate was heard"), **arguments
        )


def altered(data):
    """`data` with one bit flipped in each byte, cut at each place, and with a byte more at each place."""
    rng = random.Random(1)
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        yield data[:at]
        yield data[:at] + b"\0" + data[at:]
    yield data + b"\0"


@pytest.mark.parametrize("node_key", [CURRENT[0], PREVIOUS[0]], ids=["current", "previous"])
def test_both_sides_agree_with_the_current_and_the_previous_key(node_key):
    state, onionskin = start(node_key)
    assert len(onionskin) == ntor_v3.MIN_ONIONSKIN_LEN + len(CLIENT_MESSAGE) == 131
    reply, material = answer(onionskin)
    assert len(reply) == ntor_v3.MIN_REPLY_LEN + len(SERVER_MESSAGE) == 68
    assert finish(state, reply) == (SERVER_MESSAGE, material)
    assert len(material) == 92


@given(st.binary(max_size=400), st.binary(max_size=400), st.binary(max_size=40), st.integers(0, 300))
def test_any_messages_cross_whole(said, replied, verification, size):
    heard = []

    def reply(message):
        heard.append(message)
        return replied

    state, onionskin = start(message=said, verification=verification)
    sent, material = ntor_v3.server_reply(
        CRYPTO, b"\4" * 32, IDENTITY, KEYS, onionskin, size, reply, verification=verification
    )
    assert ntor_v3.client_finish(CRYPTO, state, sent, size) == (replied, material)
    assert heard == [said]
    assert len(material) == size


def test_the_messages_are_not_sent_in_the_clear():
    said, replied = b"what the client says", b"what the relay says"
    _, onionskin = start(message=said)
    reply, _ = answer(onionskin, reply=lambda message: replied)
    assert said not in onionskin and replied not in reply


def test_key_material_of_any_length_is_a_prefix_of_the_same_stream():
    state, onionskin = start()
    reply, material = answer(onionskin)
    assert ntor_v3.client_finish(CRYPTO, state, reply, 200)[1][:92] == material


@pytest.mark.parametrize("keys", [(PREVIOUS,), ()], ids=["other", "none"])
def test_an_onionskin_for_a_key_we_lack_is_refused(keys):
    refuse(start()[1], keys=keys, crypto=Idle())


def test_an_onionskin_for_another_node_is_refused():
    refuse(start(identity=bytes(32))[1], crypto=Idle())


def test_what_is_too_short_is_refused_at_once():
    state, onionskin = start(message=b"")
    reply, _ = answer(onionskin, reply=lambda message: b"")
    for size in range(ntor_v3.MIN_ONIONSKIN_LEN):
        refuse(onionskin[:size], crypto=Idle())
    for size in range(ntor_v3.MIN_REPLY_LEN):
        with pytest.raises(CryptoError):
            finish(state, reply[:size], crypto=Idle())


def test_an_onionskin_that_names_our_key_but_is_made_for_another_is_refused():
    _, onionskin = start(PREVIOUS[0])
    refuse(onionskin[:32] + CURRENT[0] + onionskin[64:])


def test_both_sides_need_the_same_verification_string():
    refuse(start(verification=b"something else")[1])
    state, onionskin = start(verification=b"one")
    reply, _ = answer(onionskin, verification=b"one")
    assert finish(state, reply)[0] == SERVER_MESSAGE
    other, _ = start(verification=b"other")
    with pytest.raises(CryptoError):
        finish(other, reply)


def test_an_onionskin_altered_anywhere_is_refused():
    for onionskin in altered(start()[1]):
        refuse(onionskin)


def test_a_reply_altered_anywhere_is_refused():
    state, onionskin = start()
    for reply in altered(answer(onionskin)[0]):
        with pytest.raises(CryptoError):
            finish(state, reply)


def test_a_reply_to_another_message_is_refused():
    state, _ = start()
    reply, _ = answer(start(message=b"\0")[1])
    with pytest.raises(CryptoError):
        finish(state, reply)


def test_a_relay_may_refuse_what_the_client_says():
    with pytest.raises(CryptoError):
        answer(start()[1], reply=lambda message: None)

    def unreadable(message):
        raise ParseError("no such message")

    with pytest.raises(ParseError):
        answer(start()[1], reply=unreadable)


def test_an_empty_answer_is_no_refusal():
    state, onionskin = start()
    assert finish(state, answer(onionskin, reply=lambda message: b"")[0])[0] == b""


def test_low_order_keys_are_refused_on_both_sides():
    state, onionskin = start()
    refuse(onionskin[:64] + bytes(32) + onionskin[96:])
    with pytest.raises(CryptoError):
        finish(state, bytes(32) + answer(onionskin)[0][32:])
    with pytest.raises(CryptoError):
        start(node_key=bytes(32))


def test_a_relay_without_the_secret_hears_nothing():
    refuse(start()[1], keys=[(CURRENT[0], b"\5" * 32)])


def test_the_state_does_not_show_its_secrets():
    state, _ = start()
    for secret in (state.secret, state.shared):
        assert secret.hex() not in repr(state) and repr(secret)[2:-1] not in repr(state)
