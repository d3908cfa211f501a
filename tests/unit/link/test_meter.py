"""One limit over many buffers."""

from convergence.link.meter import Meter


def test_it_counts_and_says_when_it_is_full():
    meter = Meter(3)
    meter.add(2)
    assert (meter.used, meter.full) == (2, False)
    meter.add(1)
    assert meter.full
    meter.remove(1)
    assert not meter.full


def test_passing_the_limit_asks_for_room():
    def relieve():
        meter.remove(4)

    meter = Meter(3, relieve)
    meter.add(3)
    assert meter.used == 3
    meter.add(1)
    assert meter.used == 0
