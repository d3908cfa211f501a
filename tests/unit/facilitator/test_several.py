"""Several facilitators behind one name: to their nodes they are one."""

import random
from itertools import pairwise

import pytest

from convergence.codes import RtcWhy
from convergence.effects import Failure
from convergence.facilitator import exchange, passing, shared, sharing
from convergence.facilitator.prober import ADDRESS_PAUSE
from convergence.facilitator.questions import Read
from convergence.facilitator.registry import GRACE, RegistryLimits
from convergence.facilitator.service import LEAVING
from convergence.facilitator.shared import RETURN
from convergence.facilitator.sharing import BEAT, QUESTION_TIMEOUT, SILENT, Seal
from convergence.introduction import signalling
from convergence.introduction.signalling import MAX_PER_PAIR
from convergence.wire.descriptor import Transport
from convergence.wire.facilitator import ErrorCode, NodeList, RecordType
from convergence.wire.sharing import Beat, NodeRecord, encode_shared
from convergence.wire.target import Role
from tests.unit.facilitator.several import Several, directory
from tests.unit.facilitator.test_service import LIST
from tests.unit.facilitator.world import CRYPTO, SEED, describe, node_keys

RTC = (Transport.rtc(),)


def identity(number):
    return node_keys(number).identity


@pytest.fixture
def world():
    return Several()


class Asker:
    """What one node's signals brought."""

    def __init__(self, machine):
        self.machine = machine
        self.answers, self.refusals = [], []

    def signal(self, number, sealed=b"offer"):
        self.machine.port.driver.run(
            lambda now: self.machine.client.carrier.signal(
                identity(number),
                sealed,
                lambda sealed, now: self.answers.append(sealed),
                lambda why, now: self.refusals.append(why.code),
                now,
            )
        )


# One list


def test_a_node_of_one_facilitator_is_listed_by_all(world):
    world.node(1, at=0)
    world.node(2, at=1)
    assert world.listed(0) == world.listed(1) == {identity(1), identity(2)}
    lists = [NodeList.parse(service.signed_list(world.time)) for service in world.services]
    assert {one.facilitator for one in lists} == {CRYPTO.ed25519_public(SEED)}
    assert all(all(one.reached) for one in lists)
    for number in (0, 1):
        nodes = world.services[number].health(world.time)["nodes"]
        assert [node["connected"] for node in nodes] == [True, True]


def test_a_node_takes_the_list_of_another_facilitator(world):
    """Each list that a channel brings first is of that very second, and a clock that is behind is no fault."""
    machine = world.node(1, at=0)
    world.services[1].signed_list(world.time)
    world.run(20)
    world.services[0].signed_list(world.time)
    world.kill_service(0)
    world.run(5)
    assert machine.client.connected and machine.directory.published >= world.time - 5
    assert {why.why.code for why in machine.troubles} == {"facilitator-lost"}


def test_a_list_that_is_a_little_older_changes_nothing(world):
    world.node(1, at=0)
    old = world.services[0].signed_list(world.time)
    world.node(2, at=0)
    world.run(3)
    new = world.services[0].signed_list(world.time)
    assert len(directory((new, old), world.time).nodes(Role.RELAY, world.time)) == 2


def test_an_older_descriptor_is_refused_wherever_a_newer_one_is(world):
    world.node(1, at=0)
    world.run(1)
    channel = world.channel(1)
    channel.register(describe(1, world.time - 10))
    world.settle()
    assert channel.answers == [ErrorCode.STALE]


def test_two_descriptors_of_one_second_are_never_both_taken(world):
    channels = [world.channel(number) for number in (0, 1)]
    said = [describe(1, world.time, transports=RTC), describe(1, world.time, roles=Role.RDV, transports=RTC)]
    for channel, descriptor in zip(channels, said, strict=True):
        channel.register(descriptor)
    world.settle()
    assert sorted(str(channel.answers[0]) for channel in channels) == sorted(
        [str(RecordType.REGISTERED), str(ErrorCode.STALE)]
    )
    assert world.services[0].signed_list(world.time)[:-96] == world.services[1].signed_list(world.time)[:-96]


# Limits


def test_a_source_gets_no_more_places_by_asking_two():
    world = Several(limits=RegistryLimits(each=2))
    world.source = "192.0.2.0/24"
    channels = [world.channel(number % 2) for number in range(4)]
    for number, channel in enumerate(channels, 1):
        channel.register(describe(number, world.time, transports=RTC))  # at once, before any hears of another
    world.settle()
    answers = [channel.answers[0] for channel in channels]
    assert (answers.count(RecordType.REGISTERED), answers.count(ErrorCode.FULL)) == (2, 2)
    assert len(world.listed(0)) == len(world.listed(1)) == 2


def test_all_together_register_as_many_nodes_as_one_would():
    world = Several(limits=RegistryLimits(nodes=3))
    channels = [world.channel(number % 2) for number in range(4)]
    for number, channel in enumerate(channels, 1):
        channel.register(describe(number, world.time, transports=RTC))
    world.settle()
    assert [channel.answers[0] for channel in channels].count(ErrorCode.FULL) == 1


def test_an_address_is_dialled_once_whoever_is_asked(world):
    url = "ws://10.0.0.9:9001/"
    dials = []
    connect = Several.connect
    world.connect = lambda *arguments: (dials.append(arguments[3]), connect(world, *arguments))
    for number in (0, 1):
        channel = world.channel(number)
        channel.register(describe(number + 1, world.time, transports=(Transport(1, url),)))
    world.settle()
    world.run(ADDRESS_PAUSE / 2)
    assert dials.count(url) == 1
    world.run(2 * ADDRESS_PAUSE)
    assert dials.count(url) >= 2


def test_signals_to_one_node_are_limited_as_at_one_facilitator(world):
    target = world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    for _ in range(MAX_PER_PAIR + 3):
        asker.signal(1)
    world.settle()
    assert len(target.delivered) == MAX_PER_PAIR
    assert asker.refusals == [RtcWhy.BUSY] * 3


def test_a_source_gets_no_more_signals_to_one_node_through_two(world, monkeypatch):
    monkeypatch.setattr(signalling, "MAX_PER_TARGET", 4)
    target = world.node(1, at=1)
    world.source = "192.0.2.0/24"
    near, far, other = Asker(world.node(2, at=1)), Asker(world.node(3, at=0)), Asker(world.node(4, at=0))
    for _ in range(5):
        near.signal(1)
    world.settle()
    assert len(target.delivered) == 4 and len(near.refusals) == 1
    far.signal(1)
    world.settle()
    assert len(target.delivered) == 4 and far.refusals == [RtcWhy.BUSY]
    world.source = "198.51.100.0/24"
    world.kill(other.machine.port)
    other = Asker(world.node(5, at=0))
    other.signal(1)
    world.settle()
    assert len(target.delivered) == 5


def test_many_signals_do_not_stop_what_is_written(world, monkeypatch):
    """However many wait, few of them are before what is asked of the store."""
    monkeypatch.setattr(passing, "MAX_PASSED", 3)
    target = world.node(1, at=1)
    askers = [Asker(world.node(number, at=0)) for number in (2, 3)]
    world.store.fault = "silent"
    for asker in askers:
        for _ in range(4):
            asker.signal(1)
    world.settle()
    assert len(world.store.late) == 1
    world.node(4, at=0)
    before = len(world.store.seen)
    world.store.back()
    world.settle()
    seen = [world.services[1].sharing.open(body) for body in world.store.seen[before:]]
    kinds = [NodeRecord if isinstance(item, NodeRecord) else len(item.items) for item in seen]
    assert kinds[:5] == [1, NodeRecord, 3, 3, 1]
    assert len(target.delivered) == 8 and not any(asker.refusals for asker in askers)
    assert "storage-trouble" not in world.kinds_of(0)


A, B = "192.0.2.0/24", "198.51.100.0/24"


@pytest.fixture
def narrow(monkeypatch):
    """Facilitators at which four signals wait, and one is under way."""
    monkeypatch.setattr(passing, "MAX_PASSED", 1)
    monkeypatch.setattr(passing, "MAX_WAITING", 4)
    return Several()


def test_a_flood_of_signals_gives_way_to_those_of_others(narrow):
    world = narrow
    target = world.node(1, at=1)
    world.source = A
    liars = [Asker(world.node(number, at=0)) for number in (2, 3)]
    world.source = B
    honest = Asker(world.node(4, at=0))
    world.store.fault = "silent"
    for liar in liars:
        for _ in range(5):
            liar.signal(1, b"flood")
    world.settle()
    assert [liar.refusals for liar in liars] == [[], [RtcWhy.BUSY] * 5]  # at once: one is under way, four wait
    for _ in range(2):
        honest.signal(1, b"honest")
    world.settle()
    assert honest.refusals == [] and liars[0].refusals == [RtcWhy.BUSY] * 2
    world.store.back()
    world.settle()
    sealed = [sealed for sealed, _ in target.delivered]
    assert sealed == [b"flood", b"flood", b"honest", b"flood", b"honest"]  # in turn


def test_a_flood_of_answers_gives_way_to_those_of_others(narrow):
    """And who waits for one that gave way hears so, as soon as anything can be told."""
    world = narrow
    world.source = A
    liar = world.node(1, at=1)
    world.source = B
    target = world.node(2, at=1)
    near, asker = (Asker(world.node(number, at=0)) for number in (3, 4))
    near.signal(1)
    asker.signal(1)
    asker.signal(2)
    world.settle()
    answers = [(node.port, reply) for node in (liar, target) for _, reply in node.delivered]
    world.store.fault = "silent"
    for port, reply in [answers[0]] * 6 + answers[1:]:
        port.driver.run(lambda now, reply=reply: reply(b"answer", now))
        world.settle()
    before = len(world.store.seen)
    world.store.back()
    world.settle()
    pieces = [world.services[0].sharing.open(body).items for body in world.store.seen[before:]]
    assert [back.kind == RecordType.UNREACHABLE for [back] in pieces] == [False] + [True] * 3 + [False] * 4
    assert near.answers == [b"answer"] * 4 and near.refusals == []
    assert asker.answers == [b"answer"] and asker.refusals == [RtcWhy.BUSY]


def test_signals_that_wait_for_a_store_that_fails_are_refused_at_once(narrow):
    world = narrow
    world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    world.store.fault = "silent"
    for _ in range(4):
        asker.signal(1)
    world.settle()
    assert not asker.refusals
    world.run(QUESTION_TIMEOUT + 0.1)
    assert asker.refusals == [RtcWhy.BUSY] * 4
    world.store.back()
    world.run(2 * BEAT)
    asker.signal(1)
    world.settle()
    assert len(asker.refusals) == 4


def test_no_source_gets_more_places_while_the_store_is_slow():
    world = Several(limits=RegistryLimits(each=2))
    world.source, world.store.fault = "192.0.2.0/24", "silent"
    channels = [world.channel(0) for _ in range(4)]
    for number, channel in enumerate(channels, 1):
        channel.register(describe(number, world.time, transports=RTC))  # all wait for the store
    world.run(QUESTION_TIMEOUT + 0.1)
    answers = [channel.answers[0] for channel in channels]
    assert (answers.count(RecordType.REGISTERED), answers.count(ErrorCode.FULL)) == (2, 2)


def test_each_trouble_is_told_once(world):
    """Who mends one finds the next one in the log."""
    link = world.link(0)
    link.cut_off()
    for reason in ("connection refused", "wrong password", "connection refused", "wrong password"):
        link.run(lambda now, reason=reason: link.service.parted(reason, now))
    for number in range(20):
        link.run(lambda now, number=number: link.service.parted(f"reason {number}", now))
    link.connected()
    world.run(1)
    told = [event.detail for event in world.told[0] if event.kind == "storage-trouble"]
    assert told[:2] == ["connection refused", "wrong password"] and len(told) == sharing.MAX_TROUBLES
    assert world.kinds_of(0).count("storage-works") == 1


def test_a_store_works_once_it_takes_what_is_written(world):
    """One that is full, or whose disk is, may well be reached and read."""
    world.store.fault = "full"
    world.run(2 * BEAT)
    world.link(0).cut_off()
    world.link(0).connected()
    world.run(3 * BEAT)
    assert "storage-works" not in world.kinds_of(0)
    assert world.services[0].health(world.time)["store"] == {"state": "ailing", "trouble": "full"}
    world.store.back()
    world.run(3 * BEAT)
    assert world.kinds_of(0).count("storage-works") == 1


# Signals


def test_a_signal_reaches_a_node_of_another_facilitator_and_is_answered(world):
    target = world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    asker.signal(1, b"offer")
    world.settle()
    [(sealed, reply)] = target.delivered
    assert sealed == b"offer"
    for answer in (b"answer", b"candidates"):
        target.port.driver.run(lambda now, answer=answer: reply(answer, now))
    world.settle()
    assert asker.answers == [b"answer", b"candidates"]
    asker.signal(1, b"more")
    world.settle()
    assert [sealed for sealed, _ in target.delivered] == [b"offer", b"more"]


def test_who_asks_for_a_node_that_is_not_there_hears_so(world):
    target = world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    asker.signal(9)
    world.kill(target.port)
    asker.signal(1)
    world.settle()
    assert asker.refusals == [RtcWhy.UNKNOWN_NODE] * 2


def test_a_signal_to_a_facilitator_that_just_died_is_answered(world):
    world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    world.reachable = False
    world.kill_service(1)
    asker.signal(1)
    world.settle()
    assert asker.refusals == [RtcWhy.UNKNOWN_NODE]


def test_an_asker_whose_signal_was_passed_on_hears_when_the_other_facilitator_dies(world):
    world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    asker.signal(1)
    world.settle()
    world.reachable = False
    world.kill_service(1)
    world.run(SILENT + 2 * BEAT)
    assert asker.refusals == [RtcWhy.UNKNOWN_NODE]


def test_the_newest_channel_gets_the_signals_and_the_other_takes_over(world):
    channels = []
    for at in (0, 1):
        channels.append(world.channel(at))
        channels[at].register(describe(1, world.time, transports=RTC))
        world.settle()
    asker = Asker(world.node(2, at=0))
    asker.signal(1)
    world.settle()
    assert [channel.answers.count(RecordType.DELIVER) for channel in channels] == [1, 0]  # its own facilitator's first
    third = Asker(world.node(3, at=1))
    third.signal(1)
    channels[1].close()
    world.settle()
    third.signal(1)
    world.settle()
    assert [channel.answers.count(RecordType.DELIVER) for channel in channels] == [2, 1]
    world.run(2 * GRACE)
    assert identity(1) in world.listed(1) and "node-lost" not in world.kinds_of(1)


# Ends


def test_nodes_of_a_facilitator_that_is_killed_come_back_to_another_and_stay_listed(world):
    machines = [world.node(number, at=number % 2) for number in (1, 2, 3, 4)]
    everyone = {identity(number) for number in (1, 2, 3, 4)}
    world.kill_service(0)
    for _ in range(60):
        world.run(1)
        assert world.listed(1) == everyone
    assert all(machine.client.connected for machine in machines)
    assert "node-lost" not in world.kinds_of(1)


def test_nodes_that_do_not_come_back_leave_the_list_after_the_grace(world):
    world.node(1, at=0)
    world.node(2, at=1)
    world.reachable = False
    world.kill_service(0)
    world.run(SILENT + GRACE - 1)
    assert world.listed(1) == {identity(1), identity(2)}
    world.run(2 * BEAT + 2)
    assert world.listed(1) == {identity(2)}
    assert list(world.store.nodes) == [identity(2)]
    assert "facilitator-lost" in world.kinds_of(1)


@pytest.mark.parametrize("seconds", [SILENT + GRACE / 2, SILENT + GRACE + 5])
def test_a_facilitator_that_stood_still_gets_its_nodes_back(world, seconds):
    """The others hold it for dead and, later, drop its nodes; their channels stand, so they are registered again."""
    world.node(1, at=0)
    link, port = world.link(0), world.service_ports[0]
    world.ports.remove(port)
    world.run(seconds)
    dropped = seconds > SILENT + GRACE
    assert world.listed(1) == (set() if dropped else {identity(1)})
    world.ports.append(port)
    port.driver.tick()
    if dropped:
        link.connected()  # its connection to the store was lost
    world.run(2 * GRACE)
    assert world.listed(0) == world.listed(1) == {identity(1)}
    assert world.kinds_of(1).count("node-lost") == dropped


def test_a_facilitator_that_starts_knows_all(world):
    world.node(1, at=0)
    world.start_one()
    world.settle()
    assert world.listed(2) == {identity(1)}
    world.run(2 * GRACE)
    assert world.listed(2) == {identity(1)}


def test_all_are_killed_and_one_starts(world):
    world.node(1, at=0)
    world.node(2, at=1)
    world.reachable = False
    world.kill_service(0)
    world.kill_service(1)
    world.start_one()
    world.run(RETURN - 1)
    assert world.listed(2) == {identity(1), identity(2)}  # they may not have come back yet
    world.run(2)
    assert world.listed(2) == set() and world.store.nodes == {}


def test_one_that_stops_in_order_sends_its_nodes_elsewhere_in_turn(world):
    machines = [world.node(number, at=0) for number in range(1, 6)]
    everyone = {identity(number) for number in range(1, 6)}
    gone, connected, began = [], [5], world.time
    world.service_ports[0].driver.run(lambda now: world.services[0].leave(gone.append, now))
    leaving, world.prefer = world.services[0], dict.fromkeys(world.prefer, 1)
    while not gone:
        world.run(0.05)
        connected.append(leaving.health(world.time)["channels"])
        assert world.listed(1) == everyone
    assert set(connected) == set(range(6)) and all(one >= other for one, other in pairwise(connected))
    assert gone[0] - began <= LEAVING
    assert "facilitator-lost" in world.kinds_of(1)
    assert world.channel(0).answers == [ErrorCode.BUSY]
    world.run(60)
    assert all(machine.client.connected for machine in machines) and world.listed(1) == everyone
    assert "node-lost" not in world.kinds_of(1)


# The store


def test_a_node_counts_once_the_store_has_it(world):
    """Or whoever is killed just then would have promised what nobody knows."""
    world.store.fault = "silent"
    channel = world.channel(0)
    channel.register(describe(1, world.time, transports=RTC))
    channel.send(LIST)
    world.settle()
    assert channel.answers == [] and world.listed(0) == set()
    world.store.back()
    world.settle()
    assert channel.answers == [RecordType.REGISTERED, RecordType.NODES]  # in the order of what was asked
    assert world.listed(0) == world.listed(1) == {identity(1)}


def test_a_channel_that_closes_before_the_store_answers_leaves_no_node_behind(world):
    world.store.fault = "silent"
    channel = world.channel(0)
    channel.register(describe(1, world.time, transports=RTC))
    channel.close()
    world.settle()
    world.store.back()
    world.settle()
    world.run(GRACE + 1)
    assert world.listed(0) == world.listed(1) == set() and world.store.nodes == {}


@pytest.mark.parametrize("fault", ["silent", "full", "away"])
def test_without_the_store_each_goes_on_with_what_it_knows_and_says_so(world, fault):
    world.node(1, at=0)
    if fault == "away":
        world.store.lost()
    else:
        world.store.fault = fault
    world.run(2 * BEAT + QUESTION_TIMEOUT)
    assert world.kinds_of(0).count("storage-trouble") == 1
    assert world.services[0].health(world.time)["store"]["trouble"]
    world.node(2, at=1)
    world.run(QUESTION_TIMEOUT)
    assert world.listed(1) == {identity(1), identity(2)}
    assert (identity(2) in world.listed(0)) is (fault == "full")  # a full store still passes on what is told
    world.store.back()
    world.run(3 * BEAT)
    assert world.listed(0) == world.listed(1) == {identity(1), identity(2)}
    assert set(world.store.nodes) == {identity(1), identity(2)}
    assert world.kinds_of(0).count("storage-works") == 1
    assert world.services[0].health(world.time)["store"] == {"state": "shared", "trouble": ""}
    world.run(3 * GRACE)
    assert world.listed(0) == world.listed(1) == {identity(1), identity(2)}


def test_a_signal_that_cannot_be_passed_on_is_refused_at_once(world):
    world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    world.store.lost()
    asker.signal(1)
    world.settle()
    assert asker.refusals == [RtcWhy.BUSY]


def test_a_store_that_lost_everything_is_filled_again(world):
    for number in (1, 2, 3):
        world.node(number, at=number % 2)
    world.store.lost()
    world.store.clear()
    world.run(30)
    assert world.listed(0) == world.listed(1)
    world.store.back()
    world.settle()
    assert world.listed(0) == world.listed(1) == set(world.store.nodes) == {identity(number) for number in (1, 2, 3)}
    world.run(3 * GRACE)
    assert len(world.listed(0)) == len(world.store.nodes) == 3
    assert not {"node-lost", "facilitator-lost"} & {*world.kinds_of(0), *world.kinds_of(1)}


def test_a_node_that_left_while_the_store_was_away_leaves_every_list(world):
    machine = world.node(1, at=1)
    world.store.lost()
    world.kill(machine.port)
    world.run(GRACE + 1)
    assert world.listed(1) == set() and world.listed(0) == {identity(1)}
    world.store.back()
    world.run(GRACE + SILENT)
    assert world.listed(0) == world.listed(1) == set() and world.store.nodes == {}


def test_a_node_that_left_while_one_facilitator_was_cut_off_leaves_its_list(world):
    machine = world.node(1, at=1)
    world.link(0).cut_off()
    world.kill(machine.port)
    world.run(GRACE + 1)
    assert world.store.nodes == {} and world.listed(0) == {identity(1)}
    world.link(0).connected()
    world.run(GRACE + 1)
    assert world.listed(0) == set()


def test_a_facilitator_that_starts_without_the_store_serves_and_joins_later(world):
    world.store.lost()
    world.start_one()
    world.node(1, at=2)
    assert world.listed(2) == {identity(1)}
    world.store.back()
    world.settle()
    assert world.listed(0) == {identity(1)}


# What is in the store


def test_whoever_reads_the_store_learns_neither_sources_nor_who_signals_whom(world):
    world.source = "192.0.2.0/24"
    target = world.node(1, at=1)
    asker = Asker(world.node(2, at=0))
    asker.signal(1, b"an offer that is sealed")
    world.settle()
    assert target.delivered
    everything = b"".join(world.store.seen) + repr((world.store.marks, dict(world.store.sources))).encode()
    for secret in (b"an offer", identity(1), describe(1, world.time).encode()[:20]):
        assert secret not in b"".join(world.store.seen)
    for secret in (b"192.0.2", SEED):
        assert secret not in everything and secret.hex().encode() not in everything


@pytest.mark.parametrize("forge", ["junk", "another seed", "replayed", "changed", "another version"])
def test_what_none_of_us_says_now_is_ignored(world, forge):
    world.node(1, at=0)
    service = world.services[1]
    [old, *_] = [body for body in world.store.seen if body.startswith(world.services[0].sharing.name)]
    said = encode_shared(Beat(1, 1, 0, 0, "9.9", leaves=True))
    body = {
        "junk": b"x" * 100,
        "another seed": Seal(CRYPTO, b"g" * 32, b"n" * 16).close(said),
        "replayed": old,
        "changed": old[:-1] + bytes([old[-1] ^ 1]),
        "another version": Seal(CRYPTO, SEED, b"n" * 16).close(b"\x63" + said[1:]),
    }[forge]
    before = (world.listed(1), service.health(world.time), list(world.told[1]))
    world.service_ports[1].driver.run(lambda now: service.told(body, now))
    world.settle()
    assert (world.listed(1), service.health(world.time), list(world.told[1])) == before


class Recorder:
    """Somebody who may read and write in the store: says again what a facilitator said."""

    def __init__(self, world):
        self.world = world

    def again(self, name, at):
        for body in [body for body in self.world.store.seen if body.startswith(name)]:
            self.world.service_ports[at].driver.run(lambda now, body=body: self.world.services[at].told(body, now))
        self.world.settle()


def test_what_a_dead_facilitator_said_counts_for_nothing(world):
    """Else whoever kept it could show a facilitator that is gone, deliver signals again, and bring back nodes."""
    target = world.node(1, at=0)
    asker = Asker(world.node(2, at=1))
    asker.signal(1)
    world.settle()
    dead = world.services[1].sharing.name
    world.reachable = False
    world.kill(asker.machine.port)
    world.kill_service(1)
    world.run(SILENT + GRACE + 5)
    before = world.listed(0), world.services[0].health(world.time)["facilitators"], len(world.told[0])
    Recorder(world).again(dead, at=0)
    assert len(target.delivered) == 1
    assert (world.listed(0), world.services[0].health(world.time)["facilitators"], len(world.told[0])) == before


def test_what_was_said_before_a_facilitator_began_makes_nobody_live(world):
    """It cannot know what is old. Nodes that it hears of so may come back, as those of any that died."""
    gone = world.node(1, at=1)
    asker = Asker(world.node(2, at=1))
    world.node(3, at=0)
    asker.signal(3)
    world.settle()
    dead = world.services[1].sharing.name
    for machine in (gone, asker.machine):
        world.kill(machine.port)
    world.run(GRACE + 1)
    world.reachable = False
    world.kill_service(1)
    world.start_one()
    world.run(SILENT + GRACE)
    channel = world.channel(2)
    channel.register(describe(3, world.time, transports=RTC))
    world.settle()
    seen = len(world.store.seen)
    Recorder(world).again(dead, at=2)
    assert channel.answers == [RecordType.REGISTERED]
    assert [one["name"] for one in world.services[2].health(world.time)["facilitators"]] == [
        world.services[number].sharing.name.hex()[:8] for number in (2, 0)
    ]
    assert world.kinds_of(2).count("facilitator-found") == 1
    assert len(world.store.seen) - seen < 20  # it is not made to say much
    world.run(RETURN + 1)
    assert world.listed(2) == world.listed(0) == {identity(3)}


def test_strangers_are_bounded(world, monkeypatch):
    monkeypatch.setattr(sharing, "MAX_STRANGERS", 3)
    service = world.services[0]
    for number in range(1, 9):
        body = Seal(CRYPTO, SEED, bytes([number]) * 16).close(encode_shared(Beat(1, 1, 0, 0, "1.0")))
        world.service_ports[0].driver.run(lambda now, body=body: service.told(body, now))
    assert len(service.sharing._strangers) == 3
    world.run(SILENT + 2 * BEAT)
    assert list(service.sharing.peers) == [world.services[1].sharing.name]


@pytest.mark.parametrize("news", ["written", "dropped"])
def test_what_is_told_while_all_is_read_is_newer_than_what_is_read(world, news, monkeypatch):
    """Answers and what is told come over two connections, in any order."""
    machine = world.node(1, at=1)
    held, link = [], world.link(0)
    link.cut_off()
    answer = world.store.answer

    def late(name, question):
        result = answer(name, question)
        if isinstance(question, Read) and name == world.services[0].sharing.name.hex():
            held.append(result)
            return Failure("held", "")
        return result

    consult = link.consult

    def hold(question, reply):
        consult(question, lambda result: reply(result) if result != Failure("held", "") else held.append(reply))

    monkeypatch.setattr(world.store, "answer", late)
    monkeypatch.setattr(link, "consult", hold)
    if news == "written":
        world.kill(machine.port)
        world.run(GRACE + 1)
    link.connected()
    world.settle()
    if news == "written":
        world.node(1, at=1)
    else:
        registry_of_1 = world.services[1]._registry
        node = registry_of_1.nodes[identity(1)]
        world.kill(machine.port)
        world.service_ports[1].driver.run(lambda now: registry_of_1.drop(node, "crowded out", now))
    world.settle()
    result, reply = held
    world.later(lambda: reply(result))
    world.settle()
    assert world.listed(0) == world.listed(1) == ({identity(1)} if news == "written" else set())
    world.run(GRACE + 1)
    assert world.listed(0) == world.listed(1) == ({identity(1)} if news == "written" else set())
    assert world.kinds_of(0).count("node-lost") == (news == "dropped")


def test_a_facilitator_with_a_wrong_clock_takes_no_nodes_of_others(world):
    world.node(1, at=0)
    world.start_one(skew=7200)
    world.run(60)
    assert world.listed(0) == world.listed(1) == {identity(1)} == set(world.store.nodes)
    assert "node-lost" not in world.kinds_of(1)
    world.start_one(skew=1000)  # for which it expires while it is known
    world.run(2700)
    assert world.listed(0) == world.listed(1) == {identity(1)} == set(world.store.nodes)
    assert "node-lost" not in world.kinds_of(1)


def test_clocks_that_differ_are_told_and_shown(world):
    """A node that goes from one to the other would refuse its list as an old one."""
    world.start_one(skew=90)
    world.run(4 * BEAT)
    told = {event.facilitator: event.ahead for event in world.told[0] if event.kind == "clock-trouble"}
    assert told == {world.services[2].sharing.name.hex()[:8]: pytest.approx(90, abs=2)}
    assert world.kinds_of(0).count("clock-trouble") == 1 and world.kinds_of(2).count("clock-trouble") == 2
    shown = [one["ahead"] for one in world.services[0].health(world.time)["facilitators"]]
    assert sorted(shown) == [0, 0, pytest.approx(90, abs=2)]


def test_nothing_that_everybody_may_read_tells_where_the_store_is(world):
    world.store.lost()
    health = world.services[0].health(world.time)
    assert health["store"] == {"state": "away", "trouble": "io"} and "refused" not in str(health)


def test_facilitators_are_bounded(world, monkeypatch):
    monkeypatch.setattr(sharing, "MAX_FACILITATORS", 1)
    world.start_one()
    world.run(2 * BEAT)
    assert len(world.services[0].sharing.peers) == 1


def test_every_facilitator_shows_all(world):
    world.node(1, at=0)
    world.run(2 * BEAT)
    for number in (0, 1):
        health = world.services[number].health(world.time)
        own = world.services[number].sharing.name.hex()[:8]
        assert [one["name"] for one in health["facilitators"]][0] == own
        assert sorted((one["nodes"], one["channels"], one["version"]) for one in health["facilitators"]) == [
            (0, 0, "1.0"),
            (1, 1, "1.0"),
        ]
        assert health["nodes"][0]["facilitator"] == world.services[0].sharing.name.hex()[:8]


def test_a_node_that_is_dropped_while_it_registers_again_counts_as_any_other(world):
    channels = [world.channel(0), world.channel(0)]
    channels[0].register(describe(1, world.time, transports=RTC))
    world.settle()
    channels[0].close()
    world.run(GRACE - 1)
    world.link(0).cut_off()
    world.link(0).connected()
    world.store.fault = "silent"
    channels[1].register(describe(1, world.time, transports=RTC))
    world.run(2)  # it is dropped meanwhile
    world.store.back()
    world.settle()
    assert world.listed(0) == {identity(1)}
    channels[1].close()
    world.run(GRACE + 1)
    assert world.listed(0) == world.listed(1) == set()


def test_questions_are_bounded(world, monkeypatch):
    monkeypatch.setattr(sharing, "MAX_QUESTIONS", 3)
    monkeypatch.setattr(shared, "SAVED_AT_ONCE", 2)
    world.store.fault = "silent"
    channels = [world.channel(0) for _ in range(5)]
    for number, channel in enumerate(channels, 1):
        channel.register(describe(number, world.time, transports=RTC))
    world.run(0.1)
    assert [channel.answers for channel in channels].count([RecordType.REGISTERED]) == 2  # by what is known here
    world.store.back()
    world.run(3 * BEAT)
    assert len(world.store.nodes) == len(world.listed(1)) == 5
    assert world.kinds_of(0).count("storage-trouble") == 1


def test_pipes_between_facilitators_are_bounded_and_forgotten(world):
    for service in world.services:
        service.sharing.signals.max_pipes = 1
    targets = [world.node(number, at=1) for number in (1, 2)]
    asker = Asker(world.node(3, at=0))
    for number in (1, 2, 1):
        asker.signal(number)
    world.settle()
    assert [len(target.delivered) for target in targets] == [2, 0]
    assert asker.refusals == [RtcWhy.UNKNOWN_NODE]
    world.run(exchange.LIFETIME)
    asker.signal(2)
    world.settle()
    assert len(targets[1].delivered) == 1


def test_a_channel_that_asks_while_it_registers_is_bounded_by_its_records(world):
    world.store.fault = "silent"
    channel = world.channel(0)
    channel.register(describe(1, world.time, transports=RTC))
    channel.send(LIST * 30)
    world.settle()
    assert channel.answers == [ErrorCode.RATE_LIMIT] and channel.ended
    world.store.back()
    world.settle()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_all_lists_are_right_in_the_end(seed):
    """Facilitators die and start, lose the store, which forgets, fills up, hangs, and is restored as it was long ago;
    nodes come, go, and move."""
    chance = random.Random(seed)
    world = Several(3)
    machines = {}
    backup = world.store.backup()
    for _ in range(40):
        alive = [number for number, service in enumerate(world.services) if service is not None]
        match chance.randrange(12):
            case 0 | 1 if len(machines) < 9:
                number = chance.choice([number for number in range(1, 10) if number not in machines])
                machines[number] = world.node(number, at=chance.choice(alive))
            case 2 if machines:
                world.kill(machines.pop(chance.choice(list(machines))).port)
            case 3 if len(alive) > 1:
                world.kill_service(chance.choice(alive))
            case 4 if len(alive) < 4:
                world.start_one()
            case 5:
                world.link(chance.choice(alive)).cut_off()
            case 6:
                world.link(chance.choice(alive)).connected()
            case 7:
                world.store.fault = chance.choice([None, "full", "silent"])
                if world.store.fault is None:
                    world.store.back()
            case 8 if chance.random() < 0.3:
                world.store.lost()
                world.store.clear()
                world.store.back()
            case 9 | 10 if machines:
                machine = chance.choice(list(machines.values()))
                world.prefer[machine.port] = chance.choice(alive)
                machine.port.driver.run(machine.client.moved)
            case 11:
                world.store.lost()
                backup = world.store.backup(backup)
                world.store.back()
        world.run(chance.choice([0, 0.5, 3, 15, 40]))
    world.store.fault = None
    world.store.back()
    alive = [number for number, service in enumerate(world.services) if service is not None]
    for number in alive:
        if world.link(number).cut:
            world.link(number).connected()
    world.run(2 * RETURN)
    everyone = {identity(number) for number in machines}
    assert [world.listed(number) for number in alive] == [everyone] * len(alive)
    assert set(world.store.nodes) == everyone
    assert all(machine.client.connected for machine in machines.values())
    for number in alive:
        health = world.services[number].health(world.time)
        assert all(node["connected"] and node["reached"] is not None for node in health["nodes"])
        assert len(health["facilitators"]) == len(alive) and health["store"] == {"state": "shared", "trouble": ""}
