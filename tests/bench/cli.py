"""From command line to command line over 2+2 hops on loopback, beside raw TCP over loopback in the same run.

Real processes: `convergence up` (facilitator, site and five relays), `share` and `get`, with files on disk. The
figure is the whole of `get`: looking for the sharer, circuits, transfer, verification and storage.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.lab import RNG, Figure
from tests.bench.supervise import step

TARGET = 25.0  # MB/s
SIZE = 256 << 20
TINY = 1 << 20
ROUNDS = 3  # the best counts
WAIT = 120.0  # seconds for a process to do what is expected next
TRANSFER = 600.0  # seconds for one whole transfer
CHUNK = 1 << 18

PROGRAM = (sys.executable, "-m", "pynode")
TICK = os.sysconf("SC_CLK_TCK")


def run(tiny: bool = False) -> list[Figure]:
    size = TINY if tiny else SIZE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = make_file(folder / "file.bin", size)
        step("raw TCP on loopback", WAIT)
        raw = raw_tcp(4 * size)
        step("up: five relays and a site", WAIT)
        with network(folder) as state:
            site = state["site"]
            step("share: the link", WAIT)
            with program("share", folder / "file.bin", "--site", site, "--data", folder / "sharer") as share:
                link = record(share, "shared")["link"]
                sides = [share.pid, *(node["pid"] for node in state["nodes"])]
                rounds = [
                    fetch(folder / f"get-{number}", link, digest, sides) for number in range(1 if tiny else ROUNDS)
                ]
            step("the end of share", WAIT)
        step("the end of up", WAIT)
    return figures(min(rounds, key=lambda fetched: fetched.seconds), size, raw)


@dataclass(frozen=True, slots=True)
class Fetched:
    """One `get`. Times in seconds, the last three of CPU.

    Args:
        seconds: as `get` tells them, from its request to the verified file; `lifetime` is that of the process.
        used: by the sharer and by each relay; `own` by get, `machine` by all processes.
    """

    seconds: float
    lifetime: float
    first_piece: float
    used: list[float]
    own: float
    machine: float


def fetch(folder: Path, link: str, digest: str, sides: Sequence[int]) -> Fetched:
    step(f"get: the first piece, {folder.name}", WAIT)
    folder.mkdir()
    before, machine = [cpu(pid) for pid in sides], machine_cpu()
    started = time.monotonic()
    get = start("get", link, "-o", folder, "--data", folder / "data")
    while not record(get, "progress")["have"]:
        pass
    first_piece = time.monotonic() - started
    step(f"get: the whole file, {folder.name}", TRANSFER)
    done = record(get, "done")
    lifetime, machine = time.monotonic() - started, machine_cpu() - machine
    used = [cpu(pid) - was for pid, was in zip(sides, before, strict=True)]
    _, status, usage = os.wait4(get.pid, 0)
    get.returncode = os.waitstatus_to_exitcode(status)
    if get.returncode or sha256(Path(done["path"])) != digest:
        raise AssertionError("the file did not arrive as it was")
    shutil.rmtree(folder)
    return Fetched(done["seconds"], lifetime, first_piece, used, usage.ru_utime + usage.ru_stime, machine)


def figures(best: Fetched, size: int, raw: float) -> list[Figure]:
    rate, hundreds = size / 1e6 / best.seconds, size / 100e6
    share, *relays = best.used
    others = max(best.machine - sum(best.used) - best.own, 0.0) / (best.lifetime * (os.cpu_count() or 1))
    note = f"{size >> 20} MiB in {best.seconds:.1f} s"
    return [
        Figure("get, all in all", rate, "MB/s", TARGET, note=note),
        Figure("raw TCP on loopback", raw, "MB/s", note="one sender, one receiver, nothing done with it"),
        Figure("get / raw TCP", rate / raw, "ratio"),
        Figure("first piece after", best.first_piece, "s", note="start of Python, circuits and search included"),
        Figure("CPU of share", share / hundreds, "s/100 MB"),
        Figure("CPU of get", best.own / hundreds, "s/100 MB", note="whole process"),
        Figure("CPU of all relays", sum(relays) / hundreds, "s/100 MB"),
        Figure("CPU of the busiest relay", max(relays) / hundreds, "s/100 MB"),
        Figure("taken by other programs meanwhile", others * 100, "% of CPU", note="wants an idle machine"),
    ]


# Processes ------------------------------------------------------------------------------------------------------------


def start(command: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*PROGRAM, command, "--json", *map(str, arguments)], stdout=subprocess.PIPE, text=True)


@contextmanager
def program(command: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is told to end afterwards."""
    process = start(command, *arguments)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def network(folder: Path, *more: object) -> Iterator[dict[str, Any]]:
    """A network of five relays; yields what `up` says of it."""
    with program("up", "--port", 0, "--no-exit", "--no-rtc", "--data", folder / "network", *more) as up:
        yield record(up, "ready")


def record(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The next record of this kind; those before it are skipped. The step's deadline ends the wait."""
    assert process.stdout is not None
    for line in process.stdout:
        data: dict[str, Any] = json.loads(line)
        if data["event"] == event:
            return data
        if data["event"] == "error":
            raise AssertionError(data["message"])
    raise AssertionError(f"a process ended before it came to {event!r}")


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def machine_cpu() -> float:
    """CPU seconds of all processes so far: user, nice and system, interrupts included."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    return sum(int(fields[at]) for at in (0, 1, 2, 5, 6)) / TICK


# Files, and raw TCP ---------------------------------------------------------------------------------------------------


def make_file(path: Path, size: int) -> str:
    """Random bytes; returns their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(0, size, CHUNK):
            part = RNG.random(CHUNK)
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def raw_tcp(size: int) -> float:
    """MB/s from one process to another over loopback, in chunks of CHUNK bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        context = multiprocessing.get_context("spawn")
        sender = context.Process(target=send_all, args=(server.getsockname()[1], size))
        sender.start()
        connection, _ = server.accept()
        buffer = bytearray(CHUNK)
        received = 0
        started = time.monotonic()
        with connection:
            while received < size:
                received += connection.recv_into(buffer)
        seconds = time.monotonic() - started
        sender.join()
    return size / 1e6 / seconds


def send_all(port: int, size: int) -> None:
    part = RNG.random(CHUNK)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(0, size, CHUNK):
            connection.sendall(part)
