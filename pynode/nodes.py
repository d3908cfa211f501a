"""Nodes without a facilitator: descriptors as text, in files that people and programs pass on.

Does: read a file, or all files of a folder, when they changed; write a node's own; turn descriptors into text and back.
Does not: believe them: only what a node signed itself is taken over (netdir/nodes.py).

A line is one descriptor in base64; lines that begin with # and empty ones mean nothing. So such files are put together
by `cat`.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from convergence.netdir.nodes import MAX_RECALLED
from convergence.wire.descriptor import MAX_DESCRIPTOR

READ_EVERY = 5.0  # seconds between two looks at whether files changed; a node that lacks one looks at once
MAX_LINE = 4 * (MAX_DESCRIPTOR + 2) // 3  # characters of a descriptor
MAX_FILES = MAX_RECALLED  # of a folder, the first by name
MAX_BYTES = MAX_RECALLED * (MAX_LINE + 1)  # that are read in all

NodeSource = Callable[[], Iterable[bytes]]
"""Gives encoded descriptors: all that it knows, or those that are new. Called every READ_EVERY seconds."""

log = logging.getLogger("pynode.nodes")


def to_text(descriptor: bytes) -> str:
    return base64.b64encode(descriptor).decode()


def from_text(text: str) -> list[bytes]:
    """The descriptors in a text. What is none is left out: it costs its line only."""
    found = []
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#") and len(line) <= MAX_LINE:
            try:
                found.append(base64.b64decode(line, validate=True))
            except (binascii.Error, ValueError):
                pass
    return found[:MAX_RECALLED]


class NodeFiles:
    """A NodeSource: what is in these files and folders, once after each change. What cannot be read is left out, and
    the log tells."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen: object = None

    def __str__(self) -> str:
        return ", ".join(map(str, self._paths))

    def __call__(self) -> Sequence[bytes]:
        try:
            files = [file for path in self._paths for file in _files(path)]
            seen = [(file, (status := file.stat()).st_mtime_ns, status.st_size, status.st_ino) for file in files]
            if seen == self._seen:
                return ()
            self._seen = seen
            text, left = "", MAX_BYTES
            for file in files:
                with open(file, encoding="ascii", errors="replace") as lines:
                    text += (more := lines.read(left)) + "\n"
                left -= len(more)
            return from_text(text)
        except OSError as error:
            log.warning("cannot read the nodes in %s: %s", self, os.strerror(error.errno or 0))
            return ()


def _files(path: Path) -> list[Path]:
    """Hidden ones are files that are still written."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))[:MAX_FILES]


def write_descriptor(path: Path, descriptor: bytes) -> None:
    """Put a node's own descriptor into a file: whole, or not at all. Raises OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(to_text(descriptor) + "\n", encoding="ascii")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
