"""What a command writes to the terminal.

Does: sentences and a progress line on standard error, results on standard output, JSON lines instead where asked for;
sizes and times as people write them.
Does not: pass on a control character of anything that came from the network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections import deque
from typing import Any, TextIO

from pynode.transports import printable

REDRAW = 0.1
"""Seconds between two states of a progress line on a terminal, and between two progress records of JSON."""
PLAIN_EVERY = 5.0
"""Seconds between two progress lines where standard error is no terminal."""
NO_READER = 141
"""Exit code, as of a program that SIGPIPE ended: nobody reads our standard output any more."""
RATE_WINDOW = 3.0
"""Seconds over which a speed is taken."""
MAX_SHOWN_NAME = 60
BAR = 24


class CliError(Exception):
    """Ends a command: a sentence that says what to do, and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Output:
    """Args:
    as_json: one JSON object a line on standard output, and no words on standard error.
    """

    def __init__(self, as_json: bool = False, *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._terminal = not as_json and self._err.isatty()
        self._drawn = 0
        # On a terminal a progress line is overwritten. Elsewhere it stays, so quick work gets none.
        self._last = 0.0 if self._terminal or as_json else time.monotonic()

    @property
    def width(self) -> int:
        """Columns of the terminal that results go to."""
        return shutil.get_terminal_size().columns if self._out.isatty() else 4096

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.as_json:
            self._clear()
            _write(self._err, shown(text, 2000) + "\n")

    def picture(self, text: str) -> None:
        """Lines for people, as they are."""
        if not self.as_json:
            self._clear()
            _write(self._err, text)

    def result(self, text: str) -> None:
        """A line of what the command was asked for."""
        if not self.as_json:
            self._clear()
            _write(self._out, shown(text, 4096) + "\n")

    def text(self, text: str) -> None:
        """Lines of our own, as they are."""
        _write(self._out, text)

    def record(self, event: str, **data: Any) -> None:
        """For programs: `{"event": ..., ...}`."""
        if self.as_json:
            _write(self._out, json.dumps({"event": event, **data}) + "\n")

    def progress(self, line: str, *, last: bool = False, **data: Any) -> None:
        """Show the progress: on a terminal over the line before, elsewhere now and then."""
        now = time.monotonic()
        if now - self._last < (REDRAW if self._terminal or self.as_json else PLAIN_EVERY) and not last:
            return
        self._last = now
        if self.as_json:
            self.record("progress", **data)
        elif self._terminal:
            line = shown(line, max(20, shutil.get_terminal_size().columns - 1))
            _write(self._err, "\r" + line.ljust(self._drawn) + ("\n" if last else ""))
            self._drawn = 0 if last else len(line)
        else:
            self.say(line)

    def _clear(self) -> None:
        if self._drawn:
            _write(self._err, "\r" + " " * self._drawn + "\r")
            self._drawn = 0


def _write(stream: TextIO, text: str) -> None:
    """Write. If the reader is gone, drop the text and let the command go on. Raises CliError for any other failure."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        discard(stream)
        if not isinstance(error, BrokenPipeError):
            raise CliError(f"The output cannot be written: {os.strerror(error.errno or 0)}.") from None


def discard(stream: TextIO) -> None:
    """It cannot be written: let the rest of its buffer go nowhere, which would fail again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Rate:
    """Bytes a second, over the last RATE_WINDOW seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, total: int) -> None:
        now = time.monotonic()
        self._marks.append((now, total))
        while self._marks[0][0] < now - RATE_WINDOW and len(self._marks) > 2:
            self._marks.popleft()

    @property
    def value(self) -> float:
        if len(self._marks) < 2:
            return 0.0
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return max(0, last - first) / max(end - start, 0.001)


def bar(name: str, have: int, size: int, speed: float) -> str:
    """`name  [#####---]  52%  16.8 of 32.0 MB  28.1 MB/s  0:03 left`."""
    part = have / size if size else 1.0
    drawn = "#" * int(part * BAR)
    line = f"{shown(name, 30)}  [{drawn.ljust(BAR, '-')}]  {part:4.0%}  {size_words(have)} of {size_words(size)}"
    if have < size and speed:
        line += f"  {size_words(speed)}/s  {time_words((size - have) / speed)} left"
    return line


def shown(text: str, limit: int = MAX_SHOWN_NAME) -> str:
    """Anything, as at most `limit` printable characters."""
    return printable(text if len(text) <= limit else text[: limit - 1] + "…", limit)


def sentence(text: str) -> str:
    """A clause from the core or a library, as a sentence. A first word that may be a name or an address is kept."""
    if re.match(r"(?!https?\b)[a-z']+[ ,]", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", "!", "/")) else f"{text}."


def size_words(size: float) -> str:
    """As file managers show it, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.95 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def time_words(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = int(min(seconds, 359_999))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def table(rows: list[list[str]], width: int = 4096) -> str:
    """Columns under the first row's headings; where they are wider than `width`, a block for each other row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if max(len(line.rstrip()) for line in lines) + 2 > width:
        first = max(map(len, rows[0]))
        blocks = ([f"{name.ljust(first)}  {cell}" for name, cell in zip(rows[0], row, strict=True)] for row in rows[1:])
        lines = [line for block in blocks for line in (*block, "")][:-1]
    return "\n".join(f"  {line}".rstrip() for line in lines)
