"""A client of the Tor network beside tor's own, over the same relays of the real tor, in one run.

Everything runs on this machine: three authorities, five relays, both clients and the web server share its cores.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stem.control import Listener

from tests.bench.cli import cpu
from tests.bench.lab import Figure
from tests.bench.supervise import step
from tests.e2e.processes import running
from tests.interop.test_curl import curl
from tests.interop.tor.network import TorNetwork
from tests.interop.website import LARGE, Website

AHEAD = "__DisablePredictedCircuits 0"  # circuits of tor's client are ready before they are wanted, as ours are
START = 180.0
TRANSFER = 240.0
ROUNDS = 5
LARGE_ROUNDS = 5
PIECES = 10  # of 10 MiB in one transfer
SPEED, CPU, FIRST = 1.0, 1.2, 1.0  # of tor's


@dataclass
class Client:
    """A proxy at a port of loopback.

    Attributes:
        rates: MB/s of each transfer; spent: CPU seconds for 100 MB of each; first: ms to the first byte of a short
            answer on a circuit of its own.
    """

    name: str
    port: int
    pid: int
    rates: list[float] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def transfer(self, website: Website, number: int, pieces: int) -> None:
        before, begun = cpu(self.pid), time.perf_counter()
        address = f"http://127.0.0.1:{website.http}/large?{self.name}{number}-[1-{pieces}]"
        done = curl("--proxy", f"socks5h://127.0.0.1:{self.port}", "-o", "/dev/null", address)
        assert done.returncode == 0, done.stderr
        seconds, size = time.perf_counter() - begun, pieces * len(LARGE)
        self.rates.append(size / seconds / 1e6)
        self.spent.append((cpu(self.pid) - before) / size * 1e8)

    def ask(self, website: Website, number: int) -> None:
        """As another user: on a circuit that nobody has used."""
        proxy = f"socks5h://{self.name}{number}:x@127.0.0.1:{self.port}"
        address = f"http://127.0.0.1:{website.http}/word/{self.name}{number}"
        done = curl("--proxy", proxy, "-o", "/dev/null", "-w", "%{time_starttransfer}", address)
        assert done.returncode == 0, done.stderr
        self.first.append(float(done.stdout) * 1e3)


def run(tiny: bool = False) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        website = Website(folder, "host.example")
        stack.callback(website.close)
        step("a network of tor", START)
        network = TorNetwork()
        stack.callback(network.close)
        step("both clients", START)
        ours, theirs = stack.enter_context(clients(network, folder))
        step("transfers, in turn", TRANSFER)
        for number in range(1 if tiny else LARGE_ROUNDS):
            for client in (ours, theirs):
                client.transfer(website, number, 1 if tiny else PIECES)
        step("short answers, in turn", TRANSFER)
        for number in range(2 if tiny else 2 * ROUNDS):
            for client in (ours, theirs):
                client.ask(website, number)
    return [
        *pair("100 MB over three relays", "MB/s", ours.rates, theirs.rates, SPEED),
        *pair("CPU of the client", "s/100 MB", ours.spent, theirs.spent, CPU, at_most=True),
        *pair("first byte on a fresh circuit", "ms", ours.first, theirs.first, FIRST, at_most=True),
    ]


@contextlib.contextmanager
def clients(network: TorNetwork, folder: Path) -> Iterator[tuple[Client, Client]]:
    lines = folder / "network.txt"
    lines.write_text("".join(f"{authority.line}\n" for authority in network.authorities))
    options = ("--tor", "--tor-network", lines, "--data", folder / "data")
    with running("proxy", "--listen", "127.0.0.1:0", *options) as command, network.client(AHEAD) as tor:
        ours = Client("ours", command.until("listening")["port"], command.pid)
        yield ours, Client("tor", tor.port(Listener.SOCKS), tor.process.pid)


def pair(
    what: str, unit: str, ours: list[float], theirs: list[float], target: float, *, at_most: bool = False
) -> list[Figure]:
    """Medians, and their ratio beside its target."""
    one, other = statistics.median(ours), statistics.median(theirs)
    note = f"median of {len(ours)}"
    return [
        Figure(what, one, unit, note=note),
        Figure(f"{what}, tor's client", other, unit, note=note),
        Figure(f"{what}: ours / tor's", one / other, "ratio", target, at_most),
    ]
