"""A node's settings: a TOML file, checked whole before anything starts.

Does: read the file into frozen records, with a default for every setting; name the key, the line and what is allowed
when something is wrong; write an example.
Does not: act on any setting.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from convergence.circuit.relaying import RelayLimits
from convergence.errors import ConvergenceError
from convergence.facilitator.registry import MAX_CHANNELS, MAX_REGISTERED
from convergence.wire.exitpolicy import Rule
from convergence.wire.sharedrandom import MAX_FACILITATORS
from pynode.exit import DEFAULT_PORTS, ExitPolicy
from pynode.origins import origin
from pynode.redis_address import RedisAddress, parse_redis

ROLES = ("relay", "rdv", "exit")
ANYWHERE = ("0.0.0.0", "::", "")
LEVELS = ("debug", "info", "warning", "error")
MAX_URL = 512
MAX_NAME = 64
MAX_HOST = 253
MAX_CONTACT = 256
MAX_RATE = 1 << 40
MAX_STUN = 4
"""STUN servers. Browsers warn of slow discovery where there are more."""


class ConfigError(Exception):
    """The settings cannot be used. The message names the file, the key, what is
    allowed and, if it is known, the line."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """$XDG_DATA_HOME/convergence, or ~/.local/share/convergence."""
    base = environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "convergence"


# -- what a setting may be: functions that return the value or raise ValueError with what is allowed


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise ValueError(f"a text of 1 to {MAX_NAME} printable characters in quotes")
    return value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def _choice(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("one of " + ", ".join(f'"{choice}"' for choice in choices))
        return str(value)

    return check


def _roles(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(role, str) and role in ROLES for role in value):
        raise ValueError('a list of "relay", "rdv" and "exit"')
    return tuple(role for role in ROLES if role in value)


def check_listen(value: Any) -> Address:
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        if host and port.isascii() and port.isdigit() and int(port[:6]) < 65536:
            return Address(host.removeprefix("[").removesuffix("]"), int(port))
    raise ValueError('"host:port", for example "0.0.0.0:9001" (port 0: any free one)')


def check_url(value: Any) -> str:
    try:
        parts = urlsplit(value if isinstance(value, str) and value.isprintable() else "")
        if parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0 and len(value) <= MAX_URL:
            return str(value)
    except ValueError:
        pass
    raise ValueError('a WebSocket address such as "wss://node.example/"')


def check_identity(value: Any) -> bytes:
    if isinstance(value, str) and re.fullmatch("[0-9a-fA-F]{64}", value):
        return bytes.fromhex(value)
    raise ValueError("64 hexadecimal digits: a node's identity (a facilitator's is in its /network.json)")


def _folder(value: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path in quotes")
    return Path(value).expanduser()


def _ports(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(port) is int and 0 < port < 65536 for port in value):
        raise ValueError("a list of ports between 1 and 65535")
    return tuple(value)


def _hosts(value: Any) -> tuple[str, ...]:
    allowed = 'a list of hosts: "name", "*.suffix", "*", address or network, each with or without ":port"'
    if not isinstance(value, list) or not all(isinstance(host, str) for host in value):
        raise ValueError(allowed)
    try:
        ExitPolicy(hosts=value)
    except ValueError as error:
        raise ValueError(f"{allowed}; {error}") from None
    return tuple(value)


def _origins(value: Any) -> tuple[str, ...]:
    try:
        if isinstance(value, list):
            return tuple(origin(str(one)) for one in value)
    except ValueError:
        pass
    raise ValueError('a list of origins such as "https://site.example", or ["*"] for all')


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(name, str) and is_host_name(name) for name in value):
        return tuple(value)
    raise ValueError('a list of host names such as "site.example", without ports')


def check_stun(value: Any) -> str:
    if isinstance(value, str) and (match := re.fullmatch(r"stun:([A-Za-z0-9.-]+)(?::([0-9]{1,5}))?", value)):
        if len(match[1]) <= MAX_HOST and 0 < int(match[2] or 3478) < 65536:
            return value
    raise ValueError('the address of a STUN server such as "stun:stun.example:3478"')


def _stun(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and len(value) <= MAX_STUN:
        return tuple(check_stun(one) for one in value)
    raise ValueError(f'a list of at most {MAX_STUN} STUN servers such as "stun:stun.example:3478"')


def _nickname(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[A-Za-z0-9]{1,19}", value):
        return value
    raise ValueError("1 to 19 letters and digits")


def _contact(value: Any) -> str:
    if isinstance(value, str) and len(value) <= MAX_CONTACT and value.isascii() and value.isprintable():
        return value
    raise ValueError(f"at most {MAX_CONTACT} printable characters of ASCII")


def _ipv4(value: Any) -> str:
    try:
        return str(IPv4Address(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError('an IPv4 address such as "192.0.2.1"') from None


def _ipv6(value: Any) -> str:
    try:
        return str(IPv6Address(value if isinstance(value, str) and "%" not in value else ""))
    except ValueError:
        raise ValueError('an IPv6 address such as "2001:db8::1"') from None


def _listen6(value: Any) -> Address:
    address = check_listen(value)
    return Address(_ipv6(address.host), address.port)


def _is_ipv4(text: str) -> bool:
    try:
        return bool(_ipv4(text))
    except ValueError:
        return False


def _rules(value: Any) -> tuple[Rule, ...]:
    allowed = 'a list of rules such as "accept *:443" and "reject 192.0.2.0/24:*"'
    if not isinstance(value, list) or not all(isinstance(rule, str) for rule in value):
        raise ValueError(allowed)
    try:
        return tuple(Rule.parse(*rule.split(maxsplit=1)) for rule in value)
    except (ConvergenceError, TypeError):
        raise ValueError(allowed) from None


def _store(value: Any) -> RedisAddress:
    return parse_redis(value if isinstance(value, str) else "")


def _partners(value: Any) -> tuple[tuple[bytes, str], ...]:
    if isinstance(value, list) and len(value) < MAX_FACILITATORS:
        with suppress(ValueError, AttributeError):
            parts = [item.partition("@") for item in value]
            found = {check_identity(identity): check_url(address) for identity, _, address in parts}
            if len(found) == len(value):
                return tuple(found.items())
    raise ValueError(f'up to {MAX_FACILITATORS - 1} of ["<identity, 64 digits>@wss://site.example/facilitator"]')


def is_host_name(text: str) -> bool:
    """Whether a Host header may say this (without a port). IPv6 addresses stand without brackets."""
    return 0 < len(text) <= MAX_HOST and all(c.isascii() and (c.isalnum() or c in "-_.:") for c in text)


def _setting(default: Any, check: Callable[[Any], Any], example: str, meaning: str) -> Any:
    metadata = {"check": check, "example": example, "meaning": meaning}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


# -- the settings


@dataclass(frozen=True, slots=True)
class Node:
    name: str = _setting("node", _text, '"relay-1"', "marks this node's log lines")
    roles: tuple[str, ...] = _setting((), _roles, '["relay", "rdv"]', "what it does for others; [] for nothing")
    listen: Address | None = _setting(None, check_listen, '"0.0.0.0:9001"', "where links are accepted")
    url: str | None = _setting(None, check_url, '"wss://node.example/"', "what others dial to reach `listen`")
    tls: Address | None = _setting(
        None, check_listen, '"0.0.0.0:9443"', "where relays of Tor open links to it, for files that come through Tor"
    )
    tls_address: str | None = _setting(
        None, _ipv4, '"192.0.2.1"', "where they reach `tls`, if that names no IPv4 address of its own"
    )
    data: Path = _setting(default_data_dir, _folder, '"~/.local/share/convergence"', "keys, pieces and database")
    facilitator: str | None = _setting(
        None, check_url, '"wss://site.example/facilitator"', "where nodes find each other"
    )
    facilitator_identity: bytes | None = _setting(
        None,
        check_identity,
        '"' + "0" * 64 + '"',
        "whose lists are believed",
    )
    origins: tuple[str, ...] = _setting(
        (), _origins, '["https://site.example"]', 'sites whose pages may connect; ["*"]: all; its own site always may'
    )


@dataclass(frozen=True, slots=True)
class Exit:
    ports: tuple[int, ...] = _setting(DEFAULT_PORTS, _ports, "[80, 443]", "reachable on hosts listed without a port")
    hosts: tuple[str, ...] = _setting(
        ("*",), _hosts, '["*", "192.168.1.5:8080"]', "reachable hosts; private addresses only if listed as such"
    )


@dataclass(frozen=True, slots=True)
class Circuits:
    hops: int = _setting(2, _whole(1, 5), "2", "between peers")
    exit_hops: int = _setting(3, _whole(1, 5), "3", "towards exits")
    introducer: bytes | None = _setting(None, check_identity, '"' + "0" * 64 + '"', "asked first for introductions")
    group: bool = _setting(
        False, _flag, "true", "all files or services share circuits: points see that they are of one node"
    )


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = _setting(4096, _whole(1, 1_000_000), "4096", "links at a time")
    connections_from_one: int = _setting(
        512, _whole(1, 1_000_000), "512", "of them from one address; this machine's own is not limited"
    )
    exit_channels: int = _setting(1024, _whole(0, 100_000), "1024", "exit connections at a time; above 1024 it is 1024")
    rate: int | None = _setting(None, _whole(1024, MAX_RATE), "12500000", "bytes a second that it relays")
    burst: int | None = _setting(None, _whole(1024, MAX_RATE), "25000000", "bytes that it relays at once after a pause")

    @property
    def relayed(self) -> RelayLimits:
        """On what the node relays."""
        return RelayLimits(rate=self.rate, burst=self.burst)


@dataclass(frozen=True, slots=True)
class Rtc:
    enabled: bool = _setting(True, _flag, "true", "WebRTC links: with nodes that have no address, such as browsers")
    stun: tuple[str, ...] = _setting(
        (), _stun, '["stun:stun.example:3478"]', "servers that tell a node its public address, and see it"
    )

    @property
    def servers(self) -> tuple[str, ...] | None:
        """The STUN servers; None when there are to be no WebRTC links."""
        return self.stun if self.enabled else None


@dataclass(frozen=True, slots=True)
class Tor:
    entry: bool = _setting(
        False, _flag, "true", "a relay of Convergence (also of `convergence up`) leads into the Tor network"
    )
    listen: Address | None = _setting(
        None, check_listen, '"0.0.0.0:9001"', "the ORPort; where it is set, `convergence relay` is a relay of Tor"
    )
    address: str | None = _setting(None, _ipv4, '"192.0.2.1"', "where others reach `listen`, if that names none")
    listen6: Address | None = _setting(None, _listen6, '"[::]:9001"', "the same over IPv6, besides")
    address6: str | None = _setting(None, _ipv6, '"2001:db8::1"', "where others reach `listen6`, if that names none")
    nickname: str = _setting("Unnamed", _nickname, '"Convergence"', "as people call this relay")
    contact: str = _setting("", _contact, '"operator@node.example"', "whom people write to about it; it is published")
    network: Path | None = _setting(
        None, _folder, '"network.txt"', "DirAuthority and FallbackDir lines; without it, the public network"
    )
    policy: tuple[Rule, ...] = _setting(
        (), _rules, '["accept *:80", "accept *:443"]', "what it connects to as an exit, and to nothing else"
    )
    ipv6_exit: bool = _setting(False, _flag, "true", "connect to IPv6 addresses too, as an exit")
    private: bool = _setting(
        False, _flag, "false", "connect to private addresses too, of relays and as an exit; for test networks"
    )
    assume_reachable: bool = _setting(
        False, _flag, "false", "tell of itself without a test whether others reach it; for test networks"
    )
    accounting: int | None = _setting(
        None, _whole(1 << 20, 1 << 60), "1000000000000", "bytes that it relays in each period; then it hibernates"
    )
    accounting_days: int = _setting(30, _whole(1, 366), "30", "the period, days")
    metrics: Address | None = _setting(
        None, check_listen, '"127.0.0.1:9035"', "where Prometheus reads figures, for all who reach it; nothing of users"
    )


@dataclass(frozen=True, slots=True)
class Log:
    level: str = _setting("info", _choice(*LEVELS), '"info"', "debug, info, warning or error")
    json: bool = _setting(False, _flag, "false", "one JSON object a line")


@dataclass(frozen=True, slots=True)
class Site:
    listen: Address = _setting(
        lambda: Address("127.0.0.1", 8700), check_listen, '"127.0.0.1:8700"', "the page's address"
    )
    name: str = _setting("Convergence", _text, '"Convergence"', "shown on the page")
    files: Path | None = _setting(None, _folder, '"dist"', "what `build.py build` wrote")
    hosts: tuple[str, ...] = _setting((), _names, '["site.example"]', "names by which it is reached, as by a proxy")


@dataclass(frozen=True, slots=True)
class Facilitator:
    nodes: int = _setting(
        MAX_REGISTERED, _whole(16, 4_000_000), "65536", "nodes that it knows at once: 3 kB of memory for each"
    )
    channels: int = _setting(
        MAX_CHANNELS, _whole(1, 60_000), "4096", "nodes connected to it at once: 22 kB of memory for each"
    )
    store: RedisAddress | None = _setting(
        None, _store, '"redis://127.0.0.1:6379/0"', "shared with the other facilitators of the same name, in Redis"
    )
    draws_with: tuple[tuple[bytes, str], ...] = _setting(
        (),
        _partners,
        f'["{"0" * 64}@wss://b.example/"]',
        "who draws too",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, one attribute a section."""

    node: Node = field(default_factory=Node)
    exit: Exit = field(default_factory=Exit)
    circuits: Circuits = field(default_factory=Circuits)
    limits: Limits = field(default_factory=Limits)
    rtc: Rtc = field(default_factory=Rtc)
    tor: Tor = field(default_factory=Tor)
    log: Log = field(default_factory=Log)
    site: Site = field(default_factory=Site)
    facilitator: Facilitator = field(default_factory=Facilitator)


_SECTIONS: dict[str, type[Any]] = {
    "node": Node,
    "exit": Exit,
    "circuits": Circuits,
    "limits": Limits,
    "rtc": Rtc,
    "tor": Tor,
    "log": Log,
    "site": Site,
    "facilitator": Facilitator,
}


def load(path: Path) -> Config:
    """Read a settings file.

    Raises:
        ConfigError: it cannot be read, or a setting is unknown or wrong.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {os.strerror(error.errno or 0)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: it is no UTF-8 text") from error
    return parse(text, str(path))


def parse(text: str, where: str = "settings") -> Config:
    """Settings from TOML text; `where` is what errors call it. Raises ConfigError."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: this is not TOML: {error}") from error

    def wrong(section: str, key: str | None, what: str) -> ConfigError:
        line = _line(text, section, key)
        return ConfigError(f"{where}{f', line {line}' if line else ''}: {what}")

    sections = {}
    for section, table in tables.items():
        if section not in _SECTIONS:
            raise wrong(section, None, f"unknown section [{section}]; there are {_listed(_SECTIONS)}")
        if not isinstance(table, dict):
            raise wrong(section, None, f"{section} must be a section: [{section}]")
        known = {one.name: one.metadata["check"] for one in fields(_SECTIONS[section])}
        values = {}
        for key, value in table.items():
            if key not in known:
                raise wrong(section, key, f"unknown setting {section}.{key}; [{section}] has {_listed(known)}")
            try:
                values[key] = known[key](value)
            except ValueError as error:
                raise wrong(section, key, f"{section}.{key} must be {error}") from None
        sections[section] = _SECTIONS[section](**values)
    config = Config(**sections)
    _check_together(config, wrong)
    return config


def _check_together(config: Config, wrong: Callable[[str, str | None, str], ConfigError]) -> None:
    node = config.node
    if node.roles and node.listen is None and not config.rtc.enabled:
        message = f"without WebRTC, a node with roles needs node.listen: {_allowed(check_listen)}"
        raise wrong("node", "roles", message)
    if _lacks_address(node.tls, node.tls_address):
        raise wrong("node", "tls", "with this node.tls, others need to know node.tls_address: " + _allowed(_ipv4))
    tor = config.tor
    if _lacks_address(tor.listen, tor.address):
        raise wrong("tor", "listen", "with this tor.listen, others need to know tor.address: " + _allowed(_ipv4))
    if tor.listen6 is not None and tor.address6 is None and tor.listen6.host in ANYWHERE:
        raise wrong("tor", "listen6", "with this tor.listen6, others need to know tor.address6: " + _allowed(_ipv6))
    limits = config.limits
    if limits.burst is not None and (limits.rate is None or limits.burst < limits.rate):
        raise wrong("limits", "burst", "limits.burst must not be less than limits.rate")


def _lacks_address(listen: Address | None, address: str | None) -> bool:
    """Whether others cannot tell the IPv4 address of this port."""
    return listen is not None and address is None and (listen.host in ANYWHERE or not _is_ipv4(listen.host))


def write_example() -> str:
    """A settings file: every setting with an example value, commented out, and its meaning."""
    lines = ["# Settings of a Convergence node. Every one may be left out.", ""]
    for section, record in _SECTIONS.items():
        lines.append(f"[{section}]")
        lines += [f"# {one.name} = {one.metadata['example']}  # {one.metadata['meaning']}" for one in fields(record)]
        lines.append("")
    return "\n".join(lines)


def _allowed(check: Callable[[Any], Any]) -> str:
    try:
        check(None)
    except ValueError as error:
        return str(error)
    return "anything"


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names)


def _line(text: str, section: str, key: str | None) -> int | None:
    """The line that sets `key` of `section` (or the section). None when TOML spells it in a way that is not found."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*[\"']?([^\]\"']+?)[\"']?\s*\]", line)
        if header:
            current = header[1]
            if key is None and current == section:
                return number
        setting = re.match(r"\s*[\"']?([\w-]+)[\"']?\s*[=.]", line)
        if setting and (current, setting[1]) in ((section, key), ("", section)):
            return number
    return None
