"""The NAT lab is what it says: checked with datagrams, and with a bare data channel between two browsers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright

from tests.netlab import PUBLIC, STUN_ADDRESSES, Lab, Nat, lab, seen_as, udp_socket

pytestmark = pytest.mark.rtc

# A connection with one negotiated channel, as the project's are. A description is given once all candidates are in it.
MAKE = """(stun) => {
    const connection = (window.connection = new RTCPeerConnection({ iceServers: [{ urls: stun }] }));
    const channel = (window.channel = connection.createDataChannel("convergence", { negotiated: true, id: 0 }));
    const state = (...awaited) => new Promise((resolve) => {
        connection.addEventListener("connectionstatechange", () => {
            if (awaited.includes(connection.connectionState)) resolve(connection.connectionState);
        });
    });
    window.lost = state("disconnected");
    window.heard = () => new Promise((resolve) => { channel.onmessage = ({ data }) => resolve(data); });
    channel.onopen = () => channel.send("hello");
    window.ended = Promise.race([heard(), state("failed")]);
    window.describe = async () => {
        const complete = new Promise((resolve) => {
            connection.onicecandidate = ({ candidate }) => candidate || resolve();
        });
        await connection.setLocalDescription();
        await complete;
        return connection.localDescription.sdp;
    };
}"""
TAKE = "([type, sdp]) => connection.setRemoteDescription({ type, sdp })"


@contextmanager
def site(net: Lab) -> Iterator[str]:
    """A web server on the public host."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><link rel=icon href=data:,>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with net.public.entered():
        server = ThreadingHTTPServer((PUBLIC, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{PUBLIC}:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def pages(playwright: Playwright, tmp_path: Path) -> Iterator[Callable[[Lab], tuple[Page, Page]]]:
    """Makes a page in a browser on each of the hosts "left" and "right"."""
    with ExitStack() as stack:

        def pages(net: Lab) -> tuple[Page, Page]:
            address = stack.enter_context(site(net))
            left, right = (
                stack.enter_context(net[name].chromium(playwright, tmp_path, address)).new_page()
                for name in ("left", "right")
            )
            for page in (left, right):
                page.goto(address)
                page.evaluate(MAKE, net.stun)
            return left, right

        yield pages


def negotiate(left: Page, right: Page) -> tuple[str, str]:
    """Exchange descriptions, as a friend of both would. Returns them: offer and answer."""
    offer = left.evaluate("describe()")
    right.evaluate(TAKE, ["offer", offer])
    answer = right.evaluate("describe()")
    left.evaluate(TAKE, ["answer", answer])
    return offer, answer


def connect(left: Page, right: Page) -> tuple[str, str]:
    """Returns what came of it at either side, each having been told its address by STUN: a greeting, or "failed"."""
    assert [sdp.count(" typ srflx ") for sdp in negotiate(left, right)] == [1, 1]
    return left.evaluate("ended"), right.evaluate("ended")


def test_behind_cone_nats_browsers_connect(pages: Callable[[Lab], tuple[Page, Page]]) -> None:
    with lab(left=Nat.CONE, right=Nat.CONE) as net:
        left, right = pages(net)
        assert left.evaluate("isSecureContext && 'serviceWorker' in navigator")
        assert connect(left, right) == ("hello", "hello")


def test_behind_symmetric_nats_browsers_do_not_connect(pages: Callable[[Lab], tuple[Page, Page]]) -> None:
    with lab(left=Nat.SYMMETRIC, right=Nat.SYMMETRIC) as net:
        assert connect(*pages(net)) == ("failed", "failed")


def test_a_channel_survives_a_change_of_address(pages: Callable[[Lab], tuple[Page, Page]]) -> None:
    with lab(left=Nat.CONE, right=Nat.CONE) as net:
        left, right = pages(net)
        connect(left, right)
        net["left"].move()
        left.evaluate("lost")
        left.evaluate("connection.restartIce()")
        offer, _ = negotiate(left, right)
        assert f" {net['left'].address} " in offer
        left.evaluate("() => { window.answer = heard(); }")
        right.evaluate("channel.send('still here')")
        assert left.evaluate("answer") == "still here"


def test_a_cone_nat_has_one_port_for_all_peers_and_a_symmetric_one_another_for_each() -> None:
    with lab(left=Nat.CONE, right=Nat.SYMMETRIC) as net:
        for name, address, ports in (("left", "10.99.1.11", 1), ("right", "10.99.1.12", 2)):
            with udp_socket(net[name].namespace) as asking:
                seen = [seen_as(asking, server) for server in STUN_ADDRESSES]
                assert {host for host, _ in seen} == {address}
                assert len(set(seen)) == ports


def test_a_host_is_reached_by_those_it_wrote_to_and_not_past_its_nat() -> None:
    with lab(left=Nat.CONE, right=Nat.CONE) as net:
        with udp_socket(net["left"].namespace) as left, udp_socket(net["right"].namespace) as right:
            left_at, right_at = seen_as(left), seen_as(right)
            left.sendto(b"too early", right_at)
            right.sendto(b"answer", left_at)
            assert left.recv(99) == b"answer"
            left.sendto(b"again", right_at)
            assert right.recv(99) == b"again"  # what came too early never did
        with pytest.raises(AssertionError, match="unreachable"):
            net["right"].router.run("ip", "route", "get", net["left"].address)


def test_packets_are_lost_in_the_share_that_was_asked_for() -> None:
    with lab(left=Nat.CONE) as net, udp_socket(net["left"].namespace) as left, udp_socket(net.public) as public:
        public.bind((PUBLIC, 0))
        for share, least, most in ((0.3, 100, 180), (0.0, 200, 200), (1.0, 0, 0)):
            net["left"].lose(share)
            for _ in range(200):
                left.sendto(b"any", public.getsockname())
            net["left"].lose(0)
            left.sendto(b"last", public.getsockname())
            came = sum(1 for _ in iter(lambda: public.recv(99), b"last"))
            assert least <= came <= most


def test_a_host_is_cut_off_comes_back_and_changes_its_address() -> None:
    with lab(left=Nat.CONE) as net, udp_socket(net["left"].namespace) as left:
        host = net["left"]
        assert seen_as(left) == ("10.99.1.11", left.getsockname()[1])
        host.down()
        with pytest.raises(OSError, match="unreachable"):
            seen_as(left)
        host.up()
        seen_as(left)
        before = host.address
        host.move()
        seen_as(left)
        assert host.address != before
        assert f"{host.address}/" in host.namespace.run("ip", "address", "show", "dev", "eth0")
        assert before not in host.namespace.run("ip", "address")
