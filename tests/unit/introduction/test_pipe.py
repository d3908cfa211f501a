"""A pipe between two peers: greetings, proofs, answers, limits, and what a hostile end gets for its trouble."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.errors import EndReason
from convergence.introduction import pipe as module
from convergence.introduction.pipe import (
    ANSWER_TIMEOUT,
    ASK_INTERVAL,
    ASK_PAUSE,
    FETCHES_BURST,
    GREETING_TIMEOUT,
    MAX_ANSWER_HEADERS,
    MAX_ANSWER_ITEMS,
    MAX_BEHIND,
    MAX_FETCHING,
    MAX_PROOF_HEADERS,
    MAX_REGISTRATIONS,
    PEERING,
    REGISTRATION_WINDOW,
)
from convergence.wire.buckets import BucketRequest
from convergence.wire.facilitator import (
    MAX_DESCRIPTORS,
    MAX_SEALED,
    Ask,
    Delivery,
    Descriptors,
    Hello,
    RecordType,
    Register,
    Signal,
    Unreachable,
    UnreachableReason,
    encode_record,
    register_statement,
)
from convergence.wire.target import Role
from tests.unit.circuit.rig import CRYPTO, START, SeededRng
from tests.unit.introduction.ends import HOUR, End, NodeKeys, carry, descriptor_of, joined

PROTOCOL = EndReason.TORPROTOCOL


def keys_of(name):
    return NodeKeys.generate(CRYPTO, SeededRng(name))


def sign(keys, message):
    return CRYPTO.ed25519_sign(keys.identity_seed, message)


def greeted():
    """An accepting end that waits, its HELLO, and the keys of a stranger who said HELLO to it."""
    end, stranger = End("acceptor"), keys_of("stranger")
    end.pipe.opened(end.now)
    ((kind, body),) = end.stream.records()
    assert kind is RecordType.HELLO
    end.get(RecordType.HELLO, Hello(stranger.identity, bytes(32)).encode())
    return end, Hello.parse(body), stranger


# -- greetings and registrations


def test_both_ends_register_with_each_other():
    opener, acceptor = joined()
    for end, other in ((opener, acceptor), (acceptor, opener)):
        assert end.calls == ["met", "registered"]
        assert end.pipe.ready and end.pipe.offered and end.pipe.registered_since == START
        assert end.pipe.peer == other.keys.identity
        assert end.news == [other.offers.encode()]


def test_each_end_then_delivers_to_the_other():
    opener, acceptor = joined()
    for end, other in ((opener, acceptor), (acceptor, opener)):
        asker = End("asker", clock=end.outbox)
        end.switchboard.signal(asker.pipe, Signal(1, other.keys.identity, b"sealed").encode(), end.now)
        carry(opener, acceptor)
        ((sealed, reply),) = other.messages
        assert sealed == b"sealed"
        reply(b"answer", other.now)
        carry(opener, acceptor)
        assert asker.stream.records() == [(RecordType.REPLY, Delivery(1, b"answer").encode())]


def test_an_end_registers_only_with_a_node_that_has_proved_who_it_is():
    end, _, stranger = greeted()
    assert end.stream.records() == []
    assert end.pipe.peer is None and not end.pipe.offered


def test_an_opener_with_nothing_to_offer_stays_unknown():
    opener, acceptor = joined(opener_offers=False)
    assert opener.stream.total == 0 and opener.pipe.anonymous
    assert opener.pipe.ready and opener.calls == ["met"]
    assert acceptor.pipe.peer is None and not acceptor.pipe.offered and acceptor.calls == []


def test_who_is_not_known_may_still_ask_for_an_introduction_and_for_descriptors():
    opener, acceptor = joined(opener_offers=False)
    target = keys_of("target")
    elsewhere = End("elsewhere", clock=acceptor.outbox)
    acceptor.switchboard.register(target.identity, elsewhere.pipe)
    acceptor.directory.hear(descriptor_of(target).encode(), START)
    answers = []
    opener.pipe.signals.signal(target.identity, b"offer", lambda sealed, now: answers.append(sealed), None, START)
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    ((kind, body),) = elsewhere.stream.records()
    delivery = Delivery.parse(body)
    assert (kind, delivery.sealed) == (RecordType.DELIVER, b"offer")
    acceptor.switchboard.reply(elsewhere.pipe, Delivery(delivery.tag, b"answer").encode(), acceptor.now)
    carry(opener, acceptor)
    assert answers == [b"answer"]
    assert opener.news == [descriptor_of(target).encode()]


def test_an_accepting_end_with_nothing_to_offer_takes_registrations():
    opener, acceptor = joined(acceptor_offers=False)
    assert opener.calls == ["met", "registered"]
    assert acceptor.calls == ["met"] and acceptor.pipe.registered_since is None


def test_a_changed_descriptor_is_registered_again():
    opener, acceptor = joined()
    opener.offers = descriptor_of(opener.keys, published=START + 1, introducers=[acceptor.keys.identity])
    opener.pipe.register(opener.now)
    carry(opener, acceptor)
    assert acceptor.directory.get(opener.keys.identity) == opener.offers
    assert opener.calls == ["met", "registered"]  # once is enough


@pytest.mark.parametrize("who", ["another node", "ourselves"])
def test_a_hello_from_the_wrong_node_ends_the_pipe(who):
    acceptor = End("acceptor")
    opener = End("opener", opens=acceptor)
    opener.pipe.opened(opener.now)
    identity = opener.keys.identity if who == "ourselves" else keys_of("another").identity
    opener.get(RecordType.HELLO, Hello(identity, bytes(32)).encode())
    assert opener.stream.reason == PROTOCOL
    assert RecordType.REGISTER not in dict(opener.stream.records())


def test_an_opener_takes_nothing_before_hello():
    opener = End("opener", opens=End("acceptor"))
    opener.pipe.opened(opener.now)
    opener.get(RecordType.ASK, Ask(0).encode())
    assert opener.stream.reason == PROTOCOL


@pytest.mark.parametrize("first", [RecordType.HELLO, RecordType.ASK])
def test_hello_comes_first_and_once(first):
    end = End("acceptor")
    end.pipe.opened(end.now)
    hello = Hello(keys_of("stranger").identity, bytes(32)).encode()
    end.get(first, hello if first is RecordType.HELLO else Ask(0).encode())
    assert end.why is None
    end.get(RecordType.HELLO, hello)
    assert end.stream.reason == PROTOCOL


# -- registrations that are not good


def register(end, keys, hello, **changes):
    descriptor = changes.pop("descriptor", None) or descriptor_of(keys, **changes).encode()
    end.get(RecordType.REGISTER, Register(sign(keys, register_statement(hello)), descriptor).encode())


def test_a_stranger_registers_itself():
    end, hello, stranger = greeted()
    register(end, stranger, hello)
    assert end.why is None and end.pipe.peer == stranger.identity and end.calls == ["met"]


def test_a_registration_of_another_node_is_refused():
    end, hello, stranger = greeted()
    victim = keys_of("victim")
    register(end, stranger, hello, descriptor=descriptor_of(victim).encode())
    assert end.stream.reason == PROTOCOL and end.news == []


def test_a_registration_by_who_does_not_hold_the_key_is_refused():
    end, hello, _ = greeted()
    end, victim = End("acceptor"), keys_of("victim")
    end.pipe.opened(end.now)
    end.get(RecordType.HELLO, Hello(victim.identity, bytes(32)).encode())
    register(end, keys_of("stranger"), hello, descriptor=descriptor_of(victim).encode())
    assert end.stream.reason == PROTOCOL and end.pipe.peer is None


@pytest.mark.parametrize("change", ["nonce", "identity"])
def test_a_proof_made_for_another_pipe_or_node_is_refused(change):
    end, hello, stranger = greeted()
    register(end, stranger, replace(hello, **{change: b"x" * 32}))
    assert end.stream.reason == PROTOCOL and end.pipe.peer is None


@pytest.mark.parametrize(
    ("published", "lifetime"),
    [(START - HOUR, HOUR), (START - 2 * HOUR, HOUR), (START + 601, HOUR)],
    ids=["expires now", "expired", "from the future"],
)
def test_a_descriptor_that_is_not_valid_now_is_refused(published, lifetime):
    end, hello, stranger = greeted()
    register(end, stranger, hello, published=published, lifetime=lifetime)
    assert end.stream.reason == PROTOCOL and end.pipe.peer is None


def test_a_descriptor_that_was_changed_is_refused():
    end, hello, stranger = greeted()
    forged = replace(descriptor_of(stranger), roles=Role.RELAY | Role.EXIT)
    register(end, stranger, hello, descriptor=forged.encode())
    assert end.stream.reason == PROTOCOL and end.news == []


def test_a_registration_without_hello_is_refused():
    end = End("acceptor")
    end.pipe.opened(end.now)
    ((_, body),) = end.stream.records()
    register(end, keys_of("stranger"), Hello.parse(body))
    assert end.stream.reason == PROTOCOL


def test_nothing_is_delivered_for_a_node_once_its_pipe_is_closed():
    opener, acceptor = joined()
    opener.pipe.close("enough", opener.now)
    acceptor.pipe.ended(acceptor.now)
    asker = End("asker", clock=acceptor.outbox)
    signal = Signal(1, opener.keys.identity, b"sealed")
    acceptor.switchboard.signal(asker.pipe, signal.encode(), acceptor.now)
    unknown = Unreachable(1, UnreachableReason.UNKNOWN)
    assert asker.stream.records() == [(RecordType.UNREACHABLE, unknown.encode())]


def test_registrations_are_limited():
    end, hello, stranger = greeted()
    for _ in range(MAX_REGISTRATIONS):
        register(end, stranger, hello)
    end.get(RecordType.REGISTERED)
    end.pass_time(REGISTRATION_WINDOW)
    for _ in range(MAX_REGISTRATIONS):
        register(end, stranger, hello)
    assert end.why is None
    register(end, stranger, hello)
    assert end.stream.reason == PROTOCOL


# -- records that are not due


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RecordType.REGISTERED, b""),
        (RecordType.DELIVER, Delivery(2, b"sealed").encode()),
        (RecordType.DESCRIPTORS, b""),
        (RecordType.HEADER, b""),
        (RecordType.LIST, b""),
        (RecordType.NODES, b""),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_record_that_is_not_due_ends_the_pipe(kind, body):
    end, *_ = greeted()
    end.get(kind, body)
    assert end.stream.reason == PROTOCOL


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"\xff\xff\xff\xff\x06", bytes(4) + b"\x2a"])
def test_garbage_ends_the_pipe(data):
    end, *_ = greeted()
    end.pipe.data(data, end.now)
    assert end.stream.reason == PROTOCOL


@settings(max_examples=200)
@given(
    records=st.lists(st.tuples(st.sampled_from(PEERING), st.binary(max_size=120)), max_size=8),
    tail=st.binary(max_size=40),
    cut=st.integers(1, 64),
    opens=st.booleans(),
)
def test_whatever_comes_nothing_breaks(records, tail, cut, opens):
    end = End("end", opens=End("other") if opens else None)
    end.pipe.opened(end.now)
    data = b"".join(len(body).to_bytes(4, "big") + bytes([kind]) + body for kind, body in records) + tail
    for at in range(0, len(data), cut):
        if not end.pipe.closed:
            end.pipe.data(data[at : at + cut], end.now)
    end.pass_time(2 * ANSWER_TIMEOUT)
    assert end.pipe.closed == (end.stream.reason is not None)


# -- descriptors


def fill(directory, count, now=START):
    """Descriptors of so many nodes, each a second younger than the one before; returns them."""
    nodes = [descriptor_of(keys_of(f"node {index}"), published=START - index).encode() for index in range(count)]
    assert all([directory.hear(node, now) for node in nodes])
    return nodes


def test_an_answer_of_several_records_brings_all_descriptors():
    opener, acceptor = joined()
    nodes = fill(acceptor.directory, 300)
    assert sum(map(len, nodes)) > MAX_DESCRIPTORS
    opener.news.clear()
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    assert set(opener.news) == {*nodes, opener.offers.encode()}
    assert opener.calls[-1] == "answered"


def test_an_answer_begins_at_the_time_that_was_asked_for():
    opener, acceptor = joined()
    nodes = fill(acceptor.directory, 10)
    opener.news.clear()
    opener.pipe.ask(int(START) - 4, opener.now)
    carry(opener, acceptor)
    assert set(opener.news) == {*nodes[:5], opener.offers.encode()}


def test_an_answer_holds_no_more_than_its_limits_and_the_newest(monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER_ITEMS", 3)
    opener, acceptor = joined()
    nodes = fill(acceptor.directory, 10)
    opener.news.clear()
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    assert set(opener.news) == {opener.offers.encode(), *nodes[:2]} and opener.why is None


def test_an_answer_waits_for_a_slow_reader():
    opener, acceptor = joined()
    fill(acceptor.directory, 500)
    opener.news.clear()
    acceptor.stream.takes = 1
    opener.pipe.ask(0, opener.now)
    acceptor.pipe.data(opener.stream.take(), acceptor.now)
    rounds = 0
    while acceptor.stream.sent:
        assert len(acceptor.stream.sent) <= MAX_DESCRIPTORS + 5
        opener.pipe.data(acceptor.stream.take(), opener.now)
        acceptor.stream.congested = False
        acceptor.pipe.drained(acceptor.now)
        rounds += 1
    assert len(opener.news) == 501 and opener.calls[-1] == "answered" and rounds > 2


def test_an_answer_that_is_not_read_ends_the_pipe_and_holds_no_copies():
    opener, acceptor = joined()
    keys = [NodeKeys.generate(CRYPTO, SeededRng(f"far {index}")) for index in range(50)]
    for item in keys:
        acceptor.directory.hear(descriptor_of(item).encode(), acceptor.now)
    one, two = (acceptor.directory.newer(0, acceptor.now) for _ in range(2))
    assert len(one) > 50 and all(a is b for a, b in zip(one, two, strict=True))
    acceptor.stream.congested = True
    acceptor.pass_time(ASK_INTERVAL)
    acceptor.get(RecordType.ASK, Ask(0).encode())
    acceptor.pass_time(ANSWER_TIMEOUT - 1)
    assert acceptor.why is None
    acceptor.pass_time(1)
    assert acceptor.why == "the answer to ASK is not read" and acceptor.pipe._answer is None


def test_asking_too_often_ends_the_pipe():
    end, *_ = greeted()
    end.get(RecordType.ASK, Ask(0).encode())
    end.pass_time(ASK_INTERVAL)
    end.get(RecordType.ASK, Ask(0).encode())
    assert end.why is None
    end.pass_time(ASK_INTERVAL / 2)
    end.get(RecordType.ASK, Ask(0).encode())
    assert end.stream.reason == PROTOCOL


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_pauses_between_questions_do_not_change_when_the_clock_is_set(by):
    opener, acceptor = joined()
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    opener.outbox.shift(by)
    opener.outbox.now += by
    assert not opener.pipe.may_ask(opener.now)
    opener.pass_time(ASK_PAUSE)
    assert opener.pipe.may_ask(opener.now)
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    assert (opener.why, acceptor.why) == (None, None)


def test_an_end_asks_again_only_after_a_pause_and_an_answer():
    opener, acceptor = joined()
    assert opener.pipe.may_ask(opener.now)
    opener.pipe.ask(0, opener.now)
    opener.pass_time(ASK_PAUSE)
    assert not opener.pipe.may_ask(opener.now)
    carry(opener, acceptor)
    assert opener.pipe.may_ask(opener.now)
    opener.stream.congested = True
    assert not opener.pipe.may_ask(opener.now)


def asked():
    opener, acceptor = joined()
    opener.pipe.ask(0, opener.now)
    opener.stream.take()
    return opener


def test_an_answer_that_does_not_come_ends_the_pipe():
    opener = asked()
    opener.get(RecordType.DESCRIPTORS, Descriptors((bytes(100),)).encode())
    opener.pass_time(ANSWER_TIMEOUT)
    assert opener.stream.reason == EndReason.TIMEOUT


def test_an_answer_of_too_many_descriptors_ends_the_pipe():
    opener = asked()
    body = Descriptors((b"",) * (MAX_ANSWER_ITEMS // 2)).encode()
    opener.get(RecordType.DESCRIPTORS, body)
    opener.get(RecordType.DESCRIPTORS, body)
    assert opener.why is None
    opener.get(RecordType.DESCRIPTORS, Descriptors((b"",)).encode())
    assert opener.stream.reason == PROTOCOL


def test_an_answer_of_too_many_bytes_ends_the_pipe():
    opener = asked()
    for _ in range(64):
        opener.get(RecordType.DESCRIPTORS, Descriptors((bytes(1100),) * 29).encode())
    assert opener.stream.reason == PROTOCOL
    assert len(opener.news) < 1000


def test_an_answer_brings_the_headers_that_are_known():
    opener, acceptor = joined()
    acceptor.told = [b"one", b"other"]
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    assert opener.headers_heard == [b"one", b"other"]


@pytest.mark.parametrize("had", [[], [b"one"], [b"one", b"false"], [b"one", b"other"]])
def test_who_has_the_same_headers_is_not_sent_them(had):
    opener, acceptor = joined()
    opener.told, acceptor.told = had, [b"one", b"other"]
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    assert opener.headers_heard == ([] if had == acceptor.told else acceptor.told)
    assert "answered" in opener.calls


def test_who_asks_brings_the_proof_of_a_lie_along():
    """So it reaches nodes that ask nobody."""
    opener, acceptor = joined()
    opener.proves = [b"one", b"other"]
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    assert acceptor.headers_heard == [b"one", b"other"] and acceptor.why is None


def test_who_asks_brings_no_more_than_a_proof():
    opener, acceptor = joined()
    opener.proves = [b"header"] * (MAX_PROOF_HEADERS + 1)
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    assert acceptor.stream.reason == PROTOCOL and len(acceptor.headers_heard) == MAX_PROOF_HEADERS


def test_an_answer_of_too_many_headers_ends_the_pipe():
    opener = asked()
    for _ in range(MAX_ANSWER_HEADERS):
        opener.get(RecordType.HEADER, b"header")
    assert opener.why is None
    opener.get(RecordType.HEADER, b"header")
    assert opener.stream.reason == PROTOCOL


def test_descriptors_after_the_end_of_an_answer_end_the_pipe():
    opener = asked()
    opener.get(RecordType.DESCRIPTORS, b"")
    assert opener.why is None
    opener.get(RecordType.DESCRIPTORS, b"")
    assert opener.stream.reason == PROTOCOL


# -- buckets

REQUEST = BucketRequest(1, 2, 3)


def fetch(end, *numbers):
    got = []
    for number in numbers:
        end.pipe.fetch(
            replace(REQUEST, index=number), lambda body, now, number=number: got.append((number, body)), START
        )
    return got


def test_buckets_come_in_the_order_of_the_requests_whenever_they_are_found():
    opener, acceptor = joined()
    got = fetch(opener, 1, 2, 3)
    carry(opener, acceptor)
    (first, give_first), (_, give_second), (_, give_third) = acceptor.requests
    assert first == replace(REQUEST, index=1)
    give_second(b"", b"two", START)
    give_third(b"newer header", b"three", START)
    carry(opener, acceptor)
    assert got == []
    give_first(b"", b"", START)
    carry(opener, acceptor)
    assert got == [(1, b""), (2, b"two"), (3, b"three")] and opener.headers_heard == [b"newer header"]


def test_a_neighbour_that_opened_the_pipe_is_not_asked_and_may_not_send_any():
    """It would hold a bucket for each of a thousand pipes."""
    _, acceptor = joined()
    acceptor.get(RecordType.BUCKET, b"bucket")
    assert acceptor.stream.reason == PROTOCOL


@pytest.mark.parametrize("kind", [RecordType.BUCKET, RecordType.HEADER])
def test_what_was_not_asked_for_ends_the_pipe(kind):
    opener, _ = joined()
    opener.get(kind, b"x")
    assert opener.stream.reason == PROTOCOL


def test_one_header_comes_with_one_bucket():
    opener, _ = joined()
    fetch(opener, 1)
    opener.get(RecordType.HEADER, b"header")
    assert opener.why is None
    opener.get(RecordType.HEADER, b"header")
    assert opener.stream.reason == PROTOCOL


def test_requests_for_buckets_are_limited():
    opener, acceptor = joined()
    assert fetch(opener, *range(MAX_FETCHING + 1)) == [(MAX_FETCHING, b"")]
    for _ in range(int(FETCHES_BURST)):
        acceptor.get(RecordType.FETCH, REQUEST.encode())
    assert acceptor.why is None
    acceptor.get(RecordType.FETCH, REQUEST.encode())
    assert acceptor.stream.reason == PROTOCOL


def test_who_does_not_read_buckets_loses_the_pipe_and_who_waits_is_told():
    opener, acceptor = joined()
    got = fetch(opener, 1, 2)
    carry(opener, acceptor)
    acceptor.stream.congested = True
    for _, give in acceptor.requests:
        give(b"", bytes(MAX_BEHIND // 2 + 1), START)
    assert acceptor.stream.reason == EndReason.TIMEOUT
    opener.pipe.close("gone", START)
    assert got == [(1, b""), (2, b"")]
    assert fetch(opener, 3) == [(3, b"")]


# -- back-pressure and the end


def test_what_a_slow_reader_does_not_take_is_dropped():
    opener, acceptor = joined()
    acceptor.stream.congested = True
    before = acceptor.stream.total
    for _ in range(100):
        acceptor.pipe.send(RecordType.DELIVER, Delivery(2, bytes(MAX_SEALED)).encode(), START)
    assert MAX_BEHIND / 2 < acceptor.stream.total - before <= MAX_BEHIND
    acceptor.stream.congested = False
    acceptor.pipe.drained(acceptor.now)
    acceptor.stream.take()
    acceptor.pipe.send(RecordType.DELIVER, Delivery(2, b"sealed").encode(), START)
    assert len(acceptor.stream.records()) == 1


def test_the_end_of_a_pipe_refuses_what_was_not_answered_and_is_told_once():
    opener, acceptor = joined()
    refusals = []
    opener.pipe.signals.signal(bytes(32), b"offer", None, lambda why, now: refusals.append(why), START)
    opener.pipe.ask(0, opener.now)
    opener.pipe.aborted(EndReason.DESTROY, opener.now)
    opener.pipe.close("again", opener.now)
    opener.pipe.send(RecordType.ASK, Ask(0).encode(), START)
    opener.pass_time(2 * ANSWER_TIMEOUT)
    assert len(refusals) == 1 and opener.stream.reason is None and not opener.pipe.ready


def test_who_opens_a_pipe_and_says_nothing_loses_it():
    end = End("acceptor")
    end.pipe.opened(end.now)
    end.pass_time(GREETING_TIMEOUT - 1)
    assert end.why is None
    end.pass_time(1)
    assert end.why == "no record in time" and end.stream.reason == EndReason.TIMEOUT


def test_who_says_hello_and_does_not_register_loses_the_pipe():
    end, _, stranger = greeted()
    end.pass_time(GREETING_TIMEOUT)
    assert end.why == "no registration in time"


def test_who_does_not_say_hello_may_ask_for_as_long_as_he_likes():
    opener, acceptor = joined(opener_offers=False)
    opener.pipe.ask(0, opener.now)
    carry(opener, acceptor)
    acceptor.pass_time(100 * GREETING_TIMEOUT)
    assert acceptor.why is None


def test_who_does_not_answer_a_registration_loses_the_pipe():
    end, hello, stranger = greeted()
    register(end, stranger, hello)
    assert end.pipe.offered
    end.pass_time(ANSWER_TIMEOUT - 1)
    assert end.why is None
    end.pass_time(1)
    assert end.why == "no answer to REGISTER"


def test_nothing_is_read_after_the_record_that_ended_the_pipe():
    end, *_ = greeted()
    ask = encode_record(RecordType.ASK, Ask(0).encode())
    end.stream.take()
    end.pipe.data(encode_record(RecordType.REGISTERED) + ask, end.now)
    assert end.stream.records() == []


def test_what_was_read_earns_credit_whole_record_or_not():
    end, *_ = greeted()
    record = encode_record(RecordType.ASK, Ask(0).encode())
    before = end.stream.used
    end.pipe.data(record[:3], end.now)
    end.pipe.data(record[3:], end.now)
    assert end.stream.used - before == len(record)


def test_a_far_end_that_writes_no_more_closes_the_pipe():
    opener, acceptor = joined()
    opener.pipe.ended(opener.now)
    assert opener.pipe.closed and opener.why == "the other end closed it" and opener.stream.reason is None
