"""A redis-server of a test's own: in a private folder, on a Unix socket, and on a loopback port if that is asked for.

Does: start, kill and start it again, be its client.
Does not: keep anything when it ends, unless told to.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.interop.programs import Server
from web.bundling.setup import find_program

READY = "eady to accept connections"
EMPTY = ("--save", "", "--appendonly", "no")


class RedisServer:
    """`options`: more of its settings, as on its command line."""

    def __init__(self, folder: Path, *options: str | Path, port: int = 0, ready: str = READY) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.port = port
        self._ready = ready
        self._options = options
        self._server: Server | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket, "--dir", self.folder)
        self.start_as(*where, *EMPTY, *self._options)

    def start_as(self, *options: str | Path) -> None:
        program = find_program("redis-server")
        assert program is not None, "redis-server is not installed"
        self._server = Server(program, *options)
        self._server.until(self._ready)

    def kill(self) -> None:
        """At once: nothing is said or saved."""
        assert self._server is not None
        self._server.stop(signal.SIGKILL)

    def command(self, *words: str | int | bytes) -> Any:
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
