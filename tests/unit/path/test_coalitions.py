"""Hostile relays that act together cannot make us avoid an honest one, and refusing all others does not pay.

The pool is the real one. Its circuits are rules, without links and cells, so that many seeds take a second.
"""

import random
import statistics

import pytest

from convergence.errors import DestroyReason, EndReason
from convergence.outbox import Outbox
from convergence.path import building as module
from convergence.path.pool import POOL_SIZE, CircuitPool
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.target import Role
from tests.views import given_view

SEEDS = 20


class RuledCircuit:
    """Stands for ClientCircuit. `link` is the rule: link(before, after) says whether an extension stands."""

    unlinked = False

    def __init__(self, outbox, crypto, rng, link, path, on_built, on_gone, now):
        self.path, self.on_built, self.on_gone = path, on_built, on_gone
        self.outbox, self.rule = outbox, link
        self.hops_built = 0
        self.closed = False
        outbox.call_at(now, self.next)

    def next(self, now):
        hop = self.hops_built
        if self.closed:
            return
        if hop and not self.rule(self.path[hop - 1].identity, self.path[hop].identity):
            self.destroy(DestroyReason.RESOURCELIMIT, now)
            return
        self.hops_built += 1
        if self.hops_built == len(self.path):
            self.on_built(self, now)
        else:
            self.on_hop(now)
            self.outbox.call_at(now, self.next)

    def open_stream(self, target, handler, now):
        self.outbox.call_at(now, lambda now: handler.aborted(EndReason.RESOLVEFAILED, now))

    def destroy(self, reason, now):
        if not self.closed:
            self.closed = True
            self.on_gone(self, reason, now)


class Dice:
    def __init__(self, seed):
        self.random = random.Random(seed).randbytes


class Network:
    """A pool in a network of relays. The first ones are hostile.

    Args:
        refuses: refuses(before, after, hostile) says whether one of the two refuses an extension.
    """

    def __init__(self, seed, relays, hostile, refuses):
        self.known = [
            Descriptor(bytes([number]) * 32, bytes(32), 0, 1 << 40, Role.RELAY, (Transport(1, "ws://relay/"),)).target
            for number in range(relays)
        ]
        self.hostile = {node.identity for node in self.known[:hostile]}
        self.refuses = refuses
        self.now = 1.8e9
        self.outbox = Outbox()
        rng = Dice(seed)
        self.pool = CircuitPool(self.outbox, None, rng, self, given_view(self.known, rng)[1])
        self.pool.fill(self.now)

    def avoided(self):
        return self.pool._reputation.avoided([node.identity for node in self.known], self.now)

    def reach(self, identity, reply, now):
        reply(lambda before, after: not self.refuses(before, after, self.hostile), now)

    def run(self, seconds):
        end = self.now + seconds
        while (deadline := self.outbox.deadline()) <= end:
            self.now = max(self.now, deadline)
            self.outbox.run_timers(self.now)
        self.now = end

    def replace(self, count):
        """Close ready circuits, so that others are built."""
        for place in self.pool._ready[:count]:
            place.circuit.destroy(DestroyReason.FINISHED, self.now)


@pytest.fixture(autouse=True)
def rules(monkeypatch):
    monkeypatch.setattr(module, "ClientCircuit", RuledCircuit)


# -- framing


def framed(seed, relays, hostile, pause, count):
    """Whether a node ever avoids the last relay, which the hostile ones refuse in both directions."""
    target = bytes([relays - 1]) * 32
    network = Network(
        seed,
        relays,
        hostile,
        lambda before, after, bad: target in (before, after) and not bad.isdisjoint((before, after)),
    )
    for _ in range(40):
        network.run(pause)
        avoided = network.avoided()
        if avoided:
            assert avoided == [target], "those who refuse one relay only are not found"
            return True
        network.replace(count)
    return False


@pytest.mark.parametrize(("relays", "hostile"), [(7, 3), (8, 3), (10, 4)])
def test_a_minority_cannot_make_us_avoid_an_honest_relay(relays, hostile):
    assert sum(framed(seed, relays, hostile, 240, 2) for seed in range(SEEDS)) <= 1


@pytest.mark.long
@pytest.mark.parametrize(("pause", "count"), [(240, 2), (20, POOL_SIZE)], ids=["slow", "busy"])
@pytest.mark.parametrize("relays", [7, 8, 9, 10, 12, 15, 20, 30, 50])
def test_no_minority_can_at_any_pace(relays, pause, count):
    hostile = max(3, relays * 2 // 5)
    assert sum(framed(seed, relays, hostile, pause, count) for seed in range(SEEDS)) <= 1


# -- refusing all others


WAYS = {
    "behave": lambda before, after, bad: False,
    "extend": lambda before, after, bad: before in bad and after not in bad,
    "create": lambda before, after, bad: after in bad and before not in bad,
    "both": lambda before, after, bad: (before in bad) != (after in bad),
}


def captured(seed, relays, hostile, way, circuits):
    """The share of a node's circuits between hostile relays, and of honest relays that are avoided at the end."""
    network = Network(seed, relays, hostile, WAYS[way])
    paths = []
    while len(paths) < circuits:
        network.run(1)
        paths += [place.path for place in network.pool._ready]
        network.replace(POOL_SIZE)
    wronged = set(network.avoided()) - network.hostile
    held = [network.hostile >= {node.identity for node in path} for path in paths]
    return sum(held) / len(held), len(wronged) / (relays - hostile)


def medians(relays, hostile, way, circuits):
    return [
        statistics.median(column)
        for column in zip(*(captured(seed, relays, hostile, way, circuits) for seed in range(SEEDS)), strict=True)
    ]


def test_refusing_pays_nothing_in_a_small_network():
    shares = {way: medians(7, 3, way, 60) for way in WAYS}
    assert 0 < shares["behave"][0] >= max(share for share, _ in shares.values())
    assert all(wronged == 0 for _, wronged in shares.values())


# Before a node has seen as many, refusing pays a little: docs/threat-model.md.
@pytest.mark.long
@pytest.mark.parametrize(("relays", "circuits"), [(7, 60), (10, 60), (20, 200), (50, 600)])
@pytest.mark.parametrize("way", ["extend", "create", "both"])
def test_refusing_pays_nothing_once_a_node_has_seen_enough(relays, circuits, way):
    hostile = max(3, relays * 3 // 10)
    behaving, refusing = medians(relays, hostile, "behave", circuits), medians(relays, hostile, way, circuits)
    assert 0 < behaving[0] >= refusing[0] and refusing[1] == 0
