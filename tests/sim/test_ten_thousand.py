"""Ten thousand nodes in one process: 1,000 servers that stay and 9,000 tabs, told by header and buckets of the usual
size. Eight tabs are full ones (tests/sim/crowd.py). Each of these takes many minutes and 2 GB; test_churn.py says the
same of small networks, and more."""

from __future__ import annotations

from typing import Any

import pytest

from convergence.facilitator.client import RETRY_MAX
from tests.sim import crowd
from tests.sim.crowd import Crowd
from tests.sim.test_churn import BEYOND, FOUND, HOUR, MB, beyond, done, offered, tell
from tests.sim.world import CUT_NOTICED, Line

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
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
    assert not some.late(FOUND + CUT_NOTICED[1])
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


def test_a_cut_for_an_hour() -> None:
    some = Crowd("ten thousand cut", servers=1000, tabs=9000, full=8, circuits=1, large=True)
    world = some.world
    world.run(700)  # into the next epoch: all are listed
    tell(some, "joined")
    halves = [[host for host in some.full if beyond(host.name) == half] for half in (False, True)]
    files = [offered(some, half[:1], 1000, "old")[0] for half in halves]
    world.cut(beyond)
    world.run(300)
    for half, file in zip(halves, files, strict=True):
        assert done(some, some.want(half[1], file), BEYOND), f"{half[1].name}, five minutes after the cut"
    tell(some, "cut")
    world.run(HOUR - 600)
    new = [offered(some, half[1:2], 1000, "new", BEYOND)[0] for half in halves]
    for half, file in zip(halves, new, strict=True):
        assert done(some, some.want(half[2], file), BEYOND)
    tell(some, "an hour")
    world.mend()
    world.run(RETRY_MAX)  # until whoever was cut off knows that the facilitator is there
    for half, file in zip(halves, reversed(files), strict=True):
        assert done(some, some.want(half[2], file), FOUND), f"{half[2].name} finds what is beyond"
        assert done(some, some.want(some.join(), file), FOUND)
    tell(some, "joined again")
