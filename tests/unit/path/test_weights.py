"""Relays are drawn by bandwidth and position; the part of all paths that is known is counted the same way."""

from collections import Counter

import pytest

from convergence.path.weights import DRAWS, Lottery, Position, path_fraction
from tests.unit.circuit.rig import SeededRng
from tests.unit.path.tornetwork import BOTH, EXIT, GUARD, MIDDLE, Made, TorNetwork, usual

KINDS = {"guard": GUARD, "exit": EXIT, "both": BOTH, "neither": MIDDLE}
DRAWN = 6000


def four(bandwidth=1000, **options):
    """One relay of each kind."""
    return TorNetwork([Made(number, flags, bandwidth) for number, flags in enumerate(KINDS.values(), 1)], **options)


def drawn(network, position, suits=lambda status: True, count=DRAWN, seed="draw"):
    """How often each relay came."""
    consensus, rng = network.consensus(), SeededRng(seed)
    lottery = Lottery(consensus, consensus.relays, position)
    return Counter(int(lottery.draw(rng, suits).nickname[5:]) for _ in range(count))


def assert_shares(counts, expected):
    """A chi-square test with a wide bound: one seed in a million would fail by chance."""
    total, weight = sum(counts.values()), sum(expected.values())
    assert set(counts) <= {number for number, share in expected.items() if share}
    square = sum(
        (counts[number] - total * share / weight) ** 2 / (total * share / weight)
        for number, share in expected.items()
        if share
    )
    assert square < 3 * len(expected) + 30, (square, counts)


@pytest.mark.parametrize(
    ("position", "shares"),
    [
        (Position.GUARD, (6000, 0, 500, 3000)),
        (Position.MIDDLE, (4000, 1000, 700, 10000)),
        (Position.EXIT, (300, 9000, 2000, 800)),
    ],
)
def test_the_weights_of_the_consensus_count(position, shares):
    weights = "Wed=2000 Wee=9000 Weg=300 Wem=800 Wgd=500 Wgg=6000 Wgm=3000 Wmd=700 Wme=1000 Wmg=4000 Wmm=10000"
    counts = drawn(four(weights=weights), position)
    assert_shares(counts, dict(enumerate(shares, 1)))


def test_a_weight_is_one_at_most():
    weights = "Wmd=9999999 Wme=1000 Wmg=10000 Wmm=5000"
    assert_shares(drawn(four(weights=weights), Position.MIDDLE), {1: 10, 2: 1, 3: 10, 4: 5})


def test_bandwidth_counts():
    network = TorNetwork([Made(number, MIDDLE, 100 * number) for number in range(1, 11)])
    assert_shares(drawn(network, Position.MIDDLE), {number: number for number in range(1, 11)})


def test_a_bad_exit_weighs_as_one_that_is_none():
    network = TorNetwork([Made(1, f"BadExit {EXIT}"), Made(2, EXIT)], weights="Wed=1 Wee=3000 Weg=1 Wem=1000")
    assert_shares(drawn(network, Position.EXIT), {1: 1000, 2: 3000})


@pytest.mark.parametrize("weights", ["Wmm=10", "Wmd=0 Wme=0 Wmg=0 Wmm=-1"])
def test_without_all_weights_only_bandwidth_counts(weights):
    assert_shares(drawn(four(weights=weights), Position.MIDDLE), {number: 1 for number in range(1, 5)})


def test_without_bandwidth_all_are_alike():
    assert_shares(drawn(four(0), Position.MIDDLE), {number: 1 for number in range(1, 5)})


def test_those_that_suit_keep_their_shares():
    network = TorNetwork([Made(number, MIDDLE, 100 * number) for number in range(1, 11)])
    counts = drawn(network, Position.MIDDLE, lambda status: int(status.nickname[5:]) % 2 == 0)
    assert_shares(counts, {number: number for number in range(2, 11, 2)})


def test_rare_ones_that_suit_are_found_and_keep_their_shares():
    """Beside one that takes nearly all draws."""
    relays = [Made(1, MIDDLE, (1 << 32) - 1), Made(2, MIDDLE, 1), Made(3, MIDDLE, 3)]
    counts = drawn(TorNetwork(relays), Position.MIDDLE, lambda status: status.nickname != "relay1", count=1000)
    assert_shares(counts, {2: 1, 3: 3})


def test_those_without_weight_are_taken_if_no_others_suit():
    relays = [Made(1, MIDDLE, 1000), Made(2, MIDDLE, 0), Made(3, MIDDLE, 0)]
    counts = drawn(TorNetwork(relays), Position.MIDDLE, lambda status: status.nickname != "relay1", count=1000)
    assert_shares(counts, {2: 1, 3: 1})
    assert drawn(TorNetwork(relays), Position.MIDDLE, count=100) == {1: 100}


def test_most_relays_are_not_even_asked():
    asked = []
    drawn(usual(300), Position.MIDDLE, lambda status: asked.append(status) or len(asked) >= 3, count=1)
    assert len(asked) == 3 < DRAWS


def test_nobody_suits():
    consensus = usual().consensus()
    assert Lottery(consensus, consensus.relays, Position.EXIT).draw(SeededRng(1), lambda status: False) is None
    assert Lottery(consensus, (), Position.EXIT).draw(SeededRng(1), lambda status: True) is None


# -- the part of all paths


def test_all_or_nothing_is_known():
    assert path_fraction(usual().view()) == 1
    assert path_fraction(usual(known=[]).view()) == 0
    assert path_fraction(TorNetwork([]).view()) == 0


def test_the_part_is_the_product_of_the_three_positions():
    relays = [Made(1, GUARD, 300), Made(2, GUARD, 100), Made(3, EXIT, 100), Made(4, EXIT, 400), Made(5, MIDDLE, 500)]
    weights = "Wed=1 Wee=1 Weg=1 Wem=1 Wgd=1 Wgg=1 Wgm=1 Wmd=1 Wme=1 Wmg=1 Wmm=1"
    view = TorNetwork(relays, weights=weights, known=[1, 3, 5]).view()
    assert path_fraction(view) == pytest.approx(3 / 4 * 9 / 14 * 1 / 5)


def test_relays_are_counted_where_nothing_weighs():
    relays = [Made(number, BOTH, 0) for number in range(1, 5)]
    assert path_fraction(TorNetwork(relays, known=[1, 2, 3]).view()) == pytest.approx((3 / 4) ** 3)


def test_without_exits_middle_relays_count_twice():
    relays = [Made(1, GUARD, 100), Made(2, MIDDLE, 100)]
    weights = "Wgd=1 Wgg=1 Wgm=1 Wmd=1 Wme=1 Wmg=1 Wmm=1"
    assert path_fraction(TorNetwork(relays, weights=weights, known=[1]).view()) == pytest.approx(1 / 4)
