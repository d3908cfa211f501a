"""The line that tests put between programs: what arrives, when at the earliest, and what a sender is kept from."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time

import pytest

from tests.e2e.processes import MIB, PATIENCE
from tests.interop.delay import CHUNK, Line, _carry, delayed


def test_bytes_leave_one_after_the_other_and_arrive_after_the_delay() -> None:
    line = Line(delay=0.15, rate=1000.0, queue=500)
    assert line.send(100, now=10.0) == pytest.approx(10.25)
    assert line.send(100, now=10.0) == pytest.approx(10.35)  # waited for the first
    assert line.room(now=10.0) == 0
    line.send(400, now=10.0)
    assert line.room(now=10.0) == pytest.approx(0.1)  # 600 bytes wait, 500 may
    assert line.room(now=10.1) == pytest.approx(0)
    assert line.send(100, now=20.0) == pytest.approx(20.25)  # idle until then
    assert line.capacity == 650


def test_a_delay_that_is_set_anew_counts_for_what_comes() -> None:
    line = Line(delay=0.1, rate=1000.0)
    line.send(1, now=0.0)
    line.delay = 0.0
    assert line.send(99, now=5.0) == pytest.approx(5.099)


class Target:
    """Accepts connections on loopback."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(PATIENCE)
        self.address = self._listening.getsockname()

    def accept(self) -> socket.socket:
        accepted, _ = self._listening.accept()
        accepted.settimeout(PATIENCE)
        return accepted


def read(end: socket.socket) -> bytes:
    parts = []
    while part := end.recv(MIB):
        parts.append(part)
    return b"".join(parts)


def send(end: socket.socket, data: bytes) -> None:
    """In writes of any size, then the end of this direction."""
    sizes = random.Random(len(data))
    at = 0
    while at < len(data):
        at += end.send(data[at : at + sizes.randint(1, 3 * CHUNK)])
    end.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("line", [(0.0, 1e9), (0.02, 1e9), (0.02, 50e6)])
def test_all_bytes_of_both_directions_arrive_and_then_their_ends(line: tuple[float, float]) -> None:
    target, there, back = Target(), random.Random(1).randbytes(3 * MIB), random.Random(2).randbytes(5 * MIB)
    with delayed(target.address, Line(*line), Line(*line)) as port:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as near, target.accept() as far:
            senders = [threading.Thread(target=send, args=pair) for pair in ((near, there), (far, back))]
            for sender in senders:
                sender.start()
            received: dict[str, bytes] = {}
            reader = threading.Thread(target=lambda: received.update(there=read(far)))
            reader.start()
            assert read(near) == back
            for thread in (*senders, reader):
                thread.join(PATIENCE)
            assert received["there"] == there


def test_no_answer_comes_before_the_delay_of_both_ways() -> None:
    target = Target()
    with delayed(target.address, Line(0.1), Line(0.2)) as port:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as near, target.accept() as far:
            began = time.monotonic()
            near.sendall(b"?")
            assert far.recv(1) == b"?"
            assert time.monotonic() - began >= 0.1
            far.sendall(b"!")
            assert near.recv(1) == b"!"
            assert time.monotonic() - began >= 0.3


def test_two_connections_share_the_rate() -> None:
    """4 MB at 10 MB/s, whoever sends them."""
    target = Target()
    began = time.monotonic()
    with delayed(target.address, Line(0.0, 10e6), Line(0.0)) as port:
        readers = []
        for _ in range(2):
            near = socket.create_connection(("127.0.0.1", port), PATIENCE)
            threading.Thread(target=send, args=(near, bytes(2_000_000)), daemon=True).start()
            readers.append(threading.Thread(target=read, args=(target.accept(),)))
            readers[-1].start()
        for reader in readers:
            reader.join(PATIENCE)
            assert not reader.is_alive()
    assert time.monotonic() - began >= 0.4


def test_a_reader_that_does_not_read_stops_the_sender() -> None:
    class Writer:
        """Of which nothing is taken before `reading`."""

        def __init__(self) -> None:
            self.data = bytearray()
            self.reading = asyncio.Event()
            self.ended = False

        def write(self, data: bytes) -> None:
            self.data += data

        async def drain(self) -> None:
            await self.reading.wait()

        def write_eof(self) -> None:
            self.ended = True

    async def scenario() -> None:
        sent = random.Random(3).randbytes(4 * MIB)
        reader, writer = asyncio.StreamReader(), Writer()
        reader.feed_data(sent)
        reader.feed_eof()
        line = Line(0.0, queue=MIB)
        carrying = asyncio.ensure_future(_carry(reader, writer, line))  # type: ignore[arg-type]
        for _ in range(1000):
            await asyncio.sleep(0)
        left = len(reader._buffer)  # type: ignore[attr-defined]
        assert 0 <= len(sent) - left - line.capacity <= CHUNK
        writer.reading.set()
        await carrying
        assert writer.data == sent and writer.ended

    asyncio.run(scenario())
