"""Windows and SENDME version 1 (tor-spec, "Flow control"; proposal 289)."""

import pytest

from convergence.circuit.flow import (
    CIRCUIT_INCREMENT,
    CIRCUIT_WINDOW,
    STREAM_INCREMENT,
    STREAM_WINDOW,
    FixedWindows,
    StreamWindows,
)
from convergence.errors import RemoteError, Scope, StreamError
from convergence.wire.relay import RelayCommand

NOW = 1.0
SENDME = (RelayCommand.SENDME, b"")


def digest(number):
    return number.to_bytes(4, "big") * 5


def sent(flow, first, last):
    """Cells first..last go out in one run; the digest after a cell is of its number, counted from 1."""
    flow.sent([digest(number) for number in range(first, last + 1)], NOW)


def acknowledge(flow, number):
    flow.acknowledge(digest(number), False, NOW)


def test_the_window_is_used_up_after_so_many_cells():
    flow = FixedWindows()
    sent(flow, 1, 30)
    assert flow.burst == CIRCUIT_WINDOW - 30
    sent(flow, 31, CIRCUIT_WINDOW)
    assert flow.burst == 0


def test_a_sendme_opens_the_window_by_one_increment():
    flow = FixedWindows()
    sent(flow, 1, CIRCUIT_WINDOW)
    acknowledge(flow, CIRCUIT_INCREMENT)
    assert flow.burst == CIRCUIT_INCREMENT


@pytest.mark.parametrize("run", [1, 7, CIRCUIT_INCREMENT - 1, CIRCUIT_INCREMENT, CIRCUIT_INCREMENT + 1, CIRCUIT_WINDOW])
def test_sendmes_quote_every_hundredth_cell_wherever_runs_end(run):
    flow = FixedWindows()
    for first in range(1, CIRCUIT_WINDOW + 1, run):
        sent(flow, first, min(first + run - 1, CIRCUIT_WINDOW))
    for number in range(CIRCUIT_INCREMENT, CIRCUIT_WINDOW + 1, CIRCUIT_INCREMENT):
        acknowledge(flow, number)
    assert flow.burst == CIRCUIT_WINDOW


@pytest.mark.parametrize("cells", [0, 1, CIRCUIT_INCREMENT - 1])
def test_a_sendme_that_is_not_due_is_refused(cells):
    flow = FixedWindows()
    sent(flow, 1, cells)
    with pytest.raises(RemoteError, match="not due") as error:
        acknowledge(flow, cells)
    assert error.value.scope is Scope.CIRCUIT


def test_a_sendme_comes_once():
    flow = FixedWindows()
    sent(flow, 1, CIRCUIT_INCREMENT)
    acknowledge(flow, CIRCUIT_INCREMENT)
    with pytest.raises(RemoteError, match="not due"):
        acknowledge(flow, CIRCUIT_INCREMENT)


RIGHT = digest(CIRCUIT_INCREMENT)


@pytest.mark.parametrize("wrong", [digest(99), digest(101), RIGHT[:19], b"", RIGHT[:19] + b"\0"])
def test_a_sendme_with_a_wrong_digest_is_refused(wrong):
    flow = FixedWindows()
    sent(flow, 1, 2 * CIRCUIT_INCREMENT)
    with pytest.raises(RemoteError, match="wrong digest"):
        flow.acknowledge(wrong, False, NOW)


def test_a_sendme_is_due_for_every_hundredth_cell_that_comes():
    flow = FixedWindows()
    assert [number for number in range(1, 301) if flow.received()] == [100, 200, 300]


def test_cells_beyond_a_streams_window_are_refused():
    flow = StreamWindows()
    for _ in range(STREAM_WINDOW):
        assert not flow.received(1)
    with pytest.raises(RemoteError, match="beyond the window") as error:
        flow.received(1)
    assert error.value.scope is Scope.CIRCUIT


def test_credit_is_given_back_by_increments():
    flow = StreamWindows()
    for _ in range(120):
        flow.received(1)
    assert [*flow.consumed(49)] == []
    assert [*flow.consumed(1)] == [SENDME]
    assert [*flow.consumed(70)] == [SENDME]
    assert flow.late == STREAM_WINDOW - 120 + 100
    assert [*flow.consumed(30)] == [SENDME]


def test_a_streams_sendme_makes_room():
    flow = StreamWindows()
    flow.sent(STREAM_WINDOW, STREAM_WINDOW)
    assert flow.room == 0
    flow.control(*SENDME)
    assert flow.room == STREAM_INCREMENT


def test_a_streams_sendme_that_is_not_due_ends_the_stream_only():
    flow = StreamWindows()
    flow.sent(STREAM_INCREMENT - 1, 1)
    with pytest.raises(StreamError, match="not due"):
        flow.control(*SENDME)


def test_other_commands_are_no_flow_control():
    with pytest.raises(RemoteError, match="not expected"):
        StreamWindows().control(RelayCommand.EXTEND2, b"")
