"""Choice by bandwidth (path-spec 2.2, dir-spec 3.8.3): a relay is as likely as the weight of its bandwidth says.

Does: weigh the relays of a consensus for a position on a path, draw among those that suit, and tell which part of all
paths could be built with the microdescriptors that are known.
Does not: know which relays suit each other (torpath.py).

All is counted in whole numbers, so that no weight is lost beside a giant one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import accumulate
from math import prod

from convergence.chance import random_below
from convergence.netdir.tor import TorView
from convergence.ports import Rng
from convergence.wire.consensus import Consensus, RelayStatus

DRAWS = 48
"""Relays drawn before all are asked whether they suit: asking may mean parsing a microdescriptor."""
BWWEIGHTSCALE = 10_000
"""A weight of 1, unless the consensus says otherwise."""
Suits = Callable[[RelayStatus], bool]


class Position(Enum):
    """On a path. The value stands in the names of weights: "Wgd" is that of a guard and exit as a guard."""

    GUARD = "g"
    MIDDLE = "m"
    EXIT = "e"


def is_guard(status: RelayStatus) -> bool:
    """Whether it can serve all circuits and directory requests (guard-spec 4.0)."""
    return status.flags >= {"Guard", "Fast", "Stable", "V2Dir"}


def is_exit(status: RelayStatus) -> bool:
    """Whether its bandwidth counts as an exit's. Its policy says what it connects to."""
    return "Exit" in status.flags and "BadExit" not in status.flags


class Lottery:
    """Relays, weighed for a position."""

    def __init__(self, consensus: Consensus, relays: Sequence[RelayStatus], position: Position) -> None:
        weights = _weights(consensus, position)
        self.relays = relays
        self._weights = [relay.bandwidth * weights["Guard" in relay.flags, is_exit(relay)] for relay in relays]
        self._sums = list(accumulate(self._weights))

    def draw(self, rng: Rng, suits: Suits) -> RelayStatus | None:
        """One of those that suit, each as likely as it weighs; if they weigh nothing at all, each as likely. None if
        none suits."""
        if self._sums and self._sums[-1]:
            for _ in range(DRAWS):
                relay = self.relays[self._draw(rng, self._sums)]
                if suits(relay):
                    return relay
        left = [index for index, relay in enumerate(self.relays) if suits(relay)]
        if not left:
            return None
        sums = list(accumulate(self._weights[index] for index in left))
        return self.relays[left[self._draw(rng, sums) if sums[-1] else random_below(rng, len(left))]]

    def part(self, suits: Suits) -> float:
        """How much of the weight is of those that suit; of their number, if none weighs anything. 0 if there are no
        relays."""
        weights = self._weights if any(self._weights) else [1] * len(self.relays)
        counted = sum(weight for relay, weight in zip(self.relays, weights, strict=True) if suits(relay))
        return counted / sum(weights) if weights else 0.0

    @staticmethod
    def _draw(rng: Rng, sums: Sequence[int]) -> int:
        return bisect_right(sums, random_below(rng, sums[-1]))


def path_fraction(view: TorView) -> float:
    """The part of all paths, weighed, that the known microdescriptors allow: 0 to 1 (path-spec 2.1.0). A directory that
    sends only those that it likes gets us to use only them, if that is many enough."""
    relays = view.relays
    exits = [relay for relay in relays if is_exit(relay)]
    lotteries = (
        Lottery(view.consensus, [relay for relay in relays if "Guard" in relay.flags], Position.GUARD),
        Lottery(view.consensus, relays, Position.MIDDLE),
        Lottery(view.consensus, exits, Position.EXIT) if exits else Lottery(view.consensus, relays, Position.MIDDLE),
    )
    return prod(lottery.part(view.knows) for lottery in lotteries)


def _weights(consensus: Consensus, position: Position) -> dict[tuple[bool, bool], int]:
    """Of relays that are (guards, exits). One missing or bad weight makes all alike. Nobody who is an exit only is
    entered, so that there is no "Wge"."""
    names = {(True, False): "g", (False, False): "m", (True, True): "d"}
    if position is not Position.GUARD:
        names[False, True] = "e"
    scale = consensus.param("bwweightscale", BWWEIGHTSCALE, 1, (1 << 31) - 1)
    found = {kind: min(consensus.weights.get(f"W{position.value}{name}", -1), scale) for kind, name in names.items()}
    if min(found.values()) < 0:
        return {(guard, exit): 1 for guard in (False, True) for exit in (False, True)}
    return {(False, True): 0} | found
