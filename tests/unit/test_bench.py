"""What watches the benches, their targets, their command. That each of them runs: tests/e2e/test_benches.py."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.bench.lab import Figure

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "tests/bench/__main__.py")
PATIENCE = 180.0
"""Seconds; they only end a hung test."""

# A program whose bench starts a process that loses its parent, writes a file, and does what the first argument says.
PROGRAM = """
import os, signal, subprocess, sys, tempfile, time
from tests.bench.supervise import Failed, step, supervised

def bench():
    step("a process without a parent", 60)
    subprocess.run("setsid sleep 600 &", shell=True, check=True)
    step(tempfile.NamedTemporaryFile(delete=False).name, 60)
    step("an answer of somebody who is silent", 0.3 if sys.argv[1] == "late" else 600)
    match sys.argv[1]:
        case "fine":
            return [1, 2]
        case "raises":
            raise ValueError("no such thing")
        case "dies":
            os._exit(0)
    time.sleep(600)

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
try:
    print(supervised(bench, lambda name: print(name, flush=True), parent_pipe=True))
except Failed as error:
    sys.exit(str(error))
"""


class Started:
    """A program in the tree's folder; `family` is all that came from it, whoever the parent is by now."""

    def __init__(self, *command: str) -> None:
        self._mark = f"CONVERGENCE_TEST={uuid.uuid4()}"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}"}
        environment |= [self._mark.split("=")]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Kept from communicate(), which would close it: then the bench's parent is gone.
        self.input, self.process.stdin = self.process.stdin, None

    def family(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()  # empty once it is dead
                except OSError:
                    continue
                if self._mark.encode() in environment:
                    found.append(int(entry.name))
        return found

    def await_end(self) -> None:
        """Wait until nothing of it runs. Whoever has closed its output may still be on its way out."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                ended, _, _ = select.select([descriptor], [], [], PATIENCE)
                os.close(descriptor)
                assert ended, f"process {pid} goes on"

    def until(self, text: str) -> list[str]:
        """Wait for a line with this text; returns it and all before it."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip())
            if text in line:
                return lines
        raise AssertionError(f"it ended without {text!r}: {lines} {self.process.communicate()}")

    def over(self) -> tuple[int, str, str]:
        """Wait until no process has its output open any more. Returns exit code, the rest of the output, and errors."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextmanager
def started(*command: str) -> Iterator[Started]:
    program = Started(*command)
    try:
        yield program
    finally:
        for pid in program.family():
            os.kill(pid, signal.SIGKILL)
        program.process.communicate()
        if program.input is not None:
            program.input.close()


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        ("fine", 0, ""),
        ("late", 1, "late: an answer of somebody who is silent was not over after 0.3 s"),
        ("raises", 1, "ValueError: no such thing"),
        ("raises", 1, "failed during: an answer of somebody who is silent"),
        ("dies", 1, "its process died during: an answer of somebody who is silent"),
    ],
)
def test_a_bench_ends_with_a_result_or_by_the_name_of_its_step(does: str, code: int, said: str) -> None:
    with started(sys.executable, "-c", PROGRAM, does) as program:
        _, file, _ = program.until("somebody who is silent")
        exit_code, out, err = program.over()
        assert exit_code == code
        assert out.strip() == ("[1, 2]" if does == "fine" else "")
        assert said in err
        program.await_end()
        assert not Path(file).parent.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, None])
def test_whoever_ends_a_bench_ends_all_that_it_started(end: signal.Signals | None) -> None:
    with started(sys.executable, "-c", PROGRAM, "waits") as program:
        _, file, _ = program.until("somebody who is silent")
        assert len(program.family()) >= 3 and Path(file).exists()
        if end is None:  # its parent is gone
            assert program.input is not None
            program.input.close()
        else:
            program.process.send_signal(end)
        exit_code, _, _ = program.over()
        assert exit_code != 0
        program.await_end()
        assert not Path(file).parent.exists()


def test_a_bench_that_is_ended_in_the_middle_leaves_no_node_behind(tmp_path: Path) -> None:
    with started(*COMMAND, "cli", "--tiny", "--steps", "--json", str(tmp_path / "figures.json")) as program:
        program.until("get: the first piece")
        assert len(program.family()) >= 9  # the command, the bench, up, five relays, share
        program.process.terminate()
        assert program.over()[0] == 128 + signal.SIGTERM
        program.await_end()
    assert not (tmp_path / "figures.json").exists()


def test_targets_are_judged_in_their_direction() -> None:
    assert Figure("speed", 2, "MB/s", target=1).met is True
    assert Figure("speed", 1, "MB/s", target=2).met is False
    assert Figure("time", 2, "s", target=1, at_most=True).met is False
    assert Figure("plain", 2, "s").met is None


def test_an_unknown_bench_is_named() -> None:
    result = subprocess.run([*COMMAND, "sundial"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert "sundial" in result.stderr
