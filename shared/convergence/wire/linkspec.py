"""Link specifiers: how EXTEND2 names the next node (tor-spec, "EXTEND and EXTENDED cells").

Does: parse and encode lists of specifiers, and find those that name a node: its Ed25519 identity (type 3); on the Tor
network also its RSA fingerprint (type 2) and its address (types 0 and 1).
Does not: look a node up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, ip_address

from convergence.errors import LocalError, ParseError
from convergence.wire.reader import Reader

IDENTITY_LEN = 32


class SpecifierType(IntEnum):
    """Known specifiers; unknown ones are ignored, as the spec demands."""

    TLS_IPV4 = 0
    TLS_IPV6 = 1
    LEGACY_ID = 2
    ED25519_ID = 3


SPECIFIER_LENGTHS: dict[int, int] = {
    SpecifierType.TLS_IPV4: 6,
    SpecifierType.TLS_IPV6: 18,
    SpecifierType.LEGACY_ID: 20,
    SpecifierType.ED25519_ID: IDENTITY_LEN,
}


@dataclass(frozen=True, slots=True)
class LinkSpecifier:
    """One specifier: type (0-255) and data (0-255 bytes)."""

    kind: int
    data: bytes


def read_specifiers(reader: Reader) -> tuple[LinkSpecifier, ...]:
    """NSPEC and the specifiers. Raises ParseError for a known one of wrong length and for a repeated identity."""
    specifiers: list[LinkSpecifier] = []
    for _ in range(reader.unsigned(1)):
        kind = reader.unsigned(1)
        data = reader.take(reader.unsigned(1))
        if len(data) != SPECIFIER_LENGTHS.get(kind, len(data)):
            raise ParseError(f"link specifier of type {kind} has a wrong length")
        identity = kind in (SpecifierType.LEGACY_ID, SpecifierType.ED25519_ID)
        if identity and any(other.kind == kind for other in specifiers):
            raise ParseError("the same kind of identity is given twice")
        specifiers.append(LinkSpecifier(kind, data))
    return tuple(specifiers)


def encode_specifiers(specifiers: Iterable[LinkSpecifier]) -> bytes:
    """NSPEC and the specifiers. Raises LocalError where a count or length does not fit one byte."""
    items = list(specifiers)
    if len(items) > 255 or any(len(item.data) > 255 for item in items):
        raise LocalError("too many link specifiers, or one too long")
    return bytes([len(items)]) + b"".join(bytes([item.kind, len(item.data)]) + item.data for item in items)


def tor_specifiers(address: IPv4Address, port: int, fingerprint: bytes, identity: bytes) -> tuple[LinkSpecifier, ...]:
    """Those that name a relay to relays of the Tor network, in the order of all clients (tor-spec "EXTEND and EXTENDED
    cells")."""
    return (
        LinkSpecifier(SpecifierType.TLS_IPV4, address.packed + port.to_bytes(2, "big")),
        LinkSpecifier(SpecifierType.LEGACY_ID, fingerprint),
        ed25519_specifier(identity),
    )


def ed25519_specifier(identity: bytes) -> LinkSpecifier:
    """The specifier that names a node on this network."""
    return LinkSpecifier(SpecifierType.ED25519_ID, identity)


def ed25519_identity(specifiers: Iterable[LinkSpecifier]) -> bytes:
    """The 32-byte identity that is named. Raises ParseError if none is."""
    return _first(specifiers, SpecifierType.ED25519_ID)


def rsa_fingerprint(specifiers: Iterable[LinkSpecifier]) -> bytes:
    """The 20-byte fingerprint that is named. Raises ParseError if none is."""
    return _first(specifiers, SpecifierType.LEGACY_ID)


def or_address(specifiers: Iterable[LinkSpecifier]) -> tuple[str, int]:
    """IP address and port at which the node takes links: the first IPv4 one, or else the first IPv6 one. Raises
    ParseError if there is none, or port 0."""
    data = _first(sorted(specifiers, key=lambda item: item.kind), SpecifierType.TLS_IPV4, SpecifierType.TLS_IPV6)
    port = int.from_bytes(data[-2:], "big")
    if not port:
        raise ParseError("a link specifier with port 0")
    return str(ip_address(data[:-2])), port


def _first(specifiers: Iterable[LinkSpecifier], *kinds: SpecifierType) -> bytes:
    for specifier in specifiers:
        if specifier.kind in kinds:
            return specifier.data
    raise ParseError(f"no {kinds[0].name} among the link specifiers")
