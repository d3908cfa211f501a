"""A folder against its manifest, and the archive of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest

from pynode.published.archive import LENGTH, MAGIC, archive_name, pack, take_out
from pynode.published.folder import check_target, differences, read_manifest, write_folder
from pynode.published.manifest import LOG, MANIFEST, NETWORK, RELEASE, Manifest, Refused

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
    with pytest.raises(Refused, match=f"no manifest.json in {tmp_path}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", [MANIFEST, RELEASE])
def test_what_cannot_be_read_is_named(dist: Path, name: str) -> None:
    path = dist / name
    for make, words in (
        (lambda: path.write_bytes(bytes(9 << 20)), "is longer"),
        (path.mkdir, "is no plain file"),
        (lambda: os.mkfifo(path), "is no plain file"),
    ):
        path.unlink() if path.is_file() else path.exists() and path.rmdir()
        make()
        with pytest.raises(Refused, match=f"{path} {words}"):
            read_manifest(dist)


def test_a_damaged_manifest_is_named(dist: Path) -> None:
    (dist / MANIFEST).write_text("{}")
    with pytest.raises(Refused, match=f"{dist / MANIFEST} is damaged .*not of format 2"):
        read_manifest(dist)


# -- writing

OTHER = Manifest.of({"index.html": b"new"}, "0.2.0")
NEW = {"index.html": b"new", MANIFEST: OTHER.encode()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writing_replaces_a_version_with_its_packed_files(dist: Path, tmp_path: Path) -> None:
    (dist / "index.html.br").write_bytes(brotli.compress(FILES["index.html"]))
    (dist / f"{MANIFEST}.gz").write_bytes(gzip.compress(MADE.encode()))
    write_folder(dist, NEW)
    assert contents(dist) == NEW and list(tmp_path.iterdir()) == [dist]


def test_writing_keeps_the_network_that_somebody_named(dist: Path) -> None:
    (dist / NETWORK).write_text("{}")
    write_folder(dist, NEW)
    assert contents(dist) == {**NEW, NETWORK: b"{}"}


def test_writing_may_use_an_empty_folder_and_goes_where_links_lead(dist: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(dist)
    for name in ("empty", "link", "new/one"):
        write_folder(tmp_path / name, NEW)
        assert contents(tmp_path / name) == NEW
    assert (tmp_path / "link").is_symlink() and contents(dist) == NEW


def test_writing_here_fills_this_folder(dist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dist)
    write_folder(Path("."), NEW)
    assert contents(dist) == NEW


def letter(dist: Path) -> None:
    (dist / "worker" / "letter.txt").write_text("mine")


def link_in_it(dist: Path) -> None:
    (dist / "letters").symlink_to(dist.parent)


def no_version(dist: Path) -> None:
    (dist / MANIFEST).write_text("{}")


@pytest.mark.parametrize(
    ("change", "words"),
    [(letter, "also holds worker/letter.txt"), (link_in_it, "also holds letters"), (no_version, "something else")],
)
def test_what_is_somebody_elses_is_not_replaced(dist: Path, change: Callable[[Path], None], words: str) -> None:
    change(dist)
    before = contents(dist)
    for refuses in (check_target, lambda target: write_folder(target, NEW)):
        with pytest.raises(Refused, match=words):
            refuses(dist)
    assert contents(dist) == before


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="something else"):
        check_target(tmp_path / "file")


def test_what_was_there_stays_when_the_new_cannot_take_its_place(dist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = contents(dist), Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="No space"):
        write_folder(dist, NEW)
    assert contents(dist) == before and list(dist.parent.iterdir()) == [dist]


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


def test_an_archive_without_a_manifest_is_none() -> None:
    empty = MAGIC + bytes(3 * LENGTH)
    with pytest.raises(Refused, match="no JSON"):
        take_out(io.BytesIO(empty), hashlib.sha256().hexdigest())
