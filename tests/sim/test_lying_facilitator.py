"""A facilitator that lies to some: shows them another network, an old one, false buckets. Who finds out, and when."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from convergence.codes import FacilitatorWhy
from convergence.events import Trouble
from convergence.netdir import bucketview
from convergence.netdir.epochs import Epochs
from convergence.netdir.headers import EPOCH
from convergence.netdir.view import Class
from convergence.wire.buckets import DAY, Bucket, BucketRequest, EpochHeader
from convergence.wire.descriptor import Descriptor
from tests.sim.people import share_and_stand
from tests.sim.test_large import DATA, assert_arrives, everybody, large
from tests.sim.world import Host, World

RELAYS = 12


class TwoFaced:
    """A Publisher that shows some nodes something else.

    Args:
        shown: their names.
    """

    def __init__(self, world: World, shown: Collection[str]) -> None:
        service = world.hosts["facilitator"].node
        self.honest: Any = service._publisher
        self.shown = shown
        self.asking = ""
        self.world = world
        data = service.link_data

        def noted(channel: int, raw: bytes, now: float) -> None:
            pipe = world.hosts["facilitator"].pipes.get(channel)
            self.asking = "" if pipe is None else pipe.peer.host.name
            data(channel, raw, now)

        service._publisher, service.link_data = self, noted

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    def header(self, now: float) -> EpochHeader | None:
        return self.false_header() if self.asking in self.shown else self.honest.header(now)

    def answer(self, request: BucketRequest) -> Bucket | None:
        return (self.false_bucket if self.asking in self.shown else self.honest.answer)(request)

    def false_header(self) -> EpochHeader | None:
        return self.honest._header

    def false_bucket(self, request: BucketRequest) -> Bucket | None:
        return self.honest.answer(request)


class Fork(TwoFaced):
    """Shows a network of its own: of these nodes only, signed anew for each epoch."""

    def __init__(self, world: World, shown: Collection[str], nodes: Collection[bytes]) -> None:
        super().__init__(world, shown)
        self.epochs = Epochs(self.honest._identity, self.honest._sign)
        for node in world.hosts["facilitator"].node._registry.nodes.values():
            if node.identity in nodes:
                self.epochs.put(Descriptor.parse(node.raw), node.raw, int(world.now) - 3 * DAY)

    def false_header(self) -> EpochHeader | None:
        honest = self.honest._header
        if self.epochs.header is None or self.epochs.header.epoch < honest.epoch:
            self.epochs.sign(honest.value, honest.before, honest.committed, float(honest.published))
        return self.epochs.header

    def false_bucket(self, request: BucketRequest) -> Bucket | None:
        return self.epochs.answer(request)


class Frozen(TwoFaced):
    """Shows an epoch that is over."""

    def __init__(self, world: World, shown: Collection[str]) -> None:
        super().__init__(world, shown)
        self.old = self.honest._header

    def false_header(self) -> EpochHeader | None:
        return self.old


class Mixed(TwoFaced):
    """Gives buckets with a node less than it signed."""

    def false_bucket(self, request: BucketRequest) -> Bucket | None:
        bucket = self.honest.answer(request)
        if bucket is None:
            return None
        return Bucket(bucket.epoch, bucket.kind, bucket.index, bucket.proof, bucket.items[1:])


def told(host: Host, code: FacilitatorWhy) -> int:
    return sum(isinstance(event, Trouble) and event.why.code is code for event in host.events)


def identities(hosts: Collection[Host]) -> set[bytes]:
    return {host.keys.identity for host in hosts}


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_two_networks_in_any_cut_are_found_out_by_all_who_use_either_within_minutes(monkeypatch: Any, cut: int) -> None:
    """Of six people, `cut` are shown a network of half of the relays."""
    world = large(monkeypatch, f"cut {cut}", RELAYS)
    relays = everybody(world)
    people = [world.add(f"alice{number}", circuits=2) for number in range(6)]
    world.run(30)
    Fork(world, {host.name for host in people[:cut]}, identities(relays[::2]))
    assert world.run(EPOCH + 5 * 60, lambda: all(told(host, FacilitatorWhy.CONTRADICTS) for host in people))
    assert all(told(host, FacilitatorWhy.CONTRADICTS) == 1 for host in people)


def test_a_newcomer_that_is_shown_a_network_of_its_own_finds_out_from_any_node_in_it(monkeypatch: Any) -> None:
    world = large(monkeypatch, "newcomer", RELAYS)
    Fork(world, {"alice"}, identities(everybody(world)[:3]))
    alice = world.add("alice", circuits=2)
    assert world.run(5 * 60, lambda: told(alice, FacilitatorWhy.CONTRADICTS) == 1)
    assert alice.node.view.count(Class.RELAYS, world.now) == 3


def test_a_newcomer_whose_whole_network_colludes_cannot_find_out_and_nobody_else_does(monkeypatch: Any) -> None:
    """What cannot be seen: docs/threat-model.md says so. From the first word on of any node outside, it can."""
    world = large(monkeypatch, "alone", RELAYS)
    friends = everybody(world)[:3]
    fork = Fork(world, {"alice"}, identities(friends))
    for host in friends:
        host.node._peers.headers = lambda now: []
        host.node._fetching.serve = lambda request, source, give, now: give(
            b"", fork.false_bucket(request).encode(), now
        )
    alice = world.add("alice", circuits=2)
    world.run(EPOCH)
    assert not any(told(host, FacilitatorWhy.CONTRADICTS) for host in everybody(world))
    for host in friends:
        del host.node._peers.headers
    assert world.run(5 * 60, lambda: told(alice, FacilitatorWhy.CONTRADICTS) == 1)


def test_an_old_epoch_that_is_shown_to_one_is_found_out_and_not_used(monkeypatch: Any) -> None:
    world = large(monkeypatch, "frozen", RELAYS)
    victim, *others = everybody(world)
    Frozen(world, {victim.name})
    assert world.run(4 * EPOCH, lambda: told(victim, FacilitatorWhy.OLD) > 0)
    assert victim.node.knowledge.headers.newest == others[0].node.knowledge.headers.newest
    assert not any(told(host, FacilitatorWhy.OLD) for host in others)


def test_buckets_that_do_not_match_are_told_of_and_come_from_neighbours(monkeypatch: Any) -> None:
    monkeypatch.setattr(bucketview, "HELD", 1)  # not hours
    world = large(monkeypatch, "mixed", RELAYS)
    alice, bob = world.add("alice", circuits=2), world.add("bob", circuits=0)
    world.run(30)
    Mixed(world, {"alice"})
    assert world.run(6 * EPOCH, lambda: told(alice, FacilitatorWhy.UNUSABLE) > 0)
    assert not told(bob, FacilitatorWhy.UNUSABLE)
    assert_arrives(world, bob, share_and_stand(world, alice, DATA))
    assert alice.node.view.large
