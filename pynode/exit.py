"""What an exit lets its users reach.

Does: judge a host, an address and a port, by an allow-list or by the rules that a relay of the Tor network publishes;
name the reasons why an exit's channel ends.
Does not: look names up or connect; a name is judged by the address it resolved to, and that very address is dialled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol, TypeAlias

from convergence.wire.exitpolicy import REJECT_ALL, Rule
from convergence.wire.exitpolicy import ExitPolicy as TorRules

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


class CloseReason(StrEnum):
    """Why a TCP channel closed: the words that the core maps to END reasons."""

    DONE = "done"  # the server closed its side in good order
    REFUSED = "refused"  # the server, or a full exit, takes no connection
    POLICY = "policy"
    RESOLVE = "resolve"  # no such name
    TIMEOUT = "timeout"
    RESET = "reset"
    UNREACHABLE = "unreachable"
    LIMIT = "limit"  # this exit holds as many connections as it may


# fmt: off
DEFAULT_PORTS = (
    21, 22, 43, 53, 80, 110, 143, 443, 465, 587, 853, 993, 995, 5222, 5223, 6667, 6697, 8080, 8333, 8443, 9418,
)
# fmt: on
"""Web, secure mail, name look-ups, chat, git and Bitcoin. No port 25: exits that carry it are used for spam."""

_RESERVED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier NAT (RFC 6598)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, cloud metadata (RFC 3927)
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
"""All that IANA hands out as global unicast; everything else (loopback, local, multicast, mapped...) is reserved."""

_RESERVED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_MAX_HOST = 253


def plain_address(text: str) -> Address | None:
    """The address that packets to `text` end at: the IPv4 address inside a mapped, NAT64 or 6to4 address.
    None when `text` is no address, or has a zone (fe80::1%eth0)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    if address.scope_id is not None:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether an address (as `plain_address` gives it) belongs to the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _RESERVED_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _RESERVED_V6)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One entry of the host list. Exactly one of `network` and `name` is set; a name starting with "." is a suffix,
    "*" is every host. `port` None stands for the policy's ports."""

    name: str | None
    network: Network | None
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> _Rule:
        text, port = entry.strip().lower(), None
        if text.startswith("["):  # [2001:db8::1]:443
            text, bracket, rest = text[1:].partition("]")
            if rest or not bracket:
                port = _port(rest.removeprefix(":"), entry)
        elif text.count(":") == 1:
            text, _, number = text.partition(":")
            port = _port(number, entry)
        try:
            return cls(None, ip_network(text), port)
        except ValueError:
            name = text.removeprefix("*") if text.startswith("*.") else text.rstrip(".")
        stem = name.removeprefix(".")
        if name != "*" and not (stem and len(stem) <= _MAX_HOST and all(c.isalnum() or c in "-_." for c in stem)):
            raise ValueError(f'"{entry}" is no host, "*.suffix", network or "host:port"') from None
        return cls(name, None, port)

    @property
    def is_reserved(self) -> bool:
        """Whether the whole network is reserved: only then does the entry mean reserved addresses."""
        network = self.network
        if network is None:
            return False
        if isinstance(network, IPv4Network):
            return any(network.subnet_of(reserved) for reserved in _RESERVED_V4)
        return not network.overlaps(_GLOBAL_V6) or any(network.subnet_of(reserved) for reserved in _RESERVED_V6)

    def covers_host(self, host: str) -> bool:
        if self.name is None:
            return False
        return self.name == "*" or host == self.name or (self.name.startswith(".") and host.endswith(self.name))

    def covers_address(self, address: Address) -> bool:
        return self.network is not None and address.version == self.network.version and address in self.network


class Policy(Protocol):
    """What an exit's transport asks."""

    def may_permit(self, host: str, port: int | None) -> bool:
        """Whether it can be useful to look `host` up (port None: for any port)."""
        ...

    def permits(self, host: str, address: str, port: int | None) -> bool:
        """Whether `address`, which `host` resolved to, may be reached on `port` (None: on any port)."""
        ...


class Everything:
    """A Policy that refuses nothing: for channels to what the configuration names."""

    def may_permit(self, host: str, port: int | None) -> bool:
        return True

    def permits(self, host: str, address: str, port: int | None) -> bool:
        return True


class ExitPolicy:
    """An allow-list. What no entry allows is refused; reserved addresses (private, loopback, link-local, multicast
    and the like) are refused unless an entry names them as an address or a reserved network.

    Args:
        ports: allowed for entries that name no port.
        hosts: entries "name", "*.suffix", "*", an address, a network ("192.0.2.0/24"), each with or without ":port"
            (IPv6 then in brackets).

    Raises:
        ValueError: an entry or a port makes no sense; the message quotes it.
    """

    def __init__(self, ports: Iterable[int] = DEFAULT_PORTS, hosts: Iterable[str] = ("*",)) -> None:
        self._ports = frozenset(_port(port, str(port)) for port in ports)
        self._rules = tuple(_Rule.parse(entry) for entry in hosts)

    def may_permit(self, host: str, port: int | None) -> bool:
        """Whether it can be useful to look `host` up (port None: for any port)."""
        host = host.lower().rstrip(".")
        if not host or len(host) > _MAX_HOST or not host.isprintable():
            return False
        return any(
            self._port_fits(rule, port) and (rule.network is not None or rule.covers_host(host)) for rule in self._rules
        )

    def permits(self, host: str, address: str, port: int | None) -> bool:
        """Whether `address`, which `host` resolved to, may be reached on `port` (None: on any port)."""
        host = host.lower().rstrip(".")
        plain = plain_address(address)
        if plain is None:
            return False
        public = is_public(plain)
        return any(
            self._port_fits(rule, port)
            and (rule.covers_address(plain) if rule.network is not None else rule.covers_host(host))
            and (public or rule.is_reserved)
            for rule in self._rules
        )

    def _port_fits(self, rule: _Rule, port: int | None) -> bool:
        if port is None:
            return rule.port is not None or bool(self._ports)
        return port == rule.port if rule.port is not None else port in self._ports


def _port(value: int | str, entry: str) -> int:
    if isinstance(value, bool) or not str(value).isascii() or not str(value).isdigit() or not 0 < int(value) < 65536:
        raise ValueError(f'"{entry}" has no port between 1 and 65535')
    return int(value)


PRIVATE = ("0.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12")
"""What relays of the Tor network publish that they refuse. Authorities leave just these out of a policy's summary."""


class TorPolicy:
    """The rules of an exit of the Tor network.

    Args:
        rules: the first that fits decides; what none fits is refused.
        private: whether addresses that are not on the internet may be reached, too.
        ipv6: whether IPv6 addresses may.
    """

    def __init__(self, rules: Iterable[Rule], private: bool = False, ipv6: bool = False) -> None:
        local = [] if private else [Rule.parse("reject", f"{network}:*") for network in PRIVATE]
        own = tuple(rules)
        accepts = any(rule.accept for rule in own)
        last = Rule.parse("reject", "*:*")
        self._rules = TorRules.of([*own, last])
        four = (rule for rule in own if not isinstance(rule.network, IPv6Network))
        self.published = TorRules.of([*(local if accepts else []), *four, last])
        self.published6 = self._rules.summary6() if ipv6 else REJECT_ALL
        self._private = private
        self._ipv6 = ipv6

    def may_permit(self, host: str, port: int | None) -> bool:
        return any(rule.accept and (port is None or rule.low <= port <= rule.high) for rule in self._rules.rules)

    def permits(self, host: str, address: str, port: int | None) -> bool:
        plain = plain_address(address)
        if plain is None or not (self._private or is_public(plain)):
            return False
        if isinstance(plain, IPv6Address):
            return self._ipv6 and (port is None or self._rules.allows(plain, port))
        return port is None or self.published.allows(plain, port)
