"""Which relays failed, and whose word counts for that.

Does: count what a relay proves itself: our link to it, its own answer to CREATE2. Remember which relay extended
circuits to which, and find those that fail with most of the others.
Does not: believe one relay about another. Either end of an extension may have refused it, so one refusal says nothing
of either; a relay that refuses many partners stands out because these partners do extend with others. Do not report
extensions to a node that somebody else chose, such as a rendezvous point: its owner could make up the failures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

BACK_OFF_FIRST = 30.0
"""Seconds a node is avoided after its first failure; doubled by each further one."""
BACK_OFF_MAX = 3600.0
UNREACHED = 4
"""Failures that one counts for when there was no link at all: among many nodes that do not exist the others are found
only if those tried are remembered for longer than it takes to try them."""
FORGET_AFTER = 2 * BACK_OFF_MAX
"""Seconds after which a failure, or an extension, counts no more."""
MAX_REMEMBERED = 4096
"""Failed nodes remembered; the one whose failure is oldest is forgotten first."""
MAX_EXTENSIONS = 1024
"""Pairs of relays remembered; the one that was tried longest ago is forgotten first."""
REFUSED_PARTNERS = 3
"""Partners that a relay must have failed with to be taken for one that refuses..."""
REFUSED_SHARE = 0.5
"""...and the share of its partners that these must exceed. It convicts relays that refuse all but their own kind for as
long as their kind is less than half of the network."""

Pair = tuple[bytes, bytes]


class Reputation:
    """Nodes that failed lately, each avoided for a time that doubles with every failure; and relays that refuse."""

    def __init__(self) -> None:
        self._failed: dict[bytes, tuple[int, float]] = {}  # identity -> failures, time of the last; oldest first
        self._extensions: dict[Pair, tuple[bool, float]] = {}  # from, to -> it stood, when; oldest first
        self._refusing: dict[bytes, float] | None = {}  # identity -> until when it is avoided; None: to be found again

    def failed(self, identity: bytes, now: float, *, unreached: bool = False) -> None:
        """We got no link to this node (`unreached`: it may not even exist), or it did not answer our CREATE2 as it
        should."""
        count, when = self._failed.pop(identity, (0, now))
        if now - when > FORGET_AFTER:
            count = 0
        self._failed[identity] = (count + (UNREACHED if unreached else 1), now)
        if len(self._failed) > MAX_REMEMBERED:
            del self._failed[next(iter(self._failed))]

    def worked(self, identity: bytes) -> None:
        """A circuit through this node was built: its failures are forgiven."""
        self._failed.pop(identity, None)

    def extended(self, before: bytes, after: bytes, stood: bool, now: float) -> None:
        """A circuit of ours was to go from one relay to another, both of our own choice."""
        self._extensions.pop((before, after), None)
        self._extensions[before, after] = (stood, now)
        if len(self._extensions) > MAX_EXTENSIONS:
            del self._extensions[next(iter(self._extensions))]
        self._refusing = None

    def until(self, identity: bytes) -> float:
        """Until when (Unix seconds) the node is avoided for failures of its own; 0 if it did not fail."""
        count, when = self._failed.get(identity, (0, 0.0))
        # The exponent is capped before the power is taken: counts have no bound.
        return when + min(BACK_OFF_FIRST * 2 ** min(count - 1, 16), BACK_OFF_MAX) if count else 0.0

    def shift(self, by: float) -> None:
        """The clock jumped."""
        self._failed = {identity: (count, when + by) for identity, (count, when) in self._failed.items()}
        self._extensions = {pair: (stood, when + by) for pair, (stood, when) in self._extensions.items()}
        self._refusing = None

    def avoided(self, now: float) -> list[bytes]:
        """Identities to avoid now, the one whose time is up first leading."""
        until = self._refusers(now) | {identity: self.until(identity) for identity in self._failed}
        return sorted((identity for identity in until if until[identity] > now), key=lambda key: (until[key], key))

    def proven(self, now: float) -> Collection[bytes]:
        """Relays that took part in an extension that succeeded, and in none that failed. A relay that refuses all but
        its own kind is rarely one of them."""
        recent = [(pair, stood) for pair, (stood, when) in self._extensions.items() if now - when <= FORGET_AFTER]
        failed = {identity for pair, stood in recent if not stood for identity in pair}
        return {identity for pair, stood in recent if stood for identity in pair} - failed

    def _refusers(self, now: float) -> dict[bytes, float]:
        """Find relays that refuse, one after the other, the worst first. Failures that convict one of them no longer
        count against its partners. So an honest relay is not blamed for the many that refuse it."""
        if self._refusing is None:
            self._refusing = {}
            recent = {pair: item for pair, item in self._extensions.items() if now - item[1] <= FORGET_AFTER}
            while (worst := _worst(recent)) is not None:
                identity, end = worst
                theirs = {pair: item for pair, item in recent.items() if pair[end] == identity}
                last = max(when for stood, when in theirs.values() if not stood)
                self._refusing[identity] = max(last + FORGET_AFTER, self._refusing.get(identity, 0.0))
                recent = {pair: item for pair, item in recent.items() if pair not in theirs}
        return self._refusing


def _worst(extensions: dict[Pair, tuple[bool, float]]) -> tuple[bytes, int] | None:
    """The relay, and whether it extends (0) or is extended to (1), that fails with most of its partners."""
    tried: Counter[tuple[bytes, int]] = Counter()
    failed: Counter[tuple[bytes, int]] = Counter()
    for pair, (stood, _) in extensions.items():
        for place in ((pair[0], 0), (pair[1], 1)):
            tried[place] += 1
            failed[place] += not stood
    guilty = [
        (failed[place] / tried[place], failed[place], place)
        for place in tried
        if failed[place] >= REFUSED_PARTNERS and failed[place] > REFUSED_SHARE * tried[place]
    ]
    return max(guilty)[2] if guilty else None
