"""RSA identities on links of the Tor network (tor-spec "CERTS cells").

Does: verify the self-signed certificate (type 2) and its word for an Ed25519 identity (type 7), by public arithmetic.
Does not: sign: `ports.RsaIdentity` does.
"""

from __future__ import annotations

from hashlib import sha256

from convergence.errors import CryptoError
from convergence.wire.certs import SECONDS_PER_HOUR, CrossCert
from convergence.wire.x509 import X509, rsa_key

BITS = 1024
"""Size of every RSA identity: C Tor takes no other."""
EXPONENT = 65537
EARLY, LATE = 30 * 24 * 3600.0, 48 * 3600.0
"""Seconds before and after its dates that an X.509 certificate still counts, as in C Tor: clocks differ."""
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
"""DigestInfo of SHA-256, all but the digest (RFC 8017, 9.2)."""


def check_certificate(data: bytes, now: float) -> bytes:
    """The RSA identity (RSAPublicKey, DER) whose self-signed certificate this is. Raises RemoteError."""
    cert = X509.parse(data)
    modulus, exponent = rsa_key(cert.key)
    if modulus.bit_length() != BITS or exponent != EXPONENT:
        raise CryptoError("an RSA identity of another size or exponent than Tor's")
    if not signed_by(cert.key, cert.signature, _SHA256_INFO + sha256(cert.signed).digest()):
        raise CryptoError("the RSA identity's certificate is not signed by itself")
    if not cert.not_before - EARLY <= now <= cert.not_after + LATE:
        raise CryptoError("the RSA identity's certificate is not valid now")
    return cert.key


def check_cross(data: bytes, key: bytes, identity: bytes, now: float) -> None:
    """Prove that an RSA identity (RSAPublicKey, DER) vouches for an Ed25519 identity. Raises RemoteError."""
    cross = CrossCert.parse(data)
    if cross.identity != identity:
        raise CryptoError("the RSA identity vouches for another Ed25519 identity")
    if now >= cross.expires * SECONDS_PER_HOUR:
        raise CryptoError("the RSA identity's word for the Ed25519 identity has expired")
    if not signed_by(key, cross.signature, cross.digest()):
        raise CryptoError("the RSA identity's word for the Ed25519 identity is not signed by it")


def signed_by(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature, PKCS #1 v1.5 (RFC 8017, 8.2.2), is over exactly this message: a bare digest, or DigestInfo
    with it, at least 11 bytes shorter than the modulus."""
    modulus, exponent = rsa_key(key)
    size = (modulus.bit_length() + 7) // 8
    number = int.from_bytes(signature, "big")
    if len(signature) != size or number >= modulus:
        return False
    padded = b"\0\1" + b"\xff" * (size - 3 - len(message)) + b"\0" + message
    return pow(number, exponent, modulus).to_bytes(size, "big") == padded
