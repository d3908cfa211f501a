"""What a relay carried, by days. Source of the form: dir-spec 2.1.2."""

from convergence.tor.history import DAY, KEPT, History

MIDNIGHT = 20_000 * DAY  # 2024-10-04


def test_a_day_is_told_once_it_is_over():
    history = History()
    history.look(10, 20, MIDNIGHT + 100)
    history.look(3_000, 4_000, MIDNIGHT + DAY - 1)
    assert history.lines == ()
    history.look(3_082, 4_116, MIDNIGHT + DAY)
    assert history.lines == (
        ("write-history", "2024-10-05 00:00:00 (86400 s) 4096"),
        ("read-history", "2024-10-05 00:00:00 (86400 s) 3072"),
    )


def test_the_last_days_are_told_and_those_without_a_look_were_empty():
    history = History()
    for day in range(KEPT + 2):
        history.look(day * 2048, 0, MIDNIGHT + day * DAY)
    assert history.lines[1][1].endswith(" 2048,2048,2048,2048,2048")
    history.look(20_480, 0, MIDNIGHT + (KEPT + 4) * DAY)
    assert history.lines[1][1].endswith(" 2048,2048,8192,0,0")
    history.look(20_480, 0, MIDNIGHT + 1000 * DAY)
    assert history.lines[1][1].endswith(" 0,0,0,0,0")


def test_a_clock_that_is_put_back_makes_it_forget():
    history = History()
    history.look(0, 0, MIDNIGHT)
    history.look(2048, 0, MIDNIGHT + DAY)
    history.look(2048, 0, MIDNIGHT)
    assert history.lines == ()
    history.look(4096, 0, MIDNIGHT + DAY)
    assert history.lines[1][1].endswith(" 2048")
