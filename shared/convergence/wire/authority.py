"""Key certificates of directory authorities (dir-spec 3.1): an identity key vouches for a signing key.

Does: parse them, alone or several in a row.
Does not: check signatures or dates, or know who is an authority (netdir/consensus.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1

from convergence.errors import ParseError
from convergence.ports import Buffer
from convergence.wire.netdoc import RSA_KEY, SIGNATURE, Document, parse_hex, split

MAX_CERTIFICATE = 16384
"""Bytes of one; real ones have 2,300."""
MAX_CERTIFICATES = 64
"""Certificates in one answer: two of each of 32 authorities."""
START = "dir-key-certificate-version"


@dataclass(frozen=True)
class KeyCertificate:
    """One certificate.

    Args:
        identity_key, signing_key: RSA public keys, PKCS#1 DER.
        published, expires: Unix seconds.
        crosscert: by the signing key, of the SHA-1 of the identity key.
        signed_digest, signature: SHA-1 of the signed part, and the identity key's signature of it.
        data: all of it, as it came.
    """

    identity_key: bytes
    signing_key: bytes
    published: int
    expires: int
    crosscert: bytes
    signed_digest: bytes
    signature: bytes
    data: bytes = field(repr=False)

    @property
    def identity(self) -> bytes:
        """SHA-1 of the identity key: the authority's name, 20 bytes."""
        return sha1(self.identity_key).digest()

    @property
    def signing_digest(self) -> bytes:
        """SHA-1 of the signing key, 20 bytes."""
        return sha1(self.signing_key).digest()

    @classmethod
    def parse(cls, data: Buffer) -> KeyCertificate:
        """Raises ParseError."""
        document = Document(data, "key certificate", MAX_CERTIFICATE)
        if document.first(START).words(1) != ["3"]:
            raise ParseError("a key certificate of an unknown version")
        end = document.last("dir-key-certification", SIGNATURE)
        crosscert = document.one("dir-key-crosscert", "ID SIGNATURE", SIGNATURE)
        found = cls(
            identity_key=document.one("dir-identity-key", RSA_KEY).data,
            signing_key=document.one("dir-signing-key", RSA_KEY).data,
            published=document.one("dir-key-published").date(),
            expires=document.one("dir-key-expires").date(),
            crosscert=crosscert.data,
            signed_digest=sha1(document.through_line(end)).digest(),
            signature=end.data,
            data=bytes(data),
        )
        if parse_hex(document.one("fingerprint").words(1)[0], "a key certificate") != found.identity:
            raise ParseError("a key certificate names another authority than its key")
        return found


def parse_certificates(data: bytes) -> list[KeyCertificate]:
    """Those of an answer of a directory. Raises ParseError if one does not parse, or for more than MAX_CERTIFICATES."""
    return [KeyCertificate.parse(part) for part in split(data, START, MAX_CERTIFICATES)]
