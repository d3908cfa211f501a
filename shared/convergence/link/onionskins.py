"""CREATE2s that wait for their handshake, on all links of a node: served in turn, within a share of the processor.

Does: give sources their turns, and the links of a source theirs; count handshakes over time, count what each link asks
for.
Does not: hold the cells (each link holds its own) or answer them (circuit/relay.py).

No cell costs a relay more than a handshake: 0.2 to 0.3 ms, while forwarding a cell takes 1 us. So a link that sends
nothing but CREATE2 must not get a relay's whole processor, nor may many links from one address. The core has no clock
of its own: it counts handshakes against the time of its inputs, and leaves the rest to a timer. In between, the shell
reads and writes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol as Shape

from convergence.limits import TokenBucket
from convergence.outbox import Outbox, Timer

HANDSHAKES = 500  # a second at most, for all links together: an eighth of a core
BURST = 16  # handshakes that may be done at once after a pause
WAKE = 0.004  # seconds between two turns while links wait
ASKED = 500  # CREATE2s a second that are read from one link: a relay that keeps to HANDSHAKES never passes on more
ASKED_BURST = 256  # CREATE2s that it may send at once

PAUSED = 8  # links that ask for more than this and are read at that rate; if there are more, they share it


class Asking(Shape):
    """A link, as the queue sees it.

    Attributes:
        source: whom limits count it under.
    """

    source: Hashable

    @property
    def wants_turn(self) -> bool:
        """Whether a CREATE2 waits, and the neighbour reads what it is sent."""
        ...

    def answer_create(self, now: float) -> None:
        """Answer the CREATE2 that has waited longest."""
        ...


class Onionskins:
    """Whose turn it is, and how many links are not read.

    Args:
        burst: handshakes that may be done at once.
    """

    def __init__(self, outbox: Outbox, burst: float = BURST) -> None:
        self._outbox = outbox
        self._budget = TokenBucket(outbox, HANDSHAKES, burst)
        self._paused: set[Asking] = set()
        self._links: dict[Hashable, dict[Asking, None]] = {}  # by source, in turn order: the first is next
        self._timer: Timer | None = None

    def wait(self, link: Asking, now: float) -> None:
        """The link wants a turn. It gets one now, if no other link waits and the budget allows."""
        self._links.setdefault(link.source, {}).setdefault(link)
        if self._timer is None:
            self._serve(now)

    def forget(self, link: Asking) -> None:
        """The link is closed."""
        self._paused.discard(link)
        if link.source in self._links:
            self._links[link.source].pop(link, None)
            if not self._links[link.source]:
                del self._links[link.source]

    def pause(self, link: Asking, debt: float) -> float:
        """The link asked for `debt` seconds' worth of handshakes too much. Returns for how many seconds it is not read.
        The more such links there are, the longer the pause, so that all of them together cost little."""
        self._paused.add(link)
        return debt * max(len(self._paused) / PAUSED, 1.0)

    def resume(self, link: Asking) -> None:
        """The link is read again."""
        self._paused.discard(link)

    def _serve(self, now: float) -> None:
        self._timer = None
        self._budget.refill(now)
        while self._links and self._budget.left >= 1:
            source = next(iter(self._links))
            links = self._links.pop(source)
            link = next(iter(links))
            del links[link]
            if links:
                self._links[source] = links
            if link.wants_turn:
                self._budget.left -= 1
                link.answer_create(now)
                if link.wants_turn:
                    self._links.setdefault(source, {})[link] = None
        if self._links:
            self._timer = self._outbox.call_at(now + WAKE, self._serve)
