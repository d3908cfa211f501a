"""The certificate chain of a link (tor cert-spec; tor-spec "CERTS cells").

Does: issue and check identity -> signing (type 4), signing -> this connection (type 5), signing -> authentication
key (type 6); on TLS also the RSA identity (type 2), and RSA identity -> identity (type 7). All but type 2 are made for
one connection and live LIFETIME.
Does not: know cells or their order.

On transports that are not TLS, type 5 certifies the digest of the transport's binding in place of a TLS certificate.
"""

from __future__ import annotations

from dataclasses import replace

from convergence.crypto import rsa_link
from convergence.crypto.keys import NodeKeys
from convergence.crypto.rsa import RsaKey
from convergence.errors import CryptoError
from convergence.ports import Binding, Crypto, RsaIdentity
from convergence.wire.certs import CertType, CrossCert, Ed25519Cert, KeyType, hours_of
from convergence.wire.handshake import Certs

LIFETIME = 24 * 3600.0
"""Seconds that a link's certificates are valid."""


def issue(
    crypto: Crypto,
    keys: NodeKeys,
    now: float,
    *,
    binding: Binding | None,
    auth_key: bytes | None,
    rsa: RsaIdentity | None = None,
) -> Certs:
    """What one side sends in CERTS.

    Args:
        binding: the transport's, certified by a responder.
        auth_key: public key (32 bytes) that will sign AUTHENTICATE, certified by an initiator.
        rsa: what vouches for the identity on TLS.
    """

    def by_identity(message: bytes) -> bytes:
        return crypto.ed25519_sign(keys.identity_seed, message)

    def by_signing(message: bytes) -> bytes:
        return crypto.ed25519_sign(keys.signing_seed, message)

    expires = now + LIFETIME
    certs = [Ed25519Cert.issue(CertType.IDENTITY_SIGNING, keys.signing, expires, keys.identity, by_identity)]
    if binding is not None:
        certs.append(
            Ed25519Cert.issue(
                CertType.SIGNING_LINK, binding.digest, expires, keys.signing, by_signing, KeyType.X509_SHA256
            )
        )
    if auth_key is not None:
        certs.append(Ed25519Cert.issue(CertType.SIGNING_AUTH, auth_key, expires, keys.signing, by_signing))
    encoded = [(int(cert.cert_type), cert.encode()) for cert in certs]
    if rsa is not None:
        cross = CrossCert(keys.identity, hours_of(expires))
        cross = replace(cross, signature=rsa.sign(cross.digest()))
        encoded += [(CertType.RSA_ID, rsa.certificate(now)), (CertType.RSA_ED25519, cross.encode())]
    return Certs(tuple(encoded))


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


def check_rsa(certs: Certs, identity: bytes, now: float) -> RsaKey:
    """The RSA identity that vouches for this Ed25519 identity. Anybody can replay this, too.

    Raises:
        RemoteError: a certificate is missing or does not verify.
    """
    key = rsa_link.check_certificate(_data(certs, CertType.RSA_ID), now)
    rsa_link.check_cross(_data(certs, CertType.RSA_ED25519), key, identity, now)
    return key


def check_link(crypto: Crypto, certs: Certs, signing: bytes, binding: Binding, now: float) -> None:
    """Prove that the responder's signing key vouches for this very connection. Raises CryptoError."""
    cert = _get(certs, CertType.SIGNING_LINK)
    cert.check(signing, now, crypto.ed25519_verify)
    if cert.key != binding.digest:
        raise CryptoError("the certificate is for another connection")


def check_auth(crypto: Crypto, certs: Certs, signing: bytes, now: float) -> bytes:
    """The initiator's certified authentication key (32 bytes). Raises CryptoError."""
    cert = _get(certs, CertType.SIGNING_AUTH)
    cert.check(signing, now, crypto.ed25519_verify)
    return cert.key


def _get(certs: Certs, cert_type: CertType) -> Ed25519Cert:
    cert = Ed25519Cert.parse(_data(certs, cert_type))
    if cert.cert_type != cert_type:
        raise CryptoError("a certificate is not of the type that CERTS says")
    return cert


def _data(certs: Certs, cert_type: CertType) -> bytes:
    data = certs.get(cert_type)
    if data is None:
        raise CryptoError(f"CERTS lacks the certificate of type {int(cert_type)}")
    return data
