"""Several facilitators sign one header for each epoch, whatever happens to any of them, and all have its buckets."""

from collections import defaultdict
from dataclasses import replace

import pytest

from convergence.effects import Failure
from convergence.facilitator import decisions as module
from convergence.facilitator import publisher
from convergence.facilitator.ages import ABSENCE
from convergence.facilitator.decisions import LIFETIME, PATIENCE
from convergence.facilitator.publisher import LEAD
from convergence.facilitator.questions import Keep, Latest, Propose
from convergence.facilitator.sharing import QUESTION_TIMEOUT, READ_TIMEOUT
from convergence.netdir.draw import COMMIT_PHASE
from convergence.netdir.epochs import HEADER_LIFETIME
from convergence.netdir.headers import EPOCH, contradict
from convergence.netdir.rings import check_bucket
from convergence.wire.buckets import DAY, BucketRequest, EpochHeader, RingKind
from convergence.wire.descriptor import Transport
from convergence.wire.facilitator import ErrorCode
from convergence.wire.sharedrandom import Draw
from convergence.wire.sharing import Decision
from tests.unit.facilitator.several import Channel, Several
from tests.unit.facilitator.test_publisher import part_of
from tests.unit.facilitator.test_service import LIST
from tests.unit.facilitator.world import CRYPTO, describe, node_keys

RTC = (Transport.rtc(),)
RINGS = (RingKind.ALL, RingKind.RELAYS)


@pytest.fixture(autouse=True)
def signed(monkeypatch):
    """All that anybody signed: never two headers of one epoch, nor two that contradict each other."""
    bodies, sign = defaultdict(set), EpochHeader.sign

    def noted(header, by):
        bodies[header.epoch].add(header.body())
        return sign(header, by)

    monkeypatch.setattr(EpochHeader, "sign", noted)
    monkeypatch.setattr(publisher, "MIN_POINTS", 0)
    yield bodies
    assert all(len(said) == 1 for said in bodies.values())
    headers = [EpochHeader.parse(body + bytes(64)) for said in bodies.values() for body in said]
    assert not any(contradict(one, other) for one in headers for other in headers)


class World(Several):
    """Of a facilitator: `header`, `has` (whether it has the buckets of it)."""

    def __init__(self, count=3):
        super().__init__(count)
        self.channels = []
        for number in range(1, 4):
            self.register(number, at=(number - 1) % count)

    def register(self, number, at):
        channel = self.channel(at)
        channel.register(describe(number, self.time, lifetime=5 * 3600, transports=RTC))
        self.settle()
        self.channels.append(channel)
        return channel

    def run(self, seconds):
        """Nodes ask for the list meanwhile, so that their channels stay."""
        end = self.time + seconds
        while self.time < end:
            for channel in self.channels:
                if not channel.ended:
                    channel.send(LIST)
            super().run(min(240, end - self.time))

    @property
    def alive(self):
        return [number for number, service in enumerate(self.services) if service is not None]

    def header(self, number):
        return self.services[number]._publisher.header(self.time)

    def epochs(self):
        """The epoch that each tells a header of; 0 for a list."""
        return [0 if self.header(number) is None else self.header(number).epoch for number in self.alive]

    def members(self, number, kind=RingKind.ALL):
        """The nodes in a ring of the header that it tells; None if it has no buckets."""
        header = self.header(number)
        bucket = self.services[number]._publisher.answer(BucketRequest(header.epoch, kind, 0))
        return None if bucket is None else {item.node.identity for item in check_bucket(header, bucket, {})}

    def maker(self):
        return next(number for number in self.alive if self.services[number].sharing.rank == 0)

    def at_question(self, number, kind, act):
        """Do this just when facilitator `number` has asked its next question of a kind, before the store has it."""
        link = self.link(number)
        consult = link.consult

        def noted(question, reply):
            if isinstance(question, kind) and link.consult is noted:
                link.consult = consult
                act(question)
            consult(question, reply)

        link.consult = noted
        link.port.driver._shared = link

    def pause(self, number):
        """As SIGSTOP does: it does nothing, and what it has asked waits in its socket."""
        link = self.link(number)
        link.asleep = []
        if link.port in self.ports:
            self.ports.remove(link.port)

    def wake(self, number):
        link = self.link(number)
        self.ports.append(link.port)
        waiting, link.asleep = link.asleep, None
        for call in waiting:
            call()
        link.port.driver.tick()
        self.settle()


@pytest.fixture
def world():
    return World()


def identity(number):
    return node_keys(number).identity


def epoch_at(world):
    return int(world.time // EPOCH)


def test_all_say_the_same_header_and_have_its_buckets(world):
    world.run(EPOCH + 1)
    headers = {world.header(number).encode() for number in world.alive}
    assert len(headers) == 1 and set(world.epochs()) == {epoch_at(world)}
    for number in world.alive:
        for kind in RINGS:
            assert world.members(number, kind) == {identity(1), identity(2), identity(3)}
        assert world.header(number).verify(CRYPTO.ed25519_verify)
    first = world.header(0)
    world.register(4, at=1)
    world.run(EPOCH)
    assert {len(world.members(number)) for number in world.alive} == {4}
    for number in world.alive:  # who has a bucket of the epoch before gets what is new
        request = BucketRequest(first.epoch + 1, RingKind.ALL, 0, first.epoch)
        items = world.services[number]._publisher.answer(request).items
        assert sorted(len(item) == 8 for item in items if isinstance(item, bytes)) == [True] * 3 and len(items) == 4


@pytest.mark.parametrize("each", [1, 2, 256])
def test_one_that_starts_later_says_the_same_at_once_and_has_the_buckets(world, monkeypatch, each):
    monkeypatch.setattr(module, "MAX_IN_PART", each)
    world.run(EPOCH + 300)
    world.start_one()
    world.settle()
    assert world.header(3).encode() == world.header(0).encode()
    assert world.members(3) == world.members(0)
    for number in (0, 1, 2):
        world.kill_service(number)
    world.channels = [world.register(number, at=3) for number in (1, 2, 3)]
    world.run(EPOCH)
    assert world.epochs() == [epoch_at(world)]
    assert len(world.members(3)) == 3


def test_who_has_not_read_the_store_yet_takes_no_nodes(world):
    """Whoever came would hear of a network without most of its nodes."""
    world.run(EPOCH + 1)
    world.store.fault = "silent"
    world.start_one()
    world.settle()
    channel = Channel(world, 3)
    assert channel.ended and channel.answers == [ErrorCode.BUSY]
    world.store.back()
    world.settle()
    assert not world.channel(3).ended and world.header(3) == world.header(0)
    world.store.fault = "silent"
    world.start_one()
    world.run(QUESTION_TIMEOUT + READ_TIMEOUT)
    assert not world.channel(4).ended  # better than nothing


def test_who_starts_makes_no_header_of_the_epoch_in_which_it_starts():
    world = World(1)
    world.run(EPOCH - 30)
    world.kill_service(0)
    world.start_one()
    world.settle()
    for number in (1, 2, 3):
        world.register(number, at=1)
    world.run(PATIENCE + 60)
    assert world.epochs() == [0]
    world.run(EPOCH)
    assert world.epochs() == [epoch_at(world)]


MOMENTS = [Keep, Latest, Propose]


@pytest.mark.parametrize("asked", ["in vain", "heard"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_maker_is_killed_at_any_moment_and_another_one_goes_on(world, moment, asked):
    world.run(EPOCH + 1)
    maker = world.maker()

    def kill(question):
        name = world.services[maker].sharing.name.hex()
        if asked == "heard":  # the answer comes to nobody
            world.store.answer(name, question)
        world.later(lambda: world.services[maker] and world.kill_service(maker))
        world.link(maker).cut = True

    world.at_question(maker, moment, kill)
    world.run(EPOCH + 2 * PATIENCE)
    assert world.services[maker] is None and world.epochs() == [epoch_at(world)] * 2
    assert all(world.members(number) is not None for number in world.alive)


@pytest.mark.parametrize("hours", [0.01, 1])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_maker_is_paused_at_any_moment_and_wakes_up_later(world, moment, hours):
    world.run(EPOCH + 1)
    maker = world.maker()
    world.at_question(maker, moment, lambda question: world.pause(maker))
    world.run(EPOCH - 1 if moment is Keep else EPOCH)
    world.run(hours * 3600)
    assert world.link(maker).asleep is not None
    world.wake(maker)
    world.run(3 * PATIENCE)
    assert len(set(world.epochs())) == 1
    world.run(EPOCH + 2 * PATIENCE)
    assert set(world.epochs()) == {epoch_at(world)}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_maker_is_cut_off_from_the_store_and_comes_back(world, moment):
    world.run(EPOCH + 1)
    maker = world.maker()
    world.at_question(maker, moment, lambda question: world.link(maker).cut_off())
    world.run(EPOCH + 2 * PATIENCE)
    others = [epoch for number, epoch in zip(world.alive, world.epochs(), strict=True) if number != maker]
    assert others == [epoch_at(world)] * 2
    assert world.header(maker).epoch == epoch_at(world) - 1  # the last one goes on
    world.link(maker).connected()
    world.settle()
    assert set(world.epochs()) == {epoch_at(world)}
    assert world.members(maker) is not None


def test_one_that_hears_nothing_proposes_nothing_on_top_of_what_it_does_not_know(world):
    """What the others tell is lost: it asks the store before it makes a header."""
    world.run(EPOCH + 1)
    deaf = world.maker()
    world.link(deaf).told = lambda body: None
    other = next(number for number in world.alive if number != deaf)
    for _ in range(3):
        world.services[other]._publisher._lead = world.services[other]._publisher._go
        world.run(EPOCH)
    assert set(world.epochs()) == {epoch_at(world)}


@pytest.mark.parametrize("skew", [-45, 45])
def test_clocks_may_differ(skew):
    world = World(1)
    world.start_one(skew)
    world.start_one(-skew)
    world.run(3 * EPOCH + 100)
    assert set(world.epochs()) == {epoch_at(world)}


@pytest.mark.parametrize("skew", [-7200, 7200])
def test_one_whose_clock_is_wrong_stops_nobody_and_decides_nothing(skew):
    world = World(2)
    world.start_one(skew)
    world.settle()
    world.run(3 * EPOCH + 3 * PATIENCE)
    assert world.epochs()[:2] == [epoch_at(world)] * 2
    assert all(number <= epoch_at(world) for number, _ in world.store.decisions)
    troubles = [event.detail for event in world.told[2] if event.kind == "storage-trouble"]
    assert any("clock" in detail for detail in troubles) == (skew > 0)


# The store


@pytest.mark.parametrize("fault", ["away", "full", "silent"])
def test_without_the_store_the_last_header_goes_on_and_later_the_next_one_follows(world, fault):
    world.run(EPOCH + 1)
    epoch = epoch_at(world)
    if fault == "away":
        world.store.lost()
    else:
        world.store.fault = fault
    world.run(2 * EPOCH)
    assert world.epochs() == [epoch] * 3 and all(world.members(number) for number in world.alive)
    assert all("storage-trouble" in world.kinds_of(number) for number in world.alive)
    world.store.back()
    world.run(2 * EPOCH)
    assert set(world.epochs()) == {epoch_at(world)}


def test_a_header_that_is_too_old_gives_way_to_the_list(world):
    world.run(EPOCH + 1)
    world.store.lost()
    world.run(HEADER_LIFETIME)
    assert world.epochs() == [0, 0, 0]
    assert all(len(world.listed(number)) == 3 for number in world.alive)


def test_a_store_that_has_lost_all_is_told_what_was_agreed_on(world):
    world.run(EPOCH + 1)
    before = world.header(0)
    world.store.lost()
    world.store.clear()
    world.store.back()
    world.run(5)
    world.start_one()
    world.settle()
    assert world.header(3) == before
    world.run(2 * EPOCH)
    assert set(world.epochs()) == {epoch_at(world)} and world.header(0).value == before.value


def test_a_store_that_goes_back_to_an_older_decision_learns_the_newer_one(world):
    world.run(EPOCH + 1)
    old = world.store.decision
    world.run(EPOCH)
    world.store.lost()
    world.store.decision = old
    world.store.back()
    world.run(5)
    assert world.store.decision[0] == epoch_at(world)


def test_a_store_that_is_emptied_while_it_is_in_use_costs_an_epoch(world):
    world.run(EPOCH + 1)
    world.store.decision = 0, None
    world.run(EPOCH)
    assert set(world.epochs()) == {epoch_at(world) - 1}
    world.run(EPOCH)
    assert set(world.epochs()) == {epoch_at(world)}


def test_who_finds_that_the_store_has_gone_back_makes_no_header_that_somebody_may_know(world):
    """The others have signed one; who slept through that and finds an emptied store does not sign another one."""
    world.run(EPOCH + 1)
    sleeper = world.maker()
    world.at_question(sleeper, Propose, lambda question: world.pause(sleeper))
    world.run(EPOCH + 2 * PATIENCE)
    for number in world.alive:
        if number != sleeper:
            world.kill_service(number)
    world.store.decision = 0, None
    world.wake(sleeper)
    world.run(2 * PATIENCE)
    assert world.epochs() == [epoch_at(world) - 1]
    for number in (1, 2, 3):
        world.register(number, at=sleeper)
    world.run(EPOCH)
    assert world.epochs() == [epoch_at(world)]


def test_a_store_that_goes_back_while_it_is_in_use_stops_nobody_for_long(world):
    world.run(EPOCH + 1)
    old = world.store.decision
    world.run(EPOCH)
    world.store.decision = old
    world.run(2 * EPOCH)
    assert set(world.epochs()) == {epoch_at(world)}


def test_nothing_is_signed_that_contradicts_what_was_signed(world):
    world.run(EPOCH + 1)
    header, sharing = world.header(0), world.services[0].sharing
    other = replace(header, epoch=header.epoch + 1, published=header.published + EPOCH, before=header.value)
    assert contradict(header, other)
    decision = Decision(other.body(), True, bytes(16), 0, world.services[0]._publisher._draws.encode())
    world.store.decision = other.epoch, sharing.seal(decision)
    world.services[1]._publisher.decided(other.epoch, world.time)
    world.link(1).run(lambda now: None)
    world.settle()
    assert world.header(1) == header and "storage-trouble" in world.kinds_of(1)
    world.store.clear()


@pytest.mark.parametrize("lost", ["all", "one", "garbage", "swapped"])
def test_nodes_that_the_store_has_lost_cost_the_buckets_of_one_epoch(world, lost, monkeypatch):
    monkeypatch.setattr(module, "MAX_IN_PART", 1)
    world.run(EPOCH + 1)
    world.start_one()  # before it has asked
    kept = world.store.kept
    for name in list(kept) if lost == "all" else list(kept)[-1:]:
        match lost:
            case "garbage":
                kept[name] = b"garbage", kept[name][1]
            case "swapped":
                kept[name] = kept[next(iter(kept))]
            case _:
                del kept[name]
    world.settle()
    world.run(5)
    assert set(world.epochs()) == {epoch_at(world)}
    assert world.members(3) is None and world.members(0) is not None
    assert ("storage-trouble" in world.kinds_of(3)) == (lost == "swapped")
    world.run(EPOCH)
    assert all(world.members(number) for number in world.alive)


def test_what_others_leave_in_the_store_is_believed_only_if_it_is_sealed(world):
    world.run(EPOCH + 1)
    number, value = world.store.decision
    world.store.decision = number + 1, b"garbage"
    for service in world.services:
        service._publisher.decided(number + 1, world.time)
    world.run(5)
    assert set(world.epochs()) == {number}
    world.store.decision = number, value


def test_the_store_keeps_nodes_no_longer_than_they_are_asked_for(world):
    world.run(8 * EPOCH)
    names = [name for name, (_, until) in world.store.kept.items() if until > world.time]
    assert len(names) <= LIFETIME / EPOCH + 1
    assert all(len(body) < 2000 for _, body in [world.store.decision])


# Ages and values


def test_one_that_starts_later_knows_how_old_nodes_are_also_those_that_are_gone(world):
    since = int(world.time)
    world.run(EPOCH - LEAD - 60)
    world.channels[2].close()
    world.run(LEAD + 120)
    assert len(world.members(0)) == 2
    world.start_one()
    world.settle()
    for number in (0, 1, 2):
        world.kill_service(number)
    for number in (1, 2, 3):
        world.register(number, at=3)
    world.run(2 * EPOCH)
    header = world.header(3)
    bucket = world.services[3]._publisher.answer(BucketRequest(header.epoch, RingKind.ALL, 0))
    assert [item.since for item in bucket.items] == [since] * 3
    assert world.time - since < ABSENCE


def test_nodes_may_leave_while_a_cut_is_left_in_the_store(world, monkeypatch):
    monkeypatch.setattr(module, "MAX_IN_PART", 1)
    world.run(EPOCH + 1)
    maker = world.services[world.maker()]._publisher
    maker.drop(identity(2), world.time)

    def leave(question):
        maker.drop(identity(3), world.time)

    world.at_question(world.maker(), Keep, leave)
    world.run(EPOCH)
    assert set(world.epochs()) == {epoch_at(world)}
    assert all(len(world.members(number)) == 2 for number in world.alive)


def test_a_contribution_that_one_has_heard_counts_for_all(monkeypatch):
    monkeypatch.setattr("convergence.facilitator.sharing.BEAT", 60.0)
    monkeypatch.setattr("convergence.facilitator.sharing.SILENT", 300.0)
    other = b"o" * 32
    world = World(2)
    for service in world.services:
        service._publisher._draws._facilitators.add(CRYPTO.ed25519_public(other))
    day = int(world.time // DAY) + 1
    world.run(EPOCH + 1)

    def hear(number, part):
        publisher = world.services[number]._publisher
        world.link(number).run(lambda now: publisher.heard(Draw((part,)), now))
        world.settle()

    hear(1 - world.maker(), part_of(other, day))
    world.run((day - 1) * DAY + COMMIT_PHASE - world.time + 2 * PATIENCE)
    announced = {world.header(number).committed for number in world.alive}
    assert len(announced) == 1 and announced != {bytes(32)}
    hear(1 - world.maker(), part_of(other, day, revealed=True))
    world.run(day * DAY - world.time + 2 * PATIENCE)
    headers = [world.services[number]._publisher._header for number in world.alive]  # the nodes have expired
    assert headers[0] == headers[1] and headers[0].epoch == epoch_at(world)
    assert headers[0].value.fixed == (day - 1) * DAY + COMMIT_PHASE
    for number in world.alive:
        draw = world.services[number]._publisher.draw(day)
        assert len(draw.parts) == 2 and all(number for _, number in draw.parts)


def test_a_question_that_fails_is_asked_again_in_the_same_epoch(world):
    world.run(EPOCH + 1)
    maker, answer = world.maker(), world.store.answer
    failing = [Propose, Latest]

    def fails(name, question):
        if failing and isinstance(question, failing[0]):
            failing.pop(0)
            return Failure("io", "once")
        return answer(name, question)

    for number in world.alive:
        if number != maker:
            world.kill_service(number)
    world.store.answer = fails
    world.run(EPOCH + 3 * PATIENCE)
    assert world.epochs() == [epoch_at(world)] and not failing
