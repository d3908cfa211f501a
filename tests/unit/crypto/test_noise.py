"""What the published vector (tests/ports) does not show: order, limits, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto import noise
from convergence.errors import CryptoError
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
PSK = b"\7" * 32


def pair(psk=PSK, other_psk=PSK, prologue=b"", other_prologue=b""):
    return (
        noise.Handshake(CRYPTO, b"\1" * 32, psk, initiator=True, prologue=prologue),
        noise.Handshake(CRYPTO, b"\2" * 32, other_psk, initiator=False, prologue=other_prologue),
    )


def connected():
    initiator, responder = pair()
    responder.read(initiator.write())
    initiator.read(responder.write())
    return initiator.transport(), responder.transport()


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=30))
def test_what_one_end_sends_the_other_receives(script):
    ends = connected()
    assert ends[0].handshake_hash == ends[1].handshake_hash
    for from_initiator, text in script:
        sender, receiver = ends if from_initiator else ends[::-1]
        assert receiver.receive.decrypt(sender.send.encrypt(text)) == text


def test_handshake_messages_carry_payloads_of_48_bytes_more():
    initiator, responder = pair()
    message = initiator.write(b"hello")
    assert len(message) == 5 + noise.HANDSHAKE_OVERHEAD
    assert responder.read(message) == b"hello"
    assert initiator.read(responder.write(b"world")) == b"world"


def test_another_psk_or_prologue_is_refused_at_the_first_message():
    for initiator, responder in (pair(other_psk=b"\x08" * 32), pair(prologue=b"a", other_prologue=b"b")):
        with pytest.raises(CryptoError):
            responder.read(initiator.write())


@pytest.mark.parametrize("length", [0, 31, 47, 65536])
def test_handshake_messages_of_impossible_lengths_are_refused(length):
    with pytest.raises(CryptoError):
        pair()[1].read(bytes(length))


def test_every_changed_byte_of_a_handshake_message_is_noticed():
    for index in range(48):
        initiator, responder = pair()
        message = bytearray(initiator.write())
        message[index] ^= 1
        with pytest.raises(CryptoError):
            responder.read(bytes(message))


def test_a_low_order_ephemeral_key_is_refused():
    initiator, responder = pair()
    responder.read(initiator.write())
    with pytest.raises(CryptoError):
        initiator.read(bytes(32) + responder.write()[32:])


@pytest.mark.parametrize("steps", [["read"], ["transport"], ["write", "write"], ["write", "transport"]])
def test_steps_out_of_order_are_refused(steps):
    initiator, _ = pair()
    calls = {"read": lambda: initiator.read(bytes(48)), "write": initiator.write, "transport": initiator.transport}
    for step in steps[:-1]:
        calls[step]()
    with pytest.raises(CryptoError):
        calls[steps[-1]]()


def test_after_a_failure_nothing_goes_on():
    initiator, responder = pair()
    responder.read(initiator.write())
    with pytest.raises(CryptoError):
        initiator.read(bytes(48))
    for call in (initiator.transport, lambda: initiator.read(responder.write()), initiator.write):
        with pytest.raises(CryptoError):
            call()


def test_keys_of_a_wrong_length_are_refused():
    for ephemeral, psk in ((bytes(31), PSK), (bytes(32), b"")):
        with pytest.raises(CryptoError):
            noise.Handshake(CRYPTO, ephemeral, psk, initiator=True)


def test_messages_are_refused_out_of_order_twice_or_reflected():
    initiator, responder = connected()
    first, second = initiator.send.encrypt(b"1"), initiator.send.encrypt(b"2")
    for call in (
        lambda: responder.receive.decrypt(second),
        lambda: initiator.receive.decrypt(first),
        lambda: responder.receive.decrypt(first[:15]),
        lambda: responder.receive.decrypt(first, b"other data"),
    ):
        with pytest.raises(CryptoError):
            call()
    assert responder.receive.decrypt(first) == b"1"
    with pytest.raises(CryptoError):
        responder.receive.decrypt(first)
    assert responder.receive.decrypt(second) == b"2"


def test_the_longest_message_is_65535_bytes():
    initiator, responder = connected()
    message = initiator.send.encrypt(bytes(noise.MAX_PLAINTEXT))
    assert len(message) == noise.MAX_MESSAGE == 65535
    assert len(responder.receive.decrypt(message)) == noise.MAX_PLAINTEXT
    with pytest.raises(CryptoError):
        initiator.send.encrypt(bytes(noise.MAX_PLAINTEXT + 1))
    with pytest.raises(CryptoError):
        responder.receive.decrypt(bytes(noise.MAX_MESSAGE + 1))
    with pytest.raises(CryptoError):
        pair()[0].write(bytes(noise.MAX_MESSAGE - noise.HANDSHAKE_OVERHEAD + 1))


def test_the_reserved_nonce_is_never_used():
    last = noise.CipherState(CRYPTO, PSK, nonce=2**64 - 2)
    message = last.encrypt(b"last")
    assert noise.CipherState(CRYPTO, PSK, nonce=2**64 - 2).decrypt(message) == b"last"
    with pytest.raises(CryptoError):
        last.encrypt(b"one more")
    with pytest.raises(CryptoError):
        noise.CipherState(CRYPTO, PSK, nonce=2**64 - 1).decrypt(bytes(16))
