"""Browsers as relays: files over WebRTC links only, beside what a bare data channel between the same pages carries.

Does: measure a channel as links have it, reliable and ordered, beside the less strict ones that are not used; files
over one hop and over 2+2; what a browser relay forwards and costs; how long an introduction takes; how many browser
nodes this machine bears.
Does not: leave the machine: WebRTC traffic stays in the namespace that the benches run in.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

from convergence.wire.cells import CELL_LEN
from tests.bench.browser import visitor
from tests.bench.channel import MODES, pages, raw
from tests.bench.lab import Figure
from tests.bench.supervise import descendants, step
from tests.browser.harness import ARRIVAL, START, launched
from tests.browser.swarm import MEET, ORIGIN, POINT, Swarm, relayed
from tests.e2e.processes import MIB, ROOT, Network, write_file

SIZE = 64 * MIB
FILE = 32 * MIB
# Paths of files: name, hops from either end, relays beside the one that is watched, target in bare channels.
PATHS = (("one hop", 1, 2, 1 / 2), ("2+2 hops", 2, 4, 1 / 4))
MOST_NODES = 48  # browser nodes that are tried on this machine
STEP = 4
PATIENCE = 30.0  # seconds in which a step's nodes must have their circuits for the machine to bear them
TICKS = os.sysconf("SC_CLK_TCK")
# Deadlines of steps, in seconds. The longer ones are above those of the harness, whose messages say more.
PAGES = 120.0  # a browser, and pages in it
CHANNEL = 120.0
JOINING = MEET + 2 * START + 60  # until all know each other, and the ends have their circuits
TRANSFER = ARRIVAL + 60
# Remembers how long each connection that this page offers takes, from its making to the end of its DTLS handshake.
INTRODUCTIONS = """
    window.introductions = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
        constructor(...values) {
            super(...values);
            const begun = performance.now();
            let offers = false;
            this.addEventListener("signalingstatechange", () => {
                offers ||= this.signalingState === "have-local-offer";
            });
            this.addEventListener("connectionstatechange", () => {
                if (offers && this.connectionState === "connected") introductions.push(performance.now() - begun);
            });
        }
    };
"""


def run(tiny: bool = False) -> list[Figure]:
    size = MIB if tiny else SIZE
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        figures = []
        step("two empty pages", PAGES)
        with pages(playwright, folder) as (sender, getter):
            for mode, options in MODES.items():
                step(f"a bare data channel, {mode}", CHANNEL)
                result = raw(sender, getter, size, options)
                note = f"{result.arrived:.1%} arrived"
                figures.append(Figure(f"bare data channel, {mode}", result.rate, "MB/s", note=note))
        for label, hops, relays, target in PATHS[:1] if tiny else PATHS:
            figures += files(playwright, folder / label, label, hops, relays, MIB if tiny else FILE, target)
        figures += crowd(playwright, folder, STEP if tiny else MOST_NODES)
    return figures


@contextlib.contextmanager
def swarm(folder: Path) -> Iterator[Swarm]:
    """A network without any server but the facilitator."""
    network = Network(folder, ROOT / "dist", relays=0, rtc=True)
    # The bare channel needs a worker that is none of the page's: its policy is not in force here.
    net = Swarm(network, lambda browser, site: visitor(browser, site, folder, bypass_csp=True))
    try:
        yield net
    finally:
        for peer in net.peers:
            peer.close()
        network.close()


def files(
    playwright: Playwright, place: Path, label: str, hops: int, relays: int, size: int, target: float
) -> list[Figure]:
    """A file over so many hops; over one, both ends link to its points. One of the relays is alone in a browser of its
    own, so that its processor time can be told from the others'."""
    with contextlib.ExitStack() as stack:
        step(f"a facilitator and two browsers, for {label}", PAGES)
        net = stack.enter_context(swarm(place))
        shared, alone = (stack.enter_context(launched(playwright, "chromium", place)) for _ in range(2))
        point = net.add(alone, {**POINT, "share": 100, "upload": 10_000}, INTRODUCTIONS)
        for _ in range(relays):
            net.add(shared, {**POINT, "share": 100, "upload": 10_000}, INTRODUCTIONS)
        ends = [net.add(shared, {**ORIGIN, "hops": hops}, INTRODUCTIONS) for _ in range(2)]
        step(f"links and circuits of {len(net.peers)} pages, for {label}", JOINING)
        net.meet(1 + relays)
        for peer in ends:
            peer.ready()
        file = place / "file.bin"
        write_file(file, size)
        sender, getter = ends
        step(f"the link of the file, for {label}", TRANSFER)
        link = sender.share(file)
        step(f"the file over {label}", TRANSFER)
        cells, spent = relayed(point) // CELL_LEN, processor_time(alone)
        begun = time.perf_counter()
        getter.get(link)
        getter.done(link)
        seconds = time.perf_counter() - begun
        point.page.wait_for_timeout(1500)  # its counters are shown once a second
        cells = relayed(point) // CELL_LEN - cells
        spent = processor_time(alone) - spent
        step(f"a bare data channel between the same pages, for {label}", CHANNEL)
        bare = raw(sender.page, getter.page, size).rate
        rate = size / seconds / 1e6
        share = f"a browser alone with it took {spent / seconds:.0%} of a core"
        times = [value for peer in net.peers for value in peer.page.evaluate("window.introductions")]
    return [
        Figure(f"file over {label}, WebRTC only", rate, "MB/s", note=f"{size >> 20} MiB"),
        Figure("  bare channel between the same pages", bare, "MB/s"),
        Figure("  file, in bare channels", rate / bare, "times", target),
        Figure("  cells that one relay forwarded meanwhile", cells / seconds, "cells/s", note=share),
        Figure("  introduction: offer to open link", statistics.median(times) / 1e3, "s", note=spread(times)),
    ]


def crowd(playwright: Playwright, folder: Path, most: int) -> list[Figure]:
    """More and more browser nodes, all relaying for each other, until new ones do not get their circuits in time."""
    times: list[float] = []
    with contextlib.ExitStack() as stack:
        step("a facilitator and a browser, for the crowd", PAGES)
        net = stack.enter_context(swarm(folder / "crowd"))
        browser = stack.enter_context(launched(playwright, "chromium", folder))
        empty = memory(browser)
        while len(net.peers) < most:
            step(f"browser nodes {len(net.peers) + 1} to {len(net.peers) + STEP}", PAGES + MEET)
            new = [net.add(browser, POINT) for _ in range(STEP)]
            begun = time.perf_counter()
            try:
                for peer in new:
                    left = PATIENCE - (time.perf_counter() - begun)
                    peer.until("state.ready", seconds=max(left, 0.1) if times else MEET)
            except AssertionError:
                if not times:
                    raise
                break
            times.append(time.perf_counter() - begun)
        fit = len(times) * STEP
        each = (memory(browser) - empty) / len(net.peers) / MIB
        step("ten idle seconds of the crowd", CHANNEL)
        before, begun = processor_time(browser), time.perf_counter()
        net.peers[0].page.wait_for_timeout(10_000)
        idle = (processor_time(browser) - before) / (time.perf_counter() - begun)
    return [
        Figure(
            "browser nodes that fit on this machine",
            fit,
            "nodes",
            note=f"{STEP} more had circuits after {spread([1e3 * x for x in times])}",
        ),
        Figure("  memory of each", each, "MiB", note="proportional set size, shared pages divided"),
        Figure("  processor of all, idle", idle, "cores"),
    ]


def spread(times: list[float]) -> str:
    """Of milliseconds."""
    return f"{min(times) / 1e3:.2f} to {max(times) / 1e3:.2f} s, {len(times)} times"


def family(browser: Browser) -> list[int]:
    """The browser's processes."""
    root = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    main = next(item["id"] for item in root if item["type"] == "browser")
    return [main, *descendants(main)]


def processor_time(browser: Browser) -> float:
    """Seconds that all processes of the browser have used."""
    total = 0
    for pid in family(browser):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory(browser: Browser) -> int:
    """Bytes, of all processes of the browser, what is shared counted once."""
    total = 0
    for pid in family(browser):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
    return total
