"""The questions about nodes, and a whole list that answers them."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from convergence.netdir.listview import VALUE, ListView
from convergence.netdir.lookup import look_up_shown
from convergence.netdir.nodes import HINT_LIFETIME, LIST_FRESH, NodeDirectory
from convergence.netdir.view import Class, place_of, place_of_name, together
from convergence.wire.target import Role
from tests.unit.netdir.test_nodes import CountingCrypto, node, node_list
from tests.unit.path.test_select import HashRng

NOW = 1_800_000_000


class Listed:
    """A node that counts how often it is looked at."""

    looks = 0

    def __init__(self, number, tor_specifiers=()):
        self.identity = number.to_bytes(32, "big")
        roles = Role.RELAY | Role.RDV
        self._target = SimpleNamespace(roles=roles, has_address=True, rtc=False, tor_specifiers=tor_specifiers)

    @property
    def target(self):
        Listed.looks += 1
        return self._target


class Directory:
    """A list of nodes."""

    version = 0

    def __init__(self, nodes):
        self.known = nodes

    def nodes(self, role, now):
        return self.known

    def stands_until(self, now):
        return float("inf")


def asked(question, *arguments):
    """The answer, which comes at once."""
    answers = []
    question(*arguments, lambda answer, now: answers.append(answer))
    [answer] = answers
    return answer


def view_of(count, seed=0):
    return ListView(Directory([Listed(number) for number in range(count)]), HashRng(seed))


@pytest.mark.parametrize(
    ("roles", "address", "rtc", "tor", "classes"),
    [
        (0, True, True, True, []),
        (Role.RELAY, True, False, False, [Class.ALL, Class.RELAYS, Class.DIALLED]),
        (Role.RELAY, False, True, False, [Class.ALL, Class.RELAYS]),
        (Role.RELAY, False, False, False, [Class.ALL]),
        (Role.RDV, True, False, False, [Class.ALL, Class.POINTS]),
        (Role.RDV, True, False, True, [Class.ALL, Class.POINTS, Class.TOR_POINTS]),
        (Role.EXIT, True, False, True, [Class.ALL, Class.EXITS]),
        (Role.TOR, True, False, False, [Class.ALL]),
        (Role.TOR | Role.RELAY, True, False, False, [Class.ALL, Class.RELAYS, Class.DIALLED, Class.TOR]),
    ],
)
def test_what_is_of_each_class(roles, address, rtc, tor, classes):
    target = SimpleNamespace(roles=Role(roles), has_address=address, rtc=rtc, tor_specifiers=(1,) * tor)
    assert [kind for kind in Class if kind.holds(target)] == classes


def test_a_sample_has_different_nodes_each_as_likely():
    seen = Counter()
    view = view_of(20)
    for _ in range(2000):
        found = asked(view.sample, Class.RELAYS, 5, NOW)
        assert len({node.identity for node in found}) == 5
        seen.update(node.identity for node in found)
    assert len(seen) == 20 and all(430 < count < 570 for count in seen.values())
    assert {node.identity for node in asked(view.sample, Class.RELAYS, 99, NOW)} == {
        node.identity for node in view._directory.known
    }
    assert asked(view.sample, Class.EXITS, 5, NOW) == [] and view.count(Class.EXITS, NOW) == 0


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_once_a_list_is_known_an_answer_costs_the_same_however_long_it_is(count):
    view = view_of(count)
    for question in (view.sample, lambda kind, *rest: view.closest(kind, b"n" * 32, *rest)):
        asked(question, Class.RELAYS, 8, NOW)
        before, drawn = Listed.looks, view._rng.count
        assert view.count(Class.RELAYS, NOW) == count
        assert len(asked(question, Class.RELAYS, 8, NOW)) in (1, 8)
        assert Listed.looks == before and view._rng.count <= drawn + 32


def test_the_index_follows_what_is_heard_and_the_time():
    crypto = CountingCrypto()
    directory = NodeDirectory(crypto)
    view = ListView(directory, HashRng())
    first, second = node(crypto, 1, expires=NOW + 900), node(crypto, 2, expires=NOW + 1000)

    def relays(now):
        found = asked(view.sample, Class.RELAYS, 9, now)
        assert set(found) == set(directory.nodes(Role.RELAY, now)) and view.count(Class.RELAYS, now) == len(found)
        return set(found)

    assert relays(NOW) == set()
    directory.update(node_list(crypto, [first]), NOW)
    assert relays(NOW) == {first}
    assert directory.hear(second.encode(), NOW)
    assert relays(NOW) == {first}, "while the list is fresh, hearsay counts by name only"
    assert asked(view.get, second.identity, NOW) == second
    assert relays(NOW + LIST_FRESH) == {first, second}
    assert relays(NOW + 900) == {second} and relays(NOW + 1000) == set()
    assert relays(NOW) == {first}, "a clock may jump back"


def test_the_index_lets_old_hints_go_when_their_time_is_up():
    crypto = CountingCrypto()
    directory = NodeDirectory(crypto)
    view = ListView(directory, HashRng())
    hint = node(crypto, 1, expires=NOW + 100)
    directory.recall([hint.encode()], NOW)
    for now, count in ((NOW, 1), (NOW + 100, 1), (NOW + 100 + HINT_LIFETIME - 1, 1), (NOW + 100 + HINT_LIFETIME, 0)):
        assert view.count(Class.RELAYS, now) == count == len(directory.nodes(Role.RELAY, now))


# The ring


def test_a_name_is_followed_by_the_next_nodes_of_the_ring_and_the_ring_has_no_end():
    view = view_of(50)
    order = sorted(view._directory.known, key=lambda node: place_of(VALUE, node.identity))
    for number in range(100):
        name = number.to_bytes(32, "big")
        start = sum(place_of(VALUE, node.identity) < place_of_name(VALUE, name) for node in order)
        for count in (3, 49, 50, 60):
            assert asked(view.closest, Class.POINTS, name, count, NOW) == [(order[start:] + order[:start])[:count]]


def test_nobody_stands_at_a_name_by_having_it_as_his_identity():
    assert place_of(VALUE, b"n" * 32) != place_of_name(VALUE, b"n" * 32)


def test_lists_that_differ_by_a_few_nodes_give_most_names_the_same_points():
    """And a name whose points differ shares most of them: each missing node moves them by one place."""
    one, two = view_of(200), view_of(200)
    del one._directory.known[10:12], two._directory.known[100:102]
    same = 0
    for number in range(300):
        name = number.to_bytes(32, "little")
        points = [{node.identity for node in asked(v.closest, Class.POINTS, name, 3, NOW)[0]} for v in (one, two)]
        same += points[0] == points[1]
        assert len(points[0] & points[1]) >= 1
    assert same > 260


def test_a_ring_of_a_rare_class_is_a_part_of_the_same_ring():
    view = ListView(Directory([Listed(number, (1,) * (number % 4 == 0)) for number in range(16)]), HashRng())
    [[*all_points]] = asked(view.closest, Class.POINTS, b"n" * 32, 99, NOW)
    [few] = asked(view.closest, Class.TOR_POINTS, b"n" * 32, 99, NOW)
    assert few == [point for point in all_points if point.target.tor_specifiers] and len(few) == 4


# Several questions


def test_answers_to_several_questions_come_together_when_the_last_one_has_come():
    waiting, got = [], []
    together([waiting.append, lambda then: then("second", 1.0), waiting.append], lambda *all: got.append(all), 1.0)
    assert got == []
    waiting[1]("third", 2.0)
    waiting[1]("again", 2.5)
    assert got == []
    waiting[0]("first", 3.0)
    waiting[0]("late", 4.0)
    assert got == [(["first", "second", "third"], 3.0)]
    together([], lambda *all: got.append(all), 5.0)
    assert got[1:] == [([], 5.0)]


def test_a_node_can_be_where_a_ring_begins():
    view = view_of(50)
    order = sorted((place_of(VALUE, number.to_bytes(32, "big")), number) for number in range(50))
    numbers = [number for _, number in order]
    for at, number in enumerate(numbers):
        [ring] = asked(
            lambda then, number=number: view.closest(
                Class.POINTS, number.to_bytes(32, "big"), 4, NOW, then, place=place_of
            )
        )
        assert [int.from_bytes(node.identity, "big") for node in ring] == (numbers + numbers)[at : at + 4]


# -- descriptors that somebody showed us


def test_what_is_shown_counts_as_the_view_knows_it_or_as_news():
    crypto = CountingCrypto()
    directory = NodeDirectory(crypto)
    listed, shown = node(crypto, 1), node(crypto, 2)
    directory.update(node_list(crypto, [listed]), NOW)
    view = ListView(directory, HashRng(0))

    def found(raw):
        return asked(lambda then: look_up_shown(view, directory, raw, NOW, then))

    assert found(shown.encode()) == shown.target
    assert found(replace(listed, ntor_key=b"x" * 32).encode()) == listed.target
    assert found(shown.encode()[:-1] + b"\0") is None and found(b"") is None
    assert directory.get(shown.identity) is None, "nothing is kept"
