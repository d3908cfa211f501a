"""Which circuits will be wanted (path-spec 2.1.1): for the ports that were asked for in the last hour.

Does: remember these ports, and say what the circuits that stand ready cannot serve.
Does not: build circuits. Nothing is stored: what a user did stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from convergence.outbox import Outbox

KEPT = 3600.0
"""Seconds for which a port is expected again."""
MAX_PORTS = 32
"""Ports remembered; the one that was used longest ago is forgotten first."""
CIRCUITS = 2
"""Ready for each port; one circuit may be there for many ports."""
MAX_CLEAN = 12
"""Circuits ready at once; beyond, nothing is predicted."""
FIRST_PORT = 443
"""Expected at the start, when nothing has been asked for yet."""

Serves = Callable[[int], bool]
"""Whether a ready circuit serves a port."""


class PredictedPorts:
    """The ports of the last hour."""

    def __init__(self, outbox: Outbox, now: float) -> None:
        self._outbox = outbox
        self._used: dict[int, float] = {}  # port -> when, in steady time; the latest last
        self._internal = float("-inf")
        self.used(FIRST_PORT, now)

    def used(self, port: int, now: float) -> None:
        """Somebody asked for a connection to this port."""
        self._used.pop(port, None)
        self._used[port] = self._outbox.steady(now)
        if len(self._used) > MAX_PORTS:
            del self._used[next(iter(self._used))]

    def used_internally(self, now: float) -> None:
        """Somebody asked for a circuit that leads to no exit."""
        self._internal = self._outbox.steady(now)

    def lacking(self, ready: Collection[Serves], now: float) -> list[int]:
        """The ports for which another circuit should be built, ascending; none if there are enough. `ready`: those that
        stand or are on their way, and were used for nothing yet."""
        if len(ready) >= MAX_CLEAN:
            return []
        return [port for port in self.expected(now) if sum(serves(port) for serves in ready) < CIRCUITS]

    def expected(self, now: float) -> list[int]:
        """The ports that are expected again, ascending."""
        oldest = self._outbox.steady(now) - KEPT
        return sorted(port for port, when in self._used.items() if when > oldest)

    def lacks_internal(self, internal: int, ready: int, now: float) -> bool:
        """Whether another internal circuit should be built, with so many of `ready` ones internal."""
        expected = self._outbox.steady(now) - self._internal < KEPT
        return expected and internal < CIRCUITS and ready < MAX_CLEAN
