"""What a program on this machine says to a proxy in SOCKS 4, 4a and 5: where it wants to go, and for whom.

Does: read requests that are cut anywhere (RFC 1928, RFC 1929, SOCKS 4 and 4a; RESOLVE and RESOLVE_PTR of Tor's
socks-extensions), judge names, write the answers; hold what all dialects of our proxy have in common.
Does not: resolve names (the far end does), connect, keep time, or tell the dialects apart (door.py).

As in Tor, user name and password are no secret to check: requests that give different ones share no circuit
(IsolateSOCKSAuth), nor do those of different dialects (IsolateClientProtocol).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, TypeAlias, TypeVar

from convergence.errors import EndReason, ParseError
from convergence.wire.address import HASH_SUFFIX, KEY_SUFFIX, is_reserved
from convergence.wire.relay import parse_target

T = TypeVar("T")

MAX_FIELD = 255  # bytes of a name, a user name or a password: what SOCKS 5 can say, and the other dialects no more
TOR_FORMAT = b"<torS0X>"  # of a user name: parameters follow (Tor, proposal 351), of which we know format 0

SOCKS4, SOCKS5 = 4, 5  # the first byte of a request
_NO_AUTH, _USER_PASS, _NO_METHOD = 0, 2, 0xFF
_AUTH_VERSION, _AUTH_GOOD, _AUTH_BAD = 1, 0, 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REQUEST4 = struct.Struct(">BH4s")  # command, port, address
_GRANTED4, _REFUSED4 = b"\0\x5a", b"\0\x5b" + bytes(6)
_NO_ADDRESS = "0.0.0.0"  # what a reply tells of a connection: where it leads is the exit's to know, as in Tor
_ANY_PORT = 1  # of what is only looked up


class Dialect(Enum):
    """What a program speaks; SOCKS4 is 4a too."""

    SOCKS4 = "socks4"
    SOCKS5 = "socks5"
    HTTP = "http"


class Command(IntEnum):
    """What a program wants. The look-ups are Tor's (socks-extensions.txt, section 2); HTTP has none, SOCKS 4 only the
    first."""

    CONNECT = 1
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1


class Reply(NamedTuple):
    """One answer, in each dialect. `socks5`: the REP field (RFC 1928, section 6); SOCKS 4 has one refusal only."""

    socks5: int
    http: int
    words: str


class Flaw(Enum):
    """Why a request is refused before anything is asked of the network."""

    GARBLED = Reply(1, 400, "This is no request that this proxy understands.")
    LONG = Reply(1, 431, "The request is too long.")
    COMMAND = Reply(7, 501, "This proxy connects and looks names up; it neither listens nor carries datagrams.")
    METHOD = Reply(1, 405, "This is a proxy for CONNECT only. Set it as SOCKS5 or HTTPS proxy; it serves no pages.")
    PAGE = Reply(1, 403, "A web page seems to have sent this request.")
    HOST = Reply(1, 400, "The Host header names another host than the request.")
    NAME = Reply(4, 400, "This is no name of a host, or no port.")
    RESERVED = Reply(2, 403, "Names of this kind lead nowhere from here.")
    SERVICE = Reply(0xF6, 400, "This is no name of a service.")
    KIND = Reply(8, 400, "This is no kind of address that this proxy knows.")
    METHODS = Reply(1, 400, "No way to log in that both sides know.")  # SOCKS 5 says so by its method field
    ISOLATION = Reply(1, 400, "What is given to keep streams apart cannot be read.")  # SOCKS 5: in the answer to it
    LATE = Reply(6, 408, "The request did not come in time.")


FAILED = Reply(1, 502, "The connection failed on its way.")
REPLIES: dict[int, Reply] = {
    EndReason.RESOLVEFAILED: Reply(4, 503, "The exit could not find this host."),
    EndReason.CONNECTREFUSED: Reply(5, 502, "The host refused the connection."),
    EndReason.EXITPOLICY: Reply(2, 403, "The exits that were tried do not connect to this host and port."),
    EndReason.DESTROY: Reply(1, 503, "The circuit broke, or none could be built."),
    EndReason.TIMEOUT: Reply(6, 504, "The host did not answer in time."),
    EndReason.NOROUTE: Reply(4, 503, "The exit has no route to this host."),
    EndReason.HIBERNATING: Reply(1, 503, "The far end rests."),
    EndReason.RESOURCELIMIT: Reply(1, 503, "All places are taken now."),
    EndReason.CONNRESET: Reply(5, 502, "The host broke the connection off."),
}
"""The end of a stream that never opened -> the answer. Every other reason is FAILED, also DONE: whatever ends a stream
before it opened is no success."""

SERVICE_REPLIES: dict[int, Reply] = {
    EndReason.RESOLVEFAILED: Reply(0xF0, 503, "Nobody offers this service."),
    EndReason.HIBERNATING: Reply(0xF2, 503, "Whoever offers this service is away."),
    EndReason.DESTROY: Reply(0xF3, 503, "The circuit to this service broke, or none could be built."),
    EndReason.TORPROTOCOL: Reply(0xF5, 403, "The key in this name does not open the service."),
    EndReason.TIMEOUT: Reply(0xF7, 504, "Whoever offers this service did not answer in time."),
}
"""The same for services: codes of Tor's proposal 304 (and its X'F6', X'F7'), where a code of ours means the same."""


class Refused(ParseError):
    """A request that is refused for what it is."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value.words)
        self.flaw = flaw


Isolation: TypeAlias = tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Where a program wants to go, or what is to be looked up for it.

    Args:
        host: a name, never looked up here, or an address; lower case, IPv6 without brackets. For CONNECT it may be a
            capability; for RESOLVE_PTR it is an address.
        port: 1-65535; says nothing of a look-up.
        isolation: what has to be equal for two streams to share a circuit; may hold passwords.
    """

    host: str = field(repr=False)
    port: int
    isolation: Isolation = field(repr=False)
    dialect: Dialect
    command: Command = Command.CONNECT

    @classmethod
    def of(cls, dialect: Dialect, name: bytes, port: int, *isolation: bytes, command: Command = Command.CONNECT) -> Ask:
        """Judge a name, or an address as text. Raises Refused."""
        text = name.decode("latin-1")
        connects = command is Command.CONNECT
        if not connects:
            port = _ANY_PORT
        if connects and _is_service(text.lower()) and text.isascii() and text.isprintable() and port:
            host = text.lower()  # services have texts for names, with spaces too
        else:
            try:
                host, port = parse_target(f"[{text}]:{port}" if ":" in text and text[0] != "[" else f"{text}:{port}")
            except ParseError:
                raise Refused(Flaw.NAME) from None
            if is_reserved(host):
                raise Refused(Flaw.RESERVED)
        return cls(host, port, (dialect.value, *isolation), dialect, command)

    @property
    def known(self) -> bool:
        """Whether it asks for the address of an address."""
        return self.command is Command.RESOLVE and _address(self.host) is not None

    @property
    def service(self) -> bool:
        """Whether it names a service, by its hash or its capability."""
        return _is_service(self.host)

    def reply(self, code: int) -> Reply:
        """What a failure (EndReason, or another number as received) is to the program."""
        return (self.service and SERVICE_REPLIES.get(code)) or REPLIES.get(code, FAILED)


def _is_service(host: str) -> bool:
    return host.rstrip(".").endswith((HASH_SUFFIX, KEY_SUFFIX))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


Reading: TypeAlias = Generator[None, None, T]
"""Yields whenever more input is needed; returns what was read; raises Refused."""


class Caller:
    """What came from a program and was not read yet, and what goes back to it.

    Attributes:
        waiting: input.
        said: answers within the handshake, to be sent.
        granted, refused: the last answer, as the dialect has it; nothing, where it has none yet. `granted` is given
            what a look-up found, else "".
    """

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.said = bytearray()
        self.granted: Callable[[str], bytes] = lambda found: b""
        self.refused: Callable[[Reply], bytes] = lambda reply: b""

    def take(self, size: int) -> Reading[bytes]:
        while len(self.waiting) < size:
            yield
        taken = bytes(self.waiting[:size])
        del self.waiting[:size]
        return taken

    def until(self, mark: bytes, most: int) -> Reading[bytes]:
        """What comes before the next `mark` (one byte), which is taken too. Raises Refused for more than `most`."""
        while (end := self.waiting.find(mark, 0, most + 1)) < 0:
            if len(self.waiting) > most:
                raise Refused(Flaw.LONG)
            yield
        taken = bytes(self.waiting[:end])
        del self.waiting[: end + 1]
        return taken


def read_socks4(caller: Caller) -> Reading[Ask]:
    """SOCKS 4 and 4a, after the first byte."""
    caller.granted, caller.refused = _answer4, lambda reply: _REFUSED4
    number, port, address = _REQUEST4.unpack((yield from caller.take(_REQUEST4.size)))
    user = yield from caller.until(b"\0", MAX_FIELD)
    if address[:3] == bytes(3) and address[3]:  # 4a: 0.0.0.x stands for a name
        name = yield from caller.until(b"\0", MAX_FIELD)
    else:
        name = str(IPv4Address(address)).encode()
    command = _command(number, Command.CONNECT, Command.RESOLVE)
    return Ask.of(Dialect.SOCKS4, name, port, user, command=command)


def read_socks5(caller: Caller) -> Reading[Ask]:
    """SOCKS 5, after the first byte."""
    isolation = yield from _log_in(caller)
    caller.granted, caller.refused = lambda found: _answer5(0, found), lambda reply: _answer5(reply.socks5)
    version, number, reserved, kind = yield from caller.take(4)
    if version != SOCKS5 or reserved:
        raise Refused(Flaw.GARBLED)
    if kind == _NAME:
        name = yield from _field(caller)
    elif kind == _IPV4:
        name = str(IPv4Address((yield from caller.take(4)))).encode()
    elif kind == _IPV6:
        name = str(IPv6Address((yield from caller.take(16)))).encode()
    else:
        raise Refused(Flaw.KIND)
    port = int.from_bytes((yield from caller.take(2)), "big")
    command = _command(number, *Command)
    if command is Command.RESOLVE_PTR and kind == _NAME:
        raise Refused(Flaw.KIND)
    return Ask.of(Dialect.SOCKS5, name, port, *isolation, command=command)


def _command(number: int, *known: Command) -> Command:
    if number not in known:
        raise Refused(Flaw.COMMAND)
    return Command(number)


def _log_in(caller: Caller) -> Reading[tuple[bytes, ...]]:
    """User name and password, if the program has any to give."""
    methods = yield from _field(caller)
    method = next((method for method in (_USER_PASS, _NO_AUTH) if method in methods), _NO_METHOD)
    caller.said += bytes((SOCKS5, method))
    if method == _NO_METHOD:
        raise Refused(Flaw.METHODS)
    if method == _NO_AUTH:
        return ()
    (version,) = yield from caller.take(1)
    if version != _AUTH_VERSION:
        raise Refused(Flaw.GARBLED)
    user = yield from _field(caller)
    password = yield from _field(caller)
    good = not user.startswith(TOR_FORMAT) or user == TOR_FORMAT + b"0"
    caller.said += bytes((_AUTH_VERSION, _AUTH_GOOD if good else _AUTH_BAD))
    if not good:
        raise Refused(Flaw.ISOLATION)
    return user, password


def _field(caller: Caller) -> Reading[bytes]:
    """Bytes, after their number."""
    (size,) = yield from caller.take(1)
    return (yield from caller.take(size))


def _answer4(found: str) -> bytes:
    """An IPv6 address cannot be told."""
    address = _address(found or _NO_ADDRESS)
    return _GRANTED4 + bytes(2) + address.packed if isinstance(address, IPv4Address) else _REFUSED4


def _answer5(reply: int, found: str = "") -> bytes:
    address = _address(found or _NO_ADDRESS)
    if address is None:
        told = bytes((_NAME, len(found))) + found.encode("ascii")
    else:
        told = bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed
    return bytes((SOCKS5, reply, 0)) + told + bytes(2)
