"""RSA public keys and signature checks as Tor's directory has them (dir-spec 1.3, tor-spec 0.3).

Does: read keys (PKCS#1 DER), name them, check signatures. All of it is public, so `pow` will do.
Does not: sign: `ports.RsaKeyPair` does.

A signature is PKCS#1 v1.5 with a bare digest in it: no DigestInfo says which hash it is of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1

from convergence.errors import CryptoError, ParseError
from convergence.wire.der import SEQUENCE, Der

MIN_BITS = 1024
"""Relays' identities have that many, authorities' keys more."""
MAX_BITS = 4096
EXPONENT = 65537
"""The only one that Tor accepts."""
_MIN_PADDING = 8


@dataclass(frozen=True)
class RsaKey:
    """A public key of MIN_BITS to MAX_BITS."""

    der: bytes
    modulus: int

    @classmethod
    def parse(cls, der: bytes, bits: int | None = None) -> RsaKey:
        """From a PKCS#1 RSAPublicKey. `bits`: how many it must have.

        Raises:
            ParseError: it is none in DER, or of a size or exponent that Tor does not use.
        """
        outer = Der(der, "RSA key")
        body = Der(outer.content(SEQUENCE), "RSA key")
        outer.finish()
        modulus, exponent = body.natural(), body.natural()
        body.finish()
        size = modulus.bit_length()
        if not MIN_BITS <= size <= MAX_BITS or bits not in (None, size):
            raise ParseError(f"an RSA key of {size} bits")
        if exponent != EXPONENT or not modulus & 1:
            raise ParseError("an RSA key with an exponent or modulus that cannot be")
        return cls(der, modulus)

    @cached_property
    def digest(self) -> bytes:
        """SHA-1 of the DER, 20 bytes: the key's name, in hex its fingerprint."""
        return sha1(self.der).digest()

    def recover(self, signature: bytes) -> bytes:
        """What was signed. Raises CryptoError if the padding is not that of PKCS#1 v1.5."""
        size = (self.modulus.bit_length() + 7) // 8
        number = int.from_bytes(signature, "big")
        if len(signature) != size or number >= self.modulus:
            raise CryptoError("an RSA signature of a wrong size")
        message = pow(number, EXPONENT, self.modulus).to_bytes(size, "big")
        padding, zero, signed = message[2:].partition(b"\0")
        if message[:2] != b"\0\1" or not zero or len(padding) < _MIN_PADDING or padding.strip(b"\xff"):
            raise CryptoError("an RSA signature without valid padding")
        return signed

    def verify(self, signature: bytes, digest: bytes) -> bool:
        """Whether the signature is of exactly this digest."""
        try:
            return self.recover(signature) == digest
        except CryptoError:
            return False
