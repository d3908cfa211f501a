"""Logs that a person can read, or JSON lines for a machine.

Does: one line a record: time, level, node, message, key=value; turn the core's events into records.
Does not: decide what is worth an event, or write what people fetch and share. Events hold no keys and no
stream data; fields whose names sound like them are masked all the same.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from convergence.events import Event, as_json

MAX_VALUE = 300
"""Characters of one value or message that are written."""

WARNINGS = ("failed", "error", "refused", "lost", "dropped", "timeout", "trouble", "warning")
"""An event whose kind holds one of these words is a warning."""

_SECRET = ("secret", "psk", "seed", "private", "hash_name", "password")
_PERSONAL = ("url", "name", "link", "host", "root")
"""What people fetch and share. A field of one of these names is masked, like one whose name holds a word of
_SECRET."""

BUG_PAUSE = 60.0
"""Seconds in which a bug at one place is told once."""

MAX_BUGS = 20
"""Places that are told in that time."""

log = logging.getLogger("pynode.node")


def setup(node: str, level: str = "info", *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send this process's logs to `stream` (standard error), each line marked with the node's name.

    Raises:
        ValueError: `level` is none of debug, info, warning, error.
    """
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError(f'log level "{level}" is none of debug, info, warning, error')
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(node) if as_json else Lines(node))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pynode").setLevel(level.upper())


def log_event(event: Event) -> None:
    """The driver's `on_event`: a line for each event, `kind` as its message."""
    level = logging.WARNING if any(word in event.kind for word in WARNINGS) else logging.INFO
    data = as_json(event)
    if isinstance(why := data.get("why"), dict):
        data |= {**why, "why": why["code"]}
        del data["code"]
    log.log(level, "%s", event.kind.replace("_", " "), extra={"fields": data})


class Bugs:
    """The driver's `on_bug`: a line for each place in the code, limited each minute. The line names the place and not
    the exception's text, which may hold what somebody sent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}  # place -> when; MAX_BUGS

    def __call__(self, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
        now = self._clock()
        self._told = {known: when for known, when in self._told.items() if now - when < BUG_PAUSE}
        if place not in self._told and len(self._told) < MAX_BUGS:
            self._told[place] = now
            log.error("a bug: please report it", extra={"fields": {"type": type(error).__name__, "at": place}})


class Lines(logging.Formatter):
    """`12:00:00 info  relay-1  circuit built hops=2`, one line for each record, whatever it holds."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        words = [_one_line(record.getMessage())]
        words += [f"{key}={_value(key, value)}" for key, value in _fields(record).items()]
        line = f"{clock} {record.levelname.lower():7} {self._node}  {' '.join(words)}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class JsonLines(logging.Formatter):
    """One JSON object a line: time (Unix seconds), level, node, message, and the fields."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {key: _masked(key, value) for key, value in _fields(record).items()}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        entry |= {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "node": self._node,
            "message": record.getMessage(),
        }
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _masked(key: str, value: Any) -> Any:
    if key.lower() in _PERSONAL or any(word in key.lower() for word in _SECRET):
        return "***"
    return f"<{len(value)} bytes>" if isinstance(value, (bytes, bytearray, memoryview)) else value


def _value(key: str, value: Any) -> str:
    value = _masked(key, value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _one_line(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or "=" in text or '"' in text else text


def _one_line(text: str) -> str:
    """No control characters, so that nothing received can forge a line or drive a terminal."""
    cut = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
