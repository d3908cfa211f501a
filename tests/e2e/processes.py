"""`convergence` processes for tests: real ones on loopback, at ports that the system chooses.

Does: start commands and read what they report, line by line; put a network together of a facilitator with its site and
relays, each of which can be killed and started again; make and check test files.
Does not: wait for anything but a line or an end, each with a deadline that is there only to end a hung test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'shared'}{os.pathsep}{ROOT}"}
PATIENCE = 120.0
"""Seconds that a line, or an end, may take on a busy machine: three lanes on two cores."""
MIB = 1 << 20
PROGRAM = ("-m", "pynode")
LOG = 60
"""Lines that are kept of what a command says."""


class Command:
    """A `convergence` process with --json.

    Args:
        program: what Python runs in place of `-m pynode`.

    Attributes:
        line: its arguments.
        log: the last lines that it wrote, to standard output and error.
    """

    def __init__(self, *arguments: str | Path, program: Sequence[str | Path] = PROGRAM) -> None:
        command = [sys.executable, *map(str, program), *map(str, arguments)]
        command.insert(command.index("--") if "--" in command else len(command), "--json")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self.line = " ".join(command[1:])
        self.log: deque[str] = deque(maxlen=LOG)
        self.records: list[dict[str, Any]] = []
        self.errors = ""
        self._lines: Queue[str | None] = Queue()
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_err)]
        for thread in self._threads:
            thread.start()
        remembered.append(self)

    def _read_out(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)
            self.log.append(line.rstrip("\n"))
        self._lines.put(None)

    def _read_err(self) -> None:
        for line in self.process.stderr or ():
            self.errors += line
            self.log.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, event: str, holds: Callable[[dict[str, Any]], bool] = lambda record: True) -> dict[str, Any]:
        """The next record of that kind for which `holds`."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except Empty:
                raise AssertionError(f"no {event} in time; so far {self.records} {self.errors}") from None
            if line is None:
                raise AssertionError(f"it ended without {event}: {self.records} {self.errors}")
            record: dict[str, Any] = json.loads(line)
            self.records.append(record)
            if record["event"] == event and holds(record):
                return record

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for it to end by itself. Returns exit code and last record."""
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.records.append(json.loads(line))
        return self.process.wait(PATIENCE), self.records[-1] if self.records else {}

    def stop(self, number: int = signal.SIGINT) -> int:
        """Signal it and wait. Returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code


remembered: list[Command] = []
"""Commands that run, and those that have ended since `forget_ended`."""


def forget_ended() -> None:
    """A test begins: what ended before is not its own."""
    remembered[:] = [command for command in remembered if command.process.poll() is None]


@contextlib.contextmanager
def running(*arguments: str | Path, program: Sequence[str | Path] = PROGRAM) -> Iterator[Command]:
    command = Command(*arguments, program=program)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.stop()


class Relay:
    """One relay of a Network, which may be dead for a while."""

    def __init__(self, name: str, host: str, options: Sequence[str | Path], program: Sequence[str | Path]) -> None:
        self.name = name
        self.host = host
        self.port = 0
        self.identity = ""
        self.command: Command
        self._options = options
        self._program = program

    @property
    def alive(self) -> bool:
        return self.command.process.poll() is None

    def start(self) -> None:
        """At the same port as before, if there was a before."""
        listen = f"{self.host}:{self.port}"
        options = ["--listen", listen, "--name", self.name, "--parent-pipe", *self._options]
        self.command = Command("relay", *options, program=self._program)

    def registered(self) -> None:
        record = self.command.until("listening")
        self.port, self.identity = record["port"], record["identity"]
        self.command.until("registered")

    def kill(self) -> None:
        """Without a chance to say good-bye."""
        self.command.process.kill()
        self.command.process.wait(PATIENCE)


class Network:
    """A facilitator with its site, and relays, each a process; nothing that dies is started again by itself.

    Args:
        page: what a build wrote.
        exit_allow: HOST:PORT that the last two relays, the exits, may reach although it is private.
        program: from a relay's name, what Python runs as that relay; facilitating: what it runs as the facilitator.
        host: the address at which all of them listen.
        public: another name of the site.
        rtc: whether relays, and pages from this site, make WebRTC links; for tests marked rtc only.
        stun: URLs of STUN servers for those.
        options: of `convergence relay`, for all relays.
    """

    def __init__(
        self,
        folder: Path,
        page: Path,
        *,
        relays: int = 5,
        exit_allow: Sequence[str] = (),
        program: Callable[[str], Sequence[str | Path]] = lambda name: PROGRAM,
        facilitating: Sequence[str | Path] = PROGRAM,
        host: str = "127.0.0.1",
        public: str | None = None,
        rtc: bool = False,
        stun: Sequence[str] = (),
        options: Sequence[str | Path] = (),
    ) -> None:
        self._folder = folder
        self._page = page
        self._host = host
        self._facilitating = facilitating
        self._rtc = [part for server in stun for part in ("--stun", server)] if rtc else ["--no-rtc"]
        self._public = ["--public", public] if public else []
        self._port = 0
        self.facilitator: Command
        self.start_facilitator()
        self.relays: list[Relay] = []
        for number in range(1, relays + 1):
            name = f"relay-{number}"
            own: list[str | Path] = ["--site", self.site, "--data", folder / name, *self._rtc, *options]
            if number > relays - 2:
                own += ["--exit", *(option for host in exit_allow for option in ("--exit-allow", host))]
            self.relays.append(Relay(name, host, own, program(name)))
        for relay in self.relays:
            relay.start()
        for relay in self.relays:
            relay.registered()
        self._spread()

    def start_facilitator(self) -> None:
        """At the same port and with the same identity as before, if there was a before."""
        listen = f"{self._host}:{self._port}"
        data = self._folder / "facilitator"
        options: list[str | Path] = ["--listen", listen, "--data", data, "--dist", self._page]
        options += [*self._public, *self._rtc]
        self.facilitator = Command("facilitator", *options, program=self._facilitating)
        ready = self.facilitator.until("ready")
        self.site: str = ready["site"]
        self._port = int(self.site.rstrip("/").rpartition(":")[2])

    def relay(self, identity: str) -> Relay:
        return next(relay for relay in self.relays if relay.identity == identity)

    def mend(self) -> None:
        """Start what is dead, and have all know of all."""
        dead = [relay for relay in self.relays if not relay.alive]
        for relay in dead:
            relay.command.stop()
            relay.start()
        for relay in dead:
            relay.registered()
        if dead:
            self._spread()

    def close(self) -> None:
        for command in [*(relay.command for relay in self.relays), self.facilitator]:
            if command.process.poll() is None:
                command.process.send_signal(signal.SIGTERM)
        for command in [*(relay.command for relay in self.relays), self.facilitator]:
            command.stop()

    def _spread(self) -> None:
        """Relays extend circuits only to those that they know: have each ask for the list of nodes."""
        for relay in self.relays:
            relay.command.say("refresh")
        for relay in self.relays:
            relay.command.until("nodes", lambda record: record["count"] >= len(self.relays))


def write_file(path: Path, size: int, seed: int = 1) -> str:
    """Random bytes; returns their SHA-256."""
    data = random.Random(seed).randbytes(size)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
