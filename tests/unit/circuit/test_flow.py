"""Windows and SENDME version 1 (tor-spec, "Flow control"; proposal 289)."""

import pytest

from convergence.circuit.flow import (
    CIRCUIT_INCREMENT,
    CIRCUIT_WINDOW,
    STREAM_INCREMENT,
    STREAM_WINDOW,
    CircuitPackageWindow,
    DeliverWindow,
)
from convergence.errors import RemoteError, Scope


def digest(number):
    return bytes([number]) * 20


def test_a_burst_ends_at_each_cell_that_will_be_quoted():
    window = CircuitPackageWindow()
    window.sent(30, digest(0))
    assert window.burst == CIRCUIT_INCREMENT - 30


def test_the_window_is_used_up_after_so_many_cells():
    window = CircuitPackageWindow()
    for number in range(CIRCUIT_WINDOW // CIRCUIT_INCREMENT):
        window.sent(window.burst, digest(number))
    assert window.burst == 0 and window.available == 0


def test_a_sendme_opens_the_window_by_one_increment():
    window = CircuitPackageWindow()
    for number in range(10):
        window.sent(CIRCUIT_INCREMENT, digest(number))
    window.acknowledge(digest(0))
    assert window.available == CIRCUIT_INCREMENT


def test_sendmes_quote_the_cells_in_order():
    window = CircuitPackageWindow()
    window.sent(CIRCUIT_INCREMENT, digest(1))
    window.sent(CIRCUIT_INCREMENT, digest(2))
    window.acknowledge(digest(1))
    window.acknowledge(digest(2))
    assert window.available == CIRCUIT_WINDOW


@pytest.mark.parametrize("sent", [0, 1, CIRCUIT_INCREMENT - 1])
def test_a_sendme_that_is_not_due_is_refused(sent):
    window = CircuitPackageWindow()
    window.sent(sent, digest(1)) if sent else None
    with pytest.raises(RemoteError, match="not due") as error:
        window.acknowledge(digest(1))
    assert error.value.scope is Scope.CIRCUIT


def test_a_sendme_comes_once():
    window = CircuitPackageWindow()
    window.sent(CIRCUIT_INCREMENT, digest(1))
    window.acknowledge(digest(1))
    with pytest.raises(RemoteError, match="not due"):
        window.acknowledge(digest(1))


@pytest.mark.parametrize("wrong", [digest(2), digest(1)[:19], b"", digest(1)[:19] + b"\0"])
def test_a_sendme_with_a_wrong_digest_is_refused(wrong):
    window = CircuitPackageWindow()
    window.sent(CIRCUIT_INCREMENT, digest(1))
    with pytest.raises(RemoteError, match="wrong digest"):
        window.acknowledge(wrong)


def test_cells_beyond_the_window_are_refused():
    window = DeliverWindow(STREAM_WINDOW, STREAM_INCREMENT)
    for _ in range(STREAM_WINDOW):
        window.received()
    with pytest.raises(RemoteError, match="beyond the window") as error:
        window.received()
    assert error.value.scope is Scope.CIRCUIT


def test_credit_is_given_back_by_increments():
    window = DeliverWindow(STREAM_WINDOW, STREAM_INCREMENT)
    for _ in range(120):
        window.received()
    assert window.consumed(49) == 0
    assert window.consumed(1) == 1
    assert window.consumed(70) == 1
    assert window.available == STREAM_WINDOW - 120 + 100
    assert window.consumed(30) == 1
