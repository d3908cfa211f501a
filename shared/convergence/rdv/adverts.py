"""Who advertises what at a rendezvous point.

Does: keep adverts by name and circuit, within limits; keep names that anybody with a link can advertise apart from
those of owners, and check the proofs of these.
Does not: know what a name stands for, or choose between providers (point.py).

Limits count by source (limits.py), so that many links from one address are as one, and leave room for everybody.
Where all places are taken, the circuit that has most of the source that has most is closed: who has few names finds
room however many others make up. Whose owner's name it is, is proved; under a common name others may be strangers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from convergence.circuit.relay import RelayCircuit
from convergence.errors import DestroyReason, RemoteError
from convergence.limits import TokenBucket, below_its_part
from convergence.outbox import Outbox
from convergence.ports import Crypto
from convergence.rdv.blind import DAY, check_advert
from convergence.wire.rdv import Advert, DbInfo, Name

MAX_OF_CIRCUIT = 1 << 15  # all names of a node that lets them share circuits (rdv/group.py), each of two days
MAX_ADVERTS = 1 << 17  # on this point, of owners' names and of common ones
MAX_PROVIDERS = 256  # of one common name; beyond, most are not kept
MAX_MACHINES = 16  # of one owner's name; of more, the latest are kept: old ones may be gone
MAX_PROOFS = 4.0  # checked for one circuit at once, and as many a day: one name needs two at first, and one a day. ...
# ... Each costs a quarter of a handshake, 70 us: so what a new circuit may ask for costs no more than it did itself
PROOFS_RATE = 80.0  # a second, of each source, for circuits with more: a node that has many names makes up to 64. ...
PROOFS_SOURCES = 8  # ... So many sources get this at once; more share it
PROOFS_BURST = 320.0  # of these at once, if none came before


@dataclass(slots=True)
class Provider:
    """A circuit that advertises, or did. What is known of it is not forgotten with an advert: else whoever withdraws
    and comes again would be the least busy one, and new to all askers."""

    circuit: RelayCircuit
    number: int
    source: Hashable
    proofs: TokenBucket  # that it may still ask for beside its source's rate
    names: dict[bool, set[Name]] = field(default_factory=lambda: {True: set(), False: set()})  # owners', and others
    nb: int = 0
    chosen: int = 0  # when it was last chosen: ties go to the longest wait
    silences: int = 0  # times in a row that it did not answer
    rests: float = float("-inf")  # until when it comes behind the others, in steady time


class Adverts:
    """All adverts of one point.

    Attributes:
        names: the providers of each name that has any, the latest one last.
        providers: of each circuit.
    """

    def __init__(self, outbox: Outbox, crypto: Crypto) -> None:
        self.names: dict[Name, dict[RelayCircuit, Provider]] = {}
        self.providers: dict[RelayCircuit, Provider] = {}
        self._outbox = outbox
        self._crypto = crypto
        # What a source has used up is not forgotten with its circuits, nor with its links.
        self._rates: dict[Hashable, TokenBucket] = {}
        self._numbers = 0  # of providers so far
        self._held: dict[bool, Counter[Hashable]] = {True: Counter(), False: Counter()}  # by source
        self._count = {True: 0, False: 0}
        self._crowds: dict[Name, Counter[Hashable]] = {}  # providers by source, of names that have MAX_PROVIDERS

    def __len__(self) -> int:
        return sum(self._count.values())

    def of(self, name: Name) -> Iterable[Provider]:
        """Who may be asked for it."""
        return self.names.get(name, {}).values()

    def carry_out(self, circuit: RelayCircuit, payload: bytes, now: float) -> None:
        """RELAY_DB_INFO. Raises RemoteError for more adverts than a circuit may have, and for a wrong proof."""
        for advert in DbInfo.parse(payload).adverts:
            if advert.adds:
                self._add(circuit, advert, now)
            else:
                self._remove(circuit, advert.name)

    def closed(self, circuit: RelayCircuit) -> None:
        provider = self.providers.get(circuit)
        if provider is not None:
            for name in [*provider.names[True], *provider.names[False]]:
                self._remove(circuit, name)
            del self.providers[circuit]

    def _add(self, circuit: RelayCircuit, advert: Advert, now: float) -> None:
        name = advert.name
        provider = self.providers.get(circuit)
        if provider is None:
            self._numbers += 1
            proofs = TokenBucket(self._outbox, MAX_PROOFS / DAY, MAX_PROOFS)
            provider = self.providers[circuit] = Provider(circuit, self._numbers, circuit.link.source, proofs)
        if name in provider.names[name.owned]:
            return
        full = len(provider.names[True]) + len(provider.names[False]) >= MAX_OF_CIRCUIT
        if full or (name.owned and not self._may_prove(provider, now)):
            raise RemoteError("too many adverts", reason=DestroyReason.RESOURCELIMIT)
        if name.owned:
            check_advert(self._crypto, advert, circuit.binding, now)
        others = self.names.get(name, {})
        if name.owned and len(others) >= MAX_MACHINES:
            self._remove(next(iter(others)), name)
        elif not name.owned and len(others) >= MAX_PROVIDERS:
            if name not in self._crowds:
                self._crowds[name] = Counter(other.source for other in others.values())
            if not below_its_part(self._crowds[name], provider.source, MAX_PROVIDERS):
                return
        if self._count[name.owned] >= MAX_ADVERTS:
            self._make_room(provider, name.owned, now)
        provider.names[name.owned].add(name)
        self.names.setdefault(name, {})[circuit] = provider
        for held in self._counts_of(name):
            held[provider.source] += 1
        self._count[name.owned] += 1

    def _make_room(self, provider: Provider, owned: bool, now: float) -> None:
        """Raises RemoteError if it is this one that has most."""
        held, source = self._held[owned], provider.source
        crowded = max(held, key=lambda source: held[source])
        if held[source] + 1 >= held[crowded]:
            crowded = source
        of_it = (other for other in self.providers.values() if other.source == crowded)
        most = max(of_it, key=lambda other: len(other.names[owned]))
        if crowded == source and len(provider.names[owned]) + 1 >= len(most.names[owned]):
            raise RemoteError("too many adverts", reason=DestroyReason.RESOURCELIMIT)
        self.closed(most.circuit)
        self._outbox.call_at(now, lambda now: most.circuit.destroy(DestroyReason.RESOURCELIMIT, now))  # ends others

    def _may_prove(self, provider: Provider, now: float) -> bool:
        """Whether one more proof of this circuit is checked."""
        if provider.proofs.take(now):
            return True
        rate = self._rates.get(provider.source)
        if rate is None:
            self._rates = {source: rate for source, rate in self._rates.items() if not rate.is_full(now)}
            rate = self._rates[provider.source] = TokenBucket(self._outbox, PROOFS_RATE, PROOFS_BURST)
        return rate.take(now, min(max(len(self._rates) / PROOFS_SOURCES, 1.0), PROOFS_BURST))

    def _remove(self, circuit: RelayCircuit, name: Name) -> None:
        provider = self.providers.get(circuit)
        if provider is None or name not in provider.names[name.owned]:
            return
        provider.names[name.owned].discard(name)
        for held in self._counts_of(name):
            held[provider.source] -= 1
            if not held[provider.source]:
                del held[provider.source]
        self._count[name.owned] -= 1
        others = self.names[name]
        del others[circuit]
        if len(others) < MAX_PROVIDERS:
            self._crowds.pop(name, None)
        if not others:
            del self.names[name]

    def _counts_of(self, name: Name) -> list[Counter[Hashable]]:
        """Those that an advert of this name counts in, by source."""
        crowd = self._crowds.get(name)
        return [self._held[name.owned]] if crowd is None else [self._held[name.owned], crowd]
