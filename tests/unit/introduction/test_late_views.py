"""Links and introductions where a View tells late, or never, who a node is."""

import pytest

from convergence.netdir.listview import ListView
from convergence.netdir.lookup import ASK_AGAIN, MAX_ASKED, MAX_KNOWN, Lookup
from convergence.outbox import Outbox
from tests.unit.introduction.ends import descriptor_of
from tests.unit.introduction.neighbourhood import Neighbourhood
from tests.unit.introduction.test_peers import Asked
from tests.views import SlowView

NOW = 1_800_000_000.0


def slow(directory, rng):
    return SlowView(ListView(directory, rng))


@pytest.fixture
def net():
    return Neighbourhood("late")


# Looking up


class Nodes:
    """A View of descriptors, of which only `get` is asked."""

    def __init__(self, late=True):
        self.asked, self.late = [], late
        self.known = {}

    def get(self, identity, now, then):
        self.asked.append((identity, then))
        if not self.late:
            then(self.known.get(identity), now)

    def answer(self, now):
        asked, self.asked = self.asked, []
        for identity, then in asked:
            then(self.known.get(identity), now)


class Node:
    expires = NOW + 1000
    ws_url: str | None = None


class Server(Node):
    ws_url = "ws://server/"


def test_what_is_answered_at_once_is_never_remembered():
    view, heard = Nodes(late=False), []
    lookup = Lookup(Outbox(), view, heard.append)
    view.known[b"a"] = Node
    assert lookup.get(b"a", NOW) is Node
    del view.known[b"a"]
    assert lookup.get(b"a", NOW) is None and lookup.get(b"b", NOW) is None
    assert not heard and len(view.asked) == 3 and not lookup._known and not lookup._asked


def test_what_comes_late_is_told_of_once_and_asked_for_again_now_and_then():
    view, heard = Nodes(), []
    lookup = Lookup(Outbox(), view, heard.append)
    view.known[b"a"] = Node
    assert lookup.get(b"a", NOW) is None and lookup.get(b"a", NOW + 1) is None and len(view.asked) == 1
    view.answer(NOW + 2)
    assert heard == [NOW + 2] and lookup.get(b"a", NOW + 3) is Node and not view.asked
    assert lookup.get(b"a", NOW + ASK_AGAIN) is Node and len(view.asked) == 1, "known meanwhile"
    view.answer(NOW + ASK_AGAIN)
    assert len(heard) == 1
    view.known.clear()
    assert lookup.get(b"a", NOW + 2 * ASK_AGAIN) is Node
    view.answer(NOW + 2 * ASK_AGAIN)
    assert lookup.get(b"a", NOW + 2 * ASK_AGAIN + 1) is None


@pytest.mark.parametrize("node", [Node, Server])
def test_a_node_whose_time_is_over_is_known_only_where_it_can_be_dialled(node):
    view = Nodes()
    lookup = Lookup(Outbox(), view, lambda now: None)
    view.known[b"a"] = node
    lookup.get(b"a", NOW)
    view.answer(NOW)
    assert lookup.get(b"a", node.expires - 1) is node
    assert lookup.get(b"a", node.expires) is (node if node is Server else None)


def test_whoever_asks_for_ever_more_nodes_fills_no_memory():
    view = Nodes()
    lookup = Lookup(Outbox(), view, lambda now: None)
    for number in range(2 * MAX_KNOWN):
        lookup.get(number.to_bytes(4, "big"), NOW)
        assert len(lookup._asked) <= MAX_ASKED
    first, view.asked = view.asked, []
    view.known = {identity: Node for identity, _ in first}
    for _, then in first:
        then(Node, NOW)
    assert len(lookup._known) <= MAX_ASKED, "nobody waits for the others any more"
    for number in range(2 * MAX_KNOWN):
        lookup.get(number.to_bytes(4, "little"), NOW)
        view.answer(NOW)
        assert len(lookup._known) <= MAX_KNOWN


# Introductions


def test_over_a_late_view_pipes_are_opened_as_soon_as_it_is_known_who_is_there(net):
    a = net.node("a", view=slow)
    b = net.node("b")
    net.link(a, b)
    assert a.pipe(b) is None
    assert a.view.answer(net.now)
    net.pump()
    net.tick(0)
    assert a.pipe(b) is not None and a.known == 1


def test_an_introducer_who_is_known_late_is_asked_when_the_next_one_is_wanted(net):
    a = net.node("a", view=slow)
    relay, introducer, target = net.nodes("relay", "introducer", "target")
    net.link(target, introducer)
    a.knows(introducer)
    a.directory.hear(descriptor_of(target.keys, introducers=[introducer.identity]).encode(), net.now)
    a.pool.via = relay
    assert list(a.carriers(target.identity)) == [] and a.view.held
    a.view.answer(net.now)
    route = a.peers.route(target.identity, None, net.now)
    assert route.next(net.now) is None, "nobody knows who the introducer is"
    a.view.answer(net.now)
    carrier = route.next(net.now)
    asked = Asked(carrier, target)
    net.tick(0)
    ((sealed, reply, _),) = target.messages
    reply(b"answer", net.now)
    net.pump()
    assert sealed == b"offer" and asked.answers == [b"answer"] and route.next(net.now) is None


def test_a_relay_that_can_be_dialled_is_asked_last_if_it_is_known_by_then(net):
    a = net.node("a", view=slow)
    relay, target = net.nodes("relay", "target")
    assert a.directory.hear(descriptor_of(relay.keys, url="ws://relay/").encode(), net.now)
    a.addresses = {relay.identity}
    for known in (False, True):
        route = a.peers.route(target.identity, None, net.now)
        if known:
            a.view.answer(net.now)
        assert route.next(net.now) is None and (route.last(net.now) is not None) is known


def test_where_the_view_never_answers_no_way_is_found_and_nothing_is_left(net):
    a = net.node("a", view=slow)
    b = net.node("b")
    net.link(a, b)
    for _ in range(3):
        assert list(a.carriers(b.identity)) == []
        net.wait(2 * ASK_AGAIN, 30)
    assert a.pipe(b) is None and len(a.peers._ways._lookup._asked) == 1
