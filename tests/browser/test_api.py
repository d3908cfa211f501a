"""convergence.js in pages of an origin of their own, from a mirror, in both browsers at once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.hostile import mirrors
from tests.browser.pages import Pages, Visitor, integrity, pages
from tests.e2e.processes import ENVIRONMENT, MIB, PATIENCE, Network, running

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
CHAT_LINES = 60
SIZE = 5 * MIB
SERVICES = ("exchange", "answers", "greets", "zipped", "deaf", "busy", "last words", "throws", "short")
"""Of tests/browser/page/api.js."""

BETWEEN = 2 * MIB
"""Bytes that all of the way between a writer and a page that does not read may hold: WINDOW of pipe.js, the core's send
buffers, and the windows of the streams on both sides of the point."""

POLICY = (
    "default-src 'none'; script-src 'self' {mirror} blob: 'wasm-unsafe-eval'; worker-src blob:; "
    "connect-src {mirror} blob: ws: wss:; require-trusted-types-for 'script'; trusted-types convergence"
)
"""What docs/javascript.md says that a page needs to allow, and no more."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("network"), dist)
    yield network
    network.close()


@pytest.fixture(scope="module")
def mirror(network: Network, dist: Path) -> Iterator[str]:
    """The address of `convergence mirror` for this build."""
    with running("mirror", "--dist", dist, "--network", network.site, "--listen", "127.0.0.1:0") as command:
        yield command.until("ready")["url"]


@pytest.fixture(scope="module")
def root(dist: Path) -> str:
    return hashlib.sha256((dist / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def site(mirror: str, dist: Path, root: str) -> Iterator[Pages]:
    """Somebody's pages, all with the strict policy."""
    pinned = integrity((dist / "convergence.js").read_bytes())
    script = (HERE / "page" / "api.js").read_text().replace("MIRROR/", mirror).encode()
    page = (
        "<!doctype html><title>somebody's</title>"
        f'<script type="module" src="{mirror}convergence.js" integrity="{{}}" crossorigin></script>'
        '<script type="module" src="api.js"></script>'
    )
    with pages() as site:
        chat = {path.name: path.read_text() for path in EXAMPLES.glob("chat.*")}
        chat = {name: text.replace("https://mirror.example/", mirror) for name, text in chat.items()}
        chat["chat.js"] = chat["chat.js"].replace("root: undefined", f'root: "{root}"')
        site.put({name: text.encode() for name, text in chat.items()})
        site.put({"api.js": script})
        site.put({"page.html": page.format(pinned).encode()}, POLICY.format(mirror=mirror))
        site.put({"lax.html": page.format(pinned).encode()})
        site.put({"other.html": page.format(integrity(b"")).encode()}, POLICY.format(mirror=mirror))
        yield site


@pytest.fixture(scope="module")
def two(chromium: Browser, firefox: Browser, site: Pages, root: str) -> Iterator[tuple[Visitor, Visitor]]:
    """A node in a page of Chromium, which serves all that the tests need, and one in Firefox, which serves an echo."""
    visitors = tuple(Visitor(browser, f"{site.origin}page.html") for browser in (chromium, firefox))
    for one in visitors:
        names = [f"echo {one.name}", *(SERVICES if one.name == "chromium" else ())]
        one.do("api.kept.set('joined', api.join(...argument))", [{"root": root}, names])
    for one in visitors:
        one.do("await api.kept.when('joined')")
    yield visitors
    for one in visitors:
        one.close()
    assert [wrong for one in visitors for wrong in one.wrong] == []


def failure(visitor: Visitor, expression: str, argument: Any = None) -> dict[str, Any]:
    """How the promise of an expression fails."""
    failed: dict[str, Any] = visitor.do(f"return api.failure({expression})", argument)
    assert failed is not None, "it did not fail"
    return failed


def test_each_browser_reaches_an_echo_that_the_other_serves(two: tuple[Visitor, Visitor]) -> None:
    for one, other in (two, two[::-1]):
        assert one.do("return api.echoes(argument, 1)", f"hash:echo {other.name}") == ["number 0"]


def test_a_command_reaches_a_tab(two: tuple[Visitor, Visitor], network: Network) -> None:
    data = b"hello\n" * 50_000
    command = [sys.executable, "-m", "pynode", "pipe", "hash:echo firefox", "--site", network.site]
    done = subprocess.run(command, input=data, capture_output=True, env=ENVIRONMENT, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout == data) == (0, True), done.stderr


def test_fifty_connections_at_once(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    said = firefox.do("return api.echoes('hash:echo chromium', 50)")
    assert said == [f"number {number}" for number in range(50)]


def test_five_megabytes_each_way_at_once(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    there = firefox.do("""
        const pipe = await api.node.connect("hash:exchange");
        const result = await api.exchange(pipe);
        await pipe.closed;
        return result;
    """)
    here = chromium.do("return api.kept.when('exchanged')")
    assert there["size"] == here["size"] == SIZE
    assert (there["sent"], there["received"]) == (here["received"], here["sent"])


def test_either_side_may_end_first(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    assert firefox.do("return api.sayThenHear('hash:answers', 'there')") == "there? yes"
    assert firefox.do("return api.hearThenSay('hash:greets', 'bye')") == "hello"
    assert chromium.do("return api.kept.when('greeted')") == "bye"


def test_native_streams_chain(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    assert firefox.do("return api.gzip('hash:zipped', argument)", "again and again " * 10_000)


def test_a_page_that_does_not_read_stops_the_writer(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    taken = firefox.do("return api.stuck('hash:deaf', 'hash:echo chromium', argument)", 4 * BETWEEN)
    assert 0 < taken <= BETWEEN
    assert chromium.do("return (await api.all(api.kept.get('deaf').readable)).size") == 4 * BETWEEN
    firefox.do("await api.kept.get('writing')")


def test_a_pipe_is_given_up_with_a_number(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    busy = failure(firefox, "api.node.connect('hash:busy').then(({ closed }) => closed)")
    assert (busy["name"], busy["code"], busy["reason"]) == ("ConvergenceError", "ended", 11)
    assert busy["message"] == "The far side is too busy: try again later."
    said = firefox.do("""
        const stop = new AbortController();
        const pipe = await api.node.connect("hash:last words", { signal: stop.signal });
        const reader = pipe.readable.getReader();
        const said = api.text((await reader.read()).value);
        stop.abort();
        return [said, await api.failure(reader.read()), await api.failure(pipe.closed)];
    """)
    assert said[0] == "last words"
    assert said[1]["name"] == said[2]["name"] == "AbortError"
    assert failure(chromium, "api.kept.get('writer').closed")["reason"] == 1


def test_a_handler_that_throws_ends_its_pipe_only(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    failed = failure(firefox, "api.node.connect('hash:throws').then(({ closed }) => closed)")
    assert (failed["code"], failed["reason"]) == ("ended", 10)
    while not chromium.wrong:  # what its page threw may be told a moment later
        chromium.context.wait_for_event("weberror")
    assert [wrong for wrong in chromium.wrong if "thrown by the handler" in wrong] == chromium.wrong
    chromium.wrong.clear()
    assert firefox.do("return api.echoes('hash:echo chromium', 1)") == ["number 0"]


def test_a_private_service_is_reached_by_its_address(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    address = firefox.do("""
        const secret = crypto.getRandomValues(new Uint8Array(32));
        return (await api.node.serve({ secret }, api.repeat)).address;
    """)
    assert chromium.do("return api.echoes(argument, 1)", address) == ["number 0"]
    assert failure(chromium, "api.node.serve(argument, api.repeat)", address)["code"] == "address-secret"


def test_what_cannot_be_reached_or_served_is_said(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    nobody = failure(chromium, "api.node.connect('hash:nobody has this', { patience: 0 })")
    assert (nobody["code"], nobody["reason"]) == ("connect-nobody", 2)
    assert nobody["message"].startswith("Nobody offers this service now")
    for address, code in {"": "address-none", "hash:": "address-name-none", "tcp://": "address-host"}.items():
        assert failure(firefox, "api.node.connect(argument)", address)["code"] == code
    assert failure(firefox, "api.node.serve('tcp://127.0.0.1:1', () => {})")["code"] == "address-name-none"
    assert failure(firefox, "api.node.serve('hash:echo firefox', () => {})")["code"] == "address-served"
    assert failure(firefox, "api.node.serve({ secret: new Uint8Array(5) }, () => {})")["code"] == "address-secret"
    stopped = "api.node.connect('hash:nobody has this', { signal: AbortSignal.timeout(200), patience: 60 })"
    assert failure(firefox, stopped)["name"] == "TimeoutError"
    text = "api.node.connect('hash:echo chromium').then(({ writable }) => writable.getWriter().write('text'))"
    assert failure(firefox, text)["name"] == "TypeError"


def test_a_service_that_is_closed_is_found_no_more(two: tuple[Visitor, Visitor]) -> None:
    chromium, firefox = two
    firefox.do("api.kept.set('short', await api.node.connect('hash:short'))")
    chromium.do("api.kept.get('service short').close()")
    failed = failure(firefox, "api.kept.get('short').closed")
    assert failed["code"] == "ended" and failed["reason"] > 0
    assert failure(firefox, "api.node.connect('hash:short', { patience: 0 })")["code"] == "connect-nobody"


def test_a_page_that_came_and_went(two: tuple[Visitor, Visitor], chromium: Browser, site: Pages, root: str) -> None:
    """It hears of its node, the module leaves nothing in its global scope, and its service goes with its tab."""
    third = Visitor(chromium, f"{site.origin}page.html")
    heard, new, nodes = third.do(
        """
        const before = new Set(Object.keys(globalThis));
        const heard = [];
        const after = await api.join(argument);
        for (const type of ["ready", "nodes", "trouble"]) api.node.addEventListener(type, () => heard.push(type));
        await api.node.ready;
        await api.node.serve("hash:third", api.repeat);
        return [heard, after.filter((name) => !before.has(name)), api.node.nodes];
        """,
        {"root": root},
    )
    assert "ready" in heard and "trouble" not in heard and new == [] and nodes >= 5
    firefox = two[1]
    firefox.do("api.kept.set('third', await api.node.connect('hash:third'))")
    third.close()
    failed = failure(firefox, "api.kept.get('third').closed")
    assert failed["code"] == "ended" and failed["message"] == "The path through the network broke: try again."
    assert third.wrong == []


def test_the_chat_page_has_few_lines() -> None:
    assert sum(len(path.read_text().splitlines()) for path in EXAMPLES.glob("chat.*")) <= CHAT_LINES


def test_chromium_and_firefox_chat(chromium: Browser, firefox: Browser, site: Pages) -> None:
    keeper = Visitor(chromium, f"{site.origin}chat.html")
    expect(keeper.page.get_by_role("status")).to_have_text("You are in the room, and keep it for the others.")
    guest = Visitor(firefox, f"{site.origin}chat.html")
    expect(guest.page.get_by_role("status")).to_have_text("You are in the room.")
    for one, other, words in ((keeper, guest, "Hello, <b>Firefox</b>"), (guest, keeper, "Grüße 👋")):
        one.page.get_by_label("Your name").fill(one.name)
        one.page.get_by_label("Message").fill(words)
        one.page.get_by_role("button", name="Send").click()
        for page in (one.page, other.page):
            expect(page.get_by_role("listitem").last).to_have_text(f"{one.name}: {words}")
    keeper.close()  # the other one keeps the room from now on
    expect(guest.page.get_by_role("status")).to_have_text("You are in the room, and keep it for the others.")
    guest.close()
    assert keeper.wrong + guest.wrong == []


def test_nothing_runs_with_another_root_hash(chromium: Browser, firefox: Browser, site: Pages, mirror: str) -> None:
    for browser in (chromium, firefox):
        visitor = Visitor(browser, f"{site.origin}page.html")
        other = failure(visitor, "api.join({ root: 'ab'.repeat(32) })")
        assert other["code"] == "refused"
        assert "Nothing was run. No mirror has the version with the root hash abab" in other["message"]
        assert f"{mirror} manifest.json: another list of files" in other["message"]
        assert failure(visitor, "api.join({ root: 'none' })")["code"] == "root"
        assert visitor.page.workers == []
        visitor.close()


def test_nothing_runs_where_one_file_differs(chromium: Browser, site: Pages, dist: Path, root: str) -> None:
    files = {path.relative_to(dist).as_posix(): path.read_bytes() for path in dist.rglob("*") if path.is_file()}
    with mirrors(files) as hostile:
        bad = hostile.address(hostile.faulty("flipped", "app.zip"))
        visitor = Visitor(chromium, f"{site.origin}lax.html")
        failed = failure(visitor, "api.join(argument)", {"root": root, "mirrors": [bad]})
        assert failed["code"] == "refused"
        assert f"{bad} app.zip: its bytes are not the published ones" in failed["message"]
        assert visitor.page.workers == []
        visitor.close()


def test_another_module_than_the_pinned_one_is_not_run(chromium: Browser, firefox: Browser, site: Pages) -> None:
    for browser in (chromium, firefox):
        visitor = Visitor(browser, f"{site.origin}other.html")
        assert visitor.do("return globalThis.api === undefined")
        visitor.close()


def test_a_node_that_is_closed_ends_its_pipes(two: tuple[Visitor, Visitor]) -> None:
    """The last test: it closes a node that the others use."""
    chromium, firefox = two
    chromium.do("api.kept.set('pipe', await api.node.connect('hash:echo firefox'))")
    chromium.do("await api.node.close(); await api.node.closed")
    assert failure(chromium, "api.kept.get('pipe').closed")["code"] == "closed"
    assert failure(chromium, "api.node.connect('hash:echo firefox')")["code"] == "closed"
    assert failure(firefox, "api.node.connect('hash:echo chromium', { patience: 0 })")["code"] == "connect-nobody"
