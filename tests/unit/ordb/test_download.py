"""Downloads: whole files, resuming, partial and slow sources, storage that fails."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from convergence.codes import Dropped, TransferWhy
from convergence.crypto.merkle import MerkleTree, leaf_hash
from convergence.effects import Failure
from convergence.errors import EndReason
from convergence.ordb.download import (
    MAX_PENDING_STORES,
    MAX_SOURCES,
    PIECE_PATIENCE,
    SOURCE_TIMEOUT,
    STEAL_AFTER,
    WATCH_INTERVAL,
)
from convergence.ordb.index import SharedFile, file_key, piece_key
from convergence.ordb.phases import STORAGE_TIMEOUT, Phase
from convergence.ordb.pieces import PieceSet
from convergence.ordb.source import MAX_REFUSALS, MAX_REQUESTS
from convergence.wire.ordb import (
    PIECE_SIZE,
    FileInfo,
    Have,
    Refuse,
    Request,
)
from tests.unit.ordb.memory import Line, Receiver, Script, Sender, content, link_of, put_file
from tests.unit.ordb.rig import Rig


@pytest.mark.parametrize(
    "size", [0, 1, PIECE_SIZE - 1, PIECE_SIZE, PIECE_SIZE + 1, 4 * PIECE_SIZE, 37 * PIECE_SIZE + 99]
)
def test_a_file_arrives_whole(size: int) -> None:
    rig = Rig(size)
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=-(-size // PIECE_SIZE))
    assert rig.download.bytes_fetched == size
    assert [reason for reason, _ in rig.lines[0].over] == [EndReason.DONE]
    assert rig.client.outbox.deadline() is None or rig.world.advance(60) is None


@pytest.mark.parametrize("seed", range(4))
def test_several_sources_share_the_work(seed: int) -> None:
    rig = Rig(50 * PIECE_SIZE + 1, senders=3, seed=seed)
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=51)
    assert all(upload.bytes_sent > 0 for sender in rig.senders for upload in sender.uploads)
    assert sum(upload.bytes_sent for sender in rig.senders for upload in sender.uploads) == len(rig.data)


def test_the_record_is_stored_before_any_piece_and_pieces_before_they_count() -> None:
    rig = Rig(20 * PIECE_SIZE)
    rig.client.hold_replies = True
    rig.connect()
    rig.world.run()
    assert rig.client.transactions == [[("transfer", rig.file.hash_name, rig.client.transactions[0][0][2])]]
    assert rig.download.pieces_fetched == 0
    for _ in range(2):  # the record, the scan
        rig.client.release()
        rig.world.run()
    assert rig.download.pieces_fetched == MAX_REQUESTS
    assert rig.receiver.progress == [0]
    assert len(rig.senders[0].sent) == MAX_REQUESTS  # no more until the disk has them
    while rig.client.held:
        rig.client.release()
        rig.world.run()
    rig.check_done(fetched=20)


def test_no_more_pieces_wait_for_the_disk_than_the_limit() -> None:
    rig = Rig(200 * PIECE_SIZE, senders=MAX_SOURCES)
    rig.connect()
    rig.world.run_until(lambda: rig.download.phase is Phase.RUNNING)
    rig.client.hold_replies = True
    rig.world.run()
    waiting = len(rig.download._verified) + len(rig.download._storing)
    assert waiting <= MAX_PENDING_STORES
    rig.client.hold_replies = False
    rig.client.release()
    rig.world.run()
    rig.check_done(fetched=200)


# -- resuming


def test_a_reloaded_page_resumes_and_fetches_no_piece_twice() -> None:
    rig = Rig(30 * PIECE_SIZE + 1)
    rig.connect()
    rig.world.run_until(lambda: len(rig.client.pieces(rig.file.info.root)) >= 9)
    had = len(rig.client.pieces(rig.file.info.root))
    rig.restart()
    assert rig.receiver.progress == [had * PIECE_SIZE]
    assert rig.receiver.asked == 1
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=31 - had)


def test_a_source_that_is_lost_is_replaced_and_no_piece_is_fetched_twice() -> None:
    rig = Rig(30 * PIECE_SIZE, senders=2)
    rig.connect(rig.senders[0])
    rig.world.run_until(lambda: rig.download.pieces_fetched >= 7)
    asked = rig.receiver.asked
    rig.lines[0].near.cut_off()
    assert rig.receiver.asked > asked
    rig.world.run()
    rig.connect(rig.senders[1])
    rig.world.run()
    rig.check_done(fetched=30)


def test_a_complete_file_is_complete_again_without_a_source() -> None:
    rig = Rig(3 * PIECE_SIZE)
    rig.connect()
    rig.world.run()
    rig.restart()
    rig.check_done(fetched=0)
    assert rig.receiver.asked == 0


@pytest.mark.parametrize("damage", [None, b"short", b"\0" * PIECE_SIZE])
def test_pieces_that_storage_lost_or_damaged_are_fetched_again(damage: bytes | None) -> None:
    rig = Rig(6 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: len(rig.client.pieces(rig.file.info.root)) >= 4)
    rig.restart()
    key = ("piece", piece_key(rig.file.info.root, 1))
    if damage is None:
        real = rig.client.stored.pop(key)
        rig.client.stored[key] = b""
        assert real
    else:
        rig.client.stored[key] = damage
    rig.connect()
    rig.world.run()
    rig.connect()
    rig.world.run()
    assert rig.download.phase is Phase.DONE
    assert rig.receiver.bytes == rig.data


def test_a_damaged_record_is_replaced_and_the_pieces_still_count() -> None:
    rig = Rig(12 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: len(rig.client.pieces(rig.file.info.root)) >= 4)
    had = len(rig.client.pieces(rig.file.info.root))
    rig.client.stored["transfer", rig.file.hash_name] = b"junk"
    rig.restart()
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=12 - had)


def test_what_was_received_can_be_served_on() -> None:
    rig = Rig(5 * PIECE_SIZE)
    rig.connect()
    rig.world.run()
    again = Receiver(rig.world.node(), link_of(rig.file))
    Sender(rig.client, rig.receiver.done[0]).connect(again)
    rig.world.run()
    assert again.bytes == rig.data


def test_what_has_arrived_so_far_can_be_served_on() -> None:
    rig = Rig(10 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: len(rig.download.present) >= 3)
    rig.lines[0].near.cut_off()
    rig.world.run()
    assert rig.download.file is not None
    partial = Sender(rig.client, rig.download.file, rig.download.present)
    partial.tree = rig.download.tree
    again = Receiver(rig.world.node(), link_of(rig.file))
    partial.connect(again)
    rig.world.run()
    assert again.download.present.bits == rig.download.present.bits
    assert again.download.duplicates == 0


# -- partial holders


def test_partial_holders_complete_each_other() -> None:
    rig = Rig(20 * PIECE_SIZE, senders=2)
    even, odd = PieceSet(20), PieceSet(20)
    for index in range(20):
        (odd if index % 2 else even).add(index)
    for sender, present in zip(rig.senders, (even, odd), strict=True):
        sender.present = present
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=20)


def test_a_partial_holder_that_gets_more_is_asked_again() -> None:
    rig = Rig(6 * PIECE_SIZE)
    sender = rig.senders[0]
    sender.present = PieceSet(6, 0b000111)
    rig.connect()
    rig.world.run()
    assert len(rig.download.present) == 3
    sender.present.bits = 0b111111
    sender.uploads[0].announce(rig.world.now)
    rig.world.run()
    rig.check_done(fetched=6)


def test_a_source_that_refuses_without_end_is_dropped() -> None:
    rig = Rig(3 * PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            script.say(Refuse(message.index, 1), Have(((0, 3),)))

    script = rig.connect_script(answer)
    rig.world.run()
    assert rig.download.banned == 1
    assert len(script.messages) <= MAX_REFUSALS + 2 * MAX_REQUESTS
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=3)


# -- slow sources


def test_a_source_that_gives_nothing_is_dropped() -> None:
    rig = Rig(3 * PIECE_SIZE)
    rig.connect_script(lambda script, message: None)
    rig.world.run()
    rig.world.advance(SOURCE_TIMEOUT + 2)
    assert rig.receiver.dropped == [Dropped.SILENT]
    assert rig.download.banned == 0
    assert rig.download.sources_wanted == 3
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=3)


def test_a_source_that_never_says_info_is_dropped() -> None:
    rig = Rig(PIECE_SIZE)
    Line(rig.world, rig.world.node(), rig.client, rig.file.key, Script, rig.download.attach)
    rig.world.run()
    rig.world.advance(SOURCE_TIMEOUT + 2)
    assert rig.receiver.dropped == [Dropped.SILENT]


def test_at_the_end_an_idle_source_takes_over_from_a_silent_one() -> None:
    rig = Rig(20 * PIECE_SIZE)
    rig.connect_script(lambda script, message: None)
    rig.connect()
    rig.world.run()
    assert len(rig.download.present) == 12
    rig.world.advance(STEAL_AFTER + 2)
    assert rig.receiver.dropped == [Dropped.SLOW]
    rig.check_done(fetched=20)


def test_at_the_end_a_fast_source_takes_over_from_a_trickling_one() -> None:
    rig = Rig(20 * PIECE_SIZE, senders=2)
    rig.connect()
    slow = rig.lines[1]
    rig.world.run_until(lambda: rig.download.phase is Phase.RUNNING)
    slow.far.rate = 0
    for _ in range(60):
        rig.world.advance(0.5)
        slow.far.rate = 2000
        rig.world.step()
        slow.far.rate = 0
        if rig.receiver.done:
            break
    rig.check_done(fetched=20)
    assert rig.receiver.dropped == [Dropped.SLOW]


def test_a_single_slow_source_is_kept() -> None:
    rig = Rig(2 * PIECE_SIZE)
    rig.connect()
    rig.lines[0].far.rate = 0
    while not rig.receiver.done:
        rig.world.advance(5)
        rig.lines[0].far.rate = 8000
        rig.world.step()
        rig.lines[0].far.rate = 0
    assert rig.receiver.dropped == []
    rig.check_done(fetched=2)


# -- storage that fails


def test_a_full_disk_pauses_and_retry_goes_on_with_nothing_fetched_twice() -> None:
    rig = Rig(40 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: rig.download.pieces_fetched >= 5)
    rig.client.failure = Failure("quota", "disk full")
    rig.world.run()
    assert rig.receiver.paused == [TransferWhy.NO_ROOM]
    assert rig.download.paused and rig.download.sources_wanted == 0
    held = len(rig.download._verified) + len(rig.download._storing)
    assert held <= MAX_REQUESTS
    rig.world.advance(20)
    rig.download.retry(rig.world.now)
    rig.world.run()
    assert len(rig.receiver.paused) == 2
    rig.client.failure = None
    rig.download.retry(rig.world.now)
    rig.world.run()
    rig.check_done(fetched=40)
    rig.download.retry(rig.world.now)


@pytest.mark.parametrize("when", [Phase.LOADING, Phase.SAVING, Phase.COMPLETING])
def test_storage_that_fails_at_any_step_pauses_there(when: Phase) -> None:
    rig = Rig(3 * PIECE_SIZE)
    broken = Failure("io", "disk on fire")
    if when is Phase.LOADING:
        rig.client.load_failure = broken
        rig.receiver = Receiver(rig.client, link_of(rig.file))
    elif when is Phase.SAVING:
        rig.client.failure = broken
        rig.connect()
    else:
        rig.connect()
        rig.world.run_until(lambda: rig.download.phase is Phase.COMPLETING)
        rig.client.failure = broken
    rig.world.run()
    assert rig.download.paused
    assert rig.receiver.paused[0] is TransferWhy.STORAGE
    assert "fire" not in rig.receiver.paused[0]
    rig.client.failure = rig.client.load_failure = None
    rig.download.retry(rig.world.now)
    rig.world.run()
    if when is Phase.LOADING:
        rig.connect()
        rig.world.run()
    rig.check_done(fetched=3)


def test_a_late_answer_of_storage_counts_for_no_other_batch() -> None:
    rig = Rig(20 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: len(rig.download.present) >= 3)
    rig.client.hold_replies = True
    rig.world.run()
    rig.world.advance(STORAGE_TIMEOUT + WATCH_INTERVAL)
    assert rig.download.paused
    late, rig.client.held = rig.client.held, []
    rig.download.retry(rig.world.now)
    rig.world.run()
    rig.client.release()  # the same batch is stored; the next one is not
    rig.world.run()
    had = len(rig.download.present)
    assert 3 < had < 20
    for request, result in late:
        rig.client.outbox.done(request, result, rig.world.now)
    rig.world.run()
    assert len(rig.download.present) == had
    rig.client.hold_replies = False
    rig.client.release()
    rig.world.run()
    rig.check_done(fetched=rig.download.pieces_fetched)


# -- the end


def test_cancel_keeps_what_is_stored_and_a_late_store_changes_nothing() -> None:
    rig = Rig(20 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: len(rig.client.pieces(rig.file.info.root)) >= 3)
    rig.download.cancel(rig.world.now)
    rig.world.run()
    had = len(rig.client.pieces(rig.file.info.root))
    assert rig.download.phase is Phase.STOPPED
    assert 3 <= had < 20
    assert [reason for reason, _ in rig.lines[0].over] == [EndReason.DONE]
    rig.restart()
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=20 - had)


def test_forget_leaves_nothing_in_storage() -> None:
    rig = Rig(20 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: len(rig.client.pieces(rig.file.info.root)) >= 3)
    rig.download.forget(rig.world.now)
    rig.world.run()
    assert rig.client.stored == {}


def test_forget_spares_the_pieces_of_a_file_that_is_shared_too() -> None:
    rig = Rig(3 * PIECE_SIZE)
    shared = put_file(rig.client, rig.data, "mine")
    rig.client.stored["file", file_key(shared.info.root, shared.hash_name)] = shared.encode()
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=0)
    rig.download.forget(rig.world.now)
    rig.world.run()
    assert rig.client.pieces(shared.info.root) == [0, 1, 2]
    assert ("transfer", rig.file.hash_name) not in rig.client.stored


def test_forget_before_anything_is_known() -> None:
    rig = Rig(PIECE_SIZE)
    rig.download.forget(rig.world.now)
    rig.world.run()
    rig.connect()
    rig.world.run()
    assert rig.client.stored == {}


def test_fail_is_told_once_and_for_good() -> None:
    rig = Rig(20 * PIECE_SIZE)
    rig.connect()
    rig.world.run_until(lambda: rig.download.pieces_fetched >= 3)
    rig.download.fail(TransferWhy.NOBODY, rig.world.now)
    rig.download.fail(TransferWhy.NOBODY, rig.world.now)
    rig.world.run()
    assert rig.receiver.failed == [TransferWhy.NOBODY]
    assert rig.download.sources_wanted == 0 and not rig.download.active


def test_a_source_too_many_is_sent_away() -> None:
    rig = Rig(50 * PIECE_SIZE, senders=MAX_SOURCES + 1)
    rig.connect()
    rig.world.run_until(lambda: rig.download.pieces_fetched > 0)
    rig.world.run()
    rig.check_done(fetched=50)
    assert sum(1 for sender in rig.senders if sender.uploads[0].bytes_sent == 0) >= 1


def test_pieces_of_another_size_are_fetched_too() -> None:
    rig = Rig(1)
    data = content(5000)
    pieces = [data[at : at + 1024] for at in range(0, 5000, 1024)]
    tree = MerkleTree.of(b"".join(leaf_hash(piece) for piece in pieces))
    info = FileInfo(tree.root, 5000, "small pieces", piece_size=1024)
    file = SharedFile.share(info, tree.leaves, sha256(b"small").digest(), b"s" * 32)
    server = rig.senders[0].node
    for index, piece in enumerate(pieces):
        server.stored["piece", piece_key(info.root, index)] = piece
    receiver = Receiver(rig.client, link_of(file))
    Sender(server, file).connect(receiver)
    rig.world.run()
    assert receiver.bytes == data


def test_no_secret_or_content_is_in_events() -> None:
    rig = Rig(3 * PIECE_SIZE, name="secret name")
    rig.connect()
    rig.world.run()
    assert not any("secret" in str(event) for node in rig.world.nodes for event in node.events)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_sources_do_the_file_arrives_and_no_piece_twice(seed: int) -> None:
    """Senders come, die, lie, stall and hold parts only; the disk fails; the page is reloaded."""
    rig = Rig(30 * PIECE_SIZE + 7, senders=4, seed=seed)
    dice = rig.world.random
    fetched = 0

    def lie(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            piece = rig.piece(message.index)
            script.say(replace(piece, data=bytes(len(piece.data))) if dice.random() < 0.3 else piece)

    for _ in range(60):
        for _ in range(dice.randint(0, 40)):
            rig.world.step()
        match dice.randint(0, 8):
            case 0 | 1 | 2:
                sender = dice.choice(rig.senders)
                sender.present = dice.choice([None, PieceSet(31, dice.getrandbits(31))])
                rig.connect(sender)
            case 3 if rig.lines:
                dice.choice(rig.lines).near.cut_off()
            case 4:
                rig.connect_script(lie)
            case 5 if rig.lines:
                dice.choice(rig.lines).far.stalled = True
            case 6:
                rig.client.failure = dice.choice([None, Failure("quota", "full")])
            case 7:
                rig.world.advance(dice.choice([1, 7, 40]))
            case 8 if not rig.receiver.done:
                assert rig.download.duplicates == 0
                fetched += rig.download.pieces_fetched
                rig.restart()
        rig.download.retry(rig.world.now)
    rig.client.failure = None
    rig.download.retry(rig.world.now)
    rig.world.advance(100)
    for sender in rig.senders:
        sender.present = None
    for _ in range(3):  # sources that have nothing more to give keep their places for a while
        if not rig.receiver.done:
            rig.connect()
        rig.world.advance(PIECE_PATIENCE)
    assert rig.download.phase is Phase.DONE
    assert rig.receiver.bytes == rig.data
    assert rig.download.duplicates == 0
    stored = [key for items in rig.client.transactions for bucket, key, _ in items if bucket == "piece"]
    assert len(stored) == len(set(stored)) == 31
