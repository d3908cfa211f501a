"""What newcomers pay: floods, answers that are stolen, kept or made up, and the price over time."""

import random
from hashlib import sha256

import pytest

from convergence.crypto.puzzle import solves
from convergence.effects import CloseLink, Protocol, Send
from convergence.facilitator import newcomers as module
from convergence.facilitator.ages import Ages
from convergence.facilitator.newcomers import FIRST_EFFORT, LIFETIME, MAX_EFFORT, PERIOD, Newcomers
from convergence.facilitator.registry import RegistryLimits
from convergence.facilitator.service import FacilitatorService
from convergence.outbox import Outbox
from convergence.wire.descriptor import Descriptor, Transport, TransportKind
from convergence.wire.facilitator import (
    ErrorCode,
    ErrorRecord,
    Puzzle,
    RecordCutter,
    RecordType,
    Register,
    Solved,
    encode_record,
)
from convergence.wire.target import Role
from pynode.crypto import CPythonCrypto
from tests.unit.facilitator.world import CRYPTO, SEED, START, HashRng, describe, registration

FACILITATOR = CRYPTO.ed25519_public(SEED)
FREE = int(module.FREE_A_MINUTE * PERIOD / 60)


class CountedCrypto(CPythonCrypto):
    """Signatures always hold; the number 0 solves every puzzle, and no other does. Tries are counted, not made."""

    checks = 0

    def ed25519_verify(self, public, signature, message, /):
        return True

    def argon2id(self, message, salt, memory, /):
        self.checks += 1
        return bytes(32) if message.endswith(bytes(8)) else b"\xff" * 32


class Desk:
    """A facilitator, and what it says to whom."""

    def __init__(self, crypto=None, **more):
        self.now = START
        self.crypto = crypto or CountedCrypto()
        self.sources = {}
        self.said = {}  # by channel: records
        self.hellos = {}
        self.closed = set()
        self.service = FacilitatorService(
            self.crypto, HashRng(), SEED, Outbox(), source=lambda channel: self.sources.get(channel, ""), **more
        )
        self.service.start(self.now)
        self.cutters = {}
        self.last = 0

    @property
    def newcomers(self):
        return self.service._newcomers

    def open(self, source=""):
        self.last += 2
        self.sources[self.last] = source
        self.service.link_opened(self.last, self.now, protocol=Protocol.FACILITATOR)
        self.collect()
        [(kind, self.hellos[self.last])] = self.said[self.last]
        assert kind is RecordType.HELLO
        return self.last

    def close(self, channel):
        self.service.link_closed(channel, self.now, "gone")
        self.collect()

    def send(self, channel, kind, body):
        """What is answered."""
        self.said[channel] = []
        self.service.link_data(channel, encode_record(kind, body), self.now)
        self.collect()
        return self.said[channel]

    def register(self, channel, node, number=None):
        record = Register(bytes(64), node.encode())
        if number is None:
            return self.send(channel, RecordType.REGISTER, record.encode())
        return self.send(channel, RecordType.SOLVED, Solved(number, record).encode())

    def collect(self):
        for effect in self.service.poll(self.now):
            match effect:
                case Send(channel, buffers):
                    cutter = self.cutters.setdefault(channel, RecordCutter(tuple(RecordType)))
                    self.said.setdefault(channel, []).extend(cutter.feed(b"".join(buffers)))
                case CloseLink(channel, _):
                    self.closed.add(channel)

    def pass_time(self, seconds):
        end = self.now + seconds
        while (deadline := self.service.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.service.timer(self.now)
            self.collect()
        self.now = end

    def crowd(self, name, count=3 * FREE):
        """So many newcomers from as many networks, at this moment; how many were let in for nothing."""
        free = 0
        for number in range(count):
            [(kind, _)] = self.register(self.open(f"{name} {number}"), node_of(self, f"{name} {number}"))
            free += kind is RecordType.REGISTERED
        return free


def node_of(desk, name, published=None):
    """A browser's descriptor."""
    when = int(desk.now if published is None else published)
    return Descriptor(
        sha256(str(name).encode()).digest(),
        b"k" * 32,
        when,
        when + 3600,
        Role.RELAY,
        (Transport(TransportKind.RTC, ""),),
        b"s" * 64,
    )


def kinds(records):
    return [kind for kind, _ in records]


def code(records):
    [(kind, body)] = records
    assert kind is RecordType.ERROR
    return ErrorRecord.parse(body).code


# Who pays


def test_few_newcomers_pay_nothing_and_a_crowd_does():
    desk = Desk()
    for _ in range(30):
        assert desk.crowd(desk.now, FREE // 2) == FREE // 2
        desk.pass_time(PERIOD)
    assert desk.newcomers.effort == 0 and desk.crypto.checks == 0
    assert desk.crowd("crowd") == FREE + 1
    assert desk.newcomers.effort == FIRST_EFFORT and desk.service.health(desk.now)["effort"] == FIRST_EFFORT


def test_renewals_and_who_was_here_lately_pay_nothing():
    desk = Desk()
    stays, leaves = desk.open("stays"), desk.open("leaves")
    desk.register(stays, node_of(desk, "stays"))
    desk.register(leaves, node_of(desk, "leaves"))
    desk.close(leaves)
    desk.pass_time(120)
    assert len(desk.service._registry.nodes) == 1
    desk.crowd("crowd")
    assert kinds(desk.register(stays, node_of(desk, "stays"))) == [RecordType.REGISTERED]
    assert kinds(desk.register(desk.open("leaves"), node_of(desk, "leaves"))) == [RecordType.REGISTERED]
    assert kinds(desk.register(desk.open("another network"), node_of(desk, "stays"))) == [RecordType.REGISTERED]
    assert kinds(desk.register(desk.open("new"), node_of(desk, "new"))) == [RecordType.PUZZLE]


def test_renewals_make_nothing_dearer():
    desk = Desk()
    channels = {number: desk.open(f"home {number}") for number in range(FREE)}
    for seconds in range(10):
        for number, channel in channels.items():
            assert kinds(desk.register(channel, node_of(desk, number, START + seconds))) == [RecordType.REGISTERED]
    assert desk.newcomers.effort == 0


def test_who_is_asked_and_goes_on_without_is_registered_nowhere_and_makes_nothing_dearer():
    desk = Desk()
    desk.crowd("crowd", 10_000 // 20)
    nodes = len(desk.service._registry.nodes)
    assert nodes == FREE + 1 and desk.newcomers.effort == FIRST_EFFORT


def test_the_larger_the_network_the_more_newcomers_are_free():
    outbox, count = Outbox(), [0]
    newcomers = Newcomers(outbox, CRYPTO, HashRng(), FACILITATOR, lambda: count[0])

    def free():
        for number in range(100_000):
            if newcomers.puzzle(number, START) is not None:
                return number
            newcomers.admitted(number, START)
        raise AssertionError

    assert free() == FREE + 1
    count[0] = 60_000
    newcomers = Newcomers(outbox, CRYPTO, HashRng(), FACILITATOR, lambda: count[0])
    assert free() == 60_000 // module.PART_A_MINUTE * PERIOD // 60 + 1


# The price


def come(newcomers, count, now):
    for number in range(count):
        newcomers.puzzle(number, now)
        newcomers.admitted(number, now)


def test_the_price_doubles_while_too_many_pay_it_and_falls_to_nothing_afterwards():
    outbox, now = Outbox(), START
    newcomers = Newcomers(outbox, CRYPTO, HashRng(), FACILITATOR, lambda: 0)
    prices = []
    for _ in range(12):
        come(newcomers, FREE + 1, now)
        prices.append(newcomers.effort)
        now += 1
    assert prices[:7] == [FIRST_EFFORT << doubled for doubled in range(7)]
    assert prices[7:] == [MAX_EFFORT] * 5
    for _ in range(20):  # as many as are borne, no more
        come(newcomers, FREE, now)
        now += PERIOD
    assert newcomers.effort == MAX_EFFORT
    lasted = 0
    while newcomers.puzzle(1, now) is not None:
        newcomers.forget(1)
        now += PERIOD
        lasted += PERIOD
    assert 60 < lasted < 150
    told = [event.effort for event in outbox.poll(now)]
    assert told == [*prices[:7], *sorted(told[7:], reverse=True)] and told[-1] == 0


def test_a_long_pause_makes_it_free_again():
    newcomers = Newcomers(Outbox(), CRYPTO, HashRng(), FACILITATOR, lambda: 0)
    come(newcomers, 10 * FREE, START)
    assert newcomers.puzzle(1, START + 10 * 86400) is None


# Answers


EFFORT = 40


@pytest.fixture
def dear():
    """A facilitator that asks for work, with real cryptography and cheap puzzles."""
    desk = Desk(CPythonCrypto())
    desk.newcomers.effort = EFFORT
    desk.newcomers._began = desk.now
    return desk


def real(number, desk, channel):
    """REGISTER of a node, with its true proof."""
    node = describe(number, desk.now, transports=(Transport(TransportKind.RTC, ""),))
    return node, Register.parse(registration(number, desk.hellos[channel], node.encode()))


def answer_to(puzzle, identity, right=True):
    number = 0
    while solves(CRYPTO, puzzle, FACILITATOR, identity, number) is not right:
        number += 1
    return number


def asked(desk, channel, record):
    [(kind, body)] = desk.send(channel, RecordType.REGISTER, record.encode())
    assert kind is RecordType.PUZZLE
    return Puzzle.parse(body)


def test_who_did_the_work_is_registered_and_it_is_checked_once(dear):
    channel = dear.open()
    node, record = real(1, dear, channel)
    puzzle = asked(dear, channel, record)
    assert puzzle.effort == EFFORT and puzzle == asked(dear, channel, record)
    solved = Solved(answer_to(puzzle, node.identity), record)
    assert kinds(dear.send(channel, RecordType.SOLVED, solved.encode())) == [RecordType.REGISTERED]
    assert node.identity in dear.service._registry.nodes


def test_a_wrong_answer_ends_its_channel(dear):
    channel = dear.open()
    node, record = real(1, dear, channel)
    wrong = answer_to(asked(dear, channel, record), node.identity, right=False)
    assert code(dear.send(channel, RecordType.SOLVED, Solved(wrong, record).encode())) == ErrorCode.BAD_SIGNATURE
    assert channel in dear.closed and not dear.service._registry.nodes


@pytest.mark.parametrize("by", ["another node", "another channel", "the same node again"])
def test_an_answer_serves_one_node_on_one_channel_once(dear, by):
    channel = dear.open()
    node, record = real(1, dear, channel)
    solved = answer_to(asked(dear, channel, record), node.identity)
    if by == "another node":  # it heard the answer, on a channel of its own or on this one
        _, its = real(2, dear, channel)
        asked(dear, channel, its)
        assert code(dear.send(channel, RecordType.SOLVED, Solved(solved, its).encode())) == ErrorCode.BAD_SIGNATURE
        return
    if by == "the same node again":
        dear.send(channel, RecordType.SOLVED, Solved(solved, record).encode())
        dear.service._registry.nodes.clear()  # long ago
        dear.service._publisher._ages = Ages()
    other = dear.open()
    _, record = real(1, dear, other)
    asked(dear, other, record)
    assert code(dear.send(other, RecordType.SOLVED, Solved(solved, record).encode())) == ErrorCode.BAD_SIGNATURE


def test_no_answer_can_be_made_before_the_channel_is_there():
    """The seed is random, and the facilitator's alone."""
    rng = HashRng()
    newcomers = Newcomers(Outbox(), CRYPTO, rng, FACILITATOR, lambda: 0)
    newcomers.effort = 5
    newcomers._began = START
    seeds = {newcomers.puzzle(channel, START).seed for channel in range(100)}
    assert len(seeds) == 100 and rng.count == 100


def test_an_old_puzzle_counts_no_more_and_its_price_stands_until_then(dear):
    channel = dear.open()
    node, record = real(1, dear, channel)
    puzzle = asked(dear, channel, record)
    dear.newcomers.effort = 500
    assert asked(dear, channel, record) == puzzle
    number = answer_to(puzzle, node.identity)
    dear.newcomers._began = dear.now = dear.now + LIFETIME
    dear.newcomers.effort = 500
    fresh = asked(dear, channel, record)
    assert fresh.seed != puzzle.seed and fresh.effort == 500
    assert code(dear.send(channel, RecordType.SOLVED, Solved(number, record).encode())) == ErrorCode.BAD_SIGNATURE


def test_bogus_answers_of_one_source_keep_no_other_from_being_checked(monkeypatch):
    monkeypatch.setattr(module, "CHECKS_A_MINUTE", 50)
    desk = Desk()
    desk.crowd("crowd")
    codes = []
    for number in range(500):
        channel = desk.open("liar")
        node = node_of(desk, number)
        desk.register(channel, node)
        codes.append(code(desk.register(channel, node, number=7)))
    assert codes == [ErrorCode.BAD_SIGNATURE] * 50 + [ErrorCode.BUSY] * 450
    assert desk.crypto.checks == 50
    honest = desk.open("honest")
    desk.register(honest, node_of(desk, "honest"))
    assert kinds(desk.register(honest, node_of(desk, "honest"), number=0)) == [RecordType.REGISTERED]


def test_answers_that_nobody_asked_for_are_checked_only_while_newcomers_pay():
    desk = Desk()
    assert kinds(desk.register(desk.open(), node_of(desk, 1), number=12345)) == [RecordType.REGISTERED]
    assert desk.crypto.checks == 0


def test_puzzles_of_channels_that_closed_are_forgotten():
    desk = Desk()
    desk.crowd("crowd")
    assert len(desk.newcomers._asked) == 3 * FREE - FREE - 1
    for channel in list(desk.newcomers._asked):
        desk.close(channel)
    assert not desk.newcomers._asked


# A flood


def test_channels_that_a_crowd_holds_keep_out_nobody():
    """100 networks hold all channels, and do nothing on them."""
    desk = Desk(limits=RegistryLimits(channels=400))
    home = desk.open("home")
    for number in range(399):
        desk.open(f"crowd {number % 100}")
    for number in range(50):
        channel = desk.open(f"honest {number}")
        assert kinds(desk.register(channel, node_of(desk, channel))) in ([RecordType.REGISTERED], [RecordType.PUZZLE])
    assert len(desk.service._channels) <= 400 and home not in desk.closed


PHONE = 20
"""Tries a second."""


@pytest.mark.parametrize(
    ("flood", "sources", "cores"), [(1_500, 150, 20), pytest.param(10_000, 1_000, 100, marks=pytest.mark.long)]
)
def test_a_flood_from_many_sources_crowds_out_nobody_and_keeps_out_no_phone(flood, sources, cores):
    """Whoever floods makes 1,000 tries a second on each core, so many at once that chance evens out."""
    desk, chance = Desk(limits=RegistryLimits(channels=1 << 20)), random.Random("flood")
    there = {}
    for number in range(100):
        there[number] = desk.open(f"home {number}")
        desk.register(there[number], node_of(desk, f"there {number}"))
        desk.pass_time(0.5)
    waiting, made, paid = [], 0, 0.0
    phones, let_in = {}, []  # identity's name -> (channel, when it is done)
    begun = desk.now
    while made < flood and desk.now < begun + 3600:
        tries = cores * 1000.0
        while made < flood:
            if not waiting:
                name = f"flood {made}"
                channel = desk.open(f"source {made % sources}")
                [(kind, body)] = desk.register(channel, node_of(desk, name))
                made += kind is RecordType.REGISTERED
                if kind is RecordType.REGISTERED:
                    continue
                waiting.append((name, channel, chance.expovariate(1 / Puzzle.parse(body).effort), desk.now))
            name, channel, cost, since = waiting[0]
            if cost > tries:
                break
            waiting.pop()
            tries, paid = tries - cost, paid + cost
            made += kinds(desk.register(channel, node_of(desk, name, since), number=0)) == [RecordType.REGISTERED]
        if waiting:
            name, channel, cost, since = waiting.pop()
            paid += tries
            waiting.append((name, channel, cost - tries, since))
        if int(desk.now - begun) % 5 == 0:  # an honest newcomer
            name = f"phone {desk.now}"
            channel = desk.open(name)
            [(kind, body)] = desk.register(channel, node_of(desk, name))
            work = chance.expovariate(1 / Puzzle.parse(body).effort) / PHONE if kind is RecordType.PUZZLE else 0
            phones[name] = channel, desk.now + work, desk.now, kind is RecordType.REGISTERED
        for name, (channel, done, since, free) in list(phones.items()):
            if free or done <= desk.now:
                if not free:
                    [(kind, body)] = desk.register(channel, node_of(desk, name, since), number=0)
                    if kind is RecordType.PUZZLE:  # it took longer than an answer counts
                        done = desk.now + chance.expovariate(1 / Puzzle.parse(body).effort) / PHONE
                        phones[name] = channel, done, since, False
                        continue
                    assert kind is RecordType.REGISTERED
                let_in.append(desk.now - since)
                del phones[name]
        desk.pass_time(1)
    nodes = desk.service._registry.nodes
    assert made == flood and {node_of(desk, f"there {number}").identity for number in there} <= nodes.keys()
    assert not desk.closed
    # What it cost: nearly the highest price for each, and the facilitator one check for each.
    assert paid > 0.8 * (flood - 200) * MAX_EFFORT
    assert desk.crypto.checks <= flood + len(let_in)
    # Phones waited for their own work alone: as long as chance said.
    assert len(let_in) + len(phones) == int(desk.now - begun + 4) // 5
    assert len(phones) <= 2 * MAX_EFFORT / PHONE / 5 and max(let_in) < 6 * MAX_EFFORT / PHONE
    desk.pass_time(150)
    assert desk.register(desk.open("late"), node_of(desk, "late")) == [(RecordType.REGISTERED, b"")]
