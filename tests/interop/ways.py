"""What lies between two real programs, as a parameter of the tests: a Way.

Does: offer a service of this machine under an address, and give what other programs reach it by: a command line that
pipes its standard input and output there, a port of this machine that leads there, a proxy. Each process of it is
known, so that its memory can be measured and a test can kill it.
Does not: know what the programs say to each other.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.processes import MIB, PROGRAM, Command, Network, Relay, running

WAIT = "3"
"""Seconds that are spent on looking for a service that nobody offers."""
OPEN_PORT = 18444
"""Of loopback, which exits may reach and where a test may listen; not one that the system gives to others."""
ZONE = ".hash.conv"
"""How names of services end where only a host name can be given."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Proxy:
    """A running proxy, which speaks SOCKS5, SOCKS4a and HTTP CONNECT at `port` of loopback."""

    command: Command
    port: int

    def circuits(self, *users: str, streams: int) -> dict[str, set[int]]:
        """What carried the next streams of these users, by their names; "" is the name of who gave none.

        Args:
            streams: how many to wait for.
        """
        found: dict[str, set[int]] = {user: set() for user in users}
        for _ in range(streams):
            record = self.command.until("stream", lambda record: record["user"] in users)
            found[record["user"]].add(record["circuit"])
        return found


class Way:
    """Runs `pipe`, `serve`, `forward` and `proxy` of a program that takes the arguments of `convergence`.

    Args:
        program: what Python runs.
        options: arguments that each of the commands takes besides: where its network is.
        serve_options: those that only `serve` takes: where it keeps keys.
        connect_options: those that all others take: how long they look for a service.

    Attributes:
        ceiling: bytes that any process of it may have resident, however much passes through.
        waiting: bytes that all of it together, kernel buffers too, may take from a writer whose reader does not read.
        tells_death: whether the end of a stream whose carrier was killed differs from one that its writer ended.
        relays: what lies between the two ends all the time.
    """

    def __init__(
        self,
        program: Sequence[str | Path],
        options: Sequence[str | Path],
        *,
        ceiling: int,
        waiting: int,
        tells_death: bool,
        serve_options: Sequence[str | Path] = (),
        connect_options: Sequence[str | Path] = (),
        relays: Sequence[Relay] = (),
    ) -> None:
        self.ceiling = ceiling
        self.waiting = waiting
        self.tells_death = tells_death
        self.relays = relays
        self._program = tuple(program)
        self._options = tuple(options)
        self._serve_options = tuple(serve_options)
        self._connect_options = tuple(connect_options)

    @property
    def pids(self) -> list[int]:
        """Of the relays."""
        return [relay.command.pid for relay in self.relays]

    def address(self, name: str = "service") -> str:
        """One that nobody offers yet."""
        return f"hash:{name}-{next(_numbers)}"

    @contextlib.contextmanager
    def to_port(self, port: int) -> Iterator[Service]:
        """Offer what listens at that port of loopback."""
        with self.serve(self.address(), "--to", f"127.0.0.1:{port}") as service:
            yield service

    @contextlib.contextmanager
    def to_program(self, *program: str | Path) -> Iterator[Service]:
        """Offer a program: a process of it for each connection."""
        with self.serve(self.address(), "--", *program) as service:
            yield service

    @contextlib.contextmanager
    def serve(self, address: str, *to: str | Path) -> Iterator[Service]:
        """Offer what `to`, the end of the command line, says under this address."""
        with self._running("serve", address, *self._serve_options, then=to) as command:
            command.until("serving")
            yield Service(self, address, command)

    @contextlib.contextmanager
    def proxy(self) -> Iterator[Proxy]:
        with self._running("proxy", "--listen", "127.0.0.1:0", *self._connect_options) as command:
            yield Proxy(command, command.until("listening")["port"])

    @contextlib.contextmanager
    def forward(self, address: str) -> Iterator[tuple[Command, int]]:
        """A port of loopback that leads to the address."""
        with self._running("forward", "127.0.0.1:0", address, *self._connect_options) as command:
            yield command, command.until("listening")["port"]

    def pipe(self, address: str, *options: str) -> list[str]:
        """The command line that pipes its standard input and output to the address."""
        return self.line("pipe", address, *self._connect_options, *options)

    def line(self, *arguments: str | Path) -> list[str]:
        """A command line of the program."""
        return [sys.executable, *map(str, (*self._program, *arguments, *self._options))]

    def _running(
        self, *arguments: str | Path, then: Sequence[str | Path] = ()
    ) -> contextlib.AbstractContextManager[Command]:
        return running(*arguments, *self._options, *then, program=self._program)


@dataclass(frozen=True)
class Service:
    """What is offered while `command` runs."""

    way: Way
    address: str
    command: Command

    @property
    def host(self) -> str:
        """Its name for a proxy."""
        return f"{self.address.removeprefix('hash:')}{ZONE}"

    @property
    def pipe(self) -> list[str]:
        return self.way.pipe(self.address)

    @property
    def proxy_command(self) -> str:
        """The same for a shell, and for OpenSSH, to which a percent sign means something."""
        return shlex.join(self.pipe).replace("%", "%%")

    def forward(self) -> contextlib.AbstractContextManager[tuple[Command, int]]:
        return self.way.forward(self.address)


def through(network: Network, folder: Path, *, rtc: bool = False) -> Way:
    """Convergence: two hops from either end to a rendezvous point, or through an exit.

    Args:
        folder: where services keep keys.
        rtc: whether the commands make WebRTC links, as they must where browsers relay.
    """
    return Way(
        PROGRAM,
        ["--site", network.site, *(() if rtc else ("--no-rtc",))],
        ceiling=160 * MIB,
        waiting=32 * MIB,
        tells_death=True,
        serve_options=["--data", folder],
        connect_options=["--wait", WAIT],
        relays=network.relays,
    )


def direct(folder: Path) -> Way:
    """The control: TCP from one to the other."""
    program = Path(__file__).with_name("direct.py")
    return Way([program], ["--data", folder], ceiling=48 * MIB, waiting=32 * MIB, tells_death=False)
