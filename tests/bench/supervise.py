"""Runs a bench in a process of its own and watches it: no step waits for ever, and nothing outlives its bench.

Does: run a function in a child process; hear from it what it waits for and how long that may take; kill it, with all
that it started, when it has ended, is late, or nobody wants it any more; remove its temporary files.
Does not: know what a bench does, or end anything gently: what a bench starts, it starts for itself alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

START = 60.0
"""Seconds until a bench names its first step: it imports what it needs."""
DYING = 10.0
"""Seconds that the kernel gets to end what was killed."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)

_supervisor: Connection | None = None


class Failed(Exception):
    """The bench gave no result; the message says why."""


def step(name: str, seconds: float) -> None:
    """Say what the bench does from now on, and in how many seconds it must have come to its next step or its end.

    A bench that is late fails, and the message has `name`. Does nothing where no supervisor listens.
    """
    if _supervisor is not None:
        _supervisor.send(("step", name, seconds))


def supervised(bench: Callable[[], Any], on_step: Callable[[str], object], *, parent_pipe: bool = False) -> Any:
    """Run `bench` in a child process; returns what it returns, which must pickle.

    Args:
        on_step: called with the name of each step when it begins.
        parent_pipe: the bench also ends when our standard input does: whoever started us holds its other end.

    Raises:
        Failed: a step was late, or the bench raised something or died.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes our child, so that we find it
    ours, theirs = multiprocessing.Pipe(duplex=False)
    folder = tempfile.mkdtemp(prefix="convergence-bench-")
    child = multiprocessing.get_context("fork").Process(target=_child, args=(bench, theirs, folder, os.getpid()))
    child.start()
    theirs.close()
    try:
        return _watch(ours, on_step, [sys.stdin] if parent_pipe else [])
    finally:
        # No second signal may interrupt this.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        _end_all(folder)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, ()))
    for each in found:
        found += children.get(each, ())
    return found


def _watch(reports: Connection, on_step: Callable[[str], object], pipes: list[Any]) -> Any:
    name, seconds = "the start of the bench", START
    began = time.monotonic()
    while True:
        ready = wait([reports, *pipes], timeout=max(began + seconds - time.monotonic(), 0))
        if not ready:
            raise Failed(f"late: {name} was not over after {seconds:g} s")
        if reports not in ready:
            if not os.read(pipes[0].fileno(), 1024):
                raise Failed("ended, for its parent is gone")
            continue
        try:
            kind, *said = reports.recv()
        except EOFError:
            raise Failed(f"its process died during: {name}") from None
        match kind:
            case "step":
                name, seconds = said
                began = time.monotonic()
                on_step(name)
            case "failed":
                raise Failed(f"failed during: {name}\n{said[0]}")
            case "done":
                return said[0]


def _child(bench: Callable[[], Any], reports: Connection, folder: str, parent: int) -> None:
    global _supervisor
    _supervisor = reports
    os.setsid()  # Ctrl-C is for the supervisor alone

    def end(number: int, frame: FrameType | None) -> NoReturn:
        _end_all(folder)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    # The supervisor may be killed without a chance to do anything: then this process does its work.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        end(signal.SIGTERM, None)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        result = ("done", bench())
    except Exception:
        result = ("failed", traceback.format_exc())
    reports.send(result)


def _end_all(folder: str) -> None:
    """Kill all descendants of this process, and remove what they and the bench wrote into `folder`."""
    deadline = time.monotonic() + DYING
    while (found := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def _prctl(option: int, value: int) -> None:
    """Raises OSError."""
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
