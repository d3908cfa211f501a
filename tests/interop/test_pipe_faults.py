"""What goes wrong at the ends of a pipe: nobody is there, a program dies, one never reads, one never ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ENVIRONMENT, MIB, PATIENCE
from tests.interop.programs import Memory, child, free_port, gone
from tests.interop.ways import Way
from tests.namespace import program

QUIET = 1.0
"""Seconds without progress after which a writer is taken to be held up. Too few weaken a test and never fail it."""
YES = b"y\n"

TALKER = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
os.rename(sys.argv[1], sys.argv[2])
while True:
    os.write(1, b"y\\n" * 4096)
"""
"""A program that tells its process id in a file, then writes for ever."""


def run(command: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=given, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)


def piping(command: list[str], **options: Any) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """A pipe whose ends are ours, but for those in `options`."""
    return child(command, **{**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), **options})


def talker(folder: Path) -> tuple[list[str], Path]:
    """TALKER's command line, and the file in which it tells its process id."""
    file = folder / "pid"
    return [sys.executable, "-c", TALKER, str(folder / "pid.new"), str(file)], file


def chunk(descriptor: int) -> bytes:
    """What can be read next; nothing at the end."""
    assert select.select([descriptor], [], [], PATIENCE)[0], "neither a byte nor the end in time"
    return os.read(descriptor, 1 << 16)


def read(descriptor: int, size: int) -> int:
    """Read that many bytes of YES, or to the end. Returns how many there were."""
    count = 0
    while count < size and (data := chunk(descriptor)):
        assert data.strip(YES) == b""
        count += len(data)
    return count


@pytest.mark.parametrize("what", ["pipe", "forward"])
def test_a_port_that_is_closed(way: Way, what: str) -> None:
    with way.to_port(free_port()) as service:
        refused(way, service.address, what)


@pytest.mark.parametrize("what", ["pipe", "forward"])
def test_a_service_that_nobody_offers(way: Way, what: str) -> None:
    refused(way, way.address("nobody"), what)


def refused(way: Way, address: str, what: str) -> None:
    """A pipe says so by its exit code and in words; a forwarded port has nothing to say it with but an end."""
    if what == "pipe":
        done = run(way.pipe(address), b"hello")
        assert done.returncode not in (0, 2) and done.stdout == b"", done
        assert done.stderr.strip() and b"Traceback" not in done.stderr
        return
    with way.forward(address) as (command, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
        assert command.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_that_dies_in_mid_stream(way: Way, tmp_path: Path, number: int) -> None:
    command, file = talker(tmp_path)
    with way.to_program(*command) as service, piping(service.pipe) as pipe:
        read(pipe.stdout.fileno(), MIB)
        os.kill(int(file.read_text()), number)
        read(pipe.stdout.fileno(), sys.maxsize)  # what was on its way, then the end
        assert pipe.wait(PATIENCE) != 0
        assert chunk(pipe.stderr.fileno()).strip()
        # The next connection is served as ever.
        file.unlink()
        with piping(service.pipe) as again:
            assert read(again.stdout.fileno(), MIB) >= MIB


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_provider_that_dies_in_mid_stream(way: Way, tmp_path: Path, number: int) -> None:
    """The program at its side ends as well: nobody is left to read what it writes."""
    command, file = talker(tmp_path)
    with way.to_program(*command) as service, piping(service.pipe) as pipe:
        read(pipe.stdout.fileno(), MIB)
        service.command.process.send_signal(number)
        read(pipe.stdout.fileno(), sys.maxsize)
        pipe.stdin.close()
        code = pipe.wait(PATIENCE)
        gone(int(file.read_text()))
    assert code != 0 or not way.tells_death


def test_a_reader_that_never_reads_stops_the_writer(way: Way) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        way.to_port(listening.getsockname()[1]) as service,
        piping(service.pipe) as pipe,
        Memory(service.command.pid, pipe.pid, *way.pids) as memory,
    ):
        listening.settimeout(PATIENCE)
        end, _ = listening.accept()
        with end:
            written, said, heard = 0, hashlib.sha256(), hashlib.sha256()
            os.set_blocking(pipe.stdin.fileno(), False)
            while written <= way.waiting and select.select([], [pipe.stdin], [], QUIET)[1]:
                data = os.urandom(4096)  # of which a pipe that can be written to takes all: PIPE_BUF
                written += os.write(pipe.stdin.fileno(), data)
                said.update(data)
            assert written <= way.waiting, "the writer is not held up"
            # Nothing is lost: once the reader reads, all arrives, and then the end.
            pipe.stdin.close()
            while data := chunk(end.fileno()):
                heard.update(data)
            assert heard.digest() == said.digest()
        assert pipe.wait(PATIENCE) == 0
    assert memory.below(way.ceiling), memory.peaks


def test_a_writer_that_never_ends_is_ended_by_its_reader(way: Way, tmp_path: Path) -> None:
    """`pipe | head`: when head has enough, the pipe and the program at its far end know."""
    command, file = talker(tmp_path)
    with way.to_program(*command) as service:
        with (
            piping(service.pipe) as pipe,
            Memory(service.command.pid, pipe.pid, *way.pids) as memory,
            piping([program("head"), "-c", str(64 * MIB)], stdin=pipe.stdout) as head,
        ):
            pipe.stdout.close()  # it is head's now
            assert read(head.stdout.fileno(), sys.maxsize) == 64 * MIB
            assert head.wait(PATIENCE) == 0
            pipe.wait(PATIENCE)  # although its input is still open
            gone(int(file.read_text()))
        assert service.command.process.poll() is None
    assert memory.below(way.ceiling), memory.peaks


def test_ten_thousand_writes_of_one_byte(way: Way) -> None:
    data = os.urandom(10_000)
    with way.to_program(program("cat")) as service, piping(service.pipe) as pipe:
        for byte in data:
            os.write(pipe.stdin.fileno(), bytes((byte,)))
        pipe.stdin.close()
        assert b"".join(iter(lambda: chunk(pipe.stdout.fileno()), b"")) == data
        assert pipe.wait(PATIENCE) == 0
