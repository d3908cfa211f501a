"""A network in which everybody knows its neighbours only: nine nodes in a row (the proposal's test of phases 8 and 9).

Does: a facilitator that gives each node a list of its own, with those beside it in the row.
Does not: keep neighbours from telling each other of more. What is known by hearsay only comes into no path while the
list is fresh: for five minutes from when the first node of the row came.

    1 -> 2 -> 3 <- 4 <- 5 <- 6 <-> 7 <-> 8 <-> 9

Nodes 3 to 6 are points, the others relays: each takes the next free place of its kind in the order of `PLACES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from convergence.facilitator.registry import LIST_LIFETIME
from convergence.facilitator.service import FacilitatorService
from convergence.path.select import entry_side
from convergence.ports import Crypto, Rng
from convergence.wire.facilitator import NodeList, RecordType
from convergence.wire.target import Protocols, RelayTarget, Role

PLACES = {True: (3, 4, 5, 6), False: (2, 7, 8, 9, 1)}
"""By whether a node is a point."""
KNOWN = {place: {place - 1, place, place + 1} for place in range(2, 9)} | {1: {1, 2, 3}, 9: {6, 7, 8, 9}}
"""Whom the node at each place is told of: 1 and 9 also of their points, since they build circuits there."""


def suits(identities: Mapping[int, bytes], name: bytes) -> bool:
    """Whether 2 may be the entry of 1 for this hash_name, and 7 or 8 that of 9: which side of a name a relay is on is
    chance, and here there is no other.

    Args:
        identities: by place.
    """

    def side(place: int, provider: bool, point: int) -> set[bytes]:
        known = [(identities[other], Role.RDV if other in PLACES[True] else Role(0)) for other in KNOWN[place]]
        nodes = [
            RelayTarget(identity, (), b"", b"", Protocols(0), Role.RELAY | role, frozenset(), True)
            for identity, role in known
        ]
        return {node.identity for node in entry_side(nodes, name, provider, identities[point])}

    asking, serving = side(1, False, 3), side(9, True, 6)
    return identities[2] in asking and not serving.isdisjoint({identities[7], identities[8]})


class ChainFacilitator(FacilitatorService):
    """Attributes:
    places: by identity.
    """

    def __init__(self, crypto: Crypto, rng: Rng, seed: bytes, *arguments: Any, **named: Any) -> None:
        super().__init__(crypto, rng, seed, *arguments, **named)
        self._sign = partial(crypto.ed25519_sign, seed)
        self.places: dict[bytes, int] = {}
        self._came: dict[bytes, int] = {}  # when each registered first, Unix seconds
        self._began = 0

    def start(self, now: float) -> None:
        super().start(now)
        self._began = int(now)

    def _attach(self, channel: Any, node: Any, now: float) -> None:
        super()._attach(channel, node, now)
        descriptor = node.descriptor
        if descriptor.identity not in self.places and descriptor.roles:
            free = [place for place in PLACES[bool(descriptor.roles & Role.RDV)] if place not in self.places.values()]
            self.places[descriptor.identity] = free[0]
            self._came[descriptor.identity] = int(now)
            self.placed(descriptor.identity, free[0])

    def placed(self, identity: bytes, place: int) -> None:
        """Somebody came. For whoever inherits this."""

    def _record(self, channel: Any, kind: RecordType, body: bytes, now: float) -> None:
        if kind is RecordType.LIST:
            channel.machine.move("record", now)
            channel.answer(RecordType.NODES, self._narrow_list(channel.identity, now))
        else:
            super()._record(channel, kind, body, now)

    def _narrow_list(self, identity: bytes | None, now: float) -> bytes:
        """As of when the first of those on it came: whoever comes later is no node that the list left out. Whoever has
        not registered yet is told of nobody, as of the beginning: a later list must be newer."""
        told = KNOWN.get(self.places.get(identity or b"", 0), set())
        nodes = self._registry.nodes
        listed = [name for name, place in self.places.items() if place in told and name in nodes]
        published = min((self._came[name] for name in listed), default=self._began)
        narrow = NodeList(
            published,
            published + LIST_LIFETIME,
            tuple(nodes[name].raw for name in listed),
            self.identity,
            reached=tuple(nodes[name].reached for name in listed),
        )
        return narrow.sign(self._sign).encode()
