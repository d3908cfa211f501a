"""Our introducers: neighbours that took our registration and so pass signals on to us.

Does: name the best of them for our descriptor, and tell the node when they change, but not too often.
Does not: register (pipe.py), or publish the descriptor.
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.introduction.pipes import Pipes, relay_of
from convergence.netdir.lookup import Lookup
from convergence.outbox import Outbox, Timer
from convergence.wire.descriptor import MAX_INTRODUCERS

INTRODUCERS_PAUSE = 30.0
"""Seconds at least between two times that the node is told of a change."""


class Introducers:
    """Who introduces us.

    Args:
        pipes: those that there are.
        on_change: called with `now` when `best` gives other nodes than before.
    """

    def __init__(self, outbox: Outbox, lookup: Lookup, pipes: Pipes, on_change: Callable[[float], None]) -> None:
        self._outbox = outbox
        self._lookup = lookup
        self._pipes = pipes
        self._on_change = on_change
        self._told: frozenset[bytes] = frozenset()
        self._told_at = float("-inf")
        self._telling: Timer | None = None
        self._stopped = False

    def best(self, now: float) -> tuple[bytes, ...]:
        """Identities of up to 3 neighbours that pass signals on to us, the one that has done so longest first."""
        since: dict[bytes, float] = {}
        for pipe in self._pipes:
            peer = pipe.peer
            if pipe.registered_since is not None and peer is not None and relay_of(self._lookup, peer, now):
                since[peer] = min(pipe.registered_since, since.get(peer, pipe.registered_since))
        return tuple(sorted(since, key=lambda identity: since[identity])[:MAX_INTRODUCERS])

    def check(self, now: float) -> None:
        """They may have changed."""
        waiting = self._telling is not None and self._telling.pending
        if not self._stopped and not waiting and frozenset(self.best(now)) != self._told:
            self._telling = self._outbox.call_at(max(now, min(self._told_at, now) + INTRODUCERS_PAUSE), self._tell)

    def stop(self) -> None:
        """Nobody is told any more."""
        self._stopped = True
        if self._telling is not None:
            self._telling.cancel()

    def _tell(self, now: float) -> None:
        introducers = frozenset(self.best(now))
        if introducers != self._told:
            self._told, self._told_at = introducers, now
            self._on_change(now)
