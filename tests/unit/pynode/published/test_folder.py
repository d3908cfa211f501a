"""A folder against its manifest, and the archive of it."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import brotli
import pytest

from pynode.published.archive import archive_name, pack, take_out
from pynode.published.folder import LOG, MANIFEST, RELEASE, differences, read_manifest, write_folder
from pynode.published.manifest import Manifest, Refused

FILES = {"index.html": b"<title>x</title>", "worker/worker.js": b"onmessage = null\n", "empty.css": b""}
MADE = Manifest.of(FILES, "0.1.0")


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    write_folder(folder, {**FILES, MANIFEST: MADE.encode(), RELEASE: b"{}", LOG: b""})
    return folder


def test_a_folder_is_as_its_manifest_says(dist: Path) -> None:
    published = read_manifest(dist)
    assert published.manifest == MADE and (published.release, published.log) == (b"{}", b"")
    assert differences(dist, MADE) == []


def test_what_differs_is_named(dist: Path) -> None:
    (dist / "worker" / "worker.js").write_bytes(b"onmessage = nulL\n")
    (dist / "empty.css").write_bytes(b"x" * 1000)
    (dist / "index.html").unlink()
    found = dict(differences(dist, MADE))
    assert set(found) == set(FILES)
    assert "SHA-256" in found["worker/worker.js"] and found["index.html"] == "is missing"
    assert found["empty.css"] == "is longer than it should be"


def test_packed_files_must_be_what_lies_beside_them(dist: Path) -> None:
    name = dist / "worker" / "worker.js"
    for ending, packer in ((".gz", gzip.compress), (".br", brotli.compress)):
        twin = name.with_name(f"worker.js{ending}")
        twin.write_bytes(packer(FILES["worker/worker.js"]))
        assert differences(dist, MADE) == []
        for bad in (packer(b"onmessage = nulL\n"), b"garbage", packer(bytes(1000))):
            twin.write_bytes(bad)
            assert [found for found, _ in differences(dist, MADE)] == [f"worker/worker.js{ending}"]
        twin.unlink()


def test_packed_documents_count_too(dist: Path) -> None:
    """A mirror would hand them to browsers, which take the packed one."""
    (dist / f"{MANIFEST}.br").write_bytes(brotli.compress(MADE.encode()))
    (dist / f"{RELEASE}.br").write_bytes(brotli.compress(b"{}"))
    assert differences(dist, MADE) == []
    (dist / f"{MANIFEST}.br").write_bytes(brotli.compress(b"{}"))
    (dist / f"{RELEASE}.br").write_bytes(brotli.compress(b"[]"))
    assert [name for name, _ in differences(dist, MADE)] == [f"{MANIFEST}.br", f"{RELEASE}.br"]


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds no manifest.json"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(Refused):
        read_manifest(tmp_path)


def test_writing_replaces_a_build_but_nothing_else(dist: Path, tmp_path: Path) -> None:
    write_folder(dist, {"index.html": b"new", MANIFEST: b"{}"})
    assert (dist / "index.html").read_bytes() == b"new" and not (dist / "worker").exists()
    home = tmp_path / "home"
    home.mkdir()
    write_folder(home, {MANIFEST: b"{}"})  # an empty one may be used
    (home / MANIFEST).rename(home / "letter.txt")
    with pytest.raises(FileExistsError):
        write_folder(home, FILES)
    assert (home / "letter.txt").exists() and sorted(tmp_path.iterdir()) == [dist, home]


# -- the archive


def archived(dist: Path) -> bytes:
    out = io.BytesIO()
    pack(dist, MADE, out)
    return out.getvalue()


def test_an_archive_is_the_same_every_time_and_holds_all(dist: Path) -> None:
    data = archived(dist)
    assert archived(dist) == data and archive_name(MADE) == f"convergence-0.1.0-{MADE.root[:16]}.code"
    assert take_out(io.BytesIO(data), MADE.root) == {**FILES, MANIFEST: MADE.encode(), RELEASE: b"{}"}


def test_any_byte_of_an_archive_that_differs_is_noticed(dist: Path) -> None:
    data = archived(dist)
    beside = data.index(b"{}")  # release.json proves itself: it is no part of what the root hash covers
    for at in range(len(data)):
        if beside - 4 <= at < beside + 6:
            continue
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(Refused):
            take_out(io.BytesIO(changed), MADE.root)


def test_archives_that_break_off_go_on_or_are_of_another_version(dist: Path) -> None:
    data = archived(dist)
    for end in range(len(data)):
        with pytest.raises(Refused):
            take_out(io.BytesIO(data[:end]), MADE.root)
    with pytest.raises(Refused, match="goes on"):
        take_out(io.BytesIO(data + b"x"), MADE.root)
    with pytest.raises(Refused, match="another version"):
        take_out(io.BytesIO(data), "00" * 32)
