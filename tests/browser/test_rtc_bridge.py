"""The page's bridge to WebRTC and the worker's data channels, without a node: two pages, linked by the test.

A test server carries descriptions between the pages (page/rtc.js), as introducers would; tests may read or drop them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from pynode.site import HEADERS
from tests import namespace
from tests.browser.harness import CONFIG

pytestmark = pytest.mark.rtc

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
HIGH_WATER = MIB  # of channels.js
MESSAGE = 127 * 514
CHANNEL = 7
# In one of thirty runs Chromium goes on after an outage in steps of ten seconds, several of them: as if it had taken
# the outage for a round trip, and set its retransmission timeout by that (RFC 9260 section 6.3.1).
AFTER_AN_OUTAGE = 180  # seconds
OFFER, ANSWER, CANDIDATES = 1, 2, 3

FORWARD_ONLY = """
    const post = MessagePort.prototype.postMessage;
    MessagePort.prototype.postMessage = function (message, transfer = []) {
        if (transfer.some((item) => item instanceof RTCDataChannel)) throw new DOMException("no", "DataCloneError");
        post.call(this, message, transfer);
    };
"""


class Server:
    """Serves the page and its worker, and keeps mail."""

    def __init__(self) -> None:
        files = {
            "/": ("text/html", b'<!doctype html><link rel=icon href=data:,><script type=module src="/rtc.js"></script>')
        }
        for path, source in (("/rtc.js", "rtc.js"), ("/worker.js", "rtc_worker.js")):
            files[path] = ("text/javascript", bundled(ROOT / "tests" / "browser" / "page" / source))
        mail: defaultdict[str, list[bytes]] = defaultdict(list)
        delivered = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/mail/"):
                    box, number = self.path.rsplit("/", 1)
                    with delivered:
                        delivered.wait_for(lambda: len(mail[box]) > int(number))
                    self.answer("application/json", mail[box][int(number)])
                elif self.path in files:
                    self.answer(*files[self.path])

            def do_POST(self) -> None:
                with delivered:
                    mail[self.path].append(self.rfile.read(int(self.headers["Content-Length"])))
                    delivered.notify_all()
                self.answer("text/plain", b"")

            def answer(self, kind: str, body: bytes) -> None:
                with contextlib.suppress(ConnectionError):  # the page has gone
                    self.send_response(200)
                    for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def bundled(entry: Path) -> bytes:
    esbuild = next((ROOT / "node_modules").glob("@esbuild/*/bin/esbuild"))
    command = [str(esbuild), str(entry), "--bundle", "--format=esm", "--target=es2022"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


_numbers = itertools.count()


class Side:
    """One page. Its connections are numbered by the test, which gives both ends the same number."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name

    def connect(self, role: str, channel: int = CHANNEL) -> None:
        self.page.evaluate("([channel, role]) => peer.call('connectRtc', channel, role)", [channel, role])

    def close(self, channel: int = CHANNEL) -> None:
        self.page.evaluate("(channel) => peer.call('close', channel)", channel)

    def describe(self, kind: int, sdp: str, channel: int = CHANNEL) -> None:
        self.page.evaluate("(values) => peer.call('describe', ...values)", [channel, kind, sdp])

    def send(self, size: int, *, at: int = 0, heedless: bool = False, channel: int = CHANNEL) -> None:
        """Send the pattern from byte `at` to byte `size`, heedless of congestion or not."""
        send = {"at": at, "size": size, "heedless": heedless}
        self.page.evaluate("([channel, send]) => peer.send(channel, send)", [channel, send])

    def until(self, event: str, holds: str = "true", channel: int = CHANNEL, *, seconds: float = 60) -> dict[str, Any]:
        """The event of that kind for which the JavaScript expression `holds` of `event` is true, once there is one."""
        found = self.page.evaluate(
            f"""([kind, channel, seconds]) => Promise.race([
                peer.until(kind, channel, (event) => {holds}).then((event) => ({{ event }})),
                new Promise((resolve) => setTimeout(resolve, seconds * 1000))
                    .then(() => ({{ all: peer.events.slice(-20) }})),
            ])""",
            [event, channel, seconds],
        )
        assert "event" in found, f"{self.name}: no {event} with {holds}: {found['all']}"
        event_found: dict[str, Any] = found["event"]
        return event_found

    def received(self, total: int, channel: int = CHANNEL, *, seconds: float = 60) -> None:
        self.until("received", f"event.total >= {total}", channel, seconds=seconds)

    def closed(self, channel: int = CHANNEL) -> dict[str, Any]:
        return self.until("closed", channel=channel)

    def events(self, event: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.page.evaluate(
            "(kind) => peer.events.filter((each) => each.event === kind)", event
        )
        return events


class Sides:
    """Makes pairs of pages and links them."""

    def __init__(self, server: Server, browsers: Callable[[str], Browser]) -> None:
        self.server = server
        self._browsers = browsers
        self._stack = contextlib.ExitStack()
        self._wrong: list[str] = []

    def pair(
        self, first: str = "chromium", second: str = "chromium", *, forwarded: bool = False, **options: Any
    ) -> list[Side]:
        """Two pages that send what they describe to each other. Nobody connects yet."""
        names = [f"{next(_numbers)}-{end}" for end in "ab"]
        return [
            self._page(browser, name, other, forwarded, **options)
            for browser, name, other in ((first, *names), (second, *reversed(names)))
        ]

    def linked(self, *arguments: Any, **options: Any) -> list[Side]:
        """Two pages with an open channel."""
        pair = self.pair(*arguments, **options)
        pair[1].connect("answer")
        pair[0].connect("offer")
        for side in pair:
            side.until("opened")
        return pair

    def _page(self, browser: str, name: str, other: str, forwarded: bool, clock: bool = False, **options: Any) -> Side:
        context = self._browsers(browser).new_context(**CONFIG.context_options(browser))
        self._stack.callback(context.close)
        context.on("weberror", lambda error: self._wrong.append(str(error.error)))
        context.on("console", lambda message: self._wrong.append(message.text) if message.type == "error" else None)
        if forwarded:
            context.add_init_script(FORWARD_ONLY)
        page = context.new_page()
        if clock:
            page.clock.install()
        page.goto(self.server.address)
        page.evaluate("(options) => peer.start(options)", {"name": name, "other": other, **options})
        return Side(page, f"{browser} {name[-1]}")

    def close(self) -> None:
        self._stack.close()
        assert [wrong for wrong in self._wrong if not wrong.startswith(("ICE failed", "WebRTC: ICE failed"))] == []


@pytest.fixture
def sides(server: Server, request: pytest.FixtureRequest) -> Iterator[Sides]:
    sides = Sides(server, request.getfixturevalue)
    yield sides
    sides.close()


both_ways = pytest.mark.parametrize("forwarded", [False, True], ids=["handed-over", "forwarded"])


@both_ways
@pytest.mark.parametrize(
    "first, second",
    [("chromium", "chromium"), ("chromium", "firefox"), ("firefox", "chromium"), ("firefox", "firefox")],
)
def test_bytes_arrive_intact_in_both_directions_and_few_wait(
    sides: Sides, first: str, second: str, forwarded: bool
) -> None:
    pair = sides.linked(first, second, forwarded=forwarded)
    size = 32 * MIB
    for side in pair:
        side.send(size)
    for side in pair:
        side.received(size)
        assert side.events("garbled") == []
        assert side.until("sent")["highest"] <= HIGH_WATER + MESSAGE
        assert side.until("state")["state"] == "connected"


@both_ways
@pytest.mark.parametrize("browser", ["chromium", "firefox"])
@pytest.mark.parametrize("closing", ["offerer", "answerer"])
def test_what_was_sent_before_the_end_arrives(sides: Sides, browser: str, closing: str, forwarded: bool) -> None:
    pair = sides.linked(browser, "chromium", forwarded=forwarded)
    left, right = pair if closing == "offerer" else pair[::-1]
    left.send(4 * MIB, heedless=True)
    left.close()
    assert right.closed() == {
        "event": "closed",
        "channel": CHANNEL,
        "reason": "the other side closed the connection",
        "total": 4 * MIB,
    }
    assert left.events("closed") == []


@both_ways
def test_a_neighbour_who_sends_more_than_is_taken_is_cut_off(sides: Sides, forwarded: bool) -> None:
    flooder, flooded = sides.linked(forwarded=forwarded)
    flooded.page.evaluate("peer.sleep()")  # its worker takes nothing
    flooder.send(256 * MIB)
    flooder.closed()
    flooded.page.evaluate("peer.wake()")
    closed = flooded.closed()
    assert closed["reason"] == "the other side sends faster than this node can take it"
    assert closed["total"] < 128 * MIB


@pytest.mark.parametrize("second", ["chromium", "firefox"])
def test_a_page_that_goes_ends_its_connections(sides: Sides, second: str) -> None:
    left, right = sides.linked("chromium", second)
    left.page.close()
    right.closed()  # seldom as a lost one: the page's last packet is sent once
    left, right = sides.linked(second, "chromium")
    left.page.goto("about:blank")
    right.closed()


@pytest.fixture
def network() -> Iterator[Callable[..., None]]:
    """Runs lines of `ip` on this process's namespace, which is as it was after the test."""

    def ip(*lines: str) -> None:
        subprocess.run([namespace.program("ip"), "-batch", "-"], input="\n".join(lines), text=True, check=True)

    yield ip
    ip("address flush dev nowhere", *ADDRESSED.format(namespace.ADDRESS).splitlines())


ADDRESSED = """address add {}/24 dev nowhere
route replace default via 10.99.0.2 dev nowhere"""


@pytest.fixture
def blocked() -> Iterator[Callable[[set[str]], None]]:
    """Lets no UDP to these ports through, nor says so to the sender."""

    def iptables(*rule: str) -> None:
        subprocess.run([namespace.program("iptables"), "--wait", *rule], check=True)

    def blocked(ports: set[str]) -> None:
        for port in ports:
            iptables("-A", "INPUT", "-p", "udp", "--dport", port, "-j", "DROP")

    yield blocked
    iptables("-F", "INPUT")


def ports(pair: list[Side]) -> set[str]:
    """The UDP ports that both sides have named until now."""
    said = "".join(event["sdp"] for side in pair for event in side.events("described"))
    return set(re.findall(r"candidate:\S+ 1 udp \d+ \S+ (\d+)", said, re.IGNORECASE))


@both_ways
@pytest.mark.parametrize(
    "first, second",
    [("chromium", "chromium"), ("chromium", "firefox"), ("firefox", "chromium"), ("firefox", "firefox")],
)
def test_a_path_that_no_longer_leads_through_is_replaced(
    sides: Sides, blocked: Callable[[set[str]], None], first: str, second: str, forwarded: bool
) -> None:
    pair = sides.linked(first, second, forwarded=forwarded)
    left, right = pair
    left.send(32 * MIB)
    right.received(MIB)
    blocked(ports(pair))
    left.until("sent", seconds=AFTER_AN_OUTAGE)
    left.send(33 * MIB, at=32 * MIB)  # all of the other may have come before
    right.received(33 * MIB, seconds=AFTER_AN_OUTAGE)
    assert right.events("garbled") == left.events("closed") == right.events("closed") == []
    assert [event["kind"] for event in left.events("described")].count(OFFER) > 1


def test_a_change_of_address_is_survived(sides: Sides, network: Callable[..., None]) -> None:
    left, right = sides.linked()  # Firefox ends its connections at once when it cannot send
    left.send(32 * MIB)
    right.received(MIB)
    network("address flush dev nowhere", *ADDRESSED.format("10.99.0.7").splitlines())
    right.received(32 * MIB, seconds=AFTER_AN_OUTAGE)
    assert right.events("garbled") == []


@pytest.mark.parametrize("browser", ["chromium", "firefox"])
def test_when_the_browser_says_that_it_is_online_again_a_new_path_is_looked_for(sides: Sides, browser: str) -> None:
    left, right = sides.linked(browser, "chromium")
    for side in (left, right):
        side.page.evaluate("dispatchEvent(new Event('online'))")
    right.until(
        "described", f"event.kind === {ANSWER} && peer.events.filter((each) => each.kind === {ANSWER}).length > 1"
    )
    left.send(MIB)
    right.received(MIB)
    assert OFFER not in [event["kind"] for event in right.events("described")]


@pytest.mark.parametrize("second", ["chromium", "firefox"])
def test_a_connection_that_cannot_be_restored_is_given_up(
    sides: Sides, blocked: Callable[[set[str]], None], second: str
) -> None:
    pair = sides.linked("chromium", second)
    blocked({"0:65535"})
    for side in pair:
        assert side.closed()["reason"] == "the connection to the other side was lost and could not be restored"
        assert [event["state"] for event in side.events("state")] == ["connected", "recovering"]


def test_an_end_before_the_channel_is_open_is_no_more_spoken_of(sides: Sides) -> None:
    left, right = sides.pair()
    left.connect("offer")
    left.close()
    left.connect("offer", 9)
    right.connect("answer", 9)
    left.until("opened", channel=9)
    assert [event["channel"] for event in left.events("closed") + left.events("opened")] == [9]


def test_a_peer_that_never_answers_is_given_up(sides: Sides) -> None:
    left, _ = sides.pair(clock=True)
    left.connect("offer")
    left.until("described")
    left.page.clock.fast_forward(31_000)
    assert left.closed()["reason"] == "the other side did not answer"


@pytest.mark.parametrize("sdp", ["", "v=0\r\n", "nonsense"])
def test_a_description_that_cannot_be_applied_ends_the_connection(sides: Sides, sdp: str) -> None:
    left, _ = sides.pair()
    left.connect("offer")
    left.until("described")
    left.describe(ANSWER, sdp)
    assert left.closed()["reason"] == "this browser cannot use what the other side said of the connection"


def test_there_is_a_limit_to_connections(sides: Sides) -> None:
    left, _ = sides.pair()
    for channel in range(65):
        left.connect("answer", channel)
    assert left.closed(64)["reason"] == "too many connections"
    left.close(0)
    left.connect("offer", 65)
    left.until("described", channel=65)
    assert [event["channel"] for event in left.events("closed")] == [64]


def test_without_a_bridge_there_are_no_connections(sides: Sides) -> None:
    left, _ = sides.pair(rtc=False)
    left.connect("offer")
    assert left.closed()["reason"] == "this site or this browser has no WebRTC"


def test_a_wrong_stun_address_is_told(sides: Sides) -> None:
    left, _ = sides.pair(stun=["http://example.org"])
    left.connect("offer")
    assert left.closed()["reason"].startswith("this browser opens no connection: ")
