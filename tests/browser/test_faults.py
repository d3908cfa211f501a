"""Faults while a file is on its way between two browsers: every transfer completes, and nothing comes twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from convergence.wire.ordb import PIECE_SIZE
from tests.browser.harness import Peer
from tests.e2e.processes import MIB, Network, running, sha256, write_file

SIZE = 32 * MIB
RATE = 2 * MIB  # bytes/s that a relay relays: so a transfer lasts long enough to be met on its way


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[Network]:
    slow = tmp_path_factory.mktemp("settings") / "slow.toml"
    slow.write_text(f"[limits]\nrate = {RATE}\n")
    network = Network(tmp_path_factory.mktemp("network"), dist, options=("--config", slow))
    yield network
    network.close()


@pytest.fixture
def network(processes: Network) -> Network:
    """All of it alive."""
    processes.mend()
    return processes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    write_file(path, SIZE)
    return path


def check(getter: Peer, link: str, file: Path, kept: int = 0) -> None:
    """The file is there, whole, and each piece that was not kept from an earlier run was fetched once."""
    done = getter.done(link)
    assert done["pieces"] == SIZE // PIECE_SIZE
    assert done["fetched"] <= done["pieces"] - kept // PIECE_SIZE
    assert done["fetched"] == done["pieces"] or kept
    assert done["duplicates"] == 0
    assert sha256(getter.save(link)) == sha256(file)


def in_use(peer: Peer) -> list[dict[str, Any]]:
    """The circuits of the transfers."""
    circuits = peer.state["circuits"]
    return [circuit for circuit in circuits if circuit["state"] == "in use" and circuit["purpose"] == "rendezvous"]


@pytest.mark.parametrize("hop", [0, -1], ids=["its first hop", "its rendezvous point"])
def test_a_relay_on_the_way_is_killed(
    network: Network, chromium: Browser, peer: Callable[..., Peer], file: Path, hop: int
) -> None:
    sender, getter = peer(chromium, network.site).open(), peer(chromium, network.site).open()
    link = sender.ready().share(file)
    getter.ready().get(link)
    getter.midway(link)
    network.relay(in_use(getter)[0]["hops"][hop]["identity"]).kill()
    assert getter.transfer(link)["state"] != "done"
    check(getter, link, file)
    getter.ready()


def test_the_sharing_page_is_closed_and_opened_again(
    network: Network, chromium: Browser, peer: Callable[..., Peer], file: Path
) -> None:
    sender, getter = peer(chromium, network.site).open(), peer(chromium, network.site).open()
    link = sender.ready().share(file)
    getter.ready().get(link)
    getter.midway(link)
    sender.page.close()
    getter.transfer(link, "item.state === 'waiting' && item.why")
    note = getter.page.get_by_test_id("transfer-note")
    expect(note).to_contain_text("is here already")
    expect(note).to_contain_text("sender")
    sender.open()
    assert sender.link(file.name) == link
    check(getter, link, file)


def test_the_receiving_page_is_loaded_again(
    network: Network, chromium: Browser, peer: Callable[..., Peer], file: Path
) -> None:
    sender, getter = peer(chromium, network.site).open(), peer(chromium, network.site).open()
    link = sender.ready().share(file)
    getter.ready().get(link)
    kept = getter.midway(link)["have"]
    getter.page.reload()
    check(getter, link, file, kept)


def test_a_sender_of_wrong_bytes_is_dropped(
    network: Network, chromium: Browser, peer: Callable[..., Peer], file: Path, tmp_path: Path
) -> None:
    liar = [Path(__file__).parent / "lying_share.py"]
    arguments = ("share", file, "--site", network.site, "--data", tmp_path / "data")  # the same data give the same link
    with running(*arguments, program=liar) as lying:
        link = lying.until("shared")["link"]
        with running(*arguments) as honest:
            assert honest.until("shared")["link"] == link
            getter = peer(chromium, network.site).open().ready()
            getter.get(link)
            done = getter.done(link)
            assert done["banned"] > 0
            check(getter, link, file)
