"""What a set hands on is in order, however its legs cut and delay it, and whatever is changed on the way."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from convergence.circuit.conflux import LinkedSet
from convergence.circuit.congestion import Vegas
from convergence.circuit.endpoint import Carrier
from convergence.errors import RemoteError
from convergence.link.meter import Meter
from convergence.outbox import Outbox
from convergence.wire.conflux import Switch
from convergence.wire.relay import V0, RelayCommand, pack_message
from tests.unit.circuit.rig import START, Recorder

LEGS = 3
BURSTS = st.lists(st.tuples(st.integers(0, LEGS - 1), st.integers(1, 5)), min_size=1, max_size=30)
ORDER = st.lists(st.tuples(st.integers(0, LEGS - 1), st.integers(1, 7)), max_size=60)


def receiver():
    """A client's end of a set with a stream, and the legs."""
    closed = []
    linked = LinkedSet(
        Outbox(), originates=True, on_message=refuse, on_closed=lambda reason, now: closed.append(reason)
    )
    legs = []
    for _ in range(LEGS):
        carrier = Carrier(V0, Vegas(), lambda cells: [bytes(20)] * len(cells), lambda: False, Meter(10))
        legs.append(linked.add(carrier, lambda reason, now: None, START))
        legs[-1].answered(START + 0.1)
    stream = linked.endpoint.open_stream("host.example:80")
    handler = stream.handler = Recorder(stream)
    return SimpleNamespace(linked=linked, legs=legs, stream=stream, handler=handler)


def refuse(leg, command, payload, now):
    raise RemoteError("not expected")


def sent(stream_id, bursts):
    """The cells of each leg: CONNECTED, then messages of one byte that count up."""
    cells, last, number = [[] for _ in range(LEGS)], [0] * LEGS, 0
    for leg, size in bursts:
        if number != last[leg]:
            cells[leg].append(pack_message(RelayCommand.CONFLUX_SWITCH, 0, Switch(number - last[leg]).encode()))
        for _ in range(size):
            command = RelayCommand.DATA if number else RelayCommand.CONNECTED
            cells[leg].append(pack_message(command, stream_id, bytes([number % 256]) if number else b""))
            number += 1
        last[leg] = number
    return cells, bytes(item % 256 for item in range(1, number))


def deliver(end, cells, order):
    """Some cells of one leg, then of another; in the end all. Returns whether none was refused."""
    left = [list(run) for run in cells]
    for leg, size in [*order, *((leg, len(cells[leg])) for leg in range(LEGS))]:
        run, left[leg] = left[leg][:size], left[leg][size:]
        if run:
            try:
                end.legs[leg].receive(run, [bytes(20)] * len(run), START)
            except RemoteError:
                return False
            end.legs[leg].settle(START)
    return True


@given(BURSTS, ORDER)
def test_what_honest_legs_bring_is_handed_on_in_order(bursts, order):
    end = receiver()
    cells, whole = sent(end.stream.id, bursts)
    assert deliver(end, cells, order) and not end.linked.closed
    assert end.handler.received == whole and end.linked.waiting == 0


@given(BURSTS, ORDER, st.integers(0, LEGS - 1), st.integers(0, 200), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_a_leg_that_lies_brings_a_beginning_at_most(bursts, order, leg, place, kind, gap):
    """A cell is left out, comes twice, or a SWITCH says something else. What others sent never comes in another order:
    at most, the liar's own cells stand in the places that it claims."""
    end = receiver()
    cells, whole = sent(end.stream.id, bursts)
    run = cells[leg]
    at = place % (len(run) + 1)
    if kind == 0:
        del run[at : at + 1]
    elif kind == 1:
        run[at:at] = run[at : at + 1]
    else:
        run[at:at] = [pack_message(RelayCommand.CONFLUX_SWITCH, 0, gap.to_bytes(4, "big"))]
    deliver(end, cells, order)
    received = bytes(end.handler.received)
    others = {item for number, item in enumerate(whole) if whole.count(item) == 1} - {cell[11] for cell in run}
    kept = [item for item in received if item in others]
    assert kept == [item for item in whole if item in others][: len(kept)]
    assert end.linked.waiting <= sum(map(len, cells))
