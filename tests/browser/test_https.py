"""https from a page: its own TLS, to the site itself. The page is a build whose roots are an authority of the test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.harness import Peer
from tests.browser.secure import secure_page
from tests.browser.test_network import Recordings
from tests.e2e.processes import MIB, Network
from tests.interop.website import LARGE, Website


@pytest.fixture(scope="module")
def website(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    website = Website(tmp_path_factory.mktemp("website"), "host.example")
    yield website
    website.close()


@pytest.fixture(scope="module")
def page(website: Website, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return secure_page(website.authority, tmp_path_factory.mktemp("page") / "dist")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return Recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory, page: Path, recordings: Recordings, website: Website
) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("network")
    allowed = [f"127.0.0.1:{port}" for port in (website.http, website.https)]
    network = Network(folder, page, program=recordings.program, exit_allow=allowed)
    yield network
    network.close()


@pytest.fixture(scope="module")
def browser(network: Network, chromium: Browser, lasting_peer: Callable[..., Peer]) -> Peer:
    return lasting_peer(chromium, network.site).open().ready()


def test_a_page_of_https_is_shown_and_nobody_on_the_way_can_read_it(
    browser: Peer, website: Website, recordings: Recordings
) -> None:
    recordings.look_for({})
    word = hashlib.sha256(b"what only the site may know").hexdigest()
    done = browser.fetched(f"https://127.0.0.1:{website.https}/word/{word}")
    assert (done["stage"], done["status"], done["size"]) == ("done", 200, len(word)), done
    item = browser.page.get_by_test_id("fetches").locator("li", has_text=word[:12]).first
    item.get_by_test_id("fetch-read").click()
    expect(item.get_by_test_id("fetch-text")).to_have_text(word)
    found, sizes = recordings.look_for({"what was asked and answered": word.encode(), "head": b"GET /word"})
    assert not found and sum(sizes.values()) > 0


def test_ten_mib_of_https_arrive_whole(browser: Peer, website: Website) -> None:
    done = browser.fetched(f"https://127.0.0.1:{website.https}/large")
    assert (done["stage"], done["size"]) == ("done", 10 * MIB), done
    item = browser.page.get_by_test_id("fetches").locator("li", has_text="large").first
    with browser.page.expect_download() as saving:
        item.get_by_test_id("fetch-save").click()
    assert hashlib.sha256(Path(saving.value.path()).read_bytes()).digest() == hashlib.sha256(LARGE).digest()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://localhost:{https}/", "another"),  # a name that the certificate does not have
        ("https://127.0.0.1:{http}/", "TLS"),  # which speaks http: it may cut the connection before its answer is read
        ("https://127.0.0.1:{https}/to?address=http://127.0.0.1:{http}/word/open", "from https to http"),
    ],
)
def test_what_is_not_good_is_refused_in_words(browser: Peer, website: Website, address: str, words: str) -> None:
    where = address.format(http=website.http, https=website.https)
    assert browser.fetched(where)["stage"] == "failed"
    note = browser.page.get_by_test_id("fetches").locator("li").first.get_by_test_id("fetch-note")
    expect(note).to_contain_text(words)
