"""A resolver of host names under the test's hand, in place of the system's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

Answer = list[str] | Exception | None


class Resolver:
    """Answers look-ups of names. Numeric addresses, and what a server is to listen on, are the system's business.

    Attributes:
        answers: for the next look-ups, in order: addresses, an error, or None for silence.
        silent: ends of names whose servers are silent.
        asked: names that were looked up.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.silent: tuple[str, ...] = ()
        self.asked: list[str] = []
        self.over = threading.Event()
        self._system = socket.getaddrinfo

    def __call__(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if options.get("flags") or args:
            return self._system(host, port, *args, **options)
        self.asked.append(host)
        answer = None if self.silent and host.endswith(self.silent) else self.answers.pop(0)
        if answer is None:
            self.over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "silence")
        if isinstance(answer, Exception):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Silent servers go on to be silent until the test is over: no thread outlives it for long."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.over.set()
