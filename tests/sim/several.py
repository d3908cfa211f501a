"""Several facilitators on one store and behind one address, in the simulator.

Does: start them with what was agreed on before; cut one of them off from the store.
Does not: say what a store does (tests/unit/facilitator/several.py), nor which facilitator a node gets (World).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from convergence.facilitator.service import FacilitatorService
from convergence.facilitator.sharing import Seal
from convergence.wire.sharing import MAX_IN_PART, CutNode, CutPart, Decision, encode_shared
from tests.sim.past import Past
from tests.sim.world import Host, SeededRng, World, identity_seed
from tests.unit.facilitator.several import Link, Store

ADDRESS = "ws://facilitator/"
TO_STORE = 0.001  # seconds, each way: what is asked first is answered first
OF_BEFORE = b"b" * 16  # name of the facilitator that decided last, and of its cut


@dataclass
class Around:
    """What the store asks of the world around it."""

    world: World

    @property
    def time(self) -> float:
        return self.world.now

    def later(self, call: Callable[[], None]) -> None:
        self.world.later(TO_STORE, call)


class Way(Link):
    """From one facilitator to the store."""

    host: Host

    def run(self, command: Callable[[float], None]) -> None:
        if self.host.alive:
            self.host.driver.run(command)


def facilitators(world: World, count: int, past: Past, **settings: Any) -> list[Way]:
    """`facilitator0`...: each of them knows what there was before. `settings` are FacilitatorService's."""
    seed = identity_seed(world)
    store = Store(Around(world))
    remember(store, Seal(world.crypto, seed, OF_BEFORE), past)
    ways = []
    for number in range(count):
        name = f"facilitator{number}"
        service = FacilitatorService(
            world.crypto, SeededRng(f"{world.seed}-{name}"), seed, shared=True, version="1.0", **settings
        )
        way = Way(store, service)
        way.host = world.place(name, service, shared=way)
        store.links[service.sharing.name.hex()] = way
        way.run(service.start)
        way.run(service.joined)
        ways.append(way)
    world.behind[ADDRESS] = [way.host for way in ways]
    return ways


def remember(store: Store, seal: Seal, past: Past) -> None:
    """What the store has of the latest decision."""
    nodes = [CutNode(identity, since) for identity, since in past.ages]
    parts = [CutPart(tuple(nodes[at : at + MAX_IN_PART])) for at in range(0, len(nodes), MAX_IN_PART)]
    for number, part in enumerate(parts, 1):
        store.kept[f"{OF_BEFORE.hex()}:{number}"] = seal.close(encode_shared(part)), inf
    decision = Decision(past.header.body(), True, OF_BEFORE, len(parts), past.draws)
    store.decision = past.header.epoch, seal.close(encode_shared(decision))
