"""What goes wrong between the two ends, and in addresses: relays that die, exits that refuse, names of every kind.

Each is told by an exit code and in words; what had come until then is what the far program said, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergence.wire.address import MAX_NAME
from pynode.cli.pipe import BROKE
from tests.e2e.processes import MIB, PATIENCE, Network
from tests.interop.programs import child, gone
from tests.interop.test_pipe_faults import chunk, piping, run
from tests.interop.test_pipes import PipeEnd, write
from tests.interop.ways import OPEN_PORT, Way, through
from tests.interop.website import LARGE, Website
from tests.namespace import program

REFUSED = 1
"""Exit code of `pipe`: no connection."""
MISUSED = 2
LONG_WAIT = ("--wait", "60")
UNICODE = "Сатоси 中本 é 🙂"

COUNTER = """
import itertools, os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
for number in itertools.count():
    os.write(1, b"%s %015d\\n" % (sys.argv[2].encode(), number))
"""
"""A program that tells its process id in a file, then counts for ever, in lines of LINE bytes that begin with its
name."""
LINE = 21


@pytest.fixture
def way(network: Network, tmp_path: Path) -> Iterator[Way]:
    """Through relays that a test may kill."""
    yield through(network, tmp_path / "services")
    network.mend()


def counter(folder: Path, name: str) -> tuple[list[str], Path]:
    """Command line and file of COUNTER with a name of four letters."""
    return [sys.executable, "-c", COUNTER, str(folder / name), name], folder / name


class Heard:
    """What comes from a counter, which has to be all that it says, from its start."""

    def __init__(self, pipe: subprocess.Popen[bytes], name: str) -> None:
        assert pipe.stdout and pipe.stderr
        self.pipe = pipe
        self.lines = 0
        self._name = name.encode()
        self._rest = b""

    def more(self) -> bool:
        """Whether it goes on: read once."""
        assert self.pipe.stdout
        data = chunk(self.pipe.stdout.fileno())
        self._rest += data
        whole = len(self._rest) // LINE
        lines, self._rest = self._rest[: whole * LINE], self._rest[whole * LINE :]
        expected = (b"%s %015d\n" % (self._name, number) for number in range(self.lines, self.lines + whole))
        assert lines == b"".join(expected)
        self.lines += whole
        return bool(data)

    def upto(self, size: int) -> bool:
        """Whether it goes on for at least so many bytes more."""
        until = self.lines + size // LINE
        while self.lines < until:
            if not self.more():
                return False
        return True

    def broke(self) -> None:
        """It has ended: with a code, and in words."""
        assert self.pipe.stderr
        assert self.pipe.wait(PATIENCE) == BROKE
        said = self.pipe.stderr.read()
        assert said.strip() and b"Traceback" not in said


def test_relays_die_one_after_the_other(way: Way, network: Network, tmp_path: Path) -> None:
    """Whatever a relay is to a connection, middle or point, the connection goes on unharmed or ends with a code. With
    no relay left all have ended, and so have the programs at their far ends. Then the service is found again."""
    with contextlib.ExitStack() as stack:
        services, heard, files = [], [], []
        for name in ("east", "west"):
            command, file = counter(tmp_path, name)
            services.append(stack.enter_context(way.to_program(*command)))
            heard.append(Heard(stack.enter_context(piping(services[-1].pipe)), name))
            files.append(file)
        assert all(stream.upto(MIB) for stream in heard)
        order = list(network.relays)
        random.Random(len(order)).shuffle(order)
        left = list(heard)
        for relay in order:
            relay.kill()
            left = [stream for stream in left if stream.upto(4 * MIB)]
        assert not left
        for stream in heard:
            stream.broke()
        for file in files:
            gone(int(file.read_text()))
        network.mend()
        again = Heard(stack.enter_context(piping(way.pipe(services[0].address, *LONG_WAIT))), "east")
        assert again.upto(MIB)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_the_near_pipe_is_killed(way: Way, tmp_path: Path, number: int) -> None:
    """The program at its far end is ended, and the service serves on."""
    command, file = counter(tmp_path, "east")
    with way.to_program(*command) as service:
        for _ in range(2):
            with piping(service.pipe) as pipe:
                assert Heard(pipe, "east").upto(MIB)
                pipe.send_signal(number)
                assert pipe.wait(PATIENCE) == (130 if number == signal.SIGINT else -number)
                gone(int(file.read_text()))


def test_what_came_before_the_far_program_failed_arrives(way: Way) -> None:
    with way.to_program(program("sh"), "-c", "printf half; exit 7") as service:
        done = run(service.pipe)
    assert (done.returncode, done.stdout) == (BROKE, b"half") and done.stderr.strip()


def test_who_speaks_last_may_leave_at_once(way: Way) -> None:
    """All arrives although the pipe's process, and its circuit, are gone with its last byte."""
    data = os.urandom(MIB)
    with socket.create_server(("127.0.0.1", 0)) as listening, way.to_port(listening.getsockname()[1]) as service:
        listening.settimeout(PATIENCE)
        with child(service.pipe, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pipe:
            far, _ = listening.accept()
            with far:
                far.settimeout(PATIENCE)
                far.shutdown(socket.SHUT_WR)
                assert pipe.stdout and pipe.stdin and pipe.stdout.read() == b""
                write(PipeEnd(pipe), data)
                pipe.stdin.close()
                heard = b"".join(iter(lambda: far.recv(MIB), b""))
                assert heard == data
            assert pipe.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"tcp://127.0.0.1:{OPEN_PORT}", b"takes no connection"),  # an exit may, but nobody listens
        ("tcp://127.0.0.1:1", b"No exit allows this address"),
        ("tcp://no-such-host.invalid:80", b"no such host"),
    ],
)
def test_what_no_exit_reaches(way: Way, address: str, words: bytes) -> None:
    done = run(way.pipe(address), b"hello")
    assert (done.returncode, done.stdout) == (REFUSED, b"") and words in done.stderr


def test_the_answer_of_a_host_comes_although_our_input_has_ended(way: Way, website: Website) -> None:
    """Through an exit."""
    request = b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    done = run(way.pipe(f"tcp://127.0.0.1:{website.http}"), request)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"HTTP/1.1 200 OK") and done.stdout.endswith(LARGE)


def test_a_name_in_any_script(way: Way) -> None:
    """Also where two programs write the same characters in two ways."""
    with way.serve(f"hash:{unicodedata.normalize('NFC', UNICODE)}", "--", program("cat")):
        done = run(way.pipe(f"hash:{unicodedata.normalize('NFD', UNICODE)}"), UNICODE.encode())
    assert (done.returncode, done.stdout.decode()) == (0, UNICODE)


def test_the_longest_name(way: Way) -> None:
    address = "hash:" + "n" * MAX_NAME
    with way.serve(address, "--", program("cat")):
        assert run(way.pipe(address), b"hello").stdout == b"hello"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("pipe", name) for name in ("n" * 10_000, "名" * 10_000, "", "a\nb", "\udcff")),  # the last one is no UTF-8
        ("serve", "n" * 10_000),
        ("forward", "n" * 10_000),
    ],
)
def test_what_is_no_name_is_refused_in_words(way: Way, command: str, name: str) -> None:
    around = {"pipe": ((), ()), "serve": ((), ("--to", "127.0.0.1:1")), "forward": (("127.0.0.1:0",), ())}
    before, after = around[command]
    done = run(way.line(command, *before, f"hash:{name}", *after))
    assert (done.returncode, done.stdout) == (MISUSED, b"")
    said = done.stderr.decode()
    assert said.strip() and "Traceback" not in said and len(said) < 500
