"""Nodes that do not exist: whoever registers keys without a node behind them takes nobody's place."""

from __future__ import annotations

import pytest

from convergence.facilitator.prober import FAILURE_TOLD
from convergence.facilitator.reaching import RECHECK
from convergence.node import Node, NodeConfig
from convergence.wire.target import Role
from tests.sim.people import RELAY, arrived, content, get, network, relays_of, settle, share_and_stand
from tests.sim.world import Host, SeededRng, World


class Mute:
    """A driver.Machine that takes links and says nothing."""

    def link_opened(self, channel, now, *, protocol, binding): ...

    def link_data(self, channel, data, now): ...

    def link_closed(self, channel, now, reason): ...

    def link_congested(self, channel, congested, now): ...

    def done(self, request, result, now): ...

    def timer(self, now): ...

    def poll(self, now):
        return []

    def deadline(self):
        return None


def register_fake(world: World, name: str, url: str) -> Host:
    """A node that does all that a node does, but for being at its address."""
    config = NodeConfig("ws://facilitator/", roles=RELAY, urls=(url,), circuits=0)
    host = world.place(name, Node(config, world.crypto, SeededRng(f"{world.seed}-{name}")))
    host.driver.run(host.node.start)
    return host


def listed(world: World) -> set[bytes]:
    """Identities in the list that a newcomer gets."""
    reader = world.add(f"reader at {world.now}", circuits=0)
    assert world.run(30, lambda: bool(reader.node.directory.published))
    return {node.identity for node in reader.node.directory.nodes(Role(0), reader.now())}


@pytest.mark.parametrize("count", [20, 100])
@pytest.mark.parametrize("where", ["nowhere", "mute", "an honest relay"])
def test_fakes_take_no_place(count: int, where: str) -> None:
    world = network(f"fakes {where}", 5)
    honest = set(relays_of(world))
    world.place("mute", Mute())
    for number in range(count):
        url = {"nowhere": f"ws://nobody-{number}/", "mute": "ws://mute/", "an honest relay": "ws://r0/"}[where]
        register_fake(world, f"f{number}", url)
    world.run(2 * FAILURE_TOLD)
    assert listed(world) == honest
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(2)
    for number in range(4):
        data = content(number, 100_000)
        link = share_and_stand(world, alice, data)
        reading = get(bob, link)
        assert settle(world, bob, reading) == "done" and arrived(bob, reading) == data


def test_a_relay_that_hangs_leaves_the_list_and_comes_back() -> None:
    world = network("hung", 4)
    hung = world.hosts["r0"]
    identity = hung.keys.identity
    hung.hung = True
    world.run(2 * RECHECK)
    assert identity not in listed(world)
    hung.hung = False
    world.run(2 * RECHECK)
    assert identity in listed(world)
    reader = world.add("late reader", circuits=0)
    world.run(5)
    assert world.now - reader.node.directory.reached(identity) <= RECHECK + 2 * FAILURE_TOLD


def test_a_facilitator_that_restarts_lists_whom_it_had_found_and_looks_again() -> None:
    world = network("restarted", 4)
    gone = world.hosts["r0"]
    world.kill(world.hosts["facilitator"])
    world.kill(gone)
    world.facilitator()
    assert len(listed(world)) == 4, "it does not know yet"
    world.run(RECHECK)
    assert listed(world) == set(relays_of(world))
