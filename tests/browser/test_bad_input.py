"""Links, files, disks and strangers that are not as they should be: a clear word each, and the network goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.changing import ChangingSite
from tests.browser.garbage import resident, torment
from tests.browser.harness import START, Peer, limited_storage, transfer_id
from tests.e2e.processes import MIB, Command, Network, running, sha256, write_file

GROWTH = 48 * MIB
"""Resident bytes that a node may gain from strangers: 150 connections that it cannot tell from slow ones, and what the
allocator keeps of what is gone."""
NOBODYS = f"{'A' * 43}.{'A' * 43}"

# A file whose name no file system would hold, as a page's script can make it.
SHARE_NAMED = """([name, text]) => {
    const files = new DataTransfer();
    files.items.add(new File(text ? [text] : [], name));
    const input = document.getElementById("share-input");
    input.files = files.files;
    input.dispatchEvent(new Event("change"));
}"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[dict[str, Any]]:
    """The network of `convergence up`; its ready record."""
    folder = tmp_path_factory.mktemp("network")
    with running("up", "--port", "0", "--data", folder, "--dist", dist, "--no-rtc") as up:
        yield {**up.until("ready"), "up": up}
        assert up.stop() == 0


@pytest.fixture(scope="module")
def site(network: dict[str, Any]) -> str:
    address: str = network["site"]
    return address


@pytest.fixture(scope="module")
def pair(site: str, chromium: Browser, lasting_peer: Callable[..., Peer]) -> list[Peer]:
    """Two peers that are no first visitors. They may have other files: look for what is shown of one's own."""
    both = [lasting_peer(chromium, site).open() for _ in range(2)]
    return [one.ready() for one in both]


def shown(getter: Peer, link: str) -> Locator:
    """The transfer of that link on the page."""
    return getter.page.locator(f"[data-id='{transfer_id(link)}']")


def test_links_that_lead_nowhere(site: str, pair: list[Peer]) -> None:
    _, getter = pair
    getter.get(f"{site}#{NOBODYS[:-3]}")
    expect(getter.page.get_by_test_id("get-error")).to_contain_text("not a complete share link")
    getter.get(f"{site}#{NOBODYS}")
    getter.transfer(NOBODYS, "item.state === 'looking' && item.why.code === 'nobody'")
    row = shown(getter, NOBODYS)
    words = "Nobody shares this file right now. This page goes on looking"
    expect(row.get_by_test_id("transfer-note")).to_contain_text(words)
    row.get_by_test_id("cancel").click()
    expect(row.get_by_test_id("retry")).to_be_visible()
    row.get_by_test_id("forget").click()
    expect(row).to_have_count(0)
    getter.ready()


@pytest.mark.parametrize(
    "name, text, saved",
    [
        ("nothing.txt", "", "nothing.txt"),
        ("../../x", "up and away", "x"),
        ('<img src=x onerror="document.title=1">.html', "<script>document.title = 2</script>", ".html"),
        ("n" * 5000 + ".txt", "a long name", "nnn"),
    ],
    ids=["empty", "path", "html", "long"],
)
def test_files_of_no_size_and_hostile_names(
    site: str, pair: list[Peer], tmp_path: Path, name: str, text: str, saved: str
) -> None:
    sender, getter = pair
    before = [share["id"] for share in sender.state["shares"]]
    sender.page.evaluate(SHARE_NAMED, [name, text])
    new = "state.shares.find((item) => item.points > 0 && !argument.includes(item.id))"
    share = sender.until(new, before, seconds=START)
    # A longer name is cut before its extension.
    assert share["name"] == (name if len(name) <= 1024 else "n" * 1020 + ".txt")
    link = f"{site}#{share['link']}"
    getter.get(link)
    done = getter.done(link)
    assert (done["name"], done["size"]) == (share["name"], len(text))
    with getter.page.expect_download() as download:
        shown(getter, link).get_by_test_id("save").click()
    suggested = download.value.suggested_filename
    assert saved in suggested and len(suggested) <= 240
    assert not set(suggested) & set('<>"/\\|?*') and not suggested.startswith(".")
    assert Path(download.value.path()).read_text() == text
    for page in (sender.page, getter.page):
        assert page.title() == "Convergence"
        assert page.locator("main img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    code, record = Command("get", link, "-o", out, "--data", tmp_path / "data").end()
    assert (code, record["event"]) == (0, "done")
    assert Path(record["path"]).parent == out and Path(record["path"]).read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == {"a", "data"}


def test_a_full_disk_is_told_and_retry_goes_on(
    site: str, chromium: Browser, peer: Callable[..., Peer], tmp_path: Path
) -> None:
    file = tmp_path / "file.bin"
    digest = write_file(file, 8 * MIB)
    with running("share", file, "--site", site, "--data", tmp_path / "data") as sender:
        link = sender.until("shared")["link"]
        getter = peer(chromium, site).open().ready().settled()
        used = getter.page.evaluate("navigator.storage.estimate().then(({ usage }) => usage)")
        with limited_storage(getter.page, site, used + 3 * MIB):
            # Chromium remembers for half a minute how much room there was when the node last wrote.
            getter.page.wait_for_timeout(35_000)
            getter.get(link)
            paused = getter.transfer(link, "item.state === 'paused'")
            assert 0 < paused["have"] < 8 * MIB
            expect(getter.page.get_by_test_id("transfer-note")).to_contain_text("There is no room left")
            expect(getter.page.get_by_test_id("transfer-note")).to_contain_text("choose Retry")
            getter.page.get_by_test_id("share-input").set_input_files(file)  # what is to be shared has to fit, too
            expect(getter.page.get_by_test_id("share-note")).to_contain_text("room")
        getter.page.get_by_test_id("retry").click()
        getter.transfer(link, "item.state !== 'paused'")
        done = getter.done(link)
        assert (done["fetched"], done["duplicates"]) == (done["pieces"], 0)
        assert sha256(getter.save(link)) == digest


def test_a_facilitator_that_is_down_is_told_and_awaited(
    tmp_path: Path, dist: Path, chromium: Browser, stack: ExitStack, peer: Callable[..., Peer]
) -> None:
    """The page itself comes from a mirror that says where the network is."""
    with closing(Network(tmp_path / "network", dist, relays=3)) as network:
        with urlopen(network.site + "network.json") as answer:
            named = json.load(answer)
        network.facilitator.process.kill()
        network.facilitator.process.wait()
        files = {path.relative_to(dist).as_posix(): path.read_bytes() for path in dist.rglob("*") if path.is_file()}
        named["facilitator"]["path"] = urljoin(network.site, named["facilitator"]["path"])
        mirror = ChangingSite({**files, "network.json": json.dumps(named).encode()})
        stack.callback(mirror.stop)
        node = peer(chromium, mirror.address).open()
        node.until("state.trouble", seconds=START)
        expect(node.page.get_by_test_id("error")).to_contain_text("The facilitator cannot be reached")
        expect(node.page.get_by_test_id("error")).to_contain_text("Trying again.")
        assert not node.state["ready"] and not node.state["failed"]
        network.facilitator.stop()
        network.start_facilitator()
        node.ready()


def test_garbage_on_every_listening_port(network: dict[str, Any], site: str, pair: list[Peer], tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    digest = write_file(file, 8 * MIB)
    _, getter = pair
    ports = [(int(site.rstrip("/").rpartition(":")[2]), network["pid"], "/facilitator")]
    ports += [(node["port"], node["pid"], "/") for node in network["nodes"]]
    with running("share", file, "--site", site, "--data", tmp_path / "data") as sender:
        link = sender.until("shared")["link"]
        before = {pid: resident(pid) for _, pid, _ in ports}
        strangers = [
            stranger for number, (port, _, path) in enumerate(ports) for stranger in torment(port, path, number)
        ]
        try:
            getter.get(link)
            getter.done(link)
            assert sha256(getter.save(link)) == digest
            for _, pid, _ in ports:
                os.kill(pid, 0)
                assert resident(pid) - before[pid] < GROWTH
        finally:
            for stranger in strangers:
                stranger.close()
    assert network["up"].errors == ""  # nor can strangers fill a log
    getter.ready()
    assert getter.page.get_by_test_id("error").text_content() == ""
    assert transfer_id(link) == getter.transfer(link)["id"]
