"""What client and relay tell each other within the ntor-v3 handshake (tor-spec, "Sending extensions in the circuit
extension handshake"): congestion control (proposal 324 section 10.3) and subprotocols (proposal 346).

Does: parse and encode both messages: N_EXTENSIONS, then type, length and body of each. Types that it does not know are
ignored, and so are all of one type but the first, as tor-spec says. A client refuses an answer to what it did not ask,
since otherwise a relay could switch something on or off.
Does not: decide what to ask for, or what to grant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Reader

MAX_BODY = 255
MAX_CAPABILITIES = MAX_BODY // 2
"""Subprotocol capabilities in one request: 127."""


class ExtensionType(IntEnum):
    """Extensions (EXT_FIELD_TYPE). From a client, 2 is the proof of work of INTRODUCE, which no CREATE2 has."""

    CC_FIELD_REQUEST = 1
    CC_FIELD_RESPONSE = 2
    SUBPROTO = 3


class Capability(NamedTuple):
    """One subprotocol capability, "Relay=6" is (2, 6): each number is a byte (tor-spec, "Subprotocol versioning")."""

    protocol: int
    number: int


@dataclass(frozen=True, slots=True)
class CircuitRequest:
    """What a client wants of the relay.

    Args:
        congestion_control: that of proposal 324, in place of fixed windows. The relay may decline.
        capabilities: at most 127, all of which the relay has to enable, or else to close the circuit.
    """

    congestion_control: bool = False
    capabilities: frozenset[Capability] = frozenset()

    def encode(self) -> bytes:
        """Raises LocalError for too many capabilities, and for a number that is no byte."""
        numbers = [number for capability in sorted(self.capabilities) for number in capability]
        if len(numbers) > MAX_BODY or any(not 0 <= number <= 255 for number in numbers):
            raise LocalError("too many subprotocol capabilities, or one out of range")
        fields: dict[int, bytes] = {ExtensionType.CC_FIELD_REQUEST: b""} if self.congestion_control else {}
        if numbers:
            fields[ExtensionType.SUBPROTO] = bytes(numbers)
        return _encode(fields)

    @classmethod
    def parse(cls, data: Buffer) -> CircuitRequest:
        """Raises ParseError for trailing bytes, or a known type with a wrong body."""
        fields = _read(data, "circuit request")
        if fields.get(ExtensionType.CC_FIELD_REQUEST):
            raise ParseError("congestion control request with a body")
        capabilities = _read_capabilities(fields.get(ExtensionType.SUBPROTO, b""))
        return cls(ExtensionType.CC_FIELD_REQUEST in fields, capabilities)


@dataclass(frozen=True, slots=True)
class CircuitResponse:
    """What the relay grants.

    Args:
        sendme_inc: cells for each SENDME, 1-255, under congestion control; None without it. Whether it is near enough
            to the consensus (proposal 324 section 10.5) is for the client to judge.
    """

    sendme_inc: int | None = None

    def encode(self) -> bytes:
        """Raises LocalError for a `sendme_inc` out of range."""
        if self.sendme_inc is None:
            return _encode({})
        if not 1 <= self.sendme_inc <= 255:
            raise LocalError("sendme_inc is 1 to 255")
        return _encode({ExtensionType.CC_FIELD_RESPONSE: bytes([self.sendme_inc])})

    @classmethod
    def parse(cls, data: Buffer, request: CircuitRequest) -> CircuitResponse:
        """The answer to `request`. Raises ParseError for what it did not ask, trailing bytes, or a wrong body."""
        body = _read(data, "circuit response").get(ExtensionType.CC_FIELD_RESPONSE)
        if body is None:
            return cls()
        if not request.congestion_control:
            raise ParseError("congestion control was not asked for")
        # SENDMEs after every zeroth cell mean nothing.
        if len(body) != 1 or not body[0]:
            raise ParseError("congestion control response without a sendme_inc")
        return cls(body[0])


def _encode(fields: Mapping[int, bytes]) -> bytes:
    """The extensions in the order given, which should be ascending."""
    return bytes([len(fields)]) + b"".join(bytes([kind, len(body)]) + body for kind, body in fields.items())


def _read(data: Buffer, what: str) -> dict[int, bytes]:
    """Body of the first extension of each type; there are at most 255 extensions."""
    reader = Reader(data, what)
    fields: dict[int, bytes] = {}
    for _ in range(reader.unsigned(1)):
        fields.setdefault(reader.unsigned(1), reader.take(reader.unsigned(1)))
    reader.finish()
    return fields


def _read_capabilities(body: bytes) -> frozenset[Capability]:
    """Strictly ascending, as C tor and Arti demand."""
    if len(body) % 2:
        raise ParseError("half a subprotocol capability")
    found = [Capability(body[at], body[at + 1]) for at in range(0, len(body), 2)]
    if found != sorted(set(found)):
        raise ParseError("subprotocol capabilities out of order")
    return frozenset(found)
