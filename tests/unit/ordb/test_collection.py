"""Collections on their way: previews, choices, resuming, and senders whose manifests lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.codes import Dropped, TransferWhy
from convergence.effects import Failure
from convergence.errors import ParseError
from convergence.ordb.collection import Collection, manifest_pieces
from convergence.ordb.download import SOURCE_TIMEOUT
from convergence.ordb.phases import STORAGE_TIMEOUT, Phase
from convergence.wire.manifest import Entry, encode_manifest
from convergence.wire.ordb import PIECE_SIZE, FileInfo
from tests.unit.ordb.rig import Rig, serve_honestly
from tests.unit.wire.test_manifest import raw

ENTRIES = (
    Entry("a", 3 * PIECE_SIZE),
    Entry("b/1", 10),
    Entry("b/2", 0),
    Entry("b/empty", None),
    Entry("c", 2 * PIECE_SIZE + 5),
)


def rig_of(entries: Sequence[Entry] = ENTRIES, **options: Any) -> Rig:
    return Rig(sum(entry.size or 0 for entry in entries), manifest=encode_manifest(entries), **options)


def choosing(*numbers: int) -> Any:
    return lambda collection: numbers


# -- where files lie


def test_places_and_pieces() -> None:
    manifest = encode_manifest(ENTRIES)
    size = len(manifest)
    info = FileInfo(bytes(32), size + 5 * PIECE_SIZE + 15, "x", manifest_size=size)
    collection = Collection.parse(info, manifest)
    first = size + 3 * PIECE_SIZE
    assert collection.starts == [size, first, first + 10, first + 10, first + 10]
    assert [collection.span(number) for number in range(5)] == [(0, 4), (3, 1), (0, 0), (0, 0), (3, 3)]
    assert manifest_pieces(info).indexes() == [0]
    assert collection.pieces([]).indexes() == [0]
    assert collection.pieces([1, 2, 3]).indexes() == [0, 3]
    assert collection.pieces([4, 1]).indexes() == [0, 3, 4, 5]
    assert collection.pieces(range(5)).complete
    assert collection.size([1, 2, 3, 4]) == 2 * PIECE_SIZE + 15


@given(st.lists(st.none() | st.integers(0, 5000), max_size=30), st.randoms(use_true_random=False))
def test_chosen_pieces_hold_every_byte_that_was_chosen(sizes: list[int | None], random: Any) -> None:
    entries = [Entry(f"{number:02}", size) for number, size in enumerate(sizes)]
    manifest = encode_manifest(entries)
    size = len(manifest) + sum(size or 0 for size in sizes)
    info = FileInfo(bytes(32), size, "", piece_size=1024, manifest_size=len(manifest))
    collection = Collection.parse(info, manifest)
    chosen = [number for number in range(len(sizes)) if random.random() < 0.3]
    bytes_wanted = set(range(len(manifest)))
    for number in chosen:
        bytes_wanted |= set(range(collection.starts[number], collection.starts[number] + (sizes[number] or 0)))
    pieces = collection.pieces(chosen)
    assert set(pieces.indexes()) == {place // 1024 for place in bytes_wanted}
    assert all(collection.has(number, pieces) for number in chosen)


# -- fetching


@pytest.mark.parametrize("senders", [1, 3])
def test_a_collection_arrives_whole(senders: int) -> None:
    listed: list[Collection] = []
    rig = rig_of(senders=senders, on_listed=lambda collection, now: listed.append(collection))
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=6)
    assert [tuple(collection.entries) for collection in listed] == [ENTRIES]


def test_a_preview_fetches_the_manifest_and_nothing_else() -> None:
    many = [Entry(f"{number:05}{'x' * 100}", 100) for number in range(10_000)]
    rig = rig_of(many, choose=choosing())
    rig.connect()
    rig.world.run()
    manifest = -(-rig.file.info.manifest_size // PIECE_SIZE)
    assert 1 < manifest == rig.download.pieces_fetched < rig.file.info.pieces
    assert rig.download.phase is Phase.DONE and rig.download.collection is not None
    assert list(rig.download.collection.entries) == many
    assert rig.receiver.done[0].complete is False


def test_a_part_takes_only_its_pieces_and_the_rest_can_follow() -> None:
    rig = rig_of(choose=choosing(4))
    rig.connect()
    rig.world.run()
    assert rig.download.phase is Phase.DONE and rig.client.pieces(rig.file.info.root) == [0, 3, 4, 5]
    assert rig.receiver.progress[-1] == rig.download.have_bytes
    rig.options = {}
    rig.restart()
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=2)


def test_a_part_goes_on_after_a_restart() -> None:
    rig = rig_of(choose=choosing(0))
    rig.connect()
    rig.world.run_until(lambda: len(rig.client.pieces(rig.file.info.root)) >= 2)
    had = len(rig.client.pieces(rig.file.info.root))
    rig.restart()
    rig.connect()
    rig.world.run()
    assert rig.download.phase is Phase.DONE and rig.download.pieces_fetched == 4 - had


def test_a_part_that_is_here_needs_no_source() -> None:
    rig = rig_of()
    rig.connect()
    rig.world.run()
    rig.options = {"choose": choosing(1)}
    rig.restart()
    assert rig.download.phase is Phase.DONE and rig.download.pieces_fetched == 0


@pytest.mark.parametrize("damage", [b"", b"x", bytes(PIECE_SIZE)])
def test_a_manifest_that_storage_damaged_is_fetched_again(damage: bytes) -> None:
    rig = rig_of(choose=choosing())
    rig.connect()
    rig.world.run()
    key = ("piece", rig.file.info.root + bytes(4))
    rig.client.stored[key] = damage
    rig.options = {}
    rig.restart()
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=6)


def test_storage_that_fails_while_the_manifest_is_read_pauses() -> None:
    rig = rig_of()
    rig.connect()
    rig.world.run_until(lambda: len(rig.client.pieces(rig.file.info.root)) == 1)
    rig.client.hold_replies = True
    rig.world.run()
    assert rig.download.phase is Phase.LISTING
    rig.world.advance(STORAGE_TIMEOUT + 1)
    assert rig.download.paused and rig.receiver.paused == [TransferWhy.STORAGE]
    rig.client.hold_replies = False
    rig.client.held.clear()
    rig.download.retry(rig.world.now)
    rig.world.run()
    if rig.download.sources_wanted:
        rig.connect()
        rig.world.run()
    rig.check_done(fetched=6)


def test_a_store_that_fails_in_the_manifest_is_tried_again() -> None:
    rig = rig_of()
    rig.client.failure = Failure("quota", "full")
    rig.connect()
    rig.world.run()
    assert rig.download.paused
    rig.client.failure = None
    rig.download.retry(rig.world.now)
    rig.world.run()
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=6)


# -- liars


LIES = {
    "more than there is": raw(Entry("a", 2000)),
    "less than there is": raw(Entry("a", 999)),
    "sizes that would wrap around": raw(Entry("a", 1 << 63), Entry("b", (1 << 63) + 1000)),
    "twice the same": raw(Entry("a", 500), Entry("a", 500)),
    "out of the folder": raw(Entry("../a", 1000)),
    "an absolute path": raw(Entry("/etc/passwd", 1000)),
    "a file that is a folder": raw(Entry("a", 500), Entry("a/b", 500)),
    "a million files": raw(count=1_000_000) + bytes(1000),
    "fewer files than it has": raw(Entry("a", 1000), count=2),
    "no manifest": b"garbage",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_manifest_that_lies_ends_the_download_before_anything_else_is_fetched(lie: bytes) -> None:
    rig = Rig(4 * PIECE_SIZE + 1000 if lie == LIES["no manifest"] else 1000, manifest=lie)
    rig.connect()
    rig.world.run()
    assert rig.receiver.failed == [TransferWhy.BAD_MANIFEST]
    assert rig.download.phase is Phase.FAILED and rig.download.pieces_fetched == 1
    assert rig.download.collection is None and not rig.receiver.done
    rig.restart()  # nor does a second run, from what the first one stored
    rig.connect()
    rig.world.run()
    assert rig.receiver.failed == [TransferWhy.BAD_MANIFEST] and rig.download.pieces_fetched <= 1


def test_a_manifest_larger_than_the_collection_is_no_description() -> None:
    for manifest_size in (1, 3, 1001, 1 << 31):
        with pytest.raises(ParseError):
            FileInfo.parse(_described(manifest_size))
    assert FileInfo.parse(_described(1000)).manifest_size == 1000
    with pytest.raises(ParseError):
        FileInfo.parse(_described(1000).replace(b"\1\0\0\x03\xe8", b"\2\0\0\x03\xe8"))


def _described(manifest_size: int) -> bytes:
    return FileInfo(bytes(32), 1000, "x").encode() + b"\1" + manifest_size.to_bytes(4, "big")


def test_who_calls_a_collection_a_file_has_another_link() -> None:
    rig = rig_of()
    lie = replace(rig.info, info=replace(rig.file.info, manifest_size=0))
    rig.connect_script(lambda script, message: None, info=lie)
    rig.world.run()
    assert rig.receiver.dropped == [Dropped.OTHER_FILE]


def test_a_sender_that_keeps_the_manifest_back_is_replaced() -> None:
    rig = rig_of(senders=2)

    def answer(script: Any, message: Any) -> None:
        if message.index > 0:
            serve_honestly(rig)(script, message)

    rig.connect_script(answer)
    rig.world.run()
    assert rig.download.pieces_fetched == 0  # it asks for nothing else
    rig.world.advance(SOURCE_TIMEOUT + 2)
    assert rig.receiver.dropped == [Dropped.SILENT] and rig.receiver.failed == []
    rig.connect(rig.senders[1])
    rig.world.run()
    rig.check_done(fetched=6)
