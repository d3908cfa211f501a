"""Faults of browsers that relay, while a file goes through them: circuits are replaced, and the file arrives whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import kill
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Playwright

from tests.browser.harness import ARRIVAL, Peer
from tests.browser.swarm import ORIGIN, POINT, Swarm
from tests.e2e.processes import MIB, Network, running, sha256, write_file
from tests.netlab import Lab, Nat, lab

pytestmark = pytest.mark.rtc

SIZE = 16 * MIB
USED = "state.circuits.filter((item) => item.purpose === 'rendezvous' && item.state === 'in use')"
GOES_ROUND = f"""state.transfers.some((item) => item.state === 'done' || (item.state === 'running' && item.sources))
    && !{USED}.some((circuit) => circuit.hops.some((hop) => hop.identity === argument))"""
"""A transfer goes on, or is at its end, in circuits that a node has no part in."""


@pytest.fixture
def swarm(stack: ExitStack, tmp_path: Path, dist: Path, peer: Callable[..., Peer]) -> Swarm:
    network = Network(tmp_path / "network", dist, relays=0, rtc=True)
    stack.callback(network.close)
    return Swarm(network, peer)


@pytest.fixture
def net(stack: ExitStack) -> Lab:
    return stack.enter_context(lab(left=Nat.CONE, right=Nat.CONE))


@pytest.fixture
def across(
    stack: ExitStack,
    net: Lab,
    playwright: Playwright,
    downloads: Path,
    tmp_path: Path,
    dist: Path,
    peer: Callable[..., Peer],
) -> tuple[Peer, Peer, Peer]:
    """Who reads, on the left; the one point and who owns the file, on the right. Circuits have one hop: all that the
    reader gets comes over one WebRTC link."""
    network = stack.enter_context(net.network(tmp_path / "network", dist))
    left, right = (
        stack.enter_context(net[name].chromium(playwright, downloads, network.site)) for name in ("left", "right")
    )
    swarm = Swarm(network, peer)
    reader = swarm.add(left, {**ORIGIN, "hops": 1})
    point, owner = swarm.add(right, POINT), swarm.add(right, {**ORIGIN, "hops": 1})
    swarm.meet(1)
    return reader, point, owner


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    write_file(path, SIZE)
    return path


def begin(reader: Peer, owner: Peer, file: Path) -> str:
    """Have the file well under way; returns its link."""
    link = owner.ready().share(file)
    reader.ready().get(link)
    reader.midway(link)
    return link


def check(reader: Peer, link: str, file: Path) -> None:
    """The file is there, whole, and nothing came twice."""
    done = reader.done(link)
    assert (done["fetched"], done["duplicates"]) == (done["pieces"], 0)
    assert sha256(reader.save(link)) == sha256(file)


def circuits_in_use(peer: Peer) -> list[dict[str, Any]]:
    """Those of the transfers, once there are any."""
    circuits: list[dict[str, Any]] = peer.until(f"{USED}.length && {USED}")
    return circuits


def path_in_use(peer: Peer) -> list[str]:
    """Identities of the hops of one of them."""
    return [hop["identity"] for hop in circuits_in_use(peer)[0]["hops"]]


def known(peers: list[Peer], identity: str) -> Peer:
    return next(peer for peer in peers if peer.state["identity"] == identity)


def test_relaying_tabs_are_closed_and_crash(swarm: Swarm, chromium: Browser, file: Path) -> None:
    """First the meeting point of the transfer, then the entry of the circuit that came in its place."""
    reader, owner = swarm.add(chromium, ORIGIN), swarm.add(chromium, ORIGIN)
    relays = [swarm.add(chromium, POINT) for _ in range(5)]
    swarm.meet(len(relays))
    link = begin(reader, owner, file)

    point = known(relays, path_in_use(reader)[-1])
    relays.remove(point)
    point.page.close()
    had = reader.transfer(link)["have"]
    reader.transfer(link, f"item.have > {had + MIB} || item.state === 'done'")
    entry = known(relays, path_in_use(reader)[0])
    with suppress(Error):  # it says that the page crashed
        entry.page.goto("chrome://crash")
    assert reader.transfer(link)["state"] != "done"
    check(reader, link, file)
    reader.ready()


def test_a_relaying_page_falls_asleep_and_wakes(swarm: Swarm, chromium: Browser, file: Path) -> None:
    """As a closed lid does to it: its processes stand still, connections and timers with them."""
    reader, owner = swarm.add(chromium, ORIGIN), swarm.add(chromium, ORIGIN)
    relays, processes = [], {}
    for _ in range(4):
        before = renderers_of(chromium)
        relays.append(swarm.add(chromium, POINT))
        processes[relays[-1]] = renderers_of(chromium) - before
    swarm.meet(len(relays))
    link = begin(reader, owner, file)

    identity = path_in_use(reader)[0]
    sleeper = known(relays, identity)
    with stopped(processes[sleeper] & renderers_of(chromium)):  # Chromium has ended the ones that it made to spare
        reader.until(GOES_ROUND, identity, seconds=ARRIVAL)
        check(reader, link, file)
    sleeper.get(link)
    check(sleeper, link, file)


def renderers_of(browser: Browser) -> set[int]:
    """Ids of the processes that run a Chromium's pages; profiles never share one."""
    found = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return {process["id"] for process in found if process["type"] == "renderer"}


@contextmanager
def stopped(processes: set[int]) -> Iterator[None]:
    assert processes
    try:
        for process in processes:
            kill(process, SIGSTOP)
        yield
    finally:
        for process in processes:
            kill(process, SIGCONT)


@pytest.mark.parametrize("host", ["left", "right"])
def test_a_host_moves_to_another_network(across: tuple[Peer, Peer, Peer], net: Lab, file: Path, host: str) -> None:
    """The link is restored, and what was on its way goes on in the same circuit. The browser on the left, which called,
    notices that it is on another network; the pages on the right are never told."""
    reader, point, owner = across
    for one in (point, owner):
        one.page.evaluate("addEventListener('online', (event) => event.stopImmediatePropagation(), { capture: true })")
    link = begin(reader, owner, file)
    before = circuits_in_use(reader)
    net[host].move()
    reader.transfer(link, "item.have > 0.8 * item.size")
    assert circuits_in_use(reader) == before
    check(reader, link, file)


def test_a_node_that_never_answers(swarm: Swarm, chromium: Browser, file: Path, tmp_path: Path) -> None:
    """It registers like others, and swallows every call."""
    silent: list[str | Path] = ["--site", swarm.network.site, "--data", tmp_path / "silent"]
    with running("relay", *silent, program=[Path(__file__).parent / "silent_node.py"]) as mute:
        reader, owner = swarm.add(chromium, ORIGIN), swarm.add(chromium, ORIGIN)
        for _ in range(3):
            swarm.add(chromium, POINT)
        swarm.meet(4)
        mute.until("called")
        link = owner.ready().share(file)
        reader.ready().get(link)
        check(reader, link, file)


def test_a_host_that_loses_a_third_of_its_packets(across: tuple[Peer, Peer, Peer], net: Lab, file: Path) -> None:
    """First of what it receives, too: next to nothing comes through then, circuits are given up. After that, of what it
    sends: they are replaced, and the file arrives."""
    reader, _, owner = across
    link = begin(reader, owner, file)
    before = [circuit["id"] for circuit in reader.state["circuits"]]
    net["left"].lose(0.3)
    reader.until("argument.some((id) => state.circuits.every((circuit) => circuit.id !== id))", before)
    net["left"].lose(0.3, sent_only=True)
    check(reader, link, file)
    net["left"].lose(0)
    reader.ready()
