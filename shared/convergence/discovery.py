"""How a node learns of the others, and they of it: the port, and the way that needs nobody but the program itself.

Does: name what a node asks of whatever finds nodes (`Discovery`); take signed descriptors from the program, and give it
the node's own (`GivenNodes`).
Does not: verify descriptors or keep them (netdir/nodes.py). The facilitator is the other way (facilitator/client.py).

Either way, neighbours tell each other what they heard since (introduction/gossip.py). So descriptors that are given
once at the start, and were valid lately, are enough for as long as the node runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol as Shape

from convergence.events import Announced, NodesWanted
from convergence.introduction.signalling import Carrier
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox, Timer
from convergence.wire.buckets import BucketRequest
from convergence.wire.descriptor import Descriptor

RENEW_MIN = 5.0  # seconds between two descriptors of ours at least, however soon one expires


class Discovery(Shape):
    """Keeps a node's directory fresh and tells others of the node. One that needs a channel asks for one of
    Protocol.FACILITATOR, whose number is `channel`; what happens to it comes through `opened`, `data` and `closed`."""

    channel: int | None
    listed_since: float | None
    """Since when all others are told of this node, on the steady clock, as whoever tells them says."""

    @property
    def connected(self) -> bool:
        """Whether it can do its work now."""
        ...

    @property
    def carrier(self) -> Carrier | None:
        """Takes signals to nodes that it knows, if it can: the last way to an introduction."""
        ...

    def start(self, now: float) -> None:
        """Begin; nothing if it has begun."""
        ...

    def stop(self, now: float) -> None:
        """Stay quiet until `start`."""
        ...

    def register(self, now: float) -> None:
        """What the node says of itself has changed: tell others."""
        ...

    def refresh(self, now: float) -> None:
        """A node is wanted that the directory lacks: look for news now."""
        ...

    def know(self, descriptors: Iterable[bytes], now: float) -> None:
        """The program knows these encoded descriptors."""
        ...

    def moved(self, now: float) -> None:
        """This machine is on another network, or slept: channels are dead."""
        ...

    def fetch(self, request: BucketRequest, then: Callable[[bytes, float], None], now: float) -> None:
        """Ask whoever finds nodes for a bucket: then(it, or nothing, now) follows."""
        then(b"", now)

    def draw(self, day: int, then: Callable[[bytes | None, float], None], now: float) -> None:
        """Ask how the shared random value of a day was drawn: then(an encoded Draw, now) follows, with None if nobody
        can be asked."""
        then(None, now)

    def check(self, now: float) -> None:
        """This machine may be cut off: see whether the channel still answers."""
        return None

    def opened(self, channel: int, now: float) -> None:
        return None

    def data(self, channel: int, data: bytes, now: float) -> None:
        return None

    def closed(self, channel: int, now: float, reason: str) -> None:
        return None


class GivenNodes(Discovery):
    """The program is asked for descriptors by `NodesWanted` and gives them by `know`, when it likes. It gets ours by
    `Announced`, anew when half of its time is over.

    Args:
        directory: takes what is given, if its node signed it.
        describe: gives the node's signed descriptor as of now, or None while it has nothing to offer.
        on_nodes: called with `now` when the directory's nodes may have changed.
    """

    channel = None
    listed_since = None
    carrier = None
    connected = True

    def __init__(
        self,
        outbox: Outbox,
        directory: NodeDirectory,
        describe: Callable[[float], Descriptor | None],
        on_nodes: Callable[[float], None],
    ) -> None:
        self._outbox = outbox
        self._directory = directory
        self._describe = describe
        self._on_nodes = on_nodes
        self._started = False
        self._renewal: Timer | None = None

    def start(self, now: float) -> None:
        if not self._started:
            self._started = True
            self.register(now)
            self.refresh(now)

    def stop(self, now: float) -> None:
        self._started = False
        self._cancel()

    def register(self, now: float) -> None:
        descriptor = self._describe(now) if self._started else None
        if descriptor is not None:
            self._cancel()
            self._outbox.emit(Announced(descriptor.encode().hex()))
            self._renewal = self._outbox.call_at(now + max((descriptor.expires - now) / 2, RENEW_MIN), self.register)

    def refresh(self, now: float) -> None:
        self._outbox.emit(NodesWanted())

    def know(self, descriptors: Iterable[bytes], now: float) -> None:
        if self._directory.recall(descriptors, now):
            self._on_nodes(now)

    def moved(self, now: float) -> None:
        """What was given has aged by as long as this machine slept, and so has our own."""
        if self._started:
            self.register(now)
            self.refresh(now)

    def _cancel(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
