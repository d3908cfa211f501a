"""Conflux sets over real circuits: two legs of a client to one exit, each in its own time."""

import random

import pytest

from convergence.circuit.conflux import LINK_TIMEOUT, MAX_LEGS, MAX_REORDERED, LinkedSet
from convergence.circuit.linking import Linking
from convergence.errors import DestroyReason, EndReason, LocalError, RemoteError
from convergence.wire.conflux import MAX_GAP, Link, Switch, Wish
from convergence.wire.relay import MAX_DATA, RelayCommand, pack_data, pack_message
from convergence.wire.target import Protocols
from tests.unit.circuit.rig import Net, Recorder, Services, say

NONCE = bytes(range(32))
OTHER = bytes(32)
BOTH = Protocols.NTOR_V3 | Protocols.CONGESTION_CONTROL


class Exit(Services):
    """A relay that links."""

    def __init__(self, outbox):
        super().__init__()
        self.linking = Linking(outbox)

    def message(self, circuit, command, payload, now):
        self.linking.message(circuit, command, payload, now)


class Scene:
    """A client, an exit, and a guard for each leg. `delays`: seconds that each leg takes to link."""

    def __init__(self, legs=2, protocols=BOTH, link=True, delays=(0.1, 0.3), ack=True):
        self.net = Net("conflux")
        self.net.protocols = protocols
        self.client = self.net.add("client", relays=False)
        self.exit = self.net.add("exit")
        self.exit.services = Exit(self.exit.outbox)
        self.guards = [self.net.add(f"guard{number}") for number in range(legs)]
        self.circuits = [self.net.build(self.client, [guard, self.exit]) for guard in self.guards]
        self.closed = []
        self.linked = LinkedSet(
            self.client.outbox,
            originates=True,
            on_message=self.message,
            on_closed=lambda reason, now: self.closed.append(reason),
        )
        self.legs = []
        self.ack = ack
        if link:
            for circuit, delay in zip(self.circuits, delays, strict=False):
                self.link(circuit, delay=delay)

    def link(self, circuit, delay=0.0, **changes):
        leg = circuit.join(self.linked, self.net.now)
        self.legs.append(leg)
        hello = {"nonce": NONCE, "wish": Wish.HIGH_THROUGHPUT, **changes}
        leg.say(RelayCommand.CONFLUX_LINK, Link(**hello).encode())
        guard = self.guards[self.circuits.index(circuit)]
        towards = self.net.link_between(self.client, guard)
        self.net.hold(self.client, towards)
        self.net.pump()
        self.net.now += delay
        self.net.hold(self.client, towards, False)
        return leg

    def message(self, leg, command, payload, now):
        if command != RelayCommand.CONFLUX_LINKED or Link.parse(payload).nonce != NONCE:
            raise RemoteError("not expected")
        self.linked.wish = Link.parse(payload).wish
        leg.answered(now)
        if self.ack:
            leg.say(RelayCommand.CONFLUX_LINKED_ACK)

    # -- both ends

    @property
    def gone(self):
        """Whether nothing is left of the set at either end."""
        return self.linked.closed and not self.sets and all(circuit.closed for circuit in self.circuits)

    @property
    def far(self):
        """The exit's end of the set."""
        return self.sets[0]

    @property
    def sets(self):
        return [own.linked for own in self.exit.services.linking._sets.values()]

    def open(self):
        stream = self.linked.endpoint.open_stream("host.example:80")
        handler = stream.handler = Recorder(stream)
        self.net.pump()
        return stream, handler, *self.exit.services.streams[-1]

    def hold(self, number, held=True):
        """What comes to the client on a leg waits on its last link."""
        self.net.hold(self.client, self.net.link_between(self.client, self.guards[number]), held)

    def say_far(self, number, *cells):
        """The exit sends these on a leg, whatever its set thinks of it."""
        leg = self.far.legs[number]
        for cell in cells:
            digests = leg.carrier.transmit([cell])
            if cell[0] == RelayCommand.DATA:
                leg.flow.sent(digests, self.net.now)
        self.net.pump()

    def ask_far(self, stream, size):
        """Have the server at the far end of a stream write so much; returns it."""
        data = random.Random(size).randbytes(size)
        stream.write(data, self.net.now)
        self.net.pump()
        return data


@pytest.fixture
def scene():
    return Scene()


def data_cell(stream_id, data=b"data"):
    return pack_message(RelayCommand.DATA, stream_id, data)


def switch(gap):
    return pack_message(RelayCommand.CONFLUX_SWITCH, 0, Switch(gap).encode())


def deaf(circuit):
    """It does not mind LINKED: what closes it is the exit."""
    circuit._endpoint.on_message = lambda *answer: None


# -- two ends that keep to the rules


def test_a_stream_uses_both_legs_and_comes_in_order(scene):
    stream, handler, far, _ = scene.open()
    data = scene.ask_far(far, 3000 * MAX_DATA)
    assert handler.received == data
    assert all(leg.last_sent for leg in scene.far.legs), "a leg was not used"
    assert scene.linked.delivered == scene.far.last_sent and scene.linked.waiting == 0


def test_round_trips_are_known_from_the_handshake(scene):
    for legs in (scene.legs, scene.far.legs):
        assert [round(leg.rtt, 3) for leg in legs] == [0.1, 0.3]


def test_a_client_keeps_to_the_shortest_leg_as_the_exit_wishes():
    scene = Scene(delays=(0.3, 0.1))
    stream, _, _, far_handler = scene.open()
    data = bytes(1500 * MAX_DATA)
    stream.write(data, scene.net.now)
    scene.net.pump()
    assert far_handler.received == data
    assert scene.legs[0].last_sent == 0 and scene.legs[1].last_sent > 1500


@pytest.mark.parametrize("slow", [0, 1])
def test_what_overtakes_waits_for_what_comes_before_it(scene, slow):
    stream, handler, far, _ = scene.open()
    scene.hold(slow)
    data = scene.ask_far(far, 900 * MAX_DATA)
    assert len(handler.received) < len(data)
    scene.hold(slow, False)
    assert handler.received == data and scene.linked.waiting == 0


def test_the_end_of_a_stream_does_not_overtake_its_data(scene):
    stream, handler, far, _ = scene.open()
    scene.hold(0)
    data = scene.ask_far(far, 600 * MAX_DATA)
    far.end(scene.net.now)
    scene.net.pump()
    assert handler.reason is None
    scene.hold(0, False)
    assert handler.received == data and handler.reason == EndReason.DONE


def test_a_directory_may_be_asked_over_a_set_as_clients_of_tors_might(scene):
    stream = scene.linked.endpoint._new_stream(5)
    scene.linked.endpoint._keep(5, stream)
    handler = stream.handler = Recorder(stream)
    scene.legs[1].carrier.transmit([pack_message(RelayCommand.BEGIN_DIR, 5, b"")])
    scene.net.pump()
    data = scene.ask_far(scene.exit.services.streams[-1][0], 40 * MAX_DATA)
    assert handler.received == data
    scene.say_far(0, pack_message(RelayCommand.BEGIN_DIR, 7, b""))  # nobody asks a client
    assert scene.circuits[0].closed


def test_a_look_up_goes_over_a_set(scene):
    scene.linked.endpoint.resolve("host.example", lambda answers, now: None)
    scene.net.pump()
    assert [host for _, host in scene.exit.services.resolves] == ["host.example"]


def test_the_streams_of_a_set_count_once_and_for_a_circuit_that_is_left():
    scene = Scene(delays=(0.3, 0.1))
    scene.open()
    first, second = (leg.carrier.streams for leg in scene.far.legs)
    assert (first.used, second.used) == (1, 0) and scene.far._current is scene.far.legs[1]
    scene.far.legs[0].end(DestroyReason.REQUESTED, scene.net.now)
    scene.net.pump()
    left = scene.far.legs[0].carrier.streams
    assert not scene.far.closed and left.used == 1 and first.used + second.used == 1
    scene.open()
    assert left.used == 2


def test_a_leg_that_lags_by_more_than_a_switch_can_tell_is_left(scene):
    stream, handler, far, _ = scene.open()
    used = scene.far._current
    for leg in scene.far.legs:
        if leg is not used:
            leg.last_sent -= MAX_GAP + 1
    data = scene.ask_far(far, 1200 * MAX_DATA)
    assert handler.received == data and scene.far._current is used


# -- legs that end


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("when", range(0, 24, 3))
@pytest.mark.parametrize("who", ["link", "client", "exit"])
def test_a_leg_may_end_at_any_moment(who, when, number):
    """All comes in order, or the stream ends with a code and nothing is left. Never is a byte missing in between."""
    scene = Scene()
    stream, handler, far, _ = scene.open()
    delivered = 0
    link = scene.net.link_between(scene.client, scene.guards[number])

    def end():
        if who == "link":
            scene.net.break_link(scene.client, link)
        elif who == "client":
            scene.circuits[number].destroy(DestroyReason.FINISHED, scene.net.now)
        elif number < len(scene.far.legs):
            scene.far.legs[number].end(DestroyReason.REQUESTED, scene.net.now)

    def tap(sender, receiver, data):
        nonlocal delivered
        if receiver is scene.client or sender is scene.client:
            delivered += 1
            if delivered == when:
                doomed.append(True)
        return data

    doomed = [True] if when == 0 else []
    scene.net.tap = tap
    data = random.Random(when).randbytes(1200 * MAX_DATA)
    for at in range(0, len(data), 100 * MAX_DATA):
        if doomed:
            scene.net.tap, doomed = None, []
            end()
            scene.net.pump()
        if not scene.sets or far.closed:
            break
        far.write(data[at : at + 100 * MAX_DATA], scene.net.now)
        scene.net.pump()
    received = bytes(handler.received)
    assert data.startswith(received)
    if handler.reason is None:
        assert received == data and not scene.linked.closed
    else:
        assert handler.reason == EndReason.DESTROY and scene.gone


def test_a_leg_that_was_not_used_may_go(scene):
    stream, handler, far, _ = scene.open()
    idle = next(leg for leg in scene.far.legs if leg is not scene.far._current)
    idle.end(DestroyReason.REQUESTED, scene.net.now)
    scene.net.pump()
    data = scene.ask_far(far, 900 * MAX_DATA)
    assert handler.received == data and len(scene.linked.legs) == 1


def test_what_waits_for_a_full_leg_goes_on_over_the_other_one_when_that_leg_ends():
    scene = Scene(delays=(0.3, 0.1))
    link = scene.net.link_between(scene.client, scene.guards[1])
    scene.net.congest(scene.client, link)
    exits = scene.net.link_between(scene.guards[1], scene.exit)
    scene.net.congest(scene.exit, scene.net.other_side(scene.guards[1], exits))
    stream, _, _, far_handler = scene.open()
    data = bytes(5 * MAX_DATA)
    stream.write(data, scene.net.now)
    scene.net.pump()
    assert not far_handler.received, "the exit wishes the shortest leg"
    scene.net.break_link(scene.client, link)
    assert far_handler.received == data and len(scene.linked.legs) == 1


def test_a_gap_that_went_with_its_leg_ends_the_set(scene):
    """We have sent nothing on that leg, and others have brought higher numbers."""
    _, handler, far, _ = scene.open()
    scene.hold(1)
    scene.ask_far(far, 1300 * MAX_DATA)
    assert scene.linked.waiting and scene.legs[1].last_sent == 0
    scene.legs[1].close(scene.net.now)
    assert handler.reason == EndReason.DESTROY and scene.linked.closed and not scene.linked.waiting


@pytest.mark.parametrize("end", ["client", "exit"])
def test_a_handshake_that_is_not_answered_ends_the_leg(end):
    scene = Scene(legs=1, link=False, ack=end == "client")
    if end == "client":
        scene.exit.services.linking.message = lambda *arguments: None
    scene.link(scene.circuits[0])
    assert not scene.linked.closed
    scene.net.tick(LINK_TIMEOUT + 0.1)
    assert scene.gone


# -- an exit that lies


def test_a_number_that_came_before_closes_its_leg(scene):
    stream, handler, far, _ = scene.open()
    scene.ask_far(far, 10 * MAX_DATA)
    idle = next(number for number in (0, 1) if scene.legs[number].last_received == 0)
    scene.say_far(idle, data_cell(stream.id))
    assert scene.circuits[idle].closed and not scene.circuits[1 - idle].closed
    assert handler.reason is None and len(handler.received) == 10 * MAX_DATA


def test_a_number_that_waits_and_comes_again_ends_the_set(scene):
    stream, handler, far, _ = scene.open()
    scene.ask_far(far, 10 * MAX_DATA)
    used, idle = (0, 1) if scene.legs[1].last_received == 0 else (1, 0)
    scene.say_far(idle, switch(scene.linked.delivered + 1), data_cell(stream.id))
    assert scene.linked.waiting == 1
    scene.say_far(used, data_cell(stream.id), data_cell(stream.id))
    assert handler.reason == EndReason.DESTROY


def test_numbers_that_come_on_no_leg_end_the_set(scene):
    stream, handler, _, _ = scene.open()
    for number in (0, 1):
        assert not scene.linked.closed
        scene.say_far(number, switch(1000), data_cell(stream.id))
    assert scene.gone and not scene.linked.waiting


def test_more_than_may_wait_ends_the_set(scene, monkeypatch):
    monkeypatch.setattr("convergence.circuit.conflux.MAX_REORDERED", 100)
    stream, handler, _, _ = scene.open()
    idle = next(number for number in (0, 1) if scene.legs[number].last_received == 0)
    scene.say_far(idle, switch(1000), *(data_cell(stream.id) for _ in range(100)))
    assert scene.linked.waiting == 100
    scene.say_far(idle, data_cell(stream.id))
    assert scene.gone and MAX_REORDERED > 100


@pytest.mark.parametrize(
    "cells",
    [
        [switch(1), switch(1)],
        [switch(MAX_GAP), switch(MAX_GAP)],
        [pack_message(RelayCommand.CONFLUX_SWITCH, 0, bytes(4))],
        [pack_message(RelayCommand.CONFLUX_SWITCH, 0, b"abc")],
        [pack_message(RelayCommand.CONFLUX_SWITCH, 5, Switch(1).encode())],
        [pack_message(RelayCommand.CONFLUX_LINK, 0, Link(NONCE).encode())],
        [pack_message(RelayCommand.CONFLUX_LINKED, 0, Link(NONCE).encode())],
        [pack_message(RelayCommand.CONFLUX_LINKED_ACK, 0, b"")],
        [pack_message(RelayCommand.EXTENDED2, 0, b"")],
        [pack_message(RelayCommand.SENDME, 0, b"")],
        [pack_message(RelayCommand.SENDME, 0, b"\x01\0\x14" + bytes(20))],
    ],
    ids=["twice", "far", "no gap", "short", "on a stream", "LINK", "LINKED", "ACK", "EXTENDED2", "SENDME", "not due"],
)
def test_what_is_not_due_on_a_leg_closes_it(scene, cells):
    scene.say_far(0, *cells)
    assert scene.circuits[0].closed
    # Numbers that went ahead may be lost with their leg.
    assert scene.circuits[1].closed == (cells[0][0] == RelayCommand.CONFLUX_SWITCH and len(cells) > 1)


def test_padding_is_welcome_on_a_leg(scene):
    scene.say_far(0, pack_message(RelayCommand.DROP, 0, b""))
    assert not scene.circuits[0].closed


def test_an_answer_with_another_nonce_closes_the_leg(scene):
    """It would link this set to another one of the same user."""
    scene = Scene(legs=1, link=False)
    real = scene.exit.services.linking.message

    def replay(circuit, command, payload, now):
        real(circuit, command, Link(OTHER).encode(), now)

    scene.exit.services.linking.message = replay
    scene.link(scene.circuits[0])
    assert scene.gone


# -- a client that lies


def test_a_leg_needs_congestion_control():
    scene = Scene(protocols=Protocols.NTOR_V3, link=False)
    with pytest.raises(RemoteError):
        scene.circuits[0].join(scene.linked, scene.net.now)
    say(scene.circuits[0], RelayCommand.CONFLUX_LINK, payload=Link(NONCE).encode())
    scene.net.pump()
    assert scene.circuits[0].closed and not scene.sets


def test_a_circuit_that_is_not_built_or_joined_already_joins_no_set(scene):
    with pytest.raises(LocalError):
        scene.circuits[0].join(scene.linked, scene.net.now)


def test_a_circuit_that_carries_streams_becomes_no_leg():
    scene = Scene(link=False)
    scene.net.open(scene.circuits[0])
    deaf(scene.circuits[0])
    say(scene.circuits[0], RelayCommand.CONFLUX_LINK, payload=Link(NONCE).encode())
    scene.net.pump()
    assert scene.circuits[0].closed and not scene.sets


def test_a_circuit_that_goes_on_becomes_no_leg():
    scene = Scene(link=False)
    scene.guards[0].services = Exit(scene.guards[0].outbox)
    circuit = scene.net.build(scene.client, [scene.guards[0], scene.exit])
    circuit._hops.pop()  # what it says now is for the guard
    deaf(circuit)
    circuit._transmit([pack_message(RelayCommand.CONFLUX_LINK, 0, Link(NONCE).encode())])
    scene.net.pump()
    assert circuit.closed and not scene.guards[0].services.linking._sets


@pytest.mark.parametrize(
    "link",
    [Link(NONCE, 1, 0), Link(NONCE, 0, 1), Link(OTHER, 5, 5)],
    ids=["sent", "received", "a set that nobody knows"],
)
def test_a_leg_that_stands_elsewhere_than_its_set_is_refused(link):
    scene = Scene(legs=2, link=False)
    scene.link(scene.circuits[0])
    deaf(scene.circuits[1])
    say(scene.circuits[1], RelayCommand.CONFLUX_LINK, payload=link.encode())
    scene.net.pump()
    assert scene.circuits[1].closed and not scene.circuits[0].closed
    assert len(scene.far.legs) == 1 and len(scene.sets) == 1


def test_a_leg_may_come_later_where_nothing_is_under_way():
    scene = Scene(legs=2, link=False)
    scene.link(scene.circuits[0], delay=0.2)
    stream, handler, far, _ = scene.open()
    data = scene.ask_far(far, 30 * MAX_DATA)
    scene.link(scene.circuits[1], sent=scene.linked.last_sent, received=scene.linked.delivered)
    assert len(scene.far.legs) == 2
    data += scene.ask_far(far, 900 * MAX_DATA)
    assert handler.received == data and all(leg.last_sent > 31 for leg in scene.far.legs)


@pytest.mark.parametrize("command", [RelayCommand.CONFLUX_LINK, RelayCommand.CONFLUX_LINKED_ACK, RelayCommand.EXTEND2])
def test_a_second_handshake_closes_the_leg(scene, command):
    payload = Link(OTHER).encode() if command == RelayCommand.CONFLUX_LINK else b""
    scene.legs[1].say(command, payload)
    scene.net.pump()
    assert scene.circuits[1].closed and not scene.circuits[0].closed and len(scene.sets) == 1


def test_a_stream_before_the_handshake_is_over_closes_the_leg():
    scene = Scene(legs=1, link=False, ack=False)
    scene.link(scene.circuits[0])
    scene.linked.endpoint.open_stream("host.example:80")
    scene.net.pump()
    assert scene.gone and not scene.exit.services.targets


def test_a_client_that_links_a_thousand_legs_has_eight():
    scene = Scene(legs=0)
    circuits = [scene.net.build(scene.client, [scene.exit], pump=False) for _ in range(1000)]
    scene.net.pump()
    for circuit in circuits:
        deaf(circuit)
        say(circuit, RelayCommand.CONFLUX_LINK, payload=Link(NONCE).encode())
    scene.net.pump()
    assert len(scene.far.legs) == MAX_LEGS and len(scene.sets) == 1
    assert sum(not circuit.closed for circuit in circuits) == MAX_LEGS
    scene.net.tick(LINK_TIMEOUT + 0.1)
    assert not scene.sets


def test_legs_that_come_and_go_leave_nothing():
    scene = Scene(legs=1, link=False)
    scene.link(scene.circuits[0])
    for _ in range(3 * MAX_LEGS):
        circuit = scene.net.build(scene.client, [scene.exit])
        deaf(circuit)
        say(circuit, RelayCommand.CONFLUX_LINK, payload=Link(NONCE).encode())
        scene.net.pump()
        circuit.destroy(DestroyReason.FINISHED, scene.net.now)
        scene.net.pump()
    [own] = scene.exit.services.linking._sets.values()
    assert len(own.linked.legs) == 1 and len(own.circuits) <= 2


def test_what_waits_at_a_relay_is_bounded_and_the_fullest_set_of_the_fullest_source_goes(monkeypatch):
    monkeypatch.setattr("convergence.circuit.linking.MAX_WAITING", 50)
    net = Net("crowd")
    net.protocols = BOTH
    last = net.add("exit")
    last.services = Exit(last.outbox)
    ends = {}
    for name, fills in (("good", [10]), ("evil", [5, 30])):
        client = net.add(name, relays=False)
        for number, waiting in enumerate(fills):
            nonce = name.encode().ljust(31, b".") + bytes([number])
            circuit = net.build(client, [last])
            linked = LinkedSet(client.outbox, originates=True, on_message=accept, on_closed=lambda *_: None)
            leg = circuit.join(linked, net.now)
            leg.say(RelayCommand.CONFLUX_LINK, Link(nonce).encode())
            net.pump()
            spare = net.build(client, [last]).join(linked, net.now)
            spare.say(RelayCommand.CONFLUX_LINK, Link(nonce).encode())
            net.pump()
            leg.carrier.transmit([switch(9), *(data_cell(1) for _ in range(waiting))])
            net.pump()
            ends[name, number] = circuit, leg
    assert not any(circuit.closed for circuit, _ in ends.values()) and last.services.linking._waiting == 45
    ends["good", 0][1].carrier.transmit([data_cell(1) for _ in range(10)])
    net.pump()
    assert [key for key, (circuit, _) in ends.items() if circuit.closed] == [("evil", 1)]
    assert last.services.linking._waiting == 25


def accept(leg, command, payload, now):
    leg.answered(now)
    leg.say(RelayCommand.CONFLUX_LINKED_ACK)


def test_data_of_a_run_is_numbered_cell_by_cell(scene):
    """A run of DATA that is cut anywhere has the same numbers."""
    stream, handler, _, _ = scene.open()
    cells = pack_data(stream.id, bytes(7 * MAX_DATA))
    used, idle = (0, 1) if scene.legs[1].last_received == 0 else (1, 0)
    scene.say_far(idle, switch(scene.linked.delivered + 3), *cells[3:5])
    scene.say_far(used, *cells[:3])
    assert len(handler.received) == 5 * MAX_DATA
    scene.say_far(used, switch(2), *cells[5:])
    assert len(handler.received) == 7 * MAX_DATA and not scene.linked.closed
