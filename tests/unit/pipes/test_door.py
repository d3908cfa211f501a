"""The front door: a program is led to where it asks, or hears why not, and nobody stands in it for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.codes import Limit
from convergence.errors import EndReason, LocalError, Problem, StreamError
from convergence.outbox import Outbox
from convergence.pipes.door import ANSWER_LIMIT, HANDSHAKE_LIMIT, LEAVE_LIMIT, FrontDoor, State
from convergence.pipes.pending import Pending
from tests.unit.pipes.memory import NOW, End, User

ASK = b"\4\1\0\x50\0\0\0\1me\0host.example\0"
GRANTED, REFUSED = b"\0\x5a" + bytes(6), b"\0\x5b" + bytes(6)
RESOLVE = b"\4\xf0\0\0\0\0\0\1\0%s\0"
FOUND = b"\0\x5a\0\0\xc0\0\2\7"
WINDOW, HIGH = 100, 50  # bytes


def pipe():
    one, other = End(WINDOW, HIGH, True), End(WINDOW, HIGH, True)
    one.peer, other.peer = other, one
    return one, other


class Scene:
    """A program, the door, and a far end that a test opens: it is looked for first, as ends of circuits are."""

    def __init__(self):
        self.outbox = Outbox()
        self.asks = []
        self.refuses = None
        self.far = None  # what the door opened
        self.refused = []
        program, local = pipe()
        self.program = User(program)
        self.local = local
        self.door = FrontDoor(self.outbox, local, self.open, self.open, NOW)  # what looks up is a pipe too

    def open(self, ask, now):
        self.asks.append(ask)
        if self.refuses is not None:
            raise self.refuses
        self.far = Pending(self.outbox, lambda code, now: self.far.fail(code, now), lambda now: None, now)
        return self.far

    @property
    def state(self):
        return self.door._machine.state

    def say(self, data):
        self.program.end.write(data, NOW)

    def find(self, found):
        """The look-up ends with this."""
        carrier, _ = pipe()
        self.far.found = found
        self.far.bind(carrier)
        self.far.opened(NOW)

    def answer(self):
        """The far end opens; returns its user."""
        carrier, end = pipe()
        carrier.handler = self.far
        self.far.bind(carrier)
        user = User(end)
        self.far.opened(NOW)
        return user


@pytest.fixture
def scene():
    return Scene()


def test_a_program_is_led_to_where_it_asks(scene):
    scene.say(ASK)
    (ask,) = scene.asks
    assert (ask.host, ask.port) == ("host.example", 80) and scene.program.heard == b""
    far = scene.answer()
    assert scene.program.heard == GRANTED and scene.state is State.PASSING
    scene.say(b"question")
    far.end.write(b"answer", NOW)
    assert far.heard == b"question" and scene.program.heard == GRANTED + b"answer"
    assert not scene.outbox._timers or scene.outbox.deadline() is None, "no deadline is left"


@given(st.binary(max_size=60), st.lists(st.integers(0, 120), max_size=12))
def test_what_is_said_early_comes_behind_the_request_wherever_it_is_cut(early, cuts):
    scene, data = Scene(), ASK + early
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for one, other in zip(borders, borders[1:], strict=False):
        scene.say(data[one:other])
    far = scene.answer()
    assert far.heard == early and scene.program.heard == GRANTED
    assert scene.local.unused == 0, "all credit is given back"


def test_a_program_that_talks_on_while_the_far_end_opens_is_stopped(scene):
    scene.say(ASK)
    scene.program.left = [bytes([number]) * 10 for number in range(100)]
    scene.program.said = b"".join(scene.program.left)
    scene.program.write()
    assert scene.program.left and scene.local.unused <= WINDOW
    far = scene.answer()
    assert not scene.program.left and far.heard == scene.program.said


def test_ends_and_aborts_pass_once_it_is_open(scene):
    scene.say(ASK)
    far = scene.answer()
    scene.program.end.end(NOW)
    assert far.calls == ["ended"]
    far.end.abort(EndReason.CONNRESET, NOW)
    assert scene.program.calls == [EndReason.CONNRESET]


@pytest.mark.parametrize("code", [EndReason.CONNECTREFUSED, EndReason.DONE, 0, 77])
def test_a_far_end_that_fails_is_told_in_words_not_by_a_reset(scene, code):
    scene.say(ASK + b"early")
    scene.far.fail(code, NOW)
    assert scene.program.heard == REFUSED and scene.program.calls == ["ended"]
    assert scene.local.unused == 0
    scene.say(b"more")  # is dropped: a reset would take the answer with it
    assert scene.local.unused == 0
    scene.program.end.end(NOW)
    assert scene.state is State.OVER


def test_a_far_end_that_ends_before_it_opens_is_no_success(scene):
    scene.say(ASK)
    scene.far.handler.ended(NOW)
    assert scene.program.heard == REFUSED and scene.state is State.LEAVING


@pytest.mark.parametrize("why", [LocalError("no such name"), StreamError("full", EndReason.RESOURCELIMIT)])
def test_what_cannot_be_opened_is_refused(scene, why):
    scene.refuses = why
    scene.say(ASK + b"early")
    assert scene.program.heard == REFUSED and scene.program.calls == ["ended"] and scene.local.unused == 0


def test_a_request_that_is_none_is_answered_and_what_follows_it_is_dropped(scene):
    scene.say(b"POST / HTTP/1.1\r\n")
    scene.program.left = [bytes(10)] * 100
    scene.program.write()
    assert not scene.asks and not scene.program.left
    assert scene.program.heard.startswith(b"HTTP/1.1 405 ") and scene.program.calls == ["ended"]
    scene.program.end.end(NOW)
    assert scene.state is State.OVER


@pytest.mark.parametrize(
    ("said", "answer"), [(b"", b""), (b"\5", b""), (b"\4\1", REFUSED), (b"CONNECT", b"HTTP/1.1 408 ")]
)
def test_a_program_that_does_not_finish_its_request_is_told_and_then_cut_off(scene, said, answer):
    if said:
        scene.say(said)
    scene.outbox.run_timers(NOW + HANDSHAKE_LIMIT - 1)
    assert scene.program.calls == []
    scene.outbox.run_timers(NOW + HANDSHAKE_LIMIT)
    assert scene.program.heard.startswith(answer) and scene.program.calls == ["ended"]
    assert bool(answer) == bool(scene.program.heard)
    scene.outbox.run_timers(NOW + HANDSHAKE_LIMIT + LEAVE_LIMIT)
    assert scene.state is State.OVER and scene.local.over and scene.outbox.deadline() is None


def test_slow_bytes_do_not_prolong_a_handshake(scene):
    for second in range(int(HANDSHAKE_LIMIT)):
        scene.outbox.run_timers(NOW + second)
        scene.say(b"\4" if second == 0 else b"a")
    scene.outbox.run_timers(NOW + HANDSHAKE_LIMIT)
    assert scene.state is State.LEAVING


def test_a_far_end_that_never_opens_is_given_up(scene):
    silent, end = pipe()
    far = User(end)
    scene.open = scene.door._open = lambda ask, now: silent
    scene.say(ASK)
    scene.outbox.run_timers(NOW + ANSWER_LIMIT - 1)
    assert scene.state is State.OPENING and scene.program.heard == b""
    scene.outbox.run_timers(NOW + ANSWER_LIMIT)
    assert scene.program.heard == REFUSED and far.calls == [EndReason.TIMEOUT]
    scene.outbox.run_timers(NOW + ANSWER_LIMIT + LEAVE_LIMIT)
    assert scene.state is State.OVER and scene.program.calls == ["ended", EndReason.TIMEOUT]


def test_a_program_that_goes_away_takes_the_far_end_with_it(scene):
    scene.say(ASK)
    scene.program.end.abort(EndReason.CONNRESET, NOW)
    assert scene.far.closed and scene.state is State.OVER and scene.outbox.deadline() is None


def test_a_program_that_closes_without_a_request(scene):
    scene.say(b"\5")
    scene.program.end.end(NOW)
    assert scene.program.calls == ["ended"] and scene.state is State.OVER and scene.outbox.deadline() is None


def test_a_program_that_only_asks_and_ends_still_gets_its_answer(scene):
    scene.say(ASK)
    scene.program.end.end(NOW)
    far = scene.answer()
    assert far.calls == ["ended"]
    far.end.write(b"answer", NOW)
    far.end.end(NOW)
    assert scene.program.heard == GRANTED + b"answer" and scene.program.calls == ["ended"]


@pytest.mark.parametrize("said", [b"\5", b"GET / HTTP/1.1\r\n"])
def test_a_program_that_breaks_off_is_forgotten(scene, said):
    scene.say(said)
    scene.program.end.abort(EndReason.CONNRESET, NOW)
    assert scene.state is State.OVER and scene.outbox.deadline() is None


def test_a_pipe_that_hands_up_before_it_opened_is_a_bug_of_ours(scene):
    scene.say(ASK)
    with pytest.raises(LocalError):
        scene.far.handler.data(b"too soon", NOW)


def test_a_limit_of_ours_is_not_taken_for_a_wrong_name(scene):
    scene.refuses = Problem(Limit.SERVICES, most=256)
    name = b"x.hash.conv"
    scene.say(b"\5\1\0" + b"\5\1\0\3" + bytes([len(name)]) + name + b"\0\x50")
    assert scene.program.heard[2:4] == b"\5\1" and scene.state is State.LEAVING


def test_a_program_that_ends_and_then_breaks_off_harms_nobody(scene):
    """It does not read the answer, so its connection is not closed when it ends."""
    scene.program.reads = False
    scene.local.peer.window = 0
    scene.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    scene.program.end.end(NOW)
    assert scene.state is State.OVER and not scene.local.closed
    scene.program.end.abort(EndReason.CONNRESET, NOW)
    assert scene.local.closed and scene.outbox.deadline() is None


# -- look-ups


def test_what_is_looked_up_is_answered_and_that_is_all(scene):
    scene.say(RESOLVE % b"host.example" + b"early")
    (ask,) = scene.asks
    assert ask.host == "host.example" and scene.program.heard == b""
    scene.say(b"more")
    scene.find("192.0.2.7")
    assert scene.program.heard == FOUND and scene.program.calls == ["ended"] and scene.local.unused == 0
    assert scene.far.closed and scene.state is State.LEAVING
    scene.program.end.end(NOW)
    assert scene.state is State.OVER and scene.outbox.deadline() is None


def test_the_address_of_an_address_is_answered_at_once(scene):
    scene.say(RESOLVE % b"192.0.2.7")
    assert scene.program.heard == FOUND and scene.program.calls == ["ended"] and not scene.asks


def test_a_look_up_that_fails_is_told(scene):
    scene.say(RESOLVE % b"host.example")
    scene.far.fail(EndReason.RESOLVEFAILED, NOW)
    assert scene.program.heard == REFUSED and scene.program.calls == ["ended"] and scene.state is State.LEAVING


def test_a_look_up_has_a_deadline(scene):
    scene.say(RESOLVE % b"host.example")
    scene.outbox.run_timers(NOW + ANSWER_LIMIT)
    assert scene.program.heard == REFUSED and scene.far.closed


def test_a_program_that_ends_behind_its_question_still_gets_its_answer(scene):
    scene.say(RESOLVE % b"host.example")
    scene.program.end.end(NOW)
    assert scene.state is State.OPENING
    scene.find("192.0.2.7")
    assert scene.program.heard == FOUND
    scene.outbox.run_timers(NOW + LEAVE_LIMIT)
    assert scene.state is State.OVER and scene.outbox.deadline() is None


def test_a_program_that_goes_away_gives_its_look_up_up(scene):
    scene.say(RESOLVE % b"host.example")
    scene.program.end.abort(EndReason.CONNRESET, NOW)
    assert scene.far.closed and scene.state is State.OVER and scene.outbox.deadline() is None


@pytest.mark.parametrize("why", [LocalError("no such name"), StreamError("full", EndReason.RESOURCELIMIT)])
def test_a_look_up_that_cannot_be_made_is_refused(scene, why):
    scene.refuses = why
    scene.say(RESOLVE % b"host.example")
    assert scene.program.heard == REFUSED and scene.state is State.LEAVING
