"""Consensus documents (dir-spec 3.4.1, 3.9): what most directory authorities say about all relays.

Does: parse them, in the flavors "microdesc" and "ns"; give the digests that are signed, and those by which diffs are
asked for.
Does not: check signatures or dates (netdir/consensus.py): everything here may be invented until that is done.

What most authorities sign is not refused for one bad value: a parameter, a weight, a protocol list, a random value or a
relay that cannot be read is left out.

Only what stands before the first signature is signed, and only that is read, but for the signatures.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from hashlib import sha1, sha3_256, sha256
from typing import NamedTuple

from convergence.errors import ParseError
from convergence.wire.netdoc import (
    SIGNATURE,
    Document,
    Item,
    OrAddress,
    blank_separated,
    parse_address,
    parse_base64,
    parse_hex,
)
from convergence.wire.protovers import Protocols
from convergence.wire.reader import utf8

MAX_CONSENSUS = 1 << 24
"""Bytes of one; real ones have 2 to 4 million."""
MAX_LINES = 1 << 19
"""Real ones have 60,000: memory is taken by lines as much as by bytes."""
MAX_RELAYS = 1 << 15
"""Real ones have 9,000."""
MAX_SIGNATURES = 64
MAX_HEADER = 1 << 17
"""Bytes before the first relay, and after the last."""
MAX_BANDWIDTH = (1 << 32) - 1

_SIGNATURE_START = b"\ndirectory-signature "
_FOOTER_START = b"\ndirectory-footer\n"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_RELAY = re.compile(
    r"([A-Za-z0-9]{1,19}) ([A-Za-z0-9+/]{27}) (?:([A-Za-z0-9+/]{27}) )?"
    rf"[0-9-]{{10}} [0-9:]{{8}} ((?:{_BYTE}\.){{3}}{_BYTE}) "
    r"([0-9]{1,5}) ([0-9]{1,5})(?: .*)?",
    re.ASCII,
)
_BANDWIDTH = re.compile(r"(?:.* )?Bandwidth=([0-9]{1,10})(?: .*)?", re.ASCII)
_ONCE = frozenset({"s", "v", "pr", "w", "m"})


class Flavor(StrEnum):
    """Which consensus it is: whether relays have digests of microdescriptors or of server descriptors."""

    MICRODESC = "microdesc"
    NS = "ns"


class RelayStatus(NamedTuple):
    """What the authorities say about one relay. A tuple, since there are thousands.

    Args:
        identity: SHA-1 of its RSA identity key, 20 bytes.
        digest: of its microdescriptor (SHA-256, 32 bytes), or in the flavor "ns" of its descriptor (SHA-1, 20 bytes).
        address: IPv4, dotted quad.
        dir_port: 0 for none.
        flags: "Exit", "Guard"...
        protocols: what it supports of each subprotocol.
        bandwidth: its weight; `measured` tells whether it was measured.
        version: "Tor 0.4.9.11"; "" if none is given.
        address6: another address and port, as it is written; see `ipv6`.
    """

    nickname: str
    identity: bytes
    digest: bytes
    address: str
    or_port: int
    dir_port: int
    flags: frozenset[str]
    protocols: Protocols
    bandwidth: int
    measured: bool
    version: str
    address6: str

    @property
    def ipv6(self) -> OrAddress | None:
        """Its IPv6 address, if it has a valid one."""
        try:
            address = parse_address(self.address6)
        except ParseError:
            return None
        return address if address[0].version == 6 else None


@dataclass(frozen=True, slots=True)
class DirectorySignature:
    """One signature.

    Args:
        algorithm: "sha1" or "sha256".
        identity: of the authority, 20 bytes.
        signing_digest: SHA-1 of the signing key, 20 bytes.
    """

    algorithm: str
    identity: bytes
    signing_digest: bytes
    signature: bytes


@dataclass(frozen=True)
class Consensus:
    """One consensus.

    Args:
        data: the whole document.
        signed_size: how many bytes of it are signed.
        valid_after, fresh_until, valid_until: Unix seconds, ascending.
        required_relay, required_client, recommended_relay, recommended_client: subprotocols of all relays and clients.
        shared_random: the previous value and the current one, 32 bytes each; None where missing or malformed.
        relays: in the order of their identities.
        skipped: how many relays could not be read. They cost themselves only: what the authorities signed counts.
        weights: "Wgg"..., to be divided by the parameter "bwweightscale".
        signatures: those of known algorithms.
    """

    data: bytes = field(repr=False)
    signed_size: int
    flavor: Flavor
    method: int
    valid_after: int
    fresh_until: int
    valid_until: int
    known_flags: frozenset[str]
    params: Mapping[str, int]
    required_relay: Protocols
    required_client: Protocols
    recommended_relay: Protocols
    recommended_client: Protocols
    shared_random: tuple[bytes | None, bytes | None]
    relays: tuple[RelayStatus, ...] = field(repr=False)
    skipped: int
    weights: Mapping[str, int]
    signatures: tuple[DirectorySignature, ...] = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Consensus:
        """Raises ParseError, which says what is wrong."""
        if len(data) > MAX_CONSENSUS or data.count(b"\n") > MAX_LINES:
            raise ParseError(f"a consensus of more than {MAX_CONSENSUS} bytes or {MAX_LINES} lines")
        signatures_at = data.find(_SIGNATURE_START) + 1
        footer_at = data.find(_FOOTER_START, 0, signatures_at) + 1
        if not footer_at:
            raise ParseError("a consensus without footer or signatures")
        relays_at = data.find(b"\nr ", 0, footer_at) + 1 or footer_at
        header = Document(data[:relays_at], "consensus", MAX_HEADER)
        flavor = _flavor(header.first("network-status-version"))
        if header.one("vote-status").words(1) != ["consensus"]:
            raise ParseError("not a consensus, but a vote")
        valid_after, fresh_until, valid_until = (
            header.one(name).date() for name in ("valid-after", "fresh-until", "valid-until")
        )
        if not valid_after < fresh_until < valid_until:
            raise ParseError("a consensus whose dates are out of order")
        params = header.optional("params")
        relays, skipped = _relays(data[relays_at:footer_at], flavor)
        footer = Document(data[footer_at:signatures_at], "consensus", MAX_HEADER)
        weights = footer.optional("bandwidth-weights")
        return cls(
            data=data,
            signed_size=signatures_at - 1 + len(_SIGNATURE_START),
            flavor=flavor,
            method=header.one("consensus-method").integer(),
            valid_after=valid_after,
            fresh_until=fresh_until,
            valid_until=valid_until,
            known_flags=frozenset(header.one("known-flags").entries()),
            params={} if params is None else params.numbers(),
            required_relay=_protocols(header, "required-relay-protocols"),
            required_client=_protocols(header, "required-client-protocols"),
            recommended_relay=_protocols(header, "recommended-relay-protocols"),
            recommended_client=_protocols(header, "recommended-client-protocols"),
            shared_random=(_random(header, "previous"), _random(header, "current")),
            relays=relays,
            skipped=skipped,
            weights={} if weights is None else weights.numbers(),
            signatures=_signatures(Document(data[signatures_at:], "consensus", MAX_HEADER)),
        )

    def digest(self, algorithm: str) -> bytes:
        """What is signed: SHA-1 ("sha1") or SHA-256 ("sha256") of the signed part."""
        return (sha256 if algorithm == "sha256" else sha1)(self.data[: self.signed_size]).digest()

    @cached_property
    def diff_base(self) -> str:
        """What names this consensus in X-Or-Diff-From-Consensus (dir-spec 4.5.2): SHA3-256 of the signed part, hex."""
        return sha3_256(self.data[: self.signed_size]).hexdigest().upper()

    @cached_property
    def by_identity(self) -> Mapping[bytes, RelayStatus]:
        """The relays by their RSA identities."""
        return {relay.identity: relay for relay in self.relays}

    def param(self, name: str, default: int, least: int, most: int) -> int:
        """A parameter, within its bounds (param-spec)."""
        return min(max(self.params.get(name, default), least), most)


def _flavor(version: Item) -> Flavor:
    words = version.args
    if words[:1] != ["3"]:
        raise ParseError("a consensus of an unknown version")
    try:
        return Flavor(words[1] if len(words) > 1 else Flavor.NS)
    except ValueError:
        raise ParseError("a consensus of an unknown flavor") from None


def _protocols(header: Document, keyword: str) -> Protocols:
    item = header.optional(keyword)
    try:
        return Protocols.parse(item.rest if item else "")
    except ParseError:
        return Protocols({})


def _random(header: Document, which: str) -> bytes | None:
    item = header.optional(f"shared-rand-{which}-value")
    try:
        return None if item is None else parse_base64(item.words(2)[1], "a shared random value", 32)
    except ParseError:
        return None


def _signatures(document: Document) -> tuple[DirectorySignature, ...]:
    found = []
    items = document.many("directory-signature", SIGNATURE)
    if len(items) > MAX_SIGNATURES:
        raise ParseError(f"a consensus with more than {MAX_SIGNATURES} signatures")
    for item in items:
        algorithm, identity, key = item.words(3) if len(item.args) > 2 else ["sha1", *item.words(2)]
        if algorithm in ("sha1", "sha256"):
            what = "a signature of a consensus"
            found.append(DirectorySignature(algorithm, parse_hex(identity, what), parse_hex(key, what), item.data))
    return tuple(found)


# -- relays: there are thousands, so they are read line by line, and what many have in common is read once


def _relays(section: bytes, flavor: Flavor) -> tuple[tuple[RelayStatus, ...], int]:
    """All that can be read, and how many others there are."""
    entries = ("\n" + utf8(section, "consensus")).split("\nr ")[1:]
    if len(entries) > MAX_RELAYS:
        raise ParseError(f"a consensus with more than {MAX_RELAYS} relays")
    flags: dict[str, frozenset[str]] = {}
    protocols: dict[str, Protocols] = {}
    found: list[RelayStatus] = []
    last = b""
    for entry in entries:
        try:
            relay = _relay(entry, flavor, flags, protocols)
        except ParseError:
            continue
        if relay.identity <= last:
            raise ParseError("a consensus whose relays are out of order")
        last = relay.identity
        found.append(relay)
    return tuple(found), len(entries) - len(found)


def _relay(
    entry: str, flavor: Flavor, flags: dict[str, frozenset[str]], protocols: dict[str, Protocols]
) -> RelayStatus:
    lines = entry.split("\n")
    match = _RELAY.fullmatch(lines[0])
    if match is None:
        raise ParseError("a relay without a valid first line")
    nickname, identity, digest, address, or_port, dir_port = match.groups()
    values: dict[str, str] = {}
    address6 = ""
    for line in lines[1:]:
        keyword, _, rest = line.partition(" ")
        if keyword in _ONCE:
            if keyword in values:
                raise ParseError("a relay has the same line twice")
            values[keyword] = rest
        elif keyword == "a" and rest.startswith("[") and not address6:
            address6 = rest.partition(" ")[0]
    flag_line, protocol_line, weight = values.get("s", ""), values.get("pr", ""), values.get("w", "")
    if flag_line not in flags:
        flags[flag_line] = frozenset(blank_separated(flag_line))
    if protocol_line not in protocols:
        protocols[protocol_line] = Protocols.parse(protocol_line)
    bandwidth = _BANDWIDTH.fullmatch(weight)
    ports = int(or_port), int(dir_port)
    if "s" not in values or max(ports) > 65535 or (weight and bandwidth is None):
        raise ParseError("a relay without flags or with a number that is none")
    if flavor is Flavor.MICRODESC:
        digest = values.get("m", "").partition(" ")[0]
    return RelayStatus(
        nickname,
        _digest(identity, 20),
        _digest(digest or "", 32 if flavor is Flavor.MICRODESC else 20),
        address,
        *ports,
        flags[flag_line],
        protocols[protocol_line],
        min(int(bandwidth[1]), MAX_BANDWIDTH) if bandwidth else 0,
        "Unmeasured=1" not in weight,
        values.get("v", ""),
        address6,
    )


def _digest(text: str, size: int) -> bytes:
    """`parse_base64` of unpadded text, three times as fast."""
    try:
        data = a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (Base64Error, ValueError):
        data = b""
    if len(data) != size:
        raise ParseError("a relay without a valid digest")
    return data
