"""The steps of a build, as people see them: a line for each, and what its command prints in a log.

Does: say what is going on and how long it takes; keep the output of commands in build/logs; show the end of a log when
its command failed.
Does not: know any command.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "logs"
TAIL = 30
"""Lines of a log that are shown when its command failed."""


class BuildError(Exception):
    """Something is missing or failed; the message says what to do next."""


def step(text: str) -> None:
    """Say what is going on, at once."""
    print(f"==> {text}", flush=True)


def run(command: Sequence[str | Path], hint: str, log: str, doing: str = "", **options: Any) -> str:
    """Run a command in the tree's folder, as `logged` does. Returns what it printed.

    Raises:
        BuildError: it cannot start or failed; with `hint`, and where its log is, whose end is shown.
    """
    try:
        code, printed = logged(command, log, doing, **options)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error.strerror}. {hint}") from None
    if code:
        print(*(f"    {line}" for line in printed.splitlines()[-TAIL:]), sep="\n", file=sys.stderr, flush=True)
        raise BuildError(
            f"{Path(command[0]).name} ended with exit code {code}. {hint} All that it said is in {LOGS / log}.log"
        )
    return printed


def logged(command: Sequence[str | Path], log: str, doing: str = "", **options: Any) -> tuple[int, str]:
    """Run a command in the tree's folder, or in `cwd`, and keep what it prints.

    Args:
        log: the name of the file in build/logs, without its suffix.
        doing: what people are told while it runs, with the seconds that it takes; nothing for what is quick.
        options: for subprocess.Popen.

    Returns:
        Exit code, and what it printed.

    Raises:
        OSError: it cannot be started.
    """
    path = LOGS / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # another run may be writing its own
    began, live = time.monotonic(), sys.stdout.isatty()
    with path.open("w+b") as file:
        options = {"cwd": ROOT, **options, "stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([str(part) for part in command], **options)
        if doing:
            print(f"==> {doing}", end="", flush=True)
        try:
            while True:
                try:
                    code = process.wait(1 if live and doing else None)
                    break
                except subprocess.TimeoutExpired:
                    print(f"\r==> {doing}: {time.monotonic() - began:.0f} s", end="", flush=True)
        except BaseException:  # Ctrl-C, say
            process.kill()
            process.wait()
            raise
        finally:
            if doing:
                start = f"\r==> {doing}" if live else ""
                print(f"{start}: {time.monotonic() - began:.0f} s", flush=True)
        file.seek(0)
        return code, file.read().decode("utf-8", "replace")
