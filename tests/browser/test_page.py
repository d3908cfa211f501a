"""The page by itself, with a stand-in for the node's worker: what it shows, says, refuses and sends.

The stand-in (page/worker.js) is told over a BroadcastChannel what states to post and how to answer commands.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "web"
# The strictest policy under which the page must work; sites may send a laxer one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types convergence"
)
LINK = "A" * 43 + "." + "B" * 42 + "A"
HOSTILE = '../../<img src=x onerror="document.title=1">\u202egnp.exe\n' + "x" * 5000 + ".txt"
CIRCUITS = [
    {
        "id": number,
        "state": "ready",
        "purpose": "ready",
        "hops": [{"identity": f"{number}a" * 32, "roles": ["relay"], "built": True} for _ in range(2)],
    }
    for number in range(5)
]
READY = {"ready": True, "seconds": 2.9, "phase": {"percent": 100, "text": "Ready"}, "circuits": CIRCUITS}


class Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    for path in WEB.iterdir():
        if path.suffix in (".html", ".css", ".svg"):
            shutil.copy(path, folder)
    bundler = [ROOT / "node_modules/.bin/esbuild", WEB / "main.js", "--bundle", "--format=esm", "--log-level=warning"]
    subprocess.run([*map(str, bundler), f"--outfile={folder / 'main.js'}"], check=True)
    (folder / "worker").mkdir()
    shutil.copy(Path(__file__).parent / "page" / "worker.js", folder / "worker")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def context(chromium: Browser, site: str) -> Iterator[BrowserContext]:
    """A browser profile. Whatever a page logs as an error, or asks of another origin, fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
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


def tell(page: Page, **message: Any) -> None:
    """Tell the stand-in worker something."""
    page.evaluate("message => new BroadcastChannel('test-control').postMessage(message)", message)


def said(page: Page) -> list[dict[str, Any]]:
    """The commands that the stand-in worker has had."""
    return page.evaluate(
        """() => new Promise((resolve) => {
            const control = new BroadcastChannel("test-control");
            control.onmessage = ({ data }) => data.said && resolve(data.said);
            control.postMessage({ ask: true });
        })"""
    )


def transfer(**values: Any) -> dict[str, Any]:
    return {
        "id": "t",
        "name": "a.pdf",
        "size": 1048576,
        "have": 0,
        "pieces": 4,
        "sources": 1,
        "state": "running",
        "message": "",
    } | values


def share(**values: Any) -> dict[str, Any]:
    empty = {"id": "s", "name": "a.pdf", "size": 1048576, "have": 0, "stage": "reading", "points": 0}
    return empty | {"link": "", "message": ""} | values


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
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.testid ?? document.activeElement.className"))
    assert reached == [
        "skip",
        "share-input",
        "get-input",
        "get-button",
        "save",
        "forget",
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
    for role in ("button", "textbox", "progressbar"):
        for control in page.get_by_role(role).all():
            expect(control).not_to_have_accessible_name("")
    expect(page.get_by_label("Choose a file")).to_be_attached()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Paste the link that you were given into the field first."),
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
        HOSTILE,
    )
    with page.expect_download() as download:
        page.get_by_test_id("save").click()
    saved = download.value.suggested_filename
    assert saved.endswith(".txt") and len(saved) <= 120
    assert not set(saved) & set('<>:"/\\|?*\n\u202e') and not saved.startswith(".")
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
            "shares": [share(name=long, stage="failed", message=long)],
            "transfers": [transfer(name=HOSTILE, state="failed", message=long)],
            "trouble": long,
        },
    )
    expect(page.get_by_test_id("transfer-note")).to_contain_text("WWW")
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
    page = open_page(**READY, transfers=[transfer(state="failed", message="there is no room left: remove files")])
    expect(page.get_by_test_id("transfer-note")).to_have_text("There is no room left: remove files.")
    page.get_by_test_id("retry").click()
    assert said(page) == [{"name": "retry", "args": {"id": "t"}}]
    tell(page, state={"trouble": "The facilitator cannot be reached. Trying again."})
    expect(page.get_by_test_id("error")).to_contain_text("The facilitator cannot be reached. Trying again.")
    tell(page, state={"trouble": ""})
    expect(page.get_by_test_id("error")).to_be_empty()


def test_what_was_fetched_is_shown_as_text_only(open_page: Callable[..., Page]) -> None:
    page = open_page(**READY)
    tell(page, answers={"fetch": {"value": {"id": 1}}})
    page.get_by_test_id("fetch-input").fill("http://example.org/")
    page.get_by_test_id("fetch-button").click()
    assert said(page)[0] == {"name": "fetch", "args": {"url": "http://example.org/"}}
    fetched = {"id": 1, "url": "http://example.org/", "stage": "done", "status": 200, "size": 9, "type": "text/html"}
    tell(page, state={"fetches": [fetched | {"message": ""}]})
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


def test_a_worker_that_dies_is_told_in_every_tab(chromium: Browser, site: str) -> None:
    context = chromium.new_context()
    pages = [context.new_page() for _ in range(2)]
    for page in pages:
        page.goto(site)
        expect(page.get_by_test_id("status")).to_have_text("Starting, 5 %")
    tell(pages[0], crash=True)
    for page in pages:
        expect(page.get_by_test_id("status")).to_have_text("Stopped")
        expect(page.get_by_test_id("error")).to_contain_text("Reload the page")
    context.close()


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
    expect(page.get_by_text("This is taking too long.")).to_be_visible(timeout=20_000)
    context.close()


def test_no_markup_or_style_is_made_from_strings() -> None:
    for path in [WEB / "main.js", *(WEB / "ui").glob("*.js")]:
        source = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in source, f"{path.name}: {word}"
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert "<noscript>" in page
    assert " style=" not in page and "<style" not in page and json.dumps(page).count("<script") == 1
