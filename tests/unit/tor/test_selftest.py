"""A relay's look whether others reach it, over relays in memory."""

import pytest

from convergence.events import OrPortReached, OrPortUnreached
from convergence.path.place import ATTEMPTS, HOP_TIMEOUT
from convergence.tor.selftest import AGAIN, COMPLAIN, DROPS, DROPS_TIME, SelfTest
from convergence.wire.cells import CELL_LEN
from tests.unit.circuit.rig import CRYPTO, START, Net
from tests.unit.path.tornetwork import Made, TorNetwork


class Scene:
    """Our relay among others. All prove to it who they are; `firewall`: none of them can dial it."""

    def __init__(self, others=4, firewall=False, dialled=0):
        self.net = Net("self-test")
        self.ours = self.net.add("ours")
        self.others = self.net.relays(others)
        for other in self.others[dialled:]:
            if firewall:
                other.reach = self._but_ours(other.reach)
            else:
                self.net.prove(other, self.ours)
        for other in self.others[:dialled]:
            self.net.prove(self.ours, other)
            link = self.net._between[self.ours, other]
            self.net._between[other, self.ours] = self.net.other_side(self.ours, link)
        self.net.pump()
        made = [Made(number, machine=machine) for number, machine in enumerate([self.ours, *self.others], 1)]
        self.view = TorNetwork(made, valid_after=int(START)).view()
        self.reached = []
        self.test = SelfTest(
            self.ours.outbox,
            CRYPTO,
            self.ours.rng,
            self.ours,
            lambda: self.ours.target,
            lambda: self.view,
            "192.0.2.7:9001",
            self.reached.append,
        )
        self.test.start(self.net.now)

    def _but_ours(self, reach):
        def refuse(identity, reply, now, *more):
            if identity == self.ours.keys.identity:
                reply(None, now)
            else:
                reach(identity, reply, now, *more)

        return refuse

    def learn(self):
        self.test.nodes_changed(self.net.now)
        self.net.pump()

    def told(self, kind):
        return [event for event in self.ours.events if isinstance(event, kind)]


def test_a_relay_that_others_dial_is_reached_and_says_so_once():
    scene = Scene()
    scene.learn()
    assert scene.reached == [scene.net.now] and scene.test.reached
    assert scene.told(OrPortReached) == [OrPortReached("192.0.2.7:9001")]
    scene.learn()
    scene.net.tick(2 * COMPLAIN)
    assert len(scene.reached) == 1 and not scene.told(OrPortUnreached)


def test_the_circuit_comes_back_over_two_others_and_carries_padding_around():
    scene = Scene()
    scene.learn()
    [place] = scene.test._places.values()
    first, last, ours = place.path
    assert ours == scene.ours.target and len({first.identity, last.identity, ours.identity}) == 3
    carried = [sum(getattr(link, way) for link in scene.ours.links.values()) for way in ("bytes_in", "bytes_out")]
    assert min(carried) > DROPS * CELL_LEN
    scene.net.tick(DROPS_TIME)
    assert not scene.test._places and all(circuit.closed for circuit in scene.ours.circuits)


def test_who_is_not_reached_tries_again_and_complains():
    scene = Scene(firewall=True)
    scene.learn()
    assert not scene.reached
    for _ in range(60):
        scene.net.tick(AGAIN)
        for _ in range(ATTEMPTS):
            scene.net.tick(HOP_TIMEOUT)
    first, second, *_ = scene.told(OrPortUnreached)
    assert 20 <= first.minutes <= 21 and 40 <= second.minutes <= 42
    assert not scene.reached and not scene.told(OrPortReached)
    for other in scene.others:
        del other.reach
        scene.net.prove(other, scene.ours)
    scene.net.pump()
    scene.net.tick(AGAIN)
    assert len(scene.reached) == 1, "the firewall is open now"


@pytest.mark.parametrize(("dialled", "reached"), [(3, 1), (4, 0)])
def test_a_link_that_we_dialled_proves_nothing(dialled, reached):
    scene = Scene(dialled=dialled)
    scene.learn()
    assert len(scene.reached) == reached
    if reached:
        [place] = scene.test._places.values()
        assert place.path[1].identity == scene.others[3].keys.identity


def test_a_link_that_we_dial_meanwhile_proves_nothing():
    scene = Scene(others=2)
    for other in scene.others:
        link = scene.net.link_between(other, scene.ours)
        scene.net.other_side(other, link).handshake.authenticated = False
    scene.learn()
    assert not scene.reached and not scene.test._places


def test_nothing_is_tried_without_relays_or_once_it_is_stopped():
    scene = Scene()
    scene.view, view = None, scene.view
    scene.learn()
    assert not scene.test._places
    scene.view = view
    scene.test.stop(scene.net.now)
    scene.learn()
    scene.net.tick(COMPLAIN)
    assert not scene.reached and not scene.told(OrPortUnreached)


def test_more_relays_are_used_at_once():
    scene = Scene()
    scene.view, view = None, scene.view
    scene.learn()
    scene.view = view
    scene.learn()
    assert len(scene.reached) == 1


def test_it_says_where_the_first_relay_takes_links_and_no_other():
    scene = Scene()
    assert scene.test.link_address(scene.others[0].keys.identity) is None
    scene.learn()
    [place] = scene.test._places.values()
    assert scene.test.link_address(place.path[0].identity).address.endswith(":9001")
    assert scene.test.link_address(place.path[1].identity) is None
