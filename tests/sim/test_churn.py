"""Networks whose nodes come and go: tabs that live for minutes, many that are gone at once, a network cut in two."""

from __future__ import annotations

from collections import Counter, defaultdict
from resource import RUSAGE_SELF, getrusage
from time import process_time
from typing import Any

import pytest

from convergence.facilitator.client import RETRY_MAX
from convergence.netdir.headers import EPOCH
from convergence.outbox import Outbox, Timer
from convergence.rdv.guests import MAX_SEEN
from convergence.wire.buckets import EpochHeader
from tests.sim import crowd
from tests.sim.crowd import Crowd, File, Search, node_bytes, node_size
from tests.sim.people import content, standing
from tests.sim.world import CUT_NOTICED, Host, Line

MB = 1 << 20
FOUND = 30.0
"""Seconds after it joined until a node has found a name."""
REJOINED = 60.0
"""The same for one that asks in the moment in which two halves are one again: owners take their places at points beyond
a moment later, and it asks a second time."""
HOUR = 3600.0
LONG = [pytest.mark.long, pytest.mark.timeout(3600)]
BEYOND = 180.0
"""The same while half of the points, and of those who know where points are, cannot be reached and there is no
facilitator to say so: each of them is tried."""


@pytest.fixture(autouse=True)
def cheap(monkeypatch: Any, request: Any) -> None:
    crowd.cheap(monkeypatch, request)
    crowd.small_buckets(monkeypatch)


Headers = dict[int, set[bytes]]
"""Of each epoch, all that any facilitator signed."""


@pytest.fixture
def headers(monkeypatch: Any) -> Headers:
    bodies, sign = defaultdict[int, set[bytes]](set), EpochHeader.sign

    def noted(header: EpochHeader, by: Any) -> EpochHeader:
        bodies[header.epoch].add(header.body())
        return sign(header, by)

    monkeypatch.setattr(EpochHeader, "sign", noted)
    return bodies


def offered(some: Crowd, owners: list[Host], size: int, name: str, within: float = 60.0) -> list[File]:
    """A file of each of them, known at all its points."""
    files = [some.offer(owner, content(f"{name} {owner.name}", size), name) for owner in owners]
    assert some.world.run(within, lambda: all(map(standing, owners)))
    some.world.run(1)  # the last advert arrives
    return files


def done(some: Crowd, search: Search, seconds: float) -> bool:
    return some.world.run(seconds, lambda: search.done is not None)


def test_nodes_that_join_find_names_and_transfers_end_while_tabs_come_and_go() -> None:
    """Then 30 % of all nodes are gone at once, points and relays of transfers under way among them. Until their peers
    notice, a look-up may take as much longer."""
    some = Crowd("churn", servers=12, tabs=50, full=8, large=True, line=Line(0.02, 60e3))
    world, owners, readers = some.world, some.full[:4], some.full[4:8]
    world.run(30)
    small = offered(some, owners, 1000, "small")
    big = offered(some, owners, 2 * MB, "big")
    tell(some, "all have joined")
    # Two owners and all readers stay; the other two owners come back as other nodes with the same files.
    some.churn(host for host in some.tabs if host not in (*owners[:2], *readers))
    some.born = lambda host: some.want(host, some.chance.choice(small))
    transfers = []
    for number in range(8):
        if number < 4:
            transfers.append(some.want(readers[number], big[number]))
        world.run(90)
    tell(some, "churn")
    assert some.births > len(some.tabs) / 2
    spare = (*owners, *readers)
    transfers += [some.want(reader, file) for reader, file in zip(readers, big[1:] + big[:1], strict=True)]
    world.run(10)  # they are under way
    assert not all(search.done for search in transfers)
    for kind in (some.servers, [host for host in some.tabs if host not in spare]):
        for host in some.chance.sample(kind, len(kind) * 3 // 10):
            if host.alive:
                world.vanish(host)
    gone_at = world.now
    for host in [some.join() for _ in range(6)]:
        some.want(host, some.chance.choice(small[:2]))
    assert world.run(180, lambda: all(search.done for search in transfers))
    tell(some, "30 % gone")
    after = [search for search in some.searches if search.begun >= gone_at]
    assert len(after) >= 6 and not [search for search in transfers if search.done is None]
    # That a machine vanished is noticed after up to 30 s, and then a path is to be found.
    assert sum(search.stalled for search in transfers) <= 2
    late = [search for search in some.late(FOUND) if search.begun < gone_at - FOUND]
    late += [search for search in some.late(FOUND + CUT_NOTICED[1]) if search.begun >= gone_at - FOUND]
    # The other owners may have been away.
    late = [search for search in late if search not in transfers and search.file.owner in owners[:2]]
    assert not late


KINDS = {"list": {}, "buckets": {"large": True}, "two facilitators": {"large": True, "facilitators": 2}}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_network_that_is_cut_in_two_goes_on_in_both_halves_and_is_one_again(kind: str, headers: Headers) -> None:
    """The facilitator is in one half. Or there are two, and the one in the other half is without the store."""
    some = Crowd("cut", servers=12 if kind == "list" else 24, tabs=8, full=8, circuits=1, **KINDS[kind])
    cut_for_an_hour(some, large=kind != "list")
    if kind != "list":
        assert len(headers) > HOUR / EPOCH and all(len(signed) == 1 for signed in headers.values())


def cut_for_an_hour(some: Crowd, *, large: bool) -> None:
    """There are eight full tabs. Nodes join in both halves; without a facilitator only by what they kept."""
    world = some.world
    world.run(700 if large else 60)  # large: nodes are listed in the next epoch
    tell(some, "joined")
    assert all(host.node.view.large is large for host in some.full)
    halves = [[host for host in some.full if beyond(host.name) == half] for half in (False, True)]
    files = [offered(some, half[:1], 1000, "old")[0] for half in halves]
    world.cut(beyond)
    for way in some.ways[1:]:
        way.cut_off()
    world.run(300)
    for half, file in zip(halves, files, strict=True):
        assert done(some, some.want(half[1], file), BEYOND), f"{half[1].name}, five minutes after the cut"
    tell(some, "cut")
    world.run(HOUR - 600)
    for half in halves:
        new = offered(some, half[1:2], 1000, "new", BEYOND)[0]
        assert done(some, some.want(half[2], new), BEYOND)
        world.kill(half[3])
        world.run(10)
        world.revive(half[3], anew=True)
        assert done(some, some.want(half[3], new), BEYOND), "who joins late finds what is new in its half"
    tell(some, "an hour")
    world.mend()
    for way in some.ways[1:]:
        way.connected()
    if not some.ways:
        world.run(RETRY_MAX)  # until whoever was cut off knows that the facilitator is there
    for half, file in zip(halves, reversed(files), strict=True):
        assert done(some, some.want(half[2], file), REJOINED), f"{half[2].name} finds what is beyond"
        assert done(some, some.want(some.join(), file), FOUND)
    tell(some, "one again")


def beyond(name: str) -> bool:
    return name[-1] in "13579"


DAYS = [pytest.param(4.0, id="4 hours"), pytest.param(24.0, id="a day", marks=LONG)]


@pytest.mark.parametrize("hours", DAYS)
@pytest.mark.parametrize("large", [False, True], ids=["list", "buckets"])
def test_without_a_facilitator_the_network_lives_on_and_then_it_is_there_again(large: bool, hours: float) -> None:
    alone(Crowd("alone", servers=16 if large else 8, tabs=4, full=4, circuits=1, large=large), hours, large=large)


def alone(some: Crowd, hours: float, *, large: bool) -> None:
    """There are four full tabs. Lists and headers are valid for 3 hours, descriptors of servers for one, of tabs for a
    quarter."""
    world, (owner, other, reader, visitor) = some.world, some.full
    world.run(700 if large else 60)
    old = offered(some, [owner, some.servers[0]], 1000, "old")
    world.run(60)
    tell(some, "joined")
    assert all(host.node.view.large is large for host in some.full)
    world.kill(world.hosts["facilitator"])
    world.run(hours * HOUR - 120)
    tell(some, f"{hours} hours")
    new = offered(some, [other], 1000, "new")[0]
    assert done(some, some.want(reader, new), FOUND)
    for host in (owner, *some.servers[:2]):
        world.restart(host)
    assert world.run(120, lambda: all(standing(file.owner) for file in old)), "they come back with what they kept"
    world.kill(visitor)
    world.run(20)
    world.revive(visitor, anew=True)
    for file in (*old, new):
        assert done(some, some.want(visitor, file), FOUND), "who is introduced by a peer joins"
    world.facilitator(**some.settings)
    world.run(RETRY_MAX + (EPOCH if large else 0))
    assert done(some, some.want(some.join(), new), FOUND)
    tell(some, "it is there again")


def sizes_over_time(some: Crowd, *hours: float) -> list[Counter[str]]:
    """The most that a server, the facilitator, and a tab that stays held, of each table and in bytes, in the half hour
    before each of these hours of virtual time. The other tabs come and go; all share and get files, the one that stays
    one after the other."""
    world, stays = some.world, some.full[0]
    kinds = {"server": some.servers, "facilitator": [world.hosts["facilitator"]], "tab": [stays]}
    some.churn(host for host in some.tabs if host is not stays)
    for host in some.full:
        some.offer(host, content(host.name, 1000), "file")

    def opens(host: Host) -> None:
        some.want(host, some.chance.choice(some.files))

    def goes_on() -> None:
        for search in [search for search in some.searches if search.host is stays and search.done]:
            stays.driver.run(lambda now, past=search.transfer_id: stays.node.transfers.forget(past, now))  # type: ignore[misc]
        some.searches = [search for search in some.searches if search.there and search.done is None]
        opens(stays)
        world.later(60.0, goes_on)

    some.born = opens
    world.later(60.0, goes_on)
    found = []
    before = 0.0
    for hour in hours:
        world.run((hour - before) * HOUR - 1800)
        before, most = hour, Counter[str]()
        for _ in range(6):
            world.run(300)
            for kind, hosts in kinds.items():
                for host in hosts:
                    size, held = node_size(host.node), node_bytes(host.node)
                    most |= Counter({f"{kind} {name}": entries for name, entries in size.items()})
                    most |= Counter({f"{kind} {ALL}": held.total()})
        found.append(most)
    return found


ALL = "bytes"
LIMITED = {"Guests._seen": MAX_SEEN}
"""Fills up to its limit with those that came, so that nobody plays them again."""


def grown(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    """Tables that hold half as much again, and more than chance explains; and who holds that many more bytes."""
    return {
        name: (before[name], size)
        for name, size in after.items()
        if size > max(1.5 * before[name] + (0 if name.endswith(ALL) else 150), LIMITED.get(name.partition(" ")[2], 0))
    }


TIMES = [pytest.param((1, 2), id="2 hours"), pytest.param((2, 24), id="a day", marks=LONG)]


@pytest.mark.parametrize("hours", TIMES)
def test_no_node_grows_while_others_come_and_go(hours: tuple[float, float]) -> None:
    """Told by header and buckets. A day has a midnight, with another value, and other rendezvous points after it."""
    does_not_grow(Crowd("day", servers=12, tabs=6, full=2, circuits=1, large=True), *hours)


def does_not_grow(some: Crowd, *hours: float) -> None:
    some.world.run(700)
    before, after = sizes_over_time(some, *hours)
    for kind in ("server", "facilitator", "tab"):
        print(f"{kind}: {before[f'{kind} {ALL}']:,} bytes, then {after[f'{kind} {ALL}']:,}", flush=True)
    tell(some, f"{hours} hours")
    assert grown(before, after) == {}


def test_a_leak_is_found(monkeypatch: Any) -> None:
    """A node that keeps each timer that it ever set."""
    call_at = Outbox.call_at

    def kept(outbox: Outbox, when: float, call: Any) -> Timer:
        timer = call_at(outbox, when, call)
        vars(outbox).setdefault("kept", []).append(timer)
        return timer

    monkeypatch.setattr(Outbox, "call_at", kept)
    some = Crowd("leak", servers=6, tabs=6, full=2, circuits=1)
    found = grown(*sizes_over_time(some, 0.5, 1.5))
    assert {f"{kind} Outbox.kept" for kind in ("server", "facilitator", "tab")} <= set(found)
    assert f"tab {ALL}" in found


def tell(some: Crowd, when: str) -> None:
    """Figures, for whoever runs this by hand with -s."""
    print(f"{when}: {some.births} came back; {process_time():.0f} CPU s, {getrusage(RUSAGE_SELF).ru_maxrss >> 10} MB")
    for size in sorted({search.file.size for search in some.searches}):
        these = [search for search in some.searches if search.file.size == size]
        took = sorted(search.done - search.begun for search in these if search.done is not None)
        figures = f"{len(took)} of {len(these)} done, {sum(search.stalled for search in these)} stalled"
        if took:
            figures += f"; seconds: half within {took[len(took) // 2]:.1f}, of 95 % {took[len(took) * 95 // 100]:.1f}"
            figures += f", all {took[-1]:.1f}"
        print(f"  {size} bytes: {figures}", flush=True)
