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
from tests.bench.channel import MODES, pages, raw, serve_worker
from tests.bench.lab import Figure
from tests.browser.harness import Peer, launched
from tests.browser.swarm import ORIGIN, POINT, Swarm, relayed
from tests.e2e.processes import MIB, ROOT, Network, write_file

TITLE = "WebRTC: browsers that relay for each other, beside a bare data channel"
SIZE = 64 * MIB
FILE = 32 * MIB
TARGET_ONE_HOP = 1 / 2  # of the bare channel
TARGET_PATH = 1 / 4
MOST_NODES = 48  # browser nodes that are tried on this machine
STEP = 4
PATIENCE = 30.0  # seconds in which a step's nodes must have their circuits for the machine to bear them
TICKS = os.sysconf("SC_CLK_TCK")
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
        with pages(playwright, folder) as (sender, getter):
            results = {mode: raw(sender, getter, size, options) for mode, options in MODES.items()}
        figures = [
            Figure(f"bare data channel, {mode}", result.rate, "MB/s", note=f"{result.arrived:.1%} arrived")
            for mode, result in results.items()
        ]
        figures += files(playwright, folder, MIB if tiny else FILE)
        if not tiny:
            figures += crowd(playwright, folder)
    return figures


@contextlib.contextmanager
def swarm(folder: Path) -> Iterator[Swarm]:
    """A network without any server but the facilitator."""
    network = Network(folder, ROOT / "dist", relays=0, rtc=True)
    # The bare channel needs a worker that is none of the page's: its policy is not in force here.
    net = Swarm(network, lambda browser, site: Peer(browser, site, folder, bypass_csp=True))
    try:
        yield net
    finally:
        for peer in net.peers:
            peer.close()
        network.close()


def files(playwright: Playwright, folder: Path, size: int) -> list[Figure]:
    """A file over one hop (both ends link to its points) and over 2+2. One of the relays is alone in a browser of its
    own, so that its processor time can be told from the others'."""
    figures = []
    for label, hops, relays, target in (("one hop", 1, 2, TARGET_ONE_HOP), ("2+2 hops", 2, 4, TARGET_PATH)):
        place = folder / f"{hops}"
        with contextlib.ExitStack() as stack:
            net = stack.enter_context(swarm(place))
            shared, alone = (stack.enter_context(launched(playwright, "chromium", place)) for _ in range(2))
            point = net.add(alone, {**POINT, "share": 100, "upload": 10_000}, INTRODUCTIONS)
            for _ in range(relays):
                net.add(shared, {**POINT, "share": 100, "upload": 10_000}, INTRODUCTIONS)
            ends = [net.add(shared, {**ORIGIN, "hops": hops}, INTRODUCTIONS) for _ in range(2)]
            net.meet(1 + relays)
            for peer in ends:
                peer.ready()
            file = place / "file.bin"
            write_file(file, size)
            sender, getter = ends
            link = sender.share(file)
            cells, spent = relayed(point) // CELL_LEN, processor_time(alone)
            begun = time.perf_counter()
            getter.get(link)
            getter.done(link)
            seconds = time.perf_counter() - begun
            point.page.wait_for_timeout(1500)  # its counters are shown once a second
            cells = relayed(point) // CELL_LEN - cells
            spent = processor_time(alone) - spent
            for page in (sender.page, getter.page):
                serve_worker(page.context, net.network.site)
            bare = raw(sender.page, getter.page, size).rate
            rate = size / seconds / 1e6
            share = f"a browser alone with it took {spent / seconds:.0%} of a core"
            figures += [
                Figure(f"file over {label}, WebRTC only", rate, "MB/s", note=f"{size >> 20} MiB"),
                Figure("  bare channel between the same pages", bare, "MB/s"),
                Figure("  file, in bare channels", rate / bare, "times", target),
                Figure("  cells that one relay forwarded meanwhile", cells / seconds, "cells/s", note=share),
            ]
            times = [value for peer in net.peers for value in peer.page.evaluate("window.introductions")]
            figures.append(
                Figure("  introduction: offer to open link", statistics.median(times) / 1e3, "s", note=spread(times))
            )
    return figures


def crowd(playwright: Playwright, folder: Path) -> list[Figure]:
    """More and more browser nodes, all relaying for each other, until new ones do not get their circuits in time."""
    times: list[float] = []
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(swarm(folder / "crowd"))
        browser = stack.enter_context(launched(playwright, "chromium", folder))
        empty = memory(browser)
        while len(net.peers) < MOST_NODES:
            new = [net.add(browser, POINT) for _ in range(STEP)]
            begun = time.perf_counter()
            try:
                for peer in new:
                    left = PATIENCE - (time.perf_counter() - begun)
                    peer.until("state.ready", seconds=max(left, 0.1) if len(net.peers) > STEP else 4 * PATIENCE)
            except AssertionError:
                break
            times.append(time.perf_counter() - begun)
        fit = len(times) * STEP
        each = (memory(browser) - empty) / len(net.peers) / MIB
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
    """The browser's processes: all descendants of this process that are of its kind and not of a browser before it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    root = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    main = next(item["id"] for item in root if item["type"] == "browser")
    found = [main]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


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
