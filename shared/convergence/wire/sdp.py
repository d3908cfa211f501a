"""What the two sides of an RTC channel tell each other: compact records made from SDP, and SDP from checked records.

Does: take from SDP what a connection with one data channel needs (RFC 8829, RFC 8839, RFC 8842), encode and parse it,
and write SDP from a template. Another node's SDP never reaches a platform: only checked values do.
Does not: negotiate, or keep what is of no use here: media, TCP, relayed candidates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address

from convergence.effects import DescriptionKind
from convergence.errors import ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Reader

MAX_SDP = 32 * 1024
"""Longest SDP that is read, in characters; browsers write about 500, and 110 more for each candidate."""
MAX_CANDIDATES = 16
"""Candidates in one record."""
MAX_PRIORITY = 2**31 - 1
FINGERPRINT_LEN = 32
MIN_UFRAG = 4
MIN_PASSWORD = 22
MAX_ICE_TEXT = 256
MAX_CANDIDATE = 1 + 1 + 4 + 4 + 2 + 16
MAX_DESCRIPTION = 1 + FINGERPRINT_LEN + 2 * (2 + MAX_ICE_TEXT) + 1 + MAX_CANDIDATES * MAX_CANDIDATE
"""998 bytes; a browser's description takes about 120."""

_PRINTABLE = re.compile(r"[\x20-\x7e\n]*")
_MEDIA = re.compile(r"application [0-9]{1,5} UDP/DTLS/SCTP webrtc-datachannel")
_ICE_TEXT = re.compile(r"[A-Za-z0-9+/]+")
_SHA256 = re.compile(r"sha-256 ((?:[0-9a-f]{2}:){31}[0-9a-f]{2})", re.IGNORECASE | re.ASCII)
_CANDIDATE = re.compile(
    r"(?P<foundation>[a-z0-9+/]{1,32}) 1 udp (?P<priority>[0-9]{1,10}) (?P<address>[0-9a-z.:-]{1,64}) "
    r"(?P<port>[0-9]{1,5}) typ (?P<type>host|srflx)(?: .*)?",
    re.IGNORECASE | re.ASCII,
)
_MDNS_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})\.local")
_U32 = re.compile(r"0|[1-9][0-9]{0,9}")

_TEMPLATE = """\
v=0
o=- 1 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:{ufrag}
a=ice-pwd:{password}
a=ice-options:trickle
a=fingerprint:sha-256 {fingerprint}
a=setup:{setup}
a=mid:0
a=sctp-port:5000
a=max-message-size:262144
""".replace("\n", "\r\n")


class Setup(IntEnum):
    """Who begins the DTLS handshake (RFC 8842): an offer leaves it open, an answer decides."""

    ACTPASS = 0
    ACTIVE = 1
    PASSIVE = 2


class CandidateType(IntEnum):
    """Where the address comes from: the sender's own interface, or a STUN server."""

    HOST = 0
    SRFLX = 1


class Family(IntEnum):
    """What an encoded address is: 4 bytes, 16 bytes, or the 16 bytes of a name's UUID."""

    IPV4 = 0
    IPV6 = 1
    MDNS = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A UDP address where the sender may be reached.

    Args:
        foundation: u32; equal for candidates that are likely to work or to fail together.
        priority: 1 to 2**31 - 1.
        address: IPv4 or IPv6 address, or "<uuid>.local", a name that the sender's own network resolves.
        port: 1-65535.
    """

    type: CandidateType
    foundation: int
    priority: int
    address: str = field(repr=False)
    port: int = field(repr=False)

    @classmethod
    def from_line(cls, line: str) -> Candidate | None:
        """From "candidate:..."; None for one that cannot serve: TCP, relayed, loopback, malformed."""
        name, _, value = line.partition(":")
        match = _CANDIDATE.fullmatch(value)
        if name != "candidate" or match is None:
            return None
        try:
            return cls(
                CandidateType[match["type"].upper()],
                _foundation(match["foundation"]),
                _in_range(int(match["priority"]), MAX_PRIORITY, "priority"),
                _address(*_pack(match["address"].lower())),
                _in_range(int(match["port"]), 65535, "port"),
            )
        except ParseError:
            return None

    def to_line(self) -> str:
        """As "candidate:..." (RFC 8839). RFC 8839 demands the address behind a NAT; zeros hide it."""
        line = (
            f"candidate:{self.foundation} 1 udp {self.priority} {self.address} {self.port} typ {self.type.name.lower()}"
        )
        if self.type == CandidateType.HOST:
            return line
        return f"{line} raddr {'::' if ':' in self.address else '0.0.0.0'} rport 0"

    def encode(self) -> bytes:
        family, packed = _pack(self.address)
        numbers = self.foundation.to_bytes(4, "big") + self.priority.to_bytes(4, "big") + self.port.to_bytes(2, "big")
        return bytes([self.type, family]) + numbers + packed

    @classmethod
    def read(cls, reader: Reader) -> Candidate:
        """type u8 | family u8 | foundation u32 | priority u32 | port u16 | address 4 or 16. Raises ParseError."""
        kind, family = reader.member(CandidateType), reader.member(Family)
        foundation = reader.unsigned(4)
        priority = _in_range(reader.unsigned(4), MAX_PRIORITY, "priority")
        port = _in_range(reader.unsigned(2), 65535, "port")
        address = _address(family, reader.take(4 if family == Family.IPV4 else 16))
        return cls(kind, foundation, priority, address, port)


def _in_range(value: int, limit: int, what: str) -> int:
    if not 1 <= value <= limit:
        raise ParseError(f"a candidate's {what} is out of range")
    return value


def _foundation(text: str) -> int:
    """Foundations are only compared: a number is kept, any other text becomes a number."""
    if _U32.fullmatch(text) and int(text) < 2**32:
        return int(text)
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big")


def _pack(text: str) -> tuple[Family, bytes]:
    if match := _MDNS_NAME.fullmatch(text):
        return Family.MDNS, bytes.fromhex("".join(match.groups()))
    try:
        address = ip_address(text)
    except ValueError:
        raise ParseError("a candidate without an address") from None
    return (Family.IPV4 if address.version == 4 else Family.IPV6), address.packed


def _address(family: Family, packed: bytes) -> str:
    """The address as text. Raises ParseError for one that no other node may make us probe."""
    if family == Family.MDNS:
        text = packed.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}.local"
    address = IPv4Address(packed) if family == Family.IPV4 else IPv6Address(packed)
    # ::ffff:0:0/96 would let the refused IPv4 addresses in again.
    special = address.is_reserved if isinstance(address, IPv4Address) else address.ipv4_mapped is not None
    if special or address.is_unspecified or address.is_loopback or address.is_multicast:
        raise ParseError("a candidate with a special address")
    return str(address)


def _choose(lines: Iterable[str]) -> tuple[Candidate, ...]:
    """The candidates that can serve, at most 16. If there are more, those from STUN come first: with so many
    interfaces, most lead nowhere."""
    found = [candidate for line in lines if (candidate := Candidate.from_line(line)) is not None]
    if len(found) > MAX_CANDIDATES:
        found.sort(key=lambda candidate: candidate.type, reverse=True)
    return tuple(found[:MAX_CANDIDATES])


def _read_candidates(reader: Reader) -> tuple[Candidate, ...]:
    count = reader.unsigned(1)
    if count > MAX_CANDIDATES:
        raise ParseError(f"{count} candidates, the limit is {MAX_CANDIDATES}")
    return tuple(Candidate.read(reader) for _ in range(count))


def _lines(text: str) -> list[str]:
    """Raises ParseError for text that is too long or holds control or non-ASCII characters."""
    if len(text) > MAX_SDP:
        raise ParseError(f"SDP of {len(text)} characters, the limit is {MAX_SDP}")
    text = text.replace("\r\n", "\n")
    if not _PRINTABLE.fullmatch(text):
        raise ParseError("SDP holds characters that it must not")
    return text.split("\n")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates that were found after the offer or answer went out; at most 16."""

    items: tuple[Candidate, ...]

    @classmethod
    def from_lines(cls, text: str) -> Candidates:
        """From lines "candidate:..." with or without "a=" before it. Those that cannot serve are left out.

        Raises:
            ParseError: the text is longer than MAX_SDP or holds control characters.
        """
        return cls(_choose(line.removeprefix("a=") for line in _lines(text)))

    def to_lines(self) -> str:
        """Lines "a=candidate:...", each with CR LF."""
        return "".join(f"a={item.to_line()}\r\n" for item in self.items)

    def encode(self) -> bytes:
        return bytes([len(self.items)]) + b"".join(item.encode() for item in self.items)

    @classmethod
    def parse(cls, data: Buffer) -> Candidates:
        reader = Reader(data, "candidates")
        items = _read_candidates(reader)
        reader.finish()
        return cls(items)


@dataclass(frozen=True, slots=True)
class Description:
    """One side's offer or answer of a connection with one data channel.

    Args:
        setup: what it wants to be in the DTLS handshake.
        fingerprint: SHA-256 of its DTLS certificate, 32 bytes.
        ufrag, password: ICE credentials: 4-256 and 22-256 letters, digits, "+" and "/" (RFC 8839 section 5.4).
        candidates: at most 16.
    """

    setup: Setup
    fingerprint: bytes
    ufrag: str = field(repr=False)
    password: str = field(repr=False)
    candidates: tuple[Candidate, ...] = ()

    @classmethod
    def from_sdp(cls, text: str) -> Description:
        """From an offer or answer with a single data-channel section. Candidates that cannot serve are left out.

        Raises:
            ParseError: another kind of SDP, one that lacks a value or names two, or longer than MAX_SDP.
        """
        lines = _lines(text)
        media = [line[2:] for line in lines if line.startswith("m=")]
        if len(media) != 1 or not _MEDIA.fullmatch(media[0]):
            raise ParseError("SDP of something else than one data channel")
        attributes = [line[2:] for line in lines if line.startswith("a=")]
        fingerprints = (_SHA256.fullmatch(value) for value in _values(attributes, "fingerprint"))
        fingerprint = _only((match[1].lower() for match in fingerprints if match), "sha-256 fingerprint")
        setup = _only(_values(attributes, "setup"), "setup").upper()
        if setup not in Setup.__members__:
            raise ParseError("SDP with an unknown setup")
        return cls(
            Setup[setup],
            bytes.fromhex(fingerprint.replace(":", "")),
            _ice_text(_only(_values(attributes, "ice-ufrag"), "ice-ufrag"), MIN_UFRAG),
            _ice_text(_only(_values(attributes, "ice-pwd"), "ice-pwd"), MIN_PASSWORD),
            _choose(attributes),
        )

    def to_sdp(self, kind: DescriptionKind) -> str:
        """SDP that Chromium, Firefox and aiortc take. An offer always leaves the roles open, as RFC 8842 asks."""
        head = _TEMPLATE.format(
            ufrag=self.ufrag,
            password=self.password,
            fingerprint=self.fingerprint.hex(":").upper(),
            setup=(Setup.ACTPASS if kind == DescriptionKind.OFFER else self.setup).name.lower(),
        )
        return head + Candidates(self.candidates).to_lines()

    def encode(self) -> bytes:
        """setup u8 | fingerprint 32 | (length u16 | text) of ufrag and password | count u8 | candidates."""
        texts = b"".join(len(text).to_bytes(2, "big") + text.encode() for text in (self.ufrag, self.password))
        return bytes([self.setup]) + self.fingerprint + texts + Candidates(self.candidates).encode()

    @classmethod
    def parse(cls, data: Buffer) -> Description:
        """Raises ParseError for whatever `from_sdp` would not have made."""
        reader = Reader(data, "description")
        setup, fingerprint = reader.member(Setup), reader.take(FINGERPRINT_LEN)
        ufrag, password = (
            _ice_text(reader.take(reader.unsigned(2)).decode("latin-1"), least) for least in (MIN_UFRAG, MIN_PASSWORD)
        )
        candidates = _read_candidates(reader)
        reader.finish()
        return cls(setup, fingerprint, ufrag, password, candidates)


def _values(attributes: Iterable[str], name: str) -> list[str]:
    return [value for key, _, value in (attribute.partition(":") for attribute in attributes) if key == name]


def _only(values: Iterable[str], what: str) -> str:
    """The one value, which may be named several times."""
    distinct = set(values)
    if len(distinct) != 1:
        raise ParseError(f"SDP with {'two values of' if distinct else 'no'} {what}")
    return distinct.pop()


def _ice_text(text: str, least: int) -> str:
    if not least <= len(text) <= MAX_ICE_TEXT or not _ICE_TEXT.fullmatch(text):
        raise ParseError("ICE credentials of a wrong form")
    return text
