"""Epochs, values and ages of a facilitator, over days and restarts."""

import pytest

from convergence.effects import Failure, Load, Scan, Store
from convergence.facilitator import publisher as module
from convergence.facilitator.ages import ABSENCE, NEVER, OLD_EACH, UNKNOWN
from convergence.facilitator.draws import MAX_MISSED
from convergence.facilitator.publisher import LEAD, STEP_PAUSE, Publisher
from convergence.netdir.draw import COMMIT_PHASE, check_draw, commitment_of, number_of
from convergence.netdir.headers import EPOCH, Headers, contradict
from convergence.netdir.rings import check_bucket
from convergence.outbox import Outbox
from convergence.wire.buckets import DAY, BucketRequest, RingKind
from convergence.wire.sharedrandom import Commit, Draw
from tests.unit.netdir.buckets import CRYPTO, FACILITATOR, NOW, SEED, identity_of, node_of

SOURCE = ""


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(module, "MIN_POINTS", 3)


class Rig:
    """A publisher with a store; `restart` makes another one on the same store."""

    def __init__(self, now=NOW, **config):
        self.store = {}
        self.now = now
        self.config = config
        self.headers = []  # all that were signed, each once
        self.nodes = {}
        self.restart()

    def restart(self, now=None):
        self.now = now or self.now
        self.outbox = Outbox()
        config = {"list_up_to": 10, **self.config}
        self.publisher = Publisher(self.outbox, CRYPTO, SEED, lambda result, now: None, **config)
        self.publisher.start(self.now)
        self._serve()

    def register(self, *names, source=SOURCE):
        for name in names:
            self.publisher.put(node_of(name), node_of(name).encode(), source, int(self.now), self.now)
        self._serve()

    def leave(self, *names):
        for name in names:
            self.publisher.drop(identity_of(name), self.now)
        self._serve()

    def until(self, when):
        while self.outbox.deadline() is not None and self.outbox.deadline() <= when:
            self.now = max(self.now, self.outbox.deadline())
            self.outbox.run_timers(self.now)
            self._serve()
        self.now = when

    def go(self, seconds):
        self.until(self.now + seconds)

    @property
    def signed(self):
        """The latest header, told or not."""
        return self.headers[-1]

    def count(self, kind):
        return self.signed.ring(kind).count

    def _serve(self):
        for effect in self.outbox.poll(self.now):
            match effect:
                case Store():
                    for bucket, key, value in effect.items:
                        if value is None:
                            self.store.pop((bucket, key), None)
                        else:
                            self.store[bucket, key] = value
                    self.outbox.done(effect.request, None, self.now)
                case Load():
                    self.outbox.done(effect.request, self.store.get((effect.bucket, effect.key)), self.now)
                case Scan():
                    keys = sorted(key for bucket, key in self.store if bucket == effect.bucket)
                    self.outbox.done(effect.request, keys, self.now)
        header = self.publisher._header
        if header is not None and header not in self.headers[-1:]:
            self.headers.append(header)
            assert not any(contradict(header, other) for other in self.headers[-200:])


def midnight(day):
    return float((int(NOW // DAY) + day) * DAY)


def test_a_header_is_signed_for_each_epoch_but_not_for_the_one_of_the_start():
    rig = Rig()
    rig.register(*range(20))
    rig.go(3 * EPOCH - 1)
    epoch = int(NOW // EPOCH)
    assert [header.epoch for header in rig.headers] == [epoch + 1, epoch + 2]
    assert [header.published % EPOCH for header in rig.headers] == [0, 0]
    headers = Headers(CRYPTO, lambda: FACILITATOR)
    assert all(headers.take(header.encode(), rig.now) for header in rig.headers)


def test_nodes_become_points_once_a_value_is_drawn_that_nobody_knew_when_they_came():
    rig = Rig()
    rig.register(*range(20))
    rig.until(midnight(1) - 1)
    assert rig.count(RingKind.ALL) == 20 and rig.count(RingKind.POINTS) == 0
    rig.register("late")  # after the numbers were revealed
    rig.go(1)
    assert rig.count(RingKind.POINTS) == 20 and rig.count(RingKind.ALL) == 21
    assert rig.signed.value.fixed == midnight(0) + COMMIT_PHASE
    rig.until(midnight(2))
    assert rig.count(RingKind.POINTS) == 21 and rig.count(RingKind.POINTS_BEFORE) == 20
    assert rig.headers[-145].value == rig.signed.before


def test_the_value_follows_from_what_was_announced_before():
    rig = Rig()
    rig.until(midnight(0) + COMMIT_PHASE)
    announced = rig.signed.committed
    assert announced != bytes(32) == rig.headers[0].committed
    rig.until(midnight(1) - 1)
    draw, before = rig.publisher.draw(int(rig.now // DAY) + 1), rig.signed.value
    rig.go(1)
    day = int(rig.now // DAY)
    assert rig.signed.value == check_draw(draw, day, announced, before, CRYPTO.ed25519_verify)


def test_small_networks_have_a_list_and_large_ones_a_header():
    rig = Rig()
    rig.register(*range(11))
    rig.go(EPOCH)
    assert rig.publisher.header(rig.now) is None  # no node is old enough for a point
    rig.until(midnight(1))
    assert rig.publisher.header(rig.now) == rig.signed
    rig.leave(*range(5))
    rig.go(EPOCH)
    assert rig.publisher.header(rig.now) == rig.signed  # not to and fro
    rig.leave(5)
    rig.go(EPOCH)
    assert rig.publisher.header(rig.now) is None
    rig.register(*range(5))
    rig.go(EPOCH)
    assert rig.publisher.header(rig.now) is None


def test_buckets_of_the_header_that_is_told_can_be_had():
    rig = Rig()
    rig.register(*range(20))
    rig.until(midnight(1))
    header = rig.publisher.header(rig.now)
    bucket = rig.publisher.answer(BucketRequest(header.epoch, RingKind.POINTS, 0))
    assert len(check_bucket(header, bucket, {})) == 20


# Restarts


@pytest.mark.parametrize("hour", [2, 11.9, 12.1, 23.99, 24.01, 35])
def test_a_restart_at_any_time_contradicts_nothing_and_the_draw_goes_on(hour):
    rig = Rig()
    rig.register(*range(20))
    rig.until(midnight(0) + hour * 3600)
    before = rig.signed
    rig.restart(rig.now + 60)
    rig.register(*range(20))
    rig.until(midnight(2) - 1)  # Rig compares all headers
    assert len(rig.headers) > 100 and before in rig.headers
    assert rig.count(RingKind.POINTS) == 20
    assert rig.signed.value.fixed == midnight(0) + COMMIT_PHASE


def test_the_header_of_before_is_told_after_a_restart_until_there_is_a_new_one():
    rig = Rig()
    rig.register(*range(20))
    rig.until(midnight(1) + 5)
    before = rig.publisher.header(rig.now)
    rig.restart(rig.now + 1)
    assert rig.publisher.header(rig.now) == before
    assert rig.publisher.answer(BucketRequest(before.epoch, RingKind.ALL, 0)) is None
    rig.register(*range(20))
    rig.go(EPOCH)
    assert rig.publisher.header(rig.now).epoch == before.epoch + 1


def test_days_without_a_facilitator_give_values_that_follow_from_the_last_one():
    rig = Rig()
    rig.register(*range(20))
    rig.until(midnight(1) + 5)
    value = rig.signed.value
    rig.restart(midnight(4) + 5)
    rig.register(*range(20))
    rig.go(EPOCH)
    assert rig.signed.value.fixed == midnight(0) + COMMIT_PHASE  # may have been known since then
    assert len({value.value, rig.signed.value.value, rig.signed.before.value}) == 3
    assert rig.count(RingKind.POINTS) == 20  # it was gone, not they


@pytest.mark.parametrize("stored", [b"", b"garbage", None])
def test_a_facilitator_that_lost_what_it_stored_begins_anew(stored):
    rig = Rig()
    rig.register(*range(20))
    rig.until(midnight(1) + 5)
    rig.headers.clear()
    for key in list(rig.store):
        if stored is None:
            del rig.store[key]
        elif key[0] == "epochs":
            rig.store[key] = stored
    rig.restart()
    rig.go(EPOCH)
    assert rig.signed.value.fixed == 0
    assert rig.publisher.header(rig.now) is None


def test_a_long_absence_begins_anew():
    rig = Rig()
    rig.until(midnight(1) + 5)
    rig.headers.clear()
    rig.restart(midnight(MAX_MISSED + 2) + 5)
    rig.headers.clear()
    rig.go(EPOCH)
    assert rig.signed.value.fixed == 0


@pytest.mark.parametrize("back", [700, 2 * DAY])
def test_a_clock_that_is_set_back_makes_no_second_header(back):
    rig = Rig()
    rig.until(midnight(1) + 3600)
    signed = len(rig.headers)
    rig.now -= back
    rig.outbox.shift(-back)
    rig.go(back - 60)
    assert len(rig.headers) == signed
    rig.go(2 * EPOCH)
    assert len(rig.headers) > signed


# Ages


def test_a_restart_makes_nobody_young_who_comes_back_soon():
    rig = Rig()
    rig.register("soon", "late")
    rig.until(midnight(1) + 5)
    rig.restart(rig.now + 60)
    rig.register("soon")
    rig.go(ABSENCE)
    rig.register("late")
    rig.go(EPOCH)
    assert rig.count(RingKind.ALL) == 2 and rig.count(RingKind.POINTS) == 1


def test_who_comes_back_before_the_store_has_answered_keeps_its_age():
    rig = Rig()
    rig.register("early")
    rig.until(midnight(1) + 5)
    stored = dict(rig.store)
    rig.now += 60
    rig.outbox = Outbox()
    rig.publisher = Publisher(rig.outbox, CRYPTO, SEED, lambda result, now: None, list_up_to=10)
    rig.publisher.put(node_of("early"), node_of("early").encode(), SOURCE, int(rig.now), rig.now)
    rig.publisher.start(rig.now)
    rig._serve()
    rig.go(EPOCH)
    assert rig.count(RingKind.POINTS) == 1
    assert [key for key in rig.store if key[0] == "age"] == [key for key in stored if key[0] == "age"]


def test_few_nodes_of_one_network_grow_old_over_restarts_too():
    """Those that were there first, whoever comes back first."""
    rig = Rig()
    rig.register("honest", source="elsewhere")
    rig.register(*range(3 * OLD_EACH), source="net")
    rig.until(midnight(1) + 5)
    for _ in range(3):
        rig.go(3 * EPOCH)
        counts = [rig.count(kind) for kind in (RingKind.STABLE, RingKind.POINTS, RingKind.ALL)]
        assert counts == [1 + OLD_EACH, 1 + OLD_EACH, 1 + 3 * OLD_EACH]
        assert {node.since == NEVER for node in rig.publisher._epochs.nodes} == {True, False}
        rig.restart(rig.now + 60)
        rig.register(*reversed(range(3 * OLD_EACH)), source=UNKNOWN)  # as they are loaded
        rig.register("honest", source="elsewhere")
        rig.register(*range(3 * OLD_EACH), source="net")


def test_who_comes_back_before_the_store_has_answered_keeps_its_age_though_its_network_is_full():
    rig = Rig()
    rig.register("early", source="net")
    rig.until(midnight(1) + 5)
    rig.now += 60
    rig.outbox = Outbox()
    rig.publisher = Publisher(rig.outbox, CRYPTO, SEED, lambda result, now: None, list_up_to=10)
    for name in (*range(OLD_EACH), "early"):
        rig.publisher.put(node_of(name), node_of(name).encode(), "net", int(rig.now), rig.now)
    assert rig.publisher._epochs.nodes[identity_of("early")].since == NEVER
    rig.publisher.start(rig.now)
    rig._serve()
    rig.go(EPOCH)
    assert rig.publisher._epochs.nodes[identity_of("early")].since == int(NOW)
    rig.go(2 * ABSENCE)
    assert rig.publisher.knows(identity_of("early"))


def test_what_is_stored_of_ages_is_deleted_when_they_are_forgotten():
    rig = Rig()
    rig.register("one")
    assert [key for bucket, key in rig.store if bucket == "age"]
    rig.leave("one")
    rig.go(ABSENCE)
    rig.register("other")
    assert [key[:32] for bucket, key in rig.store if bucket == "age"] == [identity_of("other")]


def test_a_store_that_fails_stops_nothing():
    outbox = Outbox()
    failures = []
    publisher = Publisher(outbox, CRYPTO, SEED, lambda result, now: failures.append(result), list_up_to=10)
    publisher.start(NOW)
    now = NOW
    for _ in range(300):
        for effect in outbox.poll(now):
            outbox.done(effect.request, Failure("io", "broken"), now)
        now = outbox.deadline()
        outbox.run_timers(now)
    assert failures and publisher._header.value.fixed > 0


# Others take part in the draw


def part_of(seed, day, *, revealed=False):
    identity, number = CRYPTO.ed25519_public(seed), number_of(seed, day)
    commit = Commit(day, identity, commitment_of(identity, day, number))
    return commit.sign(lambda message: CRYPTO.ed25519_sign(seed, message)), number if revealed else None


def test_several_facilitators_draw_together():
    other = b"o" * 32
    alone, together = Rig(), Rig(others=[CRYPTO.ed25519_public(other)])
    day = int(NOW // DAY) + 1
    together.publisher.heard(Draw((part_of(other, day),)), NOW)
    for rig in (alone, together):
        rig.until(midnight(0) + COMMIT_PHASE)
    together.publisher.heard(Draw((part_of(other, day, revealed=True),)), together.now)
    together.publisher.heard(Draw((part_of(b"n" * 32, day, revealed=True),)), together.now)  # nobody asked him
    for rig in (alone, together):
        rig.until(midnight(1))
    assert alone.signed.value.fixed == together.signed.value.fixed
    assert alone.signed.value.value != together.signed.value.value
    assert len(together.publisher.draw(day).parts) == 2 and len(alone.publisher.draw(day).parts) == 1


# A cut takes time


@pytest.fixture
def slow(monkeypatch):
    """A call, from which on a cut of 60 nodes takes 30 steps."""
    return lambda: monkeypatch.setattr("convergence.netdir.epochs.NODES_A_STEP", 2)


def test_nodes_are_cut_before_the_epoch_and_who_comes_late_is_in_the_next_one(slow):
    slow()
    rig = Rig()
    rig.register(*range(60))
    begins = NOW + EPOCH
    rig.until(begins - LEAD + STEP_PAUSE)
    rig.register("late")
    assert not rig.publisher._cut.done
    rig.until(begins)
    assert (rig.signed.published, rig.count(RingKind.ALL)) == (begins, 60)
    rig.go(EPOCH)
    assert rig.count(RingKind.ALL) == 61


def test_at_midnight_the_header_before_serves_until_the_new_order_is_made(slow):
    rig = Rig()
    rig.register(*range(60))
    rig.until(midnight(2) - 1)
    slow()
    before = rig.publisher.header(rig.now)
    rig.until(midnight(2) + 10 * STEP_PAUSE)
    assert rig.publisher.header(rig.now) == before
    assert rig.publisher.answer(BucketRequest(before.epoch, RingKind.POINTS, 0)) is not None
    rig.go(31 * STEP_PAUSE)
    assert rig.publisher.header(rig.now).published == midnight(2)
    assert rig.signed.before == before.value


def test_a_cut_that_takes_longer_than_an_epoch_is_signed_for_the_one_in_which_it_is_done(monkeypatch, slow):
    slow()
    monkeypatch.setattr(module, "STEP_PAUSE", EPOCH / 20)
    rig = Rig()
    rig.register(*range(60))
    rig.go(5 * EPOCH)
    assert len(rig.headers) == 2 and rig.count(RingKind.ALL) == 60
    assert all(header.published // EPOCH == header.epoch for header in rig.headers)


def test_a_cut_that_takes_until_after_midnight_is_made_anew_in_the_order_of_the_new_value(monkeypatch, slow):
    rig = Rig()
    rig.register(*range(60))
    rig.until(midnight(1) - EPOCH - LEAD - 1)
    slow()
    monkeypatch.setattr(module, "STEP_PAUSE", EPOCH / 20)
    rig.go(EPOCH + LEAD + 3)
    assert rig.publisher._cut is not None
    rig.go(3 * EPOCH)
    assert rig.signed.published > midnight(1) and rig.signed.value.fixed == midnight(0) + COMMIT_PHASE


def test_a_header_that_has_expired_is_not_told():
    rig = Rig()
    rig.register(*range(20))
    rig.until(midnight(1) + 5)
    assert rig.publisher.header(rig.signed.expires - 1) == rig.signed
    assert rig.publisher.header(rig.signed.expires) is None
