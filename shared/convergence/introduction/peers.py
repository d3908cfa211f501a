"""Peers: what pipes to neighbours are used for.

Does: own the parts that use pipes and pass each event to the right one: which pipes are open (pipes.py), who introduces
us (introducers.py), what the network looks like (gossip.py), the ways to an introduction (ways.py). Keeps our
registered descriptor fresh.
Does not: know records (pipe.py), pass signals on (signalling.py), or make links (links.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from convergence.circuit.relay import RelayCircuit
from convergence.crypto.keys import NodeKeys
from convergence.errors import EndReason
from convergence.events import PipeClosed
from convergence.introduction.gossip import Gossip
from convergence.introduction.introducers import Introducers
from convergence.introduction.pipe import Give, PeerPipe
from convergence.introduction.pipes import Pipes
from convergence.introduction.signalling import Carrier, Delivered, Reply, Signals, Switchboard
from convergence.introduction.ways import Route, Ways
from convergence.link.link import Link
from convergence.link.neighbours import Neighbours
from convergence.netdir.headers import Headers
from convergence.netdir.lookup import Lookup
from convergence.netdir.nodes import NodeDirectory
from convergence.netdir.view import View
from convergence.outbox import Outbox
from convergence.path.pool import CircuitPool
from convergence.ports import Crypto, Rng
from convergence.wire.buckets import BucketRequest
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import RecordType
from convergence.wire.relay import Begin

SWEEP = 10.0
"""Seconds between looks at what is there."""


def _nothing(request: BucketRequest, pipe: PeerPipe, give: Give, now: float) -> None:
    give(b"", b"", now)


class _Own:
    """The pipe on which a switchboard reaches its own node."""

    def __init__(self, outbox: Outbox, switchboard: Switchboard, on_delivered: Delivered) -> None:
        self._on_delivered = on_delivered
        self._signals = Signals(outbox, lambda kind, body, now: switchboard.reply(self, body, now))

    @property
    def source(self) -> _Own:
        return self

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        if kind is RecordType.DELIVER:
            self._on_delivered(*self._signals.delivery(body), self, now)


class Peers:
    """A node's part in introductions; the `Peering` of each of its pipes.

    Args:
        keys: ours.
        directory: takes what is heard, and gives it to others.
        view, lookup: which nodes there are, and what is known of those with a name.
        describe: gives our signed descriptor as of now, or None while we have nothing to offer.
        dials: whether a link to a node needs no introduction.
        facilitator: gives the way to be introduced by the facilitator, while there is one.
        on_delivered: called for a message to us.
        on_wanted: called with a request for a bucket, the pipe that it came on, what takes the answer, and `now`.
        on_nodes: called with `now` when the directory's nodes changed.
        on_introducers: called with `now` when `introducers()` gives other nodes than before.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        directory: NodeDirectory,
        headers: Headers,
        view: View[Descriptor],
        lookup: Lookup,
        neighbours: Neighbours,
        pool: CircuitPool,
        switchboard: Switchboard,
        *,
        describe: Callable[[float], Descriptor | None],
        dials: Callable[[Descriptor], bool] = lambda node: False,
        facilitator: Callable[[], Carrier | None] = lambda: None,
        on_delivered: Delivered,
        on_wanted: Callable[[BucketRequest, PeerPipe, Give, float], None] = _nothing,
        on_nodes: Callable[[float], None] = lambda now: None,
        on_introducers: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._outbox = outbox
        self._neighbours = neighbours
        self._describe = describe
        self._on_delivered = on_delivered
        self._on_wanted = on_wanted
        self._descriptor: Descriptor | None = None  # what we register
        self._watching = False
        self._stopped = False
        self._pipes = Pipes(
            outbox,
            crypto,
            rng,
            lookup,
            neighbours,
            lambda peer, now: PeerPipe(outbox, crypto, rng, keys, directory, switchboard, self, peer, now),
        )
        self._gossip = Gossip(outbox, rng, directory, headers, self._pipes, on_nodes)
        self._introducers = Introducers(outbox, lookup, self._pipes, on_introducers)
        self._ways = Ways(outbox, rng, keys.identity, view, lookup, self._pipes, pool, dials, facilitator)
        switchboard.register(keys.identity, _Own(outbox, switchboard, on_delivered))

    # -- for the node

    def nodes_changed(self, now: float) -> None:
        """Other nodes are known: links to them may carry pipes."""
        if not self._stopped:
            self._pipes.fill(now)

    def link_opened(self, link: Link, now: float) -> None:
        """There is a new link: it may carry a pipe."""
        if not self._stopped:
            self._watch(now)
            self._pipes.open(link, now)

    def link_closed(self, link: Link, now: float) -> None:
        """A link is gone, and its pipe with it: another link may carry a new pipe."""
        if not self._stopped:
            self._pipes.fill(now)

    def accept(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        """A BEGIN to PEER_HOST: one pipe on a circuit."""
        if self._stopped or not self._pipes.accept(circuit, stream_id, begin, now):
            circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
        else:
            self._watch(now)

    def republish(self, now: float) -> None:
        """Our descriptor changed: register the new one with every neighbour, or withdraw if there is none any more."""
        self._descriptor = None
        offers = self.describe(now) is not None
        for pipe in list(self._pipes):
            if pipe.offered if not offers else pipe.anonymous:  # neither can be changed on an open pipe
                pipe.close("what this node offers changed", now)
                if pipe.peer is not None:
                    self._pipes.may_retry(pipe.peer)
            else:
                pipe.register(now)
        if not self._stopped:
            self._pipes.fill(now)

    def introducers(self, now: float) -> tuple[bytes, ...]:
        """Identities of up to 3 neighbours that pass signals on to us, the best first."""
        return self._introducers.best(now)

    @property
    def pipes(self) -> Iterable[PeerPipe]:
        """Those that we opened."""
        return self._pipes.opened.values()

    def route(self, target: bytes, named: bytes | None, now: float, source: Hashable = None) -> Route:
        """The ways to ask for an introduction to `target` for `source`; `named`: the introducer to ask first."""
        return self._ways.to(target, named, source, now)

    def stop(self, now: float) -> None:
        """Close all pipes and open no more."""
        self._stopped = True
        self._introducers.stop()
        self._gossip.stop()
        self._pipes.close_all("the node is stopping", now)

    # -- Peering

    def describe(self, now: float) -> Descriptor | None:
        if self._descriptor is None:
            self._descriptor = self._describe(now)
        return self._descriptor

    def met(self, pipe: PeerPipe, now: float) -> None:
        self._gossip.met(pipe, now, ours=pipe not in self._pipes.accepted)

    def registered(self, pipe: PeerPipe, now: float) -> None:
        self._introducers.check(now)

    def delivered(self, pipe: PeerPipe, sealed: bytes, reply: Reply, now: float) -> None:
        self._on_delivered(sealed, reply, pipe.peer, now)  # not the pipe: a new one would be another source

    def heard(self, descriptors: Sequence[bytes], now: float) -> None:
        self._gossip.heard(descriptors, now)

    def headers(self, now: float) -> Sequence[bytes]:
        return self._gossip.headers(now)

    def proof(self, now: float) -> Sequence[bytes]:
        return self._gossip.proof()

    def heard_header(self, raw: bytes, now: float) -> None:
        self._gossip.heard_header(raw, now)

    def wanted(self, pipe: PeerPipe, request: BucketRequest, give: Give, now: float) -> None:
        self._on_wanted(request, pipe, give, now)

    def answered(self, pipe: PeerPipe, now: float) -> None:
        self._gossip.answered(now)

    def over(self, pipe: PeerPipe, why: str, now: float) -> None:
        self._pipes.forget(pipe, now)
        if pipe.peer is not None:
            self._outbox.emit(PipeClosed(why))
        self._introducers.check(now)

    # -- time

    def _watch(self, now: float) -> None:
        """Look after pipes for as long as there are links."""
        if not self._watching:
            self._watching = True
            self._descriptor = None  # nobody has renewed it meanwhile
            self._outbox.call_at(now + SWEEP, self._sweep)
            self._gossip.start(now)

    def _sweep(self, now: float) -> None:
        self._watching = bool(self._neighbours.links) and not self._stopped
        if not self._watching:
            self._gossip.pause()
            return
        self._outbox.call_at(now + SWEEP, self._sweep)
        own = self._descriptor
        if own is not None and 2 * now >= own.published + own.expires:  # half of its time is over
            self.republish(now)
        self._pipes.sweep(now)
