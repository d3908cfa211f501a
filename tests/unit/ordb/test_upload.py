from typing import Any

import pytest

from convergence.crypto.merkle import leaf_hash, verify_leaf
from convergence.effects import Failure
from convergence.errors import EndReason
from convergence.ordb.index import piece_key
from convergence.ordb.pieces import PieceSet
from convergence.ordb.upload import IDLE_TIMEOUT, MAX_QUEUED_REQUESTS, QUEUE_LIMIT
from convergence.pipes.duplex import Handler
from convergence.wire.ordb import PIECE_SIZE, Done, Have, Info, Piece, Refuse, RefuseReason, Request
from tests.unit.ordb.memory import Line, Script, Sender, World, content, put_file


class Rig:
    """A sender, and a script that asks."""

    def __init__(self, size: int = 3 * PIECE_SIZE + 5, present: PieceSet | None = None, **kw: Any) -> None:
        self.world = World()
        self.server, self.client = self.world.node(), self.world.node()
        self.data = content(size)
        self.file = put_file(self.server, self.data)
        self.sender = Sender(self.server, self.file, present)
        self.script: Script

        def attach(stream: Any) -> Script:
            self.script = Script(stream)
            return self.script

        self.line = Line(self.world, self.server, self.client, self.file.key, self.sender.serve, attach, **kw)
        self.world.run()
        self.upload = self.sender.uploads[0]

    def say(self, *messages: Any) -> None:
        self.script.say(*messages)
        self.world.run()

    @property
    def heard(self) -> list[Any]:
        return self.script.messages[1:]


class Ear:
    """The stream of a receiver that only listens."""

    closed = congested = False

    def __init__(self) -> None:
        self.sent = 0
        self.handler: Handler | None = None
        self.aborts: list[int] = []

    def write(self, data: bytes, now: float) -> None:
        self.sent += 1

    def end(self, now: float) -> None:
        raise AssertionError("a sender aborts")

    def abort(self, code: int, now: float) -> None:
        self.aborts.append(code)

    def consumed(self, size: int, now: float) -> None: ...


def test_a_place_in_the_queue_is_not_held_for_ever() -> None:
    world, ear = World(), Ear()
    node = world.node()
    upload = Sender(node, put_file(node, content(5))).serve(ear)
    upload.queued(9, world.now)
    for told in range(1, int(QUEUE_LIMIT) // 600):
        world.advance(600)
        upload.queued(9, world.now)
        assert ear.sent == told + 1 and ear.aborts == []
    world.advance(601)
    assert ear.aborts == [EndReason.TIMEOUT]


def test_info_comes_first_and_fits_the_link() -> None:
    rig = Rig()
    (info,) = rig.script.messages
    assert info == Info(rig.file.salt, rig.file.info)
    assert info.commitment() == rig.file.key


def test_requests_are_answered_in_order_with_proofs() -> None:
    rig = Rig()
    rig.say(Request(3), Request(0), Request(2))
    assert [message.index for message in rig.heard] == [3, 0, 2]
    for piece in rig.heard:
        assert piece.data == rig.data[piece.index * PIECE_SIZE : (piece.index + 1) * PIECE_SIZE]
        assert verify_leaf(rig.file.info.root, 4, piece.index, leaf_hash(piece.data), piece.proof)
    assert rig.sender.sent == [5, 5 + PIECE_SIZE, 5 + 2 * PIECE_SIZE]


@pytest.mark.parametrize("index", [4, 5, 100_000])
def test_an_index_past_the_end_ends_the_session(index: int) -> None:
    rig = Rig()
    rig.say(Request(index))
    assert rig.script.closes == [EndReason.TORPROTOCOL]


def test_an_empty_file_has_nothing_to_ask_for() -> None:
    rig = Rig(size=0)
    rig.say(Request(0))
    assert rig.script.closes


def test_a_flood_of_requests_ends_the_session_and_is_not_kept() -> None:
    rig = Rig()
    rig.server.hold_replies = True
    rig.script.say(*[Request(i % 4) for i in range(MAX_QUEUED_REQUESTS + 1)])
    rig.world.run()
    assert len(rig.upload._queue) == MAX_QUEUED_REQUESTS
    assert not rig.script.closes
    rig.say(Request(0))
    assert rig.script.closes == [EndReason.RESOURCELIMIT]
    assert len(rig.upload._queue) == 0
    rig.server.release()
    rig.world.run()
    assert rig.heard == []


def test_a_receiver_that_does_not_read_has_one_piece_loaded_beyond_the_buffer() -> None:
    rig = Rig(size=40 * PIECE_SIZE, high=PIECE_SIZE)
    rig.line.far.stalled = True
    rig.say(*[Request(i) for i in range(30)])
    assert rig.line.far.most_queued <= rig.line.far.high + PIECE_SIZE + 4096
    assert len(rig.upload._queue) >= 27
    rig.line.far.stalled = False
    rig.world.run()
    assert [message.index for message in rig.heard] == list(range(30))


def test_a_partial_holder_says_what_it_has_and_refuses_the_rest() -> None:
    present = PieceSet(4, 0b0101)
    rig = Rig(present=present)
    assert rig.heard == [Have(((0, 1), (2, 1)))]
    rig.say(Request(1), Request(2))
    assert rig.heard[1] == Refuse(1, RefuseReason.NOT_HERE)
    assert isinstance(rig.heard[2], Piece)
    present.add(1)
    rig.upload.announce(rig.world.now)
    rig.say(Request(1))
    assert rig.heard[3] == Have(((0, 3),))
    assert isinstance(rig.heard[4], Piece)


def test_a_holder_of_nothing_says_so() -> None:
    assert Rig(present=PieceSet(4)).heard == [Have(())]


@pytest.mark.parametrize("damage", ["lost", "short", "unreadable"])
def test_a_piece_that_storage_does_not_give_is_refused(damage: str) -> None:
    rig = Rig()
    key = ("piece", piece_key(rig.file.info.root, 1))
    if damage == "lost":
        del rig.server.stored[key]
    elif damage == "short":
        rig.server.stored[key] = b"short"
    else:
        rig.server.load_failure = Failure("io", "disk on fire")
    rig.say(Request(1))
    assert rig.heard == [Refuse(1, RefuseReason.STORAGE)]
    rig.server.load_failure = None
    rig.say(Request(0))
    assert isinstance(rig.heard[1], Piece)


@pytest.mark.parametrize(
    "message",
    [Piece(0, (), b"x"), Refuse(0, 1), Have(((0, 1),))],
)
def test_messages_of_senders_end_the_session(message: Any) -> None:
    rig = Rig()
    rig.say(message)
    assert rig.script.closes == [EndReason.TORPROTOCOL]


@pytest.mark.parametrize("garbage", [b"\xff" * 10, b"\x03\xff\xff\xff", b"\x02\0\0\5abcde", bytes(100)])
def test_garbage_inside_the_session_ends_it(garbage: bytes) -> None:
    rig = Rig()
    rig.script.write(garbage)
    rig.world.run()
    assert rig.script.closes == [EndReason.TORPROTOCOL]


def test_done_ends_the_upload() -> None:
    rig = Rig()
    rig.say(Done())
    assert rig.script.closes == [EndReason.DONE]


def test_a_silent_receiver_is_given_up_and_a_busy_one_is_not() -> None:
    rig = Rig()
    for _ in range(4):
        rig.world.advance(IDLE_TIMEOUT * 0.9)
        rig.say(Request(0))
    assert not rig.script.closes
    rig.world.advance(IDLE_TIMEOUT * 2)
    assert rig.script.closes == [EndReason.TIMEOUT]


def test_stop_ends_the_session_once() -> None:
    rig = Rig()
    rig.upload.stop(rig.world.now)
    rig.upload.stop(rig.world.now)
    rig.world.run()
    assert rig.script.closes == [EndReason.DONE]
    rig.upload.announce(rig.world.now)


def test_a_receiver_that_goes_away_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.server.hold_replies = True
    rig.script.say(*[Request(i % 4) for i in range(10)])
    rig.world.run()
    rig.line.near.cut_off()
    rig.server.release()
    rig.world.run()
    assert not rig.upload._queue
    rig.world.advance(IDLE_TIMEOUT * 2)
    assert rig.server.outbox.deadline() is None
