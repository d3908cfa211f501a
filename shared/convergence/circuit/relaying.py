"""What a node does for others on circuits: takes them within limits, counts, pauses.

Does: answer CREATE2, refuse what passes a limit, count circuits, streams and cells, end what others have here when the
node pauses or has relayed its volume. Pipes between peers, which introduce nodes, go on meanwhile.
Does not: serve (`Services` of the node) or forward (relay.py); link/throttle.py limits the rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from typing import Protocol as Shape

from convergence.circuit.relay import RelayCircuit
from convergence.crypto.keys import NodeKeys
from convergence.errors import DestroyReason, EndReason, LocalError, RemoteError
from convergence.link.link import Link
from convergence.link.meter import Meter
from convergence.link.neighbours import LinkAddress
from convergence.link.throttle import Throttle
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.wire.cells import CELL_LEN
from convergence.wire.create import Create2, HandshakeType
from convergence.wire.linkspec import LinkSpecifier, ed25519_identity
from convergence.wire.relay import PEER_HOST, Begin

MAX_RELAYED = 32_768  # circuits of others, 6 KB each
MAX_RELAYED_STREAMS = 8_192  # of others, open at this node
MAX_REACHING = 32  # next hops that the circuits of one link wait to reach; each may be a dial of 20 seconds
MAX_PAUSED = 256  # circuits that a paused node takes, each for a peer's pipe


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How much a node does for others.

    Args:
        circuits: open at once; for one more, whoever has most gives one up.
        streams: open at this node at once; a source that has less than its share of them may still add to it. A stream
            that a rendezvous point joins to another counts twice.
        volume: bytes of cells sent since the node's start, after which it pauses; None for no limit.
        rate: bytes/s sent to all links together; None for no limit.
        burst: bytes that may be sent at once after a pause; None for what comes in a second.

    Raises LocalError for a number that is too small to relay anything.
    """

    circuits: int = MAX_RELAYED
    streams: int = MAX_RELAYED_STREAMS
    volume: int | None = None
    rate: int | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        for name, number, least in (
            ("circuits", self.circuits, 1),
            ("streams", self.streams, 1),
            ("volume", self.volume, CELL_LEN),
            ("rate", self.rate, CELL_LEN),
        ):
            if number is not None and number < least:
                raise LocalError(f"{name} is {number}: a node that relays needs {least} at least")


class Offers(Shape):
    """The node: what it offers at the end of a circuit, as in relay.Services."""

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None: ...

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None: ...

    def message(self, circuit: RelayCircuit, command: int, payload: bytes, now: float) -> None: ...

    def circuit_closed(self, circuit: RelayCircuit, now: float) -> None: ...


class Neighbourhood(Shape):
    """Our links, and where more come from."""

    links: dict[int, Link]

    def reach(
        self,
        identity: bytes,
        reply: Callable[[Link | None, float], None],
        now: float,
        source: Hashable,
        address: LinkAddress | None,
    ) -> None: ...


NextHop = Callable[[Sequence[LinkSpecifier]], tuple[bytes, LinkAddress | None]]
"""Whom an EXTEND2 names: their identity, and their address where EXTEND2 tells it. Raises RemoteError for nobody whom
circuits may go on to."""


def known_node(specifiers: Sequence[LinkSpecifier]) -> tuple[bytes, None]:
    """On this network nodes are reached as their descriptors say."""
    return ed25519_identity(specifiers), None


class Relaying:
    """All circuits of others at this node. Stands between them and the node: their relay.Services and relay.Extender.

    A CREATE2 does not tell what the circuit is for, so a paused node takes it. Any later request except for a pipe then
    ends the circuit with HIBERNATING.

    Args:
        keys: ours.
        offers: what is served within the limits.
        limits: as for `set_limits`.
        fast: whether CREATE_FAST is answered, as relays of the Tor network do.

    Attributes:
        keys: ours, for handshakes from now on.
        next_hop: whom circuits may go on to.
        circuits: those open now, with the link that each came from.
        throttle: for our links.
        neighbours: to be set before the first CREATE2.
        on_spent: called with `now` when the volume has been relayed, which pauses.
    """

    neighbours: Neighbourhood

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        offers: Offers,
        *,
        limits: RelayLimits | None,
        next_hop: NextHop = known_node,
        fast: bool = False,
    ) -> None:
        self.keys = keys
        self.circuits: dict[RelayCircuit, Link] = {}
        self.throttle = Throttle(outbox, limits.rate, limits.burst) if limits else Throttle(outbox)
        self.on_spent: Callable[[float], None] = lambda now: None
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._offers = offers
        self.next_hop = next_hop
        self._fast = fast
        self._of: dict[Hashable, dict[RelayCircuit, None]] = {}  # by source, the oldest first
        self._reaching: Counter[Link] = Counter()
        self._pipes: set[RelayCircuit] = set()  # circuits on which only pipes were opened
        self._streams: dict[Hashable, Meter] = {}  # by source; these only count: `begin` refuses
        self._taken = 0
        self._cells = 0
        self._limit(limits)

    @property
    def paused(self) -> bool:
        """Whether it works for nobody: it was told to pause, or has relayed its volume."""
        return self._limits is None or self._spent

    def set_limits(self, limits: RelayLimits | None, now: float) -> None:
        """What is allowed from now on. What is open beyond it stays; but with None, or a volume that has been relayed,
        all circuits are destroyed with HIBERNATING, except those for pipes."""
        self._limit(limits)
        rate, burst = (limits.rate, limits.burst) if limits else (None, None)
        self.throttle.set_rate(rate, now, burst)
        if self.paused:
            self._end_all(now)

    @property
    def carried(self) -> int:
        """Of cells of others' circuits, sent since the start."""
        return self._cells * CELL_LEN

    def snapshot(self) -> dict[str, Any]:
        """JSON-able, for people: what is open now, what was done since the start, and the limits."""
        return {
            "paused": self.paused,
            "spent": self._spent,
            "circuits": len(self.circuits) - len(self._pipes),
            "circuits_total": self._taken,
            "streams": self._open_streams,
            "cells": self._cells,
            "bytes": self.carried,
            "limits": None if self._limits is None else asdict(self._limits),
        }

    def create(self, link: Link, circ_id: int, create: Create2, now: float) -> None:
        """A CREATE2 from a neighbour, or a CREATE_FAST. Raises RemoteError to refuse it."""
        if create.handshake_type == HandshakeType.FAST and not self._fast:
            raise RemoteError("CREATE_FAST, where onion keys are known")
        limits = None if self._spent else self._limits
        most = MAX_PAUSED if limits is None else limits.circuits
        if len(self.circuits) >= most and not self._make_way(link.source, now):
            reason = DestroyReason.HIBERNATING if limits is None else DestroyReason.RESOURCELIMIT
            raise RemoteError("this node relays enough", reason=reason)
        streams = self._streams.get(link.source) or Meter(MAX_RELAYED_STREAMS)
        circuit = RelayCircuit.accept(
            self._outbox,
            self._crypto,
            self._rng,
            link,
            circ_id,
            create,
            keys=self.keys.onion,
            services=self,
            reach=self,
            streams=streams,
        )
        self._taken += 1
        self.circuits[circuit] = link
        self._of.setdefault(link.source, {})[circuit] = None
        self._streams[link.source] = streams

    # -- relay.Extender

    def reach(
        self,
        source: Link,
        specifiers: Sequence[LinkSpecifier],
        reply: Callable[[Link | None, float], None],
        now: float,
    ) -> None:
        """For an EXTEND2. Raises RemoteError also when paused. A link whose circuits wait for MAX_REACHING gets no
        more: it must not use up our dials on nodes that do not exist."""
        self._check()
        identity, address = self.next_hop(specifiers)
        if identity in source.names:
            raise RemoteError("EXTEND2 back to the previous hop")
        if self._reaching[source] >= MAX_REACHING:
            reply(None, now)
            return

        def reached(link: Link | None, now: float) -> None:
            self._reaching[source] -= 1
            if not self._reaching[source]:
                del self._reaching[source]
            reply(link, now)

        self._reaching[source] += 1
        self.neighbours.reach(identity, reached, now, source.source, address)

    # -- relay.Services

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        if begin.host == PEER_HOST:
            if circuit.ends_here and len(circuit.endpoint.entries) == 1:
                self._pipes.add(circuit)
            self._offers.begin(circuit, stream_id, begin, now)
            return
        self._serve(circuit)
        most = MAX_RELAYED_STREAMS if self._limits is None else self._limits.streams
        # Both counts include this stream.
        if self._open_streams > most and self._streams[circuit.link.source].used > self._share(most):
            circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
            return
        self._offers.begin(circuit, stream_id, begin, now)

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None:
        self._serve(circuit)
        self._offers.resolve(circuit, stream_id, host, now)

    def message(self, circuit: RelayCircuit, command: int, payload: bytes, now: float) -> None:
        self._serve(circuit)
        self._offers.message(circuit, command, payload, now)

    def sent(self, cells: int) -> None:
        self._cells += cells
        if self._cells >= self._last_cell:
            self._outbox.flush_later(self)

    def circuit_closed(self, circuit: RelayCircuit, now: float) -> None:
        link = self.circuits.pop(circuit, None)
        if link is not None:
            of_it = self._of[link.source]
            del of_it[circuit]
            if not of_it:
                del self._of[link.source], self._streams[link.source]
        self._pipes.discard(circuit)
        self._offers.circuit_closed(circuit, now)

    # -- inside

    @property
    def _open_streams(self) -> int:
        return sum(streams.used for streams in self._streams.values())

    def _make_way(self, source: Hashable, now: float) -> bool:
        """Whether `source` gets a circuit when all are taken: the oldest one of the source that has most ends."""
        crowded = max(self._of, key=lambda source: len(self._of[source]))
        if len(self._of.get(source, ())) + 1 >= len(self._of[crowded]):
            return False
        next(iter(self._of[crowded])).destroy(DestroyReason.RESOURCELIMIT, now)
        return True

    def _share(self, most: int) -> int:
        """What a source may have of `most` even when others have taken all."""
        return max(most // max(len({link.source for link in self.neighbours.links.values()}), 1), 1)

    def _limit(self, limits: RelayLimits | None) -> None:
        self._limits = limits
        volume = None if limits is None else limits.volume
        self._spent = volume is not None and self._cells * CELL_LEN >= volume
        self._last_cell = math.inf if volume is None or self._spent else volume / CELL_LEN

    def flush(self, now: float) -> bool:
        """The volume has been relayed. Circuits end here, not in `sent`: they call that in the middle of their work."""
        if self._cells >= self._last_cell:
            self._last_cell = math.inf
            self._spent = True
            self._end_all(now)
            self.on_spent(now)
        return False

    def _serve(self, circuit: RelayCircuit) -> None:
        self._check()
        self._pipes.discard(circuit)

    def _check(self) -> None:
        if self.paused:
            raise RemoteError("this node relays nothing now", reason=DestroyReason.HIBERNATING)

    def _end_all(self, now: float) -> None:
        for circuit in list(self.circuits):
            if circuit not in self._pipes or not circuit.ends_here:
                circuit.destroy(DestroyReason.HIBERNATING, now)
