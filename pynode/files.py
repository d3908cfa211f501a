"""Files that appear whole or not at all.

Does: claim a free name, move, copy and join files into it, write at a place, sync folders.
Does not: know what is in them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 20  # bytes copied at once


class StorageError(Exception):
    """The data folder cannot be used, or a file cannot be taken in or out. The message says what to do."""


def write_at(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def claim(destination: Path) -> Iterator[Path]:
    """An empty file under the first free name, claimed for us alone. It is removed when the body fails."""
    for number in range(10_000):
        target = destination if not number else destination.with_stem(f"{destination.stem} ({number})")
        try:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            continue
        try:
            yield target
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return
    raise StorageError(f"{destination} and its numbered names are all taken")


def move(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`; from another file system, by way of a copy."""
    mode = target.stat().st_mode  # with the rights that the user's umask gives
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy(source, target)
    os.chmod(target, mode & 0o777)


def copy(source: Path, target: Path) -> None:
    """Put a copy of `source` in the place of `target`."""
    with open(source, "rb", buffering=0) as reader:
        write_whole(target, iter(lambda: reader.read(CHUNK), b""))


def write_whole(target: Path, parts: Iterable[bytes]) -> None:
    """Put `parts`, joined, in the place of `target` once they are on the disk."""
    part = target.with_name(f".{os.urandom(8).hex()}.part")
    try:
        with open(part, "xb") as writer:
            writer.writelines(parts)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
