"""Pipes of this machine, which the core's pipes are joined to.

Does: make a Duplex of a socket, of standard input and output, of a command. The reverse, an asyncio transport of a
Duplex, is in duplex_transport.py.
Does not: open circuits, or know addresses. All calls come from the event loop's thread.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from convergence.driver import Driver
from convergence.errors import EndReason
from convergence.pipes.duplex import Duplex, Handler, Onward, Pipe

HIGH_WATER = 256 * 1024  # bytes that wait to go out, above which a pipe is congested
LOW_WATER = 64 * 1024  # bytes, at which it is so no more
CHUNK = 64 * 1024  # bytes that are read at once
KILL_GRACE = 10.0  # seconds from SIGTERM to SIGKILL
EXIT_GRACE = 1.0  # seconds from the end of a command's output to its exit, in which it is not known how it ended
CODES: dict[type[OSError], EndReason] = {
    ConnectionRefusedError: EndReason.CONNECTREFUSED,
    FileNotFoundError: EndReason.CONNECTREFUSED,  # a unix socket that is not there
    BlockingIOError: EndReason.RESOURCELIMIT,  # as many commands run as may
    TimeoutError: EndReason.TIMEOUT,
    ConnectionResetError: EndReason.CONNRESET,
    BrokenPipeError: EndReason.CONNRESET,
}


def code_of(error: OSError | None) -> EndReason:
    """What the far end is told of a local failure."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), EndReason.MISC)


class _Local(Pipe):
    """What the pipes of this machine have in common: the user's side. What happens before `start` is told then."""

    def __init__(self, driver: Driver) -> None:
        self.handler: Handler | None = None
        self.congested = False
        self._driver = driver
        self._unused = 0  # bytes handed up and not consumed: while there are any, we read no more
        self._ended = self._heard_end = self._over = False
        # Before there is a handler. Event loops read a first time, however early they are told not to.
        self._early: list[Callable[[], None]] | None = []

    def start(self) -> None:
        """There is a handler: read from now on."""
        asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        early, self._early = self._early or [], None
        for event in early:
            event()
        self._read_on(self._unused <= 0)

    @property
    def closed(self) -> bool:
        return self._over or (self._ended and self._heard_end)

    def consumed(self, size: int, now: float) -> None:
        self._unused -= size
        self._read_on(self._unused <= 0)

    # -- what came, each an input of the core

    def _received(self, data: bytes) -> None:
        if self._waits(lambda: self._received(data)):
            self._read_on(False)
            return
        self._unused += len(data)
        self._tell(lambda handler, now: handler.data(data, now))
        self._read_on(self._unused <= 0)

    def _drained(self) -> None:
        self.congested = False
        if not self._waits(self._drained):
            self._tell(lambda handler, now: handler.drained(now))

    def _end_heard(self) -> None:
        if not self._waits(self._end_heard) and not self._heard_end and not self._over:
            self._heard_end = True
            self._tell(lambda handler, now: handler.ended(now))

    def _lost(self, code: int) -> None:
        if not self._waits(lambda: self._lost(code)) and not self._over:
            self._over = True
            self._tell(lambda handler, now: handler.aborted(code, now))

    def _waits(self, event: Callable[[], None]) -> bool:
        """Whether there is no handler yet: this pipe is not over before somebody was told."""
        if self._early is not None:
            self._early.append(event)
        return self._early is not None

    def _tell(self, call: Callable[[Handler, float], None]) -> None:
        if self.handler is not None:
            handler = self.handler
            self._driver.run(lambda now: call(handler, now))

    def _read_on(self, reading: bool) -> None:
        """Read, or do not."""
        raise NotImplementedError


class SocketPipe(_Local, asyncio.Protocol):
    """A stream socket as a Duplex: the protocol of an asyncio connection.

    Args:
        on_open: called once with this pipe.
        on_gone: called once after that, when the socket is closed.
    """

    def __init__(
        self,
        driver: Driver,
        on_open: Callable[[SocketPipe], None] = lambda pipe: None,
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(driver)
        self._on_open = on_open
        self._on_gone = on_gone
        self._transport: asyncio.Transport | None = None
        self._reading = False

    def write(self, data: bytes, now: float) -> None:
        if self._transport is not None and not self._ended and not self._over:
            self._transport.write(data)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        if self._transport is None or self._over:
            return
        if code != EndReason.DONE:
            self._reset()
            return
        if self._ended:
            return
        self._ended = True
        if self._heard_end:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()

    def _reset(self) -> None:
        """What was written goes out; then the socket is closed by a reset, the only way that TCP has to tell."""
        assert self._transport is not None
        self._over, self.handler = True, None
        connection = self._transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.close()

    def abort(self, code: int, now: float) -> None:
        self._over, self.handler = True, None
        if self._transport is None:
            return
        if code == EndReason.DONE:
            self._transport.close()
        else:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._hold()
        self._on_open(self)
        if not self._reading:  # uvloop starts to read once this method returns, even if it was paused
            asyncio.get_running_loop().call_soon(self._hold)

    def data_received(self, data: bytes) -> None:
        self._received(bytes(data))

    def eof_received(self) -> bool:
        self._end_heard()
        return not self._ended  # the transport stays open for what we still write

    def connection_lost(self, error: Exception | None) -> None:
        self._heard_end = True if self._ended else self._heard_end
        if not self.closed:
            self._lost(code_of(error if isinstance(error, OSError) else ConnectionResetError()))
        self._on_gone()

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self._drained()

    def _read_on(self, reading: bool) -> None:
        if reading is not self._reading:
            self._reading = reading
            self._hold()

    def _hold(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._heard_end:
            self._transport.resume_reading() if self._reading else self._transport.pause_reading()


class CommandPipe(_Local, asyncio.SubprocessProtocol):
    """A command as a Duplex: what is written goes to its standard input, what it prints comes out. Its standard error
    is this process's. It ends once its output has; when it fails it is given up, by MISC.

    Args:
        on_exit: called with its exit code.
    """

    def __init__(self, driver: Driver, on_exit: Callable[[int], None] = lambda code: None) -> None:
        super().__init__(driver)
        self._on_exit = on_exit
        self._process: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: asyncio.ReadTransport | None = None
        self._reading = False
        self._output_over = False
        self._exit_code: int | None = None

    async def launch(self, command: Sequence[str]) -> None:
        """Raises OSError when it cannot be started."""
        loop = asyncio.get_running_loop()
        await loop.subprocess_exec(
            lambda: self, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, start_new_session=True
        )

    def write(self, data: bytes, now: float) -> None:
        if self._stdin is not None and not self._ended and not self._over and not self._stdin.is_closing():
            self._stdin.write(data)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        if code != EndReason.DONE:
            self.abort(code, now)
        elif not self._ended:
            self._ended = True
            if self._stdin is not None:
                self._stdin.close()

    def abort(self, code: int, now: float) -> None:
        self._over, self.handler = True, None
        if self._exit_code is None or not self._output_over:  # what it started may have our pipe, and run on
            self._signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(KILL_GRACE, self._kill)
        for transport in (self._stdin, self._stdout):
            if transport is not None:
                transport.close()

    def _kill(self) -> None:
        if self._exit_code is None:  # else the number of its group may be another's by now
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """It has a process group of its own."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.get_pid(), number)

    # -- asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._process = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._process.get_pipe_transport(0))
        self._stdout = cast(asyncio.ReadTransport, self._process.get_pipe_transport(1))
        if not self._stdin.is_closing():  # it is when the command has closed it already
            self._stdin.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        if not self._stdout.is_closing():
            self._stdout.pause_reading()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._received(bytes(data))

    def pipe_connection_lost(self, fd: int, error: Exception | None) -> None:
        if fd == 1:
            self._output_over = True
            self._maybe_over()
            asyncio.get_running_loop().call_later(EXIT_GRACE, self._end_heard)
        elif not self._ended:  # the command closed its input: what is written on is lost
            self._ended = True
            self._drained()

    def process_exited(self) -> None:
        assert self._process is not None
        self._exit_code = self._process.get_returncode()
        self._on_exit(-1 if self._exit_code is None else self._exit_code)
        self._maybe_over()

    def _maybe_over(self) -> None:
        """How it ended is known when both its output and itself are over."""
        if not self._output_over or self._exit_code is None:
            return
        if self._exit_code and not self._heard_end:
            self._lost(EndReason.MISC)
        else:
            self._end_heard()

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self._drained()

    def _read_on(self, reading: bool) -> None:
        if reading is not self._reading and self._stdout is not None and not self._stdout.is_closing():
            self._reading = reading
            self._stdout.resume_reading() if reading else self._stdout.pause_reading()


class StdioPipe(_Local):
    """Two descriptors of this process, such as its standard input and output, as a Duplex.

    Two threads read and write: a descriptor may be a file, which no event loop can wait for, and O_NONBLOCK would
    change it for the other programs that have it too.

    Attributes:
        flushed: set once all that was written is out and the sink is closed, or takes no more (see `failure`).
    """

    def __init__(self, driver: Driver, source: int, sink: int) -> None:
        super().__init__(driver)
        self.flushed = asyncio.Event()
        self.failure: OSError | None = None  # why the sink takes no more
        self._loop = asyncio.get_running_loop()
        self._source, self._sink = source, sink
        self._may_read = threading.Event()
        self._queue: deque[bytes | None] = deque()  # None: close
        self._queued = 0
        self._filled = threading.Semaphore(0)

    def start(self) -> None:
        """There is a handler: read and write from now on."""
        super().start()
        threading.Thread(target=self._read, name="pipe-read", daemon=True).start()
        threading.Thread(target=self._write, name="pipe-write", daemon=True).start()

    def write(self, data: bytes, now: float) -> None:
        if self._ended or self._over:
            return
        self._queued += len(data)
        self._put(data)
        self.congested = self._queued > HIGH_WATER

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        if code != EndReason.DONE:
            self.abort(code, now)
        elif not self._ended:
            self._ended = True
            self._put(None)

    def abort(self, code: int, now: float) -> None:
        """What was written before still goes out: it came."""
        self._over, self.handler = True, None
        if not self._ended:
            self._ended = True
            self._put(None)

    # -- in the threads

    def _read(self) -> None:
        while True:
            self._may_read.wait()
            try:
                data = os.read(self._source, CHUNK)
            except OSError:
                data = b""
            self._call(self._came, data)
            if not data:
                return

    def _write(self) -> None:
        while True:
            self._filled.acquire()
            data = self._queue.popleft()
            if data is None:
                self._call(self._written_all)
                return
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._sink, view) :]
            except OSError as error:
                self._call(self._broken, error)
                return
            self._call(self._written, len(data))

    def _call(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            pass  # the loop has ended, and with it all that this was for

    # -- on the loop

    def _put(self, item: bytes | None) -> None:
        self._queue.append(item)
        self._filled.release()

    def _came(self, data: bytes) -> None:
        if not data:
            self._end_heard()
        elif not self._over:
            self._may_read.clear()
            self._received(data)

    def _written(self, size: int) -> None:
        self._queued -= size
        if self.congested and self._queued <= LOW_WATER:
            self._drained()

    def _written_all(self) -> None:
        try:
            os.close(self._sink)  # so that the next program of a shell's pipe sees the end now
        except OSError as error:  # of a network's file system, where a full disk may show only here
            self.failure = error
        self.flushed.set()

    def _broken(self, error: OSError) -> None:
        self.failure = error
        self._ended = True
        self._lost(EndReason.CONNRESET)
        self.flushed.set()

    def _read_on(self, reading: bool) -> None:
        self._may_read.set() if reading else self._may_read.clear()


class Watch(Onward[bytes]):
    """A side of a joint that counts, and tells when something ends.

    Args:
        on_change: (), from within the core, when the pipe it comes out of opened, drained, ended or was given up.

    Attributes:
        size: bytes that came out.
        code: why it was given up, else None.
    """

    def __init__(self, out_of: Duplex, into: Duplex, on_change: Callable[[], None]) -> None:
        super().__init__(out_of, into)
        self.size = 0
        self.is_open = self.heard_end = False
        self.code: int | None = None
        self._on_change = on_change

    def opened(self, now: float) -> None:
        super().opened(now)
        self.is_open = True
        self._on_change()

    def data(self, data: bytes, now: float) -> None:
        self.size += len(data)
        super().data(data, now)

    def drained(self, now: float) -> None:
        super().drained(now)
        self._on_change()

    def ended(self, now: float) -> None:
        super().ended(now)
        self.heard_end = True
        self._on_change()

    def aborted(self, code: int, now: float) -> None:
        super().aborted(code, now)
        self.code = code
        self._on_change()
