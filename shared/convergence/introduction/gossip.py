"""What the network looks like, as neighbours tell each other.

Does: ask now and then for descriptors published lately, take what comes into the directory, tell the node of news. Pass
on the facilitator's headers, so that it cannot show different ones to different nodes without being found out.
Does not: verify descriptors (netdir/nodes.py) or headers (netdir/headers.py), answer those who ask (pipe.py), or keep
pipes (pipes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from convergence.chance import choose, fraction
from convergence.errors import ParseError, RemoteError
from convergence.introduction.pipe import PeerPipe
from convergence.introduction.pipes import Pipes
from convergence.netdir.bucketview import SILENT
from convergence.netdir.headers import Headers
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox, Timer
from convergence.ports import Rng

GOSSIP_INTERVAL = 60.0
"""Seconds between two ASKs, give or take a third."""
GOSSIP_OVERLAP = 900
"""Seconds by which ASK overlaps the last complete answer on the same pipe, because descriptors take time to travel.
Each pipe counts by itself: a neighbour that tells nothing must not keep us from asking others for all they know."""
NEWS_PAUSE = 1.0
"""Seconds in which news is gathered before the node is told, because the node then looks at its whole list."""


class Gossip:
    """Asks and hears.

    Args:
        headers: of the facilitator.
        pipes: those that there are.
        on_nodes: called with `now` when the directory's nodes changed.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        directory: NodeDirectory,
        headers: Headers,
        pipes: Pipes,
        on_nodes: Callable[[float], None],
    ) -> None:
        self._outbox = outbox
        self._rng = rng
        self._directory = directory
        self._headers = headers
        self._pipes = pipes
        self._on_nodes = on_nodes
        self._heard_at = 0.0  # when an answer to ASK was last complete
        self._news: Timer | None = None
        self._next: Timer | None = None

    def start(self, now: float) -> None:
        """Ask one of the neighbours every now and then."""
        pause = GOSSIP_INTERVAL * (2 + 2 * fraction(self._rng)) / 3
        self._next = self._outbox.call_at(now + pause, self._go_round)

    def pause(self) -> None:
        """Ask nobody until `start`. The node is still told news that came before."""
        if self._next is not None:
            self._next.cancel()

    def stop(self) -> None:
        self.pause()
        if self._news is not None:
            self._news.cancel()

    def met(self, pipe: PeerPipe, now: float, *, ours: bool) -> None:
        """One more pipe is open; `ours`: we opened it. Ask there if we opened it or nobody has answered lately."""
        if ours or abs(now - self._heard_at) >= GOSSIP_INTERVAL:  # the clock may have been set back
            self._ask(pipe, now)

    def heard(self, descriptors: Sequence[bytes], now: float) -> None:
        """Encoded descriptors that nobody has checked."""
        # All of them: `any` over a generator would stop at the first.
        news = any([self._directory.hear(raw, now) for raw in descriptors])
        if news and (self._news is None or not self._news.pending):
            self._news = self._outbox.call_at(now + NEWS_PAUSE, self._on_nodes)

    def headers(self, now: float) -> list[bytes]:
        """What belongs to our answer to ASK."""
        return self._headers.to_tell(now)

    def proof(self) -> list[bytes]:
        """What goes with our ASK."""
        return self._headers.proof()

    def heard_header(self, raw: bytes, now: float) -> None:
        """A header that nobody has checked. Raises ParseError. One that is out of date, or of a facilitator that others
        trust, is no fault of who passed it on."""
        try:
            self._headers.take(raw, now)
        except ParseError:
            raise
        except RemoteError:
            return

    def answered(self, now: float) -> None:
        """An answer to ASK is complete."""
        self._heard_at = now

    def _ask(self, pipe: PeerPipe, now: float) -> None:
        if pipe.may_ask(now):
            pipe.ask(max(0, int(self._since(min(pipe.answered_at, now), now))), now)

    def _since(self, answered: float, now: float) -> float:
        """Of when descriptors are worth asking for. Of a large network the facilitator says in each epoch who is there,
        so only headers are, until it is silent for long; then all that was published since."""
        newest = self._headers.newest
        if newest is None or newest.published < self._directory.published:
            return answered - GOSSIP_OVERLAP
        silent = newest.published + SILENT
        return now if now < silent else (answered if answered >= silent else newest.published) - GOSSIP_OVERLAP

    def _go_round(self, now: float) -> None:
        self.start(now)
        pipes = [pipe for pipe in self._pipes if pipe.may_ask(now)]
        if pipes:
            self._ask(choose(self._rng, pipes), now)
