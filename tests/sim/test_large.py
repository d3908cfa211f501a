"""Networks that are too large for a list: everybody knows them by header and buckets."""

from __future__ import annotations

from typing import Any

import pytest

from convergence.codes import FacilitatorWhy
from convergence.events import DrawChecked, Trouble
from convergence.facilitator import draws
from convergence.facilitator.client import LIFETIME, STABLE_LIFETIME
from convergence.netdir import drawcheck, knowledge
from convergence.netdir.draw import COMMIT_PHASE
from convergence.netdir.headers import EPOCH
from convergence.netdir.view import Class
from convergence.wire.buckets import DAY, BucketRequest, EpochHeader, RingKind, SharedValue
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.target import Role
from tests.sim.crowd import small_buckets
from tests.sim.past import be_old
from tests.sim.people import arrived, content, get, settle, share_and_stand, standing
from tests.sim.world import START, Host, World

ROLES = Role.RELAY | Role.RDV
DATA = content("large", 2 * PIECE_SIZE + 5)
EVENING = START - START % DAY + DAY - EPOCH
"""Ten minutes before a midnight."""


def large(monkeypatch: Any, seed: str, relays: int, *, start: float = START, small: bool = True) -> World:
    """A network in its second epoch. All relays are older than the values. With `small`, buckets have 6 to 16 nodes, so
    that few relays make many of them."""
    if small:
        small_buckets(monkeypatch)
    early = 30 if small else 1200  # the facilitator does not get round to all in its first ten minutes
    world = World(seed, start=start - start % EPOCH - early)
    names = [f"relay{number}" for number in range(relays)]
    be_old(world, names)
    world.facilitator(list_up_to=10)
    for name in names:
        world.add(name, ROLES, circuits=0)
    world.run(early + 65)
    for host in everybody(world):
        assert host.node.view.large and host.node.view.count(Class.RELAYS, world.now) == relays
    return world


def everybody(world: World) -> list[Host]:
    return [host for host in world.hosts.values() if host.name != "facilitator"]


def assert_arrives(world: World, host: Host, link: str) -> None:
    transfer_id = get(host, link)
    assert settle(world, host, transfer_id) == "done"
    assert arrived(host, transfer_id) == DATA


def epoch_of(host: Host) -> int:
    return int(host.node.knowledge.headers.newest.epoch)


@pytest.mark.parametrize("relays", [40, pytest.param(300, marks=pytest.mark.long)])
def test_transfers_work_and_both_ends_may_be_an_epoch_apart(monkeypatch: Any, relays: int) -> None:
    world = large(monkeypatch, "apart", relays, small=relays < 100)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=2)
    world.run(10)
    link = share_and_stand(world, alice, DATA)
    assert_arrives(world, bob, link)
    take = bob.node.knowledge.headers.take
    bob.node.knowledge.headers.take = lambda data, now: (
        take(data, now) if EpochHeader.parse(data).epoch <= last else False
    )
    last = epoch_of(bob)
    world.run(EPOCH)
    assert epoch_of(alice) == epoch_of(bob) + 1
    assert_arrives(world, bob, share_and_stand(world, alice, DATA))


def test_transfers_work_over_the_midnight_at_which_all_points_change(monkeypatch: Any) -> None:
    monkeypatch.setattr(drawcheck, "WITHIN", 60.0)
    world = large(monkeypatch, "midnight", 40, start=EVENING)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(10)
    link = share_and_stand(world, alice, DATA)
    before = alice.node.knowledge.headers.newest.value
    for _ in range(4):
        assert_arrives(world, bob, link)
        world.run(250)
    assert alice.node.knowledge.headers.newest.before == before
    day = int(world.now // DAY)
    for host in everybody(world):
        assert host.node.knowledge.headers.contradiction is None
        assert any(event == DrawChecked(day, announced=True) for event in host.events)
        assert not any(isinstance(event, Trouble) for event in host.events[-20:])


def test_a_facilitator_that_chooses_the_value_is_found_out_by_all(monkeypatch: Any) -> None:
    monkeypatch.setattr(drawcheck, "WITHIN", 60.0)
    world = large(monkeypatch, "chosen", 14, start=EVENING)
    chosen = SharedValue(b"chosen".ljust(32), int(world.now // DAY) * DAY + COMMIT_PHASE)
    monkeypatch.setattr(draws, "value_of", lambda draw, day, before: chosen)
    world.run(1000)
    for host in everybody(world):
        codes = [event.why.code for event in host.events if isinstance(event, Trouble)]
        assert codes.count(FacilitatorWhy.FALSE_VALUE) == 1


def test_the_facilitator_does_not_learn_what_an_end_looks_for(monkeypatch: Any) -> None:
    world = large(monkeypatch, "secret", 40)
    asked: list[tuple[str, int]] = []
    service = world.hosts["facilitator"].node
    answer = service._publisher.answer

    def recorded(request: BucketRequest) -> Any:
        asked.append((service.asking, request.kind))
        return answer(request)

    data = service.link_data

    def noted(channel: int, raw: bytes, now: float) -> None:
        service.asking = world.hosts["facilitator"].pipes[channel].peer.host.name
        data(channel, raw, now)

    service._publisher.answer, service.link_data = recorded, noted
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(10)
    kinds = {kept.bucket.kind for kept in bob.node.knowledge.buckets}
    assert RingKind.POINTS not in kinds, "who is no point names none to others"
    assert_arrives(world, bob, share_and_stand(world, alice, DATA))
    assert asked and {kind for who, kind in asked if who in ("alice", "bob")} <= {RingKind.STABLE}
    for host in (alice, bob):
        assert RingKind.POINTS in {kept.bucket.kind for kept in host.node.knowledge.buckets}


def test_without_the_facilitator_transfers_go_on_also_after_a_restart(monkeypatch: Any) -> None:
    world = large(monkeypatch, "alone", 40)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(10)
    link = share_and_stand(world, alice, DATA)
    assert_arrives(world, bob, link)
    world.run(120)
    world.kill(world.hosts["facilitator"])
    assert_arrives(world, bob, share_and_stand(world, alice, DATA))
    for host in (alice, bob):
        world.restart(host)
    assert world.run(300, lambda: standing(alice))
    assert alice.node.view.large
    assert_arrives(world, bob, link)


@pytest.mark.parametrize("lie", ["garbage", "silence"])
def test_relays_that_lie_about_buckets_stop_nobody(monkeypatch: Any, lie: str) -> None:
    """A third of them."""
    world = large(monkeypatch, "liars", 40)

    def false(request: BucketRequest, source: Any, give: Any, now: float) -> None:
        if lie == "garbage":
            give(b"", b"garbage", now)

    for host in everybody(world)[::3]:
        host.node._fetching.serve = false
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(10)
    for _ in range(2):
        assert_arrives(world, bob, share_and_stand(world, alice, DATA))


def test_who_stays_tells_the_facilitator_for_hours_and_neighbours_as_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(knowledge, "STABLE_AGE", EPOCH)
    world = large(monkeypatch, "stay", 14)
    relay = everybody(world)[0]
    registered = world.hosts["facilitator"].node._registry.nodes[relay.keys.identity]

    def lifetimes() -> tuple[int, int]:
        told = relay.node._peers.describe(relay.now())
        assert told is not None
        return registered.expires - registered.published, told.expires - told.published

    assert lifetimes() == (LIFETIME, LIFETIME)
    world.run(LIFETIME)
    assert lifetimes() == (STABLE_LIFETIME, LIFETIME)


def test_a_facilitator_that_shows_two_networks_is_found_out(monkeypatch: Any) -> None:
    world = large(monkeypatch, "two", 14)
    service, victim = world.hosts["facilitator"].node, everybody(world)[0]
    publisher = service._publisher
    honest = publisher._header
    false = EpochHeader(
        *(honest.epoch, honest.published, honest.expires, honest.value, honest.before),
        *(honest.committed, honest.rings[:1], honest.signer),
    ).sign(publisher._sign)
    victim.node.knowledge.headers._kept.clear()
    victim.node.knowledge.headers.newest = None
    victim.node.knowledge.headers.take(false.encode(), victim.now())
    alice = world.add("alice", circuits=3)
    assert world.run(3600, lambda: any(is_contradiction(event) for event in alice.events))


def test_a_node_that_the_facilitator_leaves_out_finds_out_and_no_other_node_is_told(monkeypatch: Any) -> None:
    world = large(monkeypatch, "left out", 14)
    victim = everybody(world)[0]
    publisher = world.hosts["facilitator"].node._publisher
    put = publisher._epochs.put

    def left_out(node: Any, raw: bytes, since: int) -> None:
        if node.identity != victim.keys.identity:
            put(node, raw, since)

    publisher._epochs.put = left_out
    publisher._epochs.drop(victim.keys.identity)
    world.run(5 * EPOCH)

    def told(host: Host) -> int:
        codes = [event.why.code for event in host.events if isinstance(event, Trouble)]
        return codes.count(FacilitatorWhy.LEAVES_OUT)

    assert told(victim) == 1
    assert not any(told(host) for host in everybody(world)[1:])


def is_contradiction(event: Any) -> bool:
    return isinstance(event, Trouble) and event.why.code is FacilitatorWhy.CONTRADICTS
