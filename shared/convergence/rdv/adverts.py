"""Who advertises what at a rendezvous point.

Does: keep adverts by name and circuit, within limits; keep names that anybody with a link can advertise apart from
those of owners, and check the proofs of these.
Does not: know what a name stands for, or choose between providers (point.py).

Limits leave room for everybody: beyond one, a link gets places while it has less than its equal part. For owners' names
there are no strangers to leave room for: nobody but the owner gets one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from convergence.circuit.relay import RelayCircuit
from convergence.errors import DestroyReason, RemoteError
from convergence.limits import TokenBucket, below_its_part
from convergence.link.link import Link
from convergence.outbox import Outbox
from convergence.ports import Crypto
from convergence.rdv.blind import check_advert
from convergence.wire.rdv import Advert, DbInfo, Name

MAX_OF_CIRCUIT = 1 << 15  # all names of a node that lets them share circuits (rdv/group.py), each of two days
MAX_ADVERTS = 1 << 17  # on this point, of owners' names and of common ones; beyond, most close their circuit
MAX_PROVIDERS = 256  # of one common name; beyond, most are not kept
MAX_MACHINES = 16  # of one owner's name; of more, the latest are kept: old ones may be gone
MAX_PROOFS = 16  # checked for one circuit: two weeks of days of one name. Each costs about what a handshake costs
PROOFS_RATE = 80.0  # a second, of each link, for circuits with more: a node that has many names makes up to 64
PROOFS_BURST = 320  # of these at once, if none came before


@dataclass(slots=True)
class Provider:
    """A circuit that advertises, or did. What is known of it is not forgotten with an advert: else whoever withdraws
    and comes again would be the least busy one, and new to all askers."""

    circuit: RelayCircuit
    number: int
    names: set[Name] = field(default_factory=set)
    proofs: int = 0  # checked so far
    nb: int = 0
    chosen: int = 0  # when it was last chosen: ties go to the longest wait
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
        # What a link has used up is not forgotten with its circuits.
        self._rates: WeakKeyDictionary[Link, TokenBucket] = WeakKeyDictionary()
        self._numbers = 0  # of providers so far
        self._held: dict[bool, Counter[Link]] = {True: Counter(), False: Counter()}  # adverts of owners, and others
        self._totals = {True: 0, False: 0}  # of these

    def __len__(self) -> int:
        return sum(self._totals.values())

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
            for name in list(provider.names):
                self._remove(circuit, name)
            del self.providers[circuit]

    def _add(self, circuit: RelayCircuit, advert: Advert, now: float) -> None:
        name = advert.name
        provider = self.providers.get(circuit)
        if provider is None:
            self._numbers += 1
            provider = self.providers[circuit] = Provider(circuit, self._numbers)
        if name in provider.names:
            return
        held = self._held[name.owned]
        full = self._totals[name.owned] >= MAX_ADVERTS and not below_its_part(held, circuit.link, MAX_ADVERTS)
        if full or len(provider.names) >= MAX_OF_CIRCUIT or (name.owned and not self._may_prove(provider, now)):
            raise RemoteError("too many adverts", reason=DestroyReason.RESOURCELIMIT)
        if name.owned:
            provider.proofs += 1
            check_advert(self._crypto, advert, circuit.binding, now)
        others = self.names.get(name, {})
        if name.owned and len(others) >= MAX_MACHINES:
            self._remove(next(iter(others)), name)
        elif not name.owned and len(others) >= MAX_PROVIDERS:
            links = (other.link for other in others)
            if not below_its_part(links, circuit.link, MAX_PROVIDERS):
                return
        provider.names.add(name)
        self.names.setdefault(name, {})[circuit] = provider
        held[circuit.link] += 1
        self._totals[name.owned] += 1

    def _may_prove(self, provider: Provider, now: float) -> bool:
        """Whether one more proof of this circuit is checked."""
        if provider.proofs < MAX_PROOFS:
            return True
        rate = self._rates.get(provider.circuit.link)
        if rate is None:
            rate = self._rates[provider.circuit.link] = TokenBucket(self._outbox, PROOFS_RATE, PROOFS_BURST)
        return rate.take(now)

    def _remove(self, circuit: RelayCircuit, name: Name) -> None:
        provider = self.providers.get(circuit)
        if provider is None or name not in provider.names:
            return
        provider.names.discard(name)
        del self.names[name][circuit]
        if not self.names[name]:
            del self.names[name]
        held = self._held[name.owned]
        held[circuit.link] -= 1
        self._totals[name.owned] -= 1
        if not held[circuit.link]:
            del held[circuit.link]
