"""RSA keys and X.509 certificates as relays of the Tor network have them.

Does: make a relay's RSA identity, read and write it, sign with it; certify it and the keys of TLS, each by itself, with
random names and dates as C Tor does.
Does not: verify (convergence/crypto/rsa_link.py), or keep files.
"""

from __future__ import annotations

import secrets
from base64 import b32encode
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

IDENTITY_BITS, LINK_BITS = 1024, 2048
"""C Tor takes no RSA identity of another size; its keys of TLS have 2048 bits."""
EXPONENT = 65537
SHORTEST, LONGEST = 5, 365
"""Days that a certificate is valid. It begins in the past, so that it does not tell when this node started."""
LEFT = 2
"""Days at least that a new certificate is still valid."""
RENEWED = timedelta(days=1)
"""What an identity's certificate still has when it is replaced."""
SERIAL_BYTES = 8


class RsaSecret:
    """Implements ports.RsaIdentity."""

    def __init__(self, key: RSAPrivateKey) -> None:
        self.public = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        self._key = key
        self._certificate: x509.Certificate | None = None

    def __repr__(self) -> str:
        return "RsaSecret()"

    @classmethod
    def generate(cls) -> RsaSecret:
        """A new identity."""
        return cls(generate_private_key(EXPONENT, IDENTITY_BITS))

    @classmethod
    def from_pem(cls, pem: bytes) -> RsaSecret:
        """What `pem` wrote, or C Tor as keys/secret_id_key.

        Raises:
            ValueError: it is no such key.
        """
        key = load_pem_private_key(pem, None)
        if not isinstance(key, RSAPrivateKey) or key.key_size != IDENTITY_BITS:
            raise ValueError(f"an RSA identity has {IDENTITY_BITS} bits")
        return cls(key)

    def pem(self) -> bytes:
        """The secret key (PKCS #1)."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def sign(self, digest: bytes, /) -> bytes:
        return self._key.sign(digest, PKCS1v15(), NoDigestInfo())

    def certificate(self, now: float, /) -> bytes:
        moment, kept = datetime.fromtimestamp(now, UTC), self._certificate
        if kept is None or not kept.not_valid_before_utc <= moment < kept.not_valid_after_utc - RENEWED:
            kept = self._certificate = certify(self._key, moment)
        return kept.public_bytes(Encoding.DER)


def link_key() -> tuple[RSAPrivateKey, x509.Certificate]:
    """A new key for the TLS of links, and its certificate."""
    key = generate_private_key(EXPONENT, LINK_BITS)
    return key, certify(key, datetime.now(UTC))


def certify(key: RSAPrivateKey, now: datetime) -> x509.Certificate:
    """A certificate that is signed with the key itself."""
    days = SHORTEST + secrets.randbelow(LONGEST - SHORTEST)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    begin = today - timedelta(days=secrets.randbelow(days - LEFT))
    return (
        x509.CertificateBuilder()
        .subject_name(_name(".net"))
        .issuer_name(_name(".com"))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(secrets.token_bytes(SERIAL_BYTES), "big") >> 1 | 1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )


def random_host(suffix: str) -> str:
    """A name that nobody has, as C Tor makes them: www., 8 to 20 letters and digits, and a suffix."""
    length = 8 + secrets.randbelow(13)
    return f"www.{b32encode(secrets.token_bytes(length)).decode()[:length].lower()}{suffix}"


def _name(suffix: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, random_host(suffix))])
