"""One pipe of the command over 2+2 hops and a point, at several distances, beside fixed windows.

Real processes on loopback; a forwarder before each relay delays what comes and goes (`tests/interop/delay.py`) and
limits it to RATE. The figures begin with the first byte, so the start of congestion control is in them.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.cli import PROGRAM, TRANSFER, WAIT, program, record
from tests.bench.lab import Figure
from tests.bench.pipes import NAME, server, swallowed
from tests.bench.supervise import step
from tests.e2e.processes import Command, running
from tests.interop.delay import Line, delayed

RATE = 50e6  # bytes/s of each line
RELAYS = 5
HOPS = 4  # 2 + 2
TARGET = 6.4  # MB/s at 0.3 s; fixed windows give 0.8 over the whole path in one piece
NEW = ("-m", "pynode")
OLD = (
    "-c",
    "import convergence.announcement as it; it.OFFERED = type(it.OFFERED)(0); from pynode.cli import main; main()",
)
"""Relays that know neither ntor-v3 nor congestion control: every circuit to them has fixed windows."""


def run(tiny: bool = False) -> list[Figure]:
    figures = []
    kinds = (("congestion control", NEW, 192 << 20), ("fixed windows", OLD, 32 << 20))
    for round_trip in (0.02,) if tiny else (0.0, 0.1, 0.3):
        for kind, relay, size in kinds[1:] if tiny else kinds:
            rate = pipe_rate(round_trip, 1 << 20 if tiny else size, relay)
            target = TARGET if relay is NEW and round_trip == 0.3 else None
            figures.append(Figure(f"pipe at {round_trip * 1000:.0f} ms, {kind}", rate, "MB/s", target))
    return figures


def pipe_rate(round_trip: float, size: int, relay: Sequence[str] = NEW) -> float:
    """MB/s of one `pipe` to one `serve`."""
    with tempfile.TemporaryDirectory() as name, server() as port:
        folder = Path(name)
        step(f"relays, {round_trip} s apart", WAIT)
        with far_network(folder, round_trip, relay) as site:
            options = ("--site", site)
            step("serve: its points", WAIT)
            with program("serve", NAME, "--to", f"127.0.0.1:{port}", *options, "--data", folder / "serve") as serving:
                record(serving, "serving")
                step("pipe: all bytes", TRANSFER)
                command = [*PROGRAM, "pipe", NAME, *options]
                pipe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                rate = swallowed(pipe, size)
                assert pipe.wait(WAIT) == 0, "the pipe broke"
                return rate


@contextlib.contextmanager
def far_network(folder: Path, round_trip: float, relay: Sequence[str] = NEW) -> Iterator[str]:
    """Relays, each behind a line of its own; yields the site.

    Args:
        round_trip: seconds, over HOPS lines.
    """
    page = folder / "page"
    page.mkdir()
    (page / "index.html").write_text("<title>Convergence</title>")  # nothing here opens the page
    with contextlib.ExitStack() as stack:
        facilitator = Command("facilitator", "--listen", "127.0.0.1:0", "--data", folder, "--dist", page, "--no-rtc")
        stack.callback(facilitator.stop)
        site: str = facilitator.until("ready")["site"]
        relays = []
        for number in range(RELAYS):
            port, delay = free_port(), round_trip / 2 / HOPS
            lines = Line(delay, RATE), Line(delay, RATE)
            before = stack.enter_context(delayed(("127.0.0.1", port), *lines))
            where = ("--listen", f"127.0.0.1:{port}", "--url", f"ws://127.0.0.1:{before}/", "--site", site)
            options = ("--data", folder / f"relay-{number}", "--no-rtc", "--parent-pipe")
            relays.append(stack.enter_context(running("relay", *where, *options, program=relay)))
        for command in relays:
            command.until("registered")
        for command in relays:
            command.say("refresh")
        for command in relays:
            command.until("nodes", lambda found: found["count"] >= RELAYS)
        yield site


def free_port() -> int:
    """Of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
