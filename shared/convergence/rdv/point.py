"""A rendezvous point: joins streams of circuits that look for a hash to circuits that advertise it.

Does: choose the provider that this asker was given least often, and of those the one with the lowest `nb` (streams it
is serving), try others when one refuses or does not answer, up to NB_DB, and splice. The asker learns whether there was
no provider, or only busy ones. The point sees blinded names and ciphertext.
Does not: store anything, know names, parties or what is relayed, or keep adverts (adverts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from convergence.circuit.relay import RelayCircuit
from convergence.circuit.streams import Entry, SpliceEnd
from convergence.errors import EndReason, ParseError, StreamError
from convergence.link.meter import Meter
from convergence.outbox import Outbox
from convergence.ports import Crypto
from convergence.rdv.adverts import Adverts, Provider
from convergence.rdv.own import OwnPoint
from convergence.wire.rdv import Name, format_rdv_target, parse_rdv_target
from convergence.wire.relay import REFERRALS_OKAY, Begin, RelayCommand

NB_DB = 5  # providers tried for one query
MAX_WAITING = 1 << 17  # DATA cells (64 MiB) that wait at all splices; beyond, the stream with the most is ended
ANSWER_LIMIT = 5.0  # seconds a provider has to answer a query; then another is tried, if there is one
REST = 60.0  # seconds for which one that did not answer comes behind the others; doubled each time, up to ...
MAX_REST = 8 * REST  # ... so long: who holds the owner's old circuits open leaves many that never answer
MAX_GIVEN = 64  # providers that are remembered for one asker


@dataclass(slots=True)
class _Query:
    """A BEGIN that waits for a provider."""

    circuit: RelayCircuit
    stream_id: int
    place: Entry  # what its endpoint keeps for the query; the client may withdraw it and reuse the id
    name: Name
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

    def __init__(self, outbox: Outbox, crypto: Crypto, own: OwnPoint | None = None) -> None:
        self.own = own
        self.others: Sequence[bytes] = ()
        self._outbox = outbox
        self._adverts = Adverts(outbox, crypto)
        self._choices = 0
        # How often an asker's circuit was given each provider. A bad one is always the least busy: who comes back to
        # the point gets another, and need not be believed.
        self._given: dict[RelayCircuit, dict[int, int]] = {}
        self._ends: dict[SpliceEnd, None] = {}
        self._waiting = Meter(MAX_WAITING, self._relieve)

    def message(self, circuit: RelayCircuit, payload: bytes, now: float) -> None:
        """RELAY_DB_INFO. Raises RemoteError for adverts that are too many, or not the owner's."""
        self._adverts.carry_out(circuit, payload, now)

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        """A query: BEGIN to <name>.rdv:0."""
        try:
            name = parse_rdv_target(begin.target)
        except ParseError:
            circuit.endpoint.refuse(stream_id, EndReason.TORPROTOCOL)
            return
        reason: int = EndReason.RESOLVEFAILED
        if self.own is not None:
            refusal = self.own.begin(circuit, stream_id, name, begin, now)
            if refusal is None:
                return
            reason = refusal
        place = circuit.endpoint.entries[stream_id]
        query = _Query(circuit, stream_id, place, name, bool(begin.flags & REFERRALS_OKAY))
        self._try_next(query, reason, now)

    def circuit_closed(self, circuit: RelayCircuit) -> None:
        self._adverts.closed(circuit)
        self._given.pop(circuit, None)

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
            target = format_rdv_target(query.name)
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
            offer.silences = 0
            self._join(query, end)

        end.on_refused, end.on_connected_hook = refused, connected

    def _untried(self, query: _Query) -> list[Provider]:
        """Who may be asked next."""
        if len(query.tried) >= NB_DB:
            return []
        return [offer for offer in self._adverts.of(query.name) if offer.circuit not in query.tried]

    def _late(self, query: _Query, end: SpliceEnd, offer: Provider, now: float) -> None:
        """The provider has not answered. Where there is no other, its answer may still come."""
        offer.rests = self._outbox.steady(now) + min(REST * 2**offer.silences, MAX_REST)
        offer.silences += 1
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

    def _served(self, end: SpliceEnd, offer: Provider) -> None:
        self._forget(end)
        offer.nb -= 1

    def _forget(self, end: SpliceEnd) -> None:
        self._ends.pop(end, None)  # one that closed at once was never kept

    def _relieve(self) -> None:
        max(self._ends, key=lambda end: end.waiting).abort(EndReason.RESOURCELIMIT)
