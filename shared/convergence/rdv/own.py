"""A dual peer: what a node offers, it serves itself to whoever's circuit ends here and asks for it.

Does: stand for a point to the node's own offers, and for the circuits to it; find what a query is for.
Does not: serve (service.py). There is no circuit, and nobody else hears of the adverts.

Whoever asks can tell by the time it takes that this very node serves, and so can the relay before us. So it is for
nodes that do not hide what they serve (docs/threat-model.md).
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.circuit.endpoint import AcceptHook
from convergence.circuit.hop import BINDING_LEN
from convergence.circuit.relay import RelayCircuit
from convergence.errors import EndReason
from convergence.wire.rdv import DbInfo, Name
from convergence.wire.relay import Begin
from convergence.wire.target import Protocols, RelayTarget, Role


class OwnCircuit:
    """What an offer's post has in place of a circuit to a point. It ends when the offer does."""

    binding = bytes(BINDING_LEN)
    """Proofs bind to it, and nobody checks them."""

    def __init__(self, offers: dict[Name, OwnCircuit]) -> None:
        self.on_begin: AcceptHook | None = None
        self.on_closed: Callable[[int, float], None] | None = None
        self._offers = offers

    def send_message(self, command: int, payload: bytes) -> None:
        """Adverts."""
        for advert in DbInfo.parse(payload).adverts:
            if advert.adds:
                self._offers[advert.name] = self
            else:
                self._offers.pop(advert.name, None)

    def destroy(self, reason: int, now: float) -> None:
        """Its adverts were withdrawn before."""


class OwnPoint:
    """What a node's posts at itself share.

    Args:
        identity: ours.
    """

    def __init__(self, identity: bytes) -> None:
        self.target = RelayTarget(identity, (), b"", b"", Protocols(0), Role.RDV, frozenset(), False)
        self._offers: dict[Name, OwnCircuit] = {}  # as many as the posts here advertise

    def circuit(self) -> OwnCircuit:
        return OwnCircuit(self._offers)

    def begin(self, circuit: RelayCircuit, stream_id: int, name: Name, begin: Begin, now: float) -> int | None:
        """Serve a query. Else returns why not (EndReason), and the query still waits for an answer."""
        offer = self._offers.get(name)
        if offer is None or offer.on_begin is None:
            return EndReason.RESOLVEFAILED
        return circuit.endpoint.offer(stream_id, begin, offer.on_begin, now)
