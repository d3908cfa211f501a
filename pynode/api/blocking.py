"""The same for scripts without asyncio: a node in a thread of its own, and pipes that are files.

Does: run the node's event loop in a thread, make each call wait for it; give pipes as raw binary files, so that
`makefile`, `print`, `shutil.copyfileobj` and what else takes a file works.
Does not: add anything to what node.py and pipe.py do.

Any thread may call. A pipe may be read by one thread and written by another.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from convergence.errors import EndReason
from pynode.api.node import STAND_LIMIT, Node, Service, join
from pynode.api.pipe import MAX_ALL, Pipe
from pynode.loop import loop_factory

GONE = "the node does not run any more"
MAX_THREADS = 64  # connections that one service of this kind answers at once: a thread each

T = TypeVar("T")


class Caller:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._process = os.getpid()
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._thread = threading.Thread(target=self._main, name="convergence", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _main(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._ready.set()
            await self._stop.wait()

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
        for future in list(self._waiting):  # they came too late to be run, and would wait for ever
            future.cancel()

    def run(self, what: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Wait for its result. Raises TimeoutError; what waits for anything is cancelled then, as by Ctrl-C."""

        async def limited() -> T:
            async with asyncio.timeout(timeout):
                return await what

        wrong = GONE if self._loop.is_closed() else None
        if threading.current_thread() is self._thread:
            wrong = "the event loop's own thread must not wait for it: use the other form there"
        if os.getpid() != self._process:
            wrong = "the node runs in the process that this one was forked from: join in each process"
        if wrong is not None:
            what.close()
            raise RuntimeError(wrong)
        call = limited()
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        self._waiting.add(future)
        if self._loop.is_closed():
            future.cancel()
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            call.close()
            what.close()
            raise RuntimeError(GONE) from None
        except BaseException:
            future.cancel()
            raise
        finally:
            self._waiting.discard(future)

    def call(self, what: Callable[[], T]) -> T:
        async def called() -> T:
            return what()

        return self.run(called())

    def soon(self, what: Callable[[], object]) -> None:
        """Call this, without waiting for it; nothing if the loop has ended. Any thread may, as a collector of garbage
        does."""
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            pass

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class BlockingPipe(io.RawIOBase):
    """A connection as a raw binary file.

    Attributes:
        timeout: seconds that `read` and `write` may wait until they raise TimeoutError; None: for ever.
    """

    def __init__(self, caller: Caller, pipe: Pipe[bytes]) -> None:
        super().__init__()
        self.timeout: float | None = None
        self._caller = caller
        self._pipe = pipe

    @property
    def address(self) -> str:
        """What it leads to; empty at the end of who serves."""
        return self._pipe.address

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Raises PipeBroken, TimeoutError."""
        self._must_be_open()
        view = memoryview(buffer).cast("B")
        data = self._caller.run(self._pipe.read(len(view)), self.timeout)
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Up to the end, at most MAX_ALL bytes. Raises ValueError for more, PipeBroken, TimeoutError."""
        self._must_be_open()
        return self._caller.run(self._pipe.readall(MAX_ALL), self.timeout)

    def write(self, data: Any, /) -> int:
        """All of it. Raises PipeBroken, TimeoutError."""
        self._must_be_open()
        kept = bytes(data)
        self._caller.run(self._pipe.write(kept), self.timeout)
        return len(kept)

    def end(self) -> None:
        """We write no more; the far end may write on."""
        self._must_be_open()
        self._caller.call(self._pipe.end)

    def abort(self, code: int = EndReason.MISC) -> None:
        """Give up both ways now; the far end hears this code."""
        self._caller.call(lambda: self._pipe.abort(code))
        self.close()

    def close(self) -> None:
        """See Pipe.close; leaving `with` waits as `wait_closed` does."""
        if not self.closed:
            super().close()
            self._caller.soon(self._pipe.close)

    def wait_closed(self) -> None:
        """See Pipe.wait_closed. Raises TimeoutError."""
        self._caller.run(self._pipe.wait_closed(), self.timeout)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self.wait_closed()

    def makefile(self, mode: str = "rb", **options: Any) -> IO[Any]:
        """A buffered file like a socket's: "rb", "wb", "rwb", or in text mode "r", "w", "rw" with TextIOWrapper's
        options, such as encoding (utf-8 unless given). Flush what was written. It leaves the pipe open."""
        self._must_be_open()
        lent = _Lent(self)
        buffered: Any
        if "r" in mode and "w" in mode:
            buffered = io.BufferedRWPair(lent, lent)
        else:
            buffered = io.BufferedReader(lent) if "r" in mode else io.BufferedWriter(lent)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, **{"encoding": "utf-8", **options})

    def _must_be_open(self) -> None:
        if self.closed:
            raise ValueError("this pipe was closed")


class _Lent(io.RawIOBase):
    """The file under a buffered one, which ends with it and leaves the pipe open."""

    def __init__(self, pipe: BlockingPipe) -> None:
        super().__init__()
        self._pipe = pipe

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._pipe.readinto(buffer)

    def write(self, data: Any, /) -> int:
        return self._pipe.write(data)


class BlockingService:
    """A service that is offered; its attributes are those of Service."""

    def __init__(self, caller: Caller, service: Service, threads: concurrent.futures.ThreadPoolExecutor) -> None:
        self._caller = caller
        self._service = service
        self._threads = threads
        self.address = service.address
        self.host = service.host

    @property
    def points(self) -> int:
        return self._service.points

    @property
    def served(self) -> int:
        return self._service.served

    def close(self) -> None:
        """Withdraw it. Pipes of connections break; their handlers hear it when they use them."""
        self._caller.run(self._service.close())
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlockingNode:
    """See `join_sync`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._caller: Caller | None = None
        self._services: list[BlockingService] = []

    def __enter__(self) -> Self:
        """Join. Raises JoinError."""
        self._caller = caller = Caller()
        try:
            caller.run(self._node.__aenter__())
        except BaseException:
            caller.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        caller = self._running
        self._caller = None
        try:
            for service in self._services:
                service.close()
            caller.run(self._node.__aexit__(None, None, None))
        finally:
            caller.close()

    @property
    def _running(self) -> Caller:
        if self._caller is None:
            raise RuntimeError("the node does not run: use it within `with`")
        return self._caller

    def connect(self, address: str, *stages: Any, **options: Any) -> BlockingPipe:
        """See Node.connect. Stages have to end in bytes."""
        caller = self._running
        return BlockingPipe(caller, caller.run(self._node.connect(address, *stages, **options)))

    def serve(
        self,
        what: str | bytes | Path,
        handler: Callable[[BlockingPipe], object],
        *,
        most: int = MAX_THREADS,
        timeout: float = STAND_LIMIT,
    ) -> BlockingService:
        """See Node.serve; the handler is called in a thread for each connection."""
        caller = self._running
        threads = concurrent.futures.ThreadPoolExecutor(most, "convergence-serve")

        async def answer(pipe: Pipe[bytes]) -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(threads, handler, BlockingPipe(caller, pipe))

        service = caller.run(self._node.serve(what, answer, most=most, timeout=timeout))
        self._services.append(BlockingService(caller, service, threads))
        return self._services[-1]

    def nodes(self) -> list[str]:
        """See Node.nodes."""
        return self._running.call(self._node.nodes)


def join_sync(site: str | None = None, **options: Any) -> BlockingNode:
    """A node for `with`, in a thread of its own; arguments as for `join`."""
    return BlockingNode(join(site, **options))
