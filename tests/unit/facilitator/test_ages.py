"""Since when a facilitator knows its nodes."""

from convergence.facilitator.ages import ABSENCE, NEVER, UNKNOWN, Ages

NOW = 1_800_000_000.0


def keys(prefix, count):
    return [f"{prefix}{number}".encode() for number in range(count)]


def test_a_node_keeps_its_age_over_a_short_absence():
    ages = Ages(each=10)
    assert ages.came(b"node", "net", NOW) == NOW
    assert ages.came(b"node", "net", NOW + 50) == NOW
    ages.left(b"node", NOW + 100)
    ages.left(b"node", NOW + 200)
    assert ages.came(b"node", "other net", NOW + 99 + ABSENCE) == NOW
    ages.left(b"node", NOW + 2 * ABSENCE)
    assert ages.came(b"node", "net", NOW + 3 * ABSENCE) == NOW + 3 * ABSENCE
    ages.left(b"nobody", NOW)


def test_an_absence_is_over_after_an_hour_and_not_before():
    for seconds, counts in ((ABSENCE - 0.5, NOW), (ABSENCE, NOW + ABSENCE)):
        ages = Ages()
        ages.came(b"node", "net", NOW)
        ages.left(b"node", NOW)
        ages.left(b"node", NOW + 100)  # which says nothing new
        assert ages.came(b"node", "net", NOW + seconds) == counts


def test_who_is_here_is_not_forgotten():
    ages = Ages(each=10)
    ages.came(b"node", "net", NOW)
    ages.came(b"other", "net", NOW + 100 * ABSENCE)
    assert ages.came(b"node", "net", NOW + 200 * ABSENCE) == NOW


def test_what_was_stored_counts_whoever_comes_first():
    ages = Ages(each=10)
    assert ages.remember(b"node", 5, NOW) is None
    assert ages.came(b"node", "net", NOW + ABSENCE - 1) == 5
    assert ages.came(b"early", "net", NOW) == NOW
    assert ages.remember(b"early", 6, NOW) == NOW
    assert ages.came(b"early", "net", NOW) == 6
    assert ages.remember(b"early", 8, NOW) == 6 == ages.came(b"early", "net", NOW)
    ages.remember(b"late", 7, NOW)
    assert ages.came(b"late", "net", NOW + 2 * ABSENCE) > 7


def test_nobody_lets_more_nodes_grow_old_than_he_may_have_at_once():
    """One network registers nodes one after the other, to come back with those that suit once the value is known."""
    ages = Ages(each=10)
    ages.came(b"honest", "elsewhere", NOW)
    ages.left(b"honest", NOW)
    for key in keys("made", 1000):
        ages.came(key, "net", NOW)
        ages.left(key, NOW + 1)
    later = NOW + ABSENCE / 2
    latest_first = keys("made", 1000)[::-1]
    assert [key for key in latest_first if ages.came(key, "net", later) == NOW] == latest_first[:10]
    assert ages.came(b"honest", "elsewhere", later) == NOW


def test_who_is_here_leaves_less_room_for_the_absent():
    ages = Ages(each=10)
    for key in keys("gone", 5):
        ages.came(key, "net", NOW)
        ages.left(key, NOW)
    for key in keys("here", 8):
        ages.came(key, "net", NOW + 1)
    latest_first = keys("gone", 5)[::-1]
    assert [key for key in latest_first if ages.came(key, "net", NOW + 2) == NOW] == latest_first[:2]


def test_sources_that_cannot_be_told_apart_share_the_limit_of_all_only():
    ages = Ages(gone=50, each=10)
    for key in keys("node", 100):
        ages.came(key, "", NOW)
        ages.left(key, NOW)
    assert [ages.came(key, "", NOW + 1) == NOW for key in keys("node", 100)] == [False] * 50 + [True] * 50


def test_few_of_one_source_grow_old_however_many_are_here():
    ages = Ages(each=10)
    made = keys("made", 200)
    assert [ages.came(key, "net", NOW) for key in made] == [NOW] * 10 + [NEVER] * 190
    later = NOW + 10 * ABSENCE
    assert [ages.came(key, "net", later) for key in made] == [NOW] * 10 + [NEVER] * 190
    assert ages.came(b"honest", "elsewhere", later) == later
    ages.left(made[0], later)
    assert ages.came(made[50], "net", later) == later, "there is room for another one"
    assert ages.came(made[0], "net", later) == NEVER


def test_age_cannot_be_gathered_on_one_network_from_others():
    """They grow old at home, one lot after the other, and move."""
    forgotten = []
    ages = Ages(lambda identity, since: forgotten.append(identity), each=10)
    for lot in range(5):
        for key in keys(f"lot {lot} ", 10):
            assert ages.came(key, "home", NOW + lot) == NOW + lot
        moved = [ages.came(key, "hall", NOW + 100 * ABSENCE) for key in keys(f"lot {lot} ", 10)]
        assert moved == ([NEVER] * 10 if lot else [NOW] * 10)
    assert forgotten == [key for lot in range(1, 5) for key in keys(f"lot {lot} ", 10)]


def test_of_whom_it_is_not_known_where_he_came_from_nobody_begins_to_grow_old():
    ages = Ages(each=10)
    for key in keys("old", 30):
        ages.remember(key, 5, NOW)
    assert {ages.came(key, UNKNOWN, NOW) for key in keys("old", 30)} == {5}
    assert {ages.came(key, UNKNOWN, NOW) for key in keys("new", 30)} == {NEVER}
    assert {ages.came(key, "net", NOW + 2 * ABSENCE) for key in keys("old", 30)} == {5}, "who is old stays it"
    assert {ages.came(key, "net", NOW + 2 * ABSENCE) for key in keys("new", 30)} == {NEVER}
