"""Circuits ahead: for the ports of the last hour, as few as serve."""

from convergence.outbox import Outbox
from convergence.path.predicted import CIRCUITS, FIRST_PORT, KEPT, MAX_CLEAN, MAX_PORTS, PredictedPorts

NOW = 1_800_000_000.0


def serves(*ports):
    return lambda port: port in ports


def predicted(*ports, outbox=None):
    found = PredictedPorts(outbox or Outbox(), NOW)
    for port in ports:
        found.used(port, NOW)
    return found


def test_at_the_start_the_web_is_expected_for_an_hour():
    found = predicted()
    assert found.lacking([], NOW) == [FIRST_PORT] == [443]
    assert found.lacking([], NOW + KEPT) == []


def test_each_port_of_the_last_hour_gets_two_circuits_which_may_be_the_same():
    found = predicted(22, 80)
    assert found.lacking([], NOW) == [22, 80, 443]
    assert found.lacking([serves(80, 443)], NOW) == [22, 80, 443]
    assert found.lacking([serves(80, 443)] * CIRCUITS, NOW) == [22]
    assert found.lacking([serves(80, 443), serves(22, 443), serves(22, 80)], NOW) == []


def test_a_port_that_is_used_again_stays():
    found = predicted(22)
    found.used(22, NOW + KEPT / 2)
    assert found.lacking([], NOW + KEPT) == [22]
    assert found.lacking([], NOW + KEPT * 1.5) == []


def test_with_many_circuits_ready_nothing_more_is_wanted():
    assert predicted(22).lacking([serves(443)] * MAX_CLEAN, NOW) == []


def test_the_memory_is_bounded():
    found = predicted(*range(1000, 2000))
    assert found.lacking([], NOW) == list(range(2000 - MAX_PORTS, 2000))
    found.used(2000 - MAX_PORTS, NOW)
    found.used(80, NOW)
    assert found.lacking([], NOW) == [80, 2000 - MAX_PORTS, *range(2002 - MAX_PORTS, 2000)]


def test_a_clock_that_jumps_changes_nothing():
    outbox = Outbox()
    found = predicted(22, outbox=outbox)
    found.used_internally(NOW)
    for by in (10 * KEPT, -20 * KEPT):
        outbox.shift(by)
        now = NOW + outbox.shifted
        assert found.lacking([], now) == [22, 443] and found.lacks_internal(0, 0, now)


def test_internal_circuits_are_expected_where_they_were_used():
    found = predicted()
    assert not found.lacks_internal(0, 0, NOW)
    found.used_internally(NOW)
    assert found.lacks_internal(CIRCUITS - 1, 3, NOW + KEPT - 1)
    assert not found.lacks_internal(CIRCUITS, 3, NOW)
    assert not found.lacks_internal(0, MAX_CLEAN, NOW)
    assert not found.lacks_internal(0, 0, NOW + KEPT)
