"""Browsers that relay for each other: reached by introduction only, with and without a facilitator."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

from convergence.events import Rtc
from convergence.facilitator.client import LIFETIME, RTC_LIFETIME
from convergence.introduction.signalling import Pipe, Switchboard
from convergence.ports import DtlsBinding
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.target import Role
from tests.sim.people import RELAY, arrived, content, get, settle, share_and_stand
from tests.sim.world import Host, World

RTC_TIME = 60


def browsers(seed: int | str, count: int, servers: int = 0, **settings: object) -> tuple[World, list[Host]]:
    """A facilitator and browsers `b0`... with five circuits each."""
    world = World(seed)
    world.facilitator()
    for number in range(servers):
        world.add(f"s{number}", RELAY, circuits=0, rtc=True)
    hosts = [world.add(f"b{number}", RELAY, browser=True, **settings) for number in range(count)]
    everybody = count + servers
    assert world.run(RTC_TIME, lambda: all(ready(host) and known(host) == everybody for host in hosts))
    return world, hosts


def known(host: Host) -> int:
    return len(host.node.directory.nodes(RELAY, host.now()))


def ready(host: Host) -> bool:
    return bool(host.node.snapshot(host.now())["ready"])


def linked(host: Host) -> set[str]:
    """Identities of those that the host has an open link with."""
    return {item["peer"] for item in host.node.snapshot(host.now())["links"] if item["open"]}


def reach(world: World, host: Host, other: Host, seconds: float = 30) -> bool:
    """Whether `host` can get a link to `other`."""
    answers: list[bool] = []

    def ask(now: float) -> None:
        host.node.neighbours.reach(identity(other), lambda link, now: answers.append(link is not None), now)

    host.driver.run(ask)
    assert world.run(seconds, lambda: bool(answers)), "neither a link nor a refusal"
    return answers[0]


def identity(host: Host) -> bytes:
    assert host.keys is not None
    return host.keys.identity


def troubles(host: Host) -> list[str]:
    return [str(event) for event in host.events if isinstance(event, Rtc) and event.state == "failed"]


def fetched(world: World, owner: Host, reader: Host, size: int = 3 * PIECE_SIZE) -> bool:
    data = content(f"{owner.name}-{reader.name}", size)
    link = share_and_stand(world, owner, data)
    number = get(reader, link)
    return settle(world, reader, number) == "done" and arrived(reader, number) == data


def test_browsers_alone_form_a_network_and_pass_a_file() -> None:
    world, hosts = browsers("alone", 6)
    assert fetched(world, hosts[0], hosts[5])
    assert sum(host.node.snapshot(host.now())["relay"]["cells"] for host in hosts) > 0


def test_new_links_are_made_when_the_facilitator_is_dead() -> None:
    """A knows B, B knows C: B introduces them."""
    world, hosts = browsers("dead", 7)
    world.run(RTC_TIME)
    world.kill(world.hosts["facilitator"])
    world.run(RTC_TIME)
    made = 0
    for host in hosts:
        for other in hosts:
            if other is not host and identity(other).hex() not in linked(host):
                made += 1
                assert reach(world, host, other), f"{host.name} -> {other.name}"
    assert made
    assert fetched(world, hosts[1], hosts[4])


def test_the_node_list_stays_fresh_without_a_facilitator() -> None:
    """Everybody's descriptor of bootstrap time has expired twice, and a browser that left is forgotten."""
    world, hosts = browsers("gossip", 7)
    world.run(RTC_TIME)
    world.kill(world.hosts["facilitator"])
    world.kill(hosts[6])
    world.run(2.5 * RTC_LIFETIME)
    for host in hosts[:6]:
        listed = {node.identity for node in host.node.directory.nodes(Role(0), host.now())}
        assert listed == {identity(other) for other in hosts[:6]}
    assert fetched(world, hosts[0], hosts[3])


def test_servers_and_browsers_mix() -> None:
    world, hosts = browsers("mixed", 4, servers=3)
    assert fetched(world, hosts[0], hosts[3])
    world.kill(world.hosts["facilitator"])
    assert fetched(world, hosts[1], hosts[2])
    assert world.run(LIFETIME, lambda: all(ready(host) for host in hosts))


def test_two_that_call_each_other_at_once_get_one_link() -> None:
    world, hosts = browsers("glare", 5, circuits=0)
    one, two = hosts[0], hosts[1]
    answers: list[object] = []
    for host, other in ((one, two), (two, one)):
        host.driver.run(
            lambda now, host=host, other=other: host.node.neighbours.reach(
                identity(other), lambda link, now: answers.append(link), now
            )
        )
    assert world.run(20, lambda: len(answers) == 2)
    assert None not in answers
    for host, other in ((one, two), (two, one)):
        links = [link for link in host.node.neighbours.links.values() if link.open and link.peer == identity(other)]
        assert len(links) == 1


def test_two_that_no_connection_can_join_go_through_others() -> None:
    world = World("symmetric")
    world.facilitator()
    for number in range(3):
        world.add(f"s{number}", RELAY, circuits=0, rtc=True)
    names = ["b0", "b1"]
    world.apart = {frozenset(names)}
    one, two = (world.add(name, RELAY, browser=True) for name in names)
    assert world.run(RTC_TIME, lambda: ready(one) and ready(two))
    assert not reach(world, one, two)
    assert any("connect" in text for text in troubles(one))
    assert fetched(world, one, two)


def test_a_connection_is_restored_without_a_facilitator() -> None:
    """The link stays, though what restores it has to find its way through peers."""
    world, hosts = browsers("restart", 6)
    world.run(RTC_TIME)
    world.kill(world.hosts["facilitator"])
    world.run(RTC_TIME)
    host = hosts[0]
    calling = [end.channel for end in host.connections.values() if end.open and end.offers]
    links, seen = [host.node.neighbours.links[channel] for channel in calling], len(host.events)
    for channel in calling:
        host.restart_ice(channel)
    world.run(10)
    states = [event.state for event in host.events[seen:] if isinstance(event, Rtc)]
    assert calling and states.count("restarting") == states.count("open") == len(calling)
    assert all(link.open for link in links)


def test_a_signalling_party_that_swaps_descriptions_gains_nothing(monkeypatch) -> None:
    """The facilitator changes a bit in every message that it passes on: nobody is linked, nothing else happens."""
    passed = Switchboard.signal

    def swap(self: Switchboard, pipe: object, body: bytes, now: float) -> None:
        passed(self, pipe, body[:80] + bytes([body[80] ^ 1]) + body[81:], now)

    monkeypatch.setattr(Switchboard, "signal", swap)
    world = World("swap")
    world.facilitator()
    one, two = (world.add(f"b{number}", RELAY, browser=True, circuits=0) for number in range(2))
    world.run(10)
    assert not reach(world, one, two, seconds=60)
    assert not two.connections, "what does not verify makes nobody open a connection"


def test_somebody_between_the_ends_of_a_connection_is_refused(monkeypatch) -> None:
    """The worst case: descriptions are swapped for his and the ends believe them. The link handshake does not."""
    world, hosts = browsers("between", 3, circuits=0)
    one, two = hosts[0], hosts[1]
    # Each end is given the other's description with the fingerprint of the party between, whom both connect to.
    monkeypatch.setattr(
        "tests.sim.world._knows", lambda end, other: end.remote is not None and end.remote.ufrag == other.ufrag
    )

    bindings = type(one.node._rtc)._binding

    def his(self: object, *arguments: object) -> bytes:
        binding = bindings(self, *arguments)
        if self is one.node._rtc:
            return binding
        return DtlsBinding(binding.fingerprints[:3] + bytes(32) + binding.fingerprints[35:])

    monkeypatch.setattr(type(one.node._rtc), "_binding", his)
    assert not reach(world, one, two)
    assert identity(two).hex() not in linked(one) and identity(one).hex() not in linked(two)


def test_a_browser_that_pauses_is_left_alone_and_comes_back() -> None:
    world, hosts = browsers("pause", 5)
    resting = hosts[2]
    limits = resting.node.config.limits
    resting.driver.run(lambda now: resting.node.relay(None, RELAY, now))
    world.run(RTC_TIME)
    for host in hosts:
        node = host.node.directory.get(identity(resting), host.now())
        assert host is resting or node is None or not node.roles
    assert resting.node.snapshot(resting.now())["relay"]["circuits"] == 0
    assert ready(resting), "its own circuits stand"
    resting.driver.run(lambda now: resting.node.relay(limits, RELAY, now))
    world.run(2 * RTC_TIME)
    assert all(host.node.directory.get(identity(resting), host.now()).roles == RELAY for host in hosts)


def test_the_introducer_that_a_client_names_is_asked_first() -> None:
    world, hosts = browsers("named", 8, circuits=1)
    world.run(RTC_TIME)
    asking, introducer, target = next(
        (one, between, other)
        for one, between, other in permutations(hosts, 3)
        if identity(other).hex() not in linked(one)
        and identity(between).hex() in linked(one)
        and identity(other).hex() in linked(between)
    )
    asking.node.config = replace(asking.node.config, introducer=identity(introducer))
    passed: list[str] = []
    for host in world.hosts.values():
        board = host.node.switchboard if host is not world.hosts["facilitator"] else host.node._switchboard
        signal = board.signal

        def noted(pipe: Pipe, body: bytes, now: float, name: str = host.name, signal: Any = signal) -> None:
            passed.append(name)
            signal(pipe, body, now)

        board.signal = noted
    assert reach(world, asking, target)
    assert passed and set(passed) == {introducer.name}
