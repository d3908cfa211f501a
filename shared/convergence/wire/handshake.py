"""Cells of the link handshake (tor-spec, "Negotiating and initializing connections").

Does: parse and encode VERSIONS, CERTS, AUTH_CHALLENGE, AUTHENTICATE (AUTH0003) and NETINFO payloads.
Does not: know their order, or verify anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.certs import SIGNATURE_LEN, Sign
from convergence.wire.reader import Reader

LINK_VERSIONS = (4, 5)
"""Link protocols we speak."""
AUTH_ED25519_SHA256_RFC5705 = 3
AUTH_TYPE_TAG = b"AUTH0003"
EXPORTER_LABEL = b"EXPORTER FOR TOR TLS CLIENT BINDING " + AUTH_TYPE_TAG
"""Label of the TLS exporter (RFC 5705) that gives `tls_secrets`."""
CHALLENGE_LEN = 32
HASH_LEN = 32
RAND_LEN = 24
ADDRESS_LENGTHS = {4: 4, 6: 16}
"""ATYPE -> ALEN of NETINFO."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Link protocols a side offers."""

    versions: tuple[int, ...] = LINK_VERSIONS

    def encode(self) -> bytes:
        return b"".join(version.to_bytes(2, "big") for version in self.versions)

    @classmethod
    def parse(cls, payload: Buffer) -> Versions:
        if len(payload) % 2:
            raise ParseError("VERSIONS of an odd length")
        reader = Reader(payload, "VERSIONS")
        return cls(tuple(reader.unsigned(2) for _ in range(len(payload) // 2)))

    def common(self, other: Versions) -> int | None:
        """The highest version both offer, if there is one."""
        return max(set(self.versions) & set(other.versions), default=None)


@dataclass(frozen=True, slots=True)
class Certs:
    """Certificates as (CertType, bytes), at most one of each type; bytes after them are ignored."""

    certs: tuple[tuple[int, bytes], ...]

    def get(self, cert_type: int) -> bytes | None:
        return dict(self.certs).get(cert_type)

    def encode(self) -> bytes:
        items = (bytes([kind]) + len(cert).to_bytes(2, "big") + cert for kind, cert in self.certs)
        return bytes([len(self.certs)]) + b"".join(items)

    @classmethod
    def parse(cls, payload: Buffer) -> Certs:
        reader = Reader(payload, "CERTS")
        certs: dict[int, bytes] = {}
        for _ in range(reader.unsigned(1)):
            kind = reader.unsigned(1)
            cert = reader.take(reader.unsigned(2))
            if kind in certs:
                raise ParseError("CERTS holds two certificates of one type")
            certs[kind] = cert
        return cls(tuple(certs.items()))


@dataclass(frozen=True, slots=True)
class AuthChallenge:
    """What an initiator signs to authenticate, and the methods the responder accepts. Bytes after it are ignored."""

    challenge: bytes
    methods: tuple[int, ...] = (AUTH_ED25519_SHA256_RFC5705,)

    def encode(self) -> bytes:
        if len(self.challenge) != CHALLENGE_LEN:
            raise LocalError("a challenge has 32 bytes")
        methods = b"".join(method.to_bytes(2, "big") for method in self.methods)
        return self.challenge + len(self.methods).to_bytes(2, "big") + methods

    @classmethod
    def parse(cls, payload: Buffer) -> AuthChallenge:
        reader = Reader(payload, "AUTH_CHALLENGE")
        challenge = reader.take(CHALLENGE_LEN)
        count = reader.unsigned(2)
        methods = Reader(reader.take(2 * count), "AUTH_CHALLENGE")
        return cls(challenge, tuple(methods.unsigned(2) for _ in range(count)))


@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTHENTICATE of type 3, Ed25519-SHA256-RFC5705.

    Args:
        cid, sid: SHA-256 of the initiator's and responder's RSA identity (zeros where a network has none).
        cid_ed, sid_ed: their Ed25519 identities.
        slog, clog: SHA-256 of what the responder sent up to AUTH_CHALLENGE, and of what the initiator sent up to CERTS.
        scert: SHA-256 of the responder's TLS certificate.
        tls_secrets: 32 bytes of the TLS exporter with EXPORTER_LABEL; its context is `cid`, as in C Tor.
        rand: 24 random bytes.
        extra: signed bytes after `rand`, to be ignored.
        signature: by the initiator's authentication key over `signed_part()`; empty while not signed.
    """

    cid: bytes
    sid: bytes
    cid_ed: bytes
    sid_ed: bytes
    slog: bytes
    clog: bytes
    scert: bytes
    tls_secrets: bytes
    rand: bytes
    extra: bytes = b""
    signature: bytes = b""

    def signed_part(self) -> bytes:
        """The tag and all fields before the signature."""
        hashes = (self.cid, self.sid, self.cid_ed, self.sid_ed, self.slog, self.clog, self.scert, self.tls_secrets)
        if any(len(item) != HASH_LEN for item in hashes) or len(self.rand) != RAND_LEN:
            raise LocalError("a field of AUTHENTICATE has a wrong length")
        return AUTH_TYPE_TAG + b"".join(hashes) + self.rand + self.extra

    def sign(self, sign: Sign) -> Authenticate:
        """A signed copy."""
        return replace(self, signature=sign(self.signed_part()))

    def encode(self) -> bytes:
        if len(self.signature) != SIGNATURE_LEN:
            raise LocalError("AUTHENTICATE is not signed")
        body = self.signed_part() + self.signature
        return AUTH_ED25519_SHA256_RFC5705.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body

    @classmethod
    def parse(cls, payload: Buffer) -> Authenticate:
        """Bytes after the Authentication field are ignored."""
        outer = Reader(payload, "AUTHENTICATE")
        if outer.unsigned(2) != AUTH_ED25519_SHA256_RFC5705:
            raise ParseError("AUTHENTICATE of an unknown type")
        reader = Reader(outer.take(outer.unsigned(2)), "AUTHENTICATE")
        if reader.take(len(AUTH_TYPE_TAG)) != AUTH_TYPE_TAG:
            raise ParseError("AUTHENTICATE without its tag")
        cid, sid, cid_ed, sid_ed, slog, clog, scert, tls_secrets = (reader.take(HASH_LEN) for _ in range(8))
        rand = reader.take(RAND_LEN)
        extra = reader.take(max(reader.left - SIGNATURE_LEN, 0))
        signature = reader.take(SIGNATURE_LEN)
        return cls(cid, sid, cid_ed, sid_ed, slog, clog, scert, tls_secrets, rand, extra, signature)


@dataclass(frozen=True, slots=True)
class Netinfo:
    """Time and addresses. None stands for an address of unknown type or wrong length.

    Args:
        timestamp: Unix seconds; clients send 0, so as not to stand out.
        other_address: the receiver's address, as the sender sees it.
        my_addresses: the sender's own addresses, as it gives them.
    """

    timestamp: int = 0
    other_address: str | None = None
    my_addresses: tuple[str | None, ...] = ()

    def encode(self) -> bytes:
        head = self.timestamp.to_bytes(4, "big") + _encode_addresses([self.other_address])
        return head + bytes([len(self.my_addresses)]) + _encode_addresses(self.my_addresses)

    @classmethod
    def parse(cls, payload: Buffer) -> Netinfo:
        """Bytes after the last address are ignored."""
        reader = Reader(payload, "NETINFO")
        timestamp = reader.unsigned(4)
        other = _read_address(reader)
        return cls(timestamp, other, tuple(_read_address(reader) for _ in range(reader.unsigned(1))))


def _encode_addresses(addresses: Iterable[str | None]) -> bytes:
    data = b""
    for text in addresses:
        if text is None:
            data += b"\0\0"
        else:
            address = ip_address(text)
            data += bytes([address.version, len(address.packed)]) + address.packed
    return data


def _read_address(reader: Reader) -> str | None:
    kind = reader.unsigned(1)
    value = reader.take(reader.unsigned(1))
    return str(ip_address(value)) if ADDRESS_LENGTHS.get(kind) == len(value) else None
