"""Strangers, carriers and peers that cheat: forged, swapped, replayed, stale and far too many introductions."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convergence.codes import RtcWhy
from convergence.introduction.links import (
    CONNECT_TIMEOUT,
    MAX_PENDING,
    MAX_PER_PEER,
    MAX_SESSIONS,
    MAX_SKEW,
    MAX_UPDATES,
    OFFERS_IN_ALL,
    OFFERS_PER_SENDER,
    OFFERS_PER_SOURCE,
    OWN_SHARE,
)
from convergence.ports import DtlsBinding
from convergence.wire.sdp import Candidates
from tests.unit.introduction.parties import (
    ANSWER,
    CANDIDATES,
    OFFER,
    Way,
    World,
    candidate,
    description,
    forge,
    seal,
    unseal,
)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def pair(world):
    return world.pair()


def session(number):
    return number.to_bytes(16, "big")


def strangers(world):
    """Nodes without end."""
    number = 0
    while True:
        yield world.add(f"stranger {number}")
        number += 1


def link(world, one, two):
    channel = one.connect(two)
    world.run()
    return channel, two.heard("opened")[-1][0]


# -- forged


def no_message(one, two, other):
    return b"noise" * 20


def cut_short(one, two, other):
    return forge(one, two)[:-1]


def no_introduction(one, two, other):
    return seal(b"\0" * 200, two, one.rng)


def another_nodes_signature(one, two, other):
    return forge(one, two, signer=other)


def meant_for_another(one, two, other):
    return forge(one, two, signed_for=other)


def sealed_to_another(one, two, other):
    return forge(one, other)


def from_the_future(one, two, other):
    return forge(one, two, sent=int(one.world.now) + MAX_SKEW + 1)


def stale(one, two, other):
    return forge(one, two, sent=int(one.world.now) - MAX_SKEW - 1)


def before_time_itself(one, two, other):
    return forge(one, two, sent=0)


def by_ourselves(one, two, other):
    return forge(two, two)


def an_answer_to_nothing(one, two, other):
    return forge(one, two, ANSWER)


def candidates_of_nothing(one, two, other):
    return forge(one, two, CANDIDATES)


@pytest.mark.parametrize(
    "make",
    [
        no_message,
        cut_short,
        no_introduction,
        another_nodes_signature,
        meant_for_another,
        sealed_to_another,
        from_the_future,
        stale,
        before_time_itself,
        by_ourselves,
        an_answer_to_nothing,
        candidates_of_nothing,
    ],
)
def test_what_is_of_no_use_is_dropped_and_counted_for_its_source(world, pair, make):
    one, two = pair
    other = world.add("other")
    replies = []
    for _ in range(OFFERS_PER_SOURCE):
        two.delivered(make(one, two, other), lambda sealed, now: replies.append(sealed))
    assert not two.ends and not two.events and not replies
    two.delivered(forge(one, two))
    assert not two.ends, "this source has said enough"
    two.delivered(forge(one, two), source="another pipe")
    assert len(two.ends) == 1


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2048), st.booleans())
def test_nothing_that_is_delivered_raises(data, sealed):
    world = World()
    one, two = world.pair()
    two.delivered(seal(data, two, one.rng) if sealed else data)
    assert not two.ends


def test_an_offer_that_is_fresh_by_a_clock_at_the_limit_is_taken(world, pair):
    one, two = pair
    for number, skew in enumerate((-MAX_SKEW, MAX_SKEW)):
        two.delivered(forge(one, two, session=session(number), sent=int(world.now) + skew))
    assert len(two.ends) == 2


def test_an_offer_with_a_key_that_nothing_can_be_sealed_to_ends_its_session_only(world, pair):
    one, two = pair
    two.delivered(forge(one, two, reply_key=bytes(32)))
    world.run()
    assert two.states() == ["connecting", "failed"] and not two.links.snapshot()


# -- swapped


def change(sealed):
    return sealed[:60] + bytes([sealed[60] ^ 1]) + sealed[61:]


def test_a_carrier_that_changes_an_offer_brings_about_nothing(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "lose")]
    one.connect(two)
    world.run(1)
    two.delivered(change(one.carriers[0].signals[0]))
    assert not two.ends


def test_a_carrier_that_changes_the_answer_is_not_believed_and_the_next_is_asked(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "no answers"), Way(world, two)]
    channel = one.connect(two)
    world.run(1)
    way = one.carriers[0]
    way.bring(change(way.replies[0]))
    assert not one.of(ANSWER)
    world.run(5)
    assert [item[0] for item in one.heard("opened")] == [channel]


def test_a_carrier_that_answers_in_the_nodes_place_is_not_believed(world, pair):
    """It knows all that an introducer can: whom the offer is for. Even with the session's name it gains nothing."""
    one, two = pair
    between = world.add("between")
    one.carriers = [Way(world, two, "no answers")]
    one.connect(two)
    world.run(1)
    way = one.carriers[0]
    offer = unseal(way.signals[0], two)
    for sender, signer, signed_for in ((between, None, None), (two, between, None), (two, two, between)):
        way.bring(forge(sender, one, ANSWER, session=offer.session, signer=signer, signed_for=signed_for))
    assert not one.of(ANSWER)


def test_an_offer_with_anothers_certificate_needs_anothers_signature(world, pair):
    """An introducer that opens its own session with each side is only ever itself to them."""
    one, two = pair
    between = world.add("between")
    what = description(OFFER, "between")
    two.delivered(forge(one, two, what=what, signer=between))
    assert not two.ends
    two.delivered(forge(between, two, what=what))
    world.run()
    [end] = two.ends.values()
    two.links.opened(end.channel, world.now)
    [(_, binding, peer)] = two.heard("opened")
    assert peer == between.identity and binding == DtlsBinding(b"rtc" + what.fingerprint + end.own().fingerprint)


def test_one_answer_is_taken(world, pair):
    one, two = pair
    link(world, one, two)
    way = one.carriers[0]
    name = unseal(way.signals[0], two).session
    for sent in (0, 1, 100):
        way.bring(forge(two, one, ANSWER, session=name, sent=int(world.now) + sent, what=description(ANSWER, "more")))
    way.bring(forge(two, one, OFFER, session=name, sent=int(world.now) + 200))
    assert len(one.of(ANSWER)) == 1 and not one.heard("closed")


def test_an_answer_in_another_session_of_the_same_node_is_not_taken(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "no answers")]
    one.connect(two)
    world.run(1)
    one.carriers[0].bring(forge(two, one, ANSWER, session=session(9)))
    assert not one.of(ANSWER)


def test_candidates_are_not_taken_before_the_answer(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "no answers")]
    one.connect(two)
    world.run(1)
    way = one.carriers[0]
    name = unseal(way.signals[0], two).session
    way.bring(forge(two, one, CANDIDATES, session=name, sent=int(world.now) + 5))
    way.bring(way.replies[0])
    assert [kind for kind, _ in one.ends[1].given] == [ANSWER], "and do not make the answer an old one"


def test_candidates_of_one_are_not_taken_from_another(world, pair):
    one, two = pair
    link(world, one, two)
    other = world.add("other")
    name = unseal(one.carriers[0].signals[0], two).session
    two.delivered(forge(other, two, CANDIDATES, session=name, sent=int(world.now) + 5))
    assert not two.of(CANDIDATES)


# -- replayed


def test_an_offer_is_taken_once_for_as_long_as_it_is_fresh(world, pair):
    one, two = pair
    offer = forge(one, two, sent=int(world.now) + MAX_SKEW)
    two.delivered(offer)
    for _ in range(2 * MAX_SKEW // 100 + 2):
        world.run(100)
        two.delivered(offer)
    assert len(two.ends) == 1
    assert not two.links.snapshot(), "the one session was given up long ago"


def test_a_replayed_offer_of_an_open_session_does_nothing_but_repeat_the_answer(world, pair):
    one, two = pair
    link(world, one, two)
    replies = []
    for _ in range(100):
        two.delivered(one.carriers[0].signals[0], lambda sealed, now: replies.append(sealed), source="replayer")
    assert len(two.ends) == 1 and len(two.of(OFFER)) == 1
    assert replies == one.carriers[0].replies[:1] * OFFERS_PER_SOURCE


def test_replayed_candidates_are_not_taken_twice(world, pair):
    one, two = pair
    channel, _ = link(world, one, two)
    one.described(channel, CANDIDATES, Candidates((candidate(1),)).to_lines())
    world.run()
    two.delivered(one.carriers[0].signals[-1])
    assert len(two.of(CANDIDATES)) == 1


def test_a_replayed_restart_does_not_undo_a_later_one(world, pair):
    one, two = pair
    channel, other = link(world, one, two)
    for _ in range(2):
        one.restart(channel)
        world.run()
    first, second = one.carriers[0].signals[1:]
    two.delivered(first)
    assert len(two.of(OFFER)) == 3 and two.ends[other].remote == one.ends[channel].own()


def test_a_replayed_offer_costs_its_sender_nothing(world, pair):
    one, two = pair
    offer = forge(one, two)
    two.delivered(offer)
    world.run(CONNECT_TIMEOUT)
    for _ in range(OFFERS_PER_SENDER):
        two.delivered(offer, source="replayer")
    two.delivered(forge(one, two, session=session(2)))
    assert len(two.ends) == 2


def test_an_older_offer_does_not_push_out_a_newer_one(world, pair):
    one, two = pair
    now = int(world.now)
    two.delivered(forge(one, two, session=session(2), sent=now))
    two.delivered(forge(one, two, session=session(1), sent=now - 1))
    assert len(two.ends) == 1 and not two.heard("replaced")


def test_what_was_seen_cannot_be_pushed_out_by_more(world, pair, monkeypatch):
    one, two = pair
    monkeypatch.setattr(two.links._seen, "_limit", 3)
    many = strangers(world)
    offers = [forge(next(many), two) for _ in range(5)]
    for offer in offers:
        two.delivered(offer)
    assert len(two.ends) == 3
    world.run(CONNECT_TIMEOUT)
    for offer in offers:
        two.delivered(offer)
    assert len(two.ends) == 3


def test_a_replayed_answer_does_not_answer_a_restart(world, pair):
    one, two = pair
    channel, _ = link(world, one, two)
    answer = one.carriers[0].replies[0]
    one.carriers = [Way(world, two, "lose")]
    one.restart(channel)
    one.carriers[0].bring(answer)
    assert len(one.of(ANSWER)) == 1 and one.links.snapshot()[0]["state"] == "restarting"


def test_who_offered_does_not_answer(world, pair):
    one, two = pair
    two.delivered(forge(one, two))
    two.delivered(forge(one, two, ANSWER, sent=int(world.now) + 1, what=description(ANSWER, f"forged {one.name}")))
    assert not two.of(ANSWER) and len(two.of(OFFER)) == 1


# -- floods


def test_one_sender_gets_so_many_a_minute(world, pair):
    one, two = pair
    for number in range(OFFERS_PER_SENDER + 1):
        two.delivered(forge(one, two, session=session(number)), source=number)
    assert len(two.ends) == OFFERS_PER_SENDER
    world.run(60)
    two.delivered(forge(one, two, session=session(99)), source="other")
    assert len(two.ends) == OFFERS_PER_SENDER + 1


def test_one_source_brings_so_many_a_minute(world, pair):
    _, two = pair
    many = strangers(world)
    for _ in range(OFFERS_PER_SOURCE + 5):
        two.delivered(forge(next(many), two))
    assert len(two.ends) == OFFERS_PER_SOURCE


def test_the_offers_of_all_are_so_many_a_minute(world, pair, monkeypatch):
    _, two = pair
    monkeypatch.setattr("convergence.introduction.links.MAX_PENDING", 10**6)
    many = strangers(world)
    for number in range(OFFERS_IN_ALL + 5):
        two.delivered(forge(next(many), two), source=number)
    assert len(two.ends) == OFFERS_IN_ALL


def test_sources_that_use_all_offers_up_leave_others_their_part(world, pair):
    one, two = pair
    many = strangers(world)
    for number in range(OFFERS_IN_ALL):
        two.delivered(forge(next(many), two), source=number % 3)
        world.run(0.4)
    before = len(two.ends)
    assert before == OFFERS_IN_ALL
    two.delivered(forge(next(many), two), source=0)
    assert len(two.ends) == before
    two.delivered(forge(one, two), source="modest")
    assert len(two.ends) == before + 1


def test_a_source_whose_calls_take_all_places_gives_one_up_for_a_call_of_another(world, pair):
    one, two = pair
    many = strangers(world)
    for number in range(MAX_PENDING):
        two.delivered(forge(next(many), two), source=number % 2)
    two.delivered(forge(next(many), two), source=0)
    assert len(two.ends) == MAX_PENDING
    two.delivered(forge(one, two), source="modest")
    ended = [end.closed for end in two.ends.values()]
    assert ended == [RtcWhy.BUSY] + [None] * MAX_PENDING


def test_a_second_call_of_a_node_takes_the_place_of_its_first_however_crowded_it_is(world, pair):
    one, two = pair
    many = strangers(world)
    two.delivered(forge(one, two, session=session(1)), source="greedy")
    for _ in range(OFFERS_PER_SOURCE - 1):
        two.delivered(forge(next(many), two), source="greedy")
    while len(two.ends) < MAX_PENDING:
        two.delivered(forge(next(many), two), source="other")
    two.delivered(forge(one, two, session=session(2)), source="modest")
    first, *_, last = two.ends
    assert two.told == [("replaced", first, last)]
    assert len(two.links.snapshot()) == MAX_PENDING


def test_what_is_not_open_yet_is_bounded(world, pair):
    one, two = pair
    many = strangers(world)
    for number in range(MAX_PENDING + 5):
        two.delivered(forge(next(many), two), source=number)
    assert len(two.ends) == MAX_PENDING
    assert two.connect(one) is not None, "and leaves us our own calls"
    world.run(CONNECT_TIMEOUT)
    assert [item["state"] for item in two.links.snapshot()] == ["open"]


def test_one_sender_has_one_connection_in_the_making(world, pair):
    one, two = pair
    for number in range(3):
        two.delivered(forge(one, two, session=session(number)))
    assert [end.closed is None for end in two.ends.values()] == [False, False, True]
    assert len(two.links.snapshot()) == 1


def test_all_that_is_open_is_bounded(world, pair, monkeypatch):
    _, two = pair
    many = strangers(world)
    for number in range(MAX_SESSIONS + 5):
        if number % 50 == 0:
            world.run(60)
        two.delivered(forge(next(many), two), source=number)
        world.run(0.05)
        two.links.opened(max(two.ends), world.now)
        two.poll()
    most = MAX_SESSIONS - MAX_SESSIONS // OWN_SHARE  # the others are for calls of our own
    assert len(two.heard("opened")) == most == len(two.ends)


def test_one_node_does_not_take_all_places(world, pair):
    one, two = pair
    for number in range(MAX_PER_PEER + 1):
        two.delivered(forge(one, two, session=session(number)))
        world.run(0.05)
        two.links.opened(max(two.ends), world.now)
        two.poll()
    assert len(two.ends) == MAX_PER_PEER


def test_the_call_that_gives_way_takes_no_place(world, pair):
    low, high = pair
    for number in range(MAX_PER_PEER - 1):
        high.delivered(forge(low, high, session=session(number)))
        world.run(0.05)
        high.links.opened(max(high.ends), world.now)
        high.poll()
    high.carriers = [Way(world, low, "lose")]
    channel = high.connect(low)
    high.delivered(forge(low, high, session=session(99)))
    assert [item[0] for item in high.heard("replaced")] == [channel]


def test_the_messages_after_an_offer_are_bounded(world, pair):
    one, two = pair
    now = int(world.now)
    two.delivered(forge(one, two))
    for number in range(MAX_UPDATES + 5):
        two.delivered(forge(one, two, CANDIDATES, sent=now + 1 + number))
    assert len(two.of(CANDIDATES)) == MAX_UPDATES
    two.delivered(forge(one, two, OFFER, sent=now + 100))
    two.delivered(forge(one, two, CANDIDATES, sent=now + 101))
    assert len(two.of(CANDIDATES)) == MAX_UPDATES + 1, "an ICE restart brings new ones"


def test_an_answerer_makes_us_send_to_so_many_addresses_only(world, pair):
    one, two = pair
    one.connect(two)
    world.run()
    (name,) = {unseal(sealed, two).session for sealed in one.carriers[0].signals}
    before = len(one.of(CANDIDATES))
    what = Candidates(tuple(candidate(number) for number in range(16)))
    for number in range(5):
        sent = int(world.now) + 10 + number
        one.carriers[0].bring(forge(two, one, CANDIDATES, session=name, sent=sent, what=what))
    assert len(one.of(CANDIDATES)) - before == MAX_UPDATES // 16


def test_news_in_a_session_costs_its_source_nothing(world, pair):
    one, two = pair
    now = int(world.now)
    two.delivered(forge(one, two))
    for number in range(MAX_UPDATES):
        two.delivered(forge(one, two, CANDIDATES, sent=now + 1 + number))
    many = strangers(world)
    for _ in range(OFFERS_PER_SOURCE - 1):
        two.delivered(forge(next(many), two))
    assert len(two.ends) == OFFERS_PER_SOURCE


def test_restarts_count_as_offers_of_their_sender(world, pair):
    one, two = pair
    now = int(world.now)
    for number in range(OFFERS_PER_SENDER + 3):
        two.delivered(forge(one, two, sent=now + number))
    assert len(two.of(OFFER)) == OFFERS_PER_SENDER and len(two.ends) == 1


# -- peers that cheat


@pytest.mark.parametrize("kind", [OFFER, ANSWER])
def test_another_certificate_in_a_session_costs_the_link(world, pair, kind):
    one, two = pair
    channel, other = link(world, one, two)
    if kind is OFFER:
        name = unseal(one.carriers[0].signals[0], two).session
        two.delivered(forge(one, two, OFFER, session=name, sent=int(world.now) + 5))
        assert two.heard("closed") == [(other, RtcWhy.OTHER_CERTIFICATE)]
        assert two.states()[-1] == "closed" and two.ends[other].closed
    else:
        one.carriers = [Way(world, two, "lose")]
        one.restart(channel)
        name = unseal(one.carriers[0].signals[0], two).session
        one.carriers[0].bring(forge(two, one, ANSWER, session=name, sent=int(world.now) + 5))
        assert one.heard("closed") == [(channel, RtcWhy.OTHER_CERTIFICATE)]


def test_an_answer_with_a_key_that_nothing_can_be_sealed_to_does_no_harm(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "no answers")]
    channel = one.connect(two)
    world.run(1)
    one.described(channel, CANDIDATES, Candidates((candidate(1),)).to_lines())
    name = unseal(one.carriers[0].signals[0], two).session
    one.carriers[0].bring(forge(two, one, ANSWER, session=name, reply_key=bytes(32)))
    assert len(one.of(ANSWER)) == 1 and len(one.carriers[0].signals) == 1
    one.links.opened(channel, world.now)
    one.restart(channel)
    assert [item[0] for item in one.heard("closed")] == [channel]


def test_the_name_of_our_own_session_gives_a_peer_no_hold_on_it(world, pair):
    one, two = pair
    channel, _ = link(world, one, two)
    name = unseal(one.carriers[0].signals[0], two).session
    one.delivered(forge(two, one, OFFER, session=name, what=description(OFFER, "second")))
    world.run()
    assert len(one.ends) == 2
    one.lose(channel)
    assert [item["state"] for item in one.links.snapshot()] == ["connecting"]
    one.delivered(forge(two, one, CANDIDATES, session=name, sent=int(world.now) + 5))
    assert len(one.of(CANDIDATES)) == 1


def test_copies_of_an_offer_that_is_not_taken_cost_its_sender_nothing(world, pair):
    low, high = pair
    low.carriers = [Way(world, high, "lose")]
    low.connect(high)
    world.run()
    offer = forge(high, low)
    for number in range(OFFERS_PER_SENDER):
        low.delivered(offer, source=number)
    world.run(CONNECT_TIMEOUT)
    assert not low.of(OFFER), "it goes on calling"
    low.delivered(forge(high, low, session=b"t" * 16))
    assert len(low.of(OFFER)) == 1


def test_a_glare_of_offers_without_answers_leaves_one_call(world, pair):
    """The higher one gives up its call once; the lower one's word alone decides."""
    low, high = pair
    high.carriers = [Way(world, low, "lose")]
    mine = high.connect(low)
    for number in range(3):
        high.delivered(forge(low, high, session=session(number)))
    assert high.heard("replaced")[0][0] == mine
    assert len(high.links.snapshot()) == 1
    world.run(CONNECT_TIMEOUT)
    assert [item[0] for item in high.heard("closed")] == [max(high.ends)], "whom the waiting was passed on to"
