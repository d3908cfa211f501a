"""The manifest of a collection: which files and folders it has, at the front of its bytes.

Does: parse and encode it, refuse paths that could leave a folder or clash, and name each entry for saving.
Does not: know where a file's bytes lie (ordb/collection.py).

A collection is one string of bytes: the manifest, then all files one after another in its order. To the rest of the
network it is a file like any other: small files share pieces, and one link, root and session serve them all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from convergence.codes import FileFlaw
from convergence.errors import ParseError, Problem
from convergence.ports import Buffer
from convergence.wire.filename import saved_name
from convergence.wire.ordb import MAX_MANIFEST, MAX_SIZE, MAX_TYPE
from convergence.wire.reader import Reader, utf8

MAX_ENTRIES = 50_000
"""Files and empty folders of one collection: some 20 MB in memory once they are parsed."""
MAX_PATH = 1024
"""Bytes of a path in UTF-8: the longest that every system takes (macOS)."""
MAX_DEPTH = 64
"""Parts of a path."""

_FILE, _FOLDER = 1, 2


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder with nothing in it.

    Args:
        path: its parts, joined by "/".
        size: bytes; None for a folder.
        media_type: as in a FileInfo; "" for a folder.
    """

    path: str
    size: int | None
    media_type: str = ""


def encode_manifest(entries: Iterable[Entry]) -> bytes:
    """In the order of paths, which is that of the files' bytes. Raises Problem if the result would not parse."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    if len(ordered) > MAX_ENTRIES:
        raise Problem(FileFlaw.MANY_ENTRIES, most=MAX_ENTRIES)
    try:
        data = len(ordered).to_bytes(4, "big") + b"".join(map(_encode_entry, ordered))
        parse_manifest(data)
    except (ParseError, UnicodeEncodeError, OverflowError, ValueError) as error:
        raise Problem(FileFlaw.NOT_DESCRIBED, detail=str(error)) from None
    return data


def parse_manifest(data: Buffer) -> tuple[Entry, ...]:
    """Paths ascend, so that none comes twice, and nothing lies in a file or in a folder that is said to be empty.

    Raises ParseError.
    """
    if len(data) > MAX_MANIFEST:
        raise ParseError("a manifest is too long")
    reader = Reader(data, "manifest")
    count = reader.unsigned(4)
    if count > MAX_ENTRIES:
        raise ParseError("a manifest has too many entries")
    entries = tuple(_read_entry(reader) for _ in range(count))
    reader.finish()
    folders: set[str] = set()
    before = ""
    for entry in entries:
        if entry.path <= before:
            raise ParseError("a manifest's paths are not in order")
        before = entry.path
        folder = entry.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    if any(entry.path in folders for entry in entries):
        raise ParseError("a manifest has something in what is no folder, or an empty one")
    return entries


def _encode_entry(entry: Entry) -> bytes:
    path = entry.path.encode()
    head = bytes([_FOLDER if entry.size is None else _FILE]) + len(path).to_bytes(2, "big") + path
    if entry.size is None:
        return head
    media_type = entry.media_type.encode("ascii")
    return head + entry.size.to_bytes(8, "big") + bytes([len(media_type)]) + media_type


def _read_entry(reader: Reader) -> Entry:
    kind, length = reader.unsigned(1), reader.unsigned(2)
    if kind not in (_FILE, _FOLDER) or length > MAX_PATH:
        raise ParseError("a manifest has an entry of unknown kind, or with too long a path")
    path = utf8(reader.take(length), "a manifest's path")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH or any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise ParseError("a manifest has a path that is none")
    if kind == _FOLDER:
        return Entry(path, None)
    size = reader.unsigned(8)
    media_type = utf8(reader.take(reader.unsigned(1)), "a manifest's type")
    if size > MAX_SIZE or len(media_type) > MAX_TYPE or (media_type and not _plain(media_type)):
        raise ParseError("a manifest has a file of an impossible size or type")
    return Entry(path, size, media_type)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def saved_paths(paths: Iterable[str], *, fold: bool = False) -> list[str]:
    """Where to save each path of a manifest: each part made harmless (filename.py) and given a number where two become
    one; so the tree stays as it is.

    Args:
        fold: the file system takes names for equal that differ in case or in the form of their accents.
    """
    saved = {"": ""}  # of each file and folder
    taken: dict[str, int] = {}  # and the next number to try
    return [_save(path, saved, taken, fold) for path in paths]


def _save(path: str, saved: dict[str, str], taken: dict[str, int], fold: bool) -> str:
    if path in saved:
        return saved[path]
    folder, _, name = path.rpartition("/")
    at = _save(folder, saved, taken, fold)
    stem, dot, ending = saved_name(name).rpartition(".")
    if not stem:
        stem, dot, ending = dot + ending, "", ""

    def numbered(number: int) -> tuple[str, str]:
        where = f"{at}/{stem}{f' ({number})' * bool(number)}{dot}{ending}".removeprefix("/")
        return where, unicodedata.normalize("NFC", where.casefold()) if fold else where

    plain = where, key = numbered(0)
    while key in taken:
        where, key = numbered(taken[plain[1]])
        taken[plain[1]] += 1
    taken[key] = 1
    saved[path] = where
    return where
