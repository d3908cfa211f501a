"""Introductions among whole nodes when only one way of them is left."""

from __future__ import annotations

from convergence.introduction.signalling import Pipe
from convergence.introduction.ways import Ways
from convergence.path.pool import POOL_SIZE
from convergence.wire.facilitator import Signal
from tests.sim.people import RELAY
from tests.sim.test_rtc import RTC_TIME, browsers, identity, linked, reach, ready
from tests.sim.world import Host, World


def introductions(host: Host) -> int:
    """Circuits of this host on which it asks for introductions."""
    return sum(circuit["purpose"] == "introduction" for circuit in host.node.snapshot(host.now())["circuits"])


def test_a_browser_is_reached_through_a_circuit_to_its_introducer(monkeypatch) -> None:
    """No facilitator, and no pipe is asked: what is left is a circuit that ends at an introducer of the target."""
    world, hosts = browsers("through", 5, servers=3)
    world.run(RTC_TIME)
    world.kill(world.hosts["facilitator"])
    monkeypatch.setattr(Ways, "_pipes_to", lambda self, identities, tried: lambda now: None)
    world.run(RTC_TIME)
    seen = 0
    for host in hosts:
        for other in hosts:
            if other is not host and identity(other).hex() not in linked(host):
                assert reach(world, host, other), f"{host.name} -> {other.name}"
                seen += introductions(host)
    assert seen
    assert world.run(RTC_TIME, lambda: not any(map(introductions, hosts)))


def test_a_browser_without_any_link_is_introduced_by_a_server(monkeypatch) -> None:
    """No facilitator, no pipe and no circuit to ask: there are still addresses to dial."""
    world, hosts = browsers("alone", 4, servers=3)
    world.run(RTC_TIME)
    world.kill(world.hosts["facilitator"])
    lonely, *others = hosts
    for host in hosts:
        host.node.pool.stop(host.now())
    monkeypatch.setattr(Ways, "_circuits_to", lambda self, identities, tried, source: lambda now: None)
    world.run(RTC_TIME)
    lonely.driver.run(lonely.node.neighbours.close_all)
    lonely.node.pool._stopped = False
    world.run(0.1)
    assert not linked(lonely)
    assert any([reach(world, lonely, other) for other in others])


def carried(world: World) -> list[tuple[bytes, bytes]]:
    """Every signal that the facilitator is asked to carry from now on: (whom it is for, the message)."""
    seen: list[tuple[bytes, bytes]] = []
    board = world.hosts["facilitator"].node._switchboard
    signal = board.signal

    def noted(pipe: Pipe, body: bytes, now: float) -> None:
        seen.append((Signal.parse(body).to, body))
        signal(pipe, body, now)

    board.signal = noted
    return seen


def test_the_facilitator_carries_no_introduction_that_a_peer_can_make() -> None:
    """What it carries while the network forms and for a node that is new is all that it ever carries."""
    world, hosts = browsers("last", 7, servers=2)
    world.run(RTC_TIME)
    seen = carried(world)
    asked = 0
    for host in hosts:
        for other in hosts:
            if other is not host and identity(other).hex() not in linked(host):
                asked += 1
                assert reach(world, host, other), f"{host.name} -> {other.name}"
    for host in hosts:
        for end in list(host.connections.values()):
            if end.open and end.offers:
                host.restart_ice(end.channel)
    world.run(RTC_TIME)
    assert asked and not seen


def test_a_new_node_goes_to_the_facilitator_at_once_and_to_peers_soon() -> None:
    world, _ = browsers("fresh", 7, servers=2)
    world.run(RTC_TIME)
    seen = carried(world)
    fresh = world.add("fresh", RELAY, browser=True)
    started = world.now
    assert world.run(RTC_TIME, lambda: ready(fresh))
    assert 0 < len(seen) <= 2 * POOL_SIZE and world.now - started < 1.5
    del seen[:]
    world.run(RTC_TIME)
    assert not seen
