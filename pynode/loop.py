"""The event loop's side of the ports: clock, timer, and how a node's process runs and ends.

Does: the system's clocks, the driver's one timer, uvloop where it is installed, as many descriptors as the system
gives, SIGINT, SIGTERM and SIGHUP.
Does not: know what runs.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from pynode.listening import raise_descriptor_limit


class AsyncioClock:
    """Implements ports.Clock. It is read at each wake-up, so there is no call in between."""

    now = staticmethod(time.time)
    elapsed = staticmethod(time.monotonic)


class AsyncioTimer:
    """Implements ports.Timer. Set `tick` (Driver.tick) before use."""

    tick: Callable[[], None]

    def __init__(self, clock: AsyncioClock) -> None:
        self._clock = clock
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, deadline: float | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if deadline is not None:
            delay = max(deadline - self._clock.now(), 0.0)
            self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self.tick()


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run `main(stop)` to its exit code. The first SIGINT, SIGTERM or SIGHUP (its terminal was closed) sets
    `stop`: main then has to shut down cleanly. A second signal cancels main. What nohup ignores stays ignored.

    Returns:
        What main returned; 130 when it had to be cancelled.
    """
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(_guarded(main))
        except (asyncio.CancelledError, KeyboardInterrupt):
            return 130


async def _guarded(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main(stop))

    def on_signal() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
