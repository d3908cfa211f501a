"""Node descriptors: what a node says about itself, signed with its identity.

Does: parse, encode, sign and verify (by callback).
Does not: judge dates, decide whom to trust (netdir/nodes.py), or choose nodes (path/select.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.certs import SIGNATURE_LEN, Sign, Verify
from convergence.wire.linkspec import LinkSpecifier, ed25519_specifier, tor_specifiers
from convergence.wire.reader import Reader, utf8
from convergence.wire.target import Protocols, RelayTarget, Role, Subnet, node_id_of, subnet_of

KEY_LEN = 32
VERSION = 1
DESCRIPTOR_PREFIX = b"convergence:descriptor:1"
ROLE_BITS = 4
"""One byte holds roles, and above them protocols: to nodes that know none these are unknown roles."""
MAX_ADDRESS = 255
MAX_TRANSPORTS = 4
MAX_INTRODUCERS = 3
MAX_DESCRIPTOR = 1 + 2 * KEY_LEN + 8 + 8 + 1 + 1 + MAX_TRANSPORTS * (3 + MAX_ADDRESS) + SIGNATURE_LEN
"""1,179 bytes; one with a single transport takes about 190."""

_WS_URL = re.compile(
    r"wss?://(?:(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?:/[A-Za-z0-9._~/%-]*)?",
    re.ASCII,
)
_TLS_ADDRESS = re.compile(r"(?P<rsa>[0-9a-f]{40})@(?P<host>[0-9.]{7,15}):(?P<port>[1-9][0-9]{0,4})", re.ASCII)
_RTC_ADDRESS = re.compile(rf"(?:[0-9a-f]{{64}}(?:,[0-9a-f]{{64}}){{0,{MAX_INTRODUCERS - 1}}})?", re.ASCII)


class TransportKind(IntEnum):
    """How a node is reached. Unknown kinds are kept and not used."""

    WS = 1  # address: a ws:// or wss:// URL
    RTC = 2  # WebRTC, after an introduction; address: up to 3 introducers' identities in hex, comma-separated
    TLS = 3  # as relays of the Tor network are; address: the fingerprint of its RSA identity in hex, "@", IPv4:port


def check_ws_url(url: str) -> None:
    """Raises ParseError unless `url` is ws:// or wss:// with host, valid port and plain path, and nothing else."""
    match = _WS_URL.fullmatch(url)
    if len(url) > MAX_ADDRESS or match is None or int(match["port"] or 80) > 65535:
        raise ParseError("a transport's address is no plain ws:// or wss:// URL")
    if match["ipv6"]:
        try:
            IPv6Address(match["ipv6"])
        except ValueError:
            raise ParseError("a transport's address holds no IPv6 address") from None


def parse_tls_address(text: str) -> tuple[IPv4Address, int, bytes]:
    """Address, port and RSA fingerprint (20 bytes) of a TLS transport. Raises ParseError."""
    match = _TLS_ADDRESS.fullmatch(text)
    try:
        if match is not None and int(match["port"]) < 65536:
            return IPv4Address(match["host"]), int(match["port"]), bytes.fromhex(match["rsa"])
    except ValueError:
        pass
    raise ParseError("a transport's address is no RSA fingerprint with IPv4 address and port")


@dataclass(frozen=True, slots=True)
class Transport:
    """One way to reach a node: kind (0-255) and address, at most 255 bytes of UTF-8."""

    kind: int
    address: str

    @classmethod
    def rtc(cls, introducers: Iterable[bytes] = ()) -> Transport:
        """WebRTC, introduced by these nodes (at most 3 identities)."""
        return cls(TransportKind.RTC, ",".join(identity.hex() for identity in introducers))

    @classmethod
    def tls(cls, address: str, fingerprint: bytes) -> Transport:
        """Links of relays of the Tor network: IPv4:port, and the fingerprint (20 bytes) of its RSA identity."""
        return cls(TransportKind.TLS, f"{fingerprint.hex()}@{address}")

    def encode(self) -> bytes:
        address = self.address.encode()
        return bytes([self.kind]) + len(address).to_bytes(2, "big") + address


@dataclass(frozen=True)
class Descriptor:
    """What a node says about itself, signed with its identity.

    Args:
        identity: Ed25519 public key; names the node.
        ntor_key: X25519 public key for circuit handshakes.
        published, expires: Unix seconds.
        signature: over "convergence:descriptor:1" and `body()`; empty while not signed.
        protocols: what its relay speaks.
    """

    identity: bytes
    ntor_key: bytes
    published: int
    expires: int
    roles: Role
    transports: tuple[Transport, ...] = ()
    signature: bytes = b""
    protocols: Protocols = Protocols(0)

    def body(self) -> bytes:
        """All but the signature, exactly as it was parsed."""
        dates = self.published.to_bytes(8, "big") + self.expires.to_bytes(8, "big")
        transports = b"".join(transport.encode() for transport in self.transports)
        head = bytes([VERSION]) + self.identity + self.ntor_key + dates
        return head + bytes([self.roles | self.protocols << ROLE_BITS, len(self.transports)]) + transports

    def sign(self, sign: Sign) -> Descriptor:
        """A signed copy. Raises LocalError if it would not parse."""
        signed = replace(self, signature=sign(DESCRIPTOR_PREFIX + self.body()))
        try:
            Descriptor.parse(signed.encode())
        except ParseError as error:
            raise LocalError(f"not a valid descriptor: {error}") from None
        return signed

    def verify(self, verify: Verify) -> bool:
        """Whether the node of this identity signed it."""
        return verify(self.identity, self.signature, DESCRIPTOR_PREFIX + self.body())

    def encode(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        # Cached: a descriptor is sent many times, and all queues of slow readers share these bytes.
        return self.body() + self.signature

    @classmethod
    def parse(cls, data: Buffer) -> Descriptor:
        """Checks neither signature nor dates against a clock. Raises ParseError."""
        reader = Reader(data, "descriptor")
        if reader.unsigned(1) != VERSION:
            raise ParseError("descriptor of an unknown version")
        identity, ntor_key = reader.take(KEY_LEN), reader.take(KEY_LEN)
        published, expires = reader.unsigned(8), reader.unsigned(8)
        if expires <= published:
            raise ParseError("descriptor expires before it is published")
        offers = reader.unsigned(1)
        roles, protocols = Role(offers & (1 << ROLE_BITS) - 1), Protocols(offers >> ROLE_BITS)
        count = reader.unsigned(1)
        if count > MAX_TRANSPORTS:
            raise ParseError(f"descriptor with {count} transports, the limit is {MAX_TRANSPORTS}")
        transports = tuple(_read_transport(reader) for _ in range(count))
        signature = reader.take(SIGNATURE_LEN)
        reader.finish()
        return cls(identity, ntor_key, published, expires, roles, transports, signature, protocols)

    @cached_property
    def target(self) -> RelayTarget:
        """The node, as a circuit is extended to it."""
        return RelayTarget(
            self.identity,
            (ed25519_specifier(self.identity),),
            node_id_of(self.identity),
            self.ntor_key,
            self.protocols,
            self.roles,
            frozenset() if self.ws_url is None else frozenset((self.ws_url.partition(":")[0],)),
            self.rtc,
            self._tor_specifiers,
            subnets=self._subnets,
        )

    @property
    def _subnets(self) -> frozenset[Subnet]:
        """Of its addresses, but for those that are names."""
        found = None if self.ws_url is None else _WS_URL.fullmatch(self.ws_url)
        tls = self._first(TransportKind.TLS)
        hosts = [] if found is None else [found["host"] or found["ipv6"]]
        hosts += [] if tls is None else [str(parse_tls_address(tls)[0])]
        known = set()
        for host in hosts:
            with suppress(ValueError):
                known.add(subnet_of(ip_address(host)))
        return frozenset(known)

    @property
    def _tor_specifiers(self) -> tuple[LinkSpecifier, ...]:
        address = self._first(TransportKind.TLS)
        return () if address is None else tor_specifiers(*parse_tls_address(address), self.identity)

    @cached_property
    def ws_url(self) -> str | None:
        """Where the node takes WebSocket links, if it does."""
        return self._first(TransportKind.WS)

    @cached_property
    def rtc(self) -> bool:
        """Whether the node takes WebRTC links."""
        return self._first(TransportKind.RTC) is not None

    @cached_property
    def introducers(self) -> tuple[bytes, ...]:
        """Identities of nodes that pass signals on to it, the best first; at most 3."""
        address = self._first(TransportKind.RTC)
        return tuple(bytes.fromhex(identity) for identity in address.split(",")) if address else ()

    def _first(self, kind: TransportKind) -> str | None:
        return next((item.address for item in self.transports if item.kind == kind), None)


def _read_transport(reader: Reader) -> Transport:
    kind = reader.unsigned(1)
    size = reader.unsigned(2)
    if size > MAX_ADDRESS:
        raise ParseError(f"transport address of {size} bytes, the limit is {MAX_ADDRESS}")
    address = utf8(reader.take(size), "transport address")
    if kind == TransportKind.WS:
        check_ws_url(address)
    elif kind == TransportKind.RTC and not _RTC_ADDRESS.fullmatch(address):
        raise ParseError("a transport's address is no list of introducers")
    elif kind == TransportKind.TLS:
        parse_tls_address(address)
    return Transport(kind, address)
