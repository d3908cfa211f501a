"""The bookmarklet in real browsers: mirrors of which each has one fault, pages that mean harm, and nodes that start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

import build
from tests.browser.bookmark import bookmarklet, click
from tests.browser.harness import Peer
from tests.browser.hostile import Mirrors, mirrors, some_or_each_file
from tests.e2e.processes import MIB, Network, sha256, write_file

MAX_BOOKMARK = 20_000  # bytes; Firefox keeps 65,536
REFUSED = "Convergence was not started"
UNNAMED = "no mirror says which network to join"
"""What is said last where everything was verified: these mirrors have no network.json."""

HARM = """() => {
    const zero = async () => new Uint8Array(32).buffer;
    crypto.subtle.digest = zero;
    SubtleCrypto.prototype.digest = zero;
    window.fetch = async () => { throw new Error("mine"); };
    Map.prototype.get = () => ({ sha256: "0".repeat(64), size: 1 });
    Object.prototype.harmed = Array.prototype.harmed = true;
    window.bookmark = { root: "0".repeat(64), mirrors: [], network: {}, patience: 1 };
}"""
"""What a page may do before the bookmark is clicked on it."""

SERVICE_WORKER = b"""
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
    if (event.request.url.endsWith("/main.js")) event.respondWith(new Response("harm()"));
});
"""

CONTROL = """async () => {
    const controlled = new Promise((resolve) => { navigator.serviceWorker.oncontrollerchange = resolve; });
    await navigator.serviceWorker.register("harm.js");
    await controlled;
}"""

FILL = """() => {
    for (let size = 1 << 23; size >= 1; size >>= 1) try { localStorage[size] = "x".repeat(size); } catch {}
}"""

LISTEN = """() => {
    window.heard = [];
    window.asked = new BroadcastChannel("convergence-tabs");
    asked.onmessage = ({ data }) => { heard.push(data); };
}"""

INJECT = """() => {
    const script = document.createElement("script");
    script.append("globalThis.injected = true");
    document.body.append(script);
    return Boolean(globalThis.injected);
}"""


@pytest.fixture(scope="session")
def files(dist: Path) -> dict[str, bytes]:
    """dist/, as mirrors serve it, without what other tests of this lane keep there (returning.py)."""
    found = {path.relative_to(dist).as_posix(): path for path in dist.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("snapshot-")}


@pytest.fixture(scope="module")
def site(files: dict[str, bytes]) -> Iterator[Mirrors]:
    with mirrors(files | {"harm.js": SERVICE_WORKER}) as running:
        yield running


@pytest.fixture(scope="session")
def root(files: dict[str, bytes]) -> str:
    return hashlib.sha256(files["manifest.json"]).hexdigest()


@pytest.fixture(scope="session")
def bookmark(root: str) -> str:
    """The bookmark of this build, the very one that build.py writes."""
    return build.bookmark_files(root)["bookmarklet.txt"].decode().strip()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A new browser profile."""
    context = chromium.new_context()
    yield context
    context.close()


def use(page: Page, at: str, bookmark: str, prepare: Callable[[Page], None] = lambda page: None) -> Locator:
    """Open a mirror's page for bookmarks and click; returns the text, when it is no longer about progress."""
    page.goto(at + "open.html")
    prepare(page)
    click(page, bookmark)
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    assert page.evaluate("globalThis.convergence === undefined")  # nothing that was verified, or not, has been started
    return page.locator("main")


def forget(page: Page, digest: str) -> None:
    """Take one file out of what the browser keeps: it has to be fetched again."""
    page.evaluate(
        "async digest => (await caches.open('convergence-bookmarklet')).delete(`/convergence-bookmarklet/${digest}`)",
        digest,
    )


def test_a_bookmark_is_small(bookmark: str) -> None:
    assert len(bookmark) < MAX_BOOKMARK
    assert bookmark.isascii()


@some_or_each_file
def test_every_file_that_is_flipped_is_refused_and_named(
    context: BrowserContext, site: Mirrors, bookmark: str, files: dict[str, bytes], root: str, some: set[str] | None
) -> None:
    page = context.new_page()
    expect(use(page, site.address("good"), bookmark)).to_contain_text(UNNAMED)  # all were good, and are kept now
    listed = json.loads(files["manifest.json"])["files"]
    assert set(listed) == set(files) - {"manifest.json"} and len(listed) > 10
    digests = {name: entry["sha256"] for name, entry in listed.items()} | {"manifest.json": root}
    for name in ["manifest.json", *some] if some else digests:
        digest = digests[name]
        mirror = site.address(site.faulty("flipped", name))
        text = use(page, mirror, bookmark, lambda page, digest=digest: forget(page, digest))
        expect(text).to_contain_text(f"{mirror} {name}: ")
        expect(text).to_contain_text("differs" if name in listed else "another list of files")
        expect(text).not_to_contain_text(UNNAMED)
        use(page, site.address("good"), bookmark)  # and is kept again


@pytest.mark.parametrize(
    "fault, why",
    [
        ("short", "where the list of files says"),
        ("long", "it sent more than"),
        ("swapped", ""),
        ("missing", "it answered 404"),
        ("redirected", "SHA-256 differs"),
        ("half", "it sent nothing for 1 seconds"),
        ("silent", "it sent nothing for 1 seconds"),
    ],
)
def test_any_other_fault_is_refused_with_its_reason(
    context: BrowserContext, site: Mirrors, root: str, fault: str, why: str
) -> None:
    mirror = site.address(site.faulty(fault, "main.js"))
    text = use(context.new_page(), mirror, bookmarklet(root, patience=1))
    expect(text).to_contain_text("No source has the file main.js as it was published.")
    expect(text).to_contain_text(f"{mirror} main.js: ")
    expect(text).to_contain_text(why)


@pytest.mark.parametrize("fault", ["mistyped", "moved"])
def test_types_and_redirects_do_not_matter(context: BrowserContext, site: Mirrors, bookmark: str, fault: str) -> None:
    mirror = site.address(site.faulty(fault, "pyodide/pyodide.asm.wasm"))
    expect(use(context.new_page(), mirror, bookmark)).to_contain_text(UNNAMED)


def test_a_mirror_with_another_version_is_told_by_name(context: BrowserContext, site: Mirrors) -> None:
    text = use(context.new_page(), site.address("good"), bookmarklet("0" * 64))
    expect(text).to_contain_text("No mirror has the version that this bookmark names")
    expect(text).to_contain_text(f"{site.address('good')} manifest.json: another list of files")
    expect(text).to_contain_text(f"(version {build.project()['version']})")
    expect(text).to_contain_text("It names no mirrors of its own: click it on the page open.html of one.")


def test_kept_bytes_that_were_changed_are_found_and_fetched_again(
    context: BrowserContext, site: Mirrors, bookmark: str, files: dict[str, bytes]
) -> None:
    page = context.new_page()
    use(page, site.address("good"), bookmark)
    address = f"/convergence-bookmarklet/{hashlib.sha256(files['main.js']).hexdigest()}"
    site.asked.clear()
    text = use(
        page,
        site.address("good"),
        bookmark,
        lambda page: page.evaluate(
            "async address => (await caches.open('convergence-bookmarklet')).put(address, new Response('harm()'))",
            address,
        ),
    )
    expect(text).to_contain_text("What this browser kept, main.js: 6 bytes")
    assert [path for path in site.asked if "network" not in path] == ["/good/open.html", "/good/main.js"]


def test_a_page_that_patched_everything_changes_nothing(context: BrowserContext, site: Mirrors, bookmark: str) -> None:
    page = context.new_page()
    mirror = site.address(site.faulty("flipped", "main.js"))
    text = use(page, mirror, bookmark, lambda page: page.evaluate(HARM))
    expect(text).to_contain_text(f"{mirror} main.js: its bytes are not the published ones")
    good = use(page, site.address("good"), bookmark, lambda page: page.evaluate(HARM))
    expect(good).to_contain_text(UNNAMED)
    assert page.evaluate("[].harmed === undefined")


def test_what_a_service_worker_of_the_site_answers_is_hashed_as_well(
    context: BrowserContext, site: Mirrors, bookmark: str
) -> None:
    page = context.new_page()
    page.goto(site.address("good", "LICENSES.txt"))  # any page without a policy of its own will do
    page.evaluate(CONTROL)
    click(page, bookmark)
    expect(page.get_by_role("heading", name=REFUSED)).to_be_visible()
    expect(page.locator("main")).to_contain_text(
        f"{site.address('good')} main.js: 6 bytes, where the list of files says"
    )


def test_on_a_page_with_a_strict_policy_it_says_what_to_do(context: BrowserContext, site: Mirrors, root: str) -> None:
    page = context.new_page()
    page.goto(site.address("strict", "open.html"))
    click(page, bookmarklet(root, [site.address("good")]))
    expect(page.get_by_role("heading")).to_have_text("This page does not let the bookmark run")
    expect(page.get_by_role("listitem")).to_have_text(site.address("good", "open.html"))


def test_a_page_that_another_one_opened_is_refused(context: BrowserContext, site: Mirrors, bookmark: str) -> None:
    page = context.new_page()
    page.goto(site.address("good", "open.html"))
    with page.expect_popup() as opened:
        page.evaluate("window.open('open.html')")
    opened.value.wait_for_load_state()
    click(opened.value, bookmark)
    expect(opened.value.locator("main")).to_contain_text("Another page opened this one")


def test_an_older_version_than_one_that_ran_here_is_refused(
    context: BrowserContext, site: Mirrors, bookmark: str
) -> None:
    newer = "localStorage.setItem('convergence-bookmarklet-version', '99.0')"
    text = use(context.new_page(), site.address("good"), bookmark, lambda page: page.evaluate(newer))
    expect(text).to_contain_text("version 99.0 ran in this browser before")
    expect(text).not_to_contain_text(UNNAMED)


def test_storage_that_is_full_does_not_stop_it(context: BrowserContext, site: Mirrors, bookmark: str) -> None:
    text = use(context.new_page(), site.address("good"), bookmark, lambda page: page.evaluate(FILL))
    expect(text).to_contain_text(UNNAMED)


# With a network -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("network"), dist)
    yield network
    network.close()


def started(peer: Peer, bookmark: str, fragment: str = "") -> Peer:
    """A peer whose node was started by a click on the bookmark, at a share link if need be."""
    peer.page = peer.context.new_page()
    peer.page.goto(f"{peer.site}open.html{fragment}")
    click(peer.page, bookmark)
    expect(peer.page.get_by_test_id("share-input")).to_be_attached()
    return peer


def test_nodes_start_from_the_bookmark_and_hand_over_a_file(
    network: Network,
    chromium: Browser,
    firefox: Browser,
    peer: Callable[..., Peer],
    bookmark: str,
    root: str,
    tmp_path: Path,
) -> None:
    digest = write_file(tmp_path / "a.bin", MIB)
    giver = started(peer(chromium, network.site), bookmark).ready()
    link = giver.share(tmp_path / "a.bin")
    assert giver.page.get_by_test_id("share-link").input_value() == link
    taker = started(peer(firefox, network.site), bookmark, link.removeprefix(network.site))
    for each in (giver, taker):
        assert each.page.evaluate("convergence.root") == root
        assert each.page.evaluate("[...document.scripts].length === 0")
    taker.done(link)
    taker.ready()
    assert sha256(taker.save(link)) == digest


def test_it_starts_from_the_good_one_of_two_mirrors_and_lets_no_other_tab_in(
    network: Network, site: Mirrors, peer: Callable[..., Peer], chromium: Browser, root: str
) -> None:
    """The hostile mirror, where the bookmark is clicked, has the right manifest and a wrong main.js."""
    with urlopen(network.site + "network.json") as answer:
        joined = json.load(answer) | {"url": network.site}
    good = site.address("good", host="localhost")
    with_mirror = bookmarklet(root, [good], joined)
    hostile = site.address(site.faulty("flipped", "main.js"))
    one = peer(chromium, hostile, mirrors=[good])
    other = one.context.new_page()
    other.goto(hostile + "open.html")
    other.evaluate(LISTEN)
    page = started(one, with_mirror).page
    assert page.evaluate("convergence.site") == network.site
    assert page.evaluate(INJECT) is False
    [refusal] = [one for one in page.evaluate("convergence.refusals") if one["name"] == "main.js"]
    assert refusal["source"] == hostile
    one.ready()
    other.evaluate("asked.postMessage({ type: 'hello' })")
    assert other.evaluate("heard") == []
    click(other, with_mirror)
    expect(other.get_by_test_id("error")).to_contain_text("Another tab of this site runs a node already.")
    expect(other.get_by_test_id("error")).to_contain_text("after a reload, click the bookmark again")
    expect(other.get_by_role("button", name="Reload")).to_have_count(0)  # it would bring the site's page


@pytest.mark.parametrize("given", [None, "null", '{"facilitator":{}}'])
def test_a_mirror_of_ones_own_machine_that_names_no_network_joins_that_of_a_site(
    network: Network, site: Mirrors, peer: Callable[..., Peer], chromium: Browser, root: str, given: str | None
) -> None:
    here = site.address("good")
    one = peer(chromium, here, mirrors=[network.site])
    if given is not None:
        one.context.route(here + "network.json", lambda route: route.fulfill(body=given))
    started(one, bookmarklet(root, [network.site])).ready()
    assert one.page.evaluate("convergence.site") == network.site
    [refusal] = one.page.evaluate("convergence.refusals")
    assert refusal["source"] == here and refusal["name"] == "network.json"


def test_it_is_clicked_again_after_a_reload(
    network: Network, peer: Callable[..., Peer], chromium: Browser, bookmark: str
) -> None:
    page = started(peer(chromium, network.site), bookmark).page
    click(page, bookmark)  # on the page that it has started, whose policy lets nothing else run
    expect(page.locator("main")).to_contain_text("If Convergence ran here already, reload the page, then click")
    page.reload()
    click(page, bookmark)
    expect(page.get_by_test_id("share-input")).to_be_attached()


def test_firefox_refuses_too(firefox: Browser, site: Mirrors, bookmark: str) -> None:
    page = firefox.new_page(color_scheme="null", reduced_motion="null", forced_colors="null", contrast="null")
    mirror = site.address(site.faulty("flipped", "worker/worker.js"))
    expect(use(page, mirror, bookmark)).to_contain_text(
        f"{mirror} worker/worker.js: its bytes are not the published ones"
    )
    page.close()
