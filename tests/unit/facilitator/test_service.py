import gc
import json
from dataclasses import replace

import pytest

from convergence.effects import CloseLink, Connect, Failure, Load, Protocol, Scan, Send, Store
from convergence.events import Event, StorageTrouble, as_json
from convergence.facilitator.ages import NEVER
from convergence.facilitator.registry import GRACE, LIST_INTERVAL, RESTORED, SWEEP_INTERVAL, RegistryLimits
from convergence.facilitator.service import (
    FIRST_RECORD_TIMEOUT,
    IDLE_TIMEOUT,
    MAX_CLOCK_SKEW,
    MAX_LIFETIME,
    RECORDS_BURST,
    RECORDS_PER_SECOND,
    SIGNALS_BURST,
    SIGNALS_PER_SECOND,
    FacilitatorService,
)
from convergence.introduction.signalling import MAX_INTRODUCTIONS_PER_MINUTE, MAX_PER_PAIR, TAG_LIFETIME
from convergence.outbox import Outbox
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.facilitator import (
    MAX_SEALED,
    RECORD_HEADER_LEN,
    Delivery,
    ErrorCode,
    ErrorRecord,
    Hello,
    NodeList,
    Reached,
    RecordCutter,
    RecordType,
    Signal,
    Unreachable,
    UnreachableReason,
    encode_record,
)
from convergence.wire.target import Role
from tests.unit.facilitator.world import (
    CRYPTO,
    SEED,
    START,
    HashRng,
    MemoryStorage,
    World,
    describe,
    doors,
    node_keys,
    node_seed,
    registration,
)
from tests.unit.work import work

LIST = encode_record(RecordType.LIST)
NUMBERS = {CRYPTO.ed25519_public(node_seed(number)): number for number in range(1, 10)}
UNKNOWN, BUSY = UnreachableReason.UNKNOWN, UnreachableReason.BUSY


class Rig:
    """A service without storage, and the answers on each channel."""

    def __init__(self, **settings):
        self.now = START
        self.service = FacilitatorService(CRYPTO, HashRng(), SEED, Outbox(), **settings)
        self.service.start(self.now)
        self.events = []
        self.closed = {}
        self.stores = []
        self.hellos = {}
        self.signals = {}  # by channel: what it got of DELIVER, REPLY and UNREACHABLE
        self.reached = {}  # by channel: what it heard of its address
        self.doors = doors()
        self.dials = []  # addresses, in order
        self.probes = {}  # the service's channel -> door

    def open(self, channel, protocol=Protocol.FACILITATOR):
        self.service.link_opened(channel, self.now, protocol=protocol, binding=None)
        return self.collect(channel)

    def send(self, channel, data):
        self.service.link_data(channel, data, self.now)
        return self.collect(channel)

    def register(self, channel, descriptor, hello=None):
        """With the proof for the HELLO of this channel, if no other is given."""
        body = registration(NUMBERS[descriptor.identity], hello or self.hellos[channel], descriptor.encode())
        return self.send(channel, encode_record(RecordType.REGISTER, body))

    def node(self, channel, number):
        """Node `number` opens a channel and registers; returns its identity."""
        descriptor = describe(number, self.now)
        self.open(channel)
        assert self.register(channel, descriptor) == REGISTERED
        return descriptor.identity

    def signal(self, channel, to, sealed=b"offer", tag=1):
        return self.send(channel, encode_record(RecordType.SIGNAL, Signal(tag, to, sealed).encode()))

    def reply(self, channel, tag, sealed=b"answer"):
        return self.send(channel, encode_record(RecordType.REPLY, Delivery(tag, sealed).encode()))

    def take(self, channel):
        return self.signals.pop(channel, [])

    def close(self, channel):
        self.service.link_closed(channel, self.now, "gone")
        self.collect(channel)

    def pass_time(self, seconds):
        end = self.now + seconds
        while (deadline := self.service.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.service.timer(self.now)
            self.collect(None)
        self.now = end
        self.collect(None)

    def collect(self, channel):
        """What was answered on this channel, errors as their codes."""
        answers = []
        while effects := self.service.poll(self.now):
            for effect in effects:
                self._do(effect, channel, answers)
            self._knock()
        return answers

    def _do(self, effect, channel, answers):
        match effect:
            case Connect(number, Protocol.LINK, url):
                self.dials.append(url)
                door = self.doors.get(url)
                if door is None:
                    self.service.link_closed(number, self.now, "connection refused")
                elif door != "silent":
                    self.probes[number] = door
                    door.link_opened(number + 1, self.now, protocol=Protocol.LINK, binding=None)
                    self.service.link_opened(number, self.now, protocol=Protocol.LINK, binding=None)
            case CloseLink(number, _) if number % 2:
                door = self.probes.pop(number, None)
                if door is not None:
                    door.link_closed(number + 1, self.now, "closed")
            case Send(number, buffers) if number % 2:
                if number in self.probes:
                    self.probes[number].link_data(number + 1, b"".join(buffers), self.now)
            case Event():
                self.events.append((effect.kind, json.loads(json.dumps(as_json(effect)))))
            case CloseLink(number, reason):
                self.closed[number] = reason
            case Store(request, items):
                self.stores += items
                self.service.done(request, None, self.now)
            case Send(number, buffers):
                for kind, body in RecordCutter(SENT).feed(b"".join(buffers)):
                    self._sent(number, kind, body, answers if number == channel else [])

    def _knock(self):
        """Carry what doors send to the service."""
        for number, door in list(self.probes.items()):
            for effect in door.poll(self.now):
                if isinstance(effect, Send) and number in self.probes:
                    self.service.link_data(number, b"".join(effect.buffers), self.now)
                elif isinstance(effect, CloseLink) and self.probes.pop(number, None):
                    self.service.link_closed(number, self.now, effect.reason)

    def _sent(self, channel, kind, body, answers):
        match kind:
            case RecordType.HELLO:
                assert channel not in self.hellos
                self.hellos[channel] = body
            case RecordType.DELIVER | RecordType.REPLY:
                self.signals.setdefault(channel, []).append(Delivery.parse(body))
            case RecordType.UNREACHABLE:
                self.signals.setdefault(channel, []).append(Unreachable.parse(body))
            case RecordType.REACHED:
                self.reached.setdefault(channel, []).append(Reached.parse(body).when)
            case RecordType.ERROR:
                answers.append(ErrorCode(ErrorRecord.parse(body).code))
            case _:
                answers.append((kind, body))

    def listed(self):
        nodes = NodeList.parse(self.service.signed_list(self.now))
        return {Descriptor.parse(raw).identity for raw in nodes.descriptors}


REGISTERED = [(RecordType.REGISTERED, b"")]
SENT = (
    *(RecordType.HELLO, RecordType.REGISTERED, RecordType.REACHED, RecordType.NODES, RecordType.ERROR),
    *(RecordType.DELIVER, RecordType.REPLY, RecordType.UNREACHABLE, RecordType.HEADER, RecordType.BUCKET),
)


@pytest.fixture
def rig():
    return Rig()


# Registration and list


def test_a_registered_node_is_listed_and_stored(rig):
    descriptor = describe(1, rig.now)
    rig.open(2)
    assert rig.register(2, descriptor) == REGISTERED
    [(kind, body)] = rig.send(2, LIST)
    nodes = NodeList.parse(body)
    assert kind is RecordType.NODES
    assert nodes.facilitator == rig.service.identity
    assert nodes.verify(CRYPTO.ed25519_verify)
    assert nodes.descriptors == (descriptor.encode(),)
    assert ("node", descriptor.identity, descriptor.encode()) in rig.stores
    assert rig.events[0][0] == "node-registered"


def test_the_list_is_signed_again_when_nodes_change_and_after_a_while(rig):
    first = rig.service.signed_list(rig.now)
    rig.now += LIST_INTERVAL - 1
    assert rig.service.signed_list(rig.now) is first
    rig.open(2)
    rig.register(2, describe(1, rig.now))
    second = rig.service.signed_list(rig.now)
    assert second != first
    rig.now += LIST_INTERVAL
    assert (
        NodeList.parse(rig.service.signed_list(rig.now)).published == NodeList.parse(second).published + LIST_INTERVAL
    )


def test_only_a_newer_descriptor_replaces(rig):
    rig.open(2)
    first = describe(1, rig.now)
    newer = describe(1, rig.now + 1, roles=Role.RELAY)
    assert rig.register(2, first) == REGISTERED
    assert rig.register(2, newer) == REGISTERED
    assert rig.register(2, newer) == REGISTERED
    assert rig.register(2, first) == [ErrorCode.STALE]
    assert rig.register(2, describe(1, rig.now + 1, roles=Role.EXIT)) == [ErrorCode.STALE]
    assert NodeList.parse(rig.service.signed_list(rig.now)).descriptors == (newer.encode(),)
    assert [kind for kind, _ in rig.events].count("node-registered") == 1


@pytest.mark.parametrize(
    ("published", "lifetime", "answer"),
    [
        (MAX_CLOCK_SKEW, 100, REGISTERED),
        (MAX_CLOCK_SKEW + 1, 100, [ErrorCode.BAD_DATES]),
        (-100, 101, REGISTERED),
        (-100, 100, [ErrorCode.BAD_DATES]),
        (0, MAX_LIFETIME, REGISTERED),
        (0, MAX_LIFETIME + 1, [ErrorCode.BAD_DATES]),
    ],
)
def test_dates_have_to_fit(rig, published, lifetime, answer):
    rig.open(2)
    assert rig.register(2, describe(1, rig.now + published, lifetime=lifetime)) == answer
    assert 2 not in rig.closed


def test_a_forged_descriptor_ends_the_channel(rig):
    rig.open(2)
    assert rig.register(2, replace(describe(1, rig.now), ntor_key=b"x" * 32)) == [ErrorCode.BAD_SIGNATURE]
    assert 2 in rig.closed
    assert rig.send(2, LIST) == []
    assert rig.listed() == set()


@pytest.mark.parametrize("body", [b"", b"junk", bytes(64), bytes(100)])
def test_a_registration_that_does_not_parse_is_refused(rig, body):
    rig.open(2)
    assert rig.send(2, encode_record(RecordType.REGISTER, body)) == [ErrorCode.BAD_RECORD]
    assert rig.register(2, describe(1, rig.now)) == REGISTERED


def test_each_channel_is_greeted_with_a_nonce_of_its_own(rig):
    hellos = []
    for channel in (2, 4):
        rig.open(channel)
        hellos.append(Hello.parse(rig.hellos[channel]))
    assert {hello.identity for hello in hellos} == {rig.service.identity}
    assert len({hello.nonce for hello in hellos}) == 2


def test_a_registration_replayed_on_another_channel_is_refused(rig):
    """Whoever saw a descriptor could otherwise keep a node listed that has gone, and get its signals."""
    descriptor = describe(1, rig.now)
    rig.open(2)
    body = registration(1, rig.hellos[2], descriptor.encode())
    assert rig.send(2, encode_record(RecordType.REGISTER, body)) == REGISTERED
    rig.close(2)
    rig.open(4)
    assert rig.send(4, encode_record(RecordType.REGISTER, body)) == [ErrorCode.BAD_SIGNATURE]
    assert 4 in rig.closed
    rig.pass_time(GRACE)
    assert rig.listed() == set()


def test_a_proof_for_another_facilitator_or_nonce_is_refused(rig):
    for channel, forge in enumerate(
        (lambda hello: Hello(bytes(32), hello.nonce), lambda hello: Hello(hello.identity, bytes(32)))
    ):
        channel *= 2
        rig.open(channel)
        other = forge(Hello.parse(rig.hellos[channel])).encode()
        assert rig.register(channel, describe(1, rig.now), other) == [ErrorCode.BAD_SIGNATURE]
    assert rig.listed() == set()


def test_a_proof_by_another_node_is_refused(rig):
    rig.open(2)
    body = registration(2, rig.hellos[2], describe(1, rig.now).encode())
    assert rig.send(2, encode_record(RecordType.REGISTER, body)) == [ErrorCode.BAD_SIGNATURE]


def test_a_node_that_pauses_is_signalled_but_not_listed(rig):
    rig.node(2, 1)
    paused = describe(1, rig.now + 1, roles=Role(0))
    assert rig.register(2, paused) == REGISTERED
    assert rig.listed() == set()
    rig.open(4)
    rig.signal(4, paused.identity)
    assert len(rig.take(2)) == 1
    assert rig.service.health(rig.now)["nodes"][0]["roles"] == []
    assert rig.register(2, describe(1, rig.now + 2)) == REGISTERED
    assert rig.listed() == {paused.identity}


def test_a_node_without_an_address_is_listed_like_others(rig):
    rig.open(2)
    descriptor = describe(1, rig.now, transports=(Transport.rtc(),))
    assert rig.register(2, descriptor) == REGISTERED
    assert rig.listed() == {descriptor.identity}
    assert rig.service.health(rig.now)["nodes"][0]["transports"] == ["rtc"]


def test_a_channel_registers_one_node(rig):
    rig.open(2)
    rig.register(2, describe(1, rig.now))
    assert rig.register(2, describe(2, rig.now)) == [ErrorCode.OTHER_NODE]
    assert len(rig.listed()) == 1


def test_registered_nodes_are_bounded():
    rig = Rig(limits=RegistryLimits(nodes=2))
    for number in (1, 2, 3):
        rig.open(2 * number)
        answer = rig.register(2 * number, describe(number, rig.now))
        assert answer == (REGISTERED if number < 3 else [ErrorCode.FULL])
    assert rig.register(2, describe(1, rig.now + 1)) == REGISTERED


# Ends


def test_a_node_whose_channel_closed_is_dropped_after_a_grace(rig):
    rig.open(2)
    descriptor = describe(1, rig.now)
    rig.register(2, descriptor)
    rig.close(2)
    rig.pass_time(GRACE - 1)
    assert rig.listed() == {descriptor.identity}
    rig.pass_time(1)
    assert rig.listed() == set()
    assert rig.events[-1] == ("node-lost", {"identity": descriptor.identity.hex()[:16], "reason": "disconnected"})
    assert rig.stores[-1] == ("node", descriptor.identity, None)


def test_a_node_that_comes_back_in_time_stays(rig):
    rig.open(2)
    descriptor = describe(1, rig.now)
    rig.register(2, descriptor)
    rig.close(2)
    rig.pass_time(GRACE - 1)
    rig.open(4)
    assert rig.register(4, descriptor) == REGISTERED
    rig.pass_time(10 * GRACE)
    assert rig.listed() == {descriptor.identity}


def test_one_of_two_channels_keeps_a_node(rig):
    descriptor = describe(1, rig.now)
    for channel in (2, 4):
        rig.open(channel)
        rig.register(channel, descriptor)
    rig.close(4)
    rig.pass_time(2 * GRACE)
    assert rig.listed() == {descriptor.identity}


def test_a_node_is_dropped_when_it_expires_and_may_register_again(rig):
    rig.open(2)
    rig.register(2, describe(1, rig.now, lifetime=60))
    rig.open(4)
    rig.register(4, describe(2, rig.now, lifetime=60))
    rig.close(4)
    rig.service.link_data(2, LIST, rig.now)
    rig.pass_time(60 + SWEEP_INTERVAL)
    assert rig.listed() == set()
    assert ("node-lost", "expired") in [(kind, data.get("reason")) for kind, data in rig.events]
    assert rig.register(2, describe(1, rig.now)) == REGISTERED
    rig.close(2)
    rig.pass_time(GRACE)
    assert rig.listed() == set()


def test_an_expiry_cancels_the_grace(rig):
    rig.open(2)
    rig.register(2, describe(1, rig.now, lifetime=5))
    rig.close(2)
    rig.pass_time(2 * GRACE)
    assert [kind for kind, _ in rig.events].count("node-lost") == 1


def test_a_list_never_holds_expired_nodes(rig):
    rig.open(2)
    rig.register(2, describe(1, rig.now, lifetime=1))
    rig.now += 2
    assert rig.listed() == set()


def test_channels_without_a_record_are_closed(rig):
    rig.open(2)
    rig.send(2, LIST[:3])
    rig.pass_time(FIRST_RECORD_TIMEOUT + SWEEP_INTERVAL)
    assert rig.closed[2] == "idle"


def test_idle_channels_are_closed(rig):
    rig.open(2)
    rig.send(2, LIST)
    rig.pass_time(IDLE_TIMEOUT - SWEEP_INTERVAL)
    assert 2 not in rig.closed
    rig.pass_time(2 * SWEEP_INTERVAL)
    assert rig.closed[2] == "idle"
    rig.close(2)


def test_nothing_is_left_of_a_channel_that_has_ended(rig):
    """However many come and go, none waits for a collection of garbage."""
    gc.collect()
    gc.disable()
    try:
        rig.node(2, 1)
        kind = type(rig.service._channels[2])
        there = sum(type(item) is kind for item in gc.get_objects())
        rig.open(4)
        rig.close(4)  # by the node
        rig.node(6, 2)
        rig.signal(6, describe(1, rig.now).identity)
        rig.close(2)
        rig.send(6, b"\x00" * 64)  # by the facilitator
        rig.pass_time(GRACE + 2 * TAG_LIFETIME)
        assert not rig.service._channels
        assert sum(type(item) is kind for item in gc.get_objects()) == there - 1
    finally:
        gc.enable()


# Introductions


def test_a_signal_is_delivered_on_the_channel_of_its_node_and_answered(rig):
    identity = rig.node(2, 1)
    rig.open(4)  # an asker need not be registered
    rig.signal(4, identity, b"offer", tag=9)
    [delivery] = rig.take(2)
    assert delivery.sealed == b"offer"
    for answer in (b"answer", b"candidates"):
        rig.reply(2, delivery.tag, answer)
    assert rig.take(4) == [Delivery(9, b"answer"), Delivery(9, b"candidates")]


def test_a_signal_to_whoever_is_not_here_is_answered_so(rig):
    identity = rig.node(2, 1)
    rig.open(4)
    rig.signal(4, bytes(32), tag=1)
    rig.close(2)  # still listed for a while
    rig.signal(4, identity, tag=2)
    assert rig.take(4) == [Unreachable(1, UNKNOWN), Unreachable(2, UNKNOWN)]
    assert 4 not in rig.closed


def test_a_node_that_expired_is_no_longer_signalled(rig):
    rig.open(2)
    descriptor = describe(1, rig.now, lifetime=60)
    rig.register(2, descriptor)
    rig.pass_time(60 + SWEEP_INTERVAL)
    rig.open(4)
    rig.signal(4, descriptor.identity)
    assert rig.take(4) == [Unreachable(1, UNKNOWN)]
    rig.register(2, describe(1, rig.now))
    rig.signal(4, descriptor.identity)
    assert len(rig.take(2)) == 1


def test_the_channel_that_registered_last_gets_the_signals(rig):
    identity = rig.node(2, 1)
    rig.node(4, 1)
    rig.open(6)
    rig.signal(6, identity)
    assert (len(rig.take(4)), rig.take(2)) == (1, [])
    rig.close(4)
    rig.take(6)
    rig.signal(6, identity)
    assert len(rig.take(2)) == 1


def test_a_node_cannot_reply_for_another_or_after_a_minute(rig):
    identity = rig.node(2, 1)
    rig.node(4, 2)
    rig.open(6)
    rig.signal(6, identity)
    [delivery] = rig.take(2)
    rig.reply(4, delivery.tag, b"forged")
    rig.reply(6, delivery.tag, b"forged")
    assert rig.take(6) == []
    rig.pass_time(TAG_LIFETIME)
    rig.reply(2, delivery.tag, b"late")
    assert rig.take(6) == []
    assert rig.closed == {}


def test_a_flood_of_signals_is_refused_without_closing_and_starves_nobody(rig):
    identity = rig.node(2, 1)
    for channel in (4, 6):
        rig.open(channel)
    for _ in range(200):
        rig.signal(4, identity)
    assert rig.take(4) == [Unreachable(1, BUSY)] * (200 - MAX_PER_PAIR)
    assert len(rig.take(2)) == MAX_PER_PAIR
    rig.signal(6, identity)
    assert (len(rig.take(2)), rig.take(6)) == (1, [])
    assert rig.send(4, LIST)[0][0] is RecordType.NODES
    assert rig.closed == {}


def test_signals_have_an_allowance_of_their_own(rig):
    rig.open(4)
    for tag in range(int(SIGNALS_BURST) + 1):
        rig.signal(4, bytes(32), tag=tag)
    assert [item.reason for item in rig.take(4)] == [UNKNOWN] * int(SIGNALS_BURST) + [BUSY]
    rig.pass_time(2 / SIGNALS_PER_SECOND)
    for tag in range(3):
        rig.signal(4, bytes(32), tag=tag)
    assert [item.reason for item in rig.take(4)] == [UNKNOWN, UNKNOWN, BUSY]
    assert rig.send(4, LIST * int(RECORDS_BURST))[-1][0] is RecordType.NODES
    assert SIGNALS_BURST > MAX_INTRODUCTIONS_PER_MINUTE


def test_what_a_node_does_not_read_of_signals_is_dropped(rig):
    identity = rig.node(2, 1)
    rig.open(4)
    rig.service.link_congested(2, True, rig.now)
    rig.signal(4, identity)
    rig.service.link_congested(2, False, rig.now)
    rig.signal(4, identity)
    assert len(rig.take(2)) == 1


@pytest.mark.parametrize("kind", [RecordType.SIGNAL, RecordType.REPLY])
def test_a_malformed_signal_ends_the_channel(rig, kind):
    rig.open(2)
    assert rig.send(2, encode_record(kind, b"abc")) == [ErrorCode.BAD_RECORD]
    assert 2 in rig.closed


@pytest.mark.parametrize("kind", [RecordType.HELLO, RecordType.DELIVER, RecordType.UNREACHABLE, RecordType.ASK])
def test_what_only_others_send_ends_the_channel(rig, kind):
    rig.open(2)
    assert rig.send(2, encode_record(kind, bytes(5))) == [ErrorCode.BAD_RECORD]
    assert 2 in rig.closed


def test_signals_are_neither_stored_nor_told(rig):
    identity = rig.node(2, 1)
    rig.open(4)
    before = (list(rig.events), list(rig.stores), rig.service.health(rig.now))
    rig.signal(4, identity, bytes(MAX_SEALED))
    rig.reply(2, rig.take(2)[0].tag)
    rig.signal(4, bytes(32))
    rig.collect(None)
    assert (rig.events, rig.stores, rig.service.health(rig.now)) == before


# Abuse


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\0\0\0\0\x0d", b"\0\0\0\1\3x", b"\0\0\0\0\4", b"\xff" * 5])
def test_garbage_gets_an_error_and_ends_the_channel(rig, data):
    rig.open(2)
    assert rig.send(2, data) == [ErrorCode.BAD_RECORD]
    assert 2 in rig.closed
    assert rig.events[-1][0] == "refused"
    assert rig.service.health(rig.now)["channels"] == 0


def test_too_many_records_end_the_channel(rig):
    rig.open(2)
    answers = rig.send(2, LIST * int(RECORDS_BURST + 5))
    assert len(answers) == RECORDS_BURST + 1
    assert answers[-1] == ErrorCode.RATE_LIMIT
    assert 2 in rig.closed


def test_answers_to_nothing_are_records_too(rig):
    rig.open(2)
    for tag in range(int(RECORDS_BURST) + 1):
        rig.reply(2, tag, b"answer to nothing")
    assert 2 in rig.closed


def test_the_allowance_comes_back(rig):
    rig.open(2)
    rig.send(2, LIST * int(RECORDS_BURST))
    rig.now += 2 / RECORDS_PER_SECOND
    answers = rig.send(2, LIST * 3)
    assert [answer == ErrorCode.RATE_LIMIT for answer in answers] == [False, False, True]


def test_channels_are_bounded():
    rig = Rig(limits=RegistryLimits(channels=1))
    assert rig.open(2) == []
    assert rig.open(4) == [ErrorCode.BUSY]
    assert 4 in rig.closed
    rig.close(4)
    assert rig.service.health(rig.now)["channels"] == 1


def test_a_flood_at_a_full_facilitator_costs_one_channel_and_the_same_however_many_there_are():
    def one_comes(size):
        rig = Rig(limits=RegistryLimits(channels=size), source=lambda channel: f"network {channel % 10 and 1}")
        for number in range(size):
            rig.open(2 * number + 2)
        assert rig.closed == {}
        flood = max(2 * number + 2 for number in range(size) if (2 * number + 2) % 10)
        cost = work(lambda: rig.service.link_opened(10 * size, rig.now, protocol=Protocol.FACILITATOR))
        rig.collect(None)
        assert list(rig.closed) == [flood]  # the newest of the source that has most
        assert rig.open(10 * size + 2) == [ErrorCode.BUSY]
        rig.close(2)
        assert rig.open(10 * size + 4) == []
        return cost

    assert one_comes(2000) <= 1.1 * one_comes(200)


def test_other_protocols_are_closed(rig):
    rig.open(2, Protocol.LINK)
    assert 2 in rig.closed


def test_who_does_not_read_gets_no_more_lists(rig):
    rig.open(2)
    rig.service.link_congested(2, True, rig.now)
    rig.service.link_congested(99, True, rig.now)
    assert rig.send(2, LIST) == [ErrorCode.BUSY]
    rig.service.link_congested(2, False, rig.now)
    assert rig.send(2, LIST)[0][0] is RecordType.NODES


# Health


def test_health_is_plain_data(rig):
    rig.open(2)
    rig.register(2, describe(1, rig.now - 5))
    other = describe(2, rig.now)
    other = replace(
        other, transports=(*other.transports, Transport.tls("192.0.2.7:1", bytes(20)), Transport(9, "x"))
    ).sign(lambda message: CRYPTO.ed25519_sign(bytes([2]) * 32, message))
    rig.open(4)
    rig.register(4, other)
    rig.close(4)
    health = json.loads(json.dumps(rig.service.health(rig.now + 1)))
    assert health["facilitator"] == CRYPTO.ed25519_public(SEED).hex()
    assert health["channels"] == 1
    by_url = {node["transports"][0]: node for node in health["nodes"]}
    first = by_url["ws://10.0.0.1:9001/"]
    assert first["identity"] == describe(1, 0).identity.hex()[:16]
    assert (first["roles"], first["age"], first["expires_in"]) == (["relay", "rdv"], 6, 3594)
    assert first["connected"] and not by_url["ws://10.0.0.2:9001/"]["connected"]
    assert by_url["ws://10.0.0.2:9001/"]["transports"] == ["ws://10.0.0.2:9001/", "tls"]


# Storage


def test_a_restarted_facilitator_lists_its_nodes_until_they_expire():
    world = World()
    world.client(1)
    world.settle()
    world.reachable = False
    world.restart_service()
    world.run(2 * GRACE)
    assert [node["connected"] for node in world.service.health(world.now())["nodes"]] == [False]
    world.run(3600)
    assert world.service.health(world.now())["nodes"] == []
    assert not [key for kind, key in world.storage.items if kind == "node"]


def test_a_restarted_facilitator_lists_tabs_that_do_not_come_back_for_minutes_only():
    """However long they said that they would be there."""
    storage = MemoryStorage()
    tab = describe(1, START, lifetime=6 * 3600, transports=(Transport.rtc(()),))
    storage.items = {("node", tab.identity): tab.encode()}
    world = World(storage)
    world.run(RESTORED - 1)
    assert len(NodeList.parse(world.service.signed_list(world.now())).descriptors) == 1
    world.run(2)
    assert world.service.health(world.now())["nodes"] == []
    assert not [key for kind, key in world.storage.items if kind == "node"]


def test_clients_return_to_a_restarted_facilitator():
    world = World()
    node = world.client(1)
    world.settle()
    world.restart_service()
    world.run(5)
    assert [item["connected"] for item in world.service.health(world.now())["nodes"]] == [True]
    assert node.client.connected


def test_a_network_has_no_more_nodes_after_a_restart_than_before():
    world = World(limits=RegistryLimits(each=2), source=lambda channel: "net")
    for number in range(1, 7):
        world.client(number)
        world.settle()
        world.restart_service()
        world.run(5)
    world.run(3600)
    assert len(world.service.health(world.now())["nodes"]) == 2
    assert world.service._registry._crowd.count("net") == 2


def test_a_node_is_no_older_after_a_restart_than_is_known_whatever_it_says():
    storage = MemoryStorage()
    node = describe(1, START - 5 * 3600, lifetime=6 * 3600)
    storage.items = {("node", node.identity): node.encode()}
    world = World(storage, list_up_to=1)
    world.client(1)
    world.settle()
    assert world.service._publisher._epochs.nodes[node.identity].since == START


def test_whoever_waits_for_others_of_his_network_to_leave_is_young_then():
    """Else he could choose among many when the value is known."""
    world = World(list_up_to=1, source=lambda channel: "net")
    publisher = world.service._publisher
    publisher._ages._each = 1
    first = world.client(1)
    world.run(60)
    second = world.client(2)
    since = lambda number: publisher._epochs.nodes[node_keys(number).identity].since  # noqa: E731
    world.run(3600)
    assert START <= since(1) < START + 60 and since(2) == NEVER
    world.kill(first.port)
    world.run(2 * GRACE)
    for roles in (Role(0), Role.RELAY):
        second.roles = roles
        second.port.driver.run(second.client.register)
        world.run(60)
    assert since(2) > world.time - 120


def test_stored_items_of_no_use_are_deleted(monkeypatch):
    storage = MemoryStorage()
    good, expired, forged = describe(1, START), describe(2, START - 100, lifetime=50), describe(3, START)
    storage.items = {
        ("node", good.identity): good.encode(),
        ("node", expired.identity): expired.encode(),
        ("node", forged.identity): replace(forged, ntor_key=b"x" * 32).encode(),
        ("node", b"k" * 32): good.encode(),
        ("node", b"j" * 32): b"junk",
    }
    world = World(storage)
    world.settle()
    kept = {key: value for (kind, key), value in storage.items.items() if kind == "node"}
    assert kept == {good.identity: good.encode()}
    assert len(world.service.health(START)["nodes"]) == 1
    world.settings["limits"] = RegistryLimits(nodes=0)
    world.restart_service()
    assert world.service.health(START)["nodes"] == []


def test_what_registers_before_its_stored_copy_is_loaded_counts():
    rig = FacilitatorService(CRYPTO, HashRng(), SEED)
    rig.start(START)
    scan, *_ = rig.poll(START)
    assert scan == Scan(1, "node", b"")
    old, new = describe(1, START - 10), describe(1, START)
    rig.done(1, [old.identity, b"gone"], START)
    loads = rig.poll(START)
    assert [type(load) for load in loads] == [Load, Load]
    rig.link_opened(2, START, protocol=Protocol.FACILITATOR)
    [hello] = rig.poll(START)
    body = registration(1, hello.buffers[0][RECORD_HEADER_LEN:], new.encode())
    rig.link_data(2, encode_record(RecordType.REGISTER, body), START)
    rig.poll(START)
    rig.done(loads[0].request, old.encode(), START)
    rig.done(loads[1].request, None, START)
    assert NodeList.parse(rig.signed_list(START)).descriptors == (new.encode(),)
    stored = [item for effect in rig.poll(START) if isinstance(effect, Store) for item in effect.items]
    assert not [key for kind, key, _ in stored if kind == "node"]


def test_without_storage_the_service_goes_on_and_says_so_once():
    world = World()
    world.storage.broken = True
    world.restart_service()
    world.client(1)
    world.client(2)
    world.settle()
    assert len(world.service.health(world.now())["nodes"]) == 2
    assert world.kinds().count("storage-trouble") == 1


def test_a_load_that_fails_is_told():
    service = FacilitatorService(CRYPTO, HashRng(), SEED)
    service.start(START)
    service.poll(START)
    service.done(1, [bytes(32)], START)
    [load] = service.poll(START)
    service.done(load.request, Failure("io", "broken"), START)
    assert service.poll(START) == [StorageTrouble("io", "broken")]
