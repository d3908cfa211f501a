"""The shared random value: who lies, is late or says nothing changes nothing but his own part."""

import pytest

from convergence.errors import CryptoError, RemoteError
from convergence.facilitator.drawing import Drawing
from convergence.netdir.draw import (
    COMMIT_PHASE,
    check_draw,
    commitment_of,
    committed_hash,
    number_of,
    value_of,
)
from convergence.outbox import Outbox
from convergence.wire.buckets import DAY, SharedValue
from convergence.wire.sharedrandom import Commit, Draw
from tests.unit.netdir.buckets import CRYPTO

TODAY = 20_000
"""The draw runs through the day before."""
BEGIN = (TODAY - 1) * DAY
NOON = BEGIN + COMMIT_PHASE
BEFORE = SharedValue(b"b" * 32, BEGIN - DAY + COMMIT_PHASE)
SEEDS = {name: name.encode() * 32 for name in "abc"}
NAMES = {name: CRYPTO.ed25519_public(seed) for name, seed in SEEDS.items()}


def commit_of(name, number=None, *, day=TODAY, seed=None):
    number = number or number_of(SEEDS[name], day)
    commit = Commit(day, NAMES[name], commitment_of(NAMES[name], day, number))
    return commit.sign(lambda message: CRYPTO.ed25519_sign(seed or SEEDS[name], message))


class Rig:
    """One facilitator's view of a draw."""

    def __init__(self, names="abc", kept=None):
        self.outbox = Outbox()
        more = {} if kept is None else {"kept": kept}
        identities = [NAMES[name] for name in names]
        self.drawing = Drawing(self.outbox, CRYPTO, TODAY, identities, **more)

    def commit(self, *names, now=BEGIN + 60.0):
        self.at(now)
        for name in names:
            self.drawing.commit(commit_of(name), now)

    def reveal(self, *names, now=NOON + 60.0):
        self.at(now)
        for name in names:
            self.drawing.reveal(NAMES[name], number_of(SEEDS[name], TODAY), now)

    def at(self, now):
        self.outbox.run_timers(now)

    def end(self):
        self.at(float(BEGIN + DAY))
        return self.drawing.draw


def revealed(draw):
    return {name for name in NAMES for commit, number in draw.parts if commit.facilitator == NAMES[name] and number}


def test_all_facilitators_get_the_same_value():
    values = set()
    for order in ("abc", "cab", "bca"):
        rig = Rig()
        rig.commit(*order)
        rig.reveal(*order)
        draw = rig.end()
        assert revealed(draw) == set("abc")
        values.add(value_of(Draw.parse(draw.encode()), TODAY, BEFORE))
    [value] = values
    assert value.fixed == NOON  # nobody could know it before


def test_one_that_does_not_reveal_does_not_count():
    rig = Rig()
    rig.commit("a", "b", "c")
    rig.reveal("a", "b")
    draw = rig.end()
    assert revealed(draw) == set("ab") and len(draw.parts) == 3
    assert value_of(draw, TODAY, BEFORE).fixed == NOON


def test_one_that_reveals_something_else_does_not_count():
    rig = Rig()
    rig.commit("a", "b")
    rig.reveal("a")
    with pytest.raises(CryptoError):
        rig.drawing.reveal(NAMES["b"], b"x" * 32, NOON + 60.0)
    assert revealed(rig.end()) == set("a")


def test_somebody_who_says_a_wrong_number_for_another_one_changes_nothing():
    rig = Rig()
    rig.commit("a", "b")
    with pytest.raises(CryptoError):
        rig.drawing.reveal(NAMES["b"], b"x" * 32, NOON + 60.0)
    rig.reveal("a", "b")
    assert revealed(rig.end()) == set("ab")


def test_one_that_commits_twice_is_out_whatever_comes_first():
    for first, second in ((None, b"2" * 32), (b"2" * 32, None)):
        rig = Rig()
        rig.commit("a")
        rig.drawing.commit(commit_of("b", first), BEGIN + 60.0)
        with pytest.raises(RemoteError):
            rig.drawing.commit(commit_of("b", second), BEGIN + 61.0)
        with pytest.raises(RemoteError):
            rig.drawing.commit(commit_of("b", first), BEGIN + 62.0)
        with pytest.raises(RemoteError):
            rig.reveal("b")
        assert [commit.facilitator for commit, _ in rig.end().parts] == [NAMES["a"]]


def test_the_same_commitment_again_is_no_second_one():
    rig = Rig()
    rig.commit("a", "a")
    rig.commit("a", now=NOON + 5.0)
    rig.reveal("a", "a")
    assert revealed(rig.end()) == set("a")


def test_one_that_commits_late_does_not_count():
    rig = Rig()
    rig.commit("a")
    with pytest.raises(RemoteError):
        rig.commit("b", now=float(NOON))
    rig.reveal("a")
    with pytest.raises(RemoteError):
        rig.reveal("b")
    assert revealed(rig.end()) == set("a")


def test_a_number_that_is_said_too_early_is_not_heard():
    """Who has not committed yet would know it."""
    rig = Rig()
    rig.commit("a")
    with pytest.raises(RemoteError):
        rig.reveal("a", now=NOON - 1.0)
    assert revealed(rig.end()) == set()


def test_nobody_commits_for_another_one_or_another_day_or_uninvited():
    rig = Rig("ab")
    for commit in (commit_of("a", seed=SEEDS["b"]), commit_of("a", day=TODAY + 1), commit_of("c")):
        with pytest.raises(CryptoError):
            rig.drawing.commit(commit, BEGIN + 60.0)
    assert rig.end().parts == ()


def test_who_repeats_the_commitment_of_another_one_cannot_reveal():
    rig = Rig()
    rig.commit("a")
    copied = Commit(TODAY, NAMES["b"], commit_of("a").commitment)
    rig.drawing.commit(copied.sign(lambda message: CRYPTO.ed25519_sign(SEEDS["b"], message)), BEGIN + 60.0)
    rig.reveal("a")
    with pytest.raises(CryptoError):
        rig.drawing.reveal(NAMES["b"], number_of(SEEDS["a"], TODAY), NOON + 60.0)
    assert revealed(rig.end()) == set("a")


def test_without_any_number_the_value_follows_from_the_one_before_and_is_as_old():
    rig = Rig("a")
    rig.commit("a")
    draw = rig.end()
    value = value_of(draw, TODAY, BEFORE)
    assert value.fixed == BEFORE.fixed and value.value != BEFORE.value
    assert value_of(draw, TODAY + 1, BEFORE) != value != value_of(draw, TODAY, SharedValue(b"c" * 32, BEFORE.fixed))


def test_one_facilitator_alone_is_bound_to_its_number_before_the_others_register():
    """Of one facilitator: what it commits to until noon is what it has at midnight, or nothing."""
    rig = Rig("a")
    rig.commit("a")
    announced = rig.drawing.committed(NOON + 1.0)
    rig.reveal("a")
    draw = rig.end()
    value = check_draw(draw, TODAY, announced, BEFORE, CRYPTO.ed25519_verify)
    assert value == value_of(draw, TODAY, BEFORE)
    chosen = Draw(((commit_of("a", b"chosen".ljust(32)), b"chosen".ljust(32)),))
    with pytest.raises(CryptoError):
        check_draw(chosen, TODAY, announced, BEFORE, CRYPTO.ed25519_verify)


def test_everybody_can_check_a_draw():
    rig = Rig()
    assert rig.drawing.committed(BEGIN + 1.0) is None
    rig.commit("a", "b")
    rig.reveal("a")
    announced = rig.drawing.committed(NOON + 1.0)
    draw = rig.end()
    assert check_draw(draw, TODAY, announced, BEFORE, CRYPTO.ed25519_verify) == value_of(draw, TODAY, BEFORE)
    (first, number), (second, _) = draw.parts
    forged = Commit(second.day, second.facilitator, second.commitment, bytes(64))
    for parts, day in (
        (((first, number),), TODAY),  # a commitment left out
        (((first, number), (second, b"x" * 32)), TODAY),
        (draw.parts, TODAY + 1),
    ):
        with pytest.raises(CryptoError):
            check_draw(Draw(parts), day, announced, BEFORE, CRYPTO.ed25519_verify)
    false = Draw(((first, number), (forged, None)))
    with pytest.raises(CryptoError):
        check_draw(false, TODAY, committed_hash([first, forged]), BEFORE, CRYPTO.ed25519_verify)


@pytest.mark.parametrize("now", [BEGIN + 100.0, NOON + 100.0])
def test_a_draw_goes_on_after_a_restart(now):
    rig = Rig()
    rig.commit("a", "b")
    if now > NOON:
        rig.reveal("a")
    again = Rig(kept=Draw.parse(rig.drawing.draw.encode()))
    again.at(now)
    again.reveal("a", "b")
    assert revealed(again.end()) == set("ab")


def test_a_number_that_comes_after_midnight_changes_nothing():
    rig = Rig()
    rig.commit("a", "b")
    rig.reveal("a")
    draw = rig.end()
    with pytest.raises(RemoteError):
        rig.reveal("b", now=float(BEGIN + DAY))
    assert rig.drawing.draw == draw
