"""Ed25519 certificates (tor cert-spec, "Ed25519 Certificates").

Does: parse, encode, sign and check them with callbacks for the cryptography; likewise the one by which an RSA identity
vouches for an Ed25519 identity (cert-spec "RSA→Ed25519 cross-certificate").
Does not: decide which certificates a link needs (crypto/certificates.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256
from typing import TypeAlias

from convergence.errors import CryptoError, LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Reader

KEY_LEN = 32
SIGNATURE_LEN = 64
CERT_VERSION = 1
SECONDS_PER_HOUR = 3600
EXT_SIGNED_WITH_KEY = 4
AFFECTS_VALIDATION = 1
CROSS_CERT_TAG = b"Tor TLS RSA/Ed25519 cross-certificate"

Sign: TypeAlias = Callable[[bytes], bytes]
"""message -> 64-byte Ed25519 signature."""
Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""(public key, signature, message) -> whether it holds; `Crypto.ed25519_verify` is one."""


class CertType(IntEnum):
    """CERT_TYPE, and CertType in a CERTS cell. 1, 2, 3 and 7 have other formats and exist on the Tor network only."""

    RSA_LINK = 1
    RSA_ID = 2
    RSA_AUTH = 3
    IDENTITY_SIGNING = 4
    SIGNING_LINK = 5
    SIGNING_AUTH = 6
    RSA_ED25519 = 7
    NTOR_IDENTITY = 10
    FAMILY_IDENTITY = 12


class KeyType(IntEnum):
    """CERT_KEY_TYPE. C Tor before 0.4.5.1 always wrote 1, so only CERT_TYPE counts."""

    ED25519 = 1
    RSA_SHA256 = 2
    X509_SHA256 = 3


def hours_of(expires: float) -> int:
    """Unix seconds as certificates give them: hours, rounded up."""
    return -int(-expires // SECONDS_PER_HOUR)


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension, as received."""

    kind: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ed25519Cert:
    """One certificate.

    Args:
        cert_type: what the certificate is for (CertType).
        key: the certified key, or a 32-byte digest of it (see key_type).
        expires: last hour of validity, in hours since the Unix epoch.
        key_type: what `key` is.
        extensions: see `signed_with` for the only one that is known.
        signature: over `body()`; empty while not signed.
    """

    cert_type: int
    key: bytes
    expires: int
    key_type: int = KeyType.ED25519
    extensions: tuple[Extension, ...] = ()
    signature: bytes = b""

    @classmethod
    def issue(
        cls, cert_type: int, key: bytes, expires: float, signer: bytes, sign: Sign, key_type: int = KeyType.ED25519
    ) -> Ed25519Cert:
        """A signed certificate that bundles its signer's public key.

        Args:
            expires: Unix seconds, rounded up to the hour.
        """
        hours = hours_of(expires)
        extensions = (Extension(EXT_SIGNED_WITH_KEY, 0, signer),)
        cert = cls(cert_type, key, hours, key_type, extensions)
        return replace(cert, signature=sign(cert.body()))

    @property
    def signed_with(self) -> bytes | None:
        """The public key that the certificate says it is signed with."""
        for extension in self.extensions:
            if extension.kind == EXT_SIGNED_WITH_KEY:
                return extension.data
        return None

    def body(self) -> bytes:
        """All but the signature, exactly as it was parsed."""
        if len(self.key) != KEY_LEN:
            raise LocalError("a certified key has 32 bytes")
        head = bytes([CERT_VERSION, self.cert_type]) + self.expires.to_bytes(4, "big") + bytes([self.key_type])
        tail = b"".join(
            len(item.data).to_bytes(2, "big") + bytes([item.kind, item.flags]) + item.data for item in self.extensions
        )
        return head + self.key + bytes([len(self.extensions)]) + tail

    def encode(self) -> bytes:
        if len(self.signature) != SIGNATURE_LEN:
            raise LocalError("the certificate is not signed")
        return self.body() + self.signature

    @classmethod
    def parse(cls, data: Buffer) -> Ed25519Cert:
        """Checks neither signature nor date: `check` does. Refuses an unknown extension that affects validity, a second
        signing key, and trailing bytes."""
        reader = Reader(data, "certificate")
        if reader.unsigned(1) != CERT_VERSION:
            raise ParseError("certificate of an unknown version")
        cert_type = reader.unsigned(1)
        expires = reader.unsigned(4)
        key_type = reader.unsigned(1)
        key = reader.take(KEY_LEN)
        extensions = tuple(_read_extension(reader) for _ in range(reader.unsigned(1)))
        if sum(item.kind == EXT_SIGNED_WITH_KEY for item in extensions) > 1:
            raise ParseError("certificate names two signing keys")
        signature = reader.take(SIGNATURE_LEN)
        reader.finish()
        return cls(cert_type, key, expires, key_type, extensions, signature)

    def check(self, signer: bytes, now: float, verify: Verify) -> None:
        """Raises CryptoError unless `signer` signed it, it names no other signer, and it is still valid at `now`."""
        if self.signed_with not in (None, signer):
            raise CryptoError("certificate names another signing key")
        if now >= self.expires * SECONDS_PER_HOUR:
            raise CryptoError("certificate has expired")
        if not verify(signer, self.signature, self.body()):
            raise CryptoError("certificate's signature does not hold")


@dataclass(frozen=True, slots=True)
class CrossCert:
    """An RSA identity's word for an Ed25519 identity: CertType.RSA_ED25519.

    Args:
        identity: the Ed25519 identity, 32 bytes.
        expires: end of its validity, in hours since the Unix epoch.
        signature: PKCS #1 v1.5 over the bare `digest()`; empty while not signed.
    """

    identity: bytes
    expires: int
    signature: bytes = b""

    def digest(self) -> bytes:
        """What is signed, 32 bytes."""
        return sha256(CROSS_CERT_TAG + self._body()).digest()

    def encode(self) -> bytes:
        return self._body() + bytes([len(self.signature)]) + self.signature

    @classmethod
    def parse(cls, data: Buffer) -> CrossCert:
        """Checks neither signature nor date."""
        reader = Reader(data, "cross-certificate")
        identity = reader.take(KEY_LEN)
        expires = reader.unsigned(4)
        signature = reader.take(reader.unsigned(1))
        reader.finish()
        return cls(identity, expires, signature)

    def _body(self) -> bytes:
        return self.identity + self.expires.to_bytes(4, "big")


def _read_extension(reader: Reader) -> Extension:
    size = reader.unsigned(2)
    kind, flags = reader.unsigned(1), reader.unsigned(1)
    data = reader.take(size)
    if kind == EXT_SIGNED_WITH_KEY:
        if size != KEY_LEN:
            raise ParseError("certificate's signing key has a wrong length")
    elif flags & AFFECTS_VALIDATION:
        raise ParseError("certificate depends on an unknown extension")
    return Extension(kind, flags, data)
