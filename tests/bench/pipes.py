"""Pipes of the command over 2+2 hops and a point on loopback, beside ssh and plain TCP to the same machine in one run.

Real processes: `convergence up`, `serve --to`, `pipe` and `forward`; sshd where this user may run it. All ways lead to
one server, which swallows or echoes what comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.cli import CHUNK, PROGRAM, WAIT, cpu, fetch, make_file, network, program, record
from tests.bench.lab import RNG, Figure
from tests.bench.supervise import step

TRANSFER = 600.0  # seconds for all bytes of one way
PINGS = 1000
CONNECTIONS = 500
AT_ONCE = 20
HOPS = 4  # 2 + 2
NAME = "hash:bench"
SWALLOW, ECHO = b"s", b"e"  # what a connection's first byte asks of the server


def run(tiny: bool = False) -> list[Figure]:
    size, pings, connections = (1 << 20, 20, 20) if tiny else (256 << 20, PINGS, CONNECTIONS)
    with tempfile.TemporaryDirectory() as name, server() as port:
        folder = Path(name)
        step("up: five relays and a site", WAIT)
        with network(folder) as state:
            site = ("--site", state["site"])
            relays = [node["pid"] for node in state["nodes"]]
            files = file_transfer(folder, site, size, relays)
            step("serve: its points", WAIT)
            with program("serve", NAME, "--to", f"127.0.0.1:{port}", *site, "--data", folder / "serve") as serving:
                record(serving, "serving")
                return [
                    *throughput(site, port, size, [serving.pid, *relays], files, folder),
                    *through_forward(site, port, [serving.pid, *relays], pings, connections),
                ]


# What is measured -----------------------------------------------------------------------------------------------------


def file_transfer(folder: Path, site: tuple[str, str], size: int, relays: list[int]) -> float:
    """MB/s of `get`, in the same minutes."""
    step("share and get: a file, for comparison", TRANSFER)
    digest = make_file(folder / "file.bin", size)
    with program("share", folder / "file.bin", *site, "--data", folder / "sharer") as share:
        link = record(share, "shared")["link"]
        return size / 1e6 / fetch(folder / "get", link, digest, [share.pid, *relays]).seconds


def throughput(
    site: tuple[str, str], port: int, size: int, sides: list[int], files: float, folder: Path
) -> list[Figure]:
    step("pipe: all bytes", TRANSFER)
    before = [cpu(pid) for pid in sides]
    pipe = subprocess.Popen([*PROGRAM, "pipe", NAME, *site], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    rate = swallowed(pipe, size)
    _, status, usage = os.wait4(pipe.pid, 0)
    pipe.returncode = os.waitstatus_to_exitcode(status)
    assert pipe.returncode == 0, "the pipe broke"
    serve, *relays = (cpu(pid) - was for pid, was in zip(sides, before, strict=True))
    gigabytes = size / 1e9
    figures = [
        Figure("pipe, from the first byte", rate, "MB/s"),
        Figure("pipe / get of a file", rate / files, "ratio", 0.9, note=f"get: {files:.1f} MB/s"),
        Figure("CPU of pipe", (usage.ru_utime + usage.ru_stime) / gigabytes, "s/GB", note="whole process"),
        Figure("CPU of serve", serve / gigabytes, "s/GB"),
        Figure("CPU of all relays", sum(relays) / gigabytes, "s/GB"),
        Figure("CPU of the busiest relay", max(relays) / gigabytes, "s/GB"),
    ]
    step("plain TCP: all bytes", TRANSFER)
    with socket.create_connection(("127.0.0.1", port)) as direct:
        began = time.monotonic()
        direct.sendall(SWALLOW)
        for _ in range(0, size, CHUNK):
            direct.sendall(PART)
        direct.shutdown(socket.SHUT_WR)
        assert int(direct.makefile().read()) == size
        plain = size / 1e6 / (time.monotonic() - began)
    figures += [Figure("plain TCP", plain, "MB/s"), Figure("pipe / plain TCP", rate / plain, "ratio")]
    with ssh_command(folder) as ssh:
        if ssh is not None:
            step("ssh: all bytes", TRANSFER)
            beside = swallowed(
                subprocess.Popen([*ssh, "wc -c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE), size, b""
            )
            figures += [Figure("ssh", beside, "MB/s"), Figure("pipe / ssh", rate / beside, "ratio")]
            step("ssh: echoes", WAIT)
            with subprocess.Popen([*ssh, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
                assert process.stdin is not None and process.stdout is not None
                times = echoes(process.stdin.write, lambda: process.stdout.read(1), 100)  # type: ignore[union-attr]
                process.stdin.close()
            figures.append(Figure("1-byte echo by ssh, median", statistics.median(times) * 1e3, "ms"))
    return figures


def through_forward(site: tuple[str, str], port: int, sides: list[int], pings: int, connections: int) -> list[Figure]:
    step("forward: it listens", WAIT)
    with program("forward", "127.0.0.1:0", NAME, *site) as forward:
        local = record(forward, "listening")["port"]
        step("forward: echoes", WAIT)
        with socket.create_connection(("127.0.0.1", port)) as direct, dialled(local) as through:
            direct.sendall(ECHO)
            plain = sorted(echoes(direct.sendall, lambda: direct.recv(1), pings))
            times = sorted(echoes(through.sendall, lambda: through.recv(1), pings))
        median, late = statistics.median(times) * 1e3, times[len(times) * 99 // 100] * 1e3
        added = (median - statistics.median(plain) * 1e3) / HOPS
        step("forward: idle connections", TRANSFER)
        nodes = [forward.pid, *sides]
        before = [resident(pid) for pid in nodes]
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
            for connection in pool.map(dialled, [local] * connections):
                stack.enter_context(connection)
            grown = [(resident(pid) - was) / connections for pid, was in zip(nodes, before, strict=True)]
        step("forward: connections, one after another and some at once", TRANSFER)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            began = time.monotonic()
            list(pool.map(once, [local] * connections))
            rate = connections / (time.monotonic() - began)
    return [
        Figure("1-byte echo, median", median, "ms", note=f"plain TCP {statistics.median(plain) * 1e3:.2f} ms"),
        Figure("1-byte echo, 99 %", late, "ms"),
        Figure("1-byte echo, added by each hop", added, "ms", 2.0, at_most=True, note=f"{HOPS} hops"),
        Figure("new connections", rate, "/s", 100.0, note=f"each with an echo, {AT_ONCE} at once"),
        Figure("idle connection, at forward", grown[0] / 1e3, "kB", 20.0, at_most=True, note="resident memory"),
        Figure("idle connection, at serve", grown[1] / 1e3, "kB", 20.0, at_most=True),
        Figure("idle connection, at the worst relay", max(grown[2:]) / 1e3, "kB", 20.0, at_most=True),
    ]


# The ends -------------------------------------------------------------------------------------------------------------

PART = RNG.random(CHUNK)


def swallowed(process: subprocess.Popen[bytes], size: int, ask: bytes = SWALLOW) -> float:
    """MB/s of what a process carries from its input, from the first byte on. The far end says how much came."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(ask + PART)
    process.stdin.flush()
    began = time.monotonic()
    for _ in range(CHUNK, size, CHUNK):
        process.stdin.write(PART)
    process.stdin.close()
    assert int(process.stdout.read()) == size, "not all arrived"
    return size / 1e6 / (time.monotonic() - began)


def echoes(write: Callable[[bytes], object], read: Callable[[], bytes], count: int) -> list[float]:
    """Seconds of each of so many round trips of one byte; one more goes before."""
    times = []
    for _ in range(count + 1):
        began = time.perf_counter()
        write(b"x")
        assert read() == b"x"
        times.append(time.perf_counter() - began)
    return times[1:]


def dialled(port: int) -> socket.socket:
    """A connection that echoes, and has done so once."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(ECHO + b"x")
    assert connection.recv(1) == b"x"
    return connection


def once(port: int) -> None:
    dialled(port).close()


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def ssh_command(folder: Path) -> Iterator[list[str] | None]:
    """A command line that runs a command at an sshd of this machine; None where there can be none."""
    if os.geteuid() != 0:
        yield None
        return
    from tests.interop.openssh import HOST, OpenSsh

    keys = folder / "ssh"
    keys.mkdir()
    with OpenSsh(keys).running() as sshd:
        options = ["-o", "HostName=127.0.0.1", "-o", f"Port={sshd.port}", "-o", f"HostKeyAlias={HOST}"]
        yield [*sshd.client("none"), *options, HOST]


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The port of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


def serve(parent: object) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if await reader.read(1) == SWALLOW:
                size = 0
                while data := await reader.read(CHUNK):
                    size += len(data)
                writer.write(b"%d" % size)
            else:
                while data := await reader.read(CHUNK):
                    writer.write(data)
            writer.write_eof()
        writer.close()

    async def main() -> None:
        listening = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        parent.send(listening.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
        await listening.serve_forever()

    asyncio.run(main())
