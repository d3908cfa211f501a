"""Relays as processes of their own, looked after.

Does: start `convergence relay` processes, read what they report, restart one that crashed (at its old port, a
bounded number of times), end them all. Each holds the other end of a pipe of ours, so that none outlives us.
Does not: know what a relay does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import convergence
import pynode

MAX_RESTARTS = 5
RESTART_WINDOW = 600.0
"""A relay that has crashed MAX_RESTARTS times in so many seconds stays down."""
RESTART_AFTER = 1.5
"""Seconds: a new descriptor must be of a later second than the one before."""
STOP_TIMEOUT = 5.0
"""Seconds that a relay gets to end by itself."""
MAX_LINE = 1 << 16


@dataclass(eq=False)
class Relay:
    """One relay. `options` are those of `convergence relay`, except where it listens."""

    name: str
    host: str
    roles: tuple[str, ...]
    options: Sequence[str]
    state: str = "starting"  # starting, registered, restarting, failed, stopped
    port: int = 0
    identity: str = ""
    nodes: int = 0
    process: asyncio.subprocess.Process | None = None
    crashes: deque[float] = field(default_factory=deque)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.returncode is None else None


class Relays:
    """All relays of this process.

    Args:
        on_change: called with a relay whose state or number of known nodes changed, and with a sentence, if there is
            something to say.
    """

    def __init__(self, relays: Sequence[Relay], on_change: Callable[[Relay, str], None]) -> None:
        self.relays = relays
        self._on_change = on_change
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start them all; their news comes through `on_change`."""
        self._tasks = [asyncio.ensure_future(self._look_after(relay)) for relay in self.relays]

    def refresh(self) -> None:
        """Have every relay ask for the list of nodes: a relay extends circuits only to nodes that it knows."""
        for relay in self.relays:
            pipe = relay.process.stdin if relay.process is not None else None
            if relay.pid is not None and pipe is not None and not pipe.is_closing():
                pipe.write(b"refresh\n")

    async def stop(self) -> None:
        """End them; those that do not listen are killed."""
        self._ending = True
        for relay in self.relays:
            if relay.pid is not None and relay.process is not None:
                relay.process.terminate()
        ended = [relay.process.wait() for relay in self.relays if relay.pid is not None and relay.process is not None]
        try:
            await asyncio.wait_for(asyncio.gather(*ended), STOP_TIMEOUT)
        except TimeoutError:
            for relay in self.relays:
                if relay.pid is not None and relay.process is not None:
                    relay.process.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_after(self, relay: Relay) -> None:
        while not self._ending:
            code = await self._run(relay)
            if self._ending:
                break
            started = relay.state != "starting"
            now = time.monotonic()
            relay.crashes.append(now)
            while relay.crashes[0] < now - RESTART_WINDOW:
                relay.crashes.popleft()
            ended = f"{relay.name} ended unexpectedly ({_how(code)})"
            if not started or len(relay.crashes) > MAX_RESTARTS:
                relay.state = "failed"
                self._on_change(relay, f"{ended} and stays down: its messages above say why.")
                return
            relay.state = "restarting"
            self._on_change(relay, f"{ended}: starting it again ({len(relay.crashes)} of {MAX_RESTARTS}).")
            await asyncio.sleep(RESTART_AFTER)
        relay.state = "stopped"

    async def _run(self, relay: Relay) -> int:
        """One life of a relay."""
        command = [sys.executable, "-P", "-m", "pynode", "relay", "--json", "--parent-pipe", "--name", relay.name]
        relay.process = process = await asyncio.create_subprocess_exec(
            *command,
            *("--listen", f"{relay.host}:{relay.port}"),
            *relay.options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _python_path()},
            limit=MAX_LINE,
            start_new_session=True,  # Ctrl-C reaches only us; we end the relays
        )
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._heard(relay, line)
        return await process.wait()

    def _heard(self, relay: Relay, line: bytes) -> None:
        record = json.loads(line)
        match record["event"]:
            case "listening":
                relay.port, relay.identity = record["port"], record["identity"]
            case "registered" if relay.state != "registered":
                again, relay.state = relay.state == "restarting", "registered"
                self._on_change(relay, f"{relay.name} is registered again." if again else "")
            case "nodes":
                relay.nodes = record["count"]
                self._on_change(relay, "")


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _python_path() -> str:
    """The children run the code that we run, wherever it was started."""
    folders = [str(Path(path).resolve().parent) for package in (convergence, pynode) for path in package.__path__]
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*dict.fromkeys(folders), *([before] if before else [])])
