"""Browser peers: one profile of a real browser each, with the page open in it.

Does: launch browsers as playwright.config.py says, wait for states of the node, share, get and save files as people do.
Does not: look into the node. What it waits for is the state that the page draws (`window.convergenceState`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Error, Page, Playwright, expect

from convergence.transfers import public_id
from convergence.wire.sharelink import ShareLink
from pynode.origins import origin
from tests.browser.returning import Returning

ROOT = Path(__file__).parents[2]
START = 300.0
"""Seconds that Python and five circuits may take on a busy machine."""
SNAPSHOT = """async (before) => {
    for (let tries = 0; tries < 3000; tries++) {
        const [kept] = await (await caches.open("convergence-snapshots")).matchAll();
        const digest = kept?.headers.get("x-sha256");
        if (digest && digest !== before) return digest;
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error("no snapshot of Python's memory was kept");
}"""
"""Waits, five minutes at most, until one with another digest is kept; gives that."""
ARRIVAL = 300.0
"""Seconds that a file may take."""

# The page's state is a property that each new state replaces: waiting means to be told by its setter.
UNTIL = """async ([argument, seconds]) => {
    const holds = (state, argument) => %s;
    if (!window.testWatchers) {
        let state = window.convergenceState;
        const watchers = (window.testWatchers = new Set());
        Object.defineProperty(window, "convergenceState", {
            get: () => state,
            set: (next) => { state = next; watchers.forEach((look) => look()); },
        });
    }
    return new Promise((resolve) => {
        const end = (value) => { window.testWatchers.delete(look); clearTimeout(timer); resolve(value); };
        const look = () => {
            const value = window.convergenceState && holds(window.convergenceState, argument);
            if (value) end({ value });
        };
        const timer = setTimeout(() => end({ late: window.convergenceState ?? null }), seconds * 1000);
        window.testWatchers.add(look);
        look();
    });
}"""
LOST = (
    "Firefox can\u2019t establish a connection",
    "The connection to ws://",
    "ICE failed",
    "WebRTC: ICE failed",
)
"""How Firefox tells the console of a WebSocket to nobody, a facilitator that a test killed, of one that a page leaves
behind, and of a WebRTC connection whose other end went away before it stood."""
STANDING = "state.ready && state.circuits.filter((circuit) => circuit.state === 'ready').length >= 5"
FETCHED = "state.fetches.find((item) => item.url === argument && ['done', 'failed'].includes(item.stage))"
TRANSFER = "state.transfers.find((item) => item.id === argument"


def settings() -> ModuleType:
    """playwright.config.py, whose name cannot be imported."""
    spec = importlib.util.spec_from_file_location("playwright_config", ROOT / "playwright.config.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONFIG = settings()


@contextlib.contextmanager
def launched(playwright: Playwright, name: str, downloads: Path) -> Iterator[Browser]:
    """A browser: one of playwright.config.py's PROGRAMS."""
    kind = getattr(playwright, name.partition("-")[0])
    browser = kind.launch(**CONFIG.launch_options(name), downloads_path=downloads)
    try:
        yield browser
    finally:
        browser.close()


def pinned(page: Page) -> None:
    """Wait until the service worker keeps all files, for the next visit."""
    expect(page.get_by_test_id("code")).to_have_attribute("data-phase", "pinned")


@contextlib.contextmanager
def limited_storage(page: Page, site: str, size: int) -> Iterator[None]:
    """Chromium gives the site's origin this many bytes of disk, what it has taken before among them."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin(site), "quotaSize": size})
    yield
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin(site)})
    devtools.detach()


def stop_workers(page: Page) -> None:
    """Chromium ends the service workers, as it does with those that have had nothing to do for half a minute."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("ServiceWorker.enable")
    devtools.send("ServiceWorker.stopAllWorkers")
    devtools.detach()


def transfer_id(link: str) -> str:
    """What the page calls the transfer of this link."""
    return public_id(ShareLink.parse(link).hash_name)


class Peer:
    """One browser profile. What its page throws, or asks of another origin, is found in `wrong`.

    Args:
        downloads: the folder that the browser was launched with.
        mirrors: where its page may ask besides its site.
        returning: what makes it the profile of somebody who has been here before; None for a first visit.
    """

    page: Page

    def __init__(
        self,
        browser: Browser,
        site: str,
        downloads: Path,
        *,
        mirrors: Sequence[str] = (),
        returning: Returning | None = None,
        **options: Any,
    ) -> None:
        self.name = browser.browser_type.name
        self.site = site
        self.wrong: list[str] = []
        self.logged: list[str] = []
        self._downloads = downloads
        self._mirrors = mirrors
        self._returning = returning
        self._opened = False
        self.context: BrowserContext = browser.new_context(**{**CONFIG.context_options(self.name), **options})
        self.context.on("weberror", lambda error: self._note(str(error.error)))
        self.context.on("console", lambda message: self.logged.append(message.text))
        if self.name == "chromium":  # Firefox lists WebSockets, those to relays, as requests for documents
            self.context.on("request", lambda request: self._check(request.url))

    def _note(self, error: str) -> None:
        if not error.startswith(LOST):
            self.wrong.append(error)

    def _check(self, url: str) -> None:
        if not url.startswith((self.site, f"blob:{origin(self.site)}/", *self._mirrors)):
            self.wrong.append(url)

    def open(self, fragment: str = "") -> Peer:
        """A new tab of this profile with the page."""
        if self._returning is not None and not self._opened:
            self._returning.give(self.context, self.name, self.site)
        self._opened = True
        self.page = self.context.new_page()
        self.page.goto(self.site + fragment)
        return self

    def ready(self) -> Peer:
        """Wait until five circuits stand."""
        self.until(STANDING, seconds=START)
        return self

    def settled(self) -> Peer:
        """Wait until what a first visit keeps for the next one is written."""
        pinned(self.page)
        self.page.evaluate(SNAPSHOT)
        return self

    def close(self) -> None:
        if self._returning is not None and self._opened:
            with contextlib.suppress(Error):  # the page has gone or crashed, or its site has
                self._returning.take(self.page, self.name)
        self.context.close()

    @property
    def state(self) -> dict[str, Any]:
        """The latest one."""
        state: dict[str, Any] = self.page.evaluate("window.convergenceState")
        return state

    def until(self, holds: str, argument: Any = None, *, seconds: float = START) -> Any:
        """Wait until the JavaScript expression `holds` of `state` and `argument` gives something; returns that."""
        result = self.page.evaluate(UNTIL % holds, [argument, seconds])
        if "value" not in result:
            state, log = json.dumps(result["late"]), "\n".join(self.logged[-20:])
            raise AssertionError(f"{self.name}: no state in {seconds} s for which {holds} ({argument})\n{state}\n{log}")
        return result["value"]

    def fetched(self, address: str) -> dict[str, Any]:
        """Fetch an address as people do; returns what became of it."""
        self.page.get_by_test_id("fetch-input").fill(address)
        self.page.get_by_test_id("fetch-button").click()
        found: dict[str, Any] = self.until(FETCHED, address, seconds=ARRIVAL)
        return found

    def share(self, file: Path) -> str:
        """Share a file; returns its link once it can be fetched."""
        self.page.get_by_test_id("share-input").set_input_files(file)
        return self.link(file.name)

    def link(self, name: str) -> str:
        """The link of a shared file, once its points stand."""
        holds = "state.shares.find((item) => item.name === argument && item.points > 0 && item.link)"
        share = self.until(f"{holds}", name, seconds=ARRIVAL)
        return f"{self.site}#{share['link']}"

    def get(self, link: str) -> None:
        """Ask for a file as people do: paste the link, press the button."""
        self.page.get_by_test_id("get-input").fill(link)
        self.page.get_by_test_id("get-button").click()

    def transfer(self, link: str, holds: str = "true", *, seconds: float = ARRIVAL) -> dict[str, Any]:
        """The transfer of that link, as soon as the expression `holds` of `item` is true."""
        transfer: dict[str, Any] = self.until(f"{TRANSFER} && ({holds}))", transfer_id(link), seconds=seconds)
        return transfer

    def midway(self, link: str) -> dict[str, Any]:
        """The transfer while it is well under way and far from its end."""
        transfer = self.transfer(link, "item.state === 'running' && item.have > 0.1 * item.size")
        assert transfer["have"] < 0.7 * transfer["size"], "the file was too fast for this test"
        return transfer

    def done(self, link: str) -> dict[str, Any]:
        """The transfer when it is complete."""
        transfer = self.transfer(link, "['done', 'failed', 'paused'].includes(item.state)")
        assert transfer["state"] == "done", transfer
        return transfer

    def save(self, link: str) -> Path:
        """Press Save; returns the file that the browser wrote."""
        button = self.page.locator(f"[data-id='{transfer_id(link)}']").get_by_test_id("save")
        if self.name == "chromium":
            with self.page.expect_download() as download:
                button.click()
            return Path(download.value.path())
        # Stock Firefox tells nothing of downloads of a blob: the file itself has to be awaited.
        before, size = set(self._downloads.iterdir()), self.transfer(link)["size"]
        button.click()
        deadline = time.monotonic() + ARRIVAL
        while time.monotonic() < deadline:
            self.page.wait_for_timeout(100)
            for path in set(self._downloads.iterdir()) - before:
                if path.stat().st_size == size and path.suffix != ".part":
                    return path
        raise AssertionError(f"Firefox saved nothing: {list(self._downloads.iterdir())}")
