"""Who has how many of the places that all share, and which one gives way: for very many of them.

Does: count places as they come and go, also those in a queue; each operation costs the same, however many there are.
Does not: know what the places are. Where they are few, limits.gives_way looks at each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from convergence.limits import Held

K = TypeVar("K")
H = TypeVar("H", bound=Held)


class Crowd(Generic[K]):
    """All places, and whose they are."""

    def __init__(self) -> None:
        self._of: dict[Hashable, dict[K, None]] = {}  # by source, the newest place last
        self._having: dict[int, dict[Hashable, None]] = {}  # sources, by how many places they have
        self._most = 0

    def count(self, source: Hashable) -> int:
        """How many places it has."""
        return len(self._of.get(source, ()))

    def add(self, source: Hashable, place: K) -> None:
        """It has one more."""
        places = self._of.setdefault(source, {})
        places[place] = None
        self._counts(source, len(places) - 1, len(places))

    def remove(self, source: Hashable, place: K) -> None:
        """It has this one no longer. Raises KeyError if it never had."""
        places = self._of[source]
        del places[place]
        self._counts(source, len(places) + 1, len(places))
        if not places:
            del self._of[source]

    def gives_way(self, source: Hashable) -> K | None:
        """Which place `source` gets when all are taken: the newest one of the source that has most. None if `source`
        would then have as many."""
        if self.count(source) + 1 >= self._most:
            return None
        return _last(self._of[_last(self._having[self._most])])

    def _counts(self, source: Hashable, before: int, after: int) -> None:
        if before:
            del self._having[before][source]
            if not self._having[before]:
                del self._having[before]
        if after:
            self._having.setdefault(after, {})[source] = None
        if after > self._most or self._most not in self._having:  # only one by one does it get less
            self._most = after


class Turns(Generic[H]):
    """A queue in which sources take turns. Each has its items in their order.

    Args:
        limit: items that wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._of: dict[Hashable, deque[H]] = {}
        self._turns: deque[Hashable] = deque()  # sources that have items, each once
        self._crowd: Crowd[H] = Crowd()

    def __len__(self) -> int:
        return self._size

    def add(self, item: H) -> H | None:
        """Which one gives way for it when all places are taken: the newest of the source that has most, or itself."""
        spare = None
        if self._size >= self._limit:
            spare = self._crowd.gives_way(item.source)
            if spare is None:
                return item
            self._of[spare.source].pop()  # which has more than one
            self._counted(spare, -1)
        if item.source not in self._of:
            self._of[item.source] = deque()
            self._turns.append(item.source)
        self._of[item.source].append(item)
        self._counted(item, 1)
        return spare

    def take(self) -> H:
        """The next one. Raises IndexError if there is none."""
        source = self._turns.popleft()
        items = self._of[source]
        item = items.popleft()
        self._counted(item, -1)
        if items:
            self._turns.append(source)
        else:
            del self._of[source]
        return item

    def _counted(self, item: H, by: int) -> None:
        self._size += by
        (self._crowd.add if by > 0 else self._crowd.remove)(item.source, item)


def _last(keys: dict[K, None]) -> K:
    """The newest key. Unlike next(reversed(keys)), this does not pass by all that were deleted behind it each time."""
    key, _ = keys.popitem()
    keys[key] = None
    return key
