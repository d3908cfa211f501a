"""What the tests with real browsers share: one browser of each kind for this folder, and a profile of it for each test.

Nothing lives longer than a lane's stay in this folder: while Playwright runs, its thread has an event loop, which tests
elsewhere could not bear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

import build
from tests.browser.harness import Peer, launched
from tests.browser.returning import Returning
from tests.browser.swarm import Swarm
from tests.e2e.processes import Network

expect.set_options(timeout=60_000)  # ms: five seconds, the default, are not much for three lanes on two cores


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of this very tree, in a folder of its own."""
    folder = tmp_path_factory.mktemp("page") / "dist"
    with build.only_one():  # another lane might be compiling
        files = build.bundle()
    build.write_tree({**files, "manifest.json": build.manifest(files, build.project()["version"])}, folder)
    return folder


@pytest.fixture(scope="session")
def returning(dist: Path) -> Returning:
    return Returning(dist)


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="package")
def chromium(playwright: Playwright, downloads: Path) -> Iterator[Browser]:
    with launched(playwright, "chromium-headless-shell", downloads) as browser:
        yield browser


@pytest.fixture(scope="package")
def firefox(playwright: Playwright, downloads: Path) -> Iterator[Browser]:
    with launched(playwright, "firefox", downloads) as browser:
        yield browser


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """For what pages need for as long as they are open. To be asked for before `peer`."""
    with ExitStack() as stack:
        yield stack


@contextmanager
def peers(downloads: Path, returning: Returning) -> Iterator[Callable[..., Peer]]:
    """Makes browser peers that are closed afterwards. AssertionError when their pages threw or left their site. They
    are `returning` ones unless the test says None."""
    made: list[Peer] = []

    def peer(browser: Browser, site: str, **options: Any) -> Peer:
        made.append(Peer(browser, site, downloads, **{"returning": returning, **options}))
        return made[-1]

    yield peer
    for each in made:
        each.close()
    assert [wrong for each in made for wrong in each.wrong] == []


@pytest.fixture
def peer(downloads: Path, returning: Returning) -> Iterator[Callable[..., Peer]]:
    """Makes peers for one test."""
    with peers(downloads, returning) as peer:
        yield peer


@pytest.fixture(scope="module")
def lasting_peer(downloads: Path, returning: Returning) -> Iterator[Callable[..., Peer]]:
    """Makes peers that all tests of a module use, where a first visit is not the point: that is the larger part of a
    test's work. To be asked for after the network."""
    with peers(downloads, returning) as peer:
        yield peer


@pytest.fixture
def swarm(tmp_path: Path, dist: Path, peer: Callable[..., Peer]) -> Iterator[Callable[..., Swarm]]:
    """Makes networks of so many relays on servers, to which a test adds browsers. For tests marked rtc."""
    networks: list[Network] = []

    def swarm(relays: int = 0, **options: Any) -> Swarm:
        networks.append(Network(tmp_path / f"network-{len(networks)}", dist, relays=relays, rtc=True, **options))
        return Swarm(networks[-1], peer)

    yield swarm
    for network in networks:
        network.close()
