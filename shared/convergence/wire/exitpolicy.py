"""Exit policies (dir-spec 2.1.3, 3.8.2): to which addresses and ports an exit connects.

Does: parse, encode and answer, for lists of rules ("reject 10.0.0.0/8:*") and for summaries ("accept 80,443").
Does not: choose exits, or enforce anything at one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import pairwise

from convergence.errors import ParseError
from convergence.wire.netdoc import blank_separated, parse_integer

MAX_PORT = 65535
MAX_SUMMARY = 1000
"""Characters of a summary, with its first word."""
MAX_RULES = 2048

ANYWHERE6 = IPv6Network("::/0")
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """A summary: ports to which most addresses are allowed or refused.

    Args:
        accept: whether `ranges` are those allowed.
        ranges: (first, last), ascending, none touching another's ports.
    """

    accept: bool
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> PortPolicy:
        """Raises ParseError."""
        words = blank_separated(text)
        if len(text) > MAX_SUMMARY or len(words) < 2 or words[0] not in ("accept", "reject"):
            raise ParseError("no valid summary of an exit policy")
        ranges = tuple(_port_range(part, 1) for part in words[1].split(","))
        if any(last >= low for (_, last), (low, _) in zip(ranges, ranges[1:], strict=False)):
            raise ParseError("the ports of an exit policy's summary are out of order")
        return cls(words[0] == "accept", ranges)

    def allows(self, address: Address | None, port: int) -> bool:
        """Whether the exit would most likely connect there. A summary does not depend on the address."""
        at = bisect_right(self.ranges, (port, MAX_PORT)) - 1
        return 0 < port <= MAX_PORT and (at >= 0 and port <= self.ranges[at][1]) == self.accept

    @property
    def refuses_all(self) -> bool:
        """Whether no port is allowed."""
        return not self.accept and self.ranges == ((1, MAX_PORT),)

    def __str__(self) -> str:
        ports = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)
        return f"{'accept' if self.accept else 'reject'} {ports}"


REJECT_ALL = PortPolicy(False, ((1, MAX_PORT),))
"""What a missing summary means."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a policy.

    Args:
        network: which addresses; None: all.
        low, high: which ports.
    """

    accept: bool
    network: Network | None
    low: int
    high: int

    @classmethod
    def parse(cls, keyword: str, pattern: str) -> Rule:
        """A rule from its keyword, "accept" or "reject", and its pattern. Raises ParseError."""
        address, colon, ports = pattern.rpartition(":")
        if not colon or keyword not in ("accept", "reject"):
            raise ParseError("no valid rule of an exit policy")
        low, high = (1, MAX_PORT) if ports == "*" else _port_range(ports, 0)
        return cls(keyword == "accept", None if address == "*" else _network(address), low, high)

    def __str__(self) -> str:
        return f"{'accept' if self.accept else 'reject'} {self.pattern}"

    @property
    def pattern(self) -> str:
        """The rule without its keyword."""
        if (self.low, self.high) == (1, MAX_PORT):
            ports = "*"
        else:
            ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        return f"{_format_network(self.network)}:{ports}"


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Rules, of which the first that matches decides. Where none does, all is allowed."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> ExitPolicy:
        """Raises ParseError for more than MAX_RULES."""
        found = tuple(rules)
        if len(found) > MAX_RULES:
            raise ParseError(f"an exit policy of more than {MAX_RULES} rules")
        return cls(found)

    def allows(self, address: Address | None, port: int) -> bool:
        """Whether the exit would connect there. None stands for an address that is not known yet, as of a host name:
        then only rules for all addresses decide."""
        if not 0 < port <= MAX_PORT:
            return False
        for rule in self.rules:
            if rule.low <= port <= rule.high and (
                rule.network is None or (address is not None and address in rule.network)
            ):
                return rule.accept
        return True

    def summary6(self) -> PortPolicy:
        """The ports that are allowed to most addresses of IPv6: what single networks may not reach does not show."""
        rules = [rule for rule in self.rules if rule.network in (None, ANYWHERE6)]
        cuts = sorted({1, MAX_PORT + 1, *(max(rule.low, 1) for rule in rules), *(rule.high + 1 for rule in rules)})
        allowed: list[tuple[int, int]] = []
        refused: list[tuple[int, int]] = []
        for low, after in pairwise(cuts):
            accept = next((rule.accept for rule in rules if rule.low <= low <= rule.high), True)
            ranges = allowed if accept else refused
            if ranges and ranges[-1][1] == low - 1:
                ranges[-1] = ranges[-1][0], after - 1
            else:
                ranges.append((low, after - 1))
        summaries = [
            PortPolicy(accept, tuple(ranges)) for accept, ranges in ((True, allowed), (False, refused)) if ranges
        ]
        return min(summaries, key=lambda summary: len(str(summary)))


def _port_range(text: str, least: int) -> tuple[int, int]:
    first, dash, second = text.partition("-")
    low = parse_integer(first, "port", least, MAX_PORT)
    high = parse_integer(second, "port", least, MAX_PORT) if dash else low
    if low > high:
        raise ParseError("an exit policy has a range of ports that ends before it begins")
    return low, high


def _network(text: str) -> Network:
    """An address or a network; IPv6 has its address in brackets: "[2001:db8::]/32"."""
    address, slash, mask = text.partition("/")
    bracketed = address.startswith("[") and address.endswith("]")
    try:
        ip = ip_address(address[1:-1] if bracketed else address)
        if bracketed != (ip.version == 6) or getattr(ip, "scope_id", None):
            raise ValueError
        return ip_network(f"{ip}/{_bits(mask, ip) if slash else ip.max_prefixlen}", strict=False)
    except ValueError:
        raise ParseError("an exit policy has an address that is none") from None


def _bits(mask: str, ip: Address) -> int:
    """How many bits a mask has, which is that number or, in IPv4, a dotted quad."""
    if ip.version == 6 or "." not in mask:
        return parse_integer(mask, "mask", 0, ip.max_prefixlen)
    inverse = int(IPv4Address(mask)) ^ 0xFFFFFFFF
    if inverse & (inverse + 1):
        raise ParseError("an exit policy has a mask with gaps")
    return 32 - inverse.bit_length()


def _format_network(network: Network | None) -> str:
    if network is None:
        return "*"
    address = str(network.network_address)
    bits = "" if network.prefixlen == network.max_prefixlen else f"/{network.prefixlen}"
    return f"[{address}]{bits}" if network.version == 6 else address + bits
