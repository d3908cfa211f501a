"""Entry guards: few, kept, not replaced for whatever goes wrong elsewhere, and bounded when all fail."""

from functools import cache

import pytest

from convergence.codes import PathWhy
from convergence.errors import Problem
from convergence.outbox import Outbox
from convergence.path.guardrecord import DAY, RETRY_PRIMARY, Reachable
from convergence.path.guards import BUCKET, IDLE_TIMEOUT, Guards, Stage
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import NOW
from tests.unit.path.test_entries import Disk
from tests.unit.path.test_weights import assert_shares
from tests.unit.path.tornetwork import EXIT, GUARD, MIDDLE, Made, TorNetwork

PRIMARY, SAMPLE = 3, 20
COUNT = 400


def network(count=COUNT, **options):
    return TorNetwork([Made(number, GUARD, 100 + number) for number in range(1, count + 1)], **options)


NETWORK = network()
VIEW = NETWORK.view()
CONSENSUS = VIEW.consensus


def anyone(status):
    return True


class Client:
    """A client's guards, and which of them can be reached."""

    def __init__(self, disk=None, view=VIEW, seed="guards", now=NOW):
        self.disk = disk or Disk()
        self.outbox = Outbox()
        self.guards = Guards(self.outbox, SeededRng(seed), "tor")
        self.now = now
        self.guards.restore(now, lambda now: None)
        self.disk.serve(self.outbox)
        self.update(view)
        self.down = set()  # identities
        self.all_down = False
        self.tried = []

    def update(self, view):
        self.guards.update(view, self.now)
        self.disk.serve(self.outbox)

    def later(self, seconds):
        self.now += seconds
        self.outbox.run_timers(self.now)

    def jump(self, seconds):
        """The clock is set."""
        self.now += seconds
        self.outbox.shift(seconds)

    def select(self, suits=anyone, **options):
        self.now += 0.01
        use = self.guards.select(suits, self.now, **options)
        use.usable, use.timed_out = [], []
        use.on_usable, use.on_over = use.usable.append, use.timed_out.append
        self.tried.append(use.status.identity)
        return use

    def build(self, suits=anyone, **options):
        """A circuit that stands, or does not because its guard is down."""
        use = self.select(suits, **options)
        if self.all_down or use.status.identity in self.down:
            use.failed(self.now)
        else:
            use.worked(self.now)
        self.disk.serve(self.outbox)
        return use

    @property
    def primary(self):
        return [guard.identity for guard in self.guards.primary]

    @property
    def sample(self):
        return [guard.identity for guard in self.guards._sample]

    @property
    def confirmed(self):
        return [guard.identity for guard in self.guards._confirmed]


@pytest.fixture
def client():
    return Client()


# -- the sample


def test_a_client_samples_few_and_begins_with_the_first(client):
    assert len(client.sample) == len(set(client.sample)) == SAMPLE
    assert client.primary == client.sample[:PRIMARY]
    assert [client.build().status.identity for _ in range(30)] == client.primary[:1] * 30
    assert client.confirmed == client.primary[:1]


def test_guards_are_sampled_by_weight():
    """The first of each sample, over many clients."""
    view = network(10).view()
    counts = dict.fromkeys(range(1, 11), 0)
    for seed in range(1500):
        counts[int.from_bytes(Client(view=view, seed=seed).sample[0][:2], "big")] += 1
    assert_shares(counts, {number: 100 + number for number in range(1, 11)})


@pytest.mark.parametrize(
    "flags", [EXIT, MIDDLE, "Fast Guard Running Stable Valid", "Fast Guard Running V2Dir Valid", "Guard Running Valid"]
)
def test_a_guard_has_all_the_flags_that_are_needed(flags):
    view = TorNetwork([Made(1, flags, 1_000_000), *(Made(number, GUARD) for number in range(2, 5))]).view()
    assert sorted(Client(view=view).sample) == [Made(number).identity for number in (2, 3, 4)]


def test_a_giant_is_sampled_once():
    relays = [*NETWORK.relays[1:], Made(1, GUARD, (1 << 32) - 1)]
    client = Client(view=TorNetwork(relays).view())
    assert client.sample.count(Made(1).identity) == 1 and len(client.sample) == SAMPLE


def test_a_network_without_guards_has_no_entry():
    with pytest.raises(Problem) as caught:
        Client(view=TorNetwork([Made(1)]).view()).select()
    assert caught.value.why.code is PathWhy.NO_ENTRY


def test_parameters_of_the_consensus_count_within_our_bounds():
    params = "guard-n-primary-guards=5 guard-n-primary-guards-to-use=2 guard-min-filtered-sample-size=2147483647"
    client = Client(view=network(params=params).view())
    assert len(client.primary) == 5 and len(client.sample) == 250
    assert {client.build().status.identity for _ in range(30)} == set(client.primary[:2])


# -- over restarts


def test_guards_are_kept_over_restarts(client):
    client.down = set(client.primary[:1])
    client.build()
    client.build()
    again = Client(client.disk, seed="another")
    assert again.sample == client.sample and again.confirmed == client.confirmed
    assert again.primary[0] == client.sample[1], "the one that worked comes first"


@pytest.mark.parametrize("stored", [b"", b"\2", b"\1short", b"\1" + bytes(45) * 2])
def test_what_cannot_be_read_is_forgotten(client, stored):
    client.disk.items[BUCKET, b"tor"] = stored
    assert len(Client(client.disk).sample) == SAMPLE


def test_storage_that_fails_changes_nothing_in_this_run():
    disk = Disk()
    disk.broken = True
    client = Client(disk)
    assert client.build().stage is Stage.COMPLETE


def test_only_what_has_changed_is_stored(client):
    client.build()
    before = dict(client.disk.items)
    client.disk.items.clear()
    for _ in range(10):
        client.build()
    client.update(VIEW)
    assert not client.disk.items
    assert before[BUCKET, b"tor"]


# -- lifetimes


@cache
def consensus_at(day, without=None):
    relays = [relay for relay in NETWORK.relays if relay.identity != without]
    return TorNetwork(relays, valid_after=NOW + day * DAY).view()


def aged(client, days, without=None):
    """So many days pass, with a consensus each."""
    for _ in range(days):
        client.later(DAY)
        client.update(consensus_at(int(client.now - NOW) // DAY, without))


def test_an_unconfirmed_guard_is_dropped_after_its_lifetime(client):
    first = set(client.sample)
    aged(client, 100)
    assert set(client.sample) == first
    aged(client, 21)
    assert len(first & set(client.sample)) < SAMPLE / 2, "few are drawn again"
    assert all(client.now - guard.added < 120 * DAY for guard in client.guards._sample)


def test_a_confirmed_guard_is_kept_for_longer(client):
    aged(client, 100)
    guard = client.build().status.identity
    aged(client, 50)
    assert guard in client.sample and client.primary[0] == guard
    aged(client, 12)
    assert guard not in client.sample and guard not in client.primary


def test_a_guard_that_the_network_lost_comes_back_within_its_time(client):
    gone = client.build().status.identity
    aged(client, 10, gone)
    assert gone in client.sample and gone not in client.primary
    aged(client, 1)
    client.build()
    assert client.tried[-1] == gone and client.primary[0] == gone


def test_a_guard_that_stays_away_is_dropped(client):
    gone = client.primary[0]
    aged(client, 21, gone)
    assert gone not in client.sample
    aged(client, 1)
    assert gone not in client.sample, "it is like any other one"


def test_a_wrong_clock_takes_no_guard_away(client):
    before = client.sample
    client.build()
    for years in (3, -6):
        client.jump(years * 365 * DAY)
        client.update(VIEW)
        assert client.sample == before


def test_dates_from_a_clock_that_was_ahead_are_set_right():
    """Otherwise they would keep a guard for as long as the clock was ahead."""
    ahead = Client(now=NOW + 1000 * DAY, view=consensus_at(1000))
    ahead.build()
    client = Client(ahead.disk)
    assert client.sample == ahead.sample
    assert all(guard.added <= NOW and (guard.confirmed or 0) <= NOW for guard in client.guards._sample)
    aged(client, 122)
    assert all(guard.added > NOW and guard.confirmed is None for guard in client.guards._sample)


def test_when_guards_expire_cannot_be_foretold():
    dates = {guard.added for seed in range(5) for guard in Client(seed=seed).guards._sample}
    assert len(dates) > 80 and all(NOW - 12 * DAY <= date <= NOW for date in dates)


# -- failures


def test_the_next_primary_guard_is_used_when_the_first_fails(client):
    first, second, _ = client.primary
    client.down = {first}
    assert client.build().stage is Stage.GONE
    use = client.build()
    assert use.status.identity == second and use.primary and use.usable == [client.now]


def test_what_goes_wrong_behind_a_guard_says_nothing_of_it(client):
    """A circuit that is over, for whatever reason but its guard's own silence."""
    for _ in range(50):
        client.select().over(client.now)
    built = client.build()
    built.over(client.now)
    assert set(client.tried) == {client.primary[0]} and not client.guards._uses


def test_a_guard_that_worked_meanwhile_is_not_to_blame(client):
    slow = client.select()
    client.later(1)
    client.build()
    client.later(5)
    slow.failed(client.now)
    assert client.build().status.identity == client.primary[0]


def test_what_is_told_twice_counts_once(client):
    use = client.build()
    use.worked(client.now)
    use.failed(client.now)
    use.over(client.now)
    assert use.usable == [client.now] and client.guards.primary[0].reachable is Reachable.YES


def test_a_failed_guard_is_tried_again_later_and_later(client):
    first = client.build().status.identity
    client.down = {first}
    times = []
    for _ in range(7 * 24 * 60):
        client.later(60)
        if client.build().status.identity == first:
            times.append(client.now - NOW)
            client.build()
    least, most = RETRY_PRIMARY
    gaps = [later - before for before, later in zip(times, times[1:], strict=False)]
    assert min(gaps) >= least and max(gaps) <= most + 60
    assert 20 < len(gaps) < 200 and sum(gaps[-10:]) > 10 * sum(gaps[:10]) / 5
    client.down = set()
    client.later(most)
    assert client.build().status.identity == first, "it comes back"
    assert set(client.tried) == set(client.primary[:2])


def test_while_all_is_down_the_sample_stays_bounded_and_the_first_guards_come_back(client):
    """For hours, with many attempts: an attacker who cuts the line gets us to no more guards."""
    client.build()
    primary = client.primary
    client.all_down = True
    for _ in range(3 * 360):
        client.later(30)
        client.build()
    assert len(client.sample) == 60 and len(set(client.tried)) <= 60
    client.all_down = False
    client.later(30)
    for _ in range(10):
        client.build()
        client.later(1)
    assert client.tried[-1] == primary[0] and client.primary[0] == primary[0]
    assert len(client.sample) == 60


def test_a_small_network_is_not_sampled_beyond_its_part():
    client = Client(view=network(150).view())
    client.all_down = True
    for _ in range(300):
        client.later(30)
        client.build()
    assert len(client.sample) == 150 * 20 // 100


def test_a_shift_of_the_clock_neither_retries_nor_forgets(client):
    client.build()
    client.down = set(client.primary[:1])
    client.build()
    for by in (30 * DAY, -60 * DAY):
        client.jump(by)
        assert client.build().status.identity == client.primary[1]
    client.later(RETRY_PRIMARY[1])
    client.down = set()
    assert client.build().status.identity == client.primary[0]


# -- guards that are not primary


@pytest.fixture
def confirmed(client):
    """All primary guards are confirmed, so that no other becomes primary. Then they fail, although the line works."""
    for guard in list(client.primary):
        client.build(lambda status, guard=guard: status.identity == guard).over(client.now)
    for _ in range(PRIMARY):
        client.select().failed(client.now)
    assert all(guard.reachable is Reachable.NO for guard in client.guards.primary)
    client.tried.clear()
    return client


def test_one_that_works_first_becomes_primary_and_serves_at_once(client):
    client.all_down = True
    for _ in range(PRIMARY):
        client.build()
    client.all_down = False
    use = client.build()
    assert use.status.identity == client.sample[PRIMARY] == client.primary[0]
    assert not use.primary and use.usable == [client.now]


def test_with_all_primary_guards_down_another_one_serves(confirmed):
    use = confirmed.build()
    assert use.status.identity == confirmed.sample[PRIMARY] and not use.primary
    assert use.stage is Stage.COMPLETE and use.usable == [confirmed.now]
    assert use.status.identity not in confirmed.primary


def test_each_other_guard_gets_one_circuit_at_a_time(confirmed):
    uses = [confirmed.select() for _ in range(4)]
    assert [use.status.identity for use in uses] == confirmed.sample[PRIMARY : PRIMARY + 4]
    for use in uses:
        use.over(confirmed.now)
    assert confirmed.select().status.identity == confirmed.sample[PRIMARY]


def test_a_circuit_waits_for_a_better_guard_that_is_being_tried(confirmed):
    """One that worked before is better than one that never did."""
    known = confirmed.build()
    known.over(confirmed.now)
    better, worse = confirmed.select(), confirmed.select()
    assert better.status.identity == known.status.identity != worse.status.identity
    worse.worked(confirmed.now)
    assert worse.stage is Stage.WAITING and not worse.usable
    better.failed(confirmed.now)
    confirmed.later(0)
    assert worse.usable == [confirmed.now]


def test_of_new_guards_the_one_that_works_first_serves(confirmed):
    first, second = confirmed.select(), confirmed.select()
    second.worked(confirmed.now)
    assert second.stage is Stage.COMPLETE and first.stage is Stage.BUILDING
    assert confirmed.select().status.identity == second.status.identity


def test_a_circuit_waits_for_a_slow_guard_for_seconds_only(confirmed):
    confirmed.build().over(confirmed.now)
    slow, quick = confirmed.select(), confirmed.select()
    quick.worked(confirmed.now)
    began = confirmed.now
    confirmed.later(14)
    assert not quick.usable
    confirmed.later(1)
    assert quick.usable == [began + 15] and slow.stage is Stage.BUILDING


def test_when_the_line_was_down_the_primary_guards_are_tried_before_another_serves(confirmed):
    primary = confirmed.primary
    use = confirmed.select()
    confirmed.later(601)
    use.worked(confirmed.now)
    assert use.stage is Stage.WAITING and not use.usable
    again = confirmed.select()
    assert again.status.identity == primary[0]
    confirmed.later(1)
    assert use.stage is Stage.WAITING, "one of them is being tried"
    again.worked(confirmed.now)
    confirmed.later(0)
    assert again.usable and not use.usable
    assert use.timed_out == [confirmed.now] and use.stage is Stage.GONE


def test_nobody_waits_for_guards_that_nobody_tries(confirmed):
    use = confirmed.select()
    confirmed.later(601)
    use.worked(confirmed.now)
    assert use.stage is Stage.WAITING
    confirmed.later(0)
    assert use.timed_out == [confirmed.now] and use.stage is Stage.GONE


def test_nobody_waits_for_ever_for_a_guard_that_hangs(confirmed):
    use = confirmed.select()
    confirmed.later(601)
    confirmed.select()
    use.worked(confirmed.now)
    began = confirmed.now
    confirmed.later(IDLE_TIMEOUT)
    assert use.timed_out == [began + IDLE_TIMEOUT] and use.stage is Stage.GONE


def test_and_it_serves_when_they_fail_again(confirmed):
    use = confirmed.select()
    confirmed.later(601)
    use.worked(confirmed.now)
    for _ in range(PRIMARY):
        confirmed.select().failed(confirmed.now)
    confirmed.later(0)
    assert use.usable == [confirmed.now]


def test_restrictions_leave_the_primary_guards_alone(client):
    """Nobody waits for guards that the circuit cannot begin with."""
    client.build()
    primary = set(client.primary)
    use = client.build(lambda status: status.identity not in primary)
    assert use.usable == [client.now] and use.status.identity not in primary
    assert client.build().status.identity == client.primary[0]


def test_where_nothing_suits_nothing_is_forgiven(client):
    client.down = set(client.primary[:1])
    client.build()
    with pytest.raises(Problem):
        client.select(lambda status: False)
    assert client.guards.primary[0].reachable is Reachable.NO


def test_no_use_is_left_behind(confirmed):
    for _ in range(100):
        confirmed.later(1)
        confirmed.build().over(confirmed.now)
    assert not confirmed.guards._uses
    assert not any(guard.pending for guard in confirmed.guards._sample)


def test_documents_are_asked_of_several_guards(client):
    assert {client.build(directory=True).status.identity for _ in range(40)} == set(client.primary)
    assert set(client.confirmed) <= set(client.primary)
