"""Word codes in a simulated network: who has the words gets the link, once; who guesses has one guess a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convergence.codes import CodeWhy, Limit
from convergence.crypto.edwards import BASE, NEUTRAL
from convergence.crypto.spake2 import CONFIRMATION_LEN, SHARE_LEN, M, N, key_schedule
from convergence.errors import EndReason, Problem, Why
from convergence.handover import ask as asking
from convergence.handover import handover
from convergence.handover import offer as offering
from convergence.handover.ask import Ask
from convergence.handover.offer import ANSWERS_BURST, LIFETIME, MAX_CODES, MAX_NUMBERS, MAX_VISITS, Offer, Phase
from convergence.handover.protocol import (
    ANSWER_LEN,
    GIVER,
    RECEIPT_LEN,
    RECEIVER,
    Giving,
    Receiving,
    scalar_of,
)
from convergence.pipes.duplex import Duplex
from convergence.wire.address import PublicAddress
from convergence.wire.pgpwords import THREE_SYLLABLES
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import WordCode
from tests.sim.people import Talker, connect, network
from tests.sim.world import Host, World

LINK = ShareLink(b"n" * 32, b"k" * 32)


class Giver:
    """A person who shares, and keeps what the node says: the codes, and what became of each."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.codes: list[WordCode] = []
        self.whys: list[Why] = []
        host.driver.run(self._begin)

    def _begin(self, now: float) -> None:
        self.offer: Offer = self.host.node.handover.offer(LINK, self._told, now)

    def _told(self, offer: Offer, now: float) -> None:
        if offer.code is not None:
            self.codes.append(offer.code)
        elif offer.why is not None:
            self.whys.append(offer.why)

    def code(self, number: int = 0) -> WordCode:
        """Wait for a code; the first is 0."""
        assert self.world.run(120, lambda: len(self.codes) > number), self.whys
        self.world.run(2)  # the last advert arrives
        return self.codes[number]

    def hears(self, *codes: CodeWhy) -> bool:
        return self.world.run(120, lambda: len(self.whys) >= len(codes)) and [why.code for why in self.whys] == [*codes]


def ask(host: Host, code: WordCode, **options: Any) -> Ask:
    asks: list[Ask] = []
    host.driver.run(lambda now: asks.append(host.node.handover.ask(code, lambda ask, now: None, now, **options)))
    return asks[0]


def link_of(world: World, host: Host, code: WordCode, **options: Any) -> ShareLink | None:
    """What a code gives, or None."""
    one = ask(host, code, **options)
    assert world.run(200, lambda: one.over)
    return one.link


def other_words(code: WordCode) -> WordCode:
    first = next(word for word in THREE_SYLLABLES if word != code.words[0])
    return WordCode(code.number, (first, code.words[1]))


def started(*names: str, seed: int = 5) -> tuple[World, list[Host]]:
    world = network(seed, 8)
    hosts = [world.add(name) for name in names]
    world.run(20)
    return world, hosts


class Guesser:
    """Somebody at a code's number who says what he likes."""

    def __init__(self, world: World, host: Host, code: WordCode) -> None:
        self.world = world
        self.talker = connect(host, str(PublicAddress(code.hash_name)))
        assert world.run(60, lambda: self.talker.open)

    def say(self, data: bytes, *, end: bool = False) -> None:
        self.talker.say(data, end=end)
        self.world.run(5)

    @property
    def heard(self) -> bytes:
        return bytes(self.talker.heard)

    @property
    def thrown_out(self) -> bool:
        return self.world.run(60, lambda: self.talker.code is not None)


def a_run(world: World, host: Host, code: WordCode) -> Receiving:
    return Receiving(world.crypto, host.node._rng, scalar_of(world.crypto, code))


def test_who_has_the_words_gets_the_link_and_the_code_is_used_up():
    world, (giver_host, friend, late) = started("giver", "friend", "late")
    giver = Giver(world, giver_host)
    code = giver.code()
    assert link_of(world, friend, code) == LINK
    assert giver.hears(CodeWhy.HANDED_OVER) and giver.offer.over and giver.offer.code is None
    assert link_of(world, late, code, patience=20) is None
    assert giver_host.node.services.snapshot()["services"] == []
    assert friend.node.services.snapshot()["connections"] == 0


def test_a_wrong_guess_uses_up_the_code_and_the_giver_gets_another_one():
    world, (giver_host, guesser, friend) = started("giver", "guesser", "friend")
    giver = Giver(world, giver_host)
    first = giver.code()
    wrong = ask(guesser, other_words(first))
    assert giver.hears(CodeWhy.GUESSED) and giver.whys[0].values == {"left": MAX_CODES - 1}
    assert world.run(60, lambda: wrong.over) and wrong.why == Why(CodeWhy.WRONG) and wrong.link is None
    assert link_of(world, friend, first, patience=15) is None  # the right words are worth nothing any more
    second = giver.code(1)
    assert second.words != first.words
    assert link_of(world, friend, second) == LINK and giver.hears(CodeWhy.GUESSED, CodeWhy.HANDED_OVER)


def test_a_guesser_has_as_many_guesses_as_there_are_codes():
    world, (giver_host, guesser) = started("giver", "guesser")
    giver = Giver(world, giver_host)
    for number in range(MAX_CODES):
        assert link_of(world, guesser, other_words(giver.code(number))) is None
    assert giver.hears(*[CodeWhy.GUESSED] * (MAX_CODES - 1), CodeWhy.GUESSED_OFTEN) and giver.offer.over


def test_many_at_once_have_one_guess_together():
    world, (giver_host, guesser) = started("giver", "guesser")
    giver = Giver(world, giver_host)
    code = giver.code()
    crowd, confirmations = crowd_that_confirms(world, guesser, other_words(code), code, code)
    crowd[0].say(confirmations[0])
    for one, confirmation in zip(crowd, confirmations, strict=True):
        one.say(confirmation)  # the later ones are right, and too late
        assert one.thrown_out and len(one.heard) == SHARE_LEN
    assert giver.hears(CodeWhy.GUESSED)


def crowd_that_confirms(world: World, host: Host, *words: WordCode) -> tuple[list[Guesser], list[bytes]]:
    """Some at one number whose next message is a confirmation of these words."""
    crowd = [Guesser(world, host, code) for code in words]
    confirmations = []
    for one, code in zip(crowd, words, strict=True):
        run = a_run(world, host, code)
        one.say(run.share)
        confirmations.append(run.confirmation(one.heard))
    return crowd, confirmations


def test_of_two_who_have_the_words_one_gets_the_link():
    world, (giver_host, friends) = started("giver", "friends")
    giver = Giver(world, giver_host)
    code = giver.code()
    (first, second), confirmations = crowd_that_confirms(world, friends, code, code)
    first.say(confirmations[0])
    second.say(confirmations[1])
    assert len(first.heard) == SHARE_LEN + ANSWER_LEN
    assert second.thrown_out and len(second.heard) == SHARE_LEN


def test_right_words_that_come_in_the_same_moment_as_wrong_ones_come_too_late(monkeypatch):
    world, (giver_host, guesser) = started("giver", "guesser")
    giver = Giver(world, giver_host)
    code = giver.code()
    (_, second), confirmations = crowd_that_confirms(world, guesser, other_words(code), code)
    visits = list(giver.offer._visits)
    for visit in visits:
        monkeypatch.setattr(type(visit._pipe), "consumed", lambda *_: None)  # it did not come over the pipe

    def together(now: float) -> None:
        for visit, confirmation in zip(visits, confirmations, strict=True):
            visit.data(confirmation, now)

    giver_host.driver.run(together)
    assert second.thrown_out and len(second.heard) == SHARE_LEN and giver.hears(CodeWhy.GUESSED)


def test_who_leaves_before_he_confirms_has_learnt_nothing_and_used_up_nothing():
    world, (giver_host, guesser, friend) = started("giver", "guesser", "friend")
    giver = Giver(world, giver_host)
    code = giver.code()
    for data in (b"", b"x", a_run(world, guesser, other_words(code)).share):
        one = Guesser(world, guesser, code)
        one.say(data)
        assert len(one.heard) == (SHARE_LEN if len(data) == SHARE_LEN else 0)
        one.talker.abort(EndReason.DONE)
    silent = Guesser(world, guesser, code)
    assert silent.thrown_out  # after a while
    assert not giver.whys and link_of(world, friend, code) == LINK


@pytest.mark.parametrize(
    "share", [b"\xff" * 32, b"\x02" + bytes(31), BASE.encode() * 2], ids=["not reduced", "no point", "too long"]
)
def test_shares_that_are_no_points_are_refused_unanswered(share):
    world, (giver_host, guesser) = started("giver", "guesser")
    giver = Giver(world, giver_host)
    one = Guesser(world, guesser, giver.code())
    one.say(share)
    assert one.thrown_out and one.heard == b"" and not giver.whys


@pytest.mark.parametrize("right", [True, False])
def test_shares_made_to_be_refused_if_the_words_are_right_tell_no_more_than_others(right):
    """For w*M the key would be the neutral point. Were it refused at once, a guess would cost nothing."""
    world, (giver_host, guesser) = started("giver", "guesser")
    giver = Giver(world, giver_host)
    code = giver.code()
    w = scalar_of(world.crypto, code if right else other_words(code))
    one = Guesser(world, guesser, code)
    one.say((M * w).encode())
    assert len(one.heard) == SHARE_LEN and one.talker.code is None
    keys = key_schedule(RECEIVER, GIVER, (M * w).encode(), one.heard, NEUTRAL.encode(), w.to_bytes(32, "big"))
    one.say(keys.confirm_a)
    assert one.thrown_out and len(one.heard) == SHARE_LEN and giver.hears(CodeWhy.GUESSED)


def test_whoever_answers_with_such_a_share_has_one_guess_too():
    world, (liar, friend) = started("liar", "friend")
    code = WordCode(7, ("crossover", "clockwork"))
    came: list[int] = []

    def accept(pipe: Duplex, now: float) -> Any:
        class Handler(Talker):
            def data(self, data: bytes, now: float) -> None:
                came.append(len(data))
                pipe.write((N * scalar_of(world.crypto, code)).encode(), now)

        return Handler(liar, pipe)

    squat(liar, range(7, 8), accept)
    world.run(30)
    one = ask(friend, code)
    assert world.run(200, lambda: one.over)
    assert one.why == Why(CodeWhy.WRONG) and came == [SHARE_LEN, CONFIRMATION_LEN]


def test_what_was_recorded_says_nothing_to_the_next_code_or_connection():
    """A point that carries the connection cannot play it again, nor give back what it heard."""
    world, (giver_host, guesser) = started("giver", "guesser")
    giver = Giver(world, giver_host)
    code = giver.code()
    run = a_run(world, guesser, code)
    one = Guesser(world, guesser, code)
    one.say(run.share)
    confirmation = run.confirmation(one.heard)
    one.talker.abort(EndReason.DONE)
    again = Guesser(world, guesser, code)
    again.say(run.share)
    again.say(confirmation)  # it was right, for another share of the giver's
    assert again.thrown_out and len(again.heard) == SHARE_LEN and giver.hears(CodeWhy.GUESSED)
    mirror = Guesser(world, guesser, giver.code(1))
    mirror.say(b"\x01" + bytes(31) if not run.share else run.share)
    mirror.say(mirror.heard)  # our share as our confirmation
    assert mirror.thrown_out and giver.hears(CodeWhy.GUESSED, CodeWhy.GUESSED)


def test_a_crowd_that_says_nothing_keeps_nobody_out(monkeypatch):
    monkeypatch.setattr(offering, "MAX_VISITS", MAX_VISITS // 8)
    world, (giver_host, crowd, friend) = started("giver", "crowd", "friend")
    giver = Giver(world, giver_host)
    code = giver.code()
    silent = [connect(crowd, str(PublicAddress(code.hash_name))) for _ in range(16)]
    world.run(5)
    assert len(giver.offer._visits) == MAX_VISITS // 8 and sum(one.code is None for one in silent) >= MAX_VISITS // 8
    assert link_of(world, friend, code) == LINK


def test_shares_are_answered_so_many_a_second():
    world, (giver_host, crowd) = started("giver", "crowd")
    giver = Giver(world, giver_host)
    code = giver.code()
    share = a_run(world, crowd, code).share
    talkers = [connect(crowd, str(PublicAddress(code.hash_name))) for _ in range(int(ANSWERS_BURST) + 8)]
    assert world.run(60, lambda: all(one.open for one in talkers))
    for one in talkers:
        one.say(share)
    world.run(3)
    answered = sum(len(one.heard) == SHARE_LEN for one in talkers)
    assert ANSWERS_BURST <= answered < len(talkers) and not giver.whys


def test_a_connection_that_breaks_before_the_receipt_gives_another_code():
    world, (giver_host, guesser) = started("giver", "guesser")
    giver = Giver(world, giver_host)
    code = giver.code()
    run, one = a_run(world, guesser, code), Guesser(world, guesser, code)
    one.say(run.share)
    one.say(run.confirmation(one.heard))
    assert run.link(one.heard[SHARE_LEN:]) == LINK
    one.say(bytes(RECEIPT_LEN))
    assert giver.hears(CodeWhy.BROKEN) and giver.code(1).words != code.words


def test_a_code_expires(monkeypatch):
    assert offering.TABLE.deadlines[Phase.STANDING] == LIFETIME == 3600
    monkeypatch.setitem(offering.TABLE.deadlines, Phase.STANDING, 90.0)
    world, (giver_host, friend) = started("giver", "friend")
    giver = Giver(world, giver_host)
    code = giver.code()
    world.run(90)
    assert giver.hears(CodeWhy.EXPIRED) and giver.offer.over
    assert link_of(world, friend, code, patience=15) is None


def test_a_number_that_somebody_uses_is_left_to_him(monkeypatch):
    """Two givers with one number: the second one finds that out, and takes another."""
    world, (one, other, friend) = started("one", "other", "friend")
    first = Giver(world, one)
    code = first.code()
    draw = WordCode.draw
    drawn = iter([WordCode(code.number, ("adviser", "absurd"))])
    monkeypatch.setattr(WordCode, "draw", lambda rng: next(drawn, None) or draw(rng))
    second = Giver(world, other)
    assert second.code().number != code.number and not second.whys
    assert link_of(world, friend, code) == LINK and link_of(world, friend, second.codes[0]) == LINK


def squat(host: Host, numbers: range, answer: Callable[[Duplex, float], Any]) -> None:
    for number in numbers:
        address = PublicAddress(WordCode(number, ("adviser", "absurd")).hash_name)
        host.driver.run(lambda now, address=address: host.node.services.serve(address, answer, now))


def test_who_holds_all_numbers_is_found_out(monkeypatch):
    monkeypatch.setattr("convergence.wire.wordcode.MAX_NUMBER", 5)
    world, (squatter, giver_host) = started("squatter", "giver")
    squat(squatter, range(1, 6), lambda pipe, now: Talker(squatter, pipe))
    world.run(60)
    giver = Giver(world, giver_host)
    assert world.run(MAX_NUMBERS * offering.LOOK_LIMIT, lambda: giver.offer.over)
    assert giver.hears(CodeWhy.NO_NUMBER) and not giver.codes


class Pretender:
    """Somebody who serves a number and guesses the words: he learns whether he was right, once."""

    guesses: list[bool]

    def __init__(self, world: World, host: Host, words: WordCode) -> None:
        self._world, self._host, self._words = world, host, words
        self.guesses, self.came = [], 0

    def accept(self, pipe: Duplex, now: float) -> Any:
        self.came += 1
        pretender, heard = self, bytearray()

        class Handler(Talker):
            def data(self, data: bytes, now: float) -> None:
                heard.extend(data)
                if len(heard) == SHARE_LEN:
                    w = scalar_of(pretender._world.crypto, pretender._words)
                    self.run = Giving(pretender._world.crypto, pretender._host.node._rng, w, bytes(heard))
                    pipe.write(self.run.share, now)
                elif len(heard) == SHARE_LEN + CONFIRMATION_LEN:
                    pretender.guesses.append(self.run.right(bytes(heard[SHARE_LEN:])))
                    pipe.write(bytes(ANSWER_LEN), now)

        return Handler(self._host, pipe)


def test_whoever_answers_in_the_givers_place_has_one_guess_and_the_receiver_is_told():
    world, (liar, friend) = started("liar", "friend")
    code = WordCode(7, ("crossover", "clockwork"))
    pretender = Pretender(world, liar, other_words(code))
    squat(liar, range(7, 8), pretender.accept)
    world.run(30)
    one = ask(friend, code)
    assert world.run(200, lambda: one.over)
    assert one.link is None and one.why == Why(CodeWhy.WRONG)
    assert pretender.guesses == [False]


@pytest.mark.parametrize("said", [b"", bytes(SHARE_LEN), BASE.encode() + b"x" * 200], ids=["nothing", "bad", "much"])
def test_whoever_answers_nonsense_gets_no_guess_and_the_receiver_comes_to_an_end(said):
    world, (liar, friend) = started("liar", "friend")
    code = WordCode(7, ("crossover", "clockwork"))
    heard: list[int] = []

    def accept(pipe: Duplex, now: float) -> Any:
        class Handler(Talker):
            def data(self, data: bytes, now: float) -> None:
                heard.append(len(data))
                if said:
                    pipe.write(said, now)

        return Handler(liar, pipe)

    squat(liar, range(7, 8), accept)
    world.run(30)
    one = ask(friend, code)
    assert world.run(asking.PATIENCE + 4 * asking.ANSWER_LIMIT, lambda: one.over)
    assert one.link is None and one.why is not None and sum(heard) == len(heard) * SHARE_LEN


def test_a_code_that_nobody_offers_yet_is_waited_for(monkeypatch):
    world, (giver_host, friend) = started("giver", "friend")
    code = WordCode(7, ("crossover", "clockwork"))
    hopeful, hopeless = ask(friend, code, patience=120), ask(friend, WordCode(8, code.words), patience=5)
    world.run(20)
    assert hopeless.over and hopeless.why == Why(CodeWhy.NOBODY)
    assert not hopeful.over and hopeful.why == Why(CodeWhy.NOBODY)
    monkeypatch.setattr(WordCode, "draw", lambda rng: code)
    giver = Giver(world, giver_host)
    assert world.run(120, lambda: hopeful.over) and hopeful.link == LINK
    assert giver.hears(CodeWhy.HANDED_OVER)


def test_there_are_so_many_codes_at_once_and_a_node_that_stops_takes_its_codes_back(monkeypatch):
    monkeypatch.setattr(handover, "MAX_AT_ONCE", 3)
    world, (giver_host,) = started("giver")
    node = giver_host.node

    def begin(now: float) -> None:
        for _ in range(handover.MAX_AT_ONCE):
            node.handover.offer(LINK, lambda offer, now: None, now)
            node.handover.ask(WordCode.draw(node._rng), lambda ask, now: None, now)
        for call in (
            lambda: node.handover.offer(LINK, lambda offer, now: None, now),
            lambda: node.handover.ask(WordCode.draw(node._rng), lambda ask, now: None, now),
        ):
            with pytest.raises(Problem) as refused:
                call()
            assert refused.value.why.code is Limit.CODES

    giver_host.driver.run(begin)
    world.run(5)
    giver_host.driver.run(node.stop)
    assert all(one.over for one in [*node.handover._offers, *node.handover._asks])
