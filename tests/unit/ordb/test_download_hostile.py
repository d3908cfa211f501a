"""Downloads from sources that misbehave: each is dropped, and the file completes from another."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from convergence.codes import Dropped, TransferWhy
from convergence.crypto.merkle import EMPTY_ROOT
from convergence.errors import EndReason
from convergence.ordb.download import PIECE_PATIENCE, QUEUE_PATIENCE
from convergence.ordb.index import SharedFile
from convergence.wire.ordb import (
    PIECE_SIZE,
    Done,
    FileInfo,
    Have,
    Info,
    Piece,
    Queued,
    Refuse,
    RefuseReason,
    Request,
    commitment,
    encode_message,
)
from convergence.wire.sharelink import ShareLink
from tests.unit.ordb.memory import Line, Receiver, Script
from tests.unit.ordb.rig import Rig, serve_honestly


def test_wrong_bytes_drop_the_source_and_the_file_comes_from_another() -> None:
    rig = Rig(20 * PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            piece = rig.piece(message.index)
            script.say(replace(piece, data=b"\0" + piece.data[1:]) if message.index == 3 else piece)

    bad = rig.connect_script(answer)
    rig.world.run()
    assert rig.receiver.dropped == [Dropped.WRONG_BYTES]
    assert rig.download.banned == 1
    assert bad.closes == [EndReason.TORPROTOCOL]
    assert 3 not in rig.client.pieces(rig.file.info.root)
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=20)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda piece: replace(piece, proof=piece.proof[:-1]),
        lambda piece: replace(piece, proof=(*piece.proof, bytes(32))),
        lambda piece: replace(piece, proof=(bytes(32), *piece.proof[1:])),
        lambda piece: replace(piece, data=piece.data[:-1]),
        lambda piece: replace(piece, data=b"x"),
    ],
)
def test_wrong_proofs_and_lengths_are_wrong_bytes(spoil: Callable[[Piece], Piece]) -> None:
    rig = Rig(5 * PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            script.say(spoil(rig.piece(message.index)))

    rig.connect_script(answer)
    rig.connect()
    rig.world.run()
    assert rig.receiver.dropped == [Dropped.WRONG_BYTES]
    rig.check_done(fetched=5)


def test_of_two_sources_at_once_the_bad_one_is_dropped() -> None:
    rig = Rig(40 * PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            script.say(replace(rig.piece(message.index), data=bytes(PIECE_SIZE)))

    rig.connect()
    rig.connect_script(answer)
    rig.world.run()
    assert rig.download.banned == 1
    rig.check_done(fetched=40)


def test_of_senders_that_let_us_wait_for_ever_one_is_kept() -> None:
    rig = Rig(2 * PIECE_SIZE)
    scripts = [rig.connect_script(lambda script, message: None, info=Queued(9)) for _ in range(3)]
    rig.world.run()
    for position in range(2 * int(QUEUE_PATIENCE), 0, -1):  # each says all the time that our turn comes soon
        for script in scripts:
            script.queued(position, rig.world.now)
        rig.world.advance(1)
        if rig.receiver.dropped:
            break
    assert rig.receiver.dropped == [Dropped.QUEUED, Dropped.QUEUED]
    assert [script.closes for script in scripts] == [[], [EndReason.TIMEOUT], [EndReason.TIMEOUT]]
    assert rig.download.sources_wanted == 2
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=2)


def drip(script: Script, rig: Rig, sent: dict[Script, int]) -> None:
    """One byte of a piece."""
    at = sent[script] = sent.get(script, -1) + 1
    script.write(encode_message(rig.piece(0))[at : at + 1])


NEVER: dict[str, tuple[tuple[Any, ...], Callable[[Script, Any], None], Callable[[Script, Rig, Any], None]]] = {
    "has nothing": ((Have(()),), lambda script, message: None, lambda *_: None),
    "refuses": (
        (),
        lambda script, message: script.say(Refuse(message.index, RefuseReason.NOT_HERE)),
        lambda *_: None,
    ),
    "says that it has all": ((), lambda script, message: None, lambda script, *_: script.say(Have(((0, 20),)))),
    "sends a byte now and then": ((), lambda script, message: None, drip),
}


@pytest.mark.parametrize("way", NEVER)
def test_senders_that_never_give_a_piece_are_left_though_they_say_something_all_the_time(way: str) -> None:
    rig = Rig(20 * PIECE_SIZE)
    first, answer, tick = NEVER[way]
    scripts = [rig.connect_script(answer, first=first) for _ in range(3)]
    rig.world.run()
    sent: dict[Script, int] = {}
    for _ in range(int(PIECE_PATIENCE) // 20 + 1):
        rig.world.advance(20)
        for script in scripts:
            if not rig.receiver.dropped:
                tick(script, rig, sent)
    assert rig.receiver.dropped == [Dropped.SILENT] * 3 and rig.download.sources_wanted == 3
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=20)


def test_a_lying_info_drops_the_source() -> None:
    rig = Rig(2 * PIECE_SIZE)
    for lie in (
        Info(rig.file.salt, replace(rig.file.info, root=b"z" * 32)),
        Info(rig.file.salt, replace(rig.file.info, name="other")),
        Info(b"z" * 32, rig.file.info),
        Info(rig.file.salt, replace(rig.file.info, size=1 << 35)),
    ):
        rig.connect_script(lambda script, message: None, info=lie)
        rig.world.run()
    assert rig.download.banned == 4
    assert not rig.client.stored
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=2)


def test_a_link_to_what_cannot_be_fails_with_a_reason() -> None:
    info = FileInfo(b"z" * 32, 0, "not empty after all")
    rig = Rig(1)
    key = commitment(b"s" * 32, info.encode())
    rig.file = SharedFile(rig.file.hash_name, key, b"s" * 32, info)
    rig.receiver = Receiver(rig.client, ShareLink(rig.file.hash_name, key))
    rig.connect_script(lambda script, message: None)
    rig.world.run()
    assert rig.receiver.failed == [TransferWhy.UNKNOWN_KIND]
    assert not rig.client.stored


def test_an_unrequested_piece_drops_the_source() -> None:
    rig = Rig(20 * PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request) and message.index == 0:
            script.say(rig.piece(19))

    rig.connect_script(answer)
    rig.world.run()
    assert rig.receiver.dropped == [Dropped.NOT_ASKED]


def test_a_piece_sent_twice_drops_the_source() -> None:
    rig = Rig(20 * PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request) and message.index == 0:
            script.say(rig.piece(0), rig.piece(0))

    rig.connect_script(answer)
    rig.world.run()
    assert rig.download.banned == 1
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=20)


@pytest.mark.parametrize(
    "words",
    [
        [Request(0)],
        [Refuse(7, 1)],
        [Have(((0, 9),))],
        [Info(b"s" * 32, FileInfo(EMPTY_ROOT, 0, ""))],
    ],
)
def test_messages_that_are_not_due_drop_the_source(words: list[Any]) -> None:
    rig = Rig(3 * PIECE_SIZE)
    rig.connect_script(lambda script, message: None, first=words)
    rig.connect()
    rig.world.run()
    assert rig.receiver.dropped == [Dropped.NO_MESSAGE]
    assert rig.download.banned == 1
    rig.check_done(fetched=3)


@pytest.mark.parametrize("garbage", [b"\xff" * 10, b"\x03\xff\xff\xff", b"\x01\0\0\0", b"\x05\0\0\x03abc"])
def test_garbage_and_huge_lengths_drop_the_source(garbage: bytes) -> None:
    rig = Rig(PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        script.write(garbage)

    rig.connect_script(answer)
    rig.world.run()
    assert rig.download.banned == 1
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=1)


def test_pieces_before_info_drop_the_source() -> None:
    rig = Rig(PIECE_SIZE)
    scripts: list[Script] = []

    def serve(stream: Any) -> Script:
        scripts.append(Script(stream))
        scripts[0].on_open = lambda script: script.say(rig.piece(0))
        return scripts[0]

    Line(rig.world, rig.world.node(), rig.client, rig.file.key, serve, rig.download.attach)
    rig.world.run()
    assert rig.download.banned == 1


def test_a_wrong_key_gives_no_source() -> None:
    rig = Rig(PIECE_SIZE)
    rig.lines.append(rig.senders[0].connect(rig.receiver, server_key=b"x" * 32))
    rig.world.run()
    assert rig.download.sources_wanted == 3
    assert not rig.senders[0].uploads[0].bytes_sent


def test_a_sender_that_stops_is_no_bad_sender() -> None:
    rig = Rig(20 * PIECE_SIZE)

    def answer(script: Script, message: Any) -> None:
        if isinstance(message, Request):
            script.say(rig.piece(message.index) if message.index < 3 else Done())

    rig.connect_script(answer)
    rig.world.run()
    assert rig.receiver.dropped == [Dropped.STOPPED]
    assert rig.download.banned == 0
    rig.connect()
    rig.world.run()
    rig.check_done(fetched=20)


def test_a_sender_that_does_not_end_is_left_all_the_same_once_all_is_here() -> None:
    rig = Rig(2 * PIECE_SIZE)
    script = rig.connect_script(serve_honestly(rig))
    rig.world.run()
    rig.check_done(fetched=2)
    assert rig.lines[0].over == [(EndReason.DONE, True)], "at once, and by us"
    assert script.closes == [EndReason.DONE]
