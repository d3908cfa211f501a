"""HPKE (RFC 9180), base mode, one message for each key: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305.

Does: seal bytes to an X25519 key whose owner need not be there to answer, and open them. The sender stays anonymous.
Does not: have other modes, suites or several messages in one context, or draw randomness. Every failure is a
CryptoError.
"""

from __future__ import annotations

from convergence.crypto.kdf import hkdf_expand, hkdf_extract
from convergence.errors import CryptoError
from convergence.ports import Crypto

KEY_LEN = 32
TAG_LEN = 16
NONCE_LEN = 12
OVERHEAD = KEY_LEN + TAG_LEN
"""48: the bytes that sealing adds."""

# Identifiers of section 7: KEM 0x0020, KDF 0x0001, AEAD 0x0003.
_VERSION = b"HPKE-v1"
_KEM = b"KEM\x00\x20"
_SUITE = b"HPKE\x00\x20\x00\x01\x00\x03"
_MODE_BASE = b"\x00"


def seal(crypto: Crypto, ephemeral: bytes, public: bytes, info: bytes, plaintext: bytes, aad: bytes = b"") -> bytes:
    """SealBase (section 6.1): ephemeral public key 32 | ciphertext | tag 16.

    Args:
        ephemeral: 32 fresh random bytes, the ephemeral X25519 secret; used for this message only.
        public: the receiver's X25519 key, 32 bytes.
        info: what the message is for; the receiver must give the same.

    Raises:
        CryptoError: a key is of a wrong length, or `public` is a low-order point.
    """
    _check_key(ephemeral)
    _check_key(public)
    enc = crypto.x25519_public(ephemeral)
    key, nonce = _key_schedule(crypto.x25519(ephemeral, public), enc + public, info)
    return enc + crypto.chacha20poly1305_encrypt(key, nonce, plaintext, aad)


def open_sealed(crypto: Crypto, secret: bytes, info: bytes, sealed: bytes, aad: bytes = b"") -> bytes:
    """OpenBase (section 6.1): the plaintext of what was sealed to the key of `secret` (32 bytes).

    Raises:
        CryptoError: too short, forged, or sealed to another key or for another purpose.
    """
    _check_key(secret)
    if len(sealed) < OVERHEAD:
        raise CryptoError("sealed message too short")
    enc, ciphertext = sealed[:KEY_LEN], sealed[KEY_LEN:]
    key, nonce = _key_schedule(crypto.x25519(secret, enc), enc + crypto.x25519_public(secret), info)
    return crypto.chacha20poly1305_decrypt(key, nonce, ciphertext, aad)


def _check_key(key: bytes) -> None:
    if len(key) != KEY_LEN:
        raise CryptoError("HPKE keys are 32 bytes")


def _key_schedule(shared: bytes, kem_context: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the only message: ExtractAndExpand (section 4.1), then KeySchedule (section 5.1)."""
    shared_secret = _expand(_KEM, _extract(_KEM, b"", b"eae_prk", shared), b"shared_secret", kem_context, KEY_LEN)
    no_psk = _extract(_SUITE, b"", b"psk_id_hash", b"")
    context = _MODE_BASE + no_psk + _extract(_SUITE, b"", b"info_hash", info)
    secret = _extract(_SUITE, shared_secret, b"secret", b"")
    return _expand(_SUITE, secret, b"key", context, KEY_LEN), _expand(_SUITE, secret, b"base_nonce", context, NONCE_LEN)


def _extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    """LabeledExtract (section 4)."""
    return hkdf_extract(salt, _VERSION + suite + label + key)


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand (section 4)."""
    return hkdf_expand(key, length.to_bytes(2, "big") + _VERSION + suite + label + info, length)
