"""Vector: tests/vectors/hpke.json, which says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto.hpke import OVERHEAD, open_sealed, seal
from convergence.errors import CryptoError
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "hpke.json").read_text())
INFO, EPHEMERAL, SECRET, PUBLIC, AAD, PLAINTEXT = (
    bytes.fromhex(VECTOR[name])
    for name in ("info", "ephemeral_secret", "receiver_secret", "receiver_public", "aad", "plaintext")
)
SEALED = bytes.fromhex(VECTOR["ephemeral_public"] + VECTOR["ciphertext"])


def test_the_published_message_is_sealed_and_opened():
    assert seal(CRYPTO, EPHEMERAL, PUBLIC, INFO, PLAINTEXT, AAD) == SEALED
    assert open_sealed(CRYPTO, SECRET, INFO, SEALED, AAD) == PLAINTEXT


@given(*[st.binary(min_size=32, max_size=32)] * 2, *[st.binary(max_size=300)] * 3)
def test_what_was_sealed_is_opened(ephemeral, secret, info, plaintext, aad):
    sealed = seal(CRYPTO, ephemeral, CRYPTO.x25519_public(secret), info, plaintext, aad)
    assert len(sealed) == len(plaintext) + OVERHEAD
    assert open_sealed(CRYPTO, secret, info, sealed, aad) == plaintext


@pytest.mark.parametrize("position", range(len(SEALED)))
def test_a_changed_byte_is_refused(position):
    changed = SEALED[:position] + bytes([SEALED[position] ^ 1]) + SEALED[position + 1 :]
    with pytest.raises(CryptoError):
        open_sealed(CRYPTO, SECRET, INFO, changed, AAD)


@pytest.mark.parametrize(
    ("secret", "info", "aad"),
    [(EPHEMERAL, INFO, AAD), (SECRET, INFO + b"x", AAD), (SECRET, INFO, b"")],
    ids=["key", "purpose", "aad"],
)
def test_another_key_or_purpose_is_refused(secret, info, aad):
    with pytest.raises(CryptoError):
        open_sealed(CRYPTO, secret, info, SEALED, aad)


@pytest.mark.parametrize("sealed", [b"", SEALED[: OVERHEAD - 1], bytes(len(SEALED))], ids=["empty", "short", "low"])
def test_short_messages_and_low_order_keys_are_not_opened(sealed):
    with pytest.raises(CryptoError):
        open_sealed(CRYPTO, SECRET, INFO, sealed, AAD)


@pytest.mark.parametrize(
    ("ephemeral", "public"), [(EPHEMERAL, bytes(32)), (EPHEMERAL, PUBLIC[:31]), (EPHEMERAL[:31], PUBLIC)]
)
def test_nothing_is_sealed_with_bad_keys(ephemeral, public):
    with pytest.raises(CryptoError):
        seal(CRYPTO, ephemeral, public, INFO, PLAINTEXT)


@pytest.mark.parametrize("secret", [b"", SECRET[:31], SECRET + b"x"])
def test_nothing_is_opened_with_a_secret_of_a_wrong_length(secret):
    with pytest.raises(CryptoError):
        open_sealed(CRYPTO, secret, INFO, SEALED, AAD)
