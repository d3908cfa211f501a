"""Which relays failed, and whose word counts for that.

Does: count what a relay proves itself: our link to it, its own answer to CREATE2. Remember which relay extended
circuits to which, and find those that refuse more partners than a minority that plots against them could make up.
Does not: believe one relay about another. Either end of an extension may have refused it, so one refusal says nothing
of either. Do not report extensions to a node that somebody else chose, such as a rendezvous point: its owner could make
up the failures.

We take it that fewer than half of all relays are hostile. They may refuse circuits from and to one honest relay only,
so that we avoid it. Among those that we tried with it they may be more than half, by chance. So we avoid a relay only
if so many failures would be unlikely (MISJUDGED) for an honest one that all hostile ones refuse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache
from itertools import chain
from math import comb

from convergence.outbox import Outbox

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
"""Partners that a relay must have failed with, at least, to be taken for one that refuses: links break by accident."""
MISJUDGED = 0.01
"""How likely it may be, for as many failures among as many partners, that an honest relay is taken for one that
refuses: see `by_chance`."""

Place = tuple[bytes, bool]
"""A relay, and whether it is the one that is extended to."""


@lru_cache(maxsize=MAX_EXTENSIONS)
def by_chance(failed: int, tried: int, others: int) -> float:
    """How likely it is for an honest relay to fail with so many of the partners that were tried, if these are drawn at
    random from all others, and the largest minority of all relays refuses it (the tail of the hypergeometric
    distribution). It is 0 if the relay fails with more than this minority."""
    hostile = others // 2
    ways = sum(comb(hostile, count) * comb(others - hostile, tried - count) for count in range(failed, tried + 1))
    return ways / comb(others, tried)


class Reputation:
    """Nodes that failed lately, each avoided for a time that doubles with every failure; and relays that refuse."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        # Times are on the outbox's steady clock.
        self._failed: dict[bytes, tuple[int, float]] = {}  # identity -> failures, time of the last; oldest first
        self._extensions: dict[tuple[bytes, bytes], float] = {}  # from, to -> when; oldest first
        self._partners: defaultdict[Place, dict[bytes, bool]] = defaultdict(dict)  # the same: partner -> it stood

    def failed(self, identity: bytes, now: float, *, unreached: bool = False) -> None:
        """We got no link to this node (`unreached`: it may not even exist), or lost it, or it did not answer our
        CREATE2 as it should."""
        steady = self._outbox.steady(now)
        count, when = self._failed.pop(identity, (0, steady))
        if steady - when > FORGET_AFTER:
            count = 0
        self._failed[identity] = (count + (UNREACHED if unreached else 1), steady)
        if len(self._failed) > MAX_REMEMBERED:
            del self._failed[next(iter(self._failed))]

    def worked(self, identity: bytes) -> None:
        """A circuit through this node was built: its failures are forgiven."""
        self._failed.pop(identity, None)

    def extended(self, before: bytes, after: bytes, stood: bool, now: float) -> None:
        """A circuit of ours was to go from one relay to another, both of our own choice."""
        self._extensions.pop((before, after), None)
        self._extensions[before, after] = self._outbox.steady(now)
        self._partners[before, False][after] = self._partners[after, True][before] = stood
        if len(self._extensions) > MAX_EXTENSIONS:
            self._forget_oldest()

    def questioned(self, now: float) -> list[bytes]:
        """Identities of relays that may be taken for ones that refuse, and of their partners: on which of these are
        still listed it hangs whether they are. Mostly there are none."""
        self._forget_old(self._outbox.steady(now))
        places = self._suspects()
        return list(dict.fromkeys(chain.from_iterable((relay, *self._partners[relay, end]) for relay, end in places)))

    def avoided(self, known: Collection[bytes], now: float, relays: int = 0) -> list[bytes]:
        """Identities to avoid now, the one whose time is up first leading, those that refuse last.

        Args:
            known: identities of nodes that are listed, all that are `questioned` among them. What relays did that are
                not does not count.
            relays: how many there are, if that is more.
        """
        steady = self._outbox.steady(now)
        self._forget_old(steady)
        refusing = self._refusing({*known}, max(relays, len(known)))
        until = {identity: _until(*failed) for identity, failed in self._failed.items() if identity not in refusing}
        failing = sorted((key for key in until if until[key] > steady), key=lambda key: (until[key], key))
        return [*failing, *sorted(refusing)]

    def proven(self, now: float) -> Collection[bytes]:
        """Relays that worked with more partners than they failed with, both where they extended and where they were
        extended to. A relay that refuses all but its own kind is rarely one of them."""
        self._forget_old(self._outbox.steady(now))
        places = self._partners
        doubted = {relay for (relay, _), partners in places.items() if 2 * sum(partners.values()) <= len(partners)}
        return {relay for relay, _ in places} - doubted

    def _suspects(self) -> list[Place]:
        places = self._partners
        return [place for place in places if list(places[place].values()).count(False) >= REFUSED_PARTNERS]

    def _refusing(self, known: set[bytes], relays: int) -> set[bytes]:
        """Those that refuse too many partners for an honest relay. Partners that work with nobody may be down, and do
        not count, unless the relay itself works with nobody either."""
        places, suspects = self._partners, self._suspects()
        if not suspects:
            return set()
        working = known & {relay for (relay, _), partners in places.items() if any(partners.values())}
        found = set()
        for place in suspects:
            relay, _ = place
            counted = working if relay in working else known
            results = [stood for partner, stood in places[place].items() if partner in counted]
            failed = results.count(False)
            if relay in known and failed >= max(REFUSED_PARTNERS, len(results) / 2):
                if by_chance(failed, len(results), relays - 1) < MISJUDGED:
                    found.add(relay)
        return found

    def _forget_old(self, steady: float) -> None:
        while self._extensions and steady - next(iter(self._extensions.values())) > FORGET_AFTER:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        before, after = next(iter(self._extensions))
        del self._extensions[before, after]
        for place, partner in (((before, False), after), ((after, True), before)):
            del self._partners[place][partner]
            if not self._partners[place]:
                del self._partners[place]


def _until(failures: int, last: float) -> float:
    """Until when a node is avoided for its own failures. The exponent is capped before the power is taken: counts have
    no bound."""
    return last + min(BACK_OFF_FIRST * 2.0 ** min(failures - 1, 16), BACK_OFF_MAX)
