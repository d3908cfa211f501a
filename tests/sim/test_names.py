"""A node with very many names: they share a circuit to each point, each is found, and those of a dead point move."""

from __future__ import annotations

from typing import Any

import pytest

from convergence.errors import DestroyReason, RemoteError
from convergence.rdv.group import TURNS
from convergence.rdv.ring import POINTS
from convergence.rdv.service import MAX_OFFERS
from convergence.wire.address import parse_address
from tests.sim.people import Talker, connect, network, relays_of
from tests.sim.world import Host, World

RELAYS = 6


class Teller(Talker):
    """Says under which name it was asked for."""

    def __init__(self, host: Host, pipe: Any, name: str) -> None:
        super().__init__(host, pipe)
        self.name = name

    def opened(self, now: float) -> None:
        super().opened(now)
        self.pipe.write(self.name.encode(), now)


def serve_all(host: Host, names: list[str]) -> None:
    def serve(now: float) -> None:
        for name in names:
            address = parse_address(name)
            host.node.services.serve(address, lambda pipe, now, name=name: Teller(host, pipe, name), now)

    host.driver.run(serve)


def settle(world: World, provider: Host, seconds: float) -> bool:
    """Wait until all names are advertised at all points."""

    def standing() -> bool:
        services = provider.node.services.snapshot()["services"]
        return all(item["points"] == item["points_wanted"] == POINTS for item in services)

    return any(world.run(5) or standing() for _ in range(int(seconds / 5) + 1))


def check(world: World, client: Host, names: list[str]) -> None:
    """All are advertised, on one circuit to each point, and each leads to its own service."""
    held = [host.node._point._adverts for host in relays_of(world).values()]
    assert sum(len(one) for one in held) == POINTS * len(names)
    assert all(sum(any(provider.names.values()) for provider in one.providers.values()) == 1 for one in held)
    asked = names[:: len(names) // 5]
    talkers = [connect(client, name) for name in asked]
    assert world.run(60, lambda: [bytes(talker.heard).decode() for talker in talkers] == asked)


@pytest.mark.parametrize(
    "count", [pytest.param(MAX_OFFERS + 4, id="few"), pytest.param(10_000, id="many", marks=pytest.mark.long)]
)
def test_a_node_with_very_many_names(count: int) -> None:
    world, names = network("names", RELAYS), [f"hash:name {number}" for number in range(count)]
    provider, client = world.add("provider", circuits=0, group=True), world.add("client", circuits=0)
    world.run(20)
    began = world.now
    serve_all(provider, names)
    assert settle(world, provider, 2 * POINTS * count / TURNS)
    assert world.now - began <= POINTS * count / TURNS + 20, "at the pace that was promised"
    world.run(5)
    check(world, client, names)
    world.kill(world.hosts["r0"])
    world.run(120)
    assert settle(world, provider, 2 * POINTS * count / TURNS)
    world.run(5)
    check(world, client, names)


def test_a_point_that_is_told_too_much_is_told_more_slowly_and_then_knows_all() -> None:
    """Its limit is shared by all who come over one relay, also by somebody who uses it up."""
    world, names = network("names", RELAYS), [f"hash:name {number}" for number in range(60)]
    provider, client = world.add("provider", circuits=0, group=True), world.add("client", circuits=0)
    point = world.hosts["r0"].node._point
    message, times, refused = point.message, list[float](), list[float]()

    def strict(circuit: Any, payload: bytes, now: float) -> None:
        times.append(now)
        if sum(now - when < 5 for when in times) > 8:
            refused.append(now)
            raise RemoteError("too many adverts", reason=DestroyReason.RESOURCELIMIT)
        message(circuit, payload, now)

    point.message = strict
    world.run(20)
    serve_all(provider, names)
    assert settle(world, provider, 300)
    world.run(5)
    check(world, client, names)
    assert 1 <= len(refused) < 10 and provider.node.services._rdv.groups.slow == {}
