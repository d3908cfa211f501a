"""Conflux at a relay: circuits of others that become legs of sets (proposal 329 section 2.2).

Does: LINK -> LINKED -> LINKED_ACK, find the set by its nonce, hand what the streams of a set ask to the services of one
of its circuits; bound what waits for its order in all sets together.
Does not: carry anything (conflux.py), or say who may link: its owner does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from convergence.circuit.conflux import Leg, LinkedSet
from convergence.circuit.relay import RelayCircuit
from convergence.errors import DestroyReason, RemoteError
from convergence.outbox import Outbox
from convergence.wire.cells import PAYLOAD_LEN
from convergence.wire.conflux import Link, Wish
from convergence.wire.relay import Begin, RelayCommand

MAX_WAITING = (64 << 20) // PAYLOAD_LEN
"""Messages, 64 MB of them, that wait in all sets; beyond, the fullest set of the source that has most is ended."""


class Linking:
    """All sets that end at this relay, by their nonces. Each has one living circuit at least.

    Attributes:
        linked: legs since the start.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.linked = 0
        self._outbox = outbox
        self._sets: dict[bytes, _Set] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._sets)

    def message(self, circuit: RelayCircuit, command: int, payload: bytes, now: float) -> None:
        """On stream 0 of a circuit that is no leg: LINK makes it one. Raises RemoteError for any other."""
        if command != RelayCommand.CONFLUX_LINK:
            raise RemoteError(f"relay command {command} was not expected here")
        link = Link.parse(payload)
        own = self._sets.get(link.nonce) or _Set(self, self._outbox, link.nonce, circuit.link.source)
        linked = own.linked
        if not linked.agrees(link):
            raise RemoteError("LINK to a set that does not stand where it says")
        leg = circuit.join(linked, now)
        own.circuits = {other: own.circuits.get(other, circuit) for other in linked.legs}  # none of those that are gone
        self._sets[link.nonce] = own
        linked.wish = link.wish
        # What has to wait here is what we are short of: so clients are to keep to one leg, as C tor's exits wish.
        leg.say(RelayCommand.CONFLUX_LINKED, linked.link(link.nonce, Wish.MIN_LATENCY).encode())

    # -- what sets tell

    def over(self, nonce: bytes) -> None:
        self._sets.pop(nonce, None)

    def wait(self, more: int, now: float) -> None:
        """So many messages more wait, or fewer. The source that has most waiting may lose the set that has most."""
        self._waiting += more
        while self._waiting > MAX_WAITING:
            waiting: Counter[Hashable] = Counter()
            for own in self._sets.values():
                waiting[own.source] += own.linked.waiting
            crowded = max(waiting, key=lambda source: waiting[source])
            of_it = (own.linked for own in self._sets.values() if own.source == crowded)
            max(of_it, key=lambda linked: linked.waiting).close(DestroyReason.RESOURCELIMIT, now)


class _Set:
    """One of them. `source`: of its first circuit."""

    def __init__(self, owner: Linking, outbox: Outbox, nonce: bytes, source: Hashable) -> None:
        self.source = source
        self.circuits: dict[Leg, RelayCircuit] = {}
        self._owner = owner
        self.linked = LinkedSet(
            outbox,
            originates=False,
            on_message=self._message,
            on_closed=lambda reason, now: owner.over(nonce),
            on_waiting=owner.wait,
        )
        self.linked.endpoint.on_begin = self._begin
        self.linked.endpoint.on_resolve = self._resolve

    @property
    def _circuit(self) -> RelayCircuit:
        """The one that its streams count for."""
        return self.circuits[self.linked.legs[0]]

    def _begin(self, stream_id: int, begin: Begin, now: float) -> None:
        self._circuit.begin(stream_id, begin, now)

    def _resolve(self, stream_id: int, host: str, now: float) -> None:
        self._circuit.resolve(stream_id, host, now)

    def _message(self, leg: Leg, command: int, payload: bytes, now: float) -> None:
        if command != RelayCommand.CONFLUX_LINKED_ACK:
            raise RemoteError(f"relay command {command} was not expected on a leg")
        leg.answered(now)
        self._owner.linked += 1
