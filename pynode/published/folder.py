"""A folder with what was published: dist/, as a build or a mirror wrote it.

Does: read its manifest, check every file against it, the packed ones beside them too; write such a folder whole.
Does not: take anything that the manifest does not list for a part of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pynode.published.log import MAX_LOG
from pynode.published.manifest import MAX_MANIFEST, Entry, Manifest, Refused
from pynode.published.packed import ENCODINGS, unpacked
from pynode.published.release import MAX_RELEASE

MANIFEST, RELEASE, LOG = "manifest.json", "release.json", "releases.txt"
BESIDE = {MANIFEST: MAX_MANIFEST, RELEASE: MAX_RELEASE, LOG: MAX_LOG}
"""What lies beside the files without being listed, and how many bytes it has at most."""
PACKED_EXTRA = 64 << 10
"""Bytes by which a packed file may be longer than the plain one."""


class Published(NamedTuple):
    """A manifest and what came beside it: release.json and releases.txt, None where there was none."""

    manifest: Manifest
    release: bytes | None = None
    log: bytes | None = None


def read_manifest(folder: Path) -> Published:
    """Without a look at the files. Raises Refused."""
    data = {name: _read(folder / name, limit) for name, limit in BESIDE.items()}
    if (manifest := data[MANIFEST]) is None:
        raise Refused(f"{folder} holds no {MANIFEST}: run `python3 build.py build`, or name another folder")
    return Published(Manifest.parse(manifest), data[RELEASE], data[LOG])


def differences(folder: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Each file that is not what the manifest says, and how. Where a packed one lies beside a file, it counts too."""
    found = []
    beside = {name: data for name in BESIDE if (data := _read(folder / name, BESIDE[name])) is not None}
    wanted = {**manifest.files, **{name: Entry.of(data) for name, data in beside.items()}}
    wanted[MANIFEST] = Entry.of(manifest.encode())
    for name, entry in wanted.items():
        for ending, encoding in (("", ""), *((ending, encoding) for encoding, ending in ENCODINGS.items())):
            # A packed one that the manifest lists is a file of its own.
            if ending and name + ending in wanted:
                continue
            if why := _differs(folder / (name + ending), encoding, entry):
                found.append((name + ending, why))
    return found


def _differs(path: Path, encoding: str, entry: Entry) -> str:
    try:
        data = _read(path, entry.size + (PACKED_EXTRA if encoding else 0))
        if encoding:
            if data is None:
                return ""
            data = unpacked(encoding, data, entry.size)
        return differs(entry, data)
    except Refused as error:
        return str(error)


def differs(entry: Entry, data: bytes | None) -> str:
    """How a file differs from its entry; "" when it does not."""
    if data is None:
        return "is missing"
    return differs_by(entry, Entry.of(data))


def differs_by(entry: Entry, found: Entry) -> str:
    """How what was found differs from what should be; "" when it does not."""
    if found.size != entry.size:
        return f"differs: {found.size} bytes in place of {entry.size}"
    return "" if found == entry else f"differs: its SHA-256 is {found.sha256}, not {entry.sha256}"


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` in place of the folder `target`, which is never seen half written. The names must be a manifest's.

    Raises:
        OSError: it cannot be written, or `target` is a folder with something else in it (FileExistsError).
    """
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} holds something else")
    fresh, old = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    try:
        for name, data in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _read(path: Path, limit: int) -> bytes | None:
    """At most `limit` bytes; None when there is no such file. Raises Refused."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"cannot be read: {os.strerror(error.errno or 0)}") from None
    if len(data) > limit:
        raise Refused("is longer than it should be")
    return data
