"""What the tests with real programs share: a web site, a browser, and the ways that lie between programs.

They live as long as a lane's stay in this folder.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.harness import launched
from tests.e2e.processes import Network
from tests.interop.ways import OPEN_PORT, ZONE, Way, direct, through
from tests.interop.website import Website
from tests.namespace import ADDRESS


@pytest.fixture(scope="package")
def website(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    website = Website(tmp_path_factory.mktemp("website"), f"*{ZONE}")
    yield website
    website.close()


@pytest.fixture(scope="package")
def network(website: Website, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Five relays, of which two are exits that may reach the web site and OPEN_PORT. A test that kills one mends it."""
    folder = tmp_path_factory.mktemp("network")
    page = folder / "dist"
    page.mkdir()
    (page / "index.html").write_text("<title>Convergence</title>")  # nothing here opens the page
    ports = (website.http, website.https, OPEN_PORT)
    allowed = [*(f"127.0.0.1:{port}" for port in ports), f"{ADDRESS}:{OPEN_PORT}"]
    network = Network(folder, page, exit_allow=allowed)
    yield network
    network.close()


@pytest.fixture(scope="package", params=[pytest.param("direct", marks=pytest.mark.long), "convergence"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """Each test runs once for each way: with --long the control, and always the real one."""
    folder = tmp_path_factory.mktemp("services")
    return direct(folder) if request.param == "direct" else through(request.getfixturevalue("network"), folder)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("downloads")
    with sync_playwright() as playwright, launched(playwright, "chromium-headless-shell", folder) as browser:
        yield browser
