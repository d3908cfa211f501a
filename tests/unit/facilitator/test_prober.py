"""A node is listed once it was found at its address; who names addresses of others gains and scans nothing."""

import pytest

from convergence.effects import CloseLink, Connect, Protocol
from convergence.facilitator.prober import (
    ADDRESS_PAUSE,
    DIALS_PER_HOST,
    FAILURE_TOLD,
    LOOK_AGAIN,
    LOOKED_AT,
    MAX_PROBES,
    MAX_PROBES_EACH,
    MAX_WAITING_EACH,
    PROBES_PER_SOURCE,
    STEP_TIMEOUT,
    Prober,
)
from convergence.facilitator.reaching import MISSES, RECHECK, RECHECK_SOON
from convergence.facilitator.registry import MAX_REGISTERED_EACH, RegistryLimits
from convergence.outbox import Outbox
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.facilitator import ErrorCode, NodeList
from convergence.wire.target import Role
from tests.unit.facilitator.test_service import LIST, REGISTERED, Rig
from tests.unit.facilitator.world import CRYPTO, START, Door, HashRng, describe, node_keys
from tests.unit.work import work

AT_ONE = "ws://10.0.0.1:9001/"


@pytest.fixture
def rig():
    return Rig()


def when_reached(rig):
    """What the list says of each node that it holds, by number of the node."""
    nodes = NodeList.parse(rig.service.signed_list(rig.now))
    by_identity = {node_keys(number).identity: number for number in range(1, 10)}
    return {
        by_identity[Descriptor.parse(raw).identity]: reached
        for raw, reached in zip(nodes.descriptors, nodes.reached, strict=True)
    }


def live(rig, seconds, *channels):
    """Let time pass while these channels ask for the list now and then, as nodes do."""
    for _ in range(int(seconds // 60)):
        rig.pass_time(60)
        for channel in channels or (2,):
            rig.send(channel, LIST)
    rig.pass_time(seconds % 60)


# -- the list


def test_a_node_is_listed_with_the_time_when_it_was_found(rig):
    rig.node(2, 1)
    assert rig.dials == [AT_ONE] and rig.reached == {2: [int(START)]}
    assert when_reached(rig) == {1: int(START)}
    assert not rig.probes, "the link is closed again"


def test_a_node_that_nobody_finds_gets_signals_and_is_not_listed(rig):
    del rig.doors[AT_ONE]
    identity = rig.node(2, 1)
    assert when_reached(rig) == {} and rig.reached == {} and not rig.stores
    rig.open(4)
    rig.signal(4, identity)
    assert [delivery.sealed for delivery in rig.take(2)] == [b"offer"]
    rig.pass_time(FAILURE_TOLD)
    assert rig.reached == {2: [0]} and when_reached(rig) == {}


def test_it_is_looked_for_again(rig):
    door = rig.doors.pop(AT_ONE)
    rig.node(2, 1)
    rig.pass_time(FAILURE_TOLD + RECHECK_SOON - 1)
    rig.doors[AT_ONE] = door
    rig.pass_time(2)
    found = int(START + FAILURE_TOLD + RECHECK_SOON)
    assert when_reached(rig) == {1: found} and rig.reached[2][-1] == found


def test_a_failure_is_told_after_the_same_time_whatever_it_was(rig):
    """Or a stranger could tell closed ports from open ones."""
    told = {}
    for number, door in enumerate((None, "silent", Door(node_keys(9))), 1):
        rig.doors[f"ws://10.0.0.{number}:9001/"] = door
        rig.node(2 * number, number)
    for second in range(40):
        for channel in rig.reached:
            told.setdefault(channel, second)
        rig.pass_time(1)
    assert told == dict.fromkeys((2, 4, 6), int(FAILURE_TOLD))


def test_what_leaves_is_dropped_after_a_second_look_and_comes_back(rig):
    rig.node(2, 1)
    door = rig.doors.pop(AT_ONE)
    live(rig, RECHECK + FAILURE_TOLD + 1)
    assert when_reached(rig) == {1: int(START)}, "once may be an accident"
    live(rig, RECHECK_SOON + FAILURE_TOLD + 1)
    assert MISSES == 2 and when_reached(rig) == {} and rig.reached[2][-1] == 0
    assert rig.stores[-1][2] is None
    rig.doors[AT_ONE] = door
    live(rig, RECHECK)
    assert list(when_reached(rig)) == [1]


def test_the_time_is_that_of_the_latest_look(rig):
    rig.node(2, 1)
    for _ in range(3):
        live(rig, RECHECK)
        rig.register(2, describe(1, rig.now))
    live(rig, 61)
    assert when_reached(rig)[1] >= START + 3 * RECHECK


def test_a_new_descriptor_of_the_same_place_is_not_looked_for_again(rig):
    rig.node(2, 1)
    rig.pass_time(10)
    assert rig.register(2, describe(1, rig.now, roles=Role.RELAY)) == REGISTERED
    assert len(rig.dials) == 1 and list(when_reached(rig)) == [1]


def test_another_address_has_to_be_found_first(rig):
    rig.node(2, 1)
    rig.pass_time(10)
    moved = describe(1, rig.now, transports=(Transport(1, "ws://10.0.0.77:9001/"),))
    rig.register(2, moved)
    assert when_reached(rig) == {}
    rig.doors["ws://10.0.0.77:9001/"] = Door(node_keys(1))
    live(rig, RECHECK)
    assert list(when_reached(rig)) == [1]


def test_one_that_gives_up_its_address_is_not_looked_for(rig):
    rig.node(2, 1)
    rig.pass_time(10)
    rig.register(2, describe(1, rig.now, transports=(Transport.rtc(),)))
    live(rig, 2 * RECHECK)
    assert len(rig.dials) == 1 and when_reached(rig) == {1: 0}


def test_a_node_without_an_address_is_listed_by_its_channel_as_never_reached(rig):
    rig.open(2)
    rig.register(2, describe(1, rig.now, transports=(Transport.rtc(),)))
    assert when_reached(rig) == {1: 0} and not rig.dials and not rig.reached


def test_one_that_pauses_is_not_looked_for(rig):
    rig.node(2, 1)
    rig.pass_time(10)
    rig.register(2, describe(1, rig.now, roles=Role(0)))
    live(rig, 2 * RECHECK)
    assert len(rig.dials) == 1 and rig.reached == {2: [int(START)]}


# -- attacks


def test_a_node_at_somebody_elses_address_is_not_listed(rig):
    """An honest node is there and answers by its own key."""
    rig.open(2)
    rig.register(2, describe(2, rig.now, transports=(Transport(1, AT_ONE),)))
    live(rig, RECHECK)
    assert rig.dials and when_reached(rig) == {} and set(rig.reached[2]) == {0}


def test_a_copied_certificate_proves_nothing(rig):
    """It answers the link handshake as the node, which needs no key over a WebSocket; CREATE2 it cannot answer."""
    keys = node_keys(1)
    thief = Door(keys)
    thief.relaying.keys = node_keys(2)
    rig.doors[AT_ONE] = thief
    rig.node(2, 1)
    rig.pass_time(FAILURE_TOLD)
    assert thief.neighbours.links == {} and when_reached(rig) == {}


def test_the_same_node_from_elsewhere_is_no_reason_to_dial_again(rig):
    rig.node(2, 1)
    for channel in (4, 6, 8):
        rig.open(channel)
        rig.register(channel, describe(1, rig.now))
    assert len(rig.dials) == 1


def test_a_slow_answer_frees_its_place(rig):
    rig.doors[AT_ONE] = "silent"
    rig.node(2, 1)
    rig.pass_time(STEP_TIMEOUT)
    assert not rig.service._prober._running


def test_nodes_of_one_source_are_bounded_and_leave_room_for_others():
    limits = RegistryLimits(nodes=4, each=3)
    rig = Rig(source=lambda channel: "greedy" if channel < 8 else "other" if channel < 20 else "", limits=limits)
    for number in (1, 2, 3):
        rig.node(2 * number, number)
    assert rig.register(4, describe(2, rig.now)) == REGISTERED, "it is one of them"
    rig.open(0)
    assert rig.register(0, describe(4, rig.now)) == [ErrorCode.FULL]
    rig.node(10, 5)
    rig.node(12, 6)
    assert len(when_reached(rig)) == 4 and {5, 6} < when_reached(rig).keys()
    assert MAX_REGISTERED_EACH > 3


# -- limits of dialling, without a service


class Scan:
    """A prober whose dials nobody answers."""

    def __init__(self):
        self.outbox = Outbox()
        self.now = START
        self.verdicts = []
        self.prober = Prober(
            self.outbox, CRYPTO, HashRng(), node_keys(1), lambda node, found, now: self.verdicts.append(found)
        )
        self.open = set()
        self.sources = []
        self.dials = []  # (time, address)

    def probe(self, number, address, source="source", known=False):
        identity = number.to_bytes(32, "big")
        node = Descriptor(identity, bytes(32), 1, 2, Role.RELAY, (Transport(1, address),))
        self.prober.probe(node, source, self.now, known=known)
        self.poll()

    def poll(self):
        for effect in self.outbox.poll(self.now):
            match effect:
                case Connect(channel, Protocol.LINK, address):
                    self.open.add(channel)
                    self.dials.append((self.now, address))
                    self.sources.append(effect.source)
                case CloseLink(channel, _):
                    self.open.remove(channel)

    def run(self, seconds):
        end = self.now + seconds
        while (deadline := self.outbox.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.outbox.run_timers(self.now)
            self.poll()
            assert len(self.open) <= MAX_PROBES
        self.now = end


def test_a_dial_tells_the_shell_which_source_it_is_for():
    scan = Scan()
    scan.probe(1, "ws://node.example/", source="honest")
    assert scan.sources == ["honest"]


def test_one_source_has_few_dials_under_way_and_others_have_theirs():
    scan = Scan()
    for number in range(100):
        scan.probe(number, f"ws://10.1.0.{number}/")
    assert len(scan.open) == MAX_PROBES_EACH
    scan.probe(200, "ws://10.2.0.1/", source="honest")
    assert len(scan.open) == MAX_PROBES_EACH + 1


def test_a_turn_costs_the_same_however_many_wait_and_all_come_to_theirs():
    def looked_at(waiting):
        scan = Scan()
        for number in range(waiting):
            scan.probe(number, "ws://10.1.0.1/")  # one address, dialled again and again
        scan.probe(999, "ws://10.2.0.1/")
        spent = work(lambda: scan.prober._look_again(scan.now))
        scan.run(2 * waiting / LOOKED_AT * LOOK_AGAIN)
        assert "ws://10.2.0.1/" in [address for _, address in scan.dials]
        return spent

    assert looked_at(MAX_WAITING_EACH - 1) <= 1.1 * looked_at(2 * LOOKED_AT)


def test_all_sources_together_have_their_limit():
    scan = Scan()
    for number in range(3 * MAX_PROBES):
        scan.probe(number, f"ws://10.1.0.{number}/", source=f"source {number}")
    assert len(scan.open) == MAX_PROBES
    scan.run(4 * STEP_TIMEOUT)
    assert len(scan.dials) == 3 * MAX_PROBES and not scan.open and set(scan.verdicts) == {False}


def test_a_few_sources_with_slow_addresses_do_not_keep_the_others_out():
    scan = Scan()
    for number in range(40 * MAX_PROBES):
        source = number % (MAX_PROBES // MAX_PROBES_EACH)
        scan.probe(number, f"ws://10.{source}.{number // 250}.{number % 250}/", source=f"slow {source}")
    assert len(scan.open) == MAX_PROBES
    scan.probe(9999, "ws://10.99.0.1/", source="honest")
    since = {}
    for _ in range(240):  # each answers late, and says nothing then: fewer than PROBES_PER_SOURCE end in a minute
        for channel in scan.open:
            if scan.now - since.setdefault(channel, scan.now) == STEP_TIMEOUT - 1:
                scan.prober.opened(channel, scan.now)
        scan.poll()
        scan.run(1)
    assert "ws://10.99.0.1/" in [address for _, address in scan.dials]


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_limits_go_on_when_the_clock_jumps(by):
    scan = Scan()
    scan.probe(1, "ws://10.1.0.1/")
    scan.run(ADDRESS_PAUSE / 2)
    scan.outbox.shift(by)
    scan.now += by
    scan.probe(2, "ws://10.1.0.1/")
    scan.run(ADDRESS_PAUSE / 2 - 1)
    assert len(scan.dials) == 1
    scan.run(2 + LOOK_AGAIN)
    assert len(scan.dials) == 2


def test_a_source_dials_so_many_a_minute():
    scan = Scan()
    for number in range(200):
        scan.probe(number, f"ws://10.1.{number}.1/")
    scan.run(59)
    assert len(scan.dials) <= PROBES_PER_SOURCE
    scan.run(600)
    assert len(scan.dials) == 200


def test_the_ports_of_a_host_are_not_scanned():
    scan = Scan()
    for number in range(1000):
        scan.probe(number, f"ws://10.1.0.1:{1000 + number}/", source=f"source {number}")
    scan.run(59)
    assert len(scan.dials) <= DIALS_PER_HOST


def test_an_address_is_dialled_once_in_a_while():
    scan = Scan()
    for number in range(10):
        scan.probe(number, "ws://10.1.0.1:9001/a", source=f"source {number}")
        scan.probe(number + 50, "ws://10.1.0.1:9001/b", source=f"source {number}")
    scan.run(5 * ADDRESS_PAUSE)
    times = [when for when, _ in scan.dials]
    assert len(times) > 3 and all(b - a >= ADDRESS_PAUSE for a, b in zip(times, times[1:], strict=False))


def test_a_node_that_was_found_before_does_not_wait_for_strangers():
    scan = Scan()
    for number in range(50):
        scan.probe(number, "ws://10.1.0.1:9001/")
    scan.probe(99, "ws://10.1.0.1:9001/", source="honest", known=True)
    assert len(scan.dials) == 2


def test_what_waits_is_bounded_and_the_newest_of_a_node_counts():
    scan = Scan()
    for number in range(2 * MAX_WAITING_EACH):
        scan.probe(number, f"ws://10.1.0.1:{1000 + number}/")
    for number in range(20, 120):
        scan.probe(number, "ws://10.9.9.9/")
    assert sum(map(len, scan.prober._waiting.values())) == MAX_WAITING_EACH
    scan.run(LOOK_AGAIN)
    assert len(scan.open) <= MAX_PROBES_EACH
