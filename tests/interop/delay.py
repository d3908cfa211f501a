"""A line with a delay and a limited rate between programs on loopback, for TCP.

Does: listen at a port and connect each client to a target; let bytes of either direction arrive `delay` seconds after
they were sent, and no faster than `rate`; take no more from a sender than the line and its queue hold.
Does not: lose, damage or reorder anything. What waits in the kernel's buffers is not counted, so they are kept small.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator

CHUNK = 1 << 16
FAST = 1e9
"""Bytes a second: more than Python forwards."""
QUEUE = 1 << 20
KERNEL = 1 << 18
"""Bytes of each socket's receive buffer."""


class Line:
    """One direction, shared by all connections: when what is sent now leaves and arrives. It keeps no bytes.

    Args:
        delay: seconds; may be set at any time.
        rate: bytes a second; may be set at any time.
        queue: bytes that may wait for their turn at the line's beginning.
    """

    def __init__(self, delay: float, rate: float = FAST, queue: int = QUEUE) -> None:
        self.delay = delay
        self.rate = rate
        self.queue = queue
        self._free = 0.0

    @property
    def capacity(self) -> int:
        """Bytes that it and its queue hold: of one connection, no more are kept."""
        return self.queue + int(self.rate * self.delay)

    def send(self, size: int, now: float) -> float:
        """When the last of these bytes arrives."""
        self._free = max(self._free, now) + size / self.rate
        return self._free + self.delay

    def room(self, now: float) -> float:
        """Seconds until the queue has room again; 0: it has."""
        return max(0.0, self._free - now - self.queue / self.rate)


class Delay:
    """A forwarder. To be used inside one event loop.

    Args:
        target: host and port to which each client is connected.

    Attributes:
        there, back: the lines from clients to the target, and the other way.
        port: where it listens, on 127.0.0.1, once `start` is done.
    """

    def __init__(self, target: tuple[str, int], there: Line, back: Line) -> None:
        self.there = there
        self.back = back
        self.port = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        listening = socket.create_server(("127.0.0.1", port), backlog=1024)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)  # accepted ones inherit it
        self._server = await asyncio.start_server(self._accepted, sock=listening, limit=CHUNK)
        self.port = listening.getsockname()[1]

    async def close(self) -> None:
        """Cut all connections, and end."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connected(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL)
            far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(far, self._target)
            far_reader, far_writer = await asyncio.open_connection(sock=far, limit=CHUNK)
            writers.append(far_writer)
            for end in writers:
                end.transport.set_write_buffer_limits(0)  # `drain` waits until the kernel has all
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_carry(reader, far_writer, self.there))
                ways.create_task(_carry(far_reader, writer, self.back))
        except* OSError:
            pass  # one end is gone: the other learns it below
        finally:
            for end in writers:
                end.transport.abort()


@contextlib.contextmanager
def delayed(target: tuple[str, int], there: Line, back: Line) -> Iterator[int]:
    """A Delay in a thread of its own. Yields its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    delay = Delay(target, there, back)
    try:
        asyncio.run_coroutine_threadsafe(delay.start(), loop).result()
        yield delay.port
    finally:
        asyncio.run_coroutine_threadsafe(delay.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
    """All bytes of one direction of one connection, then their end."""
    under_way: deque[tuple[float, bytes]] = deque()
    held = 0
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def deliver() -> None:
        nonlocal held
        while True:
            while not under_way:
                changed.clear()
                await changed.wait()
            arrival, data = under_way.popleft()
            await asyncio.sleep(arrival - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
            held -= len(data)
            changed.set()
        writer.write_eof()
        await writer.drain()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(deliver())
        while True:
            data = await reader.read(CHUNK)
            held += len(data)
            under_way.append((line.send(len(data), loop.time()), data))
            changed.set()
            if not data:
                break
            await asyncio.sleep(line.room(loop.time()))
            while held > line.capacity:
                changed.clear()
                await changed.wait()
