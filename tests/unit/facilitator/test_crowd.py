"""Who has how many places, and which one gives way."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from convergence.facilitator.crowd import Crowd
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
