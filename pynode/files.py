"""Files that appear whole or not at all.

Does: claim a free name, move, copy and join files into it, put a tree under it, write at a place, sync folders.
Does not: know what is in them.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from convergence.wire.manifest import saved_paths

CHUNK = 1 << 20  # bytes copied at once
MAX_NUMBER = 10_000  # up to which free names are looked for


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
    for number in range(MAX_NUMBER):
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


def save_tree(destination: Path, items: Sequence[tuple[str, Iterable[bytes] | None]]) -> tuple[Path, list[Path]]:
    """Put files and folders (None) at their paths in a new folder, under the first free name.

    The paths are a manifest's. All are written below a new folder that only we can enter, which then gets its name: no
    link leads out of it, and nothing that was there before is touched.

    Returns:
        the folder, and where each item is.
    """
    part = destination.with_name(f".{os.urandom(8).hex()}.part")
    part.mkdir(mode=0o700)
    try:
        names = saved_paths([path for path, _ in items], fold=_folds(part))
        for name, (_, data) in zip(names, items, strict=True):
            folder = part / name if data is None else (part / name).parent
            folder.mkdir(parents=True, exist_ok=True)
            if data is not None:
                with open(part / name, "xb") as writer:
                    writer.writelines(data)
        os.sync()  # once for all: a sync for each of many small files takes minutes
        target = _claim_folder(destination)
        os.chmod(part, target.stat().st_mode & 0o777)
        try:
            os.rename(part, target)  # an empty folder gives way
        except OSError:
            target.rmdir()
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(target.parent)
    return target, [target / name for name in names]


def _claim_folder(destination: Path) -> Path:
    for number in range(MAX_NUMBER):
        target = destination.with_name(f"{destination.name} ({number})") if number else destination
        try:
            target.mkdir()
        except FileExistsError:
            continue
        return target
    raise StorageError(f"{destination} and its numbered names are all taken")


def _folds(folder: Path) -> bool:
    """Whether the file system takes names for equal that differ in case."""
    probe = folder / "a"
    probe.touch()
    folds = (folder / "A").exists()
    probe.unlink()
    return folds


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
