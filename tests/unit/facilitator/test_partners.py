"""Facilitators of several operators draw one value: who lies, is late or silent changes nothing but his own part."""

from types import SimpleNamespace

import pytest

from convergence.driver import Driver
from convergence.effects import CloseLink, Connect, Protocol, Send
from convergence.facilitator.partners import LIMIT, PAUSE, PAUSE_MISSING, Partners
from convergence.facilitator.service import FacilitatorService
from convergence.netdir.draw import COMMIT_PHASE, commitment_of, committed_hash
from convergence.outbox import Outbox
from convergence.wire.buckets import DAY
from convergence.wire.facilitator import Hello, RecordCutter, RecordType, encode_record
from convergence.wire.sharedrandom import MAX_DRAW, Commit, Draw, DrawRequest
from tests.unit.facilitator.test_publisher import part_of
from tests.unit.facilitator.world import CRYPTO, START, HashRng, MemoryStorage, Port, World

SEEDS = [bytes([number]) * 32 for number in (1, 2, 3)]
NAMES = [CRYPTO.ed25519_public(seed) for seed in SEEDS]
NOON = START // DAY * DAY + COMMIT_PHASE
DAWN = int(START // DAY) + 1
"""The day of the value that is drawn."""


class Operators(World):
    """Each of the facilitators is at an address of its own; `machines` stand there."""

    def __init__(self, count=2):
        self.machines, self.at = [], {}
        self.count = count
        super().__init__()

    def start_service(self):
        for number in range(self.count):
            others = {name: f"ws://{at}/" for at, name in enumerate(NAMES) if at != number}
            self.put(number, FacilitatorService(CRYPTO, HashRng(), SEEDS[number], others=others))
        for machine in self.machines:
            machine.port.driver.run(machine.start)

    def put(self, number, machine):
        machine.port = Port(self)
        machine.port.driver = Driver(machine, machine.port, self, machine.port, storage=MemoryStorage())
        self.ports.append(machine.port)
        self.at[f"ws://{number}/"] = machine
        self.machines.append(machine)

    def connect(self, port, channel, protocol, address):
        assert protocol is Protocol.FACILITATOR
        self.service_port = self.at[address].port if address in self.at else None
        super().connect(port, channel, protocol, address)

    def draw(self, number=0, day=DAWN):
        return self.machines[number]._publisher.draw(day)

    def committed(self, number=0):
        return {commit.facilitator for commit, _ in self.draw(number).parts}

    def revealed(self, number=0):
        return {commit.facilitator for commit, shown in self.draw(number).parts if shown is not None}


class Liar:
    """Stands where the second facilitator should be: a driver.Machine. `shows` makes its answer to DRAW."""

    def __init__(self, shows, identity=NAMES[1]):
        self.shows = shows
        self.identity = identity
        self.asked = []  # when
        self.closed = 0
        self.effects = []
        self.cutters = {}

    def say(self, channel, kind, body=b""):
        self.effects.append(Send(channel, (encode_record(kind, body),)))

    def link_opened(self, channel, now, *, protocol, binding):
        self.cutters[channel] = RecordCutter((RecordType.DRAW,))
        if self.identity is not None:
            self.say(channel, RecordType.HELLO, Hello(self.identity, bytes(32)).encode())

    def link_data(self, channel, data, now):
        for _, body in self.cutters[channel].feed(data):
            assert DrawRequest.parse(body).day == now // DAY + 1
            self.asked.append(now)
            answer = self.shows(now)
            if isinstance(answer, Draw):
                self.say(channel, RecordType.DRAWN, answer.encode())
            elif isinstance(answer, bytes):
                self.effects.append(Send(channel, (answer,)))
            elif answer == "hang up":
                self.effects.append(CloseLink(channel, ""))

    def link_closed(self, channel, now, reason):
        self.closed += 1

    def link_congested(self, channel, congested, now): ...

    def done(self, request, result, now): ...

    def timer(self, now): ...

    def poll(self, now):
        effects, self.effects = self.effects, []
        return effects

    def deadline(self):
        return None


def until(world, when):
    world.run(when - world.time)


def with_liar(shows, **more):
    world = Operators(1)
    liar = Liar(shows, **more)
    world.put(1, liar)
    return world, liar


def test_each_contributes_to_the_values_of_all():
    world = Operators(3)
    until(world, NOON - 3600)
    assert all(world.committed(number) == set(NAMES) and not world.revealed(number) for number in range(3))
    until(world, DAWN * DAY - 3600)
    assert all(world.revealed(number) == set(NAMES) for number in range(3))
    until(world, DAWN * DAY + 60)
    draws = {world.draw(number).encode() for number in range(3)}
    assert len(draws) == 1
    values = [machine._publisher._header.value for machine in world.machines]
    assert {value.fixed for value in values} == {NOON} and len(set(values)) == 3  # each has a chain of its own
    health = world.machines[0].health(world.time)["draw"]
    assert [item["facilitator"] for item in health] == sorted(name.hex()[:16] for name in NAMES[1:])
    drawn = world.machines[0].health(world.time)["drawn"]
    assert drawn == {"by": sorted(name.hex()[:16] for name in NAMES), "silent": []}


def test_one_that_restarts_or_comes_in_the_afternoon_changes_nothing():
    world = Operators(2)
    until(world, NOON + 3 * 3600)
    late = Operators(3)
    late.machines[2].port.driver.run(lambda now: None)
    assert world.committed() == set(NAMES[:2])  # the third one never was there
    until(world, DAWN * DAY - 3600)
    assert world.revealed() == set(NAMES[:2])


@pytest.mark.parametrize(
    "shows",
    [
        lambda now: None,  # silence
        lambda now: "hang up",
        lambda now: Draw(),
        lambda now: encode_record(RecordType.DRAWN, b"garbage"),
        lambda now: (MAX_DRAW + 1).to_bytes(4, "big") + bytes([RecordType.DRAWN]),
        lambda now: encode_record(RecordType.NODES, b""),
        lambda now: 2 * encode_record(RecordType.HELLO, Hello(NAMES[1], bytes(32)).encode()),
        lambda now: Draw((part_of(SEEDS[2], DAWN + 7),)),
        lambda now: Draw((part_of(b"stranger".ljust(32), DAWN),)),
        lambda now: Draw(((Commit(DAWN, NAMES[1], bytes(32), bytes(64)), None),)),
    ],
)
def test_one_that_says_nothing_of_use_stops_nobody(shows):
    world, liar = with_liar(shows)
    until(world, NOON + 2 * 3600)
    assert world.revealed() == {NAMES[0]} == world.committed()
    assert len(liar.asked) > 3
    assert not world.machines[0]._partners._asked or world.time - liar.asked[-1] < 3 * LIMIT
    assert not any(item["contributes"] for item in world.machines[0].health(world.time)["draw"])


@pytest.mark.parametrize("identity", [None, NAMES[2]])
def test_one_that_is_another_one_is_not_asked(identity):
    world, liar = with_liar(lambda now: Draw(), identity=identity)
    until(world, START + 3600)
    assert liar.asked == [] and liar.closed > 1


def test_one_that_cannot_be_reached_is_tried_again():
    world = Operators(1)
    until(world, NOON + 60)
    liar = Liar(lambda now: Draw())
    world.put(1, liar)
    world.run(2 * PAUSE_MISSING)
    assert liar.asked


def test_one_that_commits_after_noon_does_not_count():
    world, _ = with_liar(lambda now: Draw((part_of(SEEDS[1], DAWN, revealed=now >= NOON),)) if now >= NOON else None)
    until(world, DAWN * DAY - 60)
    assert world.committed() == {NAMES[0]}


def other_part():
    number = b"n" * 32
    commit = Commit(DAWN, NAMES[1], commitment_of(NAMES[1], DAWN, number))
    return commit.sign(lambda message: CRYPTO.ed25519_sign(SEEDS[1], message)), number


def test_one_that_commits_twice_is_left_out():
    """One is asked again though it has said all that it can by now."""
    changed = START + 3600
    world, liar = with_liar(lambda now: Draw((part_of(SEEDS[1], DAWN) if now < changed else (other_part()[0], None),)))
    until(world, changed)
    assert world.committed() == set(NAMES[:2])
    until(world, changed + 1.5 * PAUSE + 60)
    assert world.committed() == {NAMES[0]}


def test_one_that_reveals_another_number_or_none_does_not_count():
    commit, number = part_of(SEEDS[1], DAWN, revealed=True)
    for shown in (b"w" * 32, None):
        world, _ = with_liar(lambda now, shown=shown: Draw(((commit, shown if now >= NOON else None),)))
        until(world, DAWN * DAY - 60)
        assert world.committed() == set(NAMES[:2]) and world.revealed() == {NAMES[0]}


def test_one_that_reveals_before_noon_is_not_heard_until_then():
    world, _ = with_liar(lambda now: Draw((part_of(SEEDS[1], DAWN, revealed=True),)))
    until(world, NOON - 60)
    assert world.committed() == set(NAMES[:2]) and not world.revealed()
    until(world, NOON + 1.5 * PAUSE + 60)
    assert world.revealed() == set(NAMES[:2])


def test_ours_cannot_choose_its_number_after_it_has_seen_the_others():
    """It is bound by its own commitment: the others have it, and its headers say it from noon on."""
    world = Operators(2)
    until(world, NOON + 3 * 3600)
    announced = world.machines[0]._publisher._header.committed
    assert announced == committed_hash(commit for commit, _ in world.draw().parts)
    drawing = world.machines[0]._publisher._draws._drawing
    chosen = b"c" * 32
    commit = Commit(DAWN, NAMES[0], commitment_of(NAMES[0], DAWN, chosen))
    drawing._commits[NAMES[0]] = commit.sign(lambda message: CRYPTO.ed25519_sign(SEEDS[0], message))
    drawing._numbers[NAMES[0]] = chosen
    until(world, DAWN * DAY - 60)
    [number] = [number for commit, number in world.draw(1).parts if commit.facilitator == NAMES[0]]
    assert number != chosen  # nobody takes it
    assert committed_hash(commit for commit, _ in world.draw(0).parts) != announced  # its nodes see that, too


def test_they_are_asked_rarely():
    world, liar = with_liar(lambda now: Draw((part_of(SEEDS[1], DAWN, revealed=now >= NOON),)))
    until(world, DAWN * DAY - 60)
    assert 5 < len(liar.asked) < 16 * 3600 / (PAUSE / 2)
    pauses = {later - sooner for sooner, later in zip(liar.asked, liar.asked[1:], strict=False)}
    assert len(pauses) == len(liar.asked) - 1  # never at the same time of the hour


def test_nobody_is_asked_for_a_draw_before_it_is_known_which_one_it_is():
    """Storage may take longer than it takes to connect."""
    outbox, publisher = Outbox(), SimpleNamespace(drawing=0, heard_from=lambda identity, now: False)
    Partners(outbox, HashRng(), {NAMES[1]: "ws://1/"}, publisher).start(START)

    def asked(until):
        while (deadline := outbox.deadline()) is not None and deadline <= until:
            outbox.run_timers(deadline)
        return [effect for effect in outbox.poll(until) if isinstance(effect, Connect)]

    assert asked(START + 100) == []
    publisher.drawing = DAWN
    assert len(asked(START + 102)) == 1
