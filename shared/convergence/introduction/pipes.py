"""The pipes that stand: those we open over links that we dialled, and those that neighbours open.

Does: choose the links for ours, bound the number of theirs, end what leads nowhere.
Does not: know records (pipe.py), or what pipes are used for (peers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import chain

from convergence.circuit.client import ClientCircuit
from convergence.circuit.relay import RelayCircuit
from convergence.errors import DestroyReason, EndReason, LocalError, StreamError
from convergence.introduction.pipe import PEER_TARGET, PeerPipe
from convergence.limits import gives_way
from convergence.link.link import Link
from convergence.link.neighbours import Neighbours
from convergence.netdir.lookup import Lookup
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.wire.descriptor import Descriptor
from convergence.wire.relay import Begin
from convergence.wire.target import Role

MAX_PIPES = 6
"""Pipes that we open..."""
MIN_PIPES = 3
"""...and how many of them may keep a link open that serves nothing else."""
MAX_ACCEPTED = 1024
"""Pipes that others open, each up to 330 KB if there are many descriptors and the reader is slow. Beyond that, a pipe
of the source that has most makes room, or one whose opener has not registered, or the new one is refused."""
RETRY_AFTER = 60.0
"""Seconds until we open another pipe to a neighbour whose pipe ended while its link stayed open."""
ALONE_LIMIT = 600.0
"""Seconds that a pipe beyond MIN_PIPES may be the only thing on its link."""


def relay_of(lookup: Lookup, identity: bytes, now: float) -> Descriptor | None:
    """What is known of a node that relays."""
    node = lookup.get(identity, now)
    return node if node is not None and node.roles & Role.RELAY else None


@dataclass(eq=False, slots=True)
class _Opened:
    """A pipe that we opened."""

    pipe: PeerPipe
    link: Link
    circuit: ClientCircuit
    alone_since: float | None = None  # since when the link carries nothing else, in steady time


@dataclass(eq=False, slots=True)
class _Accepted:
    """A pipe that a neighbour opened."""

    pipe: PeerPipe
    circuit: RelayCircuit

    @property
    def source(self) -> Hashable:
        return self.circuit.link.source


class Pipes:
    """All pipes of a node.

    Args:
        new_pipe: (identity, now) -> a pipe to that node; with None, a pipe that a neighbour opens. The owner of the
            pipe calls `forget` when it is over.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        lookup: Lookup,
        neighbours: Neighbours,
        new_pipe: Callable[[bytes | None, float], PeerPipe],
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._lookup = lookup
        self._neighbours = neighbours
        self._new_pipe = new_pipe
        self._opened: dict[bytes, _Opened] = {}  # by the neighbour's identity
        self._accepted: dict[PeerPipe, _Accepted] = {}
        self._retry: dict[bytes, float] = {}  # identity -> from when another pipe may be opened to it
        outbox.on_shift(lambda by: self._retry.clear())  # what ended a pipe may have been the wrong clock

    def __iter__(self) -> Iterator[PeerPipe]:
        return chain((entry.pipe for entry in self._opened.values()), self._accepted)

    @property
    def opened(self) -> dict[bytes, PeerPipe]:
        """Ours, by the neighbour's identity."""
        return {identity: entry.pipe for identity, entry in self._opened.items()}

    @property
    def accepted(self) -> list[PeerPipe]:
        """Theirs."""
        return list(self._accepted)

    def to(self, identity: bytes) -> PeerPipe | None:
        """A pipe to the node of this identity; one that we opened is preferred."""
        return next((pipe for pipe in self if pipe.peer == identity and pipe.ready), None)

    # -- ours

    def fill(self, now: float) -> None:
        """Open as many as are wanted."""
        for link in list(self._neighbours.links.values()):
            self.open(link, now)

    def open(self, link: Link, now: float) -> None:
        """Open a pipe over this link, if the link is suitable."""
        peer = link.peer
        if peer is None or not link.initiator or not link.open:
            return
        enough = len(self._opened) >= (MAX_PIPES if link.circuits else MIN_PIPES)
        node = relay_of(self._lookup, peer, now)
        if enough or node is None or peer in self._opened or now < self._retry.get(peer, now):
            return
        pipe = self._new_pipe(peer, now)

        def built(circuit: ClientCircuit, now: float) -> None:
            try:
                pipe.bind(circuit.open_stream(PEER_TARGET, pipe, now))
            except (LocalError, StreamError) as error:  # it closed just now
                pipe.close(str(error), now)

        try:
            circuit = ClientCircuit(
                self._outbox,
                self._crypto,
                self._rng,
                link,
                (node.target,),
                built,
                lambda circuit, reason, now: pipe.close("its circuit is gone", now),
                now,
            )
        except LocalError:  # the link is full of circuits
            pipe.close("the link is full", now)
            return
        if not circuit.closed:  # a full link sheds even a circuit that has only just come
            self._opened[peer] = _Opened(pipe, link, circuit)

    def may_retry(self, identity: bytes) -> None:
        """The pipe to this neighbour ended for no fault of its own."""
        self._retry.pop(identity, None)

    def sweep(self, now: float) -> None:
        """Close surplus pipes and open missing ones. To be called now and then."""
        self._retry = {identity: when for identity, when in self._retry.items() if when > now}
        self._close_alone(now)
        self.fill(now)

    def _close_alone(self, now: float) -> None:
        """Close the latest pipe that is the only user of its link, if there are enough others."""
        steady = self._outbox.steady(now)
        for entry in self._opened.values():
            alone = len(entry.link.circuits) <= 1
            entry.alone_since = (entry.alone_since or steady) if alone else None
        if len(self._opened) > MIN_PIPES:
            for entry in reversed(self._opened.values()):
                if entry.alone_since is not None and steady - entry.alone_since >= ALONE_LIMIT:
                    entry.pipe.close("its link serves nothing else", now)
                    return

    # -- theirs

    def accept(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> bool:
        """A BEGIN to PEER_HOST: one pipe on a circuit. Whether it was taken."""
        taken = any(entry.circuit is circuit for entry in self._accepted.values())
        if begin.port or taken or not self._make_room(circuit.link.source, now):
            return False
        stream = circuit.endpoint.accept_stream(stream_id)
        pipe = self._new_pipe(None, now)
        self._accepted[pipe] = _Accepted(pipe, circuit)
        stream.handler = pipe
        pipe.bind(stream)
        stream.accept(now)
        return True

    def _make_room(self, source: Hashable, now: float) -> bool:
        """Whether there is room for one more incoming pipe of this source. If all places are taken, the newest pipe of
        the source that has most is closed: one neighbour with many names shuts out nobody. If this one has as many, a
        pipe is closed whose opener has not registered."""
        if len(self._accepted) < MAX_ACCEPTED:
            return True
        crowding = gives_way(list(reversed(self._accepted.values())), source)
        strangers = (pipe for pipe in self._accepted if pipe.peer is None)
        spare = next(strangers, None) if crowding is None else crowding.pipe
        if spare is None:
            return False
        spare.close("too many pipes", now, EndReason.RESOURCELIMIT)
        return True

    # -- both

    def forget(self, pipe: PeerPipe, now: float) -> None:
        """The pipe is over."""
        entry = None if pipe.peer is None else self._opened.get(pipe.peer)
        if self._accepted.pop(pipe, None) is None and entry is not None and entry.pipe is pipe:
            assert pipe.peer is not None
            del self._opened[pipe.peer]
            if entry.link.open:
                self._retry[pipe.peer] = now + RETRY_AFTER
            entry.circuit.destroy(DestroyReason.FINISHED, now)

    def close_all(self, why: str, now: float) -> None:
        for pipe in list(self):
            pipe.close(why, now)
