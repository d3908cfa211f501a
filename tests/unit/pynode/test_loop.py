"""Clock, timer and a process's run and end."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from pynode.loop import AsyncioClock, AsyncioTimer, run


def test_clock_tells_the_systems_time_and_what_passed_whatever_that_was_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = AsyncioClock()
    first = clock.elapsed()
    assert abs(clock.now() - time.time()) < 5
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() == 0.0 and 0 <= clock.elapsed() - first < 60


def test_timer_fires_once_at_its_last_deadline() -> None:
    async def test() -> None:
        clock = AsyncioClock()
        timer = AsyncioTimer(clock)
        fired = asyncio.Event()
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1
            fired.set()

        timer.tick = tick
        timer.arm(clock.now() - 5)
        timer.arm(None)
        timer.arm(clock.now() + 3600)
        timer.arm(clock.now() + 0.01)
        await fired.wait()
        await asyncio.sleep(0)
        assert count == 1

    asyncio.run(test())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_main_to_stop(number: signal.Signals) -> None:
    async def main(stop: asyncio.Event) -> int:
        os.kill(os.getpid(), number)
        await stop.wait()
        return 7

    assert run(main) == 7


def test_a_second_signal_cancels_main() -> None:
    cleaned = []

    async def main(stop: asyncio.Event) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)
        return 0

    assert run(main) == 130 and cleaned


def test_runs_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)

    async def main(stop: asyncio.Event) -> int:
        assert "uvloop" not in type(asyncio.get_running_loop()).__module__
        return 3

    assert run(main) == 3
