"""Introductions: how many signals a second facilitators pass on, and are answered, over real connections.

`convergence facilitator` in processes of its own, one alone or two on a redis-server, and nodes in this process, each
with a WebSocket of its own. A node asks one other after the other, as fast as it is answered, as often as it may in a
minute. With two facilitators, every second one that it asks is at the other one. All of it runs on this machine, so
CPU time says more than the rate; and what a busy machine is too slow for is refused, and told in the note.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.request import urlopen

from convergence.introduction.signalling import MAX_INTRODUCTIONS_PER_MINUTE
from convergence.wire.facilitator import Delivery, Hello, RecordCutter, RecordType, Register, Signal, encode_record
from convergence.wire.facilitator import register_statement as statement
from pynode.loop import run as run_loop
from tests.bench.cli import cpu
from tests.bench.lab import Figure
from tests.bench.population import SERVERS, describe, key_of
from tests.bench.supervise import step
from tests.e2e.processes import Command
from tests.interop.redis.server import RedisServer

T = TypeVar("T")

NODES = 800
ASKED = MAX_INTRODUCTIONS_PER_MINUTE - 2
SEALED = bytes(800)  # as long as an offer
TARGET = 5000.0  # a second, over two facilitators
LIMIT = 240.0  # seconds for one of the two
FREE = (
    "-c",
    "import convergence.facilitator.newcomers as it; it.FREE_A_MINUTE = 1e9; from pynode.cli import main; main()",
)
"""A facilitator at which newcomers pay nothing."""
SENT = (
    *(RecordType.HELLO, RecordType.REGISTERED, RecordType.DELIVER, RecordType.REPLY, RecordType.UNREACHABLE),
    RecordType.ERROR,
)


def run(tiny: bool = False) -> list[Figure]:
    nodes, asked = (8, 4) if tiny else (NODES, ASKED)
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step("introductions over one facilitator", LIMIT)
        with facilitator(folder / "alone") as alone:
            figures += measured("one facilitator", nodes, asked, [alone], None)
        step("introductions over two facilitators", LIMIT)
        with RedisServer(folder / "redis") as server, facilitator(folder / "one", server) as one:
            (folder / "two").mkdir(mode=0o700)
            shutil.copy(folder / "one" / "keys.json", folder / "two" / "keys.json")
            with facilitator(folder / "two", server) as two:
                assert server._server is not None
                store = server._server.process.pid
                figures += measured("two facilitators", nodes, asked, [one, two], store)
    return figures


class Facilitator(NamedTuple):
    pid: int
    port: int


@contextlib.contextmanager
def facilitator(folder: Path, server: RedisServer | None = None) -> Iterator[Facilitator]:
    settings = folder.with_suffix(".toml")
    settings.write_text("" if server is None else f'[facilitator]\nstore = "{server.address}"\n')
    options = ("--no-site", "--config", settings, "--data", folder, "--listen", "127.0.0.1:0")
    command = Command("facilitator", *options, program=FREE)
    try:
        site = command.until("ready")["site"]
        yield Facilitator(command.pid, int(site.rstrip("/").rpartition(":")[2]))
    finally:
        command.stop(signal.SIGKILL)


def measured(what: str, nodes: int, asked: int, at: list[Facilitator], store: int | None) -> list[Figure]:
    """Connect, register, and ask. `store`: the process of Redis."""
    every = [one.pid for one in at] + ([] if store is None else [store])
    spent: list[float] = []
    answered: list[int] = []

    async def scenario() -> float:
        crowd = [Node(_browser(number), at[number % len(at)].port) for number in range(nodes)]
        try:
            await asyncio.to_thread(_until_known, at, 0)
            for first in range(0, nodes, 50):
                await asyncio.gather(*(node.join() for node in crowd[first : first + 50]))
            await asyncio.to_thread(_until_known, at, nodes)
            before = [cpu(pid) for pid in every]
            started = time.monotonic()
            await asyncio.gather(*(node.ask_all(_others(crowd, number, asked)) for number, node in enumerate(crowd)))
            seconds = time.monotonic() - started
            spent.extend(cpu(pid) - was for pid, was in zip(every, before, strict=True))
            answered.extend(node.answers for node in crowd)
            return seconds
        finally:
            for node in crowd:
                node.close()

    seconds = _looped(scenario)
    count = sum(answered)
    each = [used / count * 1e6 for used in spent]
    own, note = sum(each[: len(at)]), f"{count:,} of {nodes * asked:,} answered, {nodes} nodes, all on this machine"
    figures = [
        Figure(f"introductions, {what}", count / seconds, "1/s", TARGET if store else None, note=note),
        Figure("the same, CPU of the facilitators, each", own, "us"),
        Figure("what their cores alone could do", len(at) * 1e6 / own if own else 0.0, "1/s"),
    ]
    if store is not None:
        figures.append(Figure("the same, CPU of Redis, each", each[-1], "us"))
    return figures


def _until_known(at: list[Facilitator], nodes: int) -> None:
    """All facilitators know each other, and so many nodes."""
    for one in at:
        while True:
            with urlopen(f"http://127.0.0.1:{one.port}/status.json", timeout=LIMIT) as answer:
                status = json.load(answer)
            shared = status.get("store", {"state": "shared"})["state"] == "shared"
            if shared and status["registered"] == nodes and len(status.get("facilitators", [None])) == len(at):
                break
            time.sleep(0.1)


def _browser(number: int) -> int:
    """The number in the population of one without an address: nobody dials it."""
    return number + number // (SERVERS - 1) + 1


def _others(crowd: list[Node], number: int, asked: int) -> list[bytes]:
    """Different ones for each, of all facilitators in turn, nobody by more than may ask him."""
    return [crowd[(number + 1 + at) % len(crowd)].identity for at in range(asked)]


def _looped(scenario: Callable[[], Awaitable[T]]) -> T:
    """What it gives, on the event loop that the command has."""
    results: list[T] = []

    async def main(stop: asyncio.Event) -> int:
        results.append(await scenario())
        return 0

    run_loop(main)
    return results[0]


class Node(asyncio.Protocol):
    """A browser: just as much of WebSocket as this needs."""

    def __init__(self, number: int, port: int) -> None:
        self.identity = bytes(key_of(number).verify_key)
        self.answers = self.refusals = 0
        self._number = number
        self._port = port
        self._held = b""
        self._cutter = RecordCutter(SENT)
        self._upgraded = False
        self._left: list[bytes] = []
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.WriteTransport | None = None

    async def join(self) -> None:
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._transport.write(
            b"GET /facilitator HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % self._port
        )
        await self._done

    async def ask_all(self, others: list[bytes]) -> None:
        self._done = asyncio.get_running_loop().create_future()
        self._left = others
        self._ask()
        await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._held += data
        if not self._upgraded:
            head, end, rest = self._held.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._upgraded, self._held = True, rest
        while (frame := self._frame()) is not None:
            kind, body = frame
            if kind == 9:
                self._write(10, body)
            elif kind == 2:
                for record, content in self._cutter.feed(body):
                    self._record(record, content)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self.refusals += len(self._left) + 1
            self._done.set_result(None)

    def _frame(self) -> tuple[int, bytes] | None:
        held = self._held
        if len(held) < 2:
            return None
        size, start = held[1] & 127, 2
        if size == 126:
            size, start = int.from_bytes(held[2:4], "big"), 4
        if len(held) < start + size:
            return None
        self._held = held[start + size :]
        return held[0] & 15, held[start : start + size]

    def _write(self, kind: int, body: bytes) -> None:
        """Masked with zeros, which changes nothing."""
        assert self._transport is not None
        size = bytes([128 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
        self._transport.write(bytes([128 | kind]) + size + bytes(4) + body)

    # -- records

    def _record(self, kind: RecordType, body: bytes) -> None:
        assert self._done is not None
        if kind is RecordType.HELLO:
            key = key_of(self._number)
            proof = key.sign(statement(Hello.parse(body))).signature
            self._say(RecordType.REGISTER, Register(proof, describe(self._number, time.time(), key)).encode())
        elif kind is RecordType.DELIVER:
            self._say(RecordType.REPLY, Delivery(Delivery.parse(body).tag, SEALED).encode())
        elif kind is RecordType.REPLY:
            self.answers += 1
            self._ask()
        elif kind is RecordType.UNREACHABLE:  # a busy machine: the store was too slow
            self.refusals += 1
            self._ask()
        elif kind is RecordType.REGISTERED:
            self._done.set_result(None)
        else:
            self._done.set_exception(AssertionError(f"{kind.name}: {body!r}"))

    def _ask(self) -> None:
        assert self._done is not None
        if self._left:
            tag = len(self._left)
            self._say(RecordType.SIGNAL, Signal(tag, self._left.pop(), SEALED).encode())
        elif not self._done.done():
            self._done.set_result(None)

    def _say(self, kind: RecordType, body: bytes) -> None:
        self._write(2, encode_record(kind, body))
