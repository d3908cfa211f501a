"""The page by itself, with a stand-in for the node's worker (alone.py): what it shows, says, refuses and sends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from convergence.wire.filename import saved_name
from tests.browser.alone import (
    HOSTILE,
    LINK,
    READY,
    SETTINGS,
    UNKEPT,
    WEB,
    link,
    relay,
    said,
    served,
    share,
    started,
    tell,
    transfer,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("site")) as address:
        yield address


@pytest.fixture
def context(chromium: Browser, site: str) -> Iterator[BrowserContext]:
    """A browser profile. Whatever a page logs as an error, or asks of another origin, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(UNKEPT)
    wrong: list[str] = []
    context.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("request", lambda request: None if _own(request.url, site) else wrong.append(request.url))
    yield context
    context.close()
    assert wrong == []


def _own(url: str, site: str) -> bool:
    return url.startswith((site, f"blob:{site}"))


@pytest.fixture
def open_page(context: BrowserContext, site: str) -> Callable[..., Page]:
    def open_page(fragment: str = "", **state: Any) -> Page:
        page = context.new_page()
        page.goto(site + fragment)
        expect(page.get_by_test_id("status")).not_to_have_text("Starting, 0 %")
        if state:
            tell(page, state=state)
        return page

    return open_page


def test_tells_how_the_start_goes_on_and_draws_five_circuits(open_page: Callable[..., Page]) -> None:
    page = open_page(phase={"percent": 60, "text": "Python runs; loading the node"})
    expect(page.get_by_test_id("status")).to_have_text("Starting, 60 %")
    expect(page.get_by_test_id("phase")).to_have_js_property("value", 60)
    tell(page, state=READY)
    expect(page.get_by_test_id("status")).to_have_text("Ready, 5 circuits")
    expect(page.get_by_text("ready in 2.9 s")).to_be_visible()
    expect(page.get_by_test_id("circuits").get_by_role("img")).to_have_accessible_name(
        "5 of 5 circuits stand. "
        + " ".join(f"Circuit {n + 1}, ready: you, node {n}a{n}a, node {n}a{n}a." for n in range(5))
    )


def test_everything_is_reached_by_keyboard_in_reading_order(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, transfers=[transfer(state="done", have=1048576)])
    page.get_by_test_id("save").wait_for()
    reached = []
    for _ in range(11):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.testid ?? document.activeElement.className"))
    assert reached == [
        "skip",
        "share-input",
        "get-input",
        "get-button",
        "save",
        "forget",
        "relay-switch",
        "limits",
        "tor-switch",
        "fetch-input",
        "fetch-button",
    ]
    page.get_by_test_id("get-input").focus()
    page.keyboard.type(LINK)
    page.keyboard.press("Enter")
    assert said(page) == [{"name": "get", "args": {"link": LINK}}]


def test_every_field_and_button_has_a_name(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, shares=[share(stage="ready", points=3, link=LINK)], transfers=[transfer(state="failed")])
    page.get_by_test_id("retry").wait_for()
    page.get_by_test_id("limits").click()
    for role in ("button", "textbox", "progressbar", "switch", "spinbutton", "checkbox"):
        for control in page.get_by_role(role).all():
            expect(control).not_to_have_accessible_name("")
    expect(page.get_by_label("Choose a file")).to_be_attached()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Paste the link that you were given into the field first, or type the code."),
        ("hello", "This is not a complete share link."),
        (f"http://127.0.0.1/#{LINK[:-1]}", "This is not a complete share link."),
    ],
)
def test_a_malformed_link_is_explained_at_once(open_page: Callable[..., Page], text: str, message: str) -> None:
    page = open_page()
    page.get_by_test_id("get-input").fill(text)
    page.get_by_test_id("get-button").click()
    expect(page.get_by_test_id("get-error")).to_contain_text(message)
    expect(page.get_by_test_id("get-input")).to_be_focused()
    assert said(page) == []


def test_the_nodes_own_words_about_a_link_are_shown(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY)
    tell(page, answers={"get": {"message": "the link was altered: ask for it again"}})
    page.get_by_test_id("get-input").fill(LINK)
    page.get_by_test_id("get-button").click()
    expect(page.get_by_test_id("get-error")).to_have_text("The link was altered: ask for it again.")
    expect(page.get_by_test_id("get-input")).to_have_value(LINK)


def test_a_code_is_handed_to_the_node_as_it_was_typed(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY)
    tell(page, answers={"get": {"message": "no code has this word"}})
    page.get_by_test_id("get-input").fill("7 Crossover clokwork")
    page.get_by_test_id("get-button").click()
    expect(page.get_by_test_id("get-error")).to_have_text("No code has this word.")
    assert said(page) == [{"name": "get", "args": {"code": "7 Crossover clokwork"}}]


def test_a_command_before_the_node_runs_is_kept_and_said_so(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_test_id("get-input").fill(LINK)
    page.get_by_test_id("get-button").click()
    waiting = page.locator("#get-wait")
    expect(waiting).to_be_visible()
    tell(page, state=READY)
    expect(waiting).to_be_hidden()


def test_a_link_in_the_address_is_opened_and_kept_until_its_file_is_complete(
    open_page: Callable[..., Page], context: BrowserContext, site: str
) -> None:
    page = open_page(f"#{LINK}")
    tell(page, answers={"get": {"value": {"id": "t"}}})
    assert said(page) == [{"name": "get", "args": {"link": LINK}}]
    expect(page.get_by_role("heading", level=1)).to_have_text("Someone has a file for you.")
    page.reload()
    expect(page.get_by_test_id("status")).not_to_have_text("Starting, 0 %")
    assert said(page) == [{"name": "get", "args": {"link": LINK}}]  # a new worker was asked again
    # The stand-in answers only what comes after it was told how; so the fragment is opened once more.
    tell(page, answers={"get": {"value": {"id": "t"}}})
    page.evaluate("dispatchEvent(new HashChangeEvent('hashchange'))")
    tell(page, state={**READY, "transfers": [transfer(have=524288)]})
    expect(page.get_by_test_id("transfer-note")).to_contain_text("2 of 4 pieces")
    assert page.url == f"{site}#{LINK}"
    tell(page, state={"transfers": [transfer(state="done", have=1048576)]})
    expect(page.get_by_test_id("save")).to_be_visible()
    expect(page).to_have_url(site)


@pytest.mark.parametrize("address", [f"%23{LINK}", f"?utm_source=x#{LINK}", f"#{LINK}?fbclid=x", f"#{LINK}%E2%80%8B"])
def test_a_link_that_was_mangled_on_its_way_is_opened(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    assert said(page) == [{"name": "get", "args": {"link": LINK}}]
    expect(page.get_by_test_id("get-error")).to_have_text("")
    assert LINK in page.evaluate("location.hash")


def test_a_mail_can_be_pasted(open_page: Callable[..., Page]) -> None:
    page = open_page()
    field = page.get_by_test_id("get-input")
    field.focus()
    mail = f"> Here it is:\n> http://site.example/#{LINK[:50]}=\n> {LINK[50:]}.\n> Bye"
    page.evaluate(
        """text => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text", text);
            document.activeElement.dispatchEvent(new ClipboardEvent("paste", {clipboardData, cancelable: true}));
        }""",
        mail,
    )
    expect(field).to_have_value(LINK)
    field.fill(f"{LINK} and {LINK[::-1]}")
    page.get_by_test_id("get-button").click()
    expect(page.get_by_test_id("get-error")).to_contain_text("more than one link")


def test_hostile_names_are_shown_as_harmless_text_and_saved_under_a_harmless_name(
    open_page: Callable[..., Page],
) -> None:
    page = open_page(**READY, transfers=[transfer(name=HOSTILE, state="done", have=1048576)])
    name = page.get_by_test_id("name")
    expect(name).to_contain_text('../../<img src=x onerror="document.title=1">')
    assert "\u202e" not in (name.text_content() or "")
    assert len(name.text_content() or "") <= 120
    assert page.locator("main img").count() == 0
    assert page.title() == "Convergence"
    page.evaluate(
        """(name) => new BroadcastChannel("test-control").postMessage({ answers: { save: { value: {
            name, blob: new Blob(["<script>document.title = 2</script>"], { type: "text/html" }) } } } })""",
        saved_name(HOSTILE),
    )
    with page.expect_download() as download:
        page.get_by_test_id("save").click()
    assert download.value.suggested_filename == saved_name(HOSTILE).lstrip(".")  # the browser drops dots
    expect(page.get_by_test_id("transfer-note")).to_contain_text("Saved as \u2068_..__img src")
    assert Path(download.value.path()).read_text() == "<script>document.title = 2</script>"
    assert page.title() == "Convergence"


@pytest.mark.parametrize("name", ["", "   ", "\u202e", "..", "/"])
def test_a_name_that_is_none_gets_one(open_page: Callable[..., Page], name: str) -> None:
    page = open_page(**READY, transfers=[transfer(name=name, state="done", have=1048576)])
    expect(page.get_by_test_id("name")).not_to_be_empty()


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_nothing_runs_out_of_the_page_sideways(open_page: Callable[..., Page], width: int) -> None:
    page = open_page()
    page.set_viewport_size({"width": width, "height": 740})
    long = "W" * 5000
    tell(
        page,
        state={
            **READY,
            "shares": [
                share(name=long, stage="failed", why={"code": long}),
                share(stage="ready", link=LINK, code={"text": long, "why": {"code": long}, "more": True}),
            ],
            "transfers": [transfer(name=HOSTILE, state="failed", why={"code": long})],
            "trouble": {"code": long},
            "links": [link(f"{n:016x}", state="failed" if n % 2 else "open", why={"code": long}) for n in range(40)],
            "relay": relay(circuits=10**9, bytes=10**15),
        },
    )
    expect(page.get_by_test_id("transfer-note")).to_contain_text("WWW")
    page.get_by_test_id("limits").click()
    page.get_by_text("All neighbours").click()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_shared_file_gets_a_link_to_copy_and_a_qr_code(
    open_page: Callable[..., Page], context: BrowserContext, site: str
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_page(**READY)
    page.get_by_test_id("share-input").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}
    )
    assert said(page) == [{"name": "share", "args": {"file": "notes.txt"}}]
    tell(page, state={"shares": [share(have=524288)]})
    expect(page.get_by_test_id("share-note")).to_have_text("Preparing: 524 KB of 1.0 MB")
    expect(page.get_by_test_id("share-link")).to_be_hidden()
    tell(page, state={"shares": [share(stage="ready", points=3, link=LINK)]})
    expect(page.get_by_test_id("share-link")).to_have_value(f"{site}#{LINK}")
    page.get_by_test_id("share-copy").click()
    expect(page.get_by_test_id("share-copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"{site}#{LINK}"
    expect(page.get_by_test_id("share-qr")).to_have_attribute("aria-expanded", "false")
    page.get_by_test_id("share-qr").press("Enter")
    expect(page.get_by_test_id("share-qr")).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("img", name="QR code of the share link")).to_be_visible()


def test_a_dropped_file_is_shared_wherever_it_falls(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY)
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["x"], "dropped.txt"));
            const how = { dataTransfer: data, bubbles: true, cancelable: true };
            for (const type of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, how));
        }"""
    )
    assert said(page) == [{"name": "share", "args": {"file": "dropped.txt"}}]


def test_a_full_disk_and_a_failure_say_what_to_do(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, transfers=[transfer(state="failed", why={"code": "no-room"})])
    expect(page.get_by_test_id("transfer-note")).to_have_text(
        "There is no room left to store this file. Free some space, then choose Retry."
    )
    page.get_by_test_id("retry").click()
    assert said(page) == [{"name": "retry", "args": {"id": "t"}}]
    tell(page, state={"trouble": {"code": "facilitator-unreachable", "detail": "", "retrying": True}})
    expect(page.get_by_test_id("error")).to_contain_text("The facilitator cannot be reached. Trying again.")
    tell(page, state={"trouble": None})
    expect(page.get_by_test_id("error")).to_be_empty()


def test_a_lie_of_the_facilitator_stays_on_the_page(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, warnings=[{"code": "facilitator-contradicts"}, {"code": "facilitator-leaves-out"}])
    tell(page, state={"trouble": {"code": "facilitator-silent", "retrying": True}})
    tell(page, state={"trouble": None})
    expect(page.get_by_test_id("error")).to_contain_text("The facilitator contradicts itself")
    expect(page.get_by_test_id("error")).to_contain_text("shows others a network without it")
    expect(page.get_by_test_id("error")).to_contain_text("use the site of another network")


def test_what_was_fetched_is_shown_as_text_only(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY)
    tell(page, answers={"fetch": {"value": {"id": 1}}})
    page.get_by_test_id("fetch-input").fill("http://example.org/")
    page.get_by_test_id("fetch-button").click()
    assert said(page)[0] == {"name": "fetch", "args": {"url": "http://example.org/"}}
    fetched = {"id": 1, "url": "http://example.org/", "stage": "done", "status": 200, "size": 9, "type": "text/html"}
    tell(page, state={"fetches": [fetched | {"why": None}]})
    html = "<img src='http://example.org/tracker'><script>document.title = 3</script>"
    page.evaluate(
        """(html) => new BroadcastChannel("test-control").postMessage({ answers: { body: { value: {
            name: "page", blob: new Blob([html], { type: "text/html" }) } } } })""",
        html,
    )
    page.get_by_test_id("fetch-read").click()
    expect(page.get_by_test_id("fetch-text")).to_have_text(html)
    assert page.get_by_test_id("fetch-text").locator("*").count() == 0
    assert page.title() == "Convergence"


def test_one_node_for_all_tabs_and_another_tab_takes_over(open_page: Callable[..., Page]) -> None:
    first = open_page(**READY)
    expect(first.get_by_test_id("status")).to_have_text("Ready, 5 circuits")
    second = open_page()
    expect(second.get_by_text("runs in another tab")).to_be_visible()
    expect(second.get_by_test_id("status")).to_have_text("Ready, 5 circuits")
    assert (len(first.workers), len(second.workers)) == (1, 0)
    second.get_by_test_id("share-input").set_input_files(
        {"name": "second.txt", "mimeType": "text/plain", "buffer": b"hello"}
    )
    second.get_by_test_id("get-input").fill(LINK)
    second.get_by_test_id("get-button").click()
    asked = [{"name": "share", "args": {"file": "second.txt"}}, {"name": "get", "args": {"link": LINK}}]
    assert said(second) == asked
    # The first tab goes before its worker has answered: the second starts a worker and asks it the same.
    with second.expect_event("worker"):
        first.close()
    expect(second.get_by_test_id("status")).to_have_text("Starting, 5 %")
    expect(second.get_by_text("runs in another tab")).to_be_hidden()
    assert said(second) == asked
    tell(second, state=READY)
    expect(second.get_by_test_id("status")).to_have_text("Ready, 5 circuits")


def test_a_worker_that_dies_is_told_and_another_tab_takes_over(chromium: Browser, site: str) -> None:
    context = chromium.new_context()
    context.add_init_script(UNKEPT)
    first, second = pages = [context.new_page() for _ in range(2)]
    for page in pages:
        page.goto(site)
        expect(page.get_by_test_id("status")).to_have_text("Starting, 5 %")
    with second.expect_event("worker"):
        tell(first, crash=True)
    expect(first.get_by_text("runs in another tab")).to_be_visible()
    expect(second.get_by_text("runs in another tab")).to_be_hidden()
    for page in pages:
        expect(page.get_by_test_id("status")).to_have_text("Starting, 5 %")
    first.close()
    tell(second, crash=True)
    expect(second.get_by_test_id("status")).to_have_text("Stopped")
    expect(second.get_by_test_id("error")).to_contain_text("Reload the page")
    second.get_by_test_id("get-input").fill(LINK)
    second.get_by_test_id("get-button").click()
    expect(second.get_by_test_id("get-error")).to_contain_text("The node stopped")
    context.close()


def test_a_tab_that_holds_the_place_and_says_nothing_is_told_of(chromium: Browser, site: str) -> None:
    """As one does that a bookmark started."""
    context = chromium.new_context()
    context.add_init_script(UNKEPT)
    mute, page = context.new_page(), context.new_page()
    mute.goto(f"{site}style.css")
    mute.evaluate("new Promise((held) => navigator.locks.request('convergence-node', () => new Promise(held)))")
    page.goto(site)
    expect(page.get_by_test_id("error")).to_contain_text("Close that tab, and this page goes on by itself")
    mute.close()
    expect(page.get_by_test_id("status")).to_have_text("Starting, 5 %")
    expect(page.get_by_test_id("error")).to_be_empty()
    context.close()


def test_neighbours_are_drawn_and_told_in_words(open_page: Callable[..., Page]) -> None:
    late, reason = link("c" * 16, state="connecting"), "it said: <b>no</b>"
    lost = link("d" * 16, state="failed", why={"code": "rtc-shell", "detail": reason})
    page = open_page(
        **READY, links=[link("a" * 16, kind="ws", circuits=2), link("b" * 16, sent=5000, circuits=1), late, lost]
    )
    links = page.get_by_test_id("links")
    expect(links).to_have_attribute("data-open", "2")
    expect(links).to_have_attribute("data-rtc", "1")
    expect(links.get_by_role("img")).to_have_accessible_name(
        "Your neighbours: aaaa, WebSocket; bbbb, WebRTC; cccc, WebRTC, connecting; dddd, WebRTC, not reached."
    )
    expect(page.get_by_text("1 by WebRTC, 1 by WebSocket")).to_be_visible()
    expect(page.get_by_test_id("links-failed")).to_have_text(
        "Not reached: dddd. The connection failed: it said: <b>no</b>."
    )
    page.get_by_text("All neighbours").click()
    items = page.get_by_test_id("link")
    assert [item.get_attribute("data-state") for item in items.all()] == ["failed", "connecting", "open", "open"]
    expect(items.nth(2)).to_have_text("bbbbbbbbWebRTC · 1 circuit · 5.0 KB out · 0 B in")
    tell(page, state={"links": []})
    expect(items).to_have_count(0)
    expect(links).to_have_attribute("data-open", "0")
    expect(links).to_be_hidden()
    expect(page.get_by_text("WebRTC, directly")).to_be_hidden()
    expect(page.get_by_test_id("links-failed")).to_be_empty()


@pytest.mark.parametrize(
    ("epoch", "words"),
    [
        (None, "Your node has the list of all of them."),
        ({"drawn": None}, "has not been checked yet."),
        ({"drawn": {"announced": False, "committed": 0, "counted": 0}}, "cannot be checked"),
        ({"drawn": {"announced": True, "committed": 3, "counted": 2}}, "drawn by 2 facilitators together."),
        ({"drawn": {"announced": True, "committed": 1, "counted": 1}}, "drawn by one facilitator alone"),
        ({"drawn": {"announced": True, "committed": 1, "counted": 0}}, "Nobody drew today's random value"),
    ],
)
def test_the_network_is_told_with_its_age_and_the_draw(
    open_page: Callable[..., Page], epoch: dict[str, Any] | None, words: str
) -> None:
    known = None if epoch is None else {"number": 2_880_012, "age": 245, **epoch}
    page = open_page(**READY, nodes=12_345, epoch=known)
    expect(page.get_by_test_id("network-count")).to_have_text("12,345 nodes")
    note = page.get_by_test_id("network-note")
    expect(note).to_contain_text(words)
    if known is not None:
        expect(note).to_contain_text("epoch 2880012, signed 4 min ago")
    tell(page, state={"nodes": 0})
    expect(note).to_be_hidden()


def test_of_many_neighbours_some_are_drawn_and_the_others_counted(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, links=[link(f"{n:016x}") for n in range(500)])
    picture = page.get_by_test_id("links")
    expect(picture.get_by_text("and 488 more")).to_be_visible()
    expect(picture.locator(".peer")).to_have_count(12)
    expect(page.get_by_test_id("link")).to_have_count(64)


@pytest.mark.parametrize(
    "state, words",
    [
        (relay(circuits=3, bytes=12_400_000), "Passing on 3 circuits for others; 12.4 MB so far"),
        (relay(bytes=514), "Nothing to pass on now; 514 B so far"),
        (relay(), "Ready; nobody has needed it yet"),
        (relay(reachable=False), "Nobody can reach this browser yet"),
        (relay(on=False, why="paused", bytes=514), "Paused"),
        (relay(on=False, why="metered"), "Paused: metered connection"),
        (relay(on=False, why="volume"), "Paused: this visit's volume is used up"),
    ],
)
def test_what_is_done_for_others_is_said(open_page: Callable[..., Page], state: dict[str, Any], words: str) -> None:
    page = open_page(**READY, relay=state)
    expect(page.get_by_test_id("relay-note")).to_have_text(words)
    expect(page.get_by_test_id("relay-switch")).to_be_enabled()


def test_where_browsers_are_no_relays_only_the_own_circuits_can_be_set(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, relay=relay(on=False, why="site"), settings=SETTINGS)
    expect(page.get_by_test_id("relay-note")).to_have_text("This site's network does not use browsers as relays.")
    expect(page.get_by_test_id("relay-switch")).to_be_disabled()
    expect(page.get_by_test_id("relay-switch")).not_to_be_checked()
    page.get_by_test_id("limits").click()
    expect(page.get_by_test_id("set-upload")).to_be_disabled()
    page.get_by_test_id("set-hops").fill("4")
    page.get_by_test_id("set-hops").press("Enter")
    [command] = said(page)
    assert command["args"]["settings"] == SETTINGS | {"hops": 4}


@pytest.mark.parametrize(
    "state, note, error",
    [
        ({"stage": "off"}, "Off", ""),
        ({"stage": "code"}, "Loading the program's part for it", ""),
        ({"stage": "list", "percent": 40, "relays": 9000}, "Loading the list of Tor relays: 40 %", ""),
        ({"stage": "ready", "percent": 100, "relays": 9000}, "In use for what begins now; 9000 relays known", ""),
        ({"stage": "failed", "why": {"code": "tor-code", "detail": "404"}}, "Not in use", "could not be loaded: 404."),
        (
            {"stage": "entry", "why": {"code": "no-tor-entry"}},
            "Looking for a node that leads there",
            "No node of this network leads into the Tor network",
        ),
        (
            {"stage": "list", "why": {"code": "tor-refused", "document": "consensus", "detail": "it has expired"}},
            "Loading the list of Tor relays: 0 %",
            "gave a list of relays that cannot be right: it has expired. It is not used.",
        ),
    ],
)
def test_how_far_the_way_into_tor_is_is_said(
    open_page: Callable[..., Page], state: dict[str, Any], note: str, error: str
) -> None:
    page = open_page(**READY, tor={"percent": 0, "relays": 0, "why": None} | state)
    expect(page.get_by_test_id("tor-note")).to_have_text(note)
    expect(page.get_by_test_id("tor-error")).to_contain_text(error)
    expect(page.get_by_test_id("tor-progress")).to_be_visible(visible="Loading the list" in note)


def test_tor_is_off_until_it_is_switched_on_and_stays_on_over_visits(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, settings=SETTINGS)
    switch = page.get_by_test_id("tor-switch")
    expect(switch).not_to_be_checked()
    switch.click()
    expect(switch).to_be_checked()
    [command] = said(page)
    assert command == {"name": "settings", "args": {"settings": SETTINGS | {"tor": True}, "onMetered": False}}
    page.reload()
    expect(page.get_by_test_id("status")).not_to_have_text("Starting, 0 %")
    expect(page.get_by_test_id("tor-switch")).to_be_checked()
    assert started(page)["settings"] == SETTINGS | {"tor": True}


def test_relays_of_tor_are_drawn_by_their_names(open_page: Callable[..., Page]) -> None:
    def hop(nickname: str) -> dict[str, Any]:
        return {"identity": "ab" * 32, "nickname": nickname, "roles": [], "built": True}

    circuit = {"id": 9, "state": "ready", "purpose": "exit", "hops": [hop(""), hop("seele"), hop("ALongNameOfARelay")]}
    page = open_page(**READY | {"circuits": [circuit]})
    picture = page.get_by_test_id("circuits").locator("svg")
    expect(picture).to_have_attribute(
        "aria-label", re.compile("Circuit 1, fetching: you, node abab, Tor relay seele, Tor relay ALongNameOfARelay")
    )
    expect(picture.locator("rect")).to_have_count(2)
    expect(picture).to_contain_text("ALongNa…")
    expect(page.get_by_text("Tor relay", exact=True)).to_be_visible()


@pytest.mark.parametrize(
    "kept, used",
    [
        (None, {}),
        ("{", {}),
        ("null", {}),
        ('"relay"', {}),
        (
            '{"relay": "no", "circuits": "7", "upload": null, "hops": [3], "constructor": 1, "__proto__": {"hops": 9}}',
            {},
        ),
        ('{"relay": false, "rdv": false, "share": 10.4}', {"relay": False, "rdv": False, "share": 10}),
        (
            '{"circuits": 0, "streams": -5, "upload": 1e300, "share": 101, "volume": -1, "hops": 6}',
            {"circuits": 1, "streams": 1, "upload": 10_000, "share": 100, "volume": 0, "hops": 5},
        ),
        (
            '{"circuits": 1e9, "streams": 1e9, "upload": 0.26, "share": 0, "volume": 1e9, "hops": 0.2}',
            {"circuits": 8192, "streams": 8192, "upload": 0.3, "share": 1, "volume": 1048576, "hops": 1},
        ),
    ],
)
def test_settings_that_were_kept_are_not_believed(
    context: BrowserContext, open_page: Callable[..., Page], kept: str | None, used: dict[str, Any]
) -> None:
    if kept is not None:
        context.add_init_script(f"if (location.host) localStorage.setItem('convergence-settings', {json.dumps(kept)})")
    page = open_page()
    assert started(page) == {"settings": SETTINGS | used, "onMetered": False}


def test_a_browser_that_keeps_nothing_takes_settings_all_the_same(
    context: BrowserContext, open_page: Callable[..., Page]
) -> None:
    refuse = "get() { throw new DOMException('', 'SecurityError'); }"
    context.add_init_script(f"Object.defineProperty(window, 'localStorage', {{ {refuse} }})")
    page = open_page(**READY, relay=relay())
    page.get_by_test_id("relay-switch").click()
    [command] = said(page)
    assert command == {"name": "settings", "args": {"settings": SETTINGS | {"relay": False}, "onMetered": False}}


def test_a_number_that_cannot_be_is_put_right_where_it_was_typed(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY, relay=relay(), settings=SETTINGS)
    page.get_by_test_id("limits").click()
    for field, typed, becomes in (("share", "250", "100"), ("share", "", "100"), ("upload", "2.55", "2.6")):
        page.get_by_test_id(f"set-{field}").fill(typed)
        page.get_by_test_id(f"set-{field}").press("Enter")
        expect(page.get_by_test_id(f"set-{field}")).to_have_value(becomes)
    expect(page.get_by_text("325 KB/s at most")).to_be_visible()
    assert said(page)[-1]["args"]["settings"] == SETTINGS | {"share": 100, "upload": 2.6}


@pytest.mark.parametrize(
    "script, words",
    [
        ("Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })", "Use a current Firefox"),
        ("Object.defineProperty(window, 'isSecureContext', { value: false })", "https://"),
    ],
)
def test_a_browser_that_cannot_run_a_node_is_told_why(
    context: BrowserContext, site: str, script: str, words: str
) -> None:
    context.add_init_script(script)
    page = context.new_page()
    page.goto(site)
    expect(page.get_by_test_id("status")).to_have_text("Cannot start")
    expect(page.get_by_test_id("error")).to_contain_text(words)


def test_a_page_whose_program_does_not_run_says_so(chromium: Browser, site: str) -> None:
    context = chromium.new_context()
    context.route("**/main.js", lambda route: route.fulfill(body="not a program(", content_type="text/javascript"))
    page = context.new_page()
    page.goto(site)
    expect(page.get_by_text("This is taking too long.")).to_be_visible()
    context.close()


def test_no_markup_or_style_is_made_from_strings() -> None:
    for path in [WEB / "main.js", *(WEB / "ui").glob("*.js")]:
        source = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in source, f"{path.name}: {word}"
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert "<noscript>" in page
    assert " style=" not in page and "<style" not in page and json.dumps(page).count("<script") == 1
