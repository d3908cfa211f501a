"""Two nodes get a WebRTC link by sealed messages: the usual course, other carriers, candidates, glare, ICE restart."""

import pytest

from convergence.codes import RtcWhy
from convergence.crypto.keys import NodeKeys
from convergence.errors import Why
from convergence.events import Rtc
from convergence.introduction.courier import HEAD_START, MAX_CARRIERS
from convergence.introduction.links import CONNECT_TIMEOUT, MAX_HELD, MAX_PENDING, OWN_SHARE, RESTART_TIMEOUT
from convergence.ports import DtlsBinding
from tests.unit.circuit.rig import CRYPTO, SeededRng
from tests.unit.introduction.parties import (
    ANSWER,
    CANDIDATES,
    LATENCY,
    OFFER,
    Way,
    World,
    candidate,
    forge,
    lines,
    unseal,
)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def pair(world):
    return world.pair()


def only(items):
    [item] = items
    return item


def link(world, one, two):
    """A channel from one to two, open on both sides: its number at each."""
    channel = one.connect(two)
    world.run()
    return channel, only(other for other, _, peer in two.heard("opened") if peer == one.identity)


# -- the usual course


def test_a_link_comes_about(world, pair):
    one, two = pair
    channel = one.connect(two)
    assert channel is not None
    world.run()
    own, other = one.ends[channel], only(two.ends.values())
    assert own.remote == other.own() and other.remote == own.own()
    assert own.offers and not other.offers
    assert one.states() == two.states() == ["connecting", "open"]


def test_both_sides_are_bound_to_both_certificates_in_one_order(world, pair):
    one, two = pair
    channel, other = link(world, one, two)
    binding = DtlsBinding(b"rtc" + one.ends[channel].own().fingerprint + two.ends[other].own().fingerprint)
    assert len(binding.fingerprints) == 67
    assert one.told == [("opened", channel, binding, None)]
    assert two.told == [("opened", other, binding, one.identity)]


def test_nobody_is_asked_who_is_unknown_or_speaks_no_rtc_or_is_ourselves(world, pair):
    one, _ = pair
    assert one.connect(bytes(32)) is None
    assert one.connect(world.add("server", rtc=False)) is None
    assert one.connect(one) is None
    assert not one.ends


def test_the_number_of_nodes_that_are_asked_at_once_is_bounded(world, pair):
    one, _ = pair
    one.silent = True
    others = [world.add(f"other {number}") for number in range(MAX_PENDING + 1)]
    channels = [one.connect(other, "source") for other in others]
    assert None not in channels[:-1] and channels[-1] is None
    assert one.connect(others[0], "source") == channels[0], "who is asked already is not asked twice"
    world.run(CONNECT_TIMEOUT)
    assert one.connect(others[-1], "source") is not None


def test_the_source_that_has_most_introductions_under_way_gives_one_up_for_another(world, pair):
    one, two = pair
    one.silent = True
    channels = [one.connect(world.add(f"other {number}"), "greedy") for number in range(MAX_PENDING)]
    one.silent = False
    assert one.connect(two, "modest") is not None
    assert one.heard("closed") == [(channels[0], RtcWhy.BUSY)]
    world.run()
    assert two.heard("opened")


def test_calls_of_our_own_have_places_that_those_of_others_leave(world, pair):
    one, two = pair
    one.silent = True
    one.links._places = MAX_PENDING
    others = [one.connect(world.add(f"other {number}"), number) for number in range(MAX_PENDING)]
    assert others.count(None) == MAX_PENDING // OWN_SHARE
    one.silent = False
    assert one.connect(two) is not None
    world.run()
    assert two.heard("opened") and not one.heard("closed")


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_a_clock_that_jumps_does_not_change_how_long_a_call_may_take(world, pair, by):
    """A session that takes the place of ours has the time that is left of it, by a clock that does not jump."""
    low, high = pair
    high.unjoined = True
    high.carriers = [Way(world, low, "lose")]
    high.connect(low)
    world.run(2.0)
    high.outbox.shift(by)
    now = world.now + by
    high.links.delivered(forge(low, high, sent=int(now)), lambda sealed, now: None, "pipe", now)
    assert high.heard("replaced") and high.outbox.deadline() <= now + CONNECT_TIMEOUT - 2.0
    high.outbox.run_timers(now + CONNECT_TIMEOUT - 2.1)
    assert not high.heard("closed")
    high.outbox.run_timers(now + CONNECT_TIMEOUT - 1.9)
    assert [reason for _, reason in high.heard("closed")] == [RtcWhy.NO_CONNECTION]


def test_a_message_sealed_to_the_key_before_the_present_one_is_opened(world, pair):
    one, two = pair
    old = two.keys
    rng = SeededRng("new")
    keys = NodeKeys.from_secrets(
        CRYPTO,
        identity_seed=old.identity_seed,
        signing_seed=rng.random(32),
        ntor_secret=rng.random(32),
        previous_ntor_secret=old.ntor_secret,
    )
    two.links._keys = keys
    link(world, one, two)


def test_who_carries_reads_and_learns_nothing(world, pair):
    one, two = pair
    link(world, one, two)
    way = one.carriers[0]
    for sealed in way.signals + way.replies:
        for secret in (one.identity, two.identity, one.keys.ntor_public, two.keys.ntor_public, b"p" * 24):
            assert secret not in sealed


def test_events_and_the_snapshot_are_for_people(world, pair):
    one, two = pair
    link(world, one, two)
    [state] = one.links.snapshot()
    since = state.pop("since")
    assert state == {"peer": two.identity.hex()[:16], "state": "open"} and world.now - 1 < since < world.now
    for party, other in ((one, two), (two, one)):
        assert {event.kind for event in party.events} == {"rtc"}
        assert {event.peer for event in party.events} == {other.identity.hex()[:16]}
        assert {event.why.code for event in party.events} == {RtcWhy.NONE}


# -- carriers


def test_a_refused_offer_goes_the_next_way_at_once(world, pair):
    one, two = pair
    bad, good = Way(world, two, "refuse"), Way(world, two)
    one.carriers = [bad, good]
    one.connect(two)
    world.run()
    assert bad.signals == good.signals[:1]
    assert one.states() == ["connecting", "open"]


def test_one_that_brings_no_answer_has_its_time_then_the_next_is_asked(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "lose"), Way(world, two)]
    one.connect(two)
    world.run(HEAD_START - 0.1)
    assert not one.carriers[1].signals
    world.run(0.5)
    assert one.states() == ["connecting", "open"]


def test_carriers_are_drawn_only_as_they_are_needed(world, pair):
    one, two = pair
    one.carriers = [Way(world, two) for _ in range(3)]
    link(world, one, two)
    assert one.drawn == 1


def test_when_no_way_is_left_the_channel_is_closed(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "refuse"), Way(world, two, "refuse")]
    channel = one.connect(two)
    world.run()
    assert one.heard("closed") == [(channel, RtcWhy.REFUSED)]
    assert one.ends[channel].closed == RtcWhy.REFUSED
    assert one.states() == ["connecting", "failed"]
    assert one.events[-1].why.code is RtcWhy.REFUSED
    assert one.links.snapshot() == []


def test_the_channel_is_closed_where_there_is_nobody_to_ask(world, pair):
    one, two = pair
    one.carriers = []
    channel = one.connect(two)
    world.run()
    assert one.heard("closed") == [(channel, RtcWhy.NO_CARRIER)]


def test_an_unanswered_offer_does_not_go_round_for_ever(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "refuse") for _ in range(MAX_CARRIERS + 1)]
    one.connect(two)
    world.run()
    assert one.drawn == MAX_CARRIERS and one.states()[-1] == "failed"


def test_an_answer_that_comes_after_the_next_carrier_was_asked_counts(world, pair):
    one, two = pair
    slow = Way(world, two, "no answers")
    one.carriers = [slow, Way(world, two, "lose")]
    channel = one.connect(two)
    world.run(HEAD_START + 1)
    assert one.carriers[1].signals
    one.carriers[0].bring(slow.replies[0])
    world.run()
    assert one.heard("opened")[0][0] == channel


def test_the_answer_is_given_again_by_the_way_of_a_copy(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "no answers"), Way(world, two)]
    one.connect(two)
    world.run(HEAD_START + 1)
    assert len(two.ends) == 1, "a copy begins no second connection"
    assert one.carriers[0].replies == one.carriers[1].replies
    assert one.states() == two.states() == ["connecting", "open"]


def test_an_answer_that_is_not_there_yet_goes_the_way_of_the_latest_copy(world, pair):
    one, two = pair
    first, second = Way(world, two), Way(world, two)
    one.carriers = [first, second]
    two.silent = True
    one.connect(two)
    world.run(HEAD_START + 1)
    channel = only(two.ends)
    two.described(channel, ANSWER, two.ends[channel].sdp(ANSWER))
    world.run()
    assert not first.replies and len(second.replies) == 1
    assert one.states() == ["connecting", "open"]


# -- candidates


def test_candidates_found_later_go_the_way_that_worked(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "refuse"), Way(world, two)]
    channel, other = link(world, one, two)
    one.described(channel, CANDIDATES, lines(7, 8))
    two.described(other, CANDIDATES, lines(9))
    world.run()
    assert [what.items for what in two.of(CANDIDATES)] == [(candidate(7), candidate(8))]
    assert [what.items for what in one.of(CANDIDATES)] == [(candidate(9),)]
    assert len(one.carriers[0].signals) == 1


def test_candidates_found_before_the_answer_wait_for_it_and_go_together(world, pair):
    one, two = pair
    channel = one.connect(two)
    world.run(1.5 * LATENCY)
    assert one.carriers[0].signals and not two.ends
    for number in (1, 2, 3):
        one.described(channel, CANDIDATES, lines(number))
    assert len(one.carriers[0].signals) == 1
    world.run()
    assert [what.items for what in two.of(CANDIDATES)] == [(candidate(1), candidate(2), candidate(3))]


def test_candidates_that_wait_are_bounded(world, pair):
    one, two = pair
    one.carriers = [Way(world, two, "lose"), Way(world, two)]
    channel = one.connect(two)
    world.run(1)
    for number in range(100):
        one.described(channel, CANDIDATES, lines(number))
    world.run(HEAD_START)
    assert [what.items for what in two.of(CANDIDATES)] == [tuple(candidate(number) for number in range(MAX_HELD))]


@pytest.mark.parametrize(
    "text", ["", "\r\n", "\0", "a=end-of-candidates\r\n", "a=candidate:1 1 tcp 9 192.0.2.1 9 typ host\r\n"]
)
def test_lines_without_a_useful_candidate_are_not_sent(world, pair, text):
    one, two = pair
    channel, _ = link(world, one, two)
    sent = len(one.carriers[0].signals)
    one.described(channel, CANDIDATES, text)
    assert len(one.carriers[0].signals) == sent


# -- time and trouble


@pytest.mark.parametrize("silent", [0, 1])
def test_a_connection_that_does_not_come_about_in_time_is_closed(world, pair, silent):
    one, two = pair
    (one, two)[silent].unjoined = True
    channel = one.connect(two)
    world.run(CONNECT_TIMEOUT - 1)
    assert one.states() == two.states() == ["connecting"]
    world.run(2)
    assert one.states() == two.states() == ["connecting", "failed"]
    assert one.heard("closed") == [(channel, RtcWhy.NO_CONNECTION)]
    assert all(end.closed for party in pair for end in party.ends.values())


def test_a_shell_that_describes_nothing_is_given_up(world, pair):
    one, two = pair
    one.silent = True
    channel = one.connect(two)
    world.run(CONNECT_TIMEOUT)
    assert [item[0] for item in one.heard("closed")] == [channel]


def test_what_the_shell_closes_is_gone(world, pair):
    one, two = pair
    channel, other = link(world, one, two)
    assert one.links.knows(channel)
    one.lose(channel)
    assert one.heard("closed") == [(channel, "the connection is lost")]
    assert one.states()[-1] == "closed" and one.links.snapshot() == [] and not one.links.knows(channel)
    one.lose(channel)
    assert len(one.heard("closed")) == 1


def test_a_shell_that_cannot_connect_ends_it_with_its_reason(world, pair):
    one, two = pair
    one.unjoined = True
    channel = one.connect(two)
    world.run()
    one.lose(channel, "no route between the two")
    assert one.heard("closed") == [(channel, "no route between the two")]
    why = Why(RtcWhy.SHELL, {"detail": "no route between the two"})
    assert one.events[-1] == Rtc(two.identity.hex()[:16], "failed", why)


def test_a_link_that_ends_takes_the_session_along(world, pair):
    one, two = pair
    channel, other = link(world, one, two)
    one.links.link_closed(channel, world.now)
    one.links.link_closed(channel, world.now)
    one.poll()
    assert one.links.snapshot() == [] and one.heard("closed") == []
    assert one.connect(two) != channel
    world.run()
    assert len(two.heard("opened")) == 2


def test_stopping_gives_up_what_is_not_open(world, pair):
    one, two = pair
    link(world, one, two)
    other = world.add("other")
    one.carriers = [Way(world, other, "lose")]
    channel = one.connect(other)
    one.links.stop(world.now)
    one.poll()
    assert [item[0] for item in one.heard("closed")] == [channel]
    assert [item["state"] for item in one.links.snapshot()] == ["open"]


@pytest.mark.parametrize("sdp", ["", "v=0\r\n", "a" * 40_000])
def test_a_description_of_our_own_that_is_of_no_use_closes_the_channel(world, pair, sdp):
    one, two = pair
    one.silent = True
    channel = one.connect(two)
    one.described(channel, OFFER, sdp)
    [(closed, reason)] = one.heard("closed")
    assert closed == channel and reason == RtcWhy.USELESS_OFFER


def test_what_the_shell_says_of_other_channels_is_ignored(world, pair):
    one, two = pair
    channel, other = link(world, one, two)
    sent = len(one.carriers[0].signals)
    end = one.ends[channel]
    one.described(99, OFFER, end.sdp(OFFER))
    one.described(channel, ANSWER, end.sdp(ANSWER))
    two.described(other, OFFER, end.sdp(OFFER))
    one.links.opened(99, world.now)
    one.links.opened(channel, world.now)
    one.links.closed(99, "gone", world.now)
    one.poll()
    assert len(one.carriers[0].signals) == sent and len(one.told) == 1


def test_a_channel_that_opens_before_it_was_described_is_closed(world, pair):
    one, two = pair
    one.silent = True
    channel = one.connect(two)
    one.links.opened(channel, world.now)
    assert [item[0] for item in one.heard("closed")] == [channel] and not one.heard("opened")


# -- glare


def test_of_two_that_call_at_once_the_lower_one_is_answered(world, pair):
    low, high = pair
    mine, theirs = low.connect(high), high.connect(low)
    world.run()
    other = only(channel for channel, end in high.ends.items() if not end.offers)
    assert [item[0] for item in low.heard("opened")] == [mine]
    assert high.told[0] == ("replaced", theirs, other)
    assert [(channel, peer) for channel, _, peer in high.heard("opened")] == [(other, low.identity)]
    assert not low.heard("closed") and not high.heard("closed"), "nobody who waits is told of a failure"
    assert high.ends[theirs].closed == "the other side calls"
    assert len(low.ends) == 1 and len(low.links.snapshot()) == len(high.links.snapshot()) == 1
    assert "failed" not in high.states()


def test_the_higher_one_is_answered_when_the_lower_ones_offer_came_to_nothing(world, pair):
    low, high = pair
    low.carriers = [Way(world, high, "refuse")]
    high.carriers = [Way(world, low), Way(world, low)]
    low.connect(high)
    channel = high.connect(low)
    world.run(HEAD_START + 1)
    assert low.states()[:2] == ["connecting", "failed"]
    assert [item[0] for item in high.heard("opened")] == [channel]
    assert [peer for _, _, peer in low.heard("opened")] == [high.identity]


@pytest.mark.parametrize("first", [0, 1])
def test_who_is_being_called_waits_for_that_call(world, pair, first):
    one, two = pair[first], pair[1 - first]
    two.silent = True
    one.connect(two)
    world.run(0.5)
    waiting = only(two.ends)
    assert two.connect(one) == waiting
    two.described(waiting, ANSWER, two.ends[waiting].sdp(ANSWER))
    world.run()
    assert [(channel, peer) for channel, _, peer in two.heard("opened")] == [(waiting, one.identity)]


def test_who_calls_again_is_answered_anew(world, pair):
    one, two = pair
    one.unjoined = True
    channel = one.connect(two)
    world.run(2)
    one.lose(channel)
    one.unjoined = False
    one.connect(two)
    world.run()
    before, after = two.ends
    assert two.told[0] == ("replaced", before, after)
    assert two.ends[before].closed
    assert [item[0] for item in two.heard("opened")] == [after]


def test_who_is_called_again_and_again_hears_in_time_that_nothing_comes_of_it(world, pair):
    """The other side's newest call is taken each time; those who wait for the first one must not wait for ever."""
    low, high = pair
    one, two = low, high
    two.carriers = [Way(world, one, "lose")]
    one.unjoined = True
    two.connect(one)
    waited = 0
    while not two.heard("closed") and waited < 3 * CONNECT_TIMEOUT:
        channel = one.connect(two)
        world.run(CONNECT_TIMEOUT / 2)
        waited += CONNECT_TIMEOUT / 2
        if one.ends[channel].closed is None:
            one.lose(channel)
    assert two.heard("replaced") and waited <= CONNECT_TIMEOUT + 1


# -- ICE restart


def test_a_restart_goes_through_on_the_same_channels(world, pair):
    one, two = pair
    channel, other = link(world, one, two)
    offers, told = len(two.of(OFFER)), len(one.told) + len(two.told)
    two.ends[other].generation += 1
    one.restart(channel)
    assert one.links.snapshot()[0]["state"] == "restarting"
    world.run()
    assert len(two.of(OFFER)) == offers + 1 and len(two.ends) == 1
    assert two.ends[other].remote == one.ends[channel].own()
    assert one.ends[channel].remote == two.ends[other].own()
    assert one.states() == two.states() == ["connecting", "open", "restarting", "open"]
    assert len(one.told) + len(two.told) == told, "the link does not notice"


def test_a_restart_looks_for_a_way_of_its_own(world, pair):
    one, two = pair
    channel, _ = link(world, one, two)
    fresh = Way(world, two)
    one.carriers = [Way(world, two, "refuse"), Way(world, two, "no answers"), fresh]
    one.restart(channel)
    world.run(HEAD_START + 1)
    assert one.states()[-1] == "open"
    one.described(channel, CANDIDATES, lines(7))
    world.run()
    assert two.of(CANDIDATES)[0].items == (candidate(7),)
    assert unseal(fresh.signals[-1], two).kind is CANDIDATES


def test_a_restart_that_reaches_nobody_leaves_the_channel_to_the_shell(world, pair):
    one, two = pair
    channel, _ = link(world, one, two)
    one.carriers = []
    one.restart(channel)
    world.run(RESTART_TIMEOUT - 1)
    assert one.links.snapshot()[0]["state"] == "restarting"
    world.run(60)
    assert one.links.snapshot()[0]["state"] == "open" and not one.heard("closed")
    one.lose(channel)
    assert one.states()[-1] == "closed"


def test_a_channel_restarts_as_often_as_its_network_changes(world, pair):
    one, two = pair
    channel, other = link(world, one, two)
    for _ in range(12):
        world.run(20)
        one.restart(channel)
        world.run()
    assert two.ends[other].remote == one.ends[channel].own()
    assert one.states().count("restarting") == 12 and one.states()[-1] == "open"


def test_an_answer_to_an_offer_that_was_overtaken_is_not_taken(world, pair):
    one, two = pair
    channel, _ = link(world, one, two)
    one.carriers = [Way(world, two, "no answers")]
    one.restart(channel)
    world.run()
    overtaken = one.carriers[0]
    one.carriers = [Way(world, two)]
    one.restart(channel)
    overtaken.bring(overtaken.replies[-1])
    assert len(one.of(ANSWER)) == 1
    world.run()
    assert len(one.of(ANSWER)) == 2


@pytest.mark.parametrize("answerer", [False, True])
def test_who_restarts_with_another_certificate_loses_the_channel(world, pair, answerer):
    """On the side that is to be changed by its own shell, too: the link was bound to the first one."""
    one, two = pair
    channel, other = link(world, one, two)
    if answerer:
        two.ends[other].name = "changed"
        one.restart(channel)
        world.run()
        assert [item[0] for item in two.heard("closed")] == [other]
    else:
        one.ends[channel].name = "changed"
        one.restart(channel)
        assert [item[0] for item in one.heard("closed")] == [channel]
