"""Pipes to neighbours: who introduces us, whom we introduce, and what they know of the network.

Does: keep a few pipes over links that we dialled, take those that neighbours open, spread descriptors, and say in which
order to ask for an introduction.
Does not: know records (pipe.py), pass signals on (signalling.py), or make links (links.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from convergence.circuit.client import ClientCircuit
from convergence.circuit.relay import RelayCircuit
from convergence.crypto.keys import NodeKeys
from convergence.errors import DestroyReason, EndReason, LocalError, StreamError
from convergence.events import PipeClosed
from convergence.introduction.asker import CircuitCarrier
from convergence.introduction.guard import Budget
from convergence.introduction.pipe import PEER_TARGET, PeerPipe
from convergence.introduction.signalling import Carrier, Delivered, Signals, Switchboard
from convergence.link.link import Link
from convergence.link.neighbours import Neighbours
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox, Timer
from convergence.path.pool import CircuitPool
from convergence.path.select import choose, fraction, sample
from convergence.ports import Crypto, Rng
from convergence.wire.descriptor import MAX_INTRODUCERS, Descriptor, Role
from convergence.wire.facilitator import RecordType
from convergence.wire.relay import Begin

MAX_PIPES = 6
"""Pipes that we open..."""
MIN_PIPES = 3
"""...of which so many keep a link that serves nothing else."""
MAX_ACCEPTED = 1024
"""Pipes that others open, up to 330 KB each where descriptors are many and readers slow. Beyond, one on the link that
has most makes room, or one that registered nobody, or the new one is refused."""
SETUP_TIMEOUT = 15.0
"""Seconds from our CREATE2 to the neighbour's HELLO."""
RETRY_AFTER = 60.0
"""Seconds until a neighbour whose link stands but whose pipe ended is tried again."""
SWEEP = 10.0
"""Seconds between looks at what is there."""
ALONE_LIMIT = 600.0
"""Seconds that a pipe beyond MIN_PIPES may be the only thing on its link."""
INTRODUCERS_PAUSE = 30.0
"""Seconds between two changes of our introducers that the node is told of."""
GOSSIP_INTERVAL = 60.0
"""Seconds between two ASKs, give or take a third."""
GOSSIP_OVERLAP = 900
"""Seconds that ASK goes back before the last complete answer on the same pipe (one that tells nothing must not keep us
from asking others for all they know): descriptors travel for a while."""
NEWS_PAUSE = 1.0
"""Seconds in which news of nodes are gathered before the node is told: looking at them all takes time."""
OTHER_CARRIERS = 3
"""Pipes asked for an introduction although nothing says that they lead to the node."""
CIRCUITS_PER_MINUTE = 12
"""Circuits to introducers. Each relay of such a circuit may have to be introduced to the next one in turn: without a
limit a few descriptors of nodes that are not there, naming each other, would keep a whole network building circuits."""


@dataclass(eq=False, slots=True)
class _Opened:
    """A pipe that we opened."""

    pipe: PeerPipe
    link: Link
    circuit: ClientCircuit
    alone_since: float | None = None  # since when the link carries nothing else


class _Own:
    """The pipe on which a switchboard reaches its own node."""

    def __init__(self, outbox: Outbox, switchboard: Switchboard, on_delivered: Delivered) -> None:
        self._outbox = outbox
        self._on_delivered = on_delivered
        self._signals = Signals(outbox, lambda kind, body: switchboard.reply(self, body, outbox.now))

    def send(self, kind: RecordType, body: bytes) -> None:
        if kind is RecordType.DELIVER:
            self._on_delivered(*self._signals.delivery(body), self, self._outbox.now)


class Peers:
    """All pipes of a node; the `Peering` of each.

    Args:
        keys: ours.
        describe: gives our signed descriptor as of now, or None while we have nothing to offer.
        dials: whether a link to a node needs no introduction.
        facilitator: gives the way to be introduced by the facilitator, while there is one.
        on_delivered: called for a message to us.
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
        neighbours: Neighbours,
        pool: CircuitPool,
        switchboard: Switchboard,
        *,
        describe: Callable[[float], Descriptor | None],
        dials: Callable[[Descriptor], bool] = lambda node: False,
        facilitator: Callable[[], Carrier | None] = lambda: None,
        on_delivered: Delivered,
        on_nodes: Callable[[float], None] = lambda now: None,
        on_introducers: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._keys = keys
        self._directory = directory
        self._neighbours = neighbours
        self._pool = pool
        self._switchboard = switchboard
        self._describe = describe
        self._dials = dials
        self._facilitator = facilitator
        self._on_delivered = on_delivered
        self._on_nodes = on_nodes
        self._on_introducers = on_introducers
        self._opened: dict[bytes, _Opened] = {}  # by the neighbour's identity
        self._accepted: dict[PeerPipe, RelayCircuit] = {}
        self._retry: dict[bytes, float] = {}  # identity -> from when another pipe may be opened to it
        self._told: frozenset[bytes] = frozenset()  # introducers that the node was told of
        self._told_at = float("-inf")
        self._telling = False
        self._descriptor: Descriptor | None = None  # what we register
        self._heard_at = 0.0  # when an answer to ASK was last complete
        self._news = False
        self._circuits = Budget(CIRCUITS_PER_MINUTE)
        self._gossiping: Timer | None = None
        self._watching = False
        self._stopped = False
        switchboard.register(keys.identity, _Own(outbox, switchboard, on_delivered))

    # -- for the node

    def link_opened(self, link: Link, now: float) -> None:
        """There is one more link: it may carry a pipe."""
        self._watch(now)
        self._open(link, now)

    def link_closed(self, link: Link, now: float) -> None:
        """A link is gone, and with it its pipe: another one may carry one instead."""
        self._fill(now)

    def accept(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        """A BEGIN to PEER_HOST: one pipe on a circuit."""
        if begin.port or self._stopped or circuit in self._accepted.values() or not self._make_room(circuit.link, now):
            circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
            return
        self._watch(now)
        stream = circuit.endpoint.accept_stream(stream_id)
        pipe = self._pipe()
        self._accepted[pipe] = circuit
        stream.handler = pipe
        pipe.bind(stream)
        stream.accept()

    def republish(self, now: float) -> None:
        """What `describe` gives changed: register it with every neighbour, or withdraw where nothing is left."""
        self._descriptor = None
        offers = self.describe(now) is not None
        for pipe in list(self._pipes()):
            if pipe.offered if not offers else pipe.anonymous:  # neither can be changed on a pipe that stands
                pipe.close("what this node offers changed", now)
                if pipe.peer is not None:
                    self._retry.pop(pipe.peer, None)
            else:
                pipe.register(now)
        self._fill(now)

    def introducers(self) -> tuple[bytes, ...]:
        """Identities of up to 3 neighbours that pass signals on to us, the one that has done so longest first."""
        since: dict[bytes, float] = {}
        for pipe in self._pipes():
            if pipe.registered_since is not None and pipe.peer is not None and self._relay(pipe.peer) is not None:
                since[pipe.peer] = min(pipe.registered_since, since.get(pipe.peer, pipe.registered_since))
        return tuple(sorted(since, key=lambda identity: since[identity])[:MAX_INTRODUCERS])

    def carriers(self, target: bytes, named: bytes | None = None) -> Iterator[Carrier]:
        """The ways to ask for an introduction to `target`, best first: through `named` if somebody is, the facilitator,
        those who are said to know the node, a few others, through circuits, and last, lest a node that has lost all its
        links stays alone, somebody whose address it can dial. Each is looked for only when the one before was of no
        use."""
        node = self._directory.get(target, self._outbox.now)
        introducers = () if node is None else node.introducers
        tried = {self._keys.identity}
        if named is not None:
            yield from self._pipes_to([named], tried)
            yield from self._circuits_to([named], tried)
        facilitator = self._facilitator()
        if facilitator is not None:
            yield facilitator
        yield from self._pipes_to([target, *introducers], tried)
        yield from self._pipes_to(self._others(tried), tried)
        tried.add(target)
        yield from self._circuits_to(introducers, set(tried))
        yield from self._dialled(introducers, tried)

    def stop(self, now: float) -> None:
        """Close all pipes and open no more."""
        self._stopped = True
        for pipe in list(self._pipes()):
            pipe.close("the node is stopping", now)

    # -- Peering

    def describe(self, now: float) -> Descriptor | None:
        if self._descriptor is None:
            self._descriptor = self._describe(now)
        return self._descriptor

    def met(self, pipe: PeerPipe, now: float) -> None:
        if pipe not in self._accepted or now >= self._heard_at + GOSSIP_INTERVAL:
            self._ask(pipe, now)

    def registered(self, pipe: PeerPipe, now: float) -> None:
        self._check_introducers(now)

    def delivered(self, pipe: PeerPipe, sealed: bytes, reply: Callable[[bytes], None], now: float) -> None:
        self._on_delivered(sealed, reply, pipe.peer, now)  # not the pipe: a new one would be another source

    def heard(self, descriptors: Sequence[bytes], now: float) -> None:
        # All of them: `any` over a generator would stop at the first.
        if any([self._directory.hear(raw, now) for raw in descriptors]) and not self._news:
            self._news = True
            self._outbox.call_at(now + NEWS_PAUSE, self._tell_news)

    def answered(self, pipe: PeerPipe, now: float) -> None:
        self._heard_at = now

    def over(self, pipe: PeerPipe, why: str, now: float) -> None:
        entry = None if pipe.peer is None else self._opened.get(pipe.peer)
        if self._accepted.pop(pipe, None) is None and entry is not None and entry.pipe is pipe:
            assert pipe.peer is not None
            del self._opened[pipe.peer]
            if entry.link.open:
                self._retry[pipe.peer] = now + RETRY_AFTER
            entry.circuit.destroy(DestroyReason.FINISHED, now)
        if pipe.peer is not None:
            self._outbox.emit(PipeClosed(why))
        self._check_introducers(now)

    # -- pipes

    def _pipe(self, peer: bytes | None = None) -> PeerPipe:
        return PeerPipe(
            self._outbox, self._crypto, self._rng, self._keys, self._directory, self._switchboard, self, peer
        )

    def _pipes(self) -> Iterator[PeerPipe]:
        return chain((entry.pipe for entry in self._opened.values()), self._accepted)

    def _relay(self, identity: bytes) -> Descriptor | None:
        node = self._directory.get(identity, self._outbox.now)
        return node if node is not None and node.roles & Role.RELAY else None

    def _fill(self, now: float) -> None:
        for link in list(self._neighbours.links.values()):
            self._open(link, now)

    def _open(self, link: Link, now: float) -> None:
        """Open a pipe over this link, if it is one for that."""
        peer = link.peer
        if peer is None or not link.initiator or not link.open or self._stopped:
            return
        enough = len(self._opened) >= (MAX_PIPES if link.circuits else MIN_PIPES)
        node = self._relay(peer)
        if enough or node is None or peer in self._opened or now < self._retry.get(peer, now):
            return
        pipe = self._pipe(peer)

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
                (node,),
                built,
                lambda circuit, reason, now: pipe.close("its circuit is gone", now),
            )
        except LocalError:  # the link is full of circuits
            return
        if not circuit.closed:  # a full link sheds even a circuit that has only just come
            self._opened[peer] = _Opened(pipe, link, circuit)
            self._outbox.call_at(now + SETUP_TIMEOUT, lambda now: self._check_setup(pipe, now))

    def _check_setup(self, pipe: PeerPipe, now: float) -> None:
        if not pipe.ready:
            pipe.close("no HELLO in time", now, EndReason.TIMEOUT)

    def _make_room(self, link: Link, now: float) -> bool:
        """Whether there is room for one more that somebody opens over this link. The newest one of the link that has
        most gives way, so that a neighbour of many faces shuts out nobody else, or whoever has not registered."""
        if len(self._accepted) < MAX_ACCEPTED:
            return True
        counts = Counter(circuit.link for circuit in self._accepted.values())
        ((crowded, most),) = counts.most_common(1)
        if counts[link] + 1 < most:
            spare = next(pipe for pipe in reversed(self._accepted) if self._accepted[pipe].link is crowded)
        else:
            strangers = (pipe for pipe in self._accepted if pipe.peer is None)
            stranger = next(strangers, None)
            if stranger is None:
                return False
            spare = stranger
        spare.close("too many pipes", now, EndReason.RESOURCELIMIT)
        return True

    # -- ways to introductions

    def _pipes_to(self, identities: Iterable[bytes], tried: set[bytes]) -> Iterator[Carrier]:
        for identity in identities:
            if identity not in tried:
                pipe = next((pipe for pipe in self._pipes() if pipe.peer == identity and pipe.ready), None)
                if pipe is not None:
                    tried.add(identity)
                    yield pipe.signals

    def _circuits_to(self, identities: Iterable[bytes], tried: set[bytes]) -> Iterator[Carrier]:
        for identity in identities:
            node = None if identity in tried else self._relay(identity)
            if node is not None and self._circuits.spend(None, self._outbox.now):
                tried.add(identity)
                yield CircuitCarrier(self._outbox, self._pool, node)

    def _dialled(self, introducers: Iterable[bytes], tried: set[bytes]) -> Iterator[Carrier]:
        """Of the introducers, or else of all relays, one."""
        now = self._outbox.now
        relays = [node for node in self._directory.nodes(Role.RELAY, now) if self._dials(node)]
        others = [node for node in relays if node.identity not in tried]
        able = [node for node in others if node.identity in introducers] or others
        if able and self._circuits.spend(None, now):
            yield CircuitCarrier(self._outbox, self._pool, choose(self._rng, able), direct=True)

    def _others(self, tried: set[bytes]) -> list[bytes]:
        """A few neighbours that may happen to know a node; relays that we chose ourselves know more than others."""
        opened = [peer for peer, entry in self._opened.items() if entry.pipe.ready and peer not in tried]
        accepted = {pipe.peer for pipe in self._accepted if pipe.peer is not None} - tried
        others = opened or sorted(accepted)
        return sample(self._rng, others, min(OTHER_CARRIERS, len(others)))

    # -- introducers

    def _check_introducers(self, now: float) -> None:
        if self._stopped or self._telling or frozenset(self.introducers()) == self._told:
            return
        self._telling = True
        self._outbox.call_at(max(now, self._told_at + INTRODUCERS_PAUSE), self._tell_introducers)

    def _tell_introducers(self, now: float) -> None:
        self._telling = False
        introducers = frozenset(self.introducers())
        if introducers != self._told and not self._stopped:
            self._told, self._told_at = introducers, now
            self._on_introducers(now)

    # -- what the network looks like

    def _ask(self, pipe: PeerPipe, now: float) -> None:
        if pipe.may_ask(now):
            pipe.ask(max(0, int(pipe.answered_at) - GOSSIP_OVERLAP), now)

    def _gossip(self, now: float) -> None:
        self._gossip_later(now)
        pipes = [pipe for pipe in self._pipes() if pipe.may_ask(now)]
        if pipes:
            self._ask(choose(self._rng, pipes), now)

    def _gossip_later(self, now: float) -> None:
        pause = GOSSIP_INTERVAL * (2 + 2 * fraction(self._rng)) / 3
        self._gossiping = self._outbox.call_at(now + pause, self._gossip)

    def _tell_news(self, now: float) -> None:
        self._news = False
        if not self._stopped:
            self._on_nodes(now)

    # -- time

    def _watch(self, now: float) -> None:
        """Look after pipes for as long as there are links."""
        if not self._watching and not self._stopped:
            self._watching = True
            self._descriptor = None  # nobody has renewed it meanwhile
            self._outbox.call_at(now + SWEEP, self._sweep)
            self._gossip_later(now)

    def _sweep(self, now: float) -> None:
        self._watching = bool(self._neighbours.links) and not self._stopped
        if not self._watching:
            if self._gossiping is not None:
                self._gossiping.cancel()
            return
        self._outbox.call_at(now + SWEEP, self._sweep)
        self._retry = {identity: when for identity, when in self._retry.items() if when > now}
        own = self._descriptor
        if own is not None and 2 * now >= own.published + own.expires:  # half of its time is over
            self.republish(now)
        self._close_alone(now)
        self._fill(now)

    def _close_alone(self, now: float) -> None:
        """Close the latest pipe that alone keeps its link, if there are enough others."""
        for entry in self._opened.values():
            alone = len(entry.link.circuits) <= 1
            entry.alone_since = (entry.alone_since or now) if alone else None
        if len(self._opened) > MIN_PIPES:
            for entry in reversed(self._opened.values()):
                if entry.alone_since is not None and now - entry.alone_since >= ALONE_LIMIT:
                    entry.pipe.close("its link serves nothing else", now)
                    return
