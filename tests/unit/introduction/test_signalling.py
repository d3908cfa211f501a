import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.codes import RtcWhy
from convergence.errors import LocalError, ParseError, Why
from convergence.introduction import signalling as module
from convergence.introduction.signalling import (
    MAX_INTRODUCTIONS_PER_MINUTE,
    MAX_OF_NODE,
    MAX_PER_PAIR,
    MAX_PER_TARGET,
    MAX_REPLIES,
    TAG_LIFETIME,
    Signals,
    Switchboard,
)
from convergence.outbox import Outbox
from convergence.wire.facilitator import MAX_SEALED, Delivery, RecordType, Signal, Unreachable, UnreachableReason

START = 1_800_000_000.0
BOB, CAROL, NOBODY = b"B" * 32, b"C" * 32, b"N" * 32
UNKNOWN, BUSY = UnreachableReason.UNKNOWN, UnreachableReason.BUSY


class Clock:
    """An outbox and its time."""

    def __init__(self):
        self.outbox = Outbox()
        self.now = START

    def pass_time(self, seconds):
        self.now += seconds
        self.outbox.run_timers(self.now)


class Records:
    """A pipe that keeps what was sent, parsed."""

    def __init__(self, source=None):
        self.sent = []
        self.source = source or self

    def send(self, kind, body, now):
        parse = {
            RecordType.SIGNAL: Signal.parse,
            RecordType.DELIVER: Delivery.parse,
            RecordType.REPLY: Delivery.parse,
            RecordType.UNREACHABLE: Unreachable.parse,
        }[kind]
        self.sent.append((kind, parse(body)))

    def take(self):
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def clock():
    return Clock()


# Asking


class Asker:
    def __init__(self, clock):
        self.clock = clock
        self.pipe = Records()
        self.signals = Signals(clock.outbox, self.pipe.send)
        self.heard = []

    def ask(self, to=BOB, sealed=b"offer"):
        self.signals.signal(
            to,
            sealed,
            lambda answer, now: self.heard.append((answer, now)),
            lambda why, now: self.heard.append((why, now)),
            self.clock.now,
        )
        return self.pipe.sent[-1][1].tag if self.pipe.sent else None

    def reply(self, tag, sealed=b"answer"):
        self.signals.reply(Delivery(tag, sealed).encode(), self.clock.now)

    def unreachable(self, tag, reason=UNKNOWN):
        self.signals.unreachable(Unreachable(tag, reason).encode(), self.clock.now)


@pytest.fixture
def asker(clock):
    return Asker(clock)


def test_a_signal_goes_out_and_its_answers_come_back(asker):
    tag = asker.ask()
    assert asker.pipe.take() == [(RecordType.SIGNAL, Signal(tag, BOB, b"offer"))]
    asker.reply(tag, b"answer")
    asker.reply(tag, b"candidates")
    assert asker.heard == [(b"answer", START), (b"candidates", START)]


def test_each_signal_has_its_own_tag(asker):
    tags = {asker.ask() for _ in range(5)}
    assert len(tags) == 5
    assert all(tag % 2 for tag in tags)


def test_tags_begin_again_after_the_last_one():
    assert [module._after(tag) for tag in (1, 0xFFFFFFFF, 0xFFFFFFFE)] == [3, 1, 0]


@pytest.mark.parametrize(
    ("reason", "code"),
    [(UNKNOWN, RtcWhy.UNKNOWN_NODE), (BUSY, RtcWhy.BUSY), (77, RtcWhy.REFUSED)],
)
def test_a_refusal_ends_the_signal(asker, reason, code):
    tag = asker.ask()
    asker.unreachable(tag, reason)
    asker.unreachable(tag, reason)
    asker.reply(tag)
    [(why, now)] = asker.heard
    assert why == Why(code)
    assert now == START


def test_a_refusal_after_an_answer_is_silent_and_ends_the_signal(asker):
    tag = asker.ask()
    asker.reply(tag)
    asker.unreachable(tag)
    asker.reply(tag)
    assert asker.heard == [(b"answer", START)]


def test_what_was_not_asked_for_is_ignored(asker):
    tag = asker.ask()
    asker.reply(tag + 1)
    asker.unreachable(tag + 2)
    assert asker.heard == []


def test_answers_to_one_signal_are_bounded(asker):
    tag = asker.ask()
    for _ in range(MAX_REPLIES + 5):
        asker.reply(tag)
    assert len(asker.heard) == MAX_REPLIES


def test_answers_that_come_too_late_are_ignored(asker):
    tag = asker.ask()
    asker.clock.pass_time(TAG_LIFETIME)
    asker.reply(tag)
    asker.unreachable(tag)
    assert asker.heard == []


def test_more_signals_than_an_introducer_takes_are_refused_here_but_not_from_within_the_call(asker):
    for _ in range(MAX_INTRODUCTIONS_PER_MINUTE):
        asker.ask()
    asker.pipe.take()
    asker.ask()
    assert (asker.pipe.sent, asker.heard) == ([], [])
    asker.clock.pass_time(0)
    assert asker.heard == [(Why(RtcWhy.BUSY), START)]
    asker.clock.pass_time(TAG_LIFETIME)
    assert asker.ask() is not None


def test_a_refused_signal_makes_room(asker):
    tags = [asker.ask() for _ in range(MAX_INTRODUCTIONS_PER_MINUTE)]
    asker.unreachable(tags[0])
    asker.pipe.take()
    assert asker.ask() is not None


def test_a_closed_pipe_refuses_what_was_not_answered_and_all_that_follows(asker):
    asker.reply(asker.ask())
    asker.ask(CAROL)
    asker.pipe.take()
    asker.signals.closed(START)
    assert asker.heard == [(b"answer", START), (Why(RtcWhy.NO_CARRIER), START)]
    asker.signals.closed(START)
    asker.ask()
    asker.clock.pass_time(0)
    assert asker.heard[2:] == [(Why(RtcWhy.NO_CARRIER), START)]
    assert asker.pipe.sent == []


def test_a_refusal_may_ask_again(asker):
    """As a node does that goes on to its next introducer, or tries this one again."""
    asker.signals.signal(BOB, b"1", lambda answer, now: None, lambda why, now: asker.ask(sealed=b"2"), START)
    asker.signals.closed(START)
    asker.clock.pass_time(0)
    assert asker.heard == [(Why(RtcWhy.NO_CARRIER), START)]


def test_an_oversized_message_is_the_callers_fault(asker):
    with pytest.raises(LocalError):
        asker.signals.signal(BOB, bytes(MAX_SEALED + 1), lambda answer, now: None, lambda why, now: None, START)
    asker.signals.closed(START)


def test_a_delivered_message_is_replied_to_while_the_pipe_lives(asker):
    sealed, reply = asker.signals.delivery(Delivery(8, b"offer").encode())
    assert sealed == b"offer"
    reply(b"answer", START)
    assert asker.pipe.take() == [(RecordType.REPLY, Delivery(8, b"answer"))]
    asker.signals.closed(START)
    reply(b"late", START)
    assert asker.pipe.sent == []


@pytest.mark.parametrize("body", [b"", b"\0\0\0", bytes(4 + MAX_SEALED + 1)])
def test_bodies_that_are_no_records_raise_parse_errors(asker, clock, body):
    board, pipe = Switchboard(clock.outbox), Records()
    for call in (
        lambda: asker.signals.reply(body, START),
        lambda: asker.signals.unreachable(body, START),
        lambda: asker.signals.delivery(body),
        lambda: board.signal(pipe, bytes(32) + body, START) if len(body) > 100 else board.signal(pipe, body, START),
        lambda: board.reply(pipe, body, START),
    ):
        with pytest.raises(ParseError):
            call()


# Introducing


class Board:
    """A switchboard and its pipes."""

    def __init__(self, clock, *identities):
        self.clock = clock
        self.board = Switchboard(clock.outbox)
        self.pipes = [self.target(identity) for identity in identities]

    def target(self, identity):
        pipe = Records()
        self.board.register(identity, pipe)
        return pipe

    def signal(self, pipe, to=BOB, sealed=b"offer", tag=1):
        self.board.signal(pipe, Signal(tag, to, sealed).encode(), self.clock.now)

    def reply(self, pipe, tag, sealed=b"answer"):
        self.board.reply(pipe, Delivery(tag, sealed).encode(), self.clock.now)

    def refusals(self, pipe):
        return [record.reason for kind, record in pipe.take() if kind is RecordType.UNREACHABLE]

    def fill(self, to, count, source=None):
        """That many introductions to one node, by as few askers as can be, from one source if that is given."""
        askers = [Records(source) for _ in range(-(-count // MAX_PER_PAIR))]
        for number in range(count):
            self.signal(askers[number // MAX_PER_PAIR], to)
        assert not any(self.refusals(asker) for asker in askers)


@pytest.fixture
def bob(clock):
    return Board(clock, BOB)


def test_a_signal_is_delivered_and_replies_return_under_the_askers_tag(bob):
    asker, [target] = Records(), bob.pipes
    bob.signal(asker, tag=41)
    [(kind, delivery)] = target.take()
    assert (kind, delivery.sealed) == (RecordType.DELIVER, b"offer")
    assert delivery.tag % 2 == 0
    bob.reply(target, delivery.tag, b"answer")
    bob.reply(target, delivery.tag, b"candidates")
    assert asker.take() == [
        (RecordType.REPLY, Delivery(41, b"answer")),
        (RecordType.REPLY, Delivery(41, b"candidates")),
    ]


def test_askers_with_the_same_tag_are_told_apart(bob):
    one, two, [target] = Records(), Records(), bob.pipes
    bob.signal(one, tag=1)
    bob.signal(two, tag=1)
    tags = [delivery.tag for _, delivery in target.take()]
    bob.reply(target, tags[1], b"for two")
    assert (one.sent, two.take()) == ([], [(RecordType.REPLY, Delivery(1, b"for two"))])


def test_an_unknown_node_is_unreachable(bob):
    asker = Records()
    bob.signal(asker, NOBODY, tag=7)
    assert asker.take() == [(RecordType.UNREACHABLE, Unreachable(7, UNKNOWN))]


def test_the_newest_registration_gets_the_signals(bob):
    newer, asker = bob.target(BOB), Records()
    bob.signal(asker)
    assert (len(newer.take()), bob.pipes[0].sent) == (1, [])
    bob.board.register(BOB, bob.pipes[0])
    bob.signal(asker)
    assert (newer.sent, len(bob.pipes[0].take())) == ([], 1)
    bob.board.unregister(bob.pipes[0], START)
    bob.signal(asker)
    assert len(newer.take()) == 1
    bob.board.unregister(newer, START)
    asker.take()
    bob.signal(asker)
    assert bob.refusals(asker) == [UNKNOWN]


def test_a_node_has_so_many_pipes_that_lead_to_it_the_newest_ones(bob):
    pipes = [bob.target(BOB) for _ in range(MAX_OF_NODE + 5)]
    asker = Records()
    for pipe in reversed(pipes[5:]):
        bob.signal(asker)
        assert len(pipe.take()) == 1
        bob.board.unregister(pipe, START)
    asker.take()
    bob.signal(asker)
    assert bob.refusals(asker) == [UNKNOWN]
    for pipe in pipes[:5]:
        bob.board.unregister(pipe, START)
    assert not bob.board._registered


def test_introductions_end_in_turn_and_what_ended_makes_room(bob):
    askers = [Records() for _ in range(3)]
    for asker in askers:
        bob.signal(asker)
        bob.clock.pass_time(TAG_LIFETIME / 3)
    for left in (2, 1, 0):
        assert len(bob.board._live) == left
        bob.clock.pass_time(TAG_LIFETIME / 3)
    bob.clock.outbox.shift(1000.0)
    bob.signal(askers[0])
    bob.clock.pass_time(1000 + TAG_LIFETIME + 1)
    assert not bob.board._live and not any(port.asked or port.delivered for port in bob.board._ports.values())


def test_a_pipe_leads_to_the_node_that_it_last_proved_to_be(bob):
    [pipe], asker = bob.pipes, Records()
    bob.board.register(CAROL, pipe)
    bob.signal(asker, BOB)
    bob.signal(asker, CAROL)
    assert bob.refusals(asker) == [UNKNOWN]
    assert len(pipe.sent) == 1


def test_nobody_replies_with_somebody_elses_tag(clock):
    both = Board(clock, BOB, CAROL)
    bob, carol = both.pipes
    asker, stranger = Records(), Records()
    both.signal(asker, BOB)
    [(_, delivery)] = bob.take()
    for pipe in (carol, stranger, asker):
        both.reply(pipe, delivery.tag, b"forged")
    assert asker.sent == []
    both.reply(bob, delivery.tag, b"true")
    assert asker.take() == [(RecordType.REPLY, Delivery(1, b"true"))]


@pytest.mark.parametrize(
    "times", [(1800047022.5167432, 1800047041.4716318), (1800003436.9153738, 1800003455.144068)], ids=["one", "other"]
)
def test_timers_end_also_where_times_are_a_floats_last_bit_apart(clock, times):
    """The sum of two times of today has one bit less than each of them."""
    board = Board(clock, BOB)
    for clock.now in times:
        board.signal(Records())
    for _ in range(4):
        if (deadline := clock.outbox.deadline()) is not None:
            clock.pass_time(deadline - clock.now)
    assert clock.outbox.deadline() is None and not board.board._live


def test_a_tag_expires(bob):
    asker, [target] = Records(), bob.pipes
    bob.signal(asker)
    [(_, delivery)] = target.take()
    bob.clock.pass_time(TAG_LIFETIME - 1)
    bob.reply(target, delivery.tag, b"in time")
    assert len(asker.take()) == 1
    bob.clock.pass_time(1)
    bob.reply(target, delivery.tag, b"late")
    assert asker.sent == []


def test_replies_to_one_signal_are_bounded(bob):
    asker, [target] = Records(), bob.pipes
    bob.signal(asker)
    [(_, delivery)] = target.take()
    for _ in range(MAX_REPLIES + 5):
        bob.reply(target, delivery.tag)
    assert len(asker.sent) == MAX_REPLIES


def test_who_asks_too_much_is_refused_for_a_minute(clock):
    identities = [bytes([number]) * 32 for number in range(MAX_INTRODUCTIONS_PER_MINUTE + 1)]
    board, asker = Board(clock, *identities), Records()
    for identity in identities:
        board.signal(asker, identity)
    assert board.refusals(asker) == [BUSY]
    board.signal(Records(), identities[-1])
    assert len(board.pipes[-1].sent) == 1
    clock.pass_time(TAG_LIFETIME)
    board.signal(asker, identities[-1])
    assert board.refusals(asker) == []


def test_an_answer_gives_no_allowance_back(bob):
    """Limits count introductions a minute, not those that are under way."""
    asker, [target] = Records(), bob.pipes
    for _ in range(MAX_PER_PAIR):
        bob.signal(asker)
        bob.reply(target, target.take()[0][1].tag)
    asker.take()
    bob.signal(asker)
    assert bob.refusals(asker) == [BUSY]


def test_a_flood_of_one_pipe_does_not_starve_another(bob):
    flooder, asker, [target] = Records(), Records(), bob.pipes
    for _ in range(1000):
        bob.signal(flooder)
    assert len(target.take()) == MAX_PER_PAIR
    assert bob.refusals(flooder) == [BUSY] * (1000 - MAX_PER_PAIR)
    bob.signal(asker)
    assert (len(target.sent), asker.sent) == (1, [])


def test_one_node_gets_so_many_signals_a_minute_and_others_theirs(clock):
    board, source = Board(clock, BOB, CAROL), "one"
    board.fill(BOB, MAX_PER_TARGET, source)
    asker = Records(source)
    board.signal(asker, BOB)
    assert board.refusals(asker) == [BUSY]
    board.signal(asker, CAROL)
    assert len(board.pipes[1].sent) == 1


def test_a_source_that_uses_up_what_a_node_gets_shuts_out_no_other(bob):
    [target] = bob.pipes
    bob.fill(BOB, MAX_PER_TARGET, "flooder")
    target.take()
    honest = [Records(str(number)) for number in range(10)]
    for asker in honest:
        bob.signal(asker)
    assert len(target.take()) == len(honest)
    assert not any(bob.refusals(asker) for asker in honest)


def test_what_a_node_gets_is_bounded_however_many_sources_ask(bob):
    [target] = bob.pipes
    for number in range(1000):
        for _ in range(MAX_PER_TARGET // MAX_PER_PAIR):  # pipes of it
            pipe = Records(number + 1)
            for _ in range(MAX_PER_PAIR):
                bob.signal(pipe)
    assert MAX_PER_TARGET < len(target.sent) <= sum(MAX_PER_TARGET // n for n in range(1, MAX_PER_TARGET + 1)) <= 225


def test_an_asker_that_opens_a_new_pipe_leaves_its_targets_allowance_used(bob):
    for _ in range(MAX_PER_TARGET // MAX_PER_PAIR):
        asker = Records("one")
        for _ in range(MAX_PER_PAIR):
            bob.signal(asker)
        bob.board.unregister(asker, START)
    asker = Records("one")
    bob.signal(asker)
    assert bob.refusals(asker) == [BUSY]


def test_all_introductions_together_are_bounded(clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_TAGS", 3)
    board = Board(clock, BOB, CAROL)
    board.fill(BOB, 3)
    asker = Records()
    board.signal(asker, CAROL)
    assert board.refusals(asker) == [BUSY]
    clock.pass_time(TAG_LIFETIME)
    board.signal(asker, CAROL)
    assert board.refusals(asker) == []


def test_unknown_nodes_use_up_no_allowance(bob):
    asker = Records()
    for _ in range(1000):
        bob.signal(asker, NOBODY)
    assert bob.refusals(asker) == [UNKNOWN] * 1000
    bob.signal(asker)
    assert len(bob.pipes[0].sent) == 1


def test_whoever_waits_for_a_node_that_left_is_told(bob):
    waiting, answered, [target] = Records(), Records(), bob.pipes
    bob.signal(waiting, tag=1)
    bob.signal(answered, tag=2)
    bob.reply(target, target.take()[1][1].tag)
    answered.take()
    bob.board.unregister(target, START)
    assert waiting.take() == [(RecordType.UNREACHABLE, Unreachable(1, UNKNOWN))]
    assert answered.sent == []
    bob.board.unregister(target, START)


def test_nothing_is_sent_on_a_pipe_that_is_gone(bob):
    asker, [target] = Records(), bob.pipes
    bob.signal(asker)
    tag = target.take()[0][1].tag
    bob.board.unregister(asker, START)
    bob.reply(target, tag)
    bob.board.unregister(target, START)
    bob.reply(target, tag)
    assert (asker.sent, target.sent) == ([], [])


def test_after_a_minute_nothing_is_left_of_an_introduction(bob):
    asker, [target] = Records(), bob.pipes
    bob.signal(asker)
    bob.board.unregister(asker, START)
    bob.board.unregister(target, START)
    bob.clock.pass_time(TAG_LIFETIME)
    assert bob.clock.outbox.deadline() is None
    assert vars(bob.board) == vars(Switchboard(bob.clock.outbox))


# Both ends


def test_on_a_pipe_between_peers_each_side_may_ask_and_introduce(clock):
    """Both sides give every REPLY to both classes: the tags tell them apart."""
    one, two = Records(), Records()  # what each side sends
    boards = [Switchboard(clock.outbox), Switchboard(clock.outbox)]
    signals = [Signals(clock.outbox, one.send), Signals(clock.outbox, two.send)]
    boards[0].register(BOB, one)
    boards[1].register(CAROL, two)
    heard = []

    def hear(what, now):
        heard.append(what)

    def settle():
        while one.sent or two.sent:
            for side, pipe, sent in ((1, two, one.take()), (0, one, two.take())):
                for kind, record in sent:
                    if kind is RecordType.SIGNAL:
                        boards[side].signal(pipe, record.encode(), START)
                    elif kind is RecordType.DELIVER:
                        sealed, reply = signals[side].delivery(record.encode())
                        reply(b"re: " + sealed, START)
                    elif kind is RecordType.REPLY:
                        signals[side].reply(record.encode(), START)
                        boards[side].reply(pipe, record.encode(), START)

    signals[0].signal(
        CAROL, b"from 0", lambda answer, now: heard.append(answer), lambda why, now: heard.append(why), START
    )
    signals[1].signal(
        BOB, b"from 1", lambda answer, now: heard.append(answer), lambda why, now: heard.append(why), START
    )
    settle()
    assert sorted(heard) == [b"re: from 0", b"re: from 1"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 40)), max_size=60))
def test_a_message_only_goes_to_the_node_it_is_for_and_answers_only_to_who_asked(moves):
    clock = Clock()
    board = Board(clock, BOB, CAROL)
    identities = (BOB, CAROL, NOBODY)
    askers = [Records() for _ in range(4)]
    for who, whom, number in moves:
        if number == 0:
            board.board.unregister(askers[who], START)
        elif number < 20:
            board.signal(askers[who], identities[whom], bytes([who, whom, number]), tag=who * 100 + number)
        elif whom < 2:
            for tag in range(0, number):
                board.reply(board.pipes[whom], tag, bytes([whom]))
        clock.pass_time(1)
    for whom, pipe in enumerate(board.pipes):
        assert all(record.sealed[1] == whom for kind, record in pipe.sent if kind is RecordType.DELIVER)
    for who, asker in enumerate(askers):
        assert all(record.tag // 100 == who for _, record in asker.sent)


# Another introducer


def test_signals_for_who_is_not_here_go_to_another_introducer(clock):
    asker, onward = Records(), Records()
    board = Switchboard(clock.outbox, lambda to, pipe, now: onward if (to, pipe) == (BOB, asker) else None)
    board.signal(asker, Signal(7, BOB, b"offer").encode(), clock.now)
    [(kind, delivery)] = onward.take()
    assert (kind, delivery.sealed) == (RecordType.DELIVER, b"offer")
    board.reply(onward, Delivery(delivery.tag, b"answer").encode(), clock.now)
    assert asker.take() == [(RecordType.REPLY, Delivery(7, b"answer"))]
    board.signal(asker, Signal(8, CAROL, b"offer").encode(), clock.now)
    assert asker.take() == [(RecordType.UNREACHABLE, Unreachable(8, UNKNOWN))]
    board.register(BOB, bob := Records())
    board.signal(asker, Signal(9, BOB, b"offer").encode(), clock.now)
    assert (len(bob.take()), onward.take()) == (1, [])


@pytest.mark.parametrize("reason", [UNKNOWN, BUSY])
def test_what_another_introducer_refuses_is_refused_once(clock, reason):
    asker, onward = Records(), Records()
    board = Switchboard(clock.outbox, lambda to, pipe, now: onward)
    board.signal(asker, Signal(7, BOB, b"offer").encode(), clock.now)
    [(_, delivery)] = onward.take()
    for tag in (delivery.tag + 2, delivery.tag, delivery.tag):
        board.refused(onward, Unreachable(tag, reason).encode(), clock.now)
    board.refused(asker, Unreachable(7, reason).encode(), clock.now)
    board.reply(onward, Delivery(delivery.tag, b"late").encode(), clock.now)
    assert asker.take() == [(RecordType.UNREACHABLE, Unreachable(7, reason))]


def test_limits_hold_for_signals_to_another_introducer(clock):
    asker, onward = Records(), Records()
    board = Switchboard(clock.outbox, lambda to, pipe, now: onward)
    for tag in range(MAX_PER_PAIR + 1):
        board.signal(asker, Signal(tag, BOB, b"offer").encode(), clock.now)
    assert len(onward.take()) == MAX_PER_PAIR
    assert asker.take() == [(RecordType.UNREACHABLE, Unreachable(MAX_PER_PAIR, BUSY))]
