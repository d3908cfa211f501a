"""The nodes that we know, kept for the next run: it may begin while the facilitator is down.

Does: store descriptors now and then, read them at the start.
Does not: decide what they are good for (nodes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convergence.errors import ParseError
from convergence.netdir.nodes import MAX_RECALLED, NodeDirectory
from convergence.outbox import Outbox, Timer
from convergence.ports import Rng
from convergence.wire.facilitator import Descriptors

BUCKET = "known"
PAUSE = 60.0
"""Seconds at least between two writes."""


class SeldomWrites:
    """Calls write(now) once for all changes of the last PAUSE seconds; at once, if there was none for as long."""

    def __init__(self, outbox: Outbox, write: Callable[[float], None]) -> None:
        self._outbox = outbox
        self._write = write
        self._after = 0.0  # when the next write may be
        self._timer: Timer | None = None

    def changed(self, now: float) -> None:
        if self._timer is None or not self._timer.pending:
            self._timer = self._outbox.call_at(max(now, min(self._after, now + PAUSE)), self._due)

    def _due(self, now: float) -> None:
        self._after = now + PAUSE
        self._write(now)


class NodeMemory:
    """Args:
    network: names the network in the store: its facilitator's address.
    """

    def __init__(self, outbox: Outbox, rng: Rng, directory: NodeDirectory, network: str) -> None:
        self._outbox = outbox
        self._rng = rng
        self._directory = directory
        self._key = network.encode()
        self._writes = SeldomWrites(outbox, self._store)

    def restore(self, now: float, then: Callable[[float], None]) -> None:
        """Read what an earlier run kept into the directory; then(now) follows, whatever storage answers."""

        def loaded(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                try:
                    self._directory.recall(Descriptors.parse(value).items, now)
                except ParseError:
                    pass  # another version wrote it: we know nothing then
            then(now)

        self._outbox.load(BUCKET, self._key, loaded)

    def changed(self, now: float) -> None:
        """The directory's nodes changed."""
        self._writes.changed(now)

    def _store(self, now: float) -> None:
        kept = self._directory.kept(now)
        if len(kept) > MAX_RECALLED:  # at random: a node that floods the list must not fill our memory
            kept = sorted(kept, key=lambda raw: self._rng.random(8))[:MAX_RECALLED]
        if kept:
            self._outbox.store([(BUCKET, self._key, Descriptors(tuple(kept)).encode())])
