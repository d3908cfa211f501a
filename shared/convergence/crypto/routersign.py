"""Signatures of server descriptors and extra-info documents (dir-spec 2.1; cert-spec; proposal 321).

Does: certify a relay's keys for each other, sign its documents, and check those of others.
Does not: publish them, or hold an RSA key: it signs through a port.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha1, sha256
from typing import TypeVar

from convergence.crypto.blinding import ed25519_of
from convergence.crypto.crosscert import sign_with_ntor
from convergence.crypto.keys import NodeKeys
from convergence.crypto.rsa import RsaKey
from convergence.errors import CryptoError, LocalError, ParseError
from convergence.ports import Crypto, RsaKeyPair
from convergence.wire.certs import SECONDS_PER_HOUR, CertType, Ed25519Cert
from convergence.wire.netdoc import SIGNATURE, encode_object, unpadded
from convergence.wire.routerdesc import ED25519_PREFIX, ExtraInfo, RouterDescriptor, Signatures

RSA_BITS = 1024
"""What a relay's RSA keys have."""

T = TypeVar("T", RouterDescriptor, ExtraInfo)


def sign_descriptor(
    crypto: Crypto,
    keys: NodeKeys,
    rsa: RsaKeyPair,
    descriptor: RouterDescriptor,
    expires: float,
    onion: RsaKeyPair | None = None,
) -> bytes:
    """The signed document of a relay with these keys.

    Args:
        descriptor: what it says; its keys and certificates of keys are filled in.
        expires: Unix seconds, rounded up to the hour: how long its certificates are valid.
        onion: an RSA onion key, of which nobody makes use. Authorities of Tor 0.4.9 still refuse a relay without one.

    Raises:
        LocalError: it would not parse.
    """
    hours = -int(-expires // SECONDS_PER_HOUR)
    crosscert = Ed25519Cert(CertType.NTOR_IDENTITY, keys.identity, hours)
    sign_bit, signature = sign_with_ntor(crypto, keys.ntor_secret, crosscert.body())
    full = replace(
        descriptor,
        identity_cert=_identity_cert(crypto, keys, expires),
        rsa_key=rsa.public,
        ntor_key=keys.ntor_public,
        ntor_cert=replace(crosscert, signature=signature),
        ntor_sign=sign_bit,
        onion_key=onion.public if onion else None,
        onion_crosscert=onion.sign(sha1(rsa.public).digest() + keys.identity) if onion else None,
    )
    return _sign(crypto, keys, rsa, full)


def sign_extra_info(crypto: Crypto, keys: NodeKeys, rsa: RsaKeyPair, info: ExtraInfo, expires: float) -> bytes:
    """The same for an extra-info document; the descriptor then has the `digests` of what this returns, parsed."""
    rsa_identity = sha1(rsa.public).digest()
    return _sign(
        crypto, keys, rsa, replace(info, rsa_identity=rsa_identity, identity_cert=_identity_cert(crypto, keys, expires))
    )


def certify_family(crypto: Crypto, family_seed: bytes, identity: bytes, expires: float) -> Ed25519Cert:
    """A family's certificate that the relay of this Ed25519 identity belongs to it."""
    family = crypto.ed25519_public(family_seed)
    return Ed25519Cert.issue(
        CertType.FAMILY_IDENTITY, identity, expires, family, lambda message: crypto.ed25519_sign(family_seed, message)
    )


def check_descriptor(crypto: Crypto, descriptor: RouterDescriptor, now: float) -> None:
    """Check all signatures and certificates of a parsed descriptor.

    Raises:
        CryptoError: what does not hold, or has expired.
    """
    identity, cert = _check_identity(crypto, descriptor.identity_cert, now)
    rsa_key = RsaKey.parse(descriptor.rsa_key, RSA_BITS)
    _check_signatures(crypto, descriptor.signatures, cert.key, rsa_key)
    _check_cert(
        crypto,
        descriptor.ntor_cert,
        CertType.NTOR_IDENTITY,
        identity,
        ed25519_of(descriptor.ntor_key, descriptor.ntor_sign),
        now,
    )
    for family in descriptor.family_certs:
        if family.signed_with is None:
            raise CryptoError("a family's certificate does not name its family")
        _check_cert(crypto, family, CertType.FAMILY_IDENTITY, identity, family.signed_with, now)
    if descriptor.onion_key is not None:
        onion_key = RsaKey.parse(descriptor.onion_key, RSA_BITS)
        if not onion_key.recover(descriptor.onion_crosscert or b"").startswith(rsa_key.digest + identity):
            raise CryptoError("an onion key vouches for another relay")


def check_extra_info(crypto: Crypto, info: ExtraInfo, rsa_key: RsaKey, now: float) -> None:
    """The same for an extra-info document of the relay with this RSA identity."""
    _, cert = _check_identity(crypto, info.identity_cert, now)
    if rsa_key.digest != info.rsa_identity:
        raise CryptoError("an extra-info document of another relay")
    _check_signatures(crypto, info.signatures, cert.key, rsa_key)


def family_id(cert: Ed25519Cert) -> str:
    """How microdescriptors name the family of a certificate."""
    return f"ed25519:{unpadded(cert.signed_with or b'')}"


def _identity_cert(crypto: Crypto, keys: NodeKeys, expires: float) -> Ed25519Cert:
    return Ed25519Cert.issue(
        CertType.IDENTITY_SIGNING,
        keys.signing,
        expires,
        keys.identity,
        lambda message: crypto.ed25519_sign(keys.identity_seed, message),
    )


def _sign(crypto: Crypto, keys: NodeKeys, rsa: RsaKeyPair, document: RouterDescriptor | ExtraInfo) -> bytes:
    data = document.body() + b"router-sig-ed25519 "
    signature = crypto.ed25519_sign(keys.signing_seed, sha256(ED25519_PREFIX + data).digest())
    data += f"{unpadded(signature)}\nrouter-signature\n".encode()
    data += encode_object(SIGNATURE, rsa.sign(sha1(data).digest())).encode()
    try:
        type(document).parse(data)
    except ParseError as error:
        raise LocalError(f"not a valid document: {error}") from None
    return data


def _check_identity(crypto: Crypto, cert: Ed25519Cert | None, now: float) -> tuple[bytes, Ed25519Cert]:
    """The Ed25519 identity and its certificate for a signing key."""
    if cert is None or cert.cert_type != CertType.IDENTITY_SIGNING or cert.signed_with is None:
        raise CryptoError("a document without the certificate of its identity")
    cert.check(cert.signed_with, now, crypto.ed25519_verify)
    return cert.signed_with, cert


def _check_cert(
    crypto: Crypto, cert: Ed25519Cert | None, kind: CertType, identity: bytes, signer: bytes, now: float
) -> None:
    if cert is None or cert.cert_type != kind or cert.key != identity:
        raise CryptoError(f"a certificate is not of type {int(kind)} for this relay")
    cert.check(signer, now, crypto.ed25519_verify)


def _check_signatures(crypto: Crypto, signatures: Signatures | None, signing: bytes, rsa_key: RsaKey) -> None:
    if signatures is None or not crypto.ed25519_verify(signing, signatures.ed25519, signatures.ed25519_digest):
        raise CryptoError("a document's Ed25519 signature does not hold")
    if not rsa_key.verify(signatures.rsa, signatures.rsa_digest):
        raise CryptoError("a document's RSA signature does not hold")
