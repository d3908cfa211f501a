"""Everything published in one file, to pass on through the network.

Does: write a manifest, the documents beside it and its files one after another, so that equal files give equal bytes;
read them back, and verify each.
Does not: hold file names or sizes that a reader must believe: the manifest, and so the root hash, says what follows.

    magic (16 bytes) | length (4) and bytes of manifest.json, release.json, releases.txt | files, sorted by name

Lengths are big-endian; 0 stands for a document that is not there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from pynode.published.folder import BESIDE
from pynode.published.manifest import MANIFEST, MAX_ALL, Entry, Manifest, Refused

MAGIC = b"convergence-1\r\n\n"
LENGTH = 4
MAX_ARCHIVE = len(MAGIC) + LENGTH * len(BESIDE) + sum(BESIDE.values()) + MAX_ALL
"""Bytes."""


def archive_name(manifest: Manifest) -> str:
    """What the file is called."""
    return f"convergence-{manifest.version}-{manifest.root[:16]}.code"


def pack(folder: Path, manifest: Manifest, target: BinaryIO) -> None:
    """`folder` must have been compared with the manifest. Raises OSError."""
    target.write(MAGIC)
    for name in BESIDE:
        path = folder / name
        data = path.read_bytes() if path.is_file() else b""
        target.write(len(data).to_bytes(LENGTH, "big") + data)
    for name in sorted(manifest.files):
        target.write((folder / name).read_bytes())


def take_out(source: BinaryIO, root: str) -> dict[str, bytes]:
    """The files of the manifest with this root hash, and what lies beside them.

    Raises:
        Refused: it holds another version, or a byte differs.
        OSError: it cannot be read.
    """
    if source.read(len(MAGIC)) != MAGIC:
        raise Refused("this is not an archive of Convergence's code")
    files = {}
    for name, limit in BESIDE.items():
        length = int.from_bytes(source.read(LENGTH), "big")
        if length > limit:
            raise Refused(f"{name} in the archive is too long")
        if length:
            files[name] = source.read(length)
    listed = files.get(MANIFEST, b"")
    found = hashlib.sha256(listed).hexdigest()
    if found != root:
        raise Refused(f"the archive is of another version, with root hash {found}")
    manifest = Manifest.parse(listed)
    for name in sorted(manifest.files):
        entry = manifest.files[name]
        data = source.read(entry.size)
        if Entry.of(data) != entry:
            raise Refused(f"{name} in the archive differs from the list of files")
        files[name] = data
    if source.read(1):
        raise Refused("the archive goes on after its last file")
    return files
