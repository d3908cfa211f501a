"""Views for tests: of a list that a test may change at any time, and one that answers late, in part, twice or never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

from convergence.netdir.listview import VALUE, ListView
from convergence.netdir.view import Class, Place, place_of, place_of_name
from convergence.wire.target import RelayTarget

POINTS = 3


class GivenNodes:
    """Stands for a NodeDirectory. `known` is as the test has it now."""

    def __init__(self, known: Sequence[RelayTarget] = ()) -> None:
        self.known = list(known)
        self._versions = count()

    @property
    def version(self) -> int:
        return next(self._versions)

    def stands_until(self, now: float) -> float:
        return float("inf")

    def nodes(self, role: int, now: float) -> list[Any]:
        return [SimpleNamespace(identity=node.identity, target=node) for node in self.known]

    def get(self, identity: bytes, now: float = 0) -> Any:
        return next((node for node in self.nodes(0, now) if node.identity == identity), None)


def given_view(known: Sequence[RelayTarget], rng: Any) -> tuple[GivenNodes, ListView]:
    """A list to change, and its View."""
    nodes = GivenNodes(known)
    return nodes, ListView(nodes, rng)  # type: ignore[arg-type]


def points_of(name: bytes, nodes: Sequence[Any], most: int = POINTS) -> list[Any]:
    """The first points of a hash_name in the ring of a list, worked out in another way than the list does."""
    start = int.from_bytes(place_of_name(VALUE, name), "big")
    return sorted(nodes, key=lambda node: (int.from_bytes(place_of(VALUE, node.identity), "big") - start) % (1 << 256))[
        :most
    ]


class SlowView:
    """Asks another View, and holds its answers back until `answer`.

    Attributes:
        held: answers that wait.
        part: of a sample or ring, at most so many are given.
    """

    def __init__(self, view: ListView) -> None:
        self.view = view
        self.held: list[Callable[[float], None]] = []
        self.part: int | None = None

    def answer(self, now: float) -> int:
        """Give what was asked for until now, as it is known now; returns how many answers that were."""
        held, self.held = self.held, []
        for call in held:
            call(now)
        return len(held)

    def count(self, kind: Class, now: float) -> int:
        return self.view.count(kind, now)

    def sample(self, kind: Class, most: int, now: float, then: Any) -> None:
        self.held.append(lambda now: self.view.sample(kind, self._cut(most), now, then))

    def closest(
        self, kind: Class, name: bytes, most: int, now: float, then: Any, *, place: Place = place_of_name
    ) -> None:
        self.held.append(lambda now: self.view.closest(kind, name, self._cut(most), now, then, place=place))

    def values(self, now: float) -> tuple[bytes, ...]:
        return ()

    def get(self, identity: bytes, now: float, then: Any, *, quietly: bool = False) -> None:
        self.held.append(lambda now: self.view.get(identity, now, then, quietly=quietly))

    def _cut(self, most: int) -> int:
        return most if self.part is None else min(most, self.part)
