"""RSA identities on links of the Tor network (tor-spec "CERTS cells").

Does: verify the self-signed certificate (type 2) and its word for an Ed25519 identity (type 7).
Does not: sign: `ports.RsaIdentity` does.
"""

from __future__ import annotations

from hashlib import sha256

from convergence.crypto.rsa import RsaKey
from convergence.errors import CryptoError
from convergence.wire.certs import SECONDS_PER_HOUR, CrossCert
from convergence.wire.x509 import X509

BITS = 1024
"""Size of every RSA identity: C Tor takes no other."""
EARLY, LATE = 30 * 24 * 3600.0, 48 * 3600.0
"""Seconds before and after its dates that an X.509 certificate still counts, as in C Tor: clocks differ."""
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
"""DigestInfo of SHA-256, all but the digest (RFC 8017, 9.2). X.509 has it, Tor's own signatures do not."""


def check_certificate(data: bytes, now: float) -> RsaKey:
    """The RSA identity whose self-signed certificate this is. Raises RemoteError."""
    cert = X509.parse(data)
    key = RsaKey.parse(cert.key, BITS)
    if not key.verify(cert.signature, _SHA256_INFO + sha256(cert.signed).digest()):
        raise CryptoError("the RSA identity's certificate is not signed by itself")
    if not cert.not_before - EARLY <= now <= cert.not_after + LATE:
        raise CryptoError("the RSA identity's certificate is not valid now")
    return key


def check_cross(data: bytes, key: RsaKey, identity: bytes, now: float) -> None:
    """Prove that an RSA identity vouches for an Ed25519 identity. Raises RemoteError."""
    cross = CrossCert.parse(data)
    if cross.identity != identity:
        raise CryptoError("the RSA identity vouches for another Ed25519 identity")
    if now >= cross.expires * SECONDS_PER_HOUR:
        raise CryptoError("the RSA identity's word for the Ed25519 identity has expired")
    if not key.verify(cross.signature, cross.digest()):
        raise CryptoError("the RSA identity's word for the Ed25519 identity is not signed by it")
