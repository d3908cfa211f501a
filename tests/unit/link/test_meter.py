"""One limit over many buffers."""

from convergence.link.meter import Meter


def test_it_counts():
    meter = Meter(3)
    meter.add(5)
    meter.remove(1)
    assert meter.used == 4


def test_room_is_made_until_the_limit_is_kept():
    calls = []

    def relieve():
        calls.append(meter.used)
        meter.remove(2)
        meter.add(1)  # what making room adds does not call it again

    meter = Meter(3, relieve)
    meter.add(3)
    assert calls == []
    meter.add(2)
    assert calls == [5, 4] and meter.used == 3
