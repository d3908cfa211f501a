"""What peers can make a process keep: counted in bytes, over real sockets on the loopback."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from pynode.transports import HIGH_WATER, control, slices
from pynode.transports.connection import MAX_MESSAGE
from pynode.transports.control import MAX_CONTROL, PONG_ROOM
from pynode.transports.slices import READ_SLICE
from pynode.transports.unsent import LEAST_HIGH_WATER, REASON, Unsent
from pynode.transports.websocket import WebSocketTransport
from tests.unit.pynode.test_websocket import Raw, end, frame, listening, run
from tests.unit.pynode.toy import attach

__all__ = ["run"]  # the fixture: both event loops
PING = frame(9, bytes(125))
MESSAGE = frame(2, bytes(65278))


class Silent(Raw):
    """A client that never reads, and whose kernel takes as little as it can."""

    @classmethod
    async def connect(cls, port: int) -> Silent:
        tcp = socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tcp.setblocking(False)
        await asyncio.get_running_loop().sock_connect(tcp, ("127.0.0.1", port))
        raw = cls(*await asyncio.open_connection(sock=tcp, limit=4096))
        raw.writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await raw.reader.readuntil(b"\r\n\r\n")
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        return raw


def held(transport: WebSocketTransport, channel: int) -> int:
    return transport._sockets[channel].unsent


def test_pongs_do_not_pile_up(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CONTROL", 10**9)

    async def test() -> None:
        server = await listening()
        raw = await Silent.connect(server.port)
        for _ in range(40):
            raw.writer.write(PING * 1000)
            await raw.writer.drain()
        raw.writer.write(frame(2, b"the end"))
        await server.toy.until(lambda: server.toy.received.get(2))
        assert held(server.transport, 2) <= PONG_ROOM + len(PING)
        await end(server.transport)

    run(test)


def test_a_read_is_answered_with_one_pong_to_its_latest_ping(run: Any) -> None:
    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)
        raw.writer.write(b"".join(frame(9, b"%02d" % number) for number in range(20)))
        assert await raw.reader.readexactly(4) == b"\x8a\x02" + b"19"
        server.toy.send(2, b"next")
        assert await raw.reader.readexactly(6) == b"\x82\x04next"
        await end(server.transport)

    run(test)


@pytest.mark.parametrize("payload", [PING, frame(10, b""), frame(2, b""), frame(2, b"", fin=False)])
def test_a_flood_of_control_and_empty_frames_ends_the_connection(run: Any, payload: bytes) -> None:
    async def test() -> None:
        server = await listening()
        raw = await Raw.open(server.port)
        fragments = payload == frame(2, b"", fin=False)
        flood = payload + frame(0, b"", fin=False) * (MAX_CONTROL - 1) if fragments else payload * MAX_CONTROL
        raw.writer.write(flood)
        other = await Raw.open(server.port)
        other.writer.write(frame(2, b"honest"))
        await server.toy.until(lambda: server.toy.received.get(4) == b"honest")
        assert not server.toy.of("closed")
        raw.writer.write(frame(0, b"", fin=False) if fragments else payload)
        assert await server.toy.first("closed") == ("closed", 2, "too many control frames")
        assert len(server.toy.of("closed")) == 1
        await end(server.transport)

    run(test)


def test_a_read_hands_over_a_slice_and_others_have_their_turn(run: Any) -> None:
    async def test() -> None:
        server = await listening()
        raws = [await Raw.open(server.port) for _ in range(2)]
        for channel in (2, 4):
            server.toy.pause(channel, True)
        each = 60
        for raw in raws:  # what the kernel does not take waits in the client
            raw.writer.write(MESSAGE * each)
        await asyncio.sleep(0)
        for channel in (2, 4):
            server.toy.pause(channel, False)
        await server.toy.until(
            lambda: all(len(server.toy.received.get(channel, b"")) == each * 65278 for channel in (2, 4))
        )
        assert max(map(len, server.toy.messages)) <= READ_SLICE + MAX_MESSAGE  # and a message begun before
        await end(server.transport)

    run(test)


class Inner(asyncio.BufferedProtocol):
    """A library's protocol that has a lot of room."""

    def __init__(self) -> None:
        self.buffer = bytearray(8 << 20)
        self.sizes: list[int] = []

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.sizes.append(nbytes)


def test_full_reads_alternate_between_connections(run: Any) -> None:
    """libuv reads 32 times in a row where nobody stops it."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        order: list[int] = []
        total = [0, 0]
        done = asyncio.Event()
        ends = []

        class Counting(Inner):
            def __init__(self, number: int) -> None:
                super().__init__()
                self.number = number

            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                order.append(self.number)
                total[self.number] += nbytes
                if min(total) >= 16 * 1024:
                    done.set()

        for number in range(2):
            ours, theirs = socket.socketpair()
            for one in (ours, theirs):
                one.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            transport, _ = await loop.create_connection(lambda n=number: Counting(n), sock=ours)  # type: ignore[misc]
            ends.append((slices.Slices(transport), theirs, transport))
        for one, theirs, _ in ends:
            one.pause(True)
            assert theirs.send(bytes(64 * 1024)) == 64 * 1024
        for one, _, _ in ends:
            one.pause(False)
        await done.wait()
        changes = sum(a != b for a, b in zip(order, order[1:], strict=False))
        assert changes >= 3, order
        for _, theirs, transport in ends:
            transport.abort()
            theirs.close()

    saved, slices.READ_SLICE = slices.READ_SLICE, 4096
    try:
        run(test)
    finally:
        slices.READ_SLICE = saved


class Holder:
    """A connection of a count's test."""

    def __init__(self, counts: Unsent, bytes_held: int = 0) -> None:
        self.counts = counts
        self.unsent = bytes_held
        self.ended = False

    def overfull(self) -> None:
        self.ended = True
        self.unsent = 0

    def hold(self, amount: int) -> None:
        self.unsent = amount
        self.counts.note(self)


def test_who_holds_most_goes_when_all_hold_too_much() -> None:
    counts = Unsent(limit=800, each=10**6)
    holders = [Holder(counts) for _ in range(8)]
    for holder, amount in zip(holders, (10, 90, 200, 80, 300, 70, 40, 11), strict=True):
        holder.hold(amount)
    assert [holder.ended for holder in holders] == [index == 4 for index in range(8)]
    assert counts.total == 501


def test_what_was_sent_meanwhile_does_not_count() -> None:
    counts = Unsent(limit=800, each=10**6)
    first, second = Holder(counts), Holder(counts)
    first.hold(700)
    first.unsent = 0
    second.hold(700)
    assert not first.ended and not second.ended and counts.total == 700


def test_one_alone_may_not_hold_more_than_its_share() -> None:
    counts = Unsent(limit=10**6, each=1000)
    one = Holder(counts)
    one.hold(1000)
    assert not one.ended
    one.hold(1001)
    assert one.ended and counts.total == 0


def test_high_water_marks_together_stay_within_the_limit() -> None:
    counts = Unsent()
    assert counts.high_water == HIGH_WATER
    for _ in range(4096):
        Holder(counts).hold(0)
    assert counts.high_water == LEAST_HIGH_WATER


def test_links_that_do_not_read_hold_no_more_than_the_limit_and_honest_ones_stay(run: Any) -> None:
    async def test() -> None:
        limit = 4 << 20
        transport = WebSocketTransport(unsent=Unsent(limit))
        toy = attach(transport)
        port = await transport.listen("127.0.0.1", 0)
        raws = [await Silent.connect(port) for _ in range(12)]
        honest = await Raw.open(port)
        await toy.until(lambda: len(toy.of("opened")) == 13)
        channels = [entry[1] for entry in toy.of("opened")]
        peak = 0
        while not toy.of("closed"):
            for channel in channels[:-1]:
                if channel in transport._sockets:
                    toy.send(channel, *[bytes(65278)] * 8)
                held_now = sum(one.unsent for one in transport._sockets.values())
                peak = max(peak, held_now)
        assert peak <= limit
        assert {entry[2] for entry in toy.of("closed")} == {REASON}
        toy.send(channels[-1], b"still here")
        assert await honest.reader.readexactly(12) == b"\x82\x0astill here"
        assert raws
        await end(transport)

    run(test)


def test_a_rule_breaker_that_reads_nothing_is_cut(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be flushed to it does not wait for ever."""
    from pynode.transports import websocket

    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", 0.05)

    async def test() -> None:
        server = await listening()
        raw = await Silent.connect(server.port)
        while not server.toy.of("congested"):
            server.toy.send(2, bytes(65278))
        raw.writer.write(frame(1, b"a text"))
        await server.toy.first("closed")
        async with asyncio.timeout(20):
            while server.transport.connections:
                await asyncio.sleep(0.01)
        await end(server.transport)

    run(test)
