"""Introductions among whole nodes when only one way of them is left."""

from __future__ import annotations

from convergence.introduction.ways import Ways
from tests.sim.test_rtc import RTC_TIME, browsers, identity, linked, reach
from tests.sim.world import Host


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
    monkeypatch.setattr(Ways, "_circuits_to", lambda self, identities, tried: lambda now: None)
    world.run(RTC_TIME)
    lonely.driver.run(lonely.node.neighbours.close_all)
    lonely.node.pool._stopped = False
    world.run(0.1)
    assert not linked(lonely)
    assert any([reach(world, lonely, other) for other in others])
