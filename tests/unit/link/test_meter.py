"""One limit for what many buffers hold together."""

from convergence.link.meter import Meter


def test_it_counts_and_says_when_it_is_full():
    meter = Meter(10)
    meter.add(9)
    assert not meter.full
    meter.add(1)
    assert meter.full
    meter.add(5)
    meter.remove(6)
    assert meter.used == 9 and not meter.full


def test_relief_goes_on_until_there_is_room():
    calls = []

    def relieve():
        calls.append(meter.used)
        meter.remove(4)

    meter = Meter(10, relieve)
    meter.add(10)
    assert calls == []
    meter.add(9)
    assert calls == [19, 15, 11] and meter.used == 7


def test_what_relief_itself_adds_does_not_call_it_again_from_within():
    """Shedding a circuit queues its DESTROY: many small ones must not end in a recursion without end."""
    depth, deepest = 0, 0

    def relieve():
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        meter.add(-2)
        meter.add(1)
        depth -= 1

    meter = Meter(10, relieve)
    meter.add(5000)
    assert meter.used == 10 and deepest == 1
