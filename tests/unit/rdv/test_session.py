import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.circuit.streams import SEND_BUFFER_HIGH
from convergence.crypto.noise import HANDSHAKE_OVERHEAD
from convergence.errors import EndReason, LocalError
from convergence.rdv.keys import SessionKeys
from convergence.rdv.session import (
    _LENGTH,
    ANSWER_TIMEOUT,
    FIRST_TIMEOUT,
    FLUSH_LIMIT,
    LAST_LIMIT,
    MAX_FRAME,
    MAX_RECORD,
    OPEN_TIMEOUT,
    SETTLE_TIMEOUT,
    Session,
)
from tests.unit.ordb.memory import CRYPTO, WINDOW, World, content

KEYS = SessionKeys.of_file(b"k" * 32)
NAME = b"n" * 32


class Ear:
    """A handler that keeps what it is told, and consumes what it gets unless `greedy` is False."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.greedy = True
        self.heard = bytearray()
        self.opened_at: list[float] = []
        self.ends = 0
        self.aborts: list[int] = []
        self.drains = 0

    def opened(self, now: float) -> None:
        self.opened_at.append(now)

    def data(self, data: bytes, now: float) -> None:
        assert data and not self.ends and not self.aborts and self.opened_at
        self.heard += data
        if self.greedy:
            self.session.consumed(len(data), now)

    def drained(self, now: float) -> None:
        self.drains += 1

    def ended(self, now: float) -> None:
        assert not self.ends and not self.aborts
        self.ends += 1

    def aborted(self, code: int, now: float) -> None:
        assert not self.aborts
        self.aborts.append(code)


class Ends:
    """Two sessions over one stream in memory."""

    def __init__(
        self,
        seed: int = 1,
        keys: SessionKeys = KEYS,
        other_keys: SessionKeys = KEYS,
        high: int = SEND_BUFFER_HIGH,
        other_name: bytes = NAME,
    ) -> None:
        self.world = World(seed)
        self.node = self.world.node()
        self.over: list[tuple[str, int, bool]] = []
        self.near, self.far = self.world.pair(high)
        self.client, self.asking = self._end(self.near, keys, NAME, True)
        self.server, self.serving = self._end(self.far, other_keys, other_name, False)

    def _end(self, stream: Any, keys: SessionKeys, blinded: bytes, initiator: bool) -> tuple[Session, Ear]:
        name = "client" if initiator else "server"
        ears = []

        def attach(session: Any) -> Ear:
            ears.append(Ear(session))
            return ears[0]

        session = Session(
            CRYPTO,
            self.world.rng,
            self.node.outbox,
            keys,
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
        self.server.opened(self.world.now)
        self.client.opened(self.world.now)
        self.world.run()


@pytest.mark.parametrize("seed", range(5))
def test_bytes_arrive_in_order_both_ways_however_they_are_cut(seed: int) -> None:
    ends = Ends(seed)
    ends.connect()
    assert ends.asking.opened_at and ends.serving.opened_at
    there, back = content(3 * MAX_RECORD + 17, 1), content(1000, 2)
    ends.client.write(there[:5], ends.world.now)
    ends.client.write(there[5:], ends.world.now)
    ends.server.write(back, ends.world.now)
    ends.world.run()
    assert bytes(ends.serving.heard) == there
    assert bytes(ends.asking.heard) == back


def test_what_travels_is_ciphertext() -> None:
    ends = Ends()
    ends.connect()
    seen = bytearray()
    deliver = ends.server.data
    ends.far.handler = type("Tap", (), {"data": lambda self, data, now: (seen.extend(data), deliver(data, now))})()
    ends.client.write(b"a marker that nobody on the way may read" * 10, ends.world.now)
    ends.world.run()
    assert ends.serving.heard and b"marker" not in seen


def test_what_is_written_early_waits_for_the_proof() -> None:
    ends = Ends()
    ends.client.write(b"early", ends.world.now)
    ends.client.opened(ends.world.now)
    ends.client.write(b", and later", ends.world.now)
    ends.server.opened(ends.world.now)
    ends.far.stalled = True
    ends.world.run()
    assert ends.client.congested and ends.near.delivered == _LENGTH.size + HANDSHAKE_OVERHEAD
    ends.far.stalled = False
    ends.world.run()
    assert not ends.client.congested and ends.asking.drains == 1
    assert bytes(ends.serving.heard) == b"early, and later"


def test_who_ends_before_the_proof_is_heard_after_it() -> None:
    ends = Ends()
    ends.client.write(b"early", ends.world.now)
    ends.client.end(ends.world.now)
    ends.client.write(b"too late", ends.world.now)
    ends.connect()
    assert (bytes(ends.serving.heard), ends.serving.ends, ends.asking.ends) == (b"early", 1, 0)
    ends.server.write(b"answer", ends.world.now)
    ends.world.run()
    assert bytes(ends.asking.heard) == b"answer" and ends.over == []


def test_what_was_written_early_never_goes_out_without_the_proof() -> None:
    ends = Ends(other_keys=SessionKeys.of_file(b"x" * 32))
    ends.client.write(b"secret", ends.world.now)
    ends.client.end(ends.world.now)
    ends.connect()
    assert ends.asking.aborts == [EndReason.TORPROTOCOL] and not ends.serving.heard
    assert ends.near.delivered == _LENGTH.size + HANDSHAKE_OVERHEAD


def test_another_key_ends_the_stream_with_a_clear_reason() -> None:
    ends = Ends(other_keys=SessionKeys.of_file(b"x" * 32))
    ends.connect()
    assert ends.serving.aborts == [EndReason.TORPROTOCOL]
    assert ends.asking.aborts == [EndReason.TORPROTOCOL]
    assert not ends.serving.opened_at and not ends.asking.opened_at
    assert sorted(ends.over) == [("client", 13, False), ("server", 13, False)]


def test_who_gives_up_by_an_end_with_a_code_is_heard_to_the_last_byte() -> None:
    data = content(3 * MAX_RECORD)
    ends = Ends()
    ends.connect()
    ends.server.write(data, ends.world.now)
    ends.server.end(ends.world.now, EndReason.MISC)
    ends.server.write(b"too late", ends.world.now)
    assert ends.server.closed
    ends.world.run()
    assert bytes(ends.asking.heard) == data and ends.asking.aborts == [EndReason.MISC]
    assert not ends.serving.aborts and ("server", EndReason.MISC, True) in ends.over


def test_what_is_left_of_who_gave_up_has_a_deadline() -> None:
    ends = Ends()
    ends.connect()
    ends.asking.greedy = False
    ends.server.write(content(4 * WINDOW), ends.world.now)
    ends.server.end(ends.world.now, EndReason.MISC)
    ends.world.run()
    assert not ends.far.over
    ends.world.advance(FLUSH_LIMIT + 1)
    assert ends.far.over


SECRET = b"o" * 32
OWNER = CRYPTO.x25519_public(SECRET)


def test_a_private_services_owner_is_known_by_his_secret() -> None:
    ends = Ends(keys=SessionKeys.of_private(OWNER), other_keys=SessionKeys.of_private(OWNER, SECRET))
    ends.connect()
    ends.client.write(b"hello", ends.world.now)
    ends.world.run()
    assert bytes(ends.serving.heard) == b"hello"


@pytest.mark.parametrize(
    "pretender",
    [
        SessionKeys.of_private(OWNER),  # takes the public key for his secret
        SessionKeys.of_private(OWNER, b"g" * 32),
        SessionKeys.of_file(OWNER),
        SessionKeys.of_public(OWNER),
    ],
)
def test_who_has_only_the_address_cannot_answer_for_it(pretender: SessionKeys) -> None:
    ends = Ends(keys=SessionKeys.of_private(OWNER), other_keys=pretender)
    ends.client.write(b"for the owner only", ends.world.now)
    ends.connect()
    assert ends.asking.aborts == [EndReason.TORPROTOCOL] and not ends.asking.opened_at
    assert not ends.serving.opened_at and not ends.serving.heard


def test_an_altered_byte_ends_the_stream() -> None:
    ends = Ends()
    ends.connect()
    ends.client.write(b"hello", ends.world.now)
    frame = bytearray(ends.near.queue.pop())
    frame[5] ^= 1
    ends.near.queue.append(bytes(frame))
    ends.world.run()
    assert not ends.serving.heard
    assert ends.serving.aborts == [EndReason.TORPROTOCOL]


def test_replayed_and_reordered_frames_end_the_stream() -> None:
    for arrange in (lambda a, b: [a, a], lambda a, b: [b, a]):
        ends = Ends()
        ends.connect()
        ends.client.write(b"one", ends.world.now)
        ends.client.write(b"two", ends.world.now)
        frames = list(ends.near.queue)
        ends.near.queue.clear()
        ends.near.queue.extend(arrange(*frames))
        ends.near.queued = sum(map(len, ends.near.queue))
        ends.world.run()
        assert bytes(ends.serving.heard) in (b"one", b"")
        assert ends.serving.aborts


@pytest.mark.parametrize(
    "garbage", [b"\0\0", b"\xff\xff" + b"x" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\0\x30" + b"z" * 48]
)
def test_garbage_in_place_of_the_handshake_ends_the_stream(garbage: bytes) -> None:
    ends = Ends()
    ends.server.opened(ends.world.now)
    ends.near.write(garbage, ends.world.now)
    ends.world.run()
    assert ends.serving.aborts == [EndReason.TORPROTOCOL]


@pytest.mark.parametrize("garbage", [b"\0\x05abcde", b"\xff\xff" + b"x" * 65535, b"\0\x20" + b"y" * 32])
def test_garbage_after_the_handshake_ends_the_stream(garbage: bytes) -> None:
    ends = Ends()
    ends.connect()
    ends.near.write(garbage, ends.world.now)
    ends.world.run()
    assert ends.serving.aborts == [EndReason.TORPROTOCOL]
    assert not ends.serving.heard


def test_no_more_than_one_frame_is_held() -> None:
    ends = Ends()
    ends.connect()
    ends.near.write(b"\xff\xff" + b"x" * 65000, ends.world.now)
    ends.world.run()
    assert len(ends.server._buffer) <= MAX_FRAME
    assert not ends.serving.aborts


def test_a_handshake_that_is_not_finished_in_time_ends_the_stream() -> None:
    ends = Ends()
    ends.near.stalled = True
    ends.client.opened(ends.world.now)
    ends.world.advance(ANSWER_TIMEOUT + 1)
    assert ends.asking.aborts == [EndReason.TIMEOUT]


def test_whoever_asked_has_a_few_seconds_for_its_first_message() -> None:
    ends = Ends()
    ends.server.opened(ends.world.now)
    ends.world.advance(FIRST_TIMEOUT - 0.1)
    assert not ends.serving.aborts
    ends.world.advance(0.2)
    assert ends.serving.aborts == [EndReason.TIMEOUT] and ("server", EndReason.TIMEOUT, False) in ends.over


def test_a_stream_that_never_opens_ends_the_session() -> None:
    ends = Ends()
    ends.world.advance(OPEN_TIMEOUT + 0.1)
    assert ends.asking.aborts == ends.serving.aborts == [EndReason.TIMEOUT]


def test_an_open_session_has_no_handshake_timeout() -> None:
    ends = Ends()
    ends.connect()
    ends.world.advance(10 * ANSWER_TIMEOUT)
    assert not ends.client.closed and not ends.asking.aborts


@pytest.mark.parametrize("first", ["client", "server"])
def test_each_end_writes_on_after_the_other_has_ended(first: str) -> None:
    ends = Ends()
    ends.connect()
    one, other = (ends.client, ends.server) if first == "client" else (ends.server, ends.client)
    hears_one, hears_other = (ends.serving, ends.asking) if first == "client" else (ends.asking, ends.serving)
    one.write(b"last words", ends.world.now)
    one.end(ends.world.now)
    one.write(b"too late", ends.world.now)
    one.end(ends.world.now)
    ends.world.run()
    assert (bytes(hears_one.heard), hears_one.ends) == (b"last words", 1)
    answer = content(300_000)
    for at in range(0, len(answer), 100_000):
        assert ends.over == [] and not one.closed and not other.closed
        other.write(answer[at : at + 100_000], ends.world.now)
        ends.world.run()
    assert (bytes(hears_other.heard), hears_other.ends) == (answer, 0)
    other.write(b"and all", ends.world.now)
    other.end(ends.world.now)
    assert other.closed is (other is ends.server)  # who was asked is done; who asked waits to hear that all arrived
    ends.world.run()
    assert (bytes(hears_other.heard), hears_other.ends) == (answer + b"and all", 1)
    assert sorted(ends.over) == [("client", EndReason.DONE, False), ("server", EndReason.DONE, False)]
    assert one.closed and ends.near.over and ends.far.over
    assert not ends.asking.aborts and not ends.serving.aborts and hears_one.ends == 1


@pytest.mark.parametrize("crossing", [True, False])
def test_who_asked_is_not_done_before_all_has_arrived(crossing: bool) -> None:
    """Its user may be a program that leaves as soon as the pipe is closed, and takes its circuit away."""
    ends = Ends()
    ends.connect()
    now = ends.world.now
    ends.server.end(now)
    if not crossing:
        ends.world.run()
    ends.serving.greedy = False
    data = content(2 * WINDOW)
    ends.client.write(data, now)
    ends.client.end(now)
    ends.world.run()
    assert ends.asking.ends == 1 and not ends.client.closed and 0 < len(ends.serving.heard) < len(data)
    closed = []
    ends.asking.drained = lambda now: closed.append(ends.client.closed)  # type: ignore[method-assign]
    ends.serving.greedy = True
    ends.server.consumed(len(ends.serving.heard), now)
    ends.world.run()
    assert bytes(ends.serving.heard) == data and closed[-1:] == [True]
    assert not ends.asking.aborts and ends.near.over and ends.far.over


@pytest.mark.parametrize("code", [EndReason.DESTROY, None])
def test_who_asked_is_told_when_it_cannot_know_that_all_arrived(code: EndReason | None) -> None:
    """The path breaks, or nothing is heard for long."""
    ends = Ends()
    ends.connect()
    ends.server.end(ends.world.now)
    ends.world.run()
    ends.serving.greedy = False
    ends.client.write(content(2 * WINDOW), ends.world.now)
    ends.client.end(ends.world.now)
    ends.world.run()
    if code is None:
        ends.world.advance(SETTLE_TIMEOUT + 1)
    else:
        ends.client.aborted(code, ends.world.now)
    assert ends.asking.aborts == [EndReason.TIMEOUT if code is None else code] and ends.client.closed


def test_ends_that_cross_end_the_session_once_and_all_bytes_come_before() -> None:
    ends = Ends()
    ends.connect()
    there, back = content(200_000, 1), content(200_000, 2)
    for session, data in ((ends.client, there), (ends.server, back)):
        session.write(data, ends.world.now)
        session.end(ends.world.now)
    ends.world.run()
    assert (bytes(ends.serving.heard), bytes(ends.asking.heard)) == (there, back)
    assert ends.asking.ends == ends.serving.ends == 1 and not ends.asking.aborts and not ends.serving.aborts
    assert sorted(ends.over) == [("client", EndReason.DONE, False), ("server", EndReason.DONE, False)]
    assert ends.near.over and ends.far.over


def test_who_ends_in_answer_to_an_end_ends_the_session_once() -> None:
    ends = Ends()
    ends.connect()
    ends.serving.ended = lambda now: ends.server.end(now)  # type: ignore[method-assign]
    ends.client.end(ends.world.now)
    ends.world.run()
    assert ends.asking.ends == 1
    assert sorted(ends.over) == [("client", EndReason.DONE, False), ("server", EndReason.DONE, False)]


@pytest.mark.parametrize("code", [EndReason.DONE, EndReason.RESOURCELIMIT])
def test_who_aborts_in_answer_to_an_end_ends_the_session_once(code: EndReason) -> None:
    ends = Ends()
    ends.connect()
    ends.serving.ended = lambda now: ends.server.abort(code, now)  # type: ignore[method-assign]
    ends.client.end(ends.world.now)
    ends.world.run()
    assert ends.asking.aborts == [code] and not ends.asking.ends
    assert sorted(ends.over) == [("client", code, False), ("server", code, True)]


def test_an_abort_is_told_to_the_other_side_only_and_drops_what_waits() -> None:
    ends = Ends()
    ends.connect()
    ends.client.write(b"last words", ends.world.now)
    ends.client.abort(EndReason.DONE, ends.world.now)
    ends.client.write(b"too late", ends.world.now)
    ends.client.end(ends.world.now)
    ends.world.run()
    assert not ends.serving.heard
    assert ends.serving.aborts == [EndReason.DONE] and not ends.serving.ends
    assert not ends.asking.aborts
    assert ends.over == [("client", EndReason.DONE, True), ("server", EndReason.DONE, False)]


def recorded(*, seed: int = 1) -> tuple[Ends, bytes, bytes]:
    """Ends that wait, all that the client then writes (with its end) as it travels, and its words."""
    ends = Ends(seed)
    ends.connect()
    words = b"first words" + bytes(20) + b"last words"
    ends.client.write(words[:20], ends.world.now)
    ends.client.write(words[20:], ends.world.now)
    ends.client.end(ends.world.now)
    travels = b"".join(ends.near.queue)
    ends.near.queue.clear()
    ends.near.queued = 0
    return ends, travels, words


TRAVELS = len(recorded()[1])


@pytest.mark.parametrize("cut", range(TRAVELS + 1))
def test_what_is_cut_short_is_aborted_and_never_ended(cut: int) -> None:
    """Whoever carries the stream may end it anywhere, with a DONE that looks as if all had been said."""
    ends, travels, words = recorded()
    ends.near.write(travels[:cut], ends.world.now)
    ends.near.end(ends.world.now)
    ends.world.run()
    whole = cut == len(travels)
    assert words.startswith(bytes(ends.serving.heard)) and ends.serving.ends == whole
    assert ends.serving.aborts == [EndReason.DONE]  # of our way, which had not ended
    assert ends.over[-1] == ("server", EndReason.DONE, False)


def test_an_end_without_a_word_is_an_abort_to_who_has_ended_too() -> None:
    ends = Ends()
    ends.connect()
    ends.server.end(ends.world.now)
    ends.world.run()
    ends.near.end(ends.world.now)
    ends.world.run()
    assert ends.serving.aborts == [EndReason.DONE] and not ends.serving.ends


@pytest.mark.parametrize("more", [b"more", b""])
def test_a_message_after_the_announced_end_breaks_the_session(more: bytes) -> None:
    ends = Ends()
    ends.connect()
    ends.client.end(ends.world.now)
    ends.client._seal(more, ends.world.now)
    ends.world.run()
    assert ends.serving.ends == 1 and not ends.serving.heard
    assert ends.serving.aborts == ends.asking.aborts == [EndReason.TORPROTOCOL]
    assert sorted(ends.over) == [(who, EndReason.TORPROTOCOL, False) for who in ("client", "server")]


def test_a_reader_that_consumes_nothing_stops_the_writer_and_little_waits() -> None:
    """Through the stream below: its window, and its buffer, are all that fills."""
    ends = Ends()
    ends.connect()
    ends.serving.greedy = False
    sent = content(2 << 20)
    written = 0
    while written < len(sent):
        if ends.client.congested:
            ends.world.run()
            if ends.client.congested:
                break
        ends.client.write(sent[written : written + 10_000], ends.world.now)
        written += 10_000
    stopped = len(ends.serving.heard)
    assert 0 < stopped <= WINDOW and written <= WINDOW + SEND_BUFFER_HIGH + 20_000
    assert ends.far.most_unused <= WINDOW and ends.near.most_queued <= SEND_BUFFER_HIGH + 11_000
    assert len(ends.server._buffer) <= MAX_FRAME
    ends.asking.drained = lambda now: None  # type: ignore[method-assign]
    ends.client.write(sent[written:], ends.world.now)
    ends.client.end(ends.world.now)
    used = 0
    while used < len(sent):
        ends.world.run()
        assert len(ends.serving.heard) > used, "credit for all that was consumed brings more"
        assert len(ends.serving.heard) - used <= WINDOW
        ends.server.consumed(len(ends.serving.heard) - used, ends.world.now)
        used = len(ends.serving.heard)
    ends.world.run()
    assert bytes(ends.serving.heard) == sent and ends.serving.ends == 1


def test_all_credit_comes_back_once_all_is_consumed() -> None:
    ends = Ends()
    ends.connect()
    ends.client.write(content(100_000), ends.world.now)
    ends.client.end(ends.world.now)
    ends.world.run()
    assert ends.far.unused == ends.near.unused == 0


def test_more_cannot_be_consumed_than_came() -> None:
    ends = Ends()
    ends.connect()
    with pytest.raises(LocalError):
        ends.server.consumed(1, ends.world.now)


cuts = st.lists(st.integers(1, 4000), min_size=1, max_size=10)


@given(
    st.lists(st.one_of(st.integers(0, 300), st.integers(0, 3 * MAX_RECORD)), max_size=4),
    st.lists(st.one_of(st.integers(0, 300), st.integers(0, 3 * MAX_RECORD)), max_size=4),
    cuts,
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_frames_may_be_cut_anywhere(there: list[int], back: list[int], pattern: list[int], crossed: bool) -> None:
    ends = Ends()
    sizes = itertools.cycle(pattern)
    ends.world.cut = lambda size: min(next(sizes), size)  # type: ignore[method-assign]
    ends.connect()
    sent = []
    for session, lengths in ((ends.client, there), (ends.server, back)):
        parts = [content(length, number) for number, length in enumerate(lengths)]
        sent.append(b"".join(parts))
        for part in parts:
            session.write(part, ends.world.now)
        session.end(ends.world.now)
        if not crossed:
            ends.world.run()
    ends.world.run()
    assert [bytes(ends.serving.heard), bytes(ends.asking.heard)] == sent
    assert ends.serving.ends == ends.asking.ends == 1 and not ends.serving.aborts and not ends.asking.aborts
    assert ends.near.over and len(ends.over) == 2


def test_the_owner_hears_of_the_end_before_it_goes_out() -> None:
    ends = Ends()
    ends.connect()
    order: list[str] = []
    ends.client._on_over = lambda reason, local, now: order.append("told")
    ends.near.abort = lambda code, now: order.append("end")  # type: ignore[method-assign]
    ends.client.abort(EndReason.TORPROTOCOL, ends.world.now)
    assert order == ["told", "end"]


def test_a_dead_circuit_ends_both() -> None:
    ends = Ends()
    ends.connect()
    ends.near.cut_off()
    assert ends.asking.aborts == [EndReason.DESTROY]
    assert ends.serving.aborts == [EndReason.DESTROY]
    ends.client.write(b"dropped", ends.world.now)
    ends.client.abort(EndReason.DONE, ends.world.now)


def test_back_pressure_is_that_of_the_stream() -> None:
    ends = Ends(high=1000)
    ends.connect()
    assert not ends.client.congested
    ends.client.write(bytes(5000), ends.world.now)
    assert ends.client.congested
    ends.world.run()
    assert not ends.client.congested
    assert ends.asking.drains == 1


def test_a_handler_may_close_while_data_is_handed_up() -> None:
    ends = Ends()
    ends.connect()
    ends.serving.data = lambda data, now: ends.server.abort(EndReason.DONE, now)  # type: ignore[method-assign]
    ends.client.write(b"one", ends.world.now)
    ends.client.write(b"two", ends.world.now)
    ends.world.run()
    assert not ends.serving.aborts
    assert ends.asking.aborts == [EndReason.DONE]


def test_a_handshake_is_good_for_the_name_it_was_made_for_alone() -> None:
    """A point that replays a recorded handshake on another circuit, or joins streams of two names, learns nothing: all
    names but the right one look as if they were of another file."""
    ends = Ends(other_name=b"m" * 32)
    ends.connect()
    assert not ends.serving.opened_at and not ends.asking.opened_at
    assert sorted(ends.over) == [("client", 13, False), ("server", 13, False)]


@pytest.mark.parametrize("reads", [False, True])
def test_a_reader_has_so_long_for_the_last_bytes(reads: bool) -> None:
    """Both ends have ended, so nobody but the session is left to end the stream."""
    ends = Ends()
    ends.connect()
    ends.asking.greedy = False
    ends.client.end(ends.world.now)
    ends.world.run()
    ends.server.write(bytes(2 * WINDOW), ends.world.now)
    ends.server.end(ends.world.now)
    ends.world.run()
    assert ends.server.closed and ends.serving.ends == 1 and not ends.far.over
    if reads:
        ends.world.advance(LAST_LIMIT - 1)
        ends.asking.greedy = True
        ends.client.consumed(len(ends.asking.heard), ends.world.now)
        ends.world.advance(2)
        assert len(ends.asking.heard) == 2 * WINDOW and ends.asking.ends == 1
    else:
        ends.world.advance(LAST_LIMIT + 1)
        assert ends.asking.aborts == [EndReason.TIMEOUT]
    assert ends.far.over and ends.node.outbox.deadline() is None
