"""RtcLinks with the links themselves: who waits for a node gets a proven link to it, and nobody between them does."""

import pytest

from convergence.effects import Send
from convergence.link.neighbours import Neighbours
from tests.unit.circuit.rig import CRYPTO
from tests.unit.introduction.parties import ANSWER, OFFER, Party, World, description, forge, unseal


class Node(Party):
    """A Party whose links are real ones. `peers` says where what it sends on a channel arrives."""

    def __init__(self, world, name):
        super().__init__(world, name)
        self.neighbours = Neighbours(
            self.outbox,
            CRYPTO,
            self.rng,
            self.keys,
            lambda identity, now: None,
            None,
            introduce=lambda identity, source, now: self.links.connect(identity, now, source),
        )
        self.neighbours.on_closed = lambda link, now: self.links.link_closed(link.channel, now)
        self.links._links = self.neighbours
        self.peers = {}
        self.answers = []

    def reach(self, other):
        self.neighbours.reach(other.identity, lambda link, now: self.answers.append(link), self.world.now)
        self.poll()

    def poll(self):
        for effect in self.outbox.poll(self.world.now):
            if isinstance(effect, Send):
                node, channel = self.peers[effect.channel]
                data = b"".join(effect.buffers)
                self.world.later(0.01, lambda node=node, channel=channel, data=data: node.received(channel, data))
            else:
                self.outbox.emit(effect)
        super().poll()

    def received(self, channel, data):
        self.neighbours.data(channel, data, self.world.now)
        self.poll()

    def open_links(self):
        return [link for link in self.neighbours.links.values() if link.open]


class Network(World):
    def add(self, name, **settings):
        node = Node(self, name)
        self.parties.append(node)
        return node

    def _open(self, node, end):
        """Channels of two ends that know each other are joined."""
        if not node.peers.get(end.channel):
            for other in self.parties:
                for there in other.ends.values():
                    if there.remote == end.own() and end.remote == there.own():
                        join(node, end.channel, other, there.channel)
        super()._open(node, end)


def join(node, channel, other, there):
    node.peers[channel], other.peers[there] = (other, there), (node, channel)


@pytest.fixture
def world():
    return Network()


def test_who_waits_gets_a_proven_link(world):
    one, two = world.pair()
    one.reach(two)
    world.run()
    [link] = one.answers
    assert link.open and link.peer == two.identity and link.handshake.authenticated
    [other] = two.open_links()
    assert other.peer == one.identity and other.handshake.authenticated and not other.initiator


def test_a_link_serves_both_ways(world):
    one, two = world.pair()
    one.reach(two)
    world.run()
    two.reach(one)
    assert two.answers == two.open_links()


def test_of_two_that_call_at_once_both_get_the_one_link(world):
    low, high = world.pair()
    low.reach(high)
    high.reach(low)
    world.run()
    assert low.answers == low.open_links() and high.answers == high.open_links()
    assert len(low.neighbours.links) == len(high.neighbours.links) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_who_is_called_while_wanting_to_call_gets_that_link(world, first):
    pair = world.pair()
    one, two = pair[first], pair[1 - first]
    one.reach(two)
    world.run(0.025)
    assert two.ends and not two.open_links()
    two.reach(one)
    world.run()
    assert one.answers == one.open_links() and two.answers == two.open_links()
    assert len(two.answers) == 1


def test_who_waits_is_told_when_the_call_that_won_comes_to_nothing(world):
    low, high = world.pair()
    high.unjoined = True
    low.reach(high)
    high.reach(low)
    world.run(30)
    assert low.answers == high.answers == [None]
    assert low.links.snapshot() == high.links.snapshot() == []


def test_a_link_that_closes_leaves_nothing(world):
    one, two = world.pair()
    one.reach(two)
    world.run()
    one.answers[0].close("not needed", world.now)
    one.poll()
    assert one.links.snapshot() == [] and one.states()[-1] == "closed"


def test_one_between_the_ends_is_refused_even_if_he_can_sign_for_both(world):
    """The worst case: both believe descriptions with his certificate in them, and he passes on all cells unchanged."""
    one, two = world.pair()
    one.carriers[0].mode = "lose"
    one.reach(two)
    world.run()
    offer = unseal(one.carriers[0].signals[0], two)
    name = offer.session
    one.carriers[0].bring(forge(two, one, ANSWER, session=name, what=description(ANSWER, "between")))
    two.delivered(forge(one, two, OFFER, session=name, what=description(OFFER, "between")))
    world.run()
    (channel,), (other,) = one.ends, two.ends
    join(one, channel, two, other)
    for node, end in ((one, channel), (two, other)):
        node.links.opened(end, world.now)
        node.poll()
    assert one.neighbours.links and two.neighbours.links, "he had them both connect"
    world.run()
    assert one.answers == [None] and not one.open_links()
    world.run(20)
    assert not two.open_links() and not one.links.snapshot() and not two.links.snapshot()


def test_another_node_than_the_one_that_called_is_refused(world):
    """Whoever has the certificate of a connection but not the identity that was introduced."""
    one, two = world.pair()
    other = world.add("other")
    other.carriers = one.carriers
    two.delivered(forge(one, two, OFFER, what=description(OFFER, "other-1")))
    world.run(0.5)
    (there,) = two.ends
    channel = other.links.connect(two.identity, world.now)
    other.poll()
    join(other, channel, two, there)
    other.silent = True
    session = other.links._sessions[channel]
    session.ours, session.theirs = description(OFFER, "other-1").fingerprint, two.ends[there].own().fingerprint
    other.reach(two)  # who is to answer on that very channel
    for node, end in ((two, there), (other, channel)):
        node.links.opened(end, world.now)
        node.poll()
    world.run()
    assert not two.open_links() and not two.neighbours.links
