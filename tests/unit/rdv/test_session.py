from typing import Any

import pytest

from convergence.errors import EndReason, LocalError
from convergence.rdv.session import ANSWER_TIMEOUT, FIRST_TIMEOUT, MAX_FRAME, MAX_RECORD, OPEN_TIMEOUT, Session
from tests.unit.ordb.memory import CRYPTO, World, content

KEY = b"k" * 32
NAME = b"n" * 32


class Ear:
    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.heard = bytearray()
        self.opened_at: list[float] = []
        self.closes: list[int] = []
        self.writables = 0

    def opened(self, now: float) -> None:
        self.opened_at.append(now)

    def data(self, data: bytes, now: float) -> None:
        self.heard += data

    def writable(self, now: float) -> None:
        self.writables += 1

    def closed(self, reason: int, now: float) -> None:
        self.closes.append(reason)


class Ends:
    """Two sessions over one stream in memory."""

    def __init__(self, seed: int = 1, other_key: bytes = KEY, high: int = 1 << 20, other_name: bytes = NAME) -> None:
        self.world = World(seed)
        self.node = self.world.node()
        self.over: list[tuple[str, int, bool]] = []
        self.near, self.far = self.world.pair(high)
        self.client, self.asking = self._end(self.near, KEY, NAME, True)
        self.server, self.serving = self._end(self.far, other_key, other_name, False)

    def _end(self, stream: Any, key: bytes, blinded: bytes, initiator: bool) -> tuple[Session, Ear]:
        name = "client" if initiator else "server"
        ears = []

        def attach(session: Any) -> Ear:
            ears.append(Ear(session))
            return ears[0]

        session = Session(
            CRYPTO,
            self.world.rng,
            self.node.outbox,
            key,
            blinded,
            now=self.world.now,
            initiator=initiator,
            attach=attach,
            on_over=lambda reason, local, now: self.over.append((name, reason, local)),
        )
        session.bind(stream)
        stream.handler = session
        return session, ears[0]

    def connect(self) -> None:
        self.server.connected(self.world.now)
        self.client.connected(self.world.now)
        self.world.run()


@pytest.mark.parametrize("seed", range(5))
def test_bytes_arrive_in_order_both_ways_however_they_are_cut(seed: int) -> None:
    ends = Ends(seed)
    ends.connect()
    assert ends.client.is_open and ends.server.is_open
    there, back = content(3 * MAX_RECORD + 17, 1), content(1000, 2)
    ends.client.send(there[:5])
    ends.client.send(there[5:])
    ends.server.send(back)
    ends.world.run()
    assert bytes(ends.serving.heard) == there
    assert bytes(ends.asking.heard) == back


def test_what_travels_is_ciphertext() -> None:
    ends = Ends()
    ends.connect()
    seen = bytearray()
    deliver = ends.server.data
    ends.far.handler = type("Tap", (), {"data": lambda self, data, now: (seen.extend(data), deliver(data, now))})()
    ends.client.send(b"a marker that nobody on the way may read" * 10)
    ends.world.run()
    assert ends.serving.heard and b"marker" not in seen


def test_nothing_is_sent_before_the_handshake_is_done() -> None:
    ends = Ends()
    with pytest.raises(LocalError):
        ends.client.send(b"early")
    ends.client.connected(ends.world.now)
    with pytest.raises(LocalError):
        ends.client.send(b"early")


def test_another_key_ends_the_stream_with_a_clear_reason() -> None:
    ends = Ends(other_key=b"x" * 32)
    ends.connect()
    assert ends.serving.closes == [EndReason.TORPROTOCOL]
    assert ends.asking.closes == [EndReason.TORPROTOCOL]
    assert not ends.serving.opened_at and not ends.asking.opened_at
    assert sorted(ends.over) == [("client", 13, False), ("server", 13, False)]


def test_an_altered_byte_ends_the_stream() -> None:
    ends = Ends()
    ends.connect()
    ends.client.send(b"hello")
    frame = bytearray(ends.near.queue.pop())
    frame[5] ^= 1
    ends.near.queue.append(bytes(frame))
    ends.world.run()
    assert not ends.serving.heard
    assert ends.serving.closes == [EndReason.TORPROTOCOL]


def test_replayed_and_reordered_frames_end_the_stream() -> None:
    for arrange in (lambda a, b: [a, a], lambda a, b: [b, a]):
        ends = Ends()
        ends.connect()
        ends.client.send(b"one")
        ends.client.send(b"two")
        frames = list(ends.near.queue)
        ends.near.queue.clear()
        ends.near.queue.extend(arrange(*frames))
        ends.near.queued = sum(map(len, ends.near.queue))
        ends.world.run()
        assert bytes(ends.serving.heard) in (b"one", b"")
        assert ends.serving.closes


@pytest.mark.parametrize(
    "garbage", [b"\0\0", b"\xff\xff" + b"x" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\0\x30" + b"z" * 48]
)
def test_garbage_in_place_of_the_handshake_ends_the_stream(garbage: bytes) -> None:
    ends = Ends()
    ends.server.connected(ends.world.now)
    ends.near.send(garbage)
    ends.world.run()
    assert ends.serving.closes == [EndReason.TORPROTOCOL]


@pytest.mark.parametrize("garbage", [b"\0\x05abcde", b"\xff\xff" + b"x" * 65535, b"\0\x20" + b"y" * 32])
def test_garbage_after_the_handshake_ends_the_stream(garbage: bytes) -> None:
    ends = Ends()
    ends.connect()
    ends.near.send(garbage)
    ends.world.run()
    assert ends.serving.closes == [EndReason.TORPROTOCOL]
    assert not ends.serving.heard


def test_no_more_than_one_frame_is_held() -> None:
    ends = Ends()
    ends.connect()
    ends.near.send(b"\xff\xff" + b"x" * 65000)
    ends.world.run()
    assert len(ends.server._buffer) <= MAX_FRAME
    assert not ends.serving.closes


def test_a_handshake_that_is_not_finished_in_time_ends_the_stream() -> None:
    ends = Ends()
    ends.near.stalled = True
    ends.client.connected(ends.world.now)
    ends.world.advance(ANSWER_TIMEOUT + 1)
    assert ends.asking.closes == [EndReason.TIMEOUT]


def test_whoever_asked_has_a_few_seconds_for_its_first_message() -> None:
    ends = Ends()
    ends.server.connected(ends.world.now)
    ends.world.advance(FIRST_TIMEOUT - 0.1)
    assert not ends.serving.closes
    ends.world.advance(0.2)
    assert ends.serving.closes == [EndReason.TIMEOUT] and ("server", EndReason.TIMEOUT, False) in ends.over


def test_a_stream_that_never_opens_ends_the_session() -> None:
    ends = Ends()
    ends.world.advance(OPEN_TIMEOUT + 0.1)
    assert ends.asking.closes == ends.serving.closes == [EndReason.TIMEOUT]


def test_an_open_session_has_no_handshake_timeout() -> None:
    ends = Ends()
    ends.connect()
    ends.world.advance(10 * ANSWER_TIMEOUT)
    assert ends.client.is_open and not ends.asking.closes


def test_end_is_told_to_the_other_side_only_and_what_was_sent_goes_first() -> None:
    ends = Ends()
    ends.connect()
    ends.client.send(b"last words")
    ends.client.end(EndReason.DONE, ends.world.now)
    ends.client.send(b"too late")
    ends.world.run()
    assert bytes(ends.serving.heard) == b"last words"
    assert ends.serving.closes == [EndReason.DONE]
    assert not ends.asking.closes
    assert ends.over == [("client", EndReason.DONE, True), ("server", EndReason.DONE, False)]


def test_the_owner_hears_of_the_end_before_it_goes_out() -> None:
    ends = Ends()
    ends.connect()
    order: list[str] = []
    ends.client._on_over = lambda reason, local, now: order.append("told")
    ends.near.end = lambda reason=0, after_flush=True: order.append("end")  # type: ignore[method-assign]
    ends.client.end(EndReason.TORPROTOCOL, ends.world.now)
    assert order == ["told", "end"]


def test_a_dead_circuit_ends_both() -> None:
    ends = Ends()
    ends.connect()
    ends.near.cut_off()
    assert ends.asking.closes == [EndReason.DESTROY]
    assert ends.serving.closes == [EndReason.DESTROY]
    ends.client.send(b"dropped")
    ends.client.end(EndReason.DONE, ends.world.now)


def test_back_pressure_is_that_of_the_stream() -> None:
    ends = Ends(high=1000)
    ends.connect()
    assert not ends.client.congested
    ends.client.send(bytes(5000))
    assert ends.client.congested
    ends.world.run()
    assert not ends.client.congested
    assert ends.asking.writables == 1


def test_a_handler_may_close_while_data_is_handed_up() -> None:
    ends = Ends()
    ends.connect()
    ends.serving.data = lambda data, now: ends.server.end(EndReason.DONE, now)  # type: ignore[method-assign]
    ends.client.send(b"one")
    ends.client.send(b"two")
    ends.world.run()
    assert not ends.serving.closes
    assert ends.asking.closes == [EndReason.DONE]


def test_a_handshake_is_good_for_the_name_it_was_made_for_alone() -> None:
    """A point that replays a recorded handshake on another circuit, or joins streams of two names, learns nothing: all
    names but the right one look as if they were of another file."""
    ends = Ends(other_name=b"m" * 32)
    ends.connect()
    assert not ends.serving.opened_at and not ends.asking.opened_at
    assert sorted(ends.over) == [("client", 13, False), ("server", 13, False)]
