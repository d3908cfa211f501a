from collections import Counter
from hashlib import sha256
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.chance import choose, fraction, random_below, sample
from convergence.errors import LocalError
from convergence.netdir.view import Class
from convergence.path.select import MIN_SIDE, Reach, choose_path, entries_to, entry_side
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.target import Role

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


def node(number, roles=Role.RELAY | Role.RDV, url=True, rtc=False, scheme="ws"):
    transports = (Transport(1, f"{scheme}://10.0.0.{number}/"),) if url else ()
    transports += (Transport.rtc(),) if rtc else ()
    return Descriptor(bytes([number]) * 32, bytes(32), 1, 2, roles, transports, bytes(64)).target


def servers(*numbers):
    """Reached by WebSocket only."""
    return [node(number) for number in numbers]


def browsers(*numbers):
    """Reached by rtc only."""
    return [node(number, url=False, rtc=True) for number in numbers]


def hybrids(*numbers):
    """Reached by both."""
    return [node(number, rtc=True) for number in numbers]


SERVER = Reach()
BROWSER = Reach(rtc=True)
NODES = servers(*range(1, 9))


def pick(rng, nodes, hops, origin=SERVER, **options):
    return choose_path(rng, nodes, hops, origin=origin, **options)


# Randomness


def test_numbers_that_would_favour_low_ones_are_drawn_again():
    assert random_below(ListRng(b"\xff", b"\xe0", b"\x90"), 5) == 4
    assert random_below(ListRng(b""), 1) == 0
    assert random_below(ListRng(b"\x80\x00"), 257) == 256


def test_a_fraction_is_at_least_zero_and_below_one():
    assert [fraction(ListRng(draw)) for draw in (b"\0\0", b"\x80\0", b"\xff\xff")] == [0, 0.5, 1 - 2**-16]


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
        free = pick(HashRng(seed), NODES, hops)
        assert len({item.identity for item in free}) == hops
        to_last = pick(HashRng(seed), NODES, hops, last=NODES[0])
        assert to_last[-1] == NODES[0]
        assert len({item.identity for item in to_last}) == hops


def test_every_node_gets_its_turn_at_every_place():
    seen = Counter()
    for seed in range(300):
        seen.update(enumerate(item.identity for item in pick(HashRng(seed), NODES, 3)))
    assert len(seen) == 3 * len(NODES)


def test_only_reachable_relays_carry():
    useless = [node(20, Role.RDV), node(21, Role.RELAY, url=False), node(22, Role(0))]
    path = pick(HashRng(), [*useless, *NODES[:2]], 2)
    assert set(path) == set(NODES[:2])
    with pytest.raises(LocalError, match="^few-relays needed=3 known=2$"):
        pick(HashRng(), [*useless, *NODES[:2]], 3)


def test_the_last_node_need_not_relay():
    exit_node = node(30, Role.EXIT)
    assert pick(HashRng(), NODES[:2], 3, last=exit_node)[-1] == exit_node


def test_too_few_relays_are_counted_for_people():
    with pytest.raises(LocalError, match="^few-relays needed=1 known=0$"):
        pick(HashRng(), [NODES[0]], 2, last=NODES[0])
    with pytest.raises(LocalError, match="^few-relays needed=2 known=1$"):
        pick(HashRng(), NODES[:2], 2, exclude={NODES[0].identity})


def test_a_single_hop_needs_a_way():
    assert pick(HashRng(), [], 1, last=NODES[0]) == (NODES[0],)
    [browser] = browsers(9)
    assert pick(HashRng(), [], 1, BROWSER, last=browser) == (browser,)
    for origin, last in ((BROWSER, node(9, url=False)), (SERVER, browser), (Reach(schemes=("wss",)), NODES[0])):
        with pytest.raises(LocalError, match="not-direct"):
            pick(HashRng(), [], 1, origin, last=last)


@pytest.mark.parametrize("hops", [0, 6])
def test_hops_are_bounded(hops):
    with pytest.raises(LocalError):
        pick(HashRng(), NODES, hops)


def test_entries_bind_the_first_hop_only():
    for seed in range(20):
        path = pick(HashRng(seed), NODES, 3, entries=NODES[:2])
        assert path[0] in NODES[:2]
    with pytest.raises(LocalError, match="no-entry"):
        pick(HashRng(), NODES, 2, entries=[node(40)])


def test_avoided_nodes_are_used_only_where_nothing_else_is_left():
    avoid = [item.identity for item in NODES[2:]]
    for seed in range(20):
        assert set(pick(HashRng(seed), NODES, 2, avoid=avoid)) == set(NODES[:2])
        assert set(pick(HashRng(seed), NODES, 3, avoid=avoid)) == set(NODES[:3])
        only = pick(HashRng(seed), NODES, 1, entries=[NODES[5]], avoid=avoid)
        assert only == (NODES[5],)


# Who reaches whom


def test_links_are_by_an_address_that_can_be_dialled_or_by_rtc_on_both_sides():
    [server], [browser], [hybrid] = servers(1), browsers(2), hybrids(3)
    assert [Reach.of(one).reaches(two) for one in (server, browser, hybrid) for two in (server, browser, hybrid)] == [
        *(True, False, True),
        *(True, True, True),
        *(True, True, True),
    ]
    page = Reach(rtc=True, schemes=("wss",))
    assert not page.reaches(server) and page.reaches(browser) and page.reaches(hybrid)
    assert not page.dials(hybrid) and page.dials(node(4, scheme="wss")) and SERVER.dials(node(4, scheme="wss"))


def reaches(nodes, origin):
    """Whether each can be reached from the one before."""
    before = [origin, *(Reach.of(item) for item in nodes)]
    return all(reach.reaches(item) for reach, item in zip(before, nodes, strict=False))


MIXED = servers(1, 2, 3) + browsers(4, 5, 6) + hybrids(7, 8)


@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("origin", [SERVER, BROWSER, Reach(rtc=True, schemes=("wss",))])
def test_every_node_of_a_path_is_reached_from_the_one_before(origin, hops):
    for seed in range(30):
        assert reaches(pick(HashRng(seed), MIXED, hops, origin), origin)
        for last in (MIXED[0], MIXED[4], MIXED[6]):
            if hops > 1:
                assert reaches(pick(HashRng(seed), MIXED, hops, origin, last=last), origin)


@pytest.mark.parametrize("last", [None, *MIXED[2:5]])
def test_all_paths_that_there_are_come_up_equally_often(last):
    seen = Counter(pick(HashRng(seed), MIXED, 3, BROWSER, last=last) for seed in range(4000))
    if last is None:
        every = {path for path in permutations(MIXED, 3) if reaches(path, BROWSER)}
    else:
        others = [item for item in MIXED if item != last]
        every = {(*path, last) for path in permutations(others, 2) if reaches((*path, last), BROWSER)}
    assert set(seen) == every
    assert max(seen.values()) < 5 * min(seen.values()) + 20


KINDS = st.lists(st.sampled_from(["server", "browser", "hybrid", "nothing"]), max_size=6)
ORIGINS = st.sampled_from([SERVER, BROWSER, Reach(rtc=True, schemes=("wss",)), Reach(schemes=("wss",))])


@settings(max_examples=300)
@given(KINDS, ORIGINS, st.integers(1, 4), st.data())
def test_there_is_a_path_wherever_there_can_be_one_and_it_spares_whom_it_can(kinds, origin, hops, data):
    nodes = [
        node(number, url=kind in ("server", "hybrid"), rtc=kind in ("browser", "hybrid"))
        for number, kind in enumerate(kinds, 1)
    ]
    last = data.draw(st.sampled_from([None, *nodes]))
    entries = data.draw(st.none() | st.lists(st.sampled_from(nodes), unique=True) if nodes else st.none())
    avoid = data.draw(
        st.lists(st.sampled_from([item.identity for item in nodes]), unique=True) if nodes else st.just([])
    )
    relays = [item for item in nodes if Class.RELAYS.holds(item) and item != last]
    every = [
        (*path, last) if last is not None else path
        for path in permutations(relays, hops if last is None else hops - 1)
        if (entries is None or not path or path[0] in entries) and reaches((*path, last) if last else path, origin)
    ]

    def avoided(path):
        return {item.identity for item in path if item != last} & set(avoid)

    try:
        path = pick(HashRng(), nodes, hops, origin, last=last, entries=entries, avoid=avoid)
    except LocalError:
        assert not every
        return
    assert path in every
    assert not any(avoided(other) < avoided(path) for other in every), "with fewer of the same it would do as well"
    if last is not None and hops > 1:
        first = {other[0] for other in every} if entries is None else None
        assert first is None or set(entries_to(nodes, hops, last, origin=origin)) == first


def test_a_large_network_is_no_matter():
    """As many as a list holds, half of them failing: the choice does not try one after the other."""
    nodes = []
    for number in range(3000):
        transports = (Transport(1, f"ws://h{number}/"),) if number % 3 else (Transport.rtc(),)
        nodes.append(
            Descriptor(sha256(b"%d" % number).digest(), bytes(32), 1, 2, Role.RELAY, transports, bytes(64)).target
        )
    avoid = [item.identity for item in nodes[::2]]
    last = nodes[3]
    path = pick(HashRng(), nodes, 5, BROWSER, last=last, avoid=avoid)
    assert reaches(path, BROWSER) and not {item.identity for item in path[:-1]} & set(avoid)


@pytest.mark.parametrize(
    ("nodes", "origin", "last", "trouble"),
    [
        (browsers(1, 2), SERVER, None, "^out-of-reach known=2 schemes=ws wss rtc=False$"),
        (
            servers(1, 2),
            Reach(True, ("wss",)),
            None,
            "^out-of-reach known=2 schemes=wss rtc=True$",
        ),
        (servers(1, 2), BROWSER, browsers(3)[0], "^no-path$"),
        (browsers(1) + servers(2), SERVER, None, "^no-path$"),
    ],
)
def test_what_is_missing_is_told_to_people(nodes, origin, last, trouble):
    with pytest.raises(LocalError, match=trouble):
        pick(HashRng(), nodes, 2, origin, last=last)


def test_only_nodes_that_lead_there_are_entries():
    nodes = servers(1, 2) + browsers(3) + hybrids(4)
    to_browser = browsers(5)[0]
    assert entries_to(nodes, 2, to_browser, origin=BROWSER) == nodes[2:]
    assert entries_to(nodes, 3, to_browser, origin=BROWSER) == nodes
    assert entries_to(nodes, 2, to_browser, origin=SERVER) == nodes[3:]
    assert entries_to(nodes, 2, nodes[3], origin=BROWSER, exclude={nodes[0].identity}) == nodes[1:3]


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


def test_of_three_relays_the_only_one_that_is_a_point_has_no_side_for_itself():
    nodes = [node(1, Role.RELAY), node(2), node(3, Role.RELAY)]
    for name in (bytes([number]) * 32 for number in range(20)):
        sides = [entry_side(nodes, name, provider, nodes[1].identity) for provider in (True, False)]
        assert sorted(map(len, sides)) == [1, 1] and sides[0] != sides[1]


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


def test_who_sees_a_part_of_a_network_leaves_the_border_where_everybody_has_it():
    everywhere = {
        provider: {item.identity for item in entry_side([node(n) for n in range(1, 61)], NAME, provider, bytes(32))}
        for provider in (True, False)
    }
    for start in range(1, 58):
        part = [node(number) for number in range(start, start + 3)]
        for provider, side in everywhere.items():
            seen = entry_side(part, NAME, provider, bytes(32), whole=False)
            assert {item.identity for item in seen} == side & {item.identity for item in part}
