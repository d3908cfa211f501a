"""A folder with what was published: dist/, as a build or a mirror wrote it.

Does: read its manifest; check every file against it, and the packed ones beside them; write such a folder whole.
Does not: treat files that the manifest does not list as part of the build, or delete them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pynode.published.log import MAX_LOG
from pynode.published.manifest import LOG, MANIFEST, MAX_MANIFEST, NETWORK, RELEASE, UNLISTED, Entry, Manifest, Refused
from pynode.published.packed import ENCODINGS, unpacked
from pynode.published.release import MAX_RELEASE

BESIDE = {MANIFEST: MAX_MANIFEST, RELEASE: MAX_RELEASE, LOG: MAX_LOG}
"""Documents beside the files that are not listed -> how many bytes each has at most."""
PACKED_EXTRA = 64 << 10
"""Bytes by which a packed file may be longer than the plain one."""


class Published(NamedTuple):
    """A manifest and what came beside it: release.json and releases.txt, None where there was none."""

    manifest: Manifest
    release: bytes | None = None
    log: bytes | None = None


def read_manifest(folder: Path) -> Published:
    """Read a folder's documents, but not its files. Raises Refused."""
    data: dict[str, bytes | None] = {}
    for name, limit in BESIDE.items():
        try:
            data[name] = _read(folder / name, limit)
        except Refused as error:
            raise Refused(f"the file {folder / name} {error}: build or fetch anew, or name another folder") from None
    if (manifest := data[MANIFEST]) is None:
        raise Refused(f"there is no {MANIFEST} in {folder}: run `python3 build.py build`, or name another folder")
    try:
        return Published(Manifest.parse(manifest), data[RELEASE], data[LOG])
    except Refused as error:
        raise Refused(f"the file {folder / MANIFEST} is damaged ({error}): build or fetch anew") from None


def differences(folder: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Each file that differs from the manifest, and how. A packed file beside a plain one is checked too."""
    found = []
    beside = {name: data for name in BESIDE if (data := _read(folder / name, BESIDE[name])) is not None}
    wanted = {**manifest.files, **{name: Entry.of(data) for name, data in beside.items()}}
    wanted[MANIFEST] = Entry.of(manifest.encode())
    for name, entry in wanted.items():
        for ending, encoding in (("", ""), *((ending, encoding) for encoding, ending in ENCODINGS.items())):
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


def check_target(target: Path) -> None:
    """Raises Refused unless `write_folder` may replace this: nothing, an empty folder, or one with a version in it and
    nothing else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        listed = read_manifest(target).manifest.files
    except Refused:
        raise Refused(f"{target} holds something else, not a copy of the code: name an empty or a new folder") from None
    plain = {*listed, *UNLISTED}
    known = plain | {name + ending for name in plain for ending in ENCODINGS.values()}
    for path in sorted(target.rglob("*")):
        if (path.is_symlink() or not path.is_dir()) and (name := path.relative_to(target).as_posix()) not in known:
            raise Refused(f"{target} also holds {name}, which is no part of a copy: move it, or name another folder")


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` in place of the folder `target`, which is never seen half written. The names must be a manifest's. A
    network.json in the folder stays.

    Raises:
        Refused: as `check_target` does.
        OSError: it cannot be written; the folder is as it was before.
    """
    target = target.resolve()  # a link to a folder keeps leading there
    check_target(target)
    if (network := target / NETWORK).is_file():
        files = {**files, NETWORK: network.read_bytes()}
    fresh, old = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    try:
        for name, data in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if replaces := target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if replaces:
                old.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _read(path: Path, limit: int) -> bytes | None:
    """At most `limit` bytes; None when there is no such file. Raises Refused."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise Refused("is no plain file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"cannot be read: {os.strerror(error.errno or 0)}") from None
    if len(data) > limit:
        raise Refused("is longer than it should be")
    return data
