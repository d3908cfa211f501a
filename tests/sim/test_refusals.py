"""Relays that refuse whoever is not of their kind gain nothing by it: no more circuits, and no address of a sender."""

import statistics

import pytest

from convergence.errors import DestroyReason, RemoteError
from convergence.events import CircuitBuilt
from convergence.path.pool import POOL_SIZE
from convergence.wire.linkspec import ed25519_identity
from tests.sim.people import network, relays_of

COLLUDERS = 3
CIRCUITS = 60


def refuse_strangers(world, ends):
    """The first relays turn down extensions to others that are honest, or circuits that come from these, or both."""
    bad = {host.keys.identity for host in list(relays_of(world).values())[:COLLUDERS]}
    honest = set(relays_of(world)) - bad
    for host in list(relays_of(world).values())[:COLLUDERS]:
        node = host.node
        reach, create = node.relaying.reach, node.relaying.create

        def choosy_reach(source, specifiers, *rest, reach=reach):
            if ed25519_identity(specifiers) in honest:
                raise RemoteError("no", reason=DestroyReason.RESOURCELIMIT)
            reach(source, specifiers, *rest)

        def choosy_create(link, circ_id, onionskin, now, create=create, host=host):
            other = host.pipes[link.channel].peer.host  # colluders know by address who calls
            if other.keys is not None and other.keys.identity in honest:
                raise RemoteError("no", reason=DestroyReason.RESOURCELIMIT)
            create(link, circ_id, onionskin, now)

        if "extend" in ends:
            node.relaying.reach = choosy_reach
        if "create" in ends:
            node.neighbours._on_create = choosy_create
            for link in node.neighbours.links.values():
                link._on_create = choosy_create
    return bad


def captured(seed, relays, ends):
    """The share of a node's circuits whose first and last relays both collude."""
    world = network(f"refusals {seed}", relays)
    bad = refuse_strangers(world, ends)
    client = world.add("client", hops=2)
    paths = []

    def built(event):
        if isinstance(event, CircuitBuilt):
            paths.append(client.node.pool._places[event.id].path)

    client.on_event = built
    while len(paths) < CIRCUITS:
        assert world.run(120, lambda: client.node.pool.ready == POOL_SIZE)
        for place in list(client.node.pool._ready):
            client.driver.run(lambda now, place=place: place.circuit.destroy(DestroyReason.FINISHED, now))
    return sum({path[0].identity, path[-1].identity} <= bad for path in paths) / len(paths)


def medians(seeds, relays, ends):
    shares = [(captured(seed, relays, ""), captured(seed, relays, ends)) for seed in range(seeds)]
    return [statistics.median(column) for column in zip(*shares, strict=True)]


def test_refusing_pays_nothing():
    honest, refusing = medians(5, 10, "extend create")
    assert 0 < honest and refusing <= honest


@pytest.mark.long
@pytest.mark.parametrize("relays", [7, 10])
@pytest.mark.parametrize("ends", ["extend", "create", "extend create"])
def test_no_way_of_refusing_pays(relays, ends):
    """Larger networks: tests/unit/path/test_coalitions.py."""
    honest, refusing = medians(20, relays, ends)
    assert 0 < honest and refusing <= honest
