"""One link: circuit ids, dispatch, fair queues with limits, and closing on what breaks the protocol."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.effects import CloseLink, Send
from convergence.errors import DestroyReason, LinkError, LocalError, RemoteError
from convergence.link.handshake import Handshake
from convergence.link.link import (
    CELLS_PER_MESSAGE,
    CROWDED,
    FLUSH_CELLS,
    INITIATOR_ID_BIT,
    MAX_CIRCUITS,
    MAX_QUEUED,
    MAX_UNANSWERED,
    RETAINED,
    Link,
)
from convergence.link.throttle import Throttle
from convergence.outbox import Outbox
from convergence.wire.cells import CELL_LEN, HEADER_LEN, PAYLOAD_LEN, VARIABLE_HEADER, Command, encode_cell
from convergence.wire.create import Create2
from tests.unit.circuit.rig import CRYPTO, START, Machine, Net, SeededRng


class Circuit:
    """A CircuitHandler that records; `error` is raised by its next call."""

    def __init__(self, link=None):
        self.link = link
        self.runs = []
        self.calls = []
        self.error = None
        self.on_relay = None

    def _told(self, *call):
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def relay(self, run, early, now):
        self.runs.append((run, early))
        if self.on_relay is not None:
            self.on_relay()
        self._told("relay", len(run) // PAYLOAD_LEN, early)

    def create(self, payload, now):
        self._told("create")

    def created(self, payload, fast, now):
        self._told("created_fast" if fast else "created")

    def destroyed(self, reason, now):
        self.calls.append(("destroyed", reason))

    def broken(self, error, now):
        self.calls.append(("broken", error.reason))
        if self.link is not None:
            self.link.destroy(self.id, error.reason)

    def drained(self, now):
        self._told("drained")


class End:
    """A link that is open, with nothing behind it."""

    def __init__(self, *, initiator=False, on_create="adopt", rate=None, onionskins=None, outbox=None, late=b""):
        self.outbox = outbox or Outbox()
        self.now = START
        net = Net()
        keys = Machine(net, "us").keys
        other_keys = Machine(net, "them").keys
        self.closed = []
        self.created = []
        self.throttle = Throttle(self.outbox, rate)
        ours = Handshake(CRYPTO, SeededRng("us"), initiator=initiator, keys=keys, binding=None)
        theirs = Handshake(CRYPTO, SeededRng("them"), initiator=not initiator, keys=other_keys, binding=None)
        self.link = Link(
            self.outbox,
            SeededRng("ids"),
            1,
            ours,
            START,
            initiator=initiator,
            on_create=self._create if on_create == "adopt" else on_create,
            on_open=lambda link, now: None,
            on_closed=lambda link, reason, now: self.closed.append(reason),
            throttle=self.throttle,
            onionskins=onionskins,
        )
        data = b"".join(theirs.start()) or self.sent()
        for _ in range(4):
            if initiator:
                self.link.receive(b"".join(theirs.receive(data, START)), START)
            else:
                self.link.receive(data + (late if theirs.open else b""), START)
            data = self.sent() if initiator else b"".join(theirs.receive(self.sent(), START))
            if self.link.open and theirs.open:
                break
        assert self.link.open and theirs.open
        self.sent()

    def _create(self, link, circ_id, payload, now):
        circuit = Circuit(link)
        circuit.id = circ_id
        self.created.append(circuit)
        link.adopt(circ_id, circuit)

    def attach(self, *, relayed=False, source="another link"):
        circuit = Circuit(self.link)
        circuit.id = self.link.attach(circuit, source=source if relayed else None)
        return circuit

    def tick(self, seconds):
        self.now += seconds
        self.outbox.run_timers(self.now)

    def receive(self, *cells):
        self.link.receive(b"".join(cells), START)

    def messages(self):
        """What one poll gives: the buffers of each Send."""
        return [
            buffer for effect in self.outbox.poll(self.now) if isinstance(effect, Send) for buffer in effect.buffers
        ]

    def sent(self):
        """All that goes out until nothing more does."""
        data = b""
        while messages := self.messages():
            data += b"".join(messages)
        return data

    def cells(self):
        data = self.sent()
        assert len(data) % CELL_LEN == 0
        return [
            (int.from_bytes(data[at : at + 4], "big"), data[at + 4], data[at + HEADER_LEN : at + CELL_LEN])
            for at in range(0, len(data), CELL_LEN)
        ]


def relay_cell(circ_id, byte=0, command=Command.RELAY):
    return encode_cell(circ_id, command, bytes([byte]) * PAYLOAD_LEN)


HANDSHAKE_ONLY = [
    *(Command.NETINFO, Command.VERSIONS, Command.CERTS, Command.AUTH_CHALLENGE, Command.AUTHENTICATE),
]
THEIRS = INITIATOR_ID_BIT | 5  # an id that the initiator may choose; the End is the responder
CREATE = Create2(2, bytes(84)).encode()


# -- circuit ids


@pytest.mark.parametrize("initiator", [True, False])
def test_circuit_ids_come_from_our_half(initiator):
    end = End(initiator=initiator)
    ids = {end.attach().id for _ in range(50)}
    assert len(ids) == 50
    assert all(bool(circ_id & INITIATOR_ID_BIT) is initiator and circ_id & 0x7FFFFFFF for circ_id in ids)


@pytest.mark.parametrize(
    ("initiator", "circ_id"), [(True, THEIRS), (False, 5), (False, 0), (True, 0), (False, INITIATOR_ID_BIT)]
)
def test_create2_with_an_id_of_our_half_or_none_closes_the_link(initiator, circ_id):
    end = End(initiator=initiator)
    end.receive(encode_cell(circ_id, Command.CREATE2, CREATE))
    assert end.closed == ["CREATE2 with a circuit id of our half"]
    assert not end.created


def test_create2_makes_a_circuit():
    end = End()
    end.receive(encode_cell(THEIRS, Command.CREATE2, CREATE))
    assert [circuit.id for circuit in end.created] == [THEIRS]


def test_create2_is_refused_where_nobody_relays():
    end = End(on_create=None)
    end.receive(encode_cell(THEIRS, Command.CREATE2, CREATE))
    assert [(circ_id, command, payload[0]) for circ_id, command, payload in end.cells()] == [
        (THEIRS, Command.DESTROY, DestroyReason.HIBERNATING)
    ]
    assert end.link.open and not end.link.circuits


def test_create2_beyond_the_limit_is_refused():
    end = End()
    end.link.circuits.update((number, Circuit()) for number in range(MAX_CIRCUITS))
    end.receive(encode_cell(THEIRS, Command.CREATE2, CREATE))
    assert [(command, payload[0]) for _, command, payload in end.cells()] == [
        (Command.DESTROY, DestroyReason.RESOURCELIMIT)
    ]
    with pytest.raises(LocalError):
        end.attach()


def test_an_error_while_creating_is_answered_with_its_reason():
    def refuse(link, circ_id, payload, now):
        raise RemoteError("no", reason=DestroyReason.INTERNAL)

    end = End(on_create=refuse)
    end.receive(encode_cell(THEIRS, Command.CREATE2, CREATE))
    assert [(command, payload[0]) for _, command, payload in end.cells()] == [(Command.DESTROY, DestroyReason.INTERNAL)]


def test_a_link_error_while_creating_closes_the_link():
    def refuse(link, circ_id, payload, now):
        raise LinkError("away with you")

    end = End(on_create=refuse)
    end.receive(encode_cell(THEIRS, Command.CREATE2, CREATE))
    assert end.closed == ["away with you"]


# -- dispatch


def test_a_batch_of_one_circuit_is_one_run():
    end = End()
    circuit = end.attach()
    end.receive(*(relay_cell(circuit.id, byte) for byte in range(20)))
    assert circuit.calls == [("relay", 20, False)]
    assert circuit.runs[0][0] == b"".join(bytes([byte]) * PAYLOAD_LEN for byte in range(20))


def test_runs_are_gathered_by_circuit_and_keep_their_order():
    end = End()
    one, two = end.attach(), end.attach()
    end.receive(relay_cell(one.id, 1), relay_cell(two.id, 2), relay_cell(one.id, 3), relay_cell(two.id, 4))
    assert [run for run, _ in one.runs] == [b"\1" * PAYLOAD_LEN + b"\3" * PAYLOAD_LEN]
    assert [run for run, _ in two.runs] == [b"\2" * PAYLOAD_LEN + b"\4" * PAYLOAD_LEN]


def test_what_is_no_relay_cell_comes_after_the_relay_cells_before_it():
    end = End()
    circuit = end.attach()
    end.receive(
        relay_cell(circuit.id, 1),
        relay_cell(circuit.id, 2, Command.RELAY_EARLY),
        relay_cell(circuit.id, 3),
        encode_cell(circuit.id, Command.DESTROY, b"\x08"),
        relay_cell(circuit.id, 4),
    )
    assert circuit.calls == [
        ("relay", 1, False),
        ("relay", 1, True),
        ("relay", 1, False),
        ("destroyed", DestroyReason.CHANNEL_CLOSED),
    ]


@given(st.lists(st.integers(1, 3 * CELL_LEN), max_size=10))
def test_input_may_be_cut_anywhere(borders):
    end = End()
    one, two = end.attach(), end.attach()
    data = b"".join(relay_cell(one.id if index % 3 else two.id, index) for index in range(12))
    start = 0
    for border in sorted({min(border, len(data)) for border in borders} | {len(data)}):
        end.link.receive(data[start:border], START)
        start = border
    for circuit, wanted in ((one, [index for index in range(12) if index % 3]), (two, [0, 3, 6, 9])):
        received = b"".join(run for run, _ in circuit.runs)
        assert received == b"".join(bytes([index]) * PAYLOAD_LEN for index in wanted)


def test_unknown_circuits_and_padding_are_no_error():
    """Cells may be under way when a circuit is closed (tor-spec, "Tearing down circuits")."""
    end = End()
    for command in (
        Command.RELAY,
        Command.RELAY_EARLY,
        Command.DESTROY,
        Command.CREATED2,
        Command.PADDING,
        Command.PADDING_NEGOTIATE,
        77,
    ):
        end.receive(encode_cell(THEIRS, command))
    assert end.link.open and end.cells() == []


@pytest.mark.parametrize("command", [Command.CREATE_FAST, Command.CREATE])
def test_old_handshakes_are_refused(command):
    end = End()
    end.receive(encode_cell(THEIRS, command))
    assert [(circ_id, command, payload[0]) for circ_id, command, payload in end.cells()] == [
        (THEIRS, Command.DESTROY, DestroyReason.PROTOCOL)
    ]
    assert end.link.open and not end.link.circuits


@pytest.mark.parametrize("command", [Command.CREATE, Command.CREATE_FAST, Command.CREATED])
def test_a_command_that_is_not_offered_breaks_its_circuit(command):
    end = End()
    circuit = end.attach()
    end.receive(encode_cell(circuit.id, command))
    assert circuit.calls == [("broken", DestroyReason.PROTOCOL)]
    assert end.link.open


@pytest.mark.parametrize("command", HANDSHAKE_ONLY)
def test_a_handshake_cell_on_an_open_link_closes_it(command):
    end = End()
    circuit = end.attach()
    end.receive(bytes(4) + bytes([command]) + bytes(PAYLOAD_LEN))
    assert end.closed == [f"cell command {int(command)} after the handshake"]
    assert circuit.calls == [("destroyed", DestroyReason.CHANNEL_CLOSED)]
    assert any(isinstance(effect, CloseLink) for effect in end.outbox.poll(end.now))


@pytest.mark.parametrize("command", [13, 77, 120, 121, 127])
def test_a_fixed_cell_of_an_unknown_command_is_dropped(command):
    """tor-spec "Cell Packet format": a relay must drop them, more may be added."""
    end = End()
    circuit = end.attach()
    end.receive(encode_cell(circuit.id, command), encode_cell(0, command), relay_cell(circuit.id))
    assert circuit.calls == [("relay", 1, False)] and end.cells() == []


def variable_cell(command, size, circ_id=0):
    """Looks like cells of all kinds inside."""
    return VARIABLE_HEADER.pack(circ_id, command, size) + (bytes([Command.DESTROY]) * size)


@pytest.mark.parametrize("cut", [1, 3, 6, 7, 513, 514, 515, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, 507, 509, 65_535])
@pytest.mark.parametrize("command", [Command.VPADDING, Command.AUTHORIZE, 190, 255])
def test_padding_and_unknown_variable_cells_are_dropped_wherever_they_are_cut(command, size, cut):
    end = End()
    circuit = end.attach()
    cell = variable_cell(command, size)
    data = b"".join(
        (relay_cell(circuit.id, 1), cell, cell, relay_cell(circuit.id, 2), relay_cell(circuit.id, 3), cell, cell[:6])
    )
    for at in range(0, len(data), cut):
        end.receive(data[at : at + cut])
        assert len(end.link._partial) < CELL_LEN
    assert end.link.open and end.cells() == []
    assert b"".join(run for run, _ in circuit.runs) == b"".join(bytes([byte]) * PAYLOAD_LEN for byte in (1, 2, 3))


def test_cells_before_a_handshake_cell_are_handled_before_the_link_closes():
    end = End()
    circuit = end.attach()
    end.receive(relay_cell(circuit.id), variable_cell(Command.CERTS, 9), relay_cell(circuit.id))
    assert circuit.calls == [("relay", 1, False), ("destroyed", DestroyReason.CHANNEL_CLOSED)]


@pytest.mark.parametrize("late", [variable_cell(Command.VPADDING, 30_000), variable_cell(200, 3)])
def test_what_comes_with_the_end_of_the_handshake_is_of_the_open_link(late):
    end = End(late=late + relay_cell(THEIRS) + encode_cell(THEIRS, Command.CREATE2, CREATE))
    assert end.link.open and [circuit.id for circuit in end.created] == [THEIRS]


def test_circuit_cells_reach_their_circuit():
    end = End()
    circuit = end.attach()
    end.receive(encode_cell(circuit.id, Command.CREATED2), encode_cell(circuit.id, Command.CREATE2))
    assert circuit.calls == [("created",), ("create",)]


def test_an_error_of_one_circuit_is_no_matter_to_the_others():
    end = End()
    one, two = end.attach(), end.attach()
    one.error = RemoteError("broken", reason=DestroyReason.PROTOCOL)
    end.receive(relay_cell(one.id), relay_cell(two.id))
    assert one.calls == [("relay", 1, False), ("broken", DestroyReason.PROTOCOL)]
    assert two.calls == [("relay", 1, False)]
    assert end.link.open


def test_an_error_of_link_scope_closes_the_link():
    end = End()
    circuit = end.attach()
    circuit.error = LinkError("worse than a circuit")
    end.receive(relay_cell(circuit.id))
    assert end.closed == ["worse than a circuit"]


def test_a_circuit_may_close_the_others_while_it_is_told_something():
    end = End()
    one, two = end.attach(), end.attach()
    one.on_relay = lambda: end.link.destroy(two.id, DestroyReason.NONE)
    end.receive(relay_cell(one.id), relay_cell(two.id), relay_cell(one.id))
    assert two.calls == [] and len(one.runs) == 1


def test_all_circuits_hear_of_the_end_once():
    end = End()
    circuits = [end.attach() for _ in range(3)]
    end.link.gone("connection lost", START)
    end.link.gone("again", START)
    end.link.close("and again", START)
    assert all(circuit.calls == [("destroyed", DestroyReason.CHANNEL_CLOSED)] for circuit in circuits)
    assert end.closed == ["connection lost"]
    end.link.send_one(circuits[0].id, Command.DESTROY, b"")
    assert end.sent() == b"" and not end.link.open
    with pytest.raises(LocalError):
        end.attach()


def test_destroy_is_sent_once():
    end = End()
    circuit = end.attach()
    end.link.destroy(circuit.id, DestroyReason.FINISHED)
    end.link.destroy(circuit.id, DestroyReason.FINISHED)
    assert [(command, payload[0]) for _, command, payload in end.cells()] == [(Command.DESTROY, DestroyReason.FINISHED)]


# -- output


def run_of(count, byte=0):
    return bytes([byte]) * (PAYLOAD_LEN * count)


def test_messages_hold_whole_cells_and_no_more_than_fit():
    end = End()
    end.link.send(THEIRS, Command.RELAY, run_of(300))
    sizes = [len(message) for message in end.messages()]
    assert sizes == [CELLS_PER_MESSAGE * CELL_LEN, CELLS_PER_MESSAGE * CELL_LEN, 46 * CELL_LEN]
    assert max(sizes) <= 64 * 1024


def test_a_flush_is_bounded_and_goes_on_with_the_next():
    end = End()
    for _ in range(4 * FLUSH_CELLS // 100):
        end.link.send(THEIRS, Command.RELAY, run_of(100))
    first = b"".join(end.messages())
    assert FLUSH_CELLS * CELL_LEN <= len(first) < (FLUSH_CELLS + 100) * CELL_LEN
    assert len(first) + len(end.sent()) == 4 * FLUSH_CELLS // 100 * 100 * CELL_LEN


def test_circuits_take_turns():
    end = End()
    for circ_id in (1, 2):
        for _ in range(2 * FLUSH_CELLS // 50):
            end.link.send(circ_id, Command.RELAY, run_of(50))
    first = b"".join(end.messages())
    owners = [first[at + 3] for at in range(0, len(first), 50 * CELL_LEN)]
    assert owners[:6] == [1, 2, 1, 2, 1, 2]


def test_nothing_goes_out_while_the_transport_is_full():
    end = End()
    circuit = end.attach()
    end.link.set_congested(True, START)
    end.link.send(circuit.id, Command.RELAY, run_of(3))
    assert end.sent() == b"" and circuit.calls == []
    end.link.set_congested(False, START)
    assert circuit.calls == [("drained",)]
    assert len(end.sent()) == 3 * CELL_LEN


@pytest.mark.parametrize("held_by", ["transport", "throttle"])
def test_nothing_is_sent_of_a_circuit_that_is_destroyed_before_its_create2_is_sent(held_by):
    end = End(rate=RATE if held_by == "throttle" else None)
    other = end.attach(relayed=True)
    end.link.set_congested(held_by == "transport", START)
    end.link.send(other.id, Command.RELAY, run_of(300))
    end.sent()
    before = end.link.queued
    for _ in range(1000):
        dropped = end.attach(relayed=True)
        end.link.send_one(dropped.id, Command.CREATE2, CREATE)
        end.sent()
        end.link.destroy(dropped.id, DestroyReason.NONE)
        assert end.link.queued == before
    end.throttle.set_rate(None, START)
    end.link.set_congested(False, START)
    assert {circ_id for circ_id, _, _ in end.cells()} == {other.id}
    assert end.link.queued == 0 and list(end.link.circuits) == [other.id]


def test_a_circuit_whose_create2_was_sent_gets_its_destroy_behind_what_is_queued():
    end = End()
    circuit = end.attach(relayed=True)
    end.link.send_one(circuit.id, Command.CREATE2, CREATE)
    assert [command for _, command, _ in end.cells()] == [Command.CREATE2]
    end.link.set_congested(True, START)
    end.link.send(circuit.id, Command.RELAY, run_of(1))
    end.link.destroy(circuit.id, DestroyReason.NONE)
    end.link.set_congested(False, START)
    assert [command for _, command, _ in end.cells()] == [Command.RELAY, Command.DESTROY]


def test_the_neighbour_hears_the_end_of_a_circuit_also_when_its_id_was_given_out_again():
    """The DESTROY that waits is of the earlier circuit, and must not be dropped with the CREATE2 behind it."""
    end = End()
    end.link._rng = SeededRng("the id")
    earlier = end.attach()
    end.link.send_one(earlier.id, Command.CREATE2, CREATE)
    end.sent()
    end.link.set_congested(True, START)
    end.link.destroy(earlier.id, DestroyReason.NONE)
    end.link._rng = SeededRng("the id")
    later = end.attach()
    end.link.send_one(later.id, Command.CREATE2, CREATE)
    end.link.destroy(later.id, DestroyReason.NONE)
    end.link.set_congested(False, START)
    assert later.id == earlier.id
    assert [command for _, command, _ in end.cells()] == [Command.DESTROY, Command.CREATE2, Command.DESTROY]


def extend(end, source):
    """A circuit of somebody else's, for which the neighbour is asked."""
    circuit = end.attach(relayed=True, source=source)
    end.link.send_one(circuit.id, Command.CREATE2, CREATE)
    return circuit


def crowd(end):
    own = end.attach()
    end.link.set_congested(True, START)
    end.link.send(own.id, Command.RELAY, run_of(CROWDED // CELL_LEN + 1))


def test_a_source_with_many_unanswered_create2s_extends_no_more_circuits_over_a_crowded_link_and_others_do():
    end = End()
    for _ in range(MAX_UNANSWERED + 5):
        extend(end, "greedy")
    crowd(end)
    with pytest.raises(LocalError):
        extend(end, "greedy")
    for _ in range(MAX_UNANSWERED):
        extend(end, "modest")
    with pytest.raises(LocalError):
        extend(end, "modest")
    end.attach()  # of ours
    end.link.set_congested(False, START)
    end.sent()
    extend(end, "greedy")


@pytest.mark.parametrize("over", ["answered", "refused", "destroyed"])
def test_a_create2_that_is_over_makes_place_for_another(over):
    end = End()
    circuits = [extend(end, "source") for _ in range(MAX_UNANSWERED)]
    crowd(end)
    if over == "destroyed":
        end.link.destroy(circuits[0].id, DestroyReason.NONE)
    else:
        end.receive(encode_cell(circuits[0].id, Command.CREATED2 if over == "answered" else Command.DESTROY, CREATE))
    circuits.append(extend(end, "source"))
    with pytest.raises(LocalError):
        extend(end, "source")
    for circuit in circuits:
        end.link.destroy(circuit.id, DestroyReason.NONE)
    assert not end.link._unanswered and not end.link._onward


def test_the_circuit_with_most_is_shed_when_too_much_is_queued():
    end = End()
    small, large = end.attach(), end.attach()
    end.link.set_congested(True, START)
    end.link.send(small.id, Command.RELAY, run_of(10))
    for _ in range(MAX_QUEUED // (500 * CELL_LEN) + 1):
        end.link.send(large.id, Command.RELAY, run_of(500))
    assert end.sent() == b""
    assert large.calls == [("broken", DestroyReason.RESOURCELIMIT)] and small.calls == []
    end.link.set_congested(False, START)
    sent = end.cells()
    assert sum(circ_id == small.id for circ_id, _, _ in sent) == 10
    destroys = [(circ_id, payload[0]) for circ_id, command, payload in sent if command == Command.DESTROY]
    assert destroys == [(large.id, DestroyReason.RESOURCELIMIT)]


def test_a_destroy_that_is_shed_with_its_circuits_cells_is_sent_again():
    """Or the neighbour would keep the circuit for as long as the link stands."""
    end = End()
    gone, other = end.attach(), end.attach()
    end.link.set_congested(True, START)
    end.link.send(gone.id, Command.RELAY, run_of(500))
    end.link.destroy(gone.id, DestroyReason.FINISHED)
    for _ in range(MAX_QUEUED // (400 * CELL_LEN) + 1):
        end.link.send(THEIRS + end.link._queued, Command.RELAY, run_of(400))
    end.link.set_congested(False, START)
    sent = [(circ_id, command) for circ_id, command, _ in end.cells() if circ_id == gone.id]
    assert sent == [(gone.id, Command.DESTROY)] and other.calls == [("drained",)]


def test_each_search_for_circuits_to_shed_makes_room_for_many_cells():
    """Or thousands of small queues would be searched again for every cell."""
    end = End()
    end.link.set_congested(True, START)
    circuits = [end.attach() for _ in range((MAX_QUEUED // CELL_LEN - 1) // 4)]
    small = end.attach()
    end.link.send(small.id, Command.RELAY, run_of(1))
    for circuit in circuits:
        end.link.send(circuit.id, Command.RELAY, run_of(4))
    assert end.link.queued > MAX_QUEUED - 4 * CELL_LEN
    end.link.send(circuits[0].id, Command.RELAY, run_of(4))
    assert end.link.queued <= RETAINED * (MAX_QUEUED + 4 * CELL_LEN)
    assert end.sent() == b"" and end.link.open and small.calls == []
    assert circuits[0].calls == [("broken", DestroyReason.RESOURCELIMIT)]
    assert 0.09 < sum(bool(circuit.calls) for circuit in circuits) / len(circuits) < 0.11


def test_the_queue_never_passes_its_limit_by_more_than_one_run():
    end = End()
    end.link.set_congested(True, START)
    circuits = [end.attach() for _ in range(5)]
    for index in range(400):
        circuit = circuits[index % 5]
        if circuit.id in end.link.circuits:
            end.link.send(circuit.id, Command.RELAY, run_of(200))
        assert end.link._queued <= MAX_QUEUED
        assert end.link._queued == sum(queue.size for queue in end.link._queues.values())


def test_refusals_that_nobody_reads_close_the_link():
    """One cell waits for each of very many circuits: no circuit is to blame, and shedding them one by one, each with
    a DESTROY that is queued in turn, would not end."""
    end = End()
    end.link.set_congested(True, START)
    circuits = [end.attach() for _ in range(1000)]
    for circuit in circuits:
        end.link.send_one(circuit.id, Command.CREATED2, b"")
    refused = (encode_cell(INITIATOR_ID_BIT | number, Command.CREATE_FAST) for number in range(1, MAX_QUEUED // 500))
    end.receive(*refused)
    assert end.link.queued == 0 and end.sent() == b""
    assert end.closed == ["too many cells queued"]
    assert not end.link.circuits and all(len(circuit.calls) == 1 for circuit in circuits)


def test_create2_behind_the_cell_that_closed_the_link_makes_nothing():
    end = End()
    end.receive(
        encode_cell(5, Command.CREATE2, CREATE),  # our half: the link closes
        encode_cell(THEIRS, Command.CREATE2, CREATE),
    )
    assert end.closed and not end.created


def test_bytes_are_counted():
    end = End()
    before_in, before_out = end.link.bytes_in, end.link.bytes_out
    end.receive(relay_cell(9))
    end.link.send(THEIRS, Command.RELAY, run_of(2))
    end.sent()
    assert (end.link.bytes_in - before_in, end.link.bytes_out - before_out) == (CELL_LEN, 2 * CELL_LEN)


def test_garbage_before_the_handshake_closes_with_a_reason():
    net = Net()
    a, b = net.add("a"), net.add("b")
    _, link = net.connect(a, b)
    net.deliver(b, link, b"GET / HTTP/1.1\r\n\r\n" * 40)
    assert [reason for _, reason in b.closed_links] == ["cell command 84 came before VERSIONS"]


def test_cells_right_behind_netinfo_are_handled():
    """The initiator may send CREATE2 in one message with its NETINFO."""
    net = Net()
    client, relay = net.add("client", relays=False), net.add("relay")
    held = []

    def tap(sender, receiver, data):
        if sender is client and data[4] in (Command.NETINFO, Command.CREATE2) and len(data) == CELL_LEN:
            held.append(data)
            if len(held) < 2:
                return b""
            return b"".join(held)
        return data

    net.tap = tap
    client_link = net.link_between(client, relay)
    net.pump()
    assert client_link.open and not net.other_side(client, client_link).open
    circuit = net.build(client, [relay])
    assert circuit.built


# -- what is relayed waits for the throttle

RATE = 100 * CELL_LEN  # a second; as much may be saved up
KINDS = ["adopted", "onward"]


def relayed(end, kind):
    """The id of somebody else's circuit: one that the neighbour made, or one that goes on over this link."""
    if kind == "onward":
        return end.attach(relayed=True).id
    circ_id = THEIRS + len(end.created)
    end.receive(encode_cell(circ_id, Command.CREATE2, CREATE))
    return circ_id


def bytes_of(circ_id, sent):
    return [payload[0] for sender, command, payload in sent if sender == circ_id and command == Command.RELAY]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("circuits", [1, 3])
def test_circuits_of_others_have_the_rate_together(kind, circuits):
    end = End(rate=RATE)
    ids = [relayed(end, kind) for _ in range(circuits)]
    for circ_id in ids:
        end.link.send(circ_id, Command.RELAY, run_of(1200))
    assert len(end.cells()) == 100
    for _ in range(10):
        end.tick(1.0)
        assert len(end.cells()) == pytest.approx(100, abs=1)
    end.throttle.set_rate(None, START)
    end.cells()
    assert end.link.queued == 0


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_circuits_never_wait_behind_others(kind):
    end = End(rate=RATE)
    other, own = relayed(end, kind), end.attach().id
    end.link.send(other, Command.RELAY, run_of(2000))
    end.sent()
    assert end.link.queued
    for number in range(5):
        end.link.send(own, Command.RELAY, run_of(500, number))
        assert bytes_of(own, end.cells()) == [number] * 500


def test_our_own_cells_use_up_none_of_the_rate():
    end = End(rate=RATE)
    own, other = end.attach().id, relayed(end, "onward")
    end.link.send(own, Command.RELAY, run_of(2000))
    end.sent()
    end.link.send(other, Command.RELAY, run_of(100))
    assert len(end.cells()) == 100


def test_held_circuits_take_turns_and_each_keeps_its_order():
    end = End(rate=RATE)
    ids = [relayed(end, kind) for kind in KINDS * 4]
    received = {circ_id: [] for circ_id in ids}

    def tick():
        end.tick(0.1)
        sent = end.cells()
        for circ_id in ids:
            received[circ_id] += bytes_of(circ_id, sent)

    tick()
    for number in range(50):
        for circ_id in ids:
            end.link.send(circ_id, Command.RELAY, run_of(3, number))
        if number % 10 == 0:
            tick()
    for _ in range(60):
        tick()
    counts = [len(received[circ_id]) for circ_id in ids]
    assert max(counts) - min(counts) <= 10 < min(counts)
    for _ in range(150):
        tick()
    wanted = [number for number in range(50) for _ in range(3)]
    assert all(received[circ_id] == wanted for circ_id in ids)


@pytest.mark.parametrize("kind", KINDS)
def test_destroy_comes_after_what_is_held(kind):
    end = End(rate=RATE)
    circ_id = relayed(end, kind)
    end.link.send(circ_id, Command.RELAY, run_of(150))
    commands = [command for _, command, _ in end.cells()]
    end.link.destroy(circ_id, DestroyReason.FINISHED)
    assert end.cells() == []
    end.tick(1.0)
    commands += [command for _, command, _ in end.cells()]
    assert commands == [Command.RELAY] * 150 + [Command.DESTROY]


def test_the_destroy_of_somebody_elses_circuit_waits_for_the_throttle_too():
    end = End(rate=RATE)
    busy, quiet = end.attach(relayed=True), end.attach(relayed=True)
    end.link.send(busy.id, Command.RELAY, run_of(150))
    end.sent()
    end.link.destroy(quiet.id, DestroyReason.NONE)
    assert end.cells() == []
    end.tick(1.0)
    assert (quiet.id, Command.DESTROY) in [(circ_id, command) for circ_id, command, _ in end.cells()]


def test_what_is_held_counts_as_queued_and_is_shed():
    end = End(rate=RATE)
    small, large = end.attach(relayed=True), end.attach(relayed=True)
    end.link.send(small.id, Command.RELAY, run_of(200))
    for _ in range(MAX_QUEUED // (500 * CELL_LEN) + 1):
        end.link.send(large.id, Command.RELAY, run_of(500))
        end.sent()
        assert end.link.queued <= MAX_QUEUED
    assert large.calls == [("broken", DestroyReason.RESOURCELIMIT)] and small.calls == []
    assert large.id not in end.link.circuits and set(end.link._onward) == {small.id}


def test_a_full_transport_and_the_throttle_together():
    end = End(rate=RATE)
    circ_id = relayed(end, "onward")
    end.link.send(circ_id, Command.RELAY, run_of(300))
    assert len(end.cells()) == 100
    end.link.set_congested(True, START)
    end.tick(10.0)
    assert end.cells() == [] and end.outbox.deadline() is None, "nothing to wake for"
    end.link.set_congested(False, START)
    assert len(end.cells()) == 100
    end.tick(1.0)
    assert len(end.cells()) == 100 and end.link.queued == 0


def test_a_closed_link_waits_for_nothing():
    end = End(rate=RATE)
    circ_id = relayed(end, "onward")
    end.link.send(circ_id, Command.RELAY, run_of(300))
    end.sent()
    end.link.gone("connection lost", START)
    end.tick(1.0)
    assert end.link.queued == 0 and end.sent() == b"" and end.outbox.deadline() is None


def test_a_limit_set_later_holds_what_is_queued_already():
    end = End()
    circ_id = relayed(end, "onward")
    end.link.set_congested(True, START)
    end.link.send(circ_id, Command.RELAY, run_of(300))
    end.throttle.set_rate(RATE, START)
    end.link.set_congested(False, START)
    assert len(end.cells()) == 100


def test_nobody_starves_where_many_always_have_more_to_send():
    """Without a throttle too: a flush that is full goes on behind those that it served."""
    end = End()
    ids = [end.attach().id for _ in range(40)]
    served = dict.fromkeys(ids, 0)
    for _ in range(20):
        for circ_id in ids:
            end.link.send(circ_id, Command.RELAY, run_of(30))
        data = b"".join(end.messages())
        for at in range(0, len(data), CELL_LEN):
            served[int.from_bytes(data[at : at + 4], "big")] += 1
    assert max(served.values()) - min(served.values()) <= 60 < min(served.values())
