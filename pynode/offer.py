"""What is offered under one link: a file, or files and folders as one collection.

Does: walk folders, name and order what is in them, hash it all in one reading.
Does not: share it, or follow links inside folders.
"""

from __future__ import annotations

import mimetypes
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from convergence.codes import FileFlaw
from convergence.errors import LocalError, Problem
from convergence.ordb.index import FileBuilder
from convergence.wire.manifest import MAX_DEPTH, MAX_ENTRIES, Entry, encode_manifest
from convergence.wire.ordb import MAX_SIZE, PIECE_SIZE, FileInfo, fit_name
from pynode.segments import Segment, cut

TELL_EVERY = 16 * PIECE_SIZE


@dataclass(frozen=True, slots=True)
class Offer:
    """What is shared under one link.

    Args:
        name: of the file, or of the folder that the collection becomes.
        segments: its bytes; those of a collection begin with its manifest.
        files: how many.
        manifest_size: 0 for a single file.
        renamed: names that are no UTF-8 or hold a backslash, and are shared with other characters in place of these.
        left_out: links, pipes and the like, of which folders are shared without.
    """

    name: str
    segments: Sequence[Segment]
    files: int = 1
    manifest_size: int = 0
    renamed: int = 0
    left_out: int = 0

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)


def file_offer(path: Path) -> Offer:
    """A file alone. Raises OSError."""
    name = _text(path.name)
    return Offer(name, [Segment.of(path)], renamed=os.fsencode(path.name) != name.encode())


def collection_offer(paths: Sequence[Path], name: str = "") -> Offer:
    """Several files and folders; of a lone folder what is in it.

    Args:
        name: by default a lone folder's, or the first one's and how many more there are.

    Raises:
        OSError: one cannot be read.
        Problem: they are too many, or two have the same name.
    """
    walk = _Walk()
    if len(paths) == 1 and paths[0].is_dir():
        walk.enter(paths[0], "")
    else:
        for path in paths:
            walk.take(path, "", path.stat())
    more = f" + {len(paths) - 1}" if len(paths) > 1 else ""
    manifest = encode_manifest(walk.entries.values())
    order = sorted(walk.files)  # as the manifest's
    return Offer(
        name or fit_name(_text(paths[0].name)) + more or "files",
        [Segment.own(manifest), *(walk.files[at] for at in order)],
        len(order),
        len(manifest),
        walk.renamed,
        walk.left_out,
    )


class _Walk:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.files: dict[str, Segment] = {}
        self.renamed = self.left_out = 0

    def enter(self, folder: Path, at: str) -> bool:
        """What is in a folder. Returns whether anything is."""
        before = len(self.entries)
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda item: item.name):
                self.take(Path(item.path), at, item.stat(follow_symlinks=False))
        return len(self.entries) > before

    def take(self, path: Path, folder: str, status: os.stat_result) -> None:
        name = _text(path.name).replace("\\", "_")
        self.renamed += os.fsencode(path.name) != name.encode()
        at = f"{folder}/{name}" if folder else name
        if at.count("/") >= MAX_DEPTH:
            raise Problem(FileFlaw.DEEP, name=at, most=MAX_DEPTH)
        if stat.S_ISDIR(status.st_mode):
            if not self.enter(path, at):
                self._add(Entry(at, None))
        elif stat.S_ISREG(status.st_mode):
            self._add(Entry(at, status.st_size, mimetypes.guess_type(name)[0] or ""))
            self.files[at] = Segment(status.st_size, path, status.st_mtime_ns)
        else:
            self.left_out += 1

    def _add(self, entry: Entry) -> None:
        if entry.path in self.entries:
            raise Problem(FileFlaw.SAME_NAME, name=entry.path)
        self.entries[entry.path] = entry
        if len(self.entries) > MAX_ENTRIES:
            raise Problem(FileFlaw.MANY_ENTRIES, most=MAX_ENTRIES)


def hash_offer(offer: Offer, tell: Callable[[int], None], cancelled: threading.Event) -> tuple[FileInfo, bytes]:
    """Read all of it once; runs in a thread. `tell` gets the bytes read so far.

    Raises:
        OSError, StorageError: it cannot be read, or changes meanwhile.
        LocalError: it is too large, or `cancelled` was set.
    """
    if offer.size > MAX_SIZE:
        raise Problem(FileFlaw.TOO_LARGE, most=MAX_SIZE)
    builder = FileBuilder()
    for piece in cut(offer.segments, PIECE_SIZE):
        builder.add(piece)
        if builder.size % TELL_EVERY == 0:
            tell(builder.size)
        if cancelled.is_set():
            raise LocalError("it was stopped")
    media_type = "" if offer.manifest_size else mimetypes.guess_type(offer.name)[0] or ""
    return builder.finish(offer.name, media_type, offer.manifest_size)


def _text(name: str) -> str:
    """A name that does not decode on this machine gets replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")
