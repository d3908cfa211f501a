"""The main path: real browsers and commands, real nodes, and what those nodes could write down meanwhile."""

from __future__ import annotations

import os
import re
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from zipfile import ZipFile

import pytest
from playwright.sync_api import Browser, expect

from convergence.rdv.blind import days_in_use, owners_name
from convergence.wire.sharelink import ShareLink
from pynode.crypto import CPythonCrypto
from tests.browser.harness import Peer
from tests.e2e.processes import MIB, PATIENCE, Command, Network, Relay, running, sha256
from tests.views import points_of

CRYPTO = CPythonCrypto()
MARKER = b"7Qv-the-marker-that-nobody-on-the-way-may-see-9Zk"
SIZE = 16 * MIB
READ_TOGETHER = 1 << 26
OVERLAP = 1 << 10  # longer than anything that is looked for


def marked_file(path: Path, seed: int) -> Path:
    """Random bytes with the marker about once a kilobyte, at any place of a cell."""
    random = Random(seed)
    data = bytearray(random.randbytes(SIZE))
    for start in range(0, SIZE - 2048, 1024):
        at = start + random.randrange(900)
        data[at : at + len(MARKER)] = MARKER
    path.write_bytes(data)
    return path


class Recordings:
    """What the relays saw since the last look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def program(self, name: str) -> list[str | Path]:
        return [Path(__file__).parent / "recording_relay.py", self.folder / name]

    def look_for(self, secrets: dict[str, bytes]) -> tuple[set[tuple[str, str]], dict[str, int]]:
        """Which secrets are in which recordings (file, secret), and how long these are. Empties them: the next look is
        at what comes next."""
        found, sizes = set(), {}
        for path in sorted(self.folder.iterdir()):
            sizes[path.name] = path.stat().st_size
            with path.open("rb") as file:
                tail = b""
                while data := file.read(READ_TOGETHER):
                    found |= {(path.name, name) for name, secret in secrets.items() if secret in tail + data}
                    tail = data[-OVERLAP:]
            os.truncate(path, 0)
        return found, sizes


def spellings(name: str, secret: bytes) -> dict[str, bytes]:
    """A secret as it is, and as people write it."""
    written = urlsafe_b64encode(secret).rstrip(b"=")
    return {name: secret, f"{name} in hex": secret.hex().encode(), f"{name} in base64": written}


class Page:
    """A web page that holds the marker: what an exit fetches, it sees."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(MARKER)))
                self.end_headers()
                self.wfile.write(MARKER)

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever).start()


@pytest.fixture(scope="module")
def web() -> Iterator[Page]:
    page = Page()
    yield page
    page.server.shutdown()
    page.server.server_close()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return Recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory, dist: Path, recordings: Recordings, web: Page
) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("network")
    network = Network(folder, dist, program=recordings.program, exit_allow=[web.address])
    yield network
    network.close()


def check_recordings(recordings: Recordings, network: Network, link: str, name: str) -> None:
    """No relay saw what it must not; and what relays do see is in the recordings."""
    parsed = ShareLink.parse(link)
    points = points_of(parsed.hash_name, [Point(relay) for relay in network.relays])
    known = {
        f"name at {point.relay.name}": owners_name(CRYPTO, parsed.hash_name, point.identity, day).blinded
        for point in points
        for day in days_in_use(time.time(), point.identity)[:1]
    }
    secrets = {"marker": MARKER, "file name": name.encode()}
    secrets |= spellings("hash_name", parsed.hash_name) | spellings("key", parsed.key)
    found, sizes = recordings.look_for(secrets | known)
    assert {secret for _, secret in found} & set(secrets) == set(), found
    for point in points:  # under its own blinded name, and no other, each point was asked for the file
        assert (f"{point.relay.name}.opened", f"name at {point.relay.name}") in found
    assert {secret for file, secret in found if not file.endswith(".opened")} == set()
    moved = sum(size for file, size in sizes.items() if file.endswith(".opened"))
    assert moved > 4 * SIZE  # in and out of four relays' layers


class Point:
    """A relay, as the choice of points sees it."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.identity = bytes.fromhex(relay.identity)


def test_what_crosses_an_exit_in_plain_text_is_found_there(
    network: Network, recordings: Recordings, web: Page, tmp_path: Path
) -> None:
    """So the search can find something."""
    recordings.look_for({})
    path = f"/{Random(5).randbytes(12).hex()}"
    code, _ = Command("fetch", f"http://{web.address}{path}", "-o", tmp_path / "page", "--site", network.site).end()
    assert code == 0
    found, _ = recordings.look_for({"marker": MARKER, "path": path.encode(), "own identity": b""})
    exits = {relay.name for relay in network.relays[-2:]}
    assert {secret for _, secret in found} == {"marker", "path", "own identity"}
    assert {file.partition(".")[0] for file, secret in found if secret != "own identity"} <= exits


@pytest.fixture(scope="module")
def browser(network: Network, chromium: Browser, lasting_peer: Callable[..., Peer]) -> Peer:
    """Which shares, or gets, in all of these tests."""
    return lasting_peer(chromium, network.site).open()


@pytest.mark.parametrize("receiver", ["chromium", "firefox"])
def test_a_file_goes_from_browser_to_browser(
    network: Network,
    recordings: Recordings,
    browser: Peer,
    request: pytest.FixtureRequest,
    peer: Callable[..., Peer],
    tmp_path: Path,
    receiver: str,
) -> None:
    file = marked_file(tmp_path / f"a-name-for-{receiver}-only.bin", 1)
    recordings.look_for({})
    sender = browser.ready()
    link = sender.share(file)
    getter = peer(request.getfixturevalue(receiver), network.site).open(f"#{link.rpartition('#')[2]}").ready()
    done = getter.done(link)
    assert (done["name"], done["size"]) == (file.name, SIZE)
    assert (done["fetched"], done["duplicates"]) == (done["pieces"], 0)
    assert sha256(getter.save(link)) == sha256(file)
    sender.ready()  # five stand after it, too
    getter.ready()
    check_recordings(recordings, network, link, file.name)


def test_a_file_goes_from_browser_to_command(
    network: Network, recordings: Recordings, browser: Peer, tmp_path: Path
) -> None:
    file = marked_file(tmp_path / "a-name-from-a-browser.bin", 2)
    recordings.look_for({})
    link = browser.ready().share(file)
    out = tmp_path / "out"
    out.mkdir()
    code, done = Command("get", link, "-o", out, "--data", tmp_path / "data").end()
    assert (code, done["event"]) == (0, "done")
    assert Path(done["path"]) == out / file.name
    assert sha256(done["path"]) == sha256(file)
    check_recordings(recordings, network, link, file.name)


def test_a_file_goes_from_command_to_browser(
    network: Network, recordings: Recordings, browser: Peer, tmp_path: Path
) -> None:
    file = marked_file(tmp_path / "a-name-from-a-command.bin", 3)
    recordings.look_for({})
    getter = browser.ready()
    with running("share", file, "--site", network.site, "--data", tmp_path / "data") as sender:
        link = sender.until("shared")["link"]
        getter.get(link)
        getter.done(link)
        assert sha256(getter.save(link)) == sha256(file)
    check_recordings(recordings, network, link, file.name)


def test_a_folder_goes_from_command_to_browser(network: Network, browser: Peer, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    (folder / "2024" / "empty").mkdir(parents=True)
    (folder / "2024" / "a<b>.txt").write_bytes(b"hostile")
    (folder / "large.bin").write_bytes(os.urandom(MIB))
    (folder / "none").write_bytes(b"")
    getter = browser.ready()
    with running("share", folder, "--site", network.site, "--data", tmp_path / "data") as sender:
        link = sender.until("shared")["link"]
        getter.get(link)
        assert getter.done(link)["files"] == 3
        with ZipFile(getter.save(link)) as archive:
            assert archive.namelist() == ["2024/a_b_.txt", "2024/empty/", "large.bin", "none"]
            assert archive.testzip() is None
            assert archive.read("large.bin") == (folder / "large.bin").read_bytes()
    note = getter.page.locator(f"[data-id='{getter.transfer(link)['id']}']")
    expect(note).to_contain_text("3 files")
    expect(note).to_contain_text("saved as a ZIP archive")


def test_a_file_goes_by_a_code_that_is_read_out(
    network: Network, recordings: Recordings, browser: Peer, tmp_path: Path
) -> None:
    """From a command to a page, and from a page to a command. Nobody on the way sees the words."""
    file = tmp_path / "a-name-that-is-not-said.bin"
    file.write_bytes(Random(4).randbytes(1000))
    recordings.look_for({})
    page, site = browser.ready().page, ("--site", network.site)
    with running("share", "--code", file, *site, "--data", tmp_path / "sender") as sender:
        link, code = sender.until("shared")["link"], sender.until("code")["code"]
        page.get_by_test_id("get-input").fill(code.replace("-", " ").title())
        page.get_by_test_id("get-button").click()
        browser.done(link)
        assert sender.until("code-ended")["why"] == "code-handed-over"
    assert sha256(browser.save(link)) == sha256(file)
    own = tmp_path / "a-name-that-is-not-said-either.bin"
    own.write_bytes(Random(5).randbytes(1000))
    browser.share(own)
    item = page.get_by_test_id("share-item").filter(has_text=own.name)
    item.get_by_test_id("share-speak").click()
    expect(item.get_by_test_id("share-code")).to_have_text(re.compile(r"^\d+-[a-z]+-[a-z]+$"), timeout=PATIENCE * 1000)
    spoken = item.get_by_test_id("share-code").inner_text()
    out = f"{tmp_path / 'out'}/"
    ended, done = Command("get", spoken, *site, "-o", out, "--data", tmp_path / "data").end()
    assert (ended, done["event"]) == (0, "done") and sha256(done["path"]) == sha256(own)
    expect(item.get_by_test_id("share-code-note")).to_have_text("The code was used: they have the link.")
    expect(item.get_by_test_id("share-code")).to_be_hidden()
    words = {text: text.encode() for one in (code, spoken) for text in one.split("-", 1)[1:]}
    assert len(words) == 2 and recordings.look_for(words)[0] == set()
