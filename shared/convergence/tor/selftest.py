"""A relay of the Tor network looks whether others reach it, before it tells the authorities of itself.

Does: build a circuit over two relays back to this one until that succeeds once, and complain while it does not; then
send padding around it, so that there is a bandwidth to tell of.
Does not: tell anybody (publishing.py), or look again: the authorities look for as long as the relay runs.

What counts is that the circuit comes back on a link that the other relay dialled: on one that we had dialled ourselves
it would come back through any firewall.
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.circuit.client import ClientCircuit
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, Problem, Why
from convergence.events import OrPortReached, OrPortUnreached
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.netdir.tor import TorRelay, TorView
from convergence.outbox import Outbox, Timer
from convergence.path.building import CircuitBuilding
from convergence.path.place import Place, Request, at_once
from convergence.path.weights import Lottery, Position
from convergence.ports import Crypto, Rng
from convergence.wire.relay import RelayCommand
from convergence.wire.target import RelayTarget

AGAIN = 60.0  # seconds between two tries
COMPLAIN = 1200.0  # seconds between two complaints
DROPS = 1000
"""Cells of padding: 500 kB, as C Tor sends. Who tells of no bandwidth is hardly chosen, and gets none."""
DROPS_TIME = 10.0  # seconds that they have to come back


class SelfTest(CircuitBuilding):
    """Args:
    own: how others extend circuits to us now.
    view: the relays that are known.
    address: where others are to reach us, for people.
    on_reached: called once with `now`.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        own: Callable[[], RelayTarget],
        view: Callable[[], TorView | None],
        address: str,
        on_reached: Callable[[float], None],
    ) -> None:
        super().__init__(outbox, crypto, rng, neighbours, size=0)
        self.reached = False
        self._own = own
        self._view = view
        self._address = address
        self._on_reached = on_reached
        self._first: TorRelay | None = None  # of the path that is tried
        self._trying = False
        self._again: Timer | None = None
        self._complaint: Timer | None = None
        self._began = 0.0

    def start(self, now: float) -> None:
        """Begin, as soon as relays are known."""
        self._began = self._outbox.steady(now)
        self._complaint = self._outbox.call_at(now + COMPLAIN, self._complain)

    def stop(self, now: float) -> None:
        for timer in (self._again, self._complaint):
            if timer is not None:
                timer.cancel()
        super().stop(now)

    def nodes_changed(self, now: float) -> None:
        """More relays are known: a path may be found now."""
        if not self.reached and not self._trying and not self._stopped:
            self._try(now)

    def link_address(self, identity: bytes) -> LinkAddress | None:
        """Where the first relay of the path takes links."""
        first = self._first
        return first.link_address if first is not None and first.target.identity == identity else None

    # -- what building asks

    def _blame(self, place: Place, hop: int, now: float) -> None:
        """Nobody: the next path is over other relays, most likely."""

    # -- inside

    def _try(self, now: float) -> None:
        self._trying = True
        self._serve(Request(at_once(self._make_path), "self-test", self._stands, self._failed), now)

    def _make_path(self, now: float) -> tuple[RelayTarget, ...]:
        view = self._view()
        if view is None:
            raise Problem(PathWhy.NO_CONSENSUS)
        own = self._own()
        dialled = {name for link in self._neighbours.links.values() if link.initiator for name in link.names}
        last = self._draw(view, {own.identity, *dialled})
        first = self._draw(view, {own.identity, last.target.identity})
        self._first = first
        return first.target, last.target, own

    def _draw(self, view: TorView, without: set[bytes]) -> TorRelay:
        def suits(relay: TorRelay | None) -> bool:
            return relay is not None and relay.target.identity not in without

        lottery = Lottery(view.consensus, view.relays, Position.MIDDLE)
        status = lottery.draw(self._rng, lambda status: suits(view.relay(status)))
        relay = None if status is None else view.relay(status)
        if relay is None:
            raise Problem(PathWhy.NO_PATH)
        return relay

    def _stands(self, circuit: ClientCircuit, now: float) -> None:
        before_us = circuit.path[-2].identity
        links = [link for link in self._neighbours.links.values() if link.peer == before_us]
        if not any(link.handshake.authenticated and not link.initiator for link in links):
            circuit.destroy(DestroyReason.FINISHED, now)
            self._failed(Why(PathWhy.NO_PATH), now)
            return
        self.reached = True
        assert self._complaint is not None
        self._complaint.cancel()
        self._outbox.emit(OrPortReached(self._address))
        self._on_reached(now)
        for _ in range(DROPS):
            circuit.send_message(RelayCommand.DROP, b"")
        self._outbox.call_at(now + DROPS_TIME, lambda now: circuit.destroy(DestroyReason.FINISHED, now))

    def _failed(self, why: Why, now: float) -> None:
        self._trying = False
        if not self._stopped:
            self._again = self._outbox.call_at(now + AGAIN, self.nodes_changed)

    def _complain(self, now: float) -> None:
        self._outbox.emit(OrPortUnreached(self._address, round((self._outbox.steady(now) - self._began) / 60)))
        self._complaint = self._outbox.call_at(now + COMPLAIN, self._complain)
