"""Since when a facilitator knows its nodes: they are rendezvous points only if they are older than the day's value, and
on paths, in a large network, if they have been there for hours.

Does: remember those that are here, and for a while those that are gone, so that a restart makes nobody young.
Does not: store anything, or refuse nodes.

Few nodes of one source grow old, here or gone; the others never do. Servers are few on one network, and where many tabs
share an address, most of them are gone soon. So somebody with one network cannot choose among many nodes of his when
the value is known, nor has he a large part of those that stay, who are few in all.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from convergence.netdir.rings import ABSENCE

OLD_EACH = 16
"""Nodes of one source that grow old. Tor lists few relays of an address, too (proposal 109)."""
UNKNOWN = "?"
"""The source of nodes of before a restart, until they are back."""
NEVER = (1 << 64) - 1
"""Since when a node counts that does not grow old."""
MAX_GONE = 65_536
"""Nodes that are gone and remembered, unless the facilitator has other limits: 300 bytes each."""


@dataclass(slots=True)
class _Age:
    since: int
    source: str


class Ages:
    """Args:
    on_forgotten: called with an identity that is forgotten, and since when it counted.
    gone: nodes that are gone and remembered.
    each: nodes of one source that are remembered. Sources that cannot be told apart ("") have no such limit.
    """

    def __init__(
        self,
        on_forgotten: Callable[[bytes, int], None] = lambda identity, since: None,
        gone: int = MAX_GONE,
        each: int = OLD_EACH,
    ) -> None:
        self._each = each
        self._on_forgotten = on_forgotten
        self._most_gone = gone
        self._ages: dict[bytes, _Age] = {}
        self._count: Counter[str] = Counter()  # of all, by source
        # When who is gone is forgotten, in order. A dict would not do: to find its first key it passes by all that
        # were deleted before it.
        self._gone: OrderedDict[bytes, float] = OrderedDict()
        self._gone_of: dict[str, dict[bytes, None]] = {}  # by source; who left first, first

    def came(self, identity: bytes, source: str, now: float, first: float = inf) -> int:
        """A node is here, perhaps for long, and since `first` at least. Returns since when it counts (Unix seconds), or
        NEVER."""
        self._expire(now)
        age = self._take(identity)
        if not self._has_room(source) and (age is None or age.source != UNKNOWN):
            if age is not None:
                self._on_forgotten(identity, age.since)
            return NEVER
        age = age or _Age(int(min(first, now)), source)
        age.source = source
        self._keep(identity, age)
        return age.since

    def remember(self, identity: bytes, since: int, now: float) -> int | None:
        """It was here before a restart. If it is here again, returns since when it counted until now."""
        age = self._ages.get(identity)
        if age is not None:
            before, age.since = age.since, min(age.since, since)
            return before
        self._keep(identity, _Age(since, UNKNOWN))
        self.left(identity, now)
        return None

    def left(self, identity: bytes, now: float) -> None:
        """It is gone."""
        self._expire(now)
        age = self._ages.get(identity)
        if age is None or identity in self._gone:
            return
        self._gone[identity] = now + ABSENCE
        if age.source:
            self._gone_of.setdefault(age.source, {})[identity] = None
        if len(self._gone) > self._most_gone:
            self._forget(next(iter(self._gone)))

    def gone(self) -> list[tuple[bytes, int]]:
        """Those that are gone and remembered, and since when they counted."""
        return [(identity, self._ages[identity].since) for identity in self._gone]

    def knows(self, identity: bytes) -> bool:
        return identity in self._ages

    def _has_room(self, source: str) -> bool:
        """Whether one more of its nodes may grow old: who is here leaves less room for the absent."""
        if source in ("", UNKNOWN):
            return not source
        if self._count[source] >= self._each and source in self._gone_of:
            self._forget(next(iter(self._gone_of[source])))
        return self._count[source] < self._each

    def _keep(self, identity: bytes, age: _Age) -> None:
        self._ages[identity] = age
        self._count[age.source] += 1

    def _forget(self, identity: bytes) -> None:
        age = self._take(identity)
        if age is not None:
            self._on_forgotten(identity, age.since)

    def _take(self, identity: bytes) -> _Age | None:
        age = self._ages.pop(identity, None)
        if age is None:
            return None
        self._count[age.source] -= 1
        if not self._count[age.source]:
            del self._count[age.source]
        if self._gone.pop(identity, None) is not None and age.source:
            of_source = self._gone_of[age.source]
            del of_source[identity]
            if not of_source:
                del self._gone_of[age.source]
        return age

    def _expire(self, now: float) -> None:
        while self._gone:
            first = next(iter(self._gone))
            if self._gone[first] > now:
                return
            self._forget(first)
