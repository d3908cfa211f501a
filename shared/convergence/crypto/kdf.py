"""Key derivation: HKDF with SHA-256, as ntor and Noise use it; and KDF-TOR, which CREATE_FAST uses.

Does: RFC 5869 extract and expand, from the standard library's HMAC; tor-spec's older derivation from SHA-1.
Does not: know what the keys are for.
"""

from __future__ import annotations

import hmac
from hashlib import sha1

HASH_LEN = 32
MAX_OUTPUT = 255 * HASH_LEN  # RFC 5869 section 2.3: the block counter is one byte


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes (RFC 2104)."""
    return hmac.digest(key, message, "sha256")


def hkdf_extract(salt: bytes, key: bytes) -> bytes:
    """Pseudo-random key, 32 bytes (RFC 5869 section 2.2). An empty salt counts as 32 zero bytes."""
    return hmac_sha256(salt or bytes(HASH_LEN), key)


def hkdf_expand(pseudo_random_key: bytes, info: bytes, length: int) -> bytes:
    """`length` bytes of key material, at most MAX_OUTPUT (RFC 5869 section 2.3).

    Raises:
        ValueError: length is not in 0..MAX_OUTPUT.
    """
    if not 0 <= length <= MAX_OUTPUT:
        raise ValueError("HKDF gives 0 to 8160 bytes")
    blocks = [b""]
    for counter in range(1, -(-length // HASH_LEN) + 1):
        blocks.append(hmac_sha256(pseudo_random_key, blocks[-1] + info + bytes((counter,))))
    return b"".join(blocks)[:length]


def kdf_tor(secret: bytes, length: int) -> bytes:
    """KDF-TOR (tor-spec "KDF-TOR"): SHA-1 of the secret and a counter, as many as are needed."""
    rounds = -(-length // 20)
    return b"".join(sha1(secret + bytes([number]), usedforsecurity=False).digest() for number in range(rounds))[:length]


def hkdf_sha256(key: bytes, *, info: bytes, length: int, salt: bytes = b"") -> bytes:
    """Extract, then expand: KDF-RFC5869 of tor-spec with salt = t_key and info = m_expand."""
    return hkdf_expand(hkdf_extract(salt, key), info, length)
