"""Convergence in a Tor network beside the real tor, in one run: our client over tor's relays, our relays under tor's
client and under many clients.

Everything runs on this machine: three authorities, the relays, the clients and the web server share its cores. So rates
want an idle machine. CPU seconds are those of the process that is measured: they hold up better on a busy one, though
not unharmed, since both programs then wake up with cold caches, and more often.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from stem import Flag
from stem.control import EventType, Listener

from tests.bench.cli import TICK, cpu
from tests.bench.crowd import Crowd, crowded, targets
from tests.bench.lab import Figure
from tests.bench.supervise import step
from tests.e2e.processes import running
from tests.interop.test_curl import curl
from tests.interop.tor.network import AHEAD, TorNetwork
from tests.interop.tor.network import Relay as TorsRelay
from tests.interop.tor.test_relay import OPEN, Relay
from tests.interop.website import LARGE, Website

START = 180.0
TRANSFER = 240.0
ROUNDS = 5
PIECES = 10  # of 10 MiB in one transfer
QUICK = 2  # rounds, for who wants to know soon
ASKS = 4  # short answers a round
PAUSE = 0.3  # seconds before each, in which what the last one has left behind is over: circuits are ready, links rest
SPEED, CPU, FIRST = 1.0, 1.2, 1.0  # of tor's
MIDDLE, THREE, MEMORY = 0.5, 3.0, 1.0
LISTED = 240.0
CROWD = 1000  # clients at once
CIRCUITS = 5000
CROWDS = 240.0
LINKS = 10  # that the circuits share


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


def run(tiny: bool = False, quick: bool = False) -> list[Figure]:
    rounds, pieces = (1, 1) if tiny else (QUICK, PIECES // 2) if quick else (ROUNDS, PIECES)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        website = Website(folder, "host.example")
        stack.callback(website.close)
        step("a network of tor", START)
        network = TorNetwork()
        stack.callback(network.close)
        step("clients", START)
        ours, theirs, single = stack.enter_context(clients(network, folder))
        step("the first answers, which wait for documents", TRANSFER)
        for client in (ours, theirs, single):
            client.ask(website, -1)
            client.first.clear()
        step("transfers, in turn", TRANSFER * rounds)
        for number in range(rounds):
            for client in (ours, theirs, single):
                client.transfer(website, number, pieces)
        step("short answers, in turn", TRANSFER)
        for number in range(1 if tiny else ASKS * rounds):
            for client in (ours, theirs, single):
                time.sleep(PAUSE)
                client.ask(website, number)
        figures = [
            *pair("100 MB over three relays", "MB/s", ours.rates, theirs.rates, SPEED, "tor's client"),
            *pair("the same, tor's on one circuit", "MB/s", ours.rates, single.rates, SPEED, "tor's client")[1:],
            *pair("CPU of the client", "s/100 MB", ours.spent, theirs.spent, CPU, "tor's client", at_most=True),
            *pair("first byte on a fresh circuit", "ms", ours.first, theirs.first, FIRST, "tor's client", at_most=True),
            *pair(
                "first byte, tor's on one circuit", "ms", ours.first, single.first, FIRST, "tor's client", at_most=True
            )[1:],
        ]
        step("relays of ours", LISTED)
        relays = stack.enter_context(relays_of_ours(network, folder))
        figures += below_tors_client(network, relays, website, rounds, pieces)
        figures += many_clients(network, relays, website, tiny)
        return figures


@contextlib.contextmanager
def clients(network: TorNetwork, folder: Path) -> Iterator[tuple[Client, Client, Client]]:
    """Ours, tor's, and tor's without conflux, by which a transfer is carried on two circuits at once."""
    lines = folder / "network.txt"
    lines.write_text("".join(f"{authority.line}\n" for authority in network.authorities))
    options = ("--tor", "--tor-network", lines, "--data", folder / "data")
    with (
        running("proxy", "--listen", "127.0.0.1:0", *options) as command,
        network.client(AHEAD) as tor,  # its circuits are ready before they are wanted, as ours are
        network.client(AHEAD, "ConfluxEnabled 0") as single,
    ):
        yield (
            Client("ours", command.until("listening")["port"], command.pid),
            Client("tor", tor.port(Listener.SOCKS), tor.process.pid),
            Client("single", single.port(Listener.SOCKS), single.process.pid),
        )


@contextlib.contextmanager
def relays_of_ours(network: TorNetwork, folder: Path) -> Iterator[list[Relay]]:
    """Three that all others know; the last one is an exit."""
    with contextlib.ExitStack() as stack:
        relays = []
        for number, policy in enumerate([[], [], OPEN], 1):
            relays.append(Relay(network, folder, f"ours{number}", policy))
            stack.callback(relays[-1].stop)
        names = {relay.fingerprint for relay in relays}
        network.listed(*names)
        for other in network.relays:
            other.wait(EventType.NEWCONSENSUS, partial(knows, other, names), "news")
        yield relays


def knows(relay: TorsRelay, others: set[str]) -> bool:
    return others <= relay.flagged(Flag.RUNNING)


def below_tors_client(
    network: TorNetwork, relays: list[Relay], website: Website, rounds: int, pieces: int
) -> list[Figure]:
    """What one relay costs between two of tor's, and how fast three are."""
    first, second, *_, exit_ = network.relays
    ours = [relay.fingerprint for relay in relays]
    theirs = [relay.fingerprint for relay in (first, second, exit_)]
    middles = {"ours": (ours[0], relays[0].command.pid), "tor": (theirs[1], second.process.pid)}
    spent: dict[str, list[float]] = {"ours": [], "tor": []}
    rates: dict[str, list[float]] = {"ours": [], "tor": []}
    with network.client() as tor:
        for number in range(rounds):
            for kind, (middle, pid) in middles.items():
                step(f"{kind} in the middle, {number + 1}", TRANSFER)
                with tor.through(theirs[0], middle, theirs[2]):
                    client = Client(f"middle-{kind}", tor.port(Listener.SOCKS), pid)
                    client.transfer(website, number, pieces)
                spent[kind] += client.spent
            for kind, path in (("ours", ours), ("tor", theirs)):
                step(f"three relays, {kind}, {number + 1}", TRANSFER)
                with tor.through(*path):
                    client = Client(f"three-{kind}", tor.port(Listener.SOCKS), tor.process.pid)
                    client.transfer(website, number, pieces)
                rates[kind] += client.rates
    return [
        *pair("CPU of a middle relay", "s/100 MB", spent["ours"], spent["tor"], MIDDLE, "tor's", at_most=True),
        *pair("tor's client over three relays", "MB/s", rates["ours"], rates["tor"], THREE, "tor's"),
    ]


def many_clients(network: TorNetwork, relays: list[Relay], website: Website, tiny: bool) -> list[Figure]:
    """Memory idle and with many circuits; many clients at once that go on to an exit. Ours carried more before."""
    circuits, crowd, links = (20, 5, 2) if tiny else (CIRCUITS, CROWD, LINKS)
    pids = {"ours": relays[1].command.pid, "tor": network.relays[2].process.pid}
    both: list[Relay | TorsRelay] = [relays[1], network.relays[2]]
    step("what the consensus says of them", START)
    *firsts, exit_ = targets(network.authorities, [relay.fingerprint for relay in (*both, network.relays[-1])])
    sides = [
        (kind, f"{relay.address}:{relay.or_port}", first) for kind, relay, first in zip(pids, both, firsts, strict=True)
    ]
    idle, full, served = {}, {}, {}
    for kind, address, first in sides:
        step(f"{circuits:,} circuits, {kind}", CROWDS)
        idle[kind] = resident(pids[kind]) / 1e6
        full[kind] = crowded(address, [first], partial(hold, pids[kind], links, circuits // links))
    for kind, address, first in sides:
        step(f"{crowd:,} clients, {kind}", CROWDS)
        served[kind] = crowded(address, [first, exit_], partial(serve, pids[kind], crowd, website.http))
    what = f"{crowd:,} clients at once"
    return [
        *pair("memory of a relay", "MB", [idle["ours"]], [idle["tor"]], MEMORY, "tor's", at_most=True),
        *pair(f"with {circuits:,} circuits", "MB", [full["ours"]], [full["tor"]], MEMORY, "tor's", at_most=True),
        *pair(f"{what}: all answered after", "s", [served["ours"][0]], [served["tor"][0]], None, "tor's"),
        *pair(f"{what}: CPU of the relay", "s", [served["ours"][1]], [served["tor"][1]], None, "tor's"),
    ]


async def hold(pid: int, links: int, each: int, crowd: Crowd) -> float:
    """MB of a relay that has so many circuits."""
    await crowd.links_open(links)
    await crowd.circuits_open(each)
    return resident(pid) / 1e6


async def serve(pid: int, clients: int, port: int, crowd: Crowd) -> tuple[float, float]:
    """Seconds, and CPU seconds of the relay, until each client with a link and a circuit of its own has its answer."""
    spent, begun = cpu(pid), time.perf_counter()
    await crowd.links_open(clients)
    await crowd.circuits_open(1)
    await crowd.ask(port)
    return time.perf_counter() - begun, max(cpu(pid) - spent, 1 / TICK)


def resident(pid: int) -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pair(
    what: str,
    unit: str,
    ours: list[float],
    theirs: list[float],
    target: float | None,
    whose: str,
    *,
    at_most: bool = False,
) -> list[Figure]:
    """Medians, and their ratio beside its target."""
    one, other = statistics.median(ours), statistics.median(theirs)
    note = f"median of {len(ours)}" if len(ours) > 1 else ""
    return [
        Figure(what, one, unit, note=note),
        Figure(f"{what}, {whose}", other, unit, note=note),
        Figure(f"{what}: ours / tor's", one / other, "ratio", target, at_most),
    ]
