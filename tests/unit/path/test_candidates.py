"""Paths out of a bounded number of candidates, which a View names at once, late, in part or never."""

from collections import Counter
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest

from convergence.codes import PathWhy
from convergence.errors import Why
from convergence.netdir.listview import ListView
from convergence.outbox import Outbox
from convergence.path.building import RETRY_MAX
from convergence.path.candidates import CANDIDATES, find
from convergence.path.place import CHOOSE_TIMEOUT
from convergence.path.pool import POOL_SIZE, CircuitPool
from convergence.path.select import Reach, entry_side
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.target import Role
from tests.unit.path.test_pool import Scene
from tests.unit.path.test_select import HashRng
from tests.views import GivenNodes, SlowView

NOW = 1.8e9
SERVER, BROWSER, HYBRID = "server", "browser", "hybrid"


def relay(number, kind=SERVER):
    ways = (Transport(1, f"ws://h{number}/"),) * (kind != BROWSER) + (Transport.rtc(),) * (kind != SERVER)
    identity = sha256(b"%d" % number).digest()
    return Descriptor(identity, bytes(32), 0, 1 << 40, Role.RELAY | Role.RDV, ways).target


class Still(GivenNodes):
    """A list whose index is made once for each `version`."""

    version = 0


class Large:
    """A pool in a network of thousands. No link opens: only paths are of interest."""

    def __init__(self, relays, rtc=False):
        self.outbox = Outbox()
        rng = HashRng()
        self.directory = Still(relays)
        self.view = ListView(self.directory, rng)
        self.pool = CircuitPool(self.outbox, None, rng, self, self.view, origin=Reach(rtc))

    def reach(self, identity, reply, now):
        """Never."""

    def path(self, ask, *arguments):
        ask(*arguments, lambda circuit, now: None, lambda why, now: None, NOW)
        [place] = self.pool._places.values()
        self.pool._drop(place, NOW)
        return place.path

    def free(self, hops=2):
        self.pool.hops = hops
        self.pool._serve(self.pool._ready_request(), NOW)
        [place] = self.pool._places.values()
        self.pool._drop(place, NOW)
        return place.path


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_a_path_looks_at_as_many_nodes_however_many_there_are(count):
    looks = 0

    class Looked:
        def __init__(self, number):
            self.identity = number.to_bytes(32, "big")
            self.node = SimpleNamespace(
                identity=self.identity, roles=Role.RELAY, has_address=True, rtc=False, schemes={"ws"}
            )

        @property
        def target(self):
            nonlocal looks
            looks += 1
            return self.node

    large = Large([])
    known = [Looked(number) for number in range(count)]
    large.directory.nodes = lambda role, now: known
    large.free()  # the index is made
    point = known[0].node
    for ask in (large.free, lambda: large.path(large.pool.rdv_circuit, point, b"n" * 32, True)):
        looks, before = 0, large.pool._rng.count
        assert len(ask()) == 2
        assert looks <= 5 * CANDIDATES and large.pool._rng.count - before <= 3 * CANDIDATES


@pytest.mark.parametrize("count", [CANDIDATES - 8, CANDIDATES + 200])
def test_each_relay_comes_up_equally_often(count):
    large = Large([relay(number) for number in range(count)])
    seen = Counter(node.identity for _ in range(1500) for node in large.free(5))
    mean = 7500 / count
    assert len(seen) == count and mean / 3 < min(seen.values()) and max(seen.values()) < 2 * mean


def test_where_few_have_an_address_one_of_them_is_the_entry_and_the_rest_of_the_path_is_fair():
    """A server without rtc dials hybrids only: 4 of 1,500. They are no likelier at other places than others are."""
    relays = [relay(number, HYBRID if number < 4 else BROWSER) for number in range(1500)]
    few = {node.identity for node in relays[:4]}
    large = Large(relays)
    paths = [large.free(3) for _ in range(300)]
    assert {path[0].identity for path in paths} == few
    assert sum(node.identity in few for path in paths for node in path[1:]) <= 6
    entries = Counter(path[0].identity for path in paths)
    assert min(entries.values()) > 40


def test_sticky_entries_are_found_by_name_in_a_large_network():
    relays = [relay(number, HYBRID) for number in range(1500)]
    large = Large(relays, rtc=True)
    name, sides = b"n" * 32, {}
    for provider in (True, False):
        paths = [large.path(large.pool.rdv_circuit, point, name, provider) for point in relays[:30]]
        sides[provider] = {path[0].identity for path in paths}
        assert len(sides[provider]) == 2, "neither entry is among the candidates, but by chance"
        everywhere = {node.identity for node in entry_side(relays, name, provider, bytes(32))}
        assert sides[provider] <= everywhere
        assert {path[1].identity for path in paths} == {node.identity for node in relays[:30]}
    assert not sides[True] & sides[False]
    gone = sides[True].pop()
    large.directory.known, large.directory.version = [node for node in relays if node.identity != gone], 1
    assert {large.path(large.pool.rdv_circuit, point, name, True)[0].identity for point in relays[:20]} == sides[True]


def test_a_relay_that_refuses_is_found_though_no_list_is_at_hand():
    """And partners that the network no longer lists do not count against it."""
    relays = [relay(number) for number in range(1000)]
    large = Large(relays)
    reputation, refuser = large.pool._reputation, relays[0].identity
    for number in range(1, 12):
        reputation.extended(refuser, relays[number].identity, False, NOW)
        reputation.extended(relays[number].identity, relays[number + 20].identity, True, NOW)

    def avoided():
        found = []
        request = large.pool._ready_request()
        large.pool._find(request, lambda candidates, now: found.append(candidates) or (), NOW, lambda *answer: None)
        return large.pool._avoided(found[0], NOW)

    assert avoided() == [refuser]
    large.directory.known, large.directory.version = [relays[0], *relays[12:]], 1
    assert avoided() == []


# Late, in part, never


class SlowScene(Scene):
    def __init__(self, relays=8, **options):
        super().__init__(relays, **options)
        self.view = self.pool._view = SlowView(self.view)

    def answer(self):
        self.do(self.view.answer)


def test_late_answers_delay_circuits_and_nothing_else():
    scene = SlowScene()
    scene.fill()
    scene.rdv(scene.directory.known[0])
    scene.exit()
    scene.net.tick(CHOOSE_TIMEOUT - 1)
    assert scene.states == [] and not scene.dialled and not scene.trouble
    scene.answer()
    assert scene.states.count("in use") == len(scene.got) == 2 and not scene.trouble
    scene.answer()  # for the one that serves as exit circuit now, if that was a ready one
    assert scene.pool.ready == POOL_SIZE


def test_an_exit_circuit_extends_what_is_ready_by_the_time_that_exits_are_known():
    scene = SlowScene()
    scene.exit()
    scene.fill()
    first, scene.view.held = scene.view.held[:3], scene.view.held[3:]
    scene.answer()
    ready = set(scene.ready_circuits())
    assert len(ready) == POOL_SIZE
    scene.view.held = first
    scene.answer()
    assert scene.got[0] in ready


@pytest.mark.parametrize("part", [0, 1, 2, 5])
def test_what_is_known_in_part_is_enough_if_it_makes_a_path(part):
    scene = SlowScene()
    scene.view.part = part
    scene.rdv(scene.directory.known[0])
    scene.fill()
    scene.answer()
    if part >= 2:
        assert scene.pool.ready == POOL_SIZE
    if part == 0:
        codes = {event.why.code for event in scene.client.events if event.kind == "trouble"}
        assert codes == {PathWhy.FEW_RELAYS} and scene.pool.ready == 0
    assert len(scene.got) + len(scene.trouble) == 1
    assert scene.got or part < 5


def test_if_no_answer_comes_everybody_hears_so_in_time_and_nothing_is_left():
    scene = SlowScene()
    scene.rdv(scene.directory.known[0])
    scene.exit()
    scene.peer(scene.directory.known[0])
    scene.fill()
    scene.net.tick(CHOOSE_TIMEOUT - 1)
    assert not scene.trouble
    scene.net.tick(1)
    assert scene.trouble == [Why(PathWhy.NODES_SILENT)] * 3
    told = [event.why for event in scene.client.events if event.kind == "trouble"]
    assert set(map(str, told)) == {str(Why(PathWhy.NODES_SILENT))} and not scene.dialled
    late, scene.view.held = scene.view.held, []
    assert scene.pool._places == {} and scene.pool._filling == 0
    scene.net.tick(RETRY_MAX)  # the pool asks again by itself
    assert scene.view.held
    scene.answer()
    assert scene.pool.ready == POOL_SIZE
    before = scene.pool.snapshot()
    for call in late:
        scene.do(call)
    assert scene.pool.snapshot() == before and not scene.got and len(scene.trouble) == 3


def test_a_node_that_is_next_to_us_is_reached_though_nobody_answers():
    scene = SlowScene()
    scene.peer(scene.directory.known[0], direct=True)
    assert len(scene.got) == 1 and not scene.view.held


def test_who_waits_when_the_pool_stops_hears_so_once():
    scene = SlowScene()
    scene.rdv(scene.directory.known[0])
    scene.fill()
    scene.do(scene.pool.stop)
    assert len(scene.trouble) == 1
    scene.answer()
    scene.net.tick(10 * CHOOSE_TIMEOUT)
    assert len(scene.trouble) == 1 and not scene.got and not scene.dialled and scene.pool._places == {}


def test_who_was_drawn_anyway_is_no_spare_and_who_is_no_relay_any_more_is_not_named():
    small, found = Large([relay(number) for number in range(40)]), []
    gone, point = relay(50), replace(relay(51), roles=Role.RDV)
    named = {node.identity: node for node in (gone, point)}

    def get(identity, now, then):
        then(SimpleNamespace(target=named[identity]), now)

    small.view.get = get
    find(small.view, named, NOW, lambda candidates, now: found.append(candidates))
    [candidates] = found
    assert len(candidates.relays) == 40 and not candidates.dialled and candidates.whole
    assert candidates.named == [point], "all relays are here, and the other one is none of them"


def test_a_part_of_the_relays_is_not_taken_for_all():
    """Else the sides of a file would hang on who is drawn."""
    found = []
    for count in (CANDIDATES, CANDIDATES + 1):
        find(Large([relay(number) for number in range(count)]).view, (), NOW, lambda drawn, now: found.append(drawn))
    assert [len(drawn.relays) for drawn in found] == [CANDIDATES, CANDIDATES]
    assert [drawn.whole for drawn in found] == [True, False]
