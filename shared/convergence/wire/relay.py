"""Relay messages: what a RELAY cell carries once its onion layers are off (tor-spec, "Relay cells").

Does: the 11-byte header and every message's body, parsed once into a record and encoded back.
Does not: encrypt, digest, or keep state.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from operator import itemgetter

from convergence.errors import DestroyReason, EndReason, LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.cells import PAYLOAD_LEN
from convergence.wire.create import encode_handshake, read_handshake
from convergence.wire.linkspec import LinkSpecifier, encode_specifiers, read_specifiers
from convergence.wire.reader import Reader

RELAY_HEADER = struct.Struct(">BHH4sH")
"""Command, recognized, stream id, digest, length."""
RELAY_HEADER_LEN = RELAY_HEADER.size
RECOGNIZED_OFFSET = 1
STREAM_ID_OFFSET = 3
DIGEST_OFFSET = 5
LENGTH_OFFSET = 9
NO_DIGEST = bytes(4)
MAX_DATA = PAYLOAD_LEN - RELAY_HEADER_LEN
"""498: the most data one relay message holds."""

MAX_HOST = 255
"""Longest host name in BEGIN and RESOLVE (RFC 1035)."""
RDV_SUFFIX = ".rdv"
PEER_HOST = "peer.node"
"""A stream to this host (port 0) ends in the node itself and carries the records of facilitator.py."""
IPV6_OKAY, IPV4_NOT_OKAY, IPV6_PREFERRED = 1, 2, 4
"""Flags of BEGIN."""
REFERRALS_OKAY = 8
"""Flag of BEGIN to a `.rdv` name: if nobody is there, the point may name other points."""
TTL_UNKNOWN = 0xFFFFFFFF
"""Stands for a missing time to live (tor-spec, "Closing streams")."""
SENDME_DIGEST_LEN = 20
MAX_RELAY_EARLY = 8
"""RELAY_EARLY cells on a circuit; a relay closes a circuit with more (tor-spec, "Handling relay early cells")."""

_FULL = MAX_DATA.to_bytes(RELAY_HEADER_LEN - LENGTH_OFFSET, "big")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?", re.ASCII)
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


class RelayCommand(IntEnum):
    """Relay commands. EXTEND and EXTENDED are named only to be refused; DB_INFO is this network's own."""

    BEGIN = 1
    DATA = 2
    END = 3
    CONNECTED = 4
    SENDME = 5
    EXTEND = 6
    EXTENDED = 7
    TRUNCATE = 8
    TRUNCATED = 9
    DROP = 10
    RESOLVE = 11
    RESOLVED = 12
    BEGIN_DIR = 13
    EXTEND2 = 14
    EXTENDED2 = 15
    CONFLUX_LINK = 19
    CONFLUX_LINKED = 20
    CONFLUX_LINKED_ACK = 21
    CONFLUX_SWITCH = 22
    XOFF = 43
    XON = 44
    DB_INFO = 80


def pack_header(command: int, stream_id: int, length: int) -> bytes:
    """The 11 bytes with recognized and digest zero. Raises LocalError for a length above MAX_DATA."""
    if length > MAX_DATA:
        raise LocalError(f"a relay message holds {MAX_DATA} bytes, not {length}")
    return RELAY_HEADER.pack(command, 0, stream_id, NO_DIGEST, length)


def pack_message(command: int, stream_id: int, data: Buffer = b"") -> bytes:
    """The 509-byte body with recognized and digest zero.

    The padding is zeros. tor-spec recommends four zeros and then random bytes: a receiver that can predict the data
    then cannot acknowledge (SENDME digest) cells that it never read. Here such a receiver only floods itself, so random
    bytes for each cell are not worth their cost.
    """
    return (pack_header(command, stream_id, len(data)) + bytes(data)).ljust(PAYLOAD_LEN, b"\0")


def pack_data(stream_id: int, data: bytes) -> list[bytes]:
    """The bodies of DATA messages that carry these bytes, all but the last full."""
    full, rest = divmod(len(data), MAX_DATA)
    head = RELAY_HEADER.pack(RelayCommand.DATA, 0, stream_id, NO_DIGEST, MAX_DATA)
    bodies = [head + data[at : at + MAX_DATA] for at in range(0, full * MAX_DATA, MAX_DATA)]
    if rest:
        bodies.append(pack_message(RelayCommand.DATA, stream_id, data[-rest:]))
    return bodies


def data_prefix(stream_id: int) -> bytes:
    """What the bodies of all DATA messages of a stream begin with, up to their length; the digest is zero."""
    return RELAY_HEADER.pack(RelayCommand.DATA, 0, stream_id, NO_DIGEST, 0)[:LENGTH_OFFSET]


def unpack_message(body: Buffer) -> tuple[int, int, bytes]:
    """Command, stream id and data of a recognised 509-byte body. Its padding is ignored. Raises ParseError."""
    if len(body) != PAYLOAD_LEN:
        raise ParseError("relay message body of a wrong size")
    command, _, stream_id, _, length = RELAY_HEADER.unpack_from(body)
    if length > MAX_DATA:
        raise ParseError(f"relay message claims {length} bytes, {MAX_DATA} fit")
    return command, stream_id, bytes(body[RELAY_HEADER_LEN : RELAY_HEADER_LEN + length])


def unpack_data(bodies: Sequence[bytes]) -> list[bytes]:
    """What these bodies carry, each in its turn. Raises ParseError."""
    return [
        body[RELAY_HEADER_LEN:] if body[LENGTH_OFFSET:RELAY_HEADER_LEN] == _FULL else unpack_message(body)[2]
        for body in bodies
    ]


@dataclass(frozen=True, slots=True)
class RelayFormat:
    """How relay messages lie in cells; a circuit handshake agrees on one.

    Args:
        head: what the bodies of one command and stream have in common.
        unpack: body -> (command, stream id, data). Raises ParseError.
        unpack_data: bodies -> the data of each. Raises ParseError.
        max_data: bytes of data that one body holds at most.
    """

    head: Callable[[bytes], bytes]
    unpack: Callable[[bytes], tuple[int, int, bytes]]
    unpack_data: Callable[[Sequence[bytes]], list[bytes]]
    max_data: int
    pack: Callable[[int, int, Buffer], bytes]
    pack_data: Callable[[int, bytes], list[bytes]]
    data_prefix: Callable[[int], bytes]


V0 = RelayFormat(
    itemgetter(slice(DIGEST_OFFSET)), unpack_message, unpack_data, MAX_DATA, pack_message, pack_data, data_prefix
)
"""What all handshakes agree on so far (tor-spec "Relay cells")."""


def parse_target(target: str) -> tuple[str, int]:
    """Host (lower case, IPv6 without its brackets) and port of "host:port". Port 0 is for .rdv names and
    PEER_HOST only.

    Raises ParseError.
    """
    host, colon, port_text = target.rpartition(":")
    if not colon or not _PORT.fullmatch(port_text):
        raise ParseError("the target is no host:port")
    port = int(port_text)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if "%" in host or _parse_address(host, 6) is None:
            raise ParseError("the target is no IPv6 address")
    elif not _is_host(host):
        raise ParseError("the target is no host name")
    host = host.lower()
    if port > 65535 or (port == 0 and host != PEER_HOST and not host.endswith(RDV_SUFFIX)):
        raise ParseError("the target's port is out of range")
    return host, port


def format_target(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address: what `parse_target` takes."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_host(text: str) -> bool:
    """Whether it can be a host name, or is an IPv4 address."""
    return len(text) <= MAX_HOST and _HOST.fullmatch(text) is not None


def _parse_address(text: str, version: int) -> bytes | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.packed if address.version == version else None


def _read_address(reader: Reader, size: int) -> str:
    return str(ip_address(reader.take(size)))


def _read_ttl(reader: Reader) -> int:
    return reader.unsigned(4) if reader.left >= 4 else TTL_UNKNOWN


@dataclass(frozen=True, slots=True)
class Begin:
    """Open a stream to host:port.

    Args:
        host: name or address, an IPv6 address without brackets.
        port: 1-65535; 0 with `<blinded hash>.rdv` and PEER_HOST.
        flags: IPV6_OKAY and so on; others are ignored.
    """

    host: str
    port: int
    flags: int = 0

    @classmethod
    def to(cls, target: str, flags: int = 0) -> Begin:
        """From "host:port". Raises LocalError."""
        try:
            return cls(*parse_target(target), flags)
        except ParseError as error:
            raise LocalError(str(error)) from None

    @property
    def target(self) -> str:
        """host:port, with brackets around an IPv6 address."""
        return format_target(self.host, self.port)

    @property
    def versions(self) -> str | None:
        """Those of IP over which a host name may be reached, as digits, the preferred one first. None for an address,
        which says itself of which version it is: C Tor heeds no flags then."""
        if ":" in self.host or _parse_address(self.host, 4) is not None:
            return None
        four = "" if self.flags & IPV4_NOT_OKAY else "4"
        six = "6" if self.flags & IPV6_OKAY else ""
        return six + four if self.flags & IPV6_PREFERRED else four + six

    def encode(self) -> bytes:
        data = self.target.encode("ascii") + b"\0"
        # Flags of 0 are left out, as in C Tor.
        return data + self.flags.to_bytes(4, "big") if self.flags else data

    @classmethod
    def parse(cls, data: Buffer) -> Begin:
        """Absent flags are 0; bytes after the flags are ignored."""
        address, nul, rest = bytes(data).partition(b"\0")
        if not nul:
            raise ParseError("BEGIN has no end of its address")
        flags = int.from_bytes(rest[:4], "big") if len(rest) >= 4 else 0
        return cls(*parse_target(address.decode("latin-1")), flags)


DIRECTORY = Begin("", 0)
"""Stands for a BEGIN_DIR: a stream to the relay's own directory. No BEGIN reads as this."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A stream is open. The address is None where there is none (.rdv)."""

    address: str | None = None
    ttl: int = TTL_UNKNOWN

    def encode(self) -> bytes:
        if self.address is None:
            return b""
        address = ip_address(self.address)
        prefix = b"\0\0\0\0\x06" if isinstance(address, IPv6Address) else b""
        return prefix + address.packed + self.ttl.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> Connected:
        """Bytes after the TTL are ignored."""
        if not len(data):
            return cls()
        reader = Reader(data, "CONNECTED")
        ipv4 = _read_address(reader, 4)
        if ipv4 != "0.0.0.0":
            return cls(ipv4, _read_ttl(reader))
        if reader.unsigned(1) != 6:
            raise ParseError("CONNECTED with an unknown type of address")
        return cls(_read_address(reader, 16), _read_ttl(reader))


@dataclass(frozen=True, slots=True)
class End:
    """A stream ends. With EXITPOLICY it may carry the address that was refused."""

    reason: int
    address: str | None = None
    ttl: int = TTL_UNKNOWN

    def encode(self) -> bytes:
        if self.address is None:
            return bytes([self.reason])
        return bytes([self.reason]) + ip_address(self.address).packed + self.ttl.to_bytes(4, "big")

    @classmethod
    def parse(cls, data: Buffer) -> End:
        """Never fails: a missing reason or 0 becomes MISC, an unlisted reason is kept as received, an address of a
        wrong length is ignored (tor-spec, "Closing streams")."""
        if not len(data) or not data[0]:
            return cls(EndReason.MISC)
        reader = Reader(data, "END")
        reason = reader.unsigned(1)
        size = {4: 4, 8: 4, 16: 16, 20: 16}.get(reader.left)
        if reason != EndReason.EXITPOLICY or size is None:
            return cls(reason)
        return cls(reason, _read_address(reader, size), _read_ttl(reader))


@dataclass(frozen=True, slots=True)
class Sendme:
    """More may be sent. Version 1 carries the digest (20 bytes) of the cell that triggered it; version 0 is empty, and
    is all that streams use (tor-spec, "SENDME Cell Format")."""

    version: int = 0
    digest: bytes = b""

    def encode(self) -> bytes:
        if self.version == 0:
            return b""
        return b"\x01" + len(self.digest).to_bytes(2, "big") + self.digest

    @classmethod
    def parse(cls, data: Buffer) -> Sendme:
        """Only an empty body counts as version 0. Data past the 20 bytes is ignored."""
        if not len(data):
            return cls()
        reader = Reader(data, "SENDME")
        if reader.unsigned(1) != 1:
            raise ParseError("SENDME of an unknown version")
        digest = reader.take(reader.unsigned(2))
        if len(digest) < SENDME_DIGEST_LEN:
            raise ParseError("SENDME's digest is too short")
        return cls(1, digest[:SENDME_DIGEST_LEN])


@dataclass(frozen=True, slots=True)
class Extend2:
    """Extend the circuit to the node the specifiers name. Bytes after the handshake data are ignored."""

    specifiers: tuple[LinkSpecifier, ...]
    handshake_type: int
    handshake_data: bytes

    def encode(self) -> bytes:
        head = encode_specifiers(self.specifiers) + self.handshake_type.to_bytes(2, "big")
        return head + encode_handshake(self.handshake_data, MAX_DATA - len(head))

    @classmethod
    def parse(cls, data: Buffer) -> Extend2:
        reader = Reader(data, "EXTEND2")
        return cls(read_specifiers(reader), reader.unsigned(2), read_handshake(reader))


@dataclass(frozen=True, slots=True)
class Extended2:
    """The new hop's answer. Bytes after the handshake data are ignored."""

    handshake_data: bytes

    def encode(self) -> bytes:
        return encode_handshake(self.handshake_data, MAX_DATA)

    @classmethod
    def parse(cls, data: Buffer) -> Extended2:
        return cls(read_handshake(Reader(data, "EXTENDED2")))


@dataclass(frozen=True, slots=True)
class Truncated:
    """The circuit was cut after this hop. A missing reason is NONE."""

    reason: int

    def encode(self) -> bytes:
        return bytes([self.reason])

    @classmethod
    def parse(cls, data: Buffer) -> Truncated:
        return cls(data[0] if len(data) else DestroyReason.NONE)


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look a host name up (lower case)."""

    host: str

    @classmethod
    def to(cls, host: str) -> Resolve:
        """Raises LocalError for what is no host name."""
        if not _is_host(host):
            raise LocalError("RESOLVE asks for host names only")
        return cls(host.lower())

    @classmethod
    def reverse(cls, address: str) -> Resolve:
        """For the name of an address (tor-spec 6.4; in ip6.arpa, as Tor's relays know it). Raises LocalError."""
        try:
            return cls(ip_address(address).reverse_pointer)
        except ValueError:
            raise LocalError("only an IP address is looked up for its name") from None

    def encode(self) -> bytes:
        return self.host.encode("ascii") + b"\0"

    @classmethod
    def parse(cls, data: Buffer) -> Resolve:
        """The name ends at the first NUL; one must be there. What follows is ignored."""
        name, nul, _ = bytes(data).partition(b"\0")
        host = name.decode("latin-1").lower()
        if not nul or not _is_host(host):
            raise ParseError("RESOLVE holds no host name")
        return cls(host)


def reverse_address(host: str) -> str | None:
    """The IP address that a RESOLVE of such a name asks the host name of: 7.2.0.192.in-addr.arpa, or 32 digits and
    ip6.arpa (RFC 1035 section 3.5, RFC 3596 section 2.5). None for any other name."""
    labels = host.split(".")
    digits = labels[-3::-1]
    try:
        if labels[-2:] == ["in-addr", "arpa"]:
            return str(IPv4Address(".".join(digits)))
        if labels[-2:] == ["ip6", "arpa"] and len(digits) == 32 and all(len(digit) == 1 for digit in digits):
            return str(IPv6Address(int("".join(digits), 16)))
    except ValueError:
        pass
    return None


class AnswerType(IntEnum):
    """Kinds of answer in RESOLVED."""

    HOSTNAME = 0x00
    IPV4 = 0x04
    IPV6 = 0x06
    ERROR_TRANSIENT = 0xF0
    ERROR_PERMANENT = 0xF1


ANSWER_LENGTHS: dict[int, int] = {AnswerType.IPV4: 4, AnswerType.IPV6: 16}
ANSWER_ERRORS = (AnswerType.ERROR_TRANSIENT, AnswerType.ERROR_PERMANENT)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the value is the address in network order, or the name; the value of an error means nothing."""

    kind: int
    value: bytes
    ttl: int

    @classmethod
    def of(cls, address: str, ttl: int) -> Answer:
        """The answer that tells an IP address."""
        parsed = ip_address(address)
        return cls(parsed.version, parsed.packed, ttl)

    @classmethod
    def named(cls, host: str, ttl: int) -> Answer:
        """The answer that tells a host name. Raises ParseError for what is none."""
        if len(host) > MAX_HOST or not _HOST.fullmatch(host):
            raise ParseError("an address whose host name is none")
        return cls(AnswerType.HOSTNAME, host.encode("ascii"), ttl)

    @property
    def address(self) -> str | None:
        """The IP address, for answers that are one."""
        return str(ip_address(self.value)) if self.kind in ANSWER_LENGTHS else None

    @property
    def name(self) -> str | None:
        """The host name (lower case), for answers that are one: neither an address nor any other text."""
        text = self.value.decode("latin-1")
        good = self.kind == AnswerType.HOSTNAME and _is_host(text) and _parse_address(text, 4) is None
        return text.lower() if good else None


@dataclass(frozen=True, slots=True)
class Resolved:
    """All answers, in one message; unknown kinds are kept. An error is the only answer."""

    answers: tuple[Answer, ...]

    def encode(self) -> bytes:
        data = b"".join(
            bytes([item.kind, len(item.value)]) + item.value + item.ttl.to_bytes(4, "big") for item in self.answers
        )
        if len(data) > MAX_DATA:
            raise LocalError("the answers do not fit one relay message")
        return data

    @classmethod
    def parse(cls, data: Buffer) -> Resolved:
        reader = Reader(data, "RESOLVED")
        answers: list[Answer] = []
        while reader.left:
            kind = reader.unsigned(1)
            value = reader.take(reader.unsigned(1))
            if len(value) != ANSWER_LENGTHS.get(kind, len(value)):
                raise ParseError("RESOLVED holds an address of a wrong length")
            answers.append(Answer(kind, value, reader.unsigned(4)))
        if len(answers) > 1 and any(item.kind in ANSWER_ERRORS for item in answers):
            raise ParseError("RESOLVED holds an error beside other answers")
        return cls(tuple(answers))
