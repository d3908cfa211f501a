"""Which web pages may talk to a server of ours, by the Host and Origin headers that browsers send.

Does: say whether a server answers to the host in a request (this ends DNS rebinding), and whether a page of some origin
may open a WebSocket.
Does not: keep programs out: they send what they like.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

ANY = "*"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine: a page may come by one and dial the other."""

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_HEADER = 300


def origin(url: str) -> str:
    """The origin of a page's address, as browsers write it, or "*". A WebSocket address gives the origin of the page
    that is served beside it. Raises ValueError."""
    if url == ANY:
        return ANY
    parts = urlsplit(url if url.isprintable() and len(url) <= MAX_HEADER else "")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in DEFAULT_PORTS or not parts.hostname or parts.port == 0:
        raise ValueError('an origin such as "https://site.example"')
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, DEFAULT_PORTS[scheme]) else f":{parts.port}"
    return f"{scheme}://{host}{port}"


class Origins:
    """A list of origins whose pages may open WebSockets.

    Args:
        allowed: as `origin` takes them; "*" stands for every origin.

    Raises:
        ValueError: one of them is no origin.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = {origin(one) for one in allowed}

    def allow(self, header: str | None) -> bool:
        """Whether to accept a request with this Origin header. Only browsers send one.

        Pages of the visitor's own machine are always accepted. Whoever serves a page there could also run a program. It
        is also the best place to start verified code, whichever network that code joins.
        """
        if header is None or ANY in self._allowed:
            return True
        try:
            asking = origin(header)
        except ValueError:
            return False
        return asking in self._allowed or urlsplit(asking).hostname in LOOPBACK


def same_site(header: str, host: str) -> bool:
    """Whether the origin `header` is that of the page served at `host`, a Host header. A proxy may have turned https
    into http, so the scheme is taken from the origin."""
    try:
        asked = origin(header)
        return _canonical(asked) == _canonical(origin(f"{asked.partition('://')[0]}://{host}"))
    except ValueError:
        return False


def answers_to(host: str, local: Any, names: Collection[str]) -> bool:
    """Whether the Host header `host` names us.

    Args:
        local: the address and port that the connection came in at (what `getsockname` gives).
        names: names that are ours at any port, because a proxy may stand in between.
    """
    try:
        parts = urlsplit(f"//{host}" if host.isprintable() and len(host) <= MAX_HEADER else "")
        name, port = parts.hostname or "", 80 if parts.port is None else parts.port
    except ValueError:
        return False
    if parts.netloc != host or "@" in host:
        return False
    if name in (own.lower() for own in names):
        return True
    return isinstance(local, tuple) and name in (*LOOPBACK, local[0]) and port == local[1]


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def _canonical(known: str) -> str:
    """One spelling for all names of this machine."""
    parts = urlsplit(known)
    if parts.hostname not in LOOPBACK:
        return known
    return f"{parts.scheme}://localhost" + (f":{parts.port}" if parts.port is not None else "")
