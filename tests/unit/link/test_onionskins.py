"""CREATE2s wait in turn: what one link asks for costs the others little, and nothing is done for nobody."""

import pytest

from convergence.effects import CloseLink, Pause
from convergence.errors import DestroyReason, RemoteError
from convergence.link.link import INITIATOR_ID_BIT, MAX_CREATES, MAX_REFUSALS
from convergence.link.onionskins import ASKED, ASKED_BURST, BURST, HANDSHAKES, PAUSED, WAKE, Onionskins
from convergence.outbox import Outbox
from convergence.wire.cells import CELL_LEN, Command, encode_cell
from convergence.wire.create import Create2
from tests.unit.circuit.rig import START
from tests.unit.link.test_link import End

CREATE = Create2(2, bytes(84)).encode()


class Relay:
    """Several open links of one node. `done` holds (link's index, circuit id) of each handshake, in order."""

    def __init__(self, links=1):
        self.outbox = Outbox()
        self.now = START
        self.done = []
        onionskins = Onionskins(self.outbox)
        self.ends = [
            End(on_create=self.creator(index), onionskins=onionskins, outbox=self.outbox) for index in range(links)
        ]

    def creator(self, index):
        def create(link, circ_id, create, now):
            assert create.encode() == CREATE, "without its padding"
            self.done.append((index, circ_id & ~INITIATOR_ID_BIT))
            link.send_one(circ_id, Command.CREATED2, b"")

        return create

    def ask(self, index, *numbers, payload=CREATE):
        self.receive(index, *(encode_cell(INITIATOR_ID_BIT | number, Command.CREATE2, payload) for number in numbers))

    def withdraw(self, index, *numbers):
        self.receive(index, *(encode_cell(INITIATOR_ID_BIT | number, Command.DESTROY, b"\0") for number in numbers))

    def receive(self, index, *cells):
        self.ends[index].link.receive(b"".join(cells), self.now)

    def tick(self, seconds=WAKE):
        """Time passes; every timer fires when it is due."""
        end = self.now + seconds
        while (deadline := self.outbox.deadline()) is not None and deadline <= end:
            self.now = max(deadline, self.now)
            self.outbox.run_timers(self.now)
        self.now = end

    def count(self, index):
        return sum(link == index for link, _ in self.done)


def test_a_create2_in_quiet_times_is_answered_at_once():
    relay = Relay()
    relay.ask(0, *range(1, BURST + 1))
    assert relay.done == [(0, number) for number in range(1, BURST + 1)]
    assert relay.outbox.deadline() is None


def test_a_burst_is_limited_and_the_rest_waits_for_a_timer():
    relay = Relay()
    relay.ask(0, *range(1, MAX_CREATES + 1))
    assert len(relay.done) == BURST
    assert relay.outbox.deadline() == START + WAKE, "the shell has its turn in between"
    relay.tick()
    assert BURST < len(relay.done) <= BURST + HANDSHAKES * WAKE
    relay.tick(1)
    assert len(relay.done) == MAX_CREATES


@pytest.mark.parametrize("links", [1, 10, 50])
def test_handshakes_have_a_share_of_the_time_however_many_links_flood(links):
    relay = Relay(links)
    number = 0
    for _ in range(250):
        for index in range(links):
            number += 2
            relay.ask(index, number + 1, number + 2)
        relay.tick()
    assert len(relay.done) <= BURST + HANDSHAKES * (relay.now - START)


@pytest.mark.parametrize("flooders", [1, 10, 50])
def test_an_honest_link_has_its_turn_while_others_have_their_queues_full(flooders):
    relay = Relay(1 + flooders)
    for index in range(1, 1 + flooders):
        relay.ask(index, *range(1, 2 * MAX_CREATES))
    relay.ask(0, 1)
    ticks = 0
    while (0, 1) not in relay.done:
        relay.tick()
        ticks += 1
    assert ticks <= 1 + (flooders + 1) / (HANDSHAKES * WAKE)


def test_many_links_from_one_address_have_the_turns_of_one():
    relay = Relay(40)
    for index in range(1, 40):
        relay.ends[index].link.source = "one address"
        relay.ask(index, *range(1, 2 * MAX_CREATES))
    relay.ask(0, *range(1, 31))
    relay.tick(0.1)
    assert relay.count(0) >= 20
    counts = [relay.count(index) for index in range(1, 40)]
    assert max(counts[1:]) - min(counts[1:]) <= 1 and sum(counts) - relay.count(0) <= BURST + 2
    for index in range(40):
        relay.ends[index].link.close("over", relay.now)
    assert not relay.ends[0].link._onionskins._links


def test_links_take_turns():
    relay = Relay(3)
    for index in range(3):
        relay.ask(index, *range(1, 30))
    relay.tick(0.1)
    served = [relay.count(index) for index in range(3)]
    assert served[1] - served[2] in (0, 1) and served[1] >= 10, "the first one had the burst"


def test_what_is_beyond_the_queue_is_refused():
    relay = Relay()
    relay.ask(0, *range(1, BURST + MAX_CREATES + 3))
    answers = [
        (circ_id & ~INITIATOR_ID_BIT, payload[0])
        for circ_id, command, payload in relay.ends[0].cells()
        if command == Command.DESTROY
    ]
    assert answers == [(BURST + MAX_CREATES + number, DestroyReason.RESOURCELIMIT) for number in (1, 2)]


def test_a_create2_that_is_withdrawn_costs_no_handshake():
    relay = Relay()
    relay.ask(0, *range(1, BURST + 11))
    relay.withdraw(0, *range(BURST + 1, BURST + 11))
    relay.tick(1)
    assert len(relay.done) == BURST
    assert not [command for _, command, _ in relay.ends[0].cells() if command == Command.DESTROY]


def test_an_id_that_waits_cannot_be_used_again():
    relay = Relay()
    relay.ask(0, *range(1, BURST + 2))
    relay.ask(0, BURST + 1)
    relay.tick(1)
    assert (0, BURST + 1) not in relay.done
    destroyed = [circ_id & ~INITIATOR_ID_BIT for circ_id, command, _ in relay.ends[0].cells() if command == 4]
    assert destroyed == [BURST + 1]


def test_a_malformed_create2_is_refused_without_a_turn():
    relay = Relay()
    relay.ask(0, 1, payload=b"\0\2\xff\xff")
    assert relay.done == []
    assert [(command, payload[0]) for _, command, payload in relay.ends[0].cells()] == [
        (Command.DESTROY, DestroyReason.PROTOCOL)
    ]


def test_a_bad_create2_takes_a_turn_like_any_other():
    relay = Relay()
    tried = []

    def refuse(link, circ_id, payload, now):
        tried.append(circ_id)
        raise RemoteError("not for us")

    relay.ends[0].link._on_create = refuse
    relay.ask(0, *range(1, BURST + 11))
    assert len(tried) == BURST
    relay.tick(1)
    assert len(tried) == BURST + 10
    assert [command for _, command, _ in relay.ends[0].cells()] == [Command.DESTROY] * (BURST + 10)


def test_nothing_is_done_for_a_link_that_does_not_read():
    relay = Relay(2)
    relay.ends[0].link.set_congested(True, START)
    relay.ask(0, *range(1, 11))
    relay.tick(1)
    assert relay.done == []
    relay.ask(1, 1)
    assert relay.done == [(1, 1)], "and it takes no turns of others"
    relay.ends[0].link.set_congested(False, relay.now)
    relay.tick(1)
    assert relay.count(0) == 10


def test_a_link_that_reads_no_refusals_is_closed_while_little_waits():
    relay = Relay()
    end = relay.ends[0]
    end.link.set_congested(True, START)
    for number in range(1, MAX_REFUSALS + MAX_CREATES + 2):
        relay.ask(0, number)
        assert end.link.queued <= (MAX_REFUSALS + 1) * CELL_LEN
    effects = relay.outbox.poll(relay.now)
    assert [effect.reason for effect in effects if isinstance(effect, CloseLink)] == ["too many cells queued"]
    assert end.closed and relay.done == []


def test_a_link_that_closes_is_forgotten():
    relay = Relay(2)
    relay.ask(0, *range(1, 40))
    relay.ends[0].link.close("enough", relay.now)
    relay.ask(1, 1)
    relay.tick(1)
    assert relay.count(0) == BURST and relay.count(1) == 1
    assert relay.outbox.deadline() is None


# -- how much is read


def pauses(relay):
    return [effect.paused for effect in relay.outbox.poll(relay.now) if isinstance(effect, Pause)]


def test_a_link_that_asks_for_more_than_any_relay_could_is_not_read_for_as_long_as_that_takes():
    relay = Relay()
    relay.ask(0, *range(1, ASKED_BURST + 1))
    assert pauses(relay) == []
    relay.ask(0, *range(1000, 1000 + ASKED))
    assert pauses(relay) == [True]
    relay.ask(0, 5000)
    assert pauses(relay) == [], "what was read already is handled, and it is paused once"
    relay.tick(1.0)
    assert pauses(relay) == [False]


def test_many_such_links_together_are_read_no_more_than_a_few():
    relay = Relay(links=64)
    for index in range(64):
        relay.ask(index, *range(1, ASKED_BURST + 101))
    assert pauses(relay) == [True] * 64
    relay.tick(0.2)
    assert pauses(relay) == [False] * PAUSED, "a fifth of a second's worth too much"
    relay.tick(64 / PAUSED * 0.2)
    assert pauses(relay) == [False] * (64 - PAUSED)


def test_withdrawn_ones_count_as_asked_for():
    relay = Relay()
    for number in range(1, ASKED_BURST + 2):
        relay.ask(0, number)
        relay.withdraw(0, number)
    assert pauses(relay) == [True]


def test_a_link_within_its_rate_is_never_paused():
    relay = Relay()
    for number in range(1, 4 * ASKED):
        relay.ask(0, number)
        relay.withdraw(0, number)
        relay.tick(1 / ASKED)
    assert pauses(relay) == []


def test_a_paused_link_that_closes_is_not_resumed():
    relay = Relay()
    relay.ask(0, *range(1, 2 * ASKED_BURST))
    relay.ends[0].link.gone("lost", relay.now)
    assert pauses(relay) == [True]
    relay.tick(10)
    assert pauses(relay) == []
