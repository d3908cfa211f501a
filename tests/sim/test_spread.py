"""A point that notes when circuits come and go does not find out which files are of one node."""

import pytest

from convergence.circuit.relay import ORPHAN_LIMIT
from convergence.rdv.point import RdvPoint
from convergence.rdv.service import START_SPREAD
from tests.sim.people import content, network, relays_of, share, standing

FILES = 20
AT_ONCE = 0.5  # seconds within which a point takes two things for one


class Notes:
    """What all points write down: when a circuit advertised first, and when it was gone."""

    def __init__(self, world, monkeypatch):
        self.opened, self.closed = {}, {}  # by point: times
        seen = set()
        message, gone = RdvPoint.message, RdvPoint.circuit_closed

        def noted(point, circuit, *rest):
            if circuit not in seen:
                seen.add(circuit)
                self.opened.setdefault(point, []).append(world.now)
            message(point, circuit, *rest)

        def noted_gone(point, circuit, *rest):
            if circuit in seen:
                self.closed.setdefault(point, []).append(world.now)
            gone(point, circuit, *rest)

        monkeypatch.setattr(RdvPoint, "message", noted)
        monkeypatch.setattr(RdvPoint, "circuit_closed", noted_gone)


def linked(times):
    """Of all pairs of events at one point, the share that come together."""
    pairs = [(a, b) for many in times.values() for n, a in enumerate(many) for b in many[n + 1 :]]
    assert len(pairs) > FILES, "points have several of the files each"
    return sum(abs(a - b) < AT_ONCE for a, b in pairs) / len(pairs)


@pytest.fixture
def provider(monkeypatch):
    world = network("spread", 8)
    notes = Notes(world, monkeypatch)
    alice = world.add("alice", circuits=0)
    world.run(5)
    for number in range(FILES):
        share(alice, content(number, 100), name=f"{number}")
    assert world.run(2 * FILES * START_SPREAD, lambda: len(alice.node.transfers.shares) == FILES and standing(alice))
    return world, alice, notes


def test_files_that_are_shared_together_begin_apart(provider):
    world, alice, notes = provider
    assert linked(notes.opened) < 0.1


def test_files_of_a_node_that_starts_again_begin_apart(provider):
    world, alice, notes = provider
    world.kill(alice)
    world.run(60)
    notes.opened.clear()
    world.revive(alice)
    restarted = world.now
    assert world.run(60, lambda: bool(notes.opened))
    assert world.now - restarted < START_SPREAD, "the first one does not wait"
    world.run(2 * FILES * START_SPREAD)
    assert len(alice.node.transfers.shares) == FILES and standing(alice)
    assert linked(notes.opened) < 0.1


@pytest.mark.parametrize("end", ["leave", "kill"])
def test_files_of_a_node_that_ends_end_apart(provider, end):
    world, alice, notes = provider
    world.run(60)
    notes.closed.clear()
    getattr(world, end)(alice)
    world.run(ORPHAN_LIMIT + 1)
    assert sum(map(len, notes.closed.values())) >= 3 * FILES
    assert linked(notes.closed) < 0.15
    assert all(not relay.node._point._adverts for relay in relays_of(world).values())
