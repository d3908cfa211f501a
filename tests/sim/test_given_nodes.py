"""A network that never had a facilitator: programs give their nodes the descriptors of others."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from convergence.announcement import Announcement
from convergence.discovery import RENEW_MIN
from convergence.events import Announced, NodesWanted
from convergence.facilitator.client import LIFETIME
from convergence.netdir.nodes import MAX_RECALLED
from convergence.wire.descriptor import Descriptor
from tests.sim.people import RELAY, Talker, connect, serve_and_stand
from tests.sim.world import Host, World

NAME = "hash:no facilitator"


class Program:
    """What its nodes say of themselves it gives to all of them that ask."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.known: dict[str, bytes] = {}
        self.nodes: list[Host] = []

    def add(self, name: str, **config: Any) -> Host:
        host = self.world.add(name, facilitator="", **config)
        self.attach(host)
        return host

    def attach(self, host: Host) -> None:
        host.on_event = lambda event: self.heard(host, event)
        self.nodes.append(host)
        for event in list(host.events):
            self.heard(host, event)

    def heard(self, host: Host, event: Any) -> None:
        if isinstance(event, Announced):
            self.known[host.name] = bytes.fromhex(event.descriptor)
        elif isinstance(event, NodesWanted):
            self.world.later(0.0, lambda: self.give(host))

    def give(self, host: Host) -> None:
        if host.alive:
            host.driver.run(lambda now: host.node.know(self.known.values(), now))


def network(seed: int, relays: int, **config: Any) -> tuple[World, Program]:
    world = World(seed)
    program = Program(world)
    for number in range(relays):
        program.add(f"r{number}", roles=RELAY, circuits=0, **config)
    world.run(1)
    for host in program.nodes:
        program.give(host)
    return world, program


def talk(world: World, talker: Talker, data: bytes) -> None:
    before = len(talker.heard)
    talker.say(data)
    assert world.run(60, lambda: bytes(talker.heard[before:]) == data)


def test_services_stand_and_are_reached_and_nobody_dialled_a_facilitator() -> None:
    world, program = network(1, 6)
    provider, client = program.add("provider"), program.add("client")
    world.run(5)
    serve_and_stand(world, provider, NAME, echo=True)
    talk(world, connect(client, NAME), b"hello")
    assert "facilitator" not in world.hosts
    assert not any(event.kind == "trouble" for host in program.nodes for event in host.events)


def test_hours_later_the_list_is_fresh_by_hearsay_though_the_program_gives_no_more() -> None:
    world, program = network(2, 6)
    provider, client = program.add("provider"), program.add("client", circuits=1)
    world.run(5)
    serve_and_stand(world, provider, NAME, echo=True)
    program.known.clear()
    world.run(1.5 * LIFETIME)
    assert len(client.node.directory.nodes(RELAY, world.now)) == 6
    talk(world, connect(client, NAME), b"still here")


def test_descriptors_of_yesterday_lead_to_the_nodes_of_today() -> None:
    world, program = network(3, 6)
    old = dict(program.known)
    world.run(2 * LIFETIME)
    program.known = old
    client = program.add("client", circuits=5)
    world.run(1)
    assert len(client.node.directory.nodes(RELAY, world.now)) == 6, "old ones, for want of better"

    def fresh() -> bool:
        nodes = client.node.directory.nodes(RELAY, world.now)
        return len(nodes) == 6 and all(node.expires > world.now for node in nodes)

    assert not fresh() and world.run(300, fresh)


def test_nodes_without_an_address_are_introduced_by_the_others() -> None:
    world, program = network(8, 4, rtc=True)
    tabs = [program.add(f"tab{number}", roles=RELAY, browser=True) for number in range(2)]
    assert world.run(120, lambda: all(tab.node.snapshot(world.now)["ready"] for tab in tabs))
    one, other = tabs
    assert other.keys is not None
    name = other.keys.identity
    assert world.run(120, lambda: one.node.directory.get(name, world.now) is not None)
    links: list[bool] = []
    one.driver.run(lambda now: one.node.neighbours.reach(name, lambda link, now: links.append(link is not None), now))
    assert world.run(60, lambda: bool(links)) and links == [True]


def test_a_node_renews_what_it_says_of_itself_and_stops_when_it_leaves() -> None:
    world, program = network(4, 1)
    [relay] = program.nodes
    world.run(LIFETIME)
    said = [event for event in relay.events if isinstance(event, Announced)]
    times = [Descriptor.parse(bytes.fromhex(event.descriptor)).published for event in said]
    assert 2 <= len(said) <= 4 and times == sorted(times)
    assert all(later - earlier >= RENEW_MIN for earlier, later in zip(times, times[1:], strict=False))
    world.leave(relay)
    world.run(2 * LIFETIME)
    assert [event for event in relay.events if isinstance(event, Announced)] == said


def test_a_node_that_slept_says_anew_what_it_is_and_asks_who_is_there() -> None:
    world, program = network(5, 3)
    relay = program.nodes[0]
    relay.sleep()
    world.run(2 * LIFETIME)
    relay.events.clear()
    relay.wake()
    assert world.run(60, lambda: {Announced, NodesWanted} <= {type(event) for event in relay.events})
    assert Descriptor.parse(program.known["r0"]).expires > world.now


@pytest.mark.parametrize("hostile", [b"", b"\x01" * 300, "forged", "future"])
def test_what_no_node_signed_is_not_believed(hostile: bytes | str) -> None:
    world, program = network(6, 3)
    client = program.add("client")
    world.run(5)
    relay = program.nodes[0]
    assert relay.keys is not None
    if hostile == "forged":
        hostile = program.known["r0"][:-1] + b"\0"
    elif hostile == "future":
        described = Announcement(world.crypto, relay.keys, RELAY, urls=["ws://r0/"]).describe(world.now + 1e6)
        assert described is not None
        hostile = described.encode()
    assert isinstance(hostile, bytes)
    before = client.node.directory.nodes(RELAY, world.now)
    client.driver.run(lambda now: client.node.know([hostile], now))
    assert client.node.directory.nodes(RELAY, world.now) == before and len(before) == 3


def test_no_more_is_kept_than_a_limit_however_many_are_given() -> None:
    world, program = network(7, 1)
    client = program.add("client")
    crypto = world.crypto

    def made(number: int) -> bytes:
        seed = number.to_bytes(32, "big")
        now = int(world.now)
        unsigned = Descriptor(crypto.ed25519_public(seed), b"k" * 32, now, now + 60, RELAY)
        return unsigned.sign(lambda message: crypto.ed25519_sign(seed, message)).encode()

    for start in range(0, 3 * MAX_RECALLED, 512):
        raw = [made(number) for number in range(start, start + 512)]
        client.driver.run(partial(client.node.know, raw))
    assert len(client.node.directory.nodes(RELAY, world.now)) <= MAX_RECALLED
