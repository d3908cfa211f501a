from collections import Counter
from hashlib import sha256

import pytest

from convergence.errors import LocalError
from convergence.path.select import (
    BACK_OFF_FIRST,
    BACK_OFF_MAX,
    FORGET_AFTER,
    MAX_REMEMBERED,
    MIN_SIDE,
    Reputation,
    choose,
    choose_path,
    entry_side,
    random_below,
    sample,
)
from convergence.wire.facilitator import Descriptor, Role, Transport

NAME = sha256(b"name").digest()


class HashRng:
    """The same bytes for the same seed."""

    def __init__(self, seed=0):
        self.count = seed << 32

    def random(self, size):
        self.count += 1
        return sha256(self.count.to_bytes(8, "big")).digest()[:size]


class ListRng:
    """The bytes it is given, one draw after the other."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self, size):
        draw = self.draws.pop(0)
        assert len(draw) == size
        return draw


def node(number, roles=Role.RELAY | Role.RDV, url=True):
    transports = (Transport(1, f"ws://10.0.0.{number}/"),) if url else ()
    return Descriptor(bytes([number]) * 32, bytes(32), 1, 2, roles, transports, bytes(64))


NODES = [node(number) for number in range(1, 9)]


# Randomness


def test_numbers_that_would_favour_low_ones_are_drawn_again():
    assert random_below(ListRng(b"\xff", b"\xe0", b"\x90"), 5) == 4
    assert random_below(ListRng(b""), 1) == 0
    assert random_below(ListRng(b"\x80\x00"), 257) == 256


def test_choice_is_uniform():
    rng = HashRng()
    seen = Counter(choose(rng, "abcde") for _ in range(5000))
    assert set(seen) == set("abcde")
    assert all(850 < count < 1150 for count in seen.values())


def test_sample_gives_different_ones():
    assert sorted(sample(HashRng(), range(6), 6)) == list(range(6))
    with pytest.raises(LocalError):
        sample(HashRng(), range(2), 3)
    with pytest.raises(LocalError):
        choose(HashRng(), [])


# Paths


@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5])
def test_a_path_has_distinct_nodes_and_ends_where_asked(hops):
    for seed in range(20):
        free = choose_path(HashRng(seed), NODES, hops)
        assert len({item.identity for item in free}) == hops
        to_last = choose_path(HashRng(seed), NODES, hops, last=NODES[0])
        assert to_last[-1] == NODES[0]
        assert len({item.identity for item in to_last}) == hops


def test_every_node_gets_its_turn_at_every_place():
    seen = Counter()
    for seed in range(300):
        seen.update(enumerate(item.identity for item in choose_path(HashRng(seed), NODES, 3)))
    assert len(seen) == 3 * len(NODES)


def test_only_reachable_relays_carry():
    useless = [node(20, Role.RDV), node(21, Role.RELAY, url=False), node(22, Role(0))]
    path = choose_path(HashRng(), [*useless, *NODES[:2]], 2)
    assert set(path) == set(NODES[:2])
    with pytest.raises(LocalError, match="^3 relays are needed, 2 are known$"):
        choose_path(HashRng(), [*useless, *NODES[:2]], 3)


def test_the_last_node_need_not_relay():
    exit_node = node(30, Role.EXIT)
    assert choose_path(HashRng(), NODES[:2], 3, last=exit_node)[-1] == exit_node


def test_too_few_relays_are_counted_for_people():
    with pytest.raises(LocalError, match="^1 relay is needed, 0 are known$"):
        choose_path(HashRng(), [NODES[0]], 2, last=NODES[0])
    with pytest.raises(LocalError, match="^2 relays are needed, 1 is known$"):
        choose_path(HashRng(), NODES[:2], 2, exclude={NODES[0].identity})


def test_a_single_hop_needs_an_address():
    assert choose_path(HashRng(), [], 1, last=NODES[0]) == (NODES[0],)
    with pytest.raises(LocalError):
        choose_path(HashRng(), [], 1, last=node(9, url=False))


@pytest.mark.parametrize("hops", [0, 6])
def test_hops_are_bounded(hops):
    with pytest.raises(LocalError):
        choose_path(HashRng(), NODES, hops)


def test_entries_bind_the_first_hop_only():
    for seed in range(20):
        path = choose_path(HashRng(seed), NODES, 3, entries=NODES[:2])
        assert path[0] in NODES[:2]
    with pytest.raises(LocalError, match="entry"):
        choose_path(HashRng(), NODES, 2, entries=[node(40)])


def test_avoided_nodes_are_used_only_where_nothing_else_is_left():
    avoid = [item.identity for item in NODES[2:]]
    for seed in range(20):
        assert set(choose_path(HashRng(seed), NODES, 2, avoid=avoid)) == set(NODES[:2])
        assert set(choose_path(HashRng(seed), NODES, 3, avoid=avoid)) == set(NODES[:3])
        only = choose_path(HashRng(seed), NODES, 1, entries=[NODES[5]], avoid=avoid)
        assert only == (NODES[5],)


# Sides


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8])
def test_sides_share_no_node_and_leave_the_point_out(count):
    nodes = NODES[:count]
    for name in (bytes([number]) * 32 for number in range(20)):
        all_providers = entry_side(nodes, name, True, bytes(32))
        all_clients = entry_side(nodes, name, False, bytes(32))
        assert len(all_providers) + len(all_clients) == count
        assert set(all_providers) | set(all_clients) == set(nodes)
        assert min(len(all_providers), len(all_clients)) >= min(MIN_SIDE, count // 2)
        for point in nodes:  # the same sides for every point of the file
            assert entry_side(nodes, name, True, point.identity) == [item for item in all_providers if item != point]
            assert entry_side(nodes, name, False, point.identity) == [item for item in all_clients if item != point]


def test_a_side_is_half_of_the_nodes():
    many = [node(number) for number in range(1, 256)]
    sizes = [len(entry_side(many, bytes([number]) * 32, True, bytes(32))) for number in range(20)]
    assert all(90 < size < 165 for size in sizes)
    assert 120 < sum(sizes) / len(sizes) < 135


def test_node_lists_that_differ_agree_on_the_sides():
    many = [node(number) for number in range(1, 61)]
    for number in range(20):
        name = bytes([number]) * 32
        providers = entry_side(many[10:], name, True, many[20].identity)
        clients = entry_side(many[:-10], name, False, many[30].identity)
        assert not set(providers) & set(clients)


def test_sides_depend_on_the_name_and_not_on_the_order():
    side = entry_side(NODES, NAME, True, bytes(32))
    assert entry_side(NODES[::-1], NAME, True, bytes(32)) == side
    others = [entry_side(NODES, bytes([n]) * 32, True, bytes(32)) for n in range(5)]
    assert any(set(other) != set(side) for other in others)
    assert node(60, Role.RDV) not in entry_side([node(60, Role.RDV)], NAME, False, bytes(32))


# Reputation


def test_back_off_doubles_up_to_its_limit():
    reputation = Reputation()
    for failures in range(1, 40):
        reputation.failed(b"a", 1000.0)
        assert reputation.until(b"a") == 1000 + min(BACK_OFF_FIRST * 2 ** (failures - 1), BACK_OFF_MAX)


def test_avoided_ones_are_sorted_by_when_their_time_is_up():
    reputation = Reputation()
    reputation.failed(b"a", 0.0)
    reputation.failed(b"a", 0.0)
    reputation.failed(b"b", 10.0)
    assert reputation.avoided(11.0) == [b"b", b"a"]
    assert reputation.avoided(10 + BACK_OFF_FIRST) == [b"a"]
    assert reputation.avoided(2 * BACK_OFF_FIRST) == []
    assert reputation.until(b"c") == 0


def test_success_forgives_and_time_forgets():
    reputation = Reputation()
    reputation.failed(b"a", 0.0)
    reputation.worked(b"a")
    reputation.worked(b"never failed")
    assert reputation.avoided(1.0) == []
    reputation.failed(b"b", 0.0)
    reputation.failed(b"b", FORGET_AFTER + 1)
    assert reputation.until(b"b") == FORGET_AFTER + 1 + BACK_OFF_FIRST


def test_memory_of_failures_is_bounded():
    reputation = Reputation()
    for number in range(MAX_REMEMBERED + 10):
        reputation.failed(number.to_bytes(4, "big"), 0.0)
    avoided = reputation.avoided(1.0)
    assert len(avoided) == MAX_REMEMBERED
    assert (9).to_bytes(4, "big") not in avoided
