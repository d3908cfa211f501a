"""Ten thousand nodes in one process: 1,000 servers that stay and 9,000 tabs, told by header and buckets of the usual
size. Eight tabs are full ones (tests/sim/crowd.py). Each of these takes many minutes and 2 GB; test_churn.py says the
same of small networks, and more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim import crowd
from tests.sim.crowd import Crowd
from tests.sim.test_churn import FOUND, MB, alone, cut_for_an_hour, does_not_grow, offered, tell
from tests.sim.world import CUT_NOTICED, Line

pytestmark = [pytest.mark.long, pytest.mark.timeout(2 * 3600)]
SEARCHES = 1 / 50
"""Part of the tabs that look for a name as soon as they have joined."""


@pytest.fixture(autouse=True)
def cheap(monkeypatch: Any, request: Any) -> None:
    crowd.cheap(monkeypatch, request)


def test_tabs_come_and_go_and_then_a_third_of_all_nodes_is_gone_at_once() -> None:
    some = Crowd("ten thousand", servers=1000, tabs=9000, full=8, large=True)
    world, owners, readers = some.world, some.full[:4], some.full[4:8]
    slow = Line(0.02, 60e3)  # of the full ones: else a transfer is over before anybody is gone
    world.lines = {frozenset((one.name, other)): slow for one in some.full for other in world.hosts}
    world.run(30)
    tell(some, "joined")
    small = offered(some, owners, 1000, "small")
    big = offered(some, owners, 2 * MB, "big")
    some.churn(host for host in some.tabs if host not in (*owners, *readers))
    some.born = lambda host: some.chance.random() < SEARCHES and some.want(host, some.chance.choice(small))
    transfers = [some.want(reader, file) for reader, file in zip(readers, big, strict=True)]
    for _ in range(6):
        world.run(60)
        tell(some, "churn")
    assert some.births > 2000 and all(search.done for search in transfers)
    assert not [search for search in some.late(FOUND) if search.file in small]
    transfers = [some.want(reader, file) for reader, file in zip(readers, big[1:] + big[:1], strict=True)]
    world.run(10)  # they are under way
    assert not all(search.done for search in transfers)
    for kind in (some.servers, [host for host in some.tabs if host not in some.full]):
        for host in some.chance.sample(kind, len(kind) * 3 // 10):
            if host.alive:
                world.vanish(host)
    newcomers = [some.want(some.join(), some.chance.choice(small)) for _ in range(6)]
    assert world.run(180, lambda: all(search.done for search in (*transfers, *newcomers)))
    tell(some, "30 % gone")
    assert sum(search.stalled for search in transfers) <= 2
    assert not [search for search in some.late(FOUND + CUT_NOTICED[1]) if search.file in small]


def test_a_cut_for_an_hour() -> None:
    some = Crowd("ten thousand cut", servers=1000, tabs=9000, full=8, circuits=1, large=True)
    cut_for_an_hour(some, large=True)


@pytest.mark.parametrize("nodes, hours", [(1000, 24.0), (10_000, 3.25)])
def test_without_facilitators(nodes: int, hours: float) -> None:
    """The shorter time is more than headers and descriptors are valid for, and than buckets are kept."""
    servers = nodes // 10
    some = Crowd(f"{nodes} alone", servers=servers, tabs=nodes - servers, full=4, circuits=1, large=True)
    alone(some, hours, large=True)


def test_no_node_grows_while_others_come_and_go() -> None:
    does_not_grow(Crowd("thousand", servers=100, tabs=900, full=8, circuits=1, large=True), 2, 4)
