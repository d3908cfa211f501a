"""Requests for buckets: ours, and those of others.

Does: carry what tells nothing to the facilitator, or to a neighbour while that is gone; carry what would tell something
through a circuit of its own to a relay, first to one that stands in the bucket, then to any; give others what is here,
or fetch it for them.
Does not: choose buckets (netdir/bucketview.py), or check and keep them (netdir/buckets.py).

A rendezvous point has the buckets that it is in itself (`BucketView.hold`). So names are found without the facilitator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol as Shape
from typing import TypeAlias

from convergence.chance import choose
from convergence.errors import RemoteError
from convergence.introduction.asker import CircuitCarrier, Circuits
from convergence.introduction.pipe import Give, PeerPipe
from convergence.limits import SharedPerMinute
from convergence.netdir.buckets import Buckets, Members, Took, order_of
from convergence.netdir.headers import Headers
from convergence.netdir.rings import index_of
from convergence.netdir.view import Class, Known, View, place_of
from convergence.outbox import Outbox
from convergence.ports import Rng
from convergence.wire.buckets import BucketRequest

MAX_WAYS = 32
"""Purposes that have a circuit of their own; what was used longest ago is forgotten."""
RELAYS = 256
"""Relays drawn, of which one is asked."""
FOR_OTHERS = 60
"""Buckets fetched for others in a minute; beyond, for each source its equal part of them."""

Then: TypeAlias = Callable[[bytes, float], None]


class Facilitator(Shape):
    """What is asked first for what tells nothing."""

    @property
    def connected(self) -> bool: ...

    def fetch(self, request: BucketRequest, then: Then, now: float) -> None: ...


class BucketFetches:
    """Args:
    own: our identity, of no use as the relay that is asked.
    pipes: those to neighbours.
    on_lie: called with `now` when the facilitator gives a bucket that is not the one it signed.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        own: bytes,
        headers: Headers,
        buckets: Buckets,
        view: View[Known],
        circuits: Circuits,
        facilitator: Facilitator,
        pipes: Callable[[], Iterable[PeerPipe]],
        on_lie: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._outbox = outbox
        self._rng = rng
        self._own = own
        self._headers = headers
        self._buckets = buckets
        self._view = view
        self._circuits = circuits
        self._facilitator = facilitator
        self._pipes = pipes
        self._on_lie = on_lie
        self._ways: dict[Hashable, CircuitCarrier] = {}  # what was used longest ago first
        self._for_others = SharedPerMinute(outbox, FOR_OTHERS)

    def fetch(self, request: BucketRequest, key: Hashable, attempt: int, then: Took, now: float) -> None:
        """A `netdir.buckets.Fetch`."""
        if key is None:
            self._ask_directly(request, attempt, then, now)
            return
        purpose = key, request.kind, request.index

        def answered(raw: bytes, now: float) -> None:
            if not raw:
                self._ways.pop(purpose, None)
            then(raw, now)

        way = self._ways.pop(purpose, None)
        if way is not None and attempt == 1:
            self._ways[purpose] = way
            way.fetch(request, answered, now)
        else:

            def found(nodes: Sequence[Known], now: float) -> None:
                self._ask(nodes, purpose, request, attempt, answered, now)

            self._view.sample(Class.RELAYS, RELAYS, now, found)

    def serve(self, request: BucketRequest, source: PeerPipe, give: Give, now: float) -> None:
        """Somebody else wants a bucket: give(header, bucket, now) follows. It is fetched if it is not here; but one
        neighbour does not ask the next one for another one, and so on through the network."""

        def fetched(members: Members | None, now: float) -> None:
            bucket = self._buckets.ours(request)
            header = None if bucket is None or bucket.epoch == request.epoch else self._headers.at(bucket.epoch)
            give(b"" if header is None else header.encode(), b"" if bucket is None else bucket.encode(), now)

        may = self._facilitator.connected or source.peer is None
        if may and self._buckets.ours(request) is None and self._for_others.spend(source, now):
            self._buckets.refresh(request.kind, request.index, now, fetched)
        else:
            fetched(None, now)

    def _ask(
        self, nodes: Sequence[Known], purpose: Hashable, request: BucketRequest, attempt: int, then: Then, now: float
    ) -> None:
        others = [node.target for node in nodes if node.target.identity != self._own]
        if not others:
            then(b"", now)
            return
        inside = [node for node in others if attempt == 1 and self._stands_in(node.identity, request)]
        relay = choose(self._rng, inside or others)
        way = self._ways[purpose] = CircuitCarrier(self._outbox, self._circuits, relay, on_header=self._heard)
        if len(self._ways) > MAX_WAYS:
            del self._ways[next(iter(self._ways))]
        way.fetch(request, then, now)

    def _stands_in(self, identity: bytes, request: BucketRequest) -> bool:
        header = self._headers.newest
        order = None if header is None else order_of(header, request.kind)
        return order is not None and index_of(place_of(order[0], identity), order[1]) == request.index

    def _ask_directly(self, request: BucketRequest, attempt: int, then: Took, now: float) -> None:
        def by_facilitator(raw: bytes, now: float) -> None:
            if not then(raw, now):
                self._on_lie(now)

        def by_neighbour(raw: bytes, now: float) -> None:
            then(raw, now)

        ready = [pipe for pipe in self._pipes() if pipe.ready and not pipe.congested]
        if self._facilitator.connected and (attempt == 1 or not ready):
            self._facilitator.fetch(request, by_facilitator, now)
        elif ready:
            choose(self._rng, ready).fetch(request, by_neighbour, now)
        else:
            then(b"", now)

    def _heard(self, raw: bytes, now: float) -> None:
        try:
            self._headers.take(raw, now)
        except RemoteError:
            return
