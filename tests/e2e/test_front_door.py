"""Real curl at the proxy's front door, in every dialect. Behind it is one server on this machine, first next door, then
at the far end of circuits through exits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from convergence.errors import EndReason, StreamError
from convergence.outbox import Outbox
from convergence.pipes.door import FrontDoor
from convergence.pipes.duplex import Pipe
from convergence.pipes.pending import Pending
from convergence.wire.address import address_of
from pynode.app import App, Plan
from pynode.cli.sites import find_network
from pynode.pipes import SocketPipe
from tests.e2e.processes import running

BODY = bytes(range(256)) * 8192  # 2 MiB: many reads
LIMIT = 30  # seconds for one curl


class Tcp(Pipe, asyncio.Protocol):
    """A TCP connection as a Duplex."""

    def __init__(self, use: Callable[[Tcp], None]) -> None:
        self.handler = None
        self.closed = self.congested = False
        self._use = use
        self._unused = 0
        self._ended = False

    def connection_made(self, transport):
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 16)
        self._use(self)

    def data_received(self, data):
        self._unused += len(data)
        if self.handler is not None:
            self.handler.data(data, now())
        if self._unused and not self.closed:
            self._transport.pause_reading()

    def eof_received(self):
        if self.handler is not None:
            self.handler.ended(now())
        return not self._ended

    def connection_lost(self, error):
        if not self.closed and not self._ended and self.handler is not None:
            self.handler.aborted(EndReason.CONNRESET, now())
        self.closed = True

    def pause_writing(self):
        self.congested = True

    def resume_writing(self):
        self.congested = False
        if self.handler is not None:
            self.handler.drained(now())

    # -- Duplex

    def write(self, data, now):
        self._transport.write(data)

    def end(self, now):
        self._ended = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self, code, now):
        self.closed = True
        self._transport.abort()

    def consumed(self, size, now):
        self._unused -= size
        if not self._unused and not self.closed:
            self._transport.resume_reading()


def now() -> float:
    return asyncio.get_running_loop().time()


class Proxy:
    """The door on a port of its own; every name leads to `port`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._outbox = Outbox()
        self._tasks = set()
        self.asks = []
        self.refuses = None

    async def listen(self) -> str:
        def make():
            return Tcp(lambda local: FrontDoor(self._outbox, local, self.open, self.open, now()))

        self.server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def open(self, ask, at):
        self.asks.append(ask)
        if self.refuses is not None:
            raise StreamError("refused", self.refuses)
        pending = Pending(self._outbox, lambda code, now: pending.fail(code, now), lambda now: None, at)

        def bind(carrier):
            carrier.handler = pending
            pending.bind(carrier)
            pending.opened(now())

        task = asyncio.ensure_future(
            asyncio.get_running_loop().create_connection(lambda: Tcp(bind), "127.0.0.1", self._port)
        )
        self._tasks.add(task)
        return pending


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers any GET with BODY, and a POST with what it got."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    body = b"" if head.startswith(b"HEAD") else await reader.readexactly(length) if length else BODY
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def curl(*arguments: str, data: bytes | None = None) -> tuple[int, bytes, str]:
    """Exit code, body, and what it says."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        *("curl", "-q", "-sS", "--noproxy", "", "--max-time", str(LIMIT), *arguments),
        *(("-H", "Expect:", "--data-binary", "@-") if data is not None else ()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    body, words = await process.communicate(data)
    return process.returncode or 0, body, words.decode()


def run(scenario: Callable[[Proxy, str, int], Awaitable[None]]) -> None:
    async def main() -> None:
        web = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = web.sockets[0].getsockname()[1]
        proxy = Proxy(port)
        try:
            await scenario(proxy, await proxy.listen(), port)
        finally:
            proxy.server.close()
            web.close()

    asyncio.run(main())


DIALECTS = {
    "socks5-hostname": (("--socks5-hostname", "{at}"), True, ("socks5",)),
    "socks5-hostname, user": (
        ("--socks5-hostname", "{at}", "--proxy-user", "me:you"),
        True,
        ("socks5", b"me", b"you"),
    ),
    "socks4a": (("--socks4a", "{at}"), True, ("socks4", b"")),
    "socks4a, user": (("-x", "socks4a://me@{at}"), True, ("socks4", b"me")),
    "socks5": (("--socks5", "{at}"), False, ("socks5",)),
    "socks4": (("--socks4", "{at}"), False, ("socks4", b"")),
    "http": (("-p", "-x", "http://{at}"), True, ("http", b":", b"", b"")),
    "http 1.0": (("-p", "--proxy1.0", "{at}"), True, ("http", b":", b"", b"")),
    "http, user": (("-p", "-x", "http://me:you@{at}"), True, ("http", b"me:you", b"", b"")),
    "http, header": (
        ("-p", "-x", "http://{at}", "--proxy-header", "X-Tor-Stream-Isolation: tab 7"),
        True,
        ("http", b":", b"tab 7", b""),
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_curl_fetches_and_posts_in_every_dialect(dialect: str) -> None:
    options, by_name, isolation = DIALECTS[dialect]

    async def scenario(proxy: Proxy, at: str, port: int) -> None:
        host = "www.nowhere.example" if by_name else "127.0.0.1"
        url = f"http://{host}:{port}/"
        arguments = [option.format(at=at) for option in options]
        assert await curl(*arguments, url) == (0, BODY, "")
        assert await curl(*arguments, url, data=BODY) == (0, BODY, "")
        assert [(ask.host, ask.port, ask.isolation) for ask in proxy.asks] == [(host, port, isolation)] * 2

    run(scenario)


@pytest.mark.parametrize(
    ("options", "host", "reason", "code", "words"),
    [
        (("--socks5-hostname", "{at}"), "a.example", EndReason.CONNECTREFUSED, 97, "(5)"),
        (("--socks5-hostname", "{at}"), "aaaa.hash.conv", EndReason.RESOLVEFAILED, 97, "(240)"),
        (("--socks5-hostname", "{at}"), "a.onion", None, 97, "(2)"),
        (("--socks4a", "{at}"), "a.example", EndReason.TIMEOUT, 97, "(91)"),
        (("-p", "-x", "http://{at}"), "a.example", EndReason.EXITPOLICY, 56, "403"),
        (("-p", "-x", "http://{at}"), "a.example", EndReason.TIMEOUT, 56, "504"),
    ],
)
def test_curl_hears_why_it_is_refused(options, host, reason, code, words) -> None:
    async def scenario(proxy: Proxy, at: str, port: int) -> None:
        proxy.refuses = reason
        found = await curl(*(option.format(at=at) for option in options), f"http://{host}/")
        assert found[0] == code and words in found[2]

    run(scenario)


def test_what_is_no_tunnel_gets_a_page_of_plain_words() -> None:
    """curl as a page would: straight to the port, and as to a proxy for plain http; a long body does not hide it."""

    async def scenario(proxy: Proxy, at: str, port: int) -> None:
        for arguments, data in (
            ((f"http://{at}/",), None),
            ((f"http://{at}/",), BODY),
            (("-x", f"http://{at}", f"http://a.example:{port}/"), None),
        ):
            code, body, _ = await curl("-w", "%{http_code}", *arguments, data=data)
            assert code == 0 and body.endswith(b"405") and b"proxy for CONNECT only" in body
        code, body, _ = await curl("-p", "-x", f"http://{at}", "--proxy-header", "Origin: null", f"http://a:{port}/")
        assert code == 56 and proxy.asks == []

    run(scenario)


# -- through exits

JOIN_LIMIT = 60.0  # seconds
REQUESTS, AT_ONCE = 200, 20


def exit_circuits(app: App) -> int:
    return sum(item["purpose"] == "exit" and item["state"] == "in use" for item in app.node.pool.snapshot())


def test_curl_through_circuits_with_users_apart(tmp_path: Path) -> None:
    """Long answers and 200 short requests of two users; then a port that is closed, and one that is barred."""

    async def scenario(port: int, closed: int, site: str) -> None:
        app = App(Plan(await find_network(site)))
        await app.start()
        await app.joined(JOIN_LIMIT)

        def came(local: SocketPipe) -> None:
            def open(ask, now):
                return app.node.connect(address_of(ask.host, ask.port), now, isolation=ask.isolation)

            app.call(lambda now: FrontDoor(app.node.outbox, local, open, open, now))
            local.start()

        server = await asyncio.get_running_loop().create_server(lambda: SocketPipe(app.driver, came), "127.0.0.1", 0)
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            users = (("-x", f"socks5h://alice:1@{at}"), ("-p", "-x", f"http://bob:1@{at}"))
            for user in users:
                assert await curl(*user, f"http://127.0.0.1:{port}/") == (0, BODY, "")
                assert await curl(*user, f"http://localhost:{port}/", data=BODY) == (0, BODY, "")
            assert exit_circuits(app) == len(users)
            urls = [f"http://127.0.0.1:{port}/?[1-{REQUESTS // len(users)}]"]
            done = await asyncio.gather(
                *(
                    curl(*user, "-Z", "--parallel-max", str(AT_ONCE), "-X", "HEAD", "-I", "-w", "%{http_code} ", *urls)
                    for user in users
                )
            )
            assert [code for code, _, _ in done] == [0, 0], done
            assert sum(body.count(b"HTTP/1.1 200 OK") for _, body, _ in done) == REQUESTS
            assert exit_circuits(app) == len(users), "each has one"
            for user, said in zip(users, ("(5)", "502"), strict=True):
                code, _, words = await curl(*user, f"http://127.0.0.1:{closed}/")
                assert code and said in words, words
            for user, said in zip(users, ("(2)", "403"), strict=True):
                code, _, words = await curl(*user, "http://127.0.0.1:1/")
                assert code and said in words, words
        finally:
            server.close()
            await app.stop()

    async def main() -> None:
        web = await asyncio.start_server(serve, "127.0.0.1", 0)
        other = await asyncio.start_server(serve, "127.0.0.1", 0)
        port, closed = (server.sockets[0].getsockname()[1] for server in (web, other))
        other.close()
        await other.wait_closed()
        page = tmp_path / "dist"
        page.mkdir()
        (page / "index.html").write_text("<title>Convergence</title>")
        allow = ("--exit-allow", f"127.0.0.1:{port}", "--exit-allow", f"127.0.0.1:{closed}")
        options = ("--port", "0", "--data", tmp_path / "data", "--dist", page, "--no-rtc", *allow)
        with running("up", *options) as up:
            ready = await asyncio.to_thread(up.until, "ready")
            await scenario(port, closed, ready["site"])
            assert await asyncio.to_thread(up.stop) == 0
        web.close()

    asyncio.run(main())
