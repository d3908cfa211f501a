"""Who has how many places, and which one gives way."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from convergence.facilitator.crowd import Crowd, Turns
from tests.unit.work import work


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=60))
def test_a_crowd_counts_places_as_they_come_and_go(steps):
    crowd, places = Crowd(), []
    for number, (comes, source) in enumerate(steps):
        mine = [place for place in places if place[0] == source]
        if comes:
            places.append((source, number))
            crowd.add(source, number)
        elif mine:
            place = mine[number % len(mine)]
            places.remove(place)
            crowd.remove(source, place[1])
        counts = Counter(source for source, _ in places)
        for asking in "abcde":
            assert crowd.count(asking) == counts[asking]
            place = crowd.gives_way(asking)
            if counts[asking] + 1 >= max(counts.values(), default=0):
                assert place is None
            else:
                owner = next(owner for owner, number in places if number == place)
                assert counts[owner] == max(counts.values())
                assert place == max(number for source, number in places if source == owner)


def test_what_a_crowd_does_costs_the_same_however_large_it_is():
    def taken_away(size):
        crowd = Crowd()
        for number in range(size):
            crowd.add(f"source {number % 10}", number)

        def one_gives_way():
            place = crowd.gives_way("new")
            crowd.remove(f"source {place % 10}", place)

        return work(lambda: [one_gives_way() for _ in range(size // 2)]) / size

    assert taken_away(2000) <= 1.1 * taken_away(200)


@dataclass(frozen=True)
class Item:
    source: str
    number: int


@given(st.lists(st.sampled_from([*"aaaabcd", None]), max_size=40), st.integers(1, 9))
def test_sources_take_turns_and_whoever_has_most_gives_way(steps, limit):
    turns, waiting = Turns(limit), []
    for number, source in enumerate(steps):
        if source is not None:
            item, counts = Item(source, number), Counter(item.source for item in waiting)
            spare = turns.add(item)
            waiting.append(item)
            if len(waiting) <= limit:
                assert spare is None
                continue
            waiting.remove(spare)
            if spare is not item:
                assert counts[spare.source] == max(counts.values()) > counts[source] + 1
                assert spare.number == max(other.number for other in waiting + [spare] if other.source == spare.source)
            else:
                assert counts[source] + 1 >= max(counts.values())
        elif waiting:
            item = turns.take()
            assert item == next(other for other in waiting if other.source == item.source)
            waiting.remove(item)
        assert len(turns) == len(waiting)
    left = [turns.take() for _ in waiting]
    assert sorted(left, key=lambda item: item.number) == waiting
    few = Counter(item.source for item in left)
    for source in few:  # before anybody has a second turn, everybody has had one
        assert source in [item.source for item in left[: len(few)]]
