"""The service worker: what it lets run on a first visit, what it gives afterwards, and what it says of what is amiss.

With the real dist/ where all of its files are the point; else with a small page (changing.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from pynode.published.words import root_words
from pynode.site import BOOKMARK_POLICY, HEADERS
from tests.browser.alone import CIRCUITS, UNKEPT, tell
from tests.browser.changing import NETWORK, STARTED, ChangingSite, Publisher, Version
from tests.browser.harness import START, Peer, limited_storage, pinned, stop_workers
from tests.browser.hostile import flipped, some_or_each_file
from tests.e2e.processes import Network

TAMPER = """async ([name, text]) => {
    const [cache] = (await caches.keys()).filter((key) => / [0-9a-f]{64}$/.test(key));
    await (await caches.open(cache)).put(new URL(name, document.baseURI), new Response(text));
}"""
LOSE = """async (name) => {
    const [cache] = (await caches.keys()).filter((key) => key.endsWith(" state"));
    if (!(await (await caches.open(cache)).delete(new URL(name, document.baseURI)))) throw new Error("was not there");
}"""
REMEMBER = """async (text) => {
    const [cache] = (await caches.keys()).filter((key) => key.endsWith(" state"));
    await (await caches.open(cache)).put(new URL("state.json", document.baseURI), new Response(text));
}"""
NODE_RUNS = 75
ASKED = """
    window.asked = [];
    const { postMessage } = ServiceWorker.prototype;
    ServiceWorker.prototype.postMessage = function (message, ...more) {
        window.asked.push(message.type);
        return postMessage.call(this, message, ...more);
    };
"""
"""What the page asks of its service worker."""
FARTHEST = """
    let state;
    window.farthest = 0;
    Object.defineProperty(window, "convergenceState", {
        get: () => state,
        set: (next) => { state = next; window.farthest = Math.max(window.farthest, next.phase.percent); },
    });
"""
"""How far the start came, in percent: at NODE_RUNS, the node's own code runs."""
HEADERS_OF = """async (name) => {
    const answer = await fetch(name);
    return [answer.status, Object.fromEntries(answer.headers), await answer.text()];
}"""
JUNK = """async (messages) => {
    const worker = navigator.serviceWorker.controller;
    for (const message of messages) worker.postMessage(message, [new MessageChannel().port2]);
    worker.postMessage({ type: "decline", root: "0".repeat(64) });
}"""


@pytest.fixture(scope="module")
def real(dist: Path) -> dict[str, bytes]:
    """The real dist/."""
    return {path.relative_to(dist).as_posix(): path.read_bytes() for path in dist.rglob("*") if path.is_file()}


@pytest.fixture
def site() -> Iterator[ChangingSite]:
    site = ChangingSite()
    yield site
    site.stop()


@pytest.fixture
def small() -> Version:
    return Publisher().version("0.1.0")


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context()
    yield context
    context.close()


def visit(context: BrowserContext, site: ChangingSite) -> Page:
    page = context.new_page()
    page.goto(site.address)
    return page


def first_visit(context: BrowserContext, site: ChangingSite, version: Version) -> Page:
    """A page that a first visit showed, once the version that it brought is pinned."""
    site.serve(version.served())
    page = visit(context, site)
    pinned(page)
    return page


def stands(site: ChangingSite, files: Mapping[str, bytes]) -> None:
    """What the site serves, by its own list, has not changed since the first visit."""
    assert {name: site.files[name] for name in files} == files


def test_after_one_visit_the_page_and_the_nodes_code_start_without_the_site(
    context: BrowserContext, site: ChangingSite, real: dict[str, bytes]
) -> None:
    site.serve(real)
    page = visit(context, site)
    words = root_words(hashlib.sha256(real["manifest.json"]).hexdigest())
    expect(page.get_by_test_id("code")).to_have_attribute("data-from", "first")
    expect(page.get_by_test_id("code-short")).to_have_text(" ".join(words.split()[:4]) + " …")
    pinned(page)
    page.close()
    site.stop()
    page = context.new_page()
    page.goto(site.address + "#" + "A" * 43)
    page.wait_for_function(f"() => window.convergenceState?.phase.percent >= {NODE_RUNS}", timeout=START * 1000)
    expect(page.get_by_test_id("code")).to_have_attribute("data-from", "cache")
    page.get_by_test_id("code-summary").click()
    assert page.get_by_test_id("code-words").inner_text().split() == words.split()
    page.goto(site.address + "index.html")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    site.start()


@some_or_each_file
def test_one_changed_byte_of_any_file_and_nothing_is_started(
    chromium: Browser, site: ChangingSite, real: dict[str, bytes], some: set[str] | None
) -> None:
    listed = set(real) - {"manifest.json"}
    assert len(listed) > 15 and listed >= (some or listed)
    for name in sorted(some or listed):
        site.serve(real | {name: flipped(real[name])})
        context = chromium.new_context()
        context.add_init_script(FARTHEST)
        page = visit(context, site)
        if name == "main.js":  # the page's own policy may stop it before it can say anything
            page.wait_for_load_state("networkidle")
        else:
            expect(page.get_by_test_id("error")).to_contain_text(name)
            expect(page.get_by_test_id("error")).to_contain_text("Nothing was started")
            expect(page.get_by_test_id("status")).to_have_text("Stopped")
        assert page.evaluate("window.farthest") < NODE_RUNS, name
        context.close()


def test_a_list_of_files_that_is_none_starts_nothing(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    for manifest in (b"{}", small.manifest.encode() + b"\n", None):
        site.serve({**small.files, **({"manifest.json": manifest} if manifest is not None else {})})
        page = visit(context, site)
        expect(page.get_by_test_id("error")).to_contain_text("list of files")
        assert page.workers == []
        page.close()


def test_a_changed_entry_of_the_cache_is_fetched_again_and_checked(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    page = first_visit(context, site, small)
    page.evaluate(TAMPER, ["worker/worker.js", "throw new Error('tampered')"])
    page.evaluate(TAMPER, ["main.js", "document.title = 'tampered'"])
    page.reload()
    expect(page.get_by_test_id("code-from")).to_contain_text("main.js")
    expect(page.get_by_test_id("code-from")).to_contain_text("worker/worker.js")
    expect(page.get_by_test_id("status")).to_have_text(STARTED)
    assert page.title() == "Convergence"
    stands(site, small.files)
    site.asked.clear()
    page.reload()
    expect(page.get_by_test_id("code")).to_have_attribute("data-from", "cache")
    expect(page.get_by_test_id("status")).to_have_text(STARTED)
    assert "main.js" not in site.asked and "worker/worker.js" not in site.asked


def test_a_reload_past_the_worker_comes_back_to_it(context: BrowserContext, site: ChangingSite, small: Version) -> None:
    page = first_visit(context, site, small)
    other = Publisher().version("0.2.0")
    site.serve(other.served())
    context.new_cdp_session(page).send("Page.reload", {"ignoreCache": True})
    expect(page.get_by_test_id("offer")).to_contain_text("0.2.0")
    expect(page.get_by_test_id("code")).to_have_attribute("data-from", "cache")
    expect(page.get_by_test_id("code")).to_have_attribute("data-root", small.root)


def test_what_is_neither_in_the_cache_nor_at_the_site_is_explained_and_never_replaced(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    page = first_visit(context, site, small)
    changed = {name: flipped(small.files[name]) for name in ("worker/worker.js", "index.html")}
    site.serve({**small.served(), **changed})
    page.evaluate(TAMPER, ["worker/worker.js", "postMessage('tampered')"])
    page.reload()
    expect(page.get_by_test_id("error")).to_contain_text("No source has the file worker/worker.js as it was published")
    expect(page.get_by_test_id("status")).to_have_text("Stopped")
    page.evaluate(TAMPER, ["index.html", "<p>tampered"])
    page.reload()
    expect(page.locator("body")).to_contain_text("Convergence stopped here")
    expect(page.locator("body")).to_contain_text("No source has the file index.html as it was published")


def test_a_lost_list_of_files_is_asked_for_until_the_site_gives_it(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    page = first_visit(context, site, small)
    page.evaluate(LOSE, f"{small.root}")
    stop_workers(page)
    for served, why in (
        ({**small.served(), "manifest.json": None}, "does not give it now: it answered 404"),
        (Publisher().version("0.2.0").served(), "this site has another one"),
    ):
        site.serve({name: data for name, data in served.items() if data is not None})
        page.reload()
        expect(page.locator("body")).to_contain_text(why)
    site.serve(small.served())
    page.reload()
    expect(page.get_by_test_id("code")).to_have_attribute("data-from", "cache")
    site.stop()
    page.reload()
    expect(page.get_by_test_id("code")).to_have_attribute("data-root", small.root)
    site.start()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"root":"x"}', "null"])
def test_a_damaged_memory_is_explained_and_pins_nothing_else(
    context: BrowserContext, site: ChangingSite, small: Version, damage: str
) -> None:
    page = first_visit(context, site, small)
    page.evaluate(REMEMBER, damage)
    stop_workers(page)
    site.serve(Publisher().version("0.2.0").served())
    page.reload()
    expect(page.locator("body")).to_contain_text(
        "What this browser remembers of the version that you accepted is damaged"
    )


def test_a_tab_that_was_refused_stands_in_no_other_tabs_way(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    site.serve(small.served() | {"style.css": flipped(small.files["style.css"])})
    refused = visit(context, site)
    expect(refused.get_by_test_id("error")).to_contain_text("Nothing was started")
    site.serve(small.served())
    page = visit(context, site)
    expect(page.get_by_test_id("status")).to_have_text(STARTED)
    expect(refused.get_by_test_id("status")).to_have_text("Stopped")


def test_it_answers_with_the_sites_headers_and_knows_only_listed_files(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    site.serve({**small.served(), "more.js": b"not listed", "bookmarklet.html": b"<p>"})
    page = visit(context, site)
    pinned(page)
    for name in [*small.files, "network.json", "bookmarklet.html", "more.js"]:
        status, headers, _ = page.evaluate(HEADERS_OF, name)
        assert status == (404 if name == "more.js" else 200), name
        expected = HEADERS | ({"Content-Security-Policy": BOOKMARK_POLICY} if name == "open.html" else {})
        for header, value in expected.items():
            assert header == "Server" or headers[header.lower()] == value, (name, header)
    assert "more.js" not in site.asked
    answer = page.goto(site.address + "more.js")
    assert answer is not None and answer.status == 404


def test_where_the_network_was_is_known_still_when_the_address_has_another_owner(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    page = first_visit(context, site, small)
    for given in (NETWORK, b"<!doctype html><title>For sale</title>", b"{}", b"null", NETWORK[:-1]):
        site.files["network.json"] = given
        assert page.evaluate(HEADERS_OF, "network.json")[2] == NETWORK.decode()
    elsewhere = NETWORK.replace(b"Changing", b"Changed")
    site.files["network.json"] = elsewhere
    assert page.evaluate(HEADERS_OF, "network.json")[2] == elsewhere.decode()


def test_a_share_link_whose_sharp_was_escaped_brings_the_pinned_page(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    page = first_visit(context, site, small)
    answer = page.goto(f"{site.address}%23{'a' * 43}.{'b' * 43}")
    assert answer is not None and answer.status == 200 and answer.from_service_worker
    assert answer.body() == small.files["index.html"]


def test_nothing_of_the_sites_runs_at_an_address_of_the_pinned_version(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    """Whatever of the site's is shown at its folder's addresses could change what is kept."""
    page = first_visit(context, site, small)
    harm = b"<title>harm</title><script>globalThis.harm = 1</script>"
    served = ["manifest.json", "release.json", "releases.txt", "network.json", "bookmarklet.html", "bookmarklet.txt"]
    site.serve({name: harm for name in ("index.html", *served)})
    site.lax = True
    for name in served:
        page.goto(site.address + name)
        assert page.evaluate("[globalThis.harm, document.title]") != [1, "harm"], name
    outside = context.new_page()
    outside.set_content(f"<form method=post action={site.address}><button>")
    with outside.expect_navigation():
        outside.get_by_role("button").click()
    expect(outside.locator("body")).to_contain_text("There is nothing here that takes this.")
    assert outside.evaluate("globalThis.harm") is None


def test_a_first_visit_after_one_that_was_not_kept_brings_its_own_worker(
    context: BrowserContext, site: ChangingSite
) -> None:
    old, new = Publisher().version("0.1.0"), Publisher().version("0.2.0", other_worker=True)
    site.serve(old.served())
    page = context.new_page()
    with limited_storage(page, site.address, 1):
        page.goto(site.address)
        expect(page.get_by_test_id("code")).to_have_attribute("data-phase", "fleeting")
    site.serve(new.served())
    page.reload()
    pinned(page)
    [worker] = [name for name in new.files if name.startswith("sw-")]
    assert page.evaluate("navigator.serviceWorker.controller.scriptURL") == site.address + worker


def test_a_worker_that_is_ended_before_all_is_kept_pins_nothing_and_the_page_says_so(
    context: BrowserContext, site: ChangingSite
) -> None:
    version = Publisher().version("0.1.0", slow=True)
    site.serve(version.served())
    page = visit(context, site)
    expect(page.get_by_test_id("code")).to_have_attribute("data-phase", "writing")
    stop_workers(page)
    page.get_by_test_id("code-summary").click()
    expect(page.get_by_test_id("code-from")).to_contain_text("nothing is pinned")


def test_a_first_visit_is_written_once_the_nodes_circuits_stand(context: BrowserContext, site: ChangingSite) -> None:
    site.serve(Publisher().version("0.1.0", slow=True).served())
    context.add_init_script(ASKED)
    page = visit(context, site)
    expect(page.get_by_test_id("code")).to_have_attribute("data-phase", "writing")
    tell(page, state={"phase": {"percent": 80, "text": "Building circuits"}})
    expect(page.get_by_test_id("status")).to_have_text("Starting, 80 %")
    assert "settle" not in page.evaluate("window.asked")
    tell(page, state={"ready": True, "circuits": CIRCUITS})
    pinned(page)
    assert "settle" in page.evaluate("window.asked")


def test_where_there_are_no_service_workers_the_node_starts_and_nothing_is_called_pinned(
    context: BrowserContext, site: ChangingSite, small: Version
) -> None:
    for script in (
        UNKEPT,
        "ServiceWorkerContainer.prototype.register = () => Promise.reject(new DOMException('no', 'SecurityError'))",
    ):
        site.serve(small.served())
        page = context.new_page()
        page.add_init_script(script)
        page.goto(site.address)
        expect(page.get_by_test_id("status")).to_have_text(STARTED)
        expect(page.get_by_test_id("code")).to_have_attribute("data-from", "site")
        page.get_by_test_id("code-summary").click()
        expect(page.get_by_test_id("code-from")).to_contain_text("nothing is pinned")
        expect(page.get_by_test_id("code-words")).to_contain_text(root_words(small.root).split()[23])
        page.close()


@pytest.mark.parametrize("size", [1, 100_000])
def test_without_room_for_all_files_nothing_is_pinned_and_each_start_is_a_first_one(
    context: BrowserContext, site: ChangingSite, small: Version, size: int
) -> None:
    """`size`: bytes that the site may keep; 100,000 are enough for what is to be remembered, and for a file or two."""
    site.serve(small.served())
    page = context.new_page()
    with limited_storage(page, site.address, size):
        page.goto(site.address)
        expect(page.get_by_test_id("code")).to_have_attribute("data-phase", "fleeting")
        page.get_by_test_id("code-summary").click()
        expect(page.get_by_test_id("code-from")).to_contain_text("nothing is pinned")
        expect(page.get_by_test_id("code-look")).to_be_hidden()
        other = Publisher().version("0.2.0")
        site.serve(other.served())
        page.reload()
        expect(page.get_by_test_id("code")).to_have_attribute("data-root", other.root)
        expect(page.get_by_test_id("status")).to_have_text(STARTED)
        site.serve(other.served() | {"worker/worker.js": flipped(other.files["worker/worker.js"])})
        page.reload()
        expect(page.get_by_test_id("error")).to_contain_text(
            "No source has the file worker/worker.js as it was published"
        )
    site.serve(other.served())
    page.reload()
    pinned(page)


def test_messages_that_are_none_change_nothing(context: BrowserContext, site: ChangingSite, small: Version) -> None:
    page = first_visit(context, site, small)
    other = Publisher().version("9.0.0")
    root = "0" * 64
    junk = [None, 1, "switch", {}, {"type": "constructor"}, {"type": "switch", "root": root}, {"type": "switch"}]
    junk += [
        {"type": "accept", "root": root},
        {"type": "automatic", "on": "yes"},
        {"type": "install", "manifest": "{}"},
    ]
    page.evaluate(JUNK, junk)
    site.serve(other.served())
    page.reload()
    expect(page.get_by_test_id("code")).to_have_attribute("data-root", small.root)
    expect(page.get_by_test_id("offer")).to_contain_text("9.0.0")
    expect(page.get_by_test_id("offer-keep")).to_be_visible()


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_a_first_and_a_second_start_of_a_real_node(
    browser: str, request: pytest.FixtureRequest, dist: Path, tmp_path: Path, peer: Callable[..., Peer]
) -> None:
    network = Network(tmp_path, dist, relays=3)
    request.addfinalizer(network.close)
    first = peer(request.getfixturevalue(browser), network.site, returning=None).open()
    first.until("state.ready", seconds=START)
    expect(first.page.get_by_test_id("code")).to_have_attribute("data-from", "first")
    pinned(first.page)
    first.page.close()
    second = first.open()
    second.until("state.ready", seconds=START)
    expect(second.page.get_by_test_id("code")).to_have_attribute("data-from", "cache")
