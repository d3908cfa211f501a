"""The View of a whole list: everybody knows all nodes.

Does: keep an index of each class, and the ring; answer at once, at a cost that does not grow with the list.
Does not: say which nodes are usable (nodes.py). What it keeps is made anew when that changes.

Everybody who has the list can tell where on the ring an identity comes to stand, and choose one that suits. Only a
value that is drawn after identities are registered would prevent that: docs/threat-model.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from convergence.chance import random_below
from convergence.netdir.nodes import NodeDirectory
from convergence.netdir.view import Class, Found, Place, place_of, place_of_name
from convergence.ports import Rng
from convergence.wire.descriptor import Descriptor
from convergence.wire.target import Role

VALUE = bytes(32)
"""Of the ring. A list has no other: it is the same for all nodes and days."""


class ListView:
    """A View."""

    def __init__(self, directory: NodeDirectory, rng: Rng) -> None:
        self._directory = directory
        self._rng = rng
        self._version = -1  # of the directory, when what is kept was made...
        self._since, self._until = 0.0, 0.0  # ...and the time in which that holds
        self._members: dict[Class, list[Descriptor]] = {}  # in any order
        self._places: dict[bytes, bytes] = {}  # on the ring, by identity
        self._rings: dict[Class, tuple[list[bytes], list[Descriptor]]] = {}  # places, and who stands there

    def count(self, kind: Class, now: float) -> int:
        return len(self._of(kind, now))

    def sample(self, kind: Class, count: int, now: float, then: Found[Sequence[Descriptor]]) -> None:
        """Each as likely. The first steps of a Fisher-Yates shuffle, in place: whatever order the index had before,
        each choice is as likely as any other, and nobody else is looked at."""
        members = self._of(kind, now)
        for at in range(count if count < len(members) else 0):
            other = at + random_below(self._rng, len(members) - at)
            members[at], members[other] = members[other], members[at]
        then(members[:count], now)

    def closest(
        self,
        kind: Class,
        name: bytes,
        count: int,
        now: float,
        then: Found[Sequence[Sequence[Descriptor]]],
        *,
        place: Place = place_of_name,
    ) -> None:
        """There is one value only, so one sequence."""
        places, nodes = self._ring(kind, now)
        first = bisect_left(places, place(VALUE, name))
        found = nodes[first : first + count]
        then([found + nodes[: min(count - len(found), first)]], now)

    def values(self, now: float) -> tuple[bytes, ...]:
        return ()

    def get(self, identity: bytes, now: float, then: Found[Descriptor | None], *, quietly: bool = False) -> None:
        then(self._directory.get(identity, now), now)

    def _of(self, kind: Class, now: float) -> list[Descriptor]:
        directory = self._directory
        if self._version != directory.version or not self._since <= now < self._until:
            self._version, self._since, self._until = directory.version, now, directory.stands_until(now)
            self._members, self._rings = {}, {}
        if kind not in self._members:
            nodes = directory.nodes(Role(0), now) if kind is Class.ALL else self._of(Class.ALL, now)
            self._members[kind] = [node for node in nodes if kind.holds(node.target)]
        return self._members[kind]

    def _ring(self, kind: Class, now: float) -> tuple[list[bytes], list[Descriptor]]:
        members = self._of(kind, now)
        if kind not in self._rings:
            self._places = {
                node.identity: self._places.get(node.identity) or place_of(VALUE, node.identity)
                for node in self._of(Class.ALL, now)
            }
            order = sorted(members, key=lambda node: self._places[node.identity])
            self._rings[kind] = ([self._places[node.identity] for node in order], order)
        return self._rings[kind]
