"""Clock, timer and a process's run and end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pynode.loop import AsyncioClock, AsyncioTimer, run


def test_clock_tells_the_systems_time_and_what_passed_whatever_that_was_set_to() -> None:
    clock = AsyncioClock()
    assert abs(clock.now() - time.time()) < 5
    assert clock.elapsed is time.monotonic  # nobody can set it


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_main_to_stop(number: signal.Signals) -> None:
    async def main(stop: asyncio.Event) -> int:
        os.kill(os.getpid(), number)
        await stop.wait()
        return 7

    assert run(main) == 7


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    async def main(stop: asyncio.Event) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)  # told later than the other
        await stop.wait()
        await asyncio.sleep(0)
        return 0 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 1

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(main) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


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


CHILD = """
import asyncio, sys
sys.path[:0] = ["shared", "."]
from convergence import driver
from pynode.loop import AsyncioClock, AsyncioTimer
from tests.unit.pynode.toy import Toy

driver.HEARTBEAT, driver.LATE, driver.JUMP = 0.05, 0.5, 0.5

async def main():
    toy, clock = Toy(), AsyncioClock()
    timer = AsyncioTimer(clock)
    toy.deadline = lambda: 1e12
    toy.driver = driver.Driver(toy, None, clock, timer)
    timer.tick = toy.driver.tick
    toy.driver.tick()
    print("runs", flush=True)
    print("woke", (await toy.first("woke"))[1], flush=True)

asyncio.run(main())
"""


def child(*command: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen([*command, sys.executable, "-c", CHILD], cwd=root, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def test_a_process_that_was_stopped_is_told_for_how_long() -> None:
    process = child()
    assert said(process) == ["runs"]
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    while time.monotonic() - stopped < 1.0:  # what is measured here is time itself
        time.sleep(0.1)
    least = time.monotonic() - stopped
    process.send_signal(signal.SIGCONT)
    word, by = said(process)
    assert word == "woke" and least - 0.2 < float(by) < time.monotonic() - stopped
    assert process.wait(60) == 0


@pytest.mark.parametrize("by", [7200, -7200])
def test_a_clock_that_is_set_while_a_process_runs_is_told(tmp_path: Path, by: int) -> None:
    """libfaketime reads its file anew at each call."""
    rc = tmp_path / "faketimerc"
    rc.write_text("+0\n")
    # The wrapper's own FAKETIME would come before the file.
    fake = ("faketime", "-m", "--exclude-monotonic", "-f", "+0", "env", "-u", "FAKETIME")
    process = child(*fake, "FAKETIME_NO_CACHE=1", f"FAKETIME_TIMESTAMP_FILE={rc}")
    assert said(process) == ["runs"]
    part = tmp_path / "part"
    part.write_text(f"{by:+d}\n")
    os.replace(part, rc)
    word, measured = said(process)
    assert word == "woke" and abs(float(measured) - by) < 60
    assert process.wait(60) == 0
