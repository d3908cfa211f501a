"""Listening sockets: descriptors that are kept free, and how many connections one address gets."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pynode import listening as module
from pynode.listening import Listener, Sources, counted_as, raise_descriptor_limit, usable_descriptors

ROOT = Path(__file__).parents[3]
LIMIT = 160  # of the child: an eighth is kept free

CHILD = f"""
import asyncio, logging, resource, sys
sys.path[:0] = ["shared", "."]
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))
from pynode.transports.websocket import WebSocketTransport
from tests.unit.pynode.toy import attach
logging.basicConfig(level=logging.WARNING, format="LOG %(message)s", stream=sys.stdout)

async def main():
    transport = WebSocketTransport()
    attach(transport)
    print("port", await transport.listen("127.0.0.1", 0), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    with open("build.py"):
        print("opened a file", resource.getrusage(resource.RUSAGE_SELF).ru_utime, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def child(request: pytest.FixtureRequest) -> Iterator[Any]:
    start = "import uvloop; uvloop.run(main())" if request.param == "uvloop" else "asyncio.run(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD + start], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_where_descriptors_run_out_some_are_kept_and_connections_wait(child: Any) -> None:
    """What cannot be accepted waits in the kernel's queue; one line says so; when others end it is accepted."""
    port = int(child.stdout.readline().split()[1])
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * LIMIT)]
    assert child.stdout.readline() == "LOG no more connections are accepted until some end: " + (
        "nearly all open files are in use\n"
    )
    used = len(os.listdir(f"/proc/{child.pid}/fd"))
    assert LIMIT // 2 < used <= LIMIT - LIMIT // 8 + 1
    child.stdin.write("\n")
    child.stdin.flush()
    words = child.stdout.readline().split()
    assert words[:3] == ["opened", "a", "file"] and float(words[3]) < 5  # no second line, no spinning
    for client in clients:
        client.close()
    late = socket.create_connection(("127.0.0.1", port))
    late.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    late.settimeout(60)
    assert late.recv(100).startswith(b"HTTP/1.1 426")
    late.close()


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may() -> None:
    code = (
        "import resource, sys; sys.path[:0] = ['shared', '.']\n"
        "from pynode.listening import raise_descriptor_limit, usable_descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))\n"
        "print(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE), usable_descriptors())\n"
        "print(raise_descriptor_limit(1000), raise_descriptor_limit(3000))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == "2048 (2048, 2048) 1920\n2048 2048\n"
    assert raise_descriptor_limit(1) >= 1 and usable_descriptors() > 0


def test_a_node_asks_for_more_descriptors_when_it_starts() -> None:
    code = (
        "import resource, sys; sys.path[:0] = ['shared', '.']\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))\n"
        "from pynode.loop import run\n"
        "async def main(stop): return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 256\n"
        "sys.exit(run(main))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 8


@pytest.mark.parametrize(
    ("remote", "source"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("127.0.0.1", ""),
        ("::1", ""),
        (None, ""),
    ],
)
def test_sources(remote: str | None, source: str) -> None:
    assert counted_as(remote) == source


def test_a_source_has_so_many_connections_until_they_are_closed() -> None:
    sources = Sources(3)
    made = [socket.socket() for _ in range(5)]
    taken = [sources.take("203.0.113.7", one) for one in made[:4]]
    assert taken == [True, True, True, False]
    assert sources.take("203.0.113.8", made[4]) and sources.take("127.0.0.1", made[3])
    made[0].close()
    assert sources.take("203.0.113.7", made[3])
    for one in made:
        one.close()


def test_sources_that_left_are_forgotten() -> None:
    sources = Sources(3)
    for number in range(1000):
        one = socket.socket()
        assert sources.take(f"203.0.{number // 250}.{number % 250}", one)
        one.close()
    assert len(sources._from) <= 6


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")


def test_connections_beyond_the_limit_of_one_address_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "counted_as", lambda remote: remote)

    async def test() -> None:
        listener = Listener(Echo, from_one=2)
        port = await listener.start("127.0.0.1", 0)

        async def connect() -> tuple[bytes, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            return await reader.read(5), writer

        first, second = await connect(), await connect()
        assert (first[0], second[0], (await connect())[0]) == (b"hello", b"hello", b"")
        first[1].close()
        async with asyncio.timeout(20):
            while (await connect())[0] != b"hello":
                pass
        listener.close()

    asyncio.run(test())


def test_a_listener_of_all_addresses_has_one_port_and_frees_it() -> None:
    async def test() -> None:
        listener = Listener(Echo)
        port = await listener.start("localhost", 0)
        assert {one.getsockname()[1] for one in listener.sockets} == {port}
        listener.close()
        again = Listener(Echo)
        assert await again.start("localhost", port) == port
        with pytest.raises(OSError):
            await Listener(Echo).start("localhost", port)
        again.close()

    asyncio.run(test())


def test_what_cannot_be_accepted_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rests get longer; nothing reads the socket meanwhile."""
    monkeypatch.setattr(module, "usable_descriptors", lambda: 0)
    later: list[tuple[float, Callable[[], None]]] = []

    async def test() -> None:
        loop = asyncio.get_running_loop()
        listener = Listener(Echo)
        port = await listener.start("127.0.0.1", 0)
        monkeypatch.setattr(loop, "call_later", lambda delay, call: later.append((delay, call)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read(5) == b"hello"  # the one that showed it
        for _ in range(8):
            later[-1][1]()
        assert [delay for delay, _ in later] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]
        monkeypatch.undo()
        later[-1][1]()
        again, other = await asyncio.open_connection("127.0.0.1", port)
        assert await again.read(5) == b"hello"
        writer.close()
        other.close()
        listener.close()

    asyncio.run(test())
