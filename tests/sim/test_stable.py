"""Relays that stay, and what is kept of them for hours, when they do not stay: moved, or all restarted at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from convergence.netdir.headers import EPOCH
from convergence.wire.buckets import DAY
from tests.sim.test_large import EVENING, epoch_of, everybody, large
from tests.sim.world import Host, World

CIRCUITS = 5


def ready(host: Host) -> int:
    return len(host.node.pool._ready)


def relays_of(world: World) -> list[Host]:
    return [host for host in everybody(world) if host.name.startswith("relay")]


def reach(world: World, source: Host, target: Host) -> bool:
    """Whether a circuit of somebody else's could go on from one to the other."""
    got: list[bool] = []
    neighbours, keys = source.node.neighbours, target.keys
    assert keys is not None

    def begin(now: float) -> None:
        neighbours.reach(keys.identity, lambda link, now: got.append(link is not None), now, "somebody")

    source.driver.run(begin)
    assert world.run(60, lambda: bool(got))
    for link in list(neighbours.links.values()):
        source.driver.run(partial(link.close, "this was a test"))
    return got[0]


def test_on_the_day_of_an_upgrade_circuits_are_back_within_a_minute(monkeypatch: Any) -> None:
    """All relays and the facilitator restart at once. Nobody is younger for it."""
    world = large(monkeypatch, "upgrade", 14)
    bob = world.add("bob", circuits=CIRCUITS)
    assert world.run(60, lambda: ready(bob) == CIRCUITS)
    for host in (*relays_of(world), world.hosts["facilitator"]):
        world.kill(host)
    world.run(30)
    assert ready(bob) == 0
    world.facilitator(list_up_to=10)
    for host in relays_of(world):
        world.revive(host)
    begun = world.now
    assert world.run(60, lambda: ready(bob) == CIRCUITS)
    print(f"{CIRCUITS} circuits after {world.now - begun:.0f} s")
    world.run(EPOCH)
    header = bob.node.knowledge.headers.newest
    assert {ring.count for ring in header.rings if ring.count} == {14}


def test_a_relay_that_moved_is_found_where_it_is_now(monkeypatch: Any) -> None:
    """At the second try, by those who have it in a bucket of before."""
    world = large(monkeypatch, "moved", 14)
    mover, *others = relays_of(world)
    assert all([reach(world, host, mover) for host in others])
    world.kill(mover)
    world._addresses["ws://elsewhere/"] = world._addresses.pop(f"ws://{mover.name}/")
    mover.node.config = replace(mover.node.config, urls=("ws://elsewhere/",))
    world.revive(mover)
    world.run(2 * EPOCH)
    first = [reach(world, host, mover) for host in others]
    assert not all(first) and all([reach(world, host, mover) for host in others])


def test_a_facilitator_that_is_gone_after_the_first_header_of_a_day_takes_nobody_his_relays(monkeypatch: Any) -> None:
    """It told the header, and gives nobody a bucket in the new order."""
    world = large(monkeypatch, "first header", 14, start=EVENING)
    bob = world.add("bob", circuits=CIRCUITS)
    service = world.hosts["facilitator"].node
    answer, midnight = service._publisher.answer, world.now // DAY * DAY + DAY
    service._publisher.answer = lambda request: None if request.epoch * EPOCH >= midnight else answer(request)
    world.run(midnight + 300 - world.now)
    assert epoch_of(bob) * EPOCH == midnight
    world.kill(world.hosts["facilitator"])
    world.restart(bob)
    assert ready(bob) == 0
    assert world.run(60, lambda: ready(bob) == CIRCUITS)
