"""Where the store of several facilitators is, as the settings name it.

Does: parse addresses of a Redis server, of Sentinels, or of a Cluster; say what is allowed.
Does not: connect, or need the client library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

PORT, SENTINEL_PORT = 6379, 26379
PREFIX = "convergence"
ALLOWED = (
    '"redis://host:6379/0", "rediss://..." (TLS), "unix:///path", "redis+sentinel://host:26379,host/name" or'
    ' "redis+cluster://host:6379,host", each with user:password@ before the host and ?prefix=name or ?ca=/file.pem'
    " behind it where they are needed"
)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Args:
    hosts: of the server, the Sentinels, or some servers of the Cluster; none with `path`.
    path: of a Unix socket.
    kind: "server", "sentinel" or "cluster".
    service: what Sentinels call the servers.
    prefix: begins all keys and channels: a store may serve several networks.
    ca: file of certificates that the server's has to come from; None: those of this system.
    """

    hosts: tuple[tuple[str, int], ...]
    path: str | None = None
    kind: str = "server"
    service: str = ""
    tls: bool = False
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    prefix: str = PREFIX
    ca: str | None = None

    def __str__(self) -> str:
        """Without secrets."""
        where = self.path or ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        return f"{where}/{self.service}" if self.service else where


def parse_redis(text: str) -> RedisAddress:
    """Raises ValueError that says what is allowed."""
    try:
        return _parse(text)
    except ValueError:
        raise ValueError(ALLOWED) from None


def _parse(text: str) -> RedisAddress:
    parts = urlsplit(text)
    query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    if not text.isprintable() or parts.fragment or not query.keys() <= {"prefix", "ca", "db"}:
        raise ValueError
    login, at, where = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    prefix = query.get("prefix", PREFIX)
    if re.fullmatch("[A-Za-z0-9_.-]{1,64}", prefix) is None or (at and not password):
        raise ValueError
    scheme, _, kind = parts.scheme.partition("+")
    path = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    username, secret = unquote(user) or None, unquote(password) or None
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or where or "ca" in query:
            raise ValueError
        db = int(query.get("db", "0"))
        return RedisAddress((), unquote(parts.path), db=db, username=username, password=secret, prefix=prefix)
    if scheme not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster") or "db" in query:
        raise ValueError
    service = path.pop(0) if kind == "sentinel" and path else ""
    db = int(path.pop(0)) if path else 0
    hosts = tuple(_host(one, SENTINEL_PORT if kind == "sentinel" else PORT) for one in where.split(","))
    if path or not 0 <= db < 1 << 16 or (kind == "sentinel") != bool(service) or (kind == "cluster" and db):
        raise ValueError
    if not kind and len(hosts) > 1:
        raise ValueError
    return RedisAddress(
        hosts, None, kind or "server", service, scheme == "rediss", db, username, secret, prefix, query.get("ca")
    )


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port == 0 or parts.path:
        raise ValueError
    return parts.hostname, parts.port or port
