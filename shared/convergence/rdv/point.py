"""A rendezvous point: joins streams of circuits that look for a hash to circuits that advertise it.

Does: keep adverts by circuit, choose the provider that this asker was given least often, and of those the one with the
lowest `nb` (streams it is serving), try others when one refuses or does not answer, up to NB_DB, and splice. The asker
learns whether there was no provider, or only busy ones. The point sees blinded hashes and ciphertext.
Does not: store anything, know names, parties or what is relayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from convergence.circuit.relay import RelayCircuit
from convergence.circuit.streams import Entry, SpliceEnd
from convergence.errors import DestroyReason, EndReason, ParseError, RemoteError, StreamError
from convergence.link.meter import Meter
from convergence.outbox import Outbox
from convergence.rdv.own import OwnPoint
from convergence.wire.rdv import Advert, AdvertOp, DbInfo, format_rdv_target, parse_rdv_target
from convergence.wire.relay import REFERRALS_OKAY, Begin, RelayCommand

NB_DB = 5  # providers tried for one query
MAX_ADVERTS_PER_CIRCUIT = 4  # a provider's circuit serves one file, with two blinded names around midnight
MAX_ADVERTS = 1 << 18  # on this point; beyond, new ones close their circuit
MAX_WAITING = 1 << 17  # DATA cells (64 MiB) that wait at all splices; beyond, the stream with the most is ended
MAX_PROVIDERS = 256  # of one hash; beyond, new adverts of it are not kept
ANSWER_LIMIT = 5.0  # seconds a provider has to answer a query; then another is tried, if there is one
REST = 60.0  # seconds for which one that did not answer comes behind the others
MAX_GIVEN = 64  # providers that are remembered for one asker


@dataclass(slots=True)
class Provider:
    """A circuit that advertises, or did. What is known of it is not forgotten with an advert: else whoever withdraws
    and comes again would be the least busy one, and new to all askers."""

    circuit: RelayCircuit
    number: int
    nb: int = 0
    chosen: int = 0  # when it was last chosen: ties go to the longest wait
    rests: float = float("-inf")  # until when it comes behind the others, in steady time


@dataclass(slots=True)
class _Query:
    """A BEGIN that waits for a provider."""

    circuit: RelayCircuit
    stream_id: int
    place: Entry  # what its endpoint keeps for the query; the client may withdraw it and reuse the id
    blinded: bytes
    refer: bool  # whether other points are to be named where nobody is there
    tried: set[RelayCircuit] = field(default_factory=set)
    busy: bool = False  # one of them refused because it is busy

    @property
    def withdrawn(self) -> bool:
        return self.circuit.endpoint.pending(self.stream_id) is not self.place


class RdvPoint:
    """All adverts and splices of one point.

    Attributes:
        own: what this node serves itself, if it does.
        others: encoded descriptors of the points that it names where it knows nobody (rdv/referral.py).
    """

    def __init__(self, outbox: Outbox, own: OwnPoint | None = None) -> None:
        self.own = own
        self.others: Sequence[bytes] = ()
        self._outbox = outbox
        self._files: dict[bytes, dict[RelayCircuit, Provider]] = {}
        self._by_circuit: dict[RelayCircuit, set[bytes]] = {}
        self._adverts = 0
        self._choices = 0
        self._providers: dict[RelayCircuit, Provider] = {}
        self._numbers = 0  # of providers so far
        # How often an asker's circuit was given each provider. A bad one is always the least busy: who comes back to
        # the point gets another, and need not be believed.
        self._given: dict[RelayCircuit, dict[int, int]] = {}
        self._ends: dict[SpliceEnd, None] = {}
        self._waiting = Meter(MAX_WAITING, self._relieve)

    def message(self, circuit: RelayCircuit, payload: bytes) -> None:
        """RELAY_DB_INFO. Raises RemoteError for more adverts than a circuit may have."""
        for advert in DbInfo.parse(payload).adverts:
            if advert.op == AdvertOp.ADD:
                self._add(circuit, advert)
            else:
                self._remove(circuit, advert.blinded)

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        """A query: BEGIN to <blinded>.rdv:0."""
        try:
            blinded = parse_rdv_target(begin.target)
        except ParseError:
            circuit.endpoint.refuse(stream_id, EndReason.TORPROTOCOL)
            return
        reason: int = EndReason.RESOLVEFAILED
        if self.own is not None:
            refusal = self.own.begin(circuit, stream_id, blinded, begin, now)
            if refusal is None:
                return
            reason = refusal
        place = circuit.endpoint.entries[stream_id]
        query = _Query(circuit, stream_id, place, blinded, bool(begin.flags & REFERRALS_OKAY))
        self._try_next(query, reason, now)

    def circuit_closed(self, circuit: RelayCircuit) -> None:
        for blinded in list(self._by_circuit.get(circuit, ())):
            self._remove(circuit, blinded)
        self._by_circuit.pop(circuit, None)  # an empty set is left where no advert was kept
        self._given.pop(circuit, None)
        self._providers.pop(circuit, None)

    def _try_next(self, query: _Query, reason: int, now: float) -> None:
        """Ask the best provider not tried yet. If none is left, answer with `reason` (why the one before did not
        serve), or with RESOURCELIMIT if one of them was busy."""
        query.busy = query.busy or reason == EndReason.RESOURCELIMIT
        endpoint = query.circuit.endpoint
        if query.withdrawn:
            return
        offers = self._untried(query)
        if not offers:
            if query.refer and not query.busy:
                for descriptor in self.others:
                    endpoint.send_message(RelayCommand.DB_INFO, 0, descriptor)
            endpoint.refuse(query.stream_id, EndReason.RESOURCELIMIT if query.busy else reason)
            return
        given = self._given.setdefault(query.circuit, {})
        steady = self._outbox.steady(now)
        offer = min(
            offers, key=lambda offer: (given.get(offer.number, 0), offer.rests > steady, offer.nb, offer.chosen)
        )
        given[offer.number] = given.pop(offer.number, 0) + 1
        if len(given) > MAX_GIVEN:
            del given[next(iter(given))]
        query.tried.add(offer.circuit)
        self._choices += 1
        offer.chosen = self._choices
        offer.nb += 1
        try:
            target = format_rdv_target(query.blinded)
            end = offer.circuit.endpoint.open_splice(target, lambda end: self._served(end, offer), self._waiting)
        except StreamError as error:
            offer.nb -= 1
            self._try_next(query, error.reason, now)
            return
        if end.closed:
            self._try_next(query, EndReason.DESTROY, now)
            return
        self._ends[end] = None
        late = self._outbox.call_at(now + ANSWER_LIMIT, lambda now: self._late(query, end, offer, now))

        def refused(reason: int, now: float) -> None:
            late.cancel()
            self._try_next(query, reason, now)

        def connected(now: float) -> None:
            late.cancel()
            self._join(query, end)

        end.on_refused, end.on_connected_hook = refused, connected

    def _untried(self, query: _Query) -> list[Provider]:
        """Who may be asked next."""
        if len(query.tried) >= NB_DB:
            return []
        return [offer for offer in self._files.get(query.blinded, {}).values() if offer.circuit not in query.tried]

    def _late(self, query: _Query, end: SpliceEnd, offer: Provider, now: float) -> None:
        """The provider has not answered. Where there is no other, its answer may still come."""
        offer.rests = self._outbox.steady(now) + REST
        if query.withdrawn or self._untried(query):
            end.abort(EndReason.TIMEOUT)
            self._try_next(query, EndReason.TIMEOUT, now)

    def _join(self, query: _Query, end: SpliceEnd) -> None:
        if query.withdrawn:
            end.finish(EndReason.DONE)
            return
        asker = query.circuit.endpoint.accept_splice(query.stream_id, end, self._forget, self._waiting)
        if not asker.closed:
            self._ends[asker] = None

    def _add(self, circuit: RelayCircuit, advert: Advert) -> None:
        offered = self._by_circuit.setdefault(circuit, set())
        if advert.blinded in offered:
            return
        if len(offered) >= MAX_ADVERTS_PER_CIRCUIT or self._adverts >= MAX_ADVERTS:
            raise RemoteError("too many adverts", reason=DestroyReason.RESOURCELIMIT)
        providers = self._files.setdefault(advert.blinded, {})
        if len(providers) >= MAX_PROVIDERS:
            return
        offered.add(advert.blinded)
        provider = self._providers.get(circuit)
        if provider is None:
            self._numbers += 1
            provider = self._providers[circuit] = Provider(circuit, self._numbers)
        providers[circuit] = provider
        self._adverts += 1

    def _remove(self, circuit: RelayCircuit, blinded: bytes) -> None:
        offered = self._by_circuit.get(circuit, set())
        if blinded not in offered:
            return
        offered.discard(blinded)
        if not offered:
            del self._by_circuit[circuit]
        del self._files[blinded][circuit]
        if not self._files[blinded]:
            del self._files[blinded]
        self._adverts -= 1

    def _served(self, end: SpliceEnd, offer: Provider) -> None:
        self._forget(end)
        offer.nb -= 1

    def _forget(self, end: SpliceEnd) -> None:
        self._ends.pop(end, None)  # one that closed at once was never kept

    def _relieve(self) -> None:
        max(self._ends, key=lambda end: end.waiting).abort(EndReason.RESOURCELIMIT)
