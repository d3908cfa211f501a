"""The certificate chain of a link (tor cert-spec; tor-spec "CERTS cells").

Does: issue and check identity -> signing (type 4), signing -> this connection (type 5), signing -> authentication
key (type 6). All three are made for one connection and live LIFETIME.
Does not: know cells or their order.

On transports that are not TLS, type 5 certifies the digest of the transport's binding in place of a TLS certificate.
"""

from __future__ import annotations

from hashlib import sha256

from convergence.crypto.keys import NodeKeys
from convergence.errors import CryptoError
from convergence.ports import Crypto
from convergence.wire.certs import CertType, Ed25519Cert, KeyType
from convergence.wire.handshake import Certs

LIFETIME = 24 * 3600.0
"""Seconds that a link's certificates are valid."""


def binding_digest(binding: bytes) -> bytes:
    """The 32 bytes that stand for a connection, from its binding (any length)."""
    return sha256(b"convergence:binding" + binding).digest()


def issue(crypto: Crypto, keys: NodeKeys, now: float, *, binding: bytes | None, auth_key: bytes | None) -> Certs:
    """What one side sends in CERTS.

    Args:
        binding: the transport's, certified by a responder.
        auth_key: public key (32 bytes) that will sign AUTHENTICATE, certified by an initiator.
    """

    def by_identity(message: bytes) -> bytes:
        return crypto.ed25519_sign(keys.identity_seed, message)

    def by_signing(message: bytes) -> bytes:
        return crypto.ed25519_sign(keys.signing_seed, message)

    expires = now + LIFETIME
    certs = [Ed25519Cert.issue(CertType.IDENTITY_SIGNING, keys.signing, expires, keys.identity, by_identity)]
    if binding is not None:
        digest = binding_digest(binding)
        certs.append(
            Ed25519Cert.issue(CertType.SIGNING_LINK, digest, expires, keys.signing, by_signing, KeyType.X509_SHA256)
        )
    if auth_key is not None:
        certs.append(Ed25519Cert.issue(CertType.SIGNING_AUTH, auth_key, expires, keys.signing, by_signing))
    return Certs(tuple((cert.cert_type, cert.encode()) for cert in certs))


def check_identity(crypto: Crypto, certs: Certs, now: float) -> tuple[bytes, bytes]:
    """The claimed identity and its signing key, 32 bytes each. Anybody can replay this certificate.

    Raises:
        CryptoError: it is missing or does not verify.
    """
    cert = _get(certs, CertType.IDENTITY_SIGNING)
    identity = cert.signed_with
    if identity is None:
        raise CryptoError("the identity certificate does not name its identity")
    cert.check(identity, now, crypto.ed25519_verify)
    return identity, cert.key


def check_link(crypto: Crypto, certs: Certs, signing: bytes, binding: bytes, now: float) -> None:
    """Prove that the responder's signing key vouches for this very connection. Raises CryptoError."""
    cert = _get(certs, CertType.SIGNING_LINK)
    cert.check(signing, now, crypto.ed25519_verify)
    if cert.key != binding_digest(binding):
        raise CryptoError("the certificate is for another connection")


def check_auth(crypto: Crypto, certs: Certs, signing: bytes, now: float) -> bytes:
    """The initiator's certified authentication key (32 bytes). Raises CryptoError."""
    cert = _get(certs, CertType.SIGNING_AUTH)
    cert.check(signing, now, crypto.ed25519_verify)
    return cert.key


def _get(certs: Certs, cert_type: CertType) -> Ed25519Cert:
    data = certs.get(cert_type)
    if data is None:
        raise CryptoError(f"CERTS lacks the certificate of type {int(cert_type)}")
    cert = Ed25519Cert.parse(data)
    if cert.cert_type != cert_type:
        raise CryptoError("a certificate is not of the type that CERTS says")
    return cert
