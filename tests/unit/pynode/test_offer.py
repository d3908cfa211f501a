"""What is offered under one link: files, folders, and what of them cannot be."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from convergence.codes import FileFlaw
from convergence.crypto.merkle import EMPTY_ROOT
from convergence.errors import LocalError, Problem
from convergence.ordb.collection import Collection
from convergence.wire.ordb import MAX_SIZE, PIECE_SIZE
from pynode import offer as module
from pynode.files import StorageError
from pynode.offer import Offer, collection_offer, file_offer, hash_offer
from pynode.segments import read_across

GOES_ON = threading.Event()


def ignore(done: int) -> None: ...


def listed(offer: Offer) -> list[tuple[str, int | None]]:
    """Its paths and sizes, as whoever fetches it sees them."""
    info, _ = hash_offer(offer, ignore, GOES_ON)
    manifest = offer.segments[0].read(0, info.manifest_size)
    return [(entry.path, entry.size) for entry in Collection.parse(info, manifest).entries]


def test_a_file_alone_is_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"x" * (PIECE_SIZE + 1))
    info, leaves = hash_offer(file_offer(path), ignore, GOES_ON)
    assert (info.name, info.media_type, info.size, len(leaves)) == ("notes.txt", "text/plain", PIECE_SIZE + 1, 64)
    assert info.manifest_size == 0
    path.write_bytes(b"")
    info, leaves = hash_offer(file_offer(path), ignore, GOES_ON)
    assert (info.root, leaves) == (EMPTY_ROOT, b"")


def test_a_folder_is_shared_with_its_tree(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "2024" / "may").mkdir(parents=True)
    (folder / "empty" / "inner").mkdir(parents=True)
    (folder / "2024" / "may" / "b.jpg").write_bytes(b"bb")
    (folder / "2024" / "a.jpg").write_bytes(b"a")
    (folder / "none").write_bytes(b"")
    offer = collection_offer([folder])
    assert offer.name == "photos" and offer.files == 3
    assert listed(offer) == [("2024/a.jpg", 1), ("2024/may/b.jpg", 2), ("empty/inner", None), ("none", 0)]
    start = offer.manifest_size
    places = [(0, offer.segments[0])]
    for segment in offer.segments[1:]:
        places.append((start, segment))
        start += segment.size
    assert read_across(places, offer.manifest_size, 3) == b"abb"


def test_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    assert listed(collection_offer([tmp_path / "void"])) == []


def test_several_things_keep_their_names_and_not_their_places(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "deep").write_bytes(b"1")
    (tmp_path / "file").write_bytes(b"22")
    offer = collection_offer([tmp_path / "file", tmp_path / "x"])
    assert offer.name == "file + 1" and listed(offer) == [("file", 2), ("x/deep", 1)]
    assert collection_offer([tmp_path / "file"], "named").name == "named"
    (tmp_path / "x" / "file").write_bytes(b"")
    with pytest.raises(Problem) as told:
        collection_offer([tmp_path / "file", tmp_path / "x" / "file"])
    assert told.value.why.code is FileFlaw.SAME_NAME and told.value.why.values == {"name": "file"}


def test_links_and_pipes_in_folders_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "kept").write_bytes(b"x")
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    offer = collection_offer([folder])
    assert listed(offer) == [("kept", 1)] and offer.left_out == 3


def test_names_that_are_no_text_are_made_text(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / os.fsdecode(b"a\xff.txt")
    path.write_bytes(b"x")
    assert file_offer(path).name == "a\ufffd.txt" and file_offer(path).renamed
    (folder / "c:\\boot.ini").write_bytes(b"xx")
    offer = collection_offer([folder])
    assert listed(offer) == [("a\ufffd.txt", 1), ("c:_boot.ini", 2)] and offer.renamed == 2


def test_reading_can_be_stopped_and_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TELL_EVERY", PIECE_SIZE)
    path = tmp_path / "a"
    path.write_bytes(bytes(2 * PIECE_SIZE + 1))
    told: list[int] = []
    hash_offer(file_offer(path), told.append, GOES_ON)
    assert told == [PIECE_SIZE, 2 * PIECE_SIZE]
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(LocalError):
        hash_offer(file_offer(path), told.append, stopped)


@pytest.mark.parametrize("data", [b"", b"shorter", b"same size", b"longer than it was"])
def test_a_file_that_changes_while_it_is_read_is_not_shared(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(b"nine byte")
    offer = collection_offer([tmp_path])
    (tmp_path / "a").write_bytes(data)
    os.utime(tmp_path / "a", ns=(1, 1))
    with pytest.raises(StorageError, match="a changed"):
        hash_offer(offer, ignore, GOES_ON)


def test_what_is_too_much_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(MAX_SIZE + 1)  # without a byte on the disk
    with pytest.raises(Problem) as told:
        hash_offer(file_offer(tmp_path / "large"), ignore, GOES_ON)
    assert told.value.why.code is FileFlaw.TOO_LARGE
    with pytest.raises(Problem):
        collection_offer([tmp_path])
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    for number in range(4):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
    with pytest.raises(Problem) as told:
        collection_offer([tmp_path / "many"])
    assert told.value.why.code is FileFlaw.MANY_ENTRIES


def test_a_folder_that_is_too_deep_is_named(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"x" * 600)
    deep.mkdir(parents=True)
    with pytest.raises(Problem) as told:
        collection_offer([tmp_path])
    assert told.value.why.code is FileFlaw.DEEP


def test_ten_thousand_small_files_are_forty_pieces(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number:05}.txt").write_bytes(b"%05d" % number * 200)
    offer = collection_offer([tmp_path])
    info, leaves = hash_offer(offer, ignore, GOES_ON)
    assert info.pieces <= 41 and len(leaves) == 32 * info.pieces
