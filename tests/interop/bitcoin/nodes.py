"""Bitcoin nodes for tests: bcoin's full node and SPV node, each a process, on a chain of their own (regtest).

Does: give the command line of a node, hear its events and give it commands, whoever starts it; join two programs by
their stdin and stdout as a shell does.
Does not: know what lies between the two nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.processes import PATIENCE

Process = subprocess.Popen[bytes]
FOLDER = Path(__file__).parent
STDIO = "-"
"""In place of an address: the far side is at stdin and stdout."""


class BitcoinNode:
    """A Bitcoin node that may be started once, by the test or by another program, with `command`.

    Args:
        program: "full" or "spv"; the heads of those files name their events and commands.
        where: HOST:PORT at which a full node listens (port 0: any) and to which an SPV node connects; or STDIO.
        blocks: how many a full node mines at its start.
    """

    def __init__(self, program: str, where: str, blocks: int = 0) -> None:
        assert (FOLDER / "node_modules").is_dir(), "bcoin is not installed: `build.py test` does it"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._control: socket.socket | None = None
        host, port = self._listener.getsockname()
        script = FOLDER / f"{program}.js"
        self.command = ["node", str(script), where, "--blocks", str(blocks), "--control", f"{host}:{port}"]
        self.records: list[dict[str, Any]] = []

    @property
    def ready(self) -> dict[str, Any]:
        """Its first event: with its Bitcoin address, and for a full node the tip of its chain and its port."""
        return next((record for record in self.records if record["event"] == "ready"), None) or self.until("ready")

    def until(self, event: str, holds: Callable[[dict[str, Any]], bool] = lambda record: True) -> dict[str, Any]:
        """The next record of that kind for which `holds`. An error that is not waited for fails the test."""
        try:
            for line in self._lines():
                record: dict[str, Any] = json.loads(line)
                self.records.append(record)
                if record["event"] == event and holds(record):
                    return record
                assert record["event"] != "error", record["message"]
        except TimeoutError:
            raise AssertionError(f"no {event} in time; so far {self.records[-20:]}") from None
        raise AssertionError(f"it ended without {event}: {self.records[-20:]}")

    def say(self, line: str) -> None:
        """Give it a command."""
        assert self._control is not None, "until() first: it may not have been started"
        self._control.sendall(f"{line}\n".encode())

    def close(self) -> None:
        """End it, whoever started it: without its test it does nothing."""
        self._listener.close()
        if self._control is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._control.shutdown(socket.SHUT_RDWR)
            self._control.close()

    def _lines(self) -> Iterator[str]:
        if self._control is None:
            self._control, _ = self._listener.accept()
            self._control.settimeout(PATIENCE)
            self._reader = self._control.makefile("r", encoding="utf-8")
        return iter(self._reader.readline, "")


@contextlib.contextmanager
def running(command: Sequence[str], stdin: int = subprocess.DEVNULL, stdout: int | None = None) -> Iterator[Process]:
    """A process that ends with the block at the latest. Its stderr is the test's own, which pytest shows."""
    with subprocess.Popen(command, stdin=stdin, stdout=stdout) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def piped(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[Process, Process]]:
    """Two processes, each of which reads what the other writes. In a shell: `mkfifo back; left <back | right >back`."""
    to_left, from_right = os.pipe()
    to_right, from_left = os.pipe()
    ends = [to_left, from_right, to_right, from_left]
    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(running(left, stdin=to_left, stdout=from_left))
            other = stack.enter_context(running(right, stdin=to_right, stdout=from_right))
        finally:
            for end in ends:  # ours: with them open nobody would see the end of a pipe
                os.close(end)
        yield one, other
