"""The circuits of a node's own in one network: some kept ready, renewed, replaced at once when slow or dead.

Does: build along paths that it is given, with a deadline for each hop; retry over other paths; hand out circuits, each
to one user only (isolation); list all of them for people.
Does not: choose relays, or judge them: whoever inherits this does, for a network (pool.py, tor/circuits.py). Nor does
it know what goes through a circuit.

Every circuit has a *place* in the pool, from the choice of a path to its end; `PLACE` says what ends each state. When a
hop does not come to stand, the whole path is given up, and the request is served over another one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from convergence.chance import fraction
from convergence.circuit.client import ClientCircuit
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, LocalError, Problem, Why
from convergence.events import CircuitBuilt, CircuitClosed, CircuitsReady, Trouble
from convergence.link.link import Link
from convergence.link.neighbours import Neighbours
from convergence.outbox import Outbox, Timer
from convergence.path.place import PLACE, STATES, Extension, Place, Request, Stage
from convergence.ports import Crypto, Rng
from convergence.states import StateMachine
from convergence.wire.target import RelayTarget, Role

RENEW_AFTER = 600.0  # seconds a ready circuit is kept, and up to half as much again so that they do not go together
REPLACED_AFTER = 0.1  # seconds: what is asked for on a circuit that was taken goes ahead of building the next one
RETRY_FIRST = 0.5  # seconds between attempts to fill the pool, doubled up to RETRY_MAX while they fail
RETRY_MAX = 30.0
YOUNG = 5.0  # seconds; a ready circuit that closes sooner may be a relay's game
MAX_YOUNG = 20  # such closings in a row that are made good at once; beyond, RETRY_FIRST lies between attempts


class CircuitBuilding:
    """To be inherited.

    Args:
    size: how many are kept ready; on_full: called whenever that many are.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        *,
        size: int,
        on_full: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._neighbours = neighbours
        self._size = size
        self._on_full = on_full
        self._places: dict[int, Place] = {}
        self._ready: list[Place] = []
        self._filling = 0
        self._numbers = 0
        self._retry = RETRY_FIRST
        self._retry_timer: Timer | None = None
        self._young = 0
        self._stopped = False

    # -- what a network decides

    def _lacks(self, now: float) -> bool:
        """Whether one more should be made ready."""
        return len(self._ready) + self._filling < self._size

    def _ready_request(self) -> Request:
        """For one more circuit that is kept ready; `self._fill_failed` hears if there will be none."""
        raise NotImplementedError

    def _blame(self, place: Place, hop: int, now: float) -> None:
        """The hop of this number (0, 1, ...) did not come to stand, or the link to the first one is gone. The place's
        request is served over another path next: it may be told what to avoid."""
        raise NotImplementedError

    def _hop_stands(self, place: Place, hop: int, now: float) -> None:
        """The hop of this number stands."""

    def _all_stand(self, place: Place, now: float) -> None:
        """All hops stand. Whoever does not want it used yet moves the place to "held", and calls `_hand_over` later."""
        self._hand_over(place, now)

    def _gone(self, place: Place, now: float) -> None:
        """A place that has a path is given up, whether its circuit ever stood or not."""

    def _died_young(self, place: Place, now: float) -> None:
        """A ready one was closed by the far side soon after it had come to stand."""

    def _given_up(self, request: Request, now: float) -> None:
        """The request used up its attempts."""

    def _introduced(self, before: RelayTarget, after: RelayTarget) -> bool:
        """Whether a hop may have to be introduced to the next one, which takes longer."""
        return False

    def _kept(self, place: Place, now: float) -> None:
        """One more is ready."""

    # -- for the node

    def fill(self, now: float) -> None:
        """Bring the ready circuits up to their number; goes on by itself then."""
        while not self._stopped and self._retry_timer is None and self._lacks(now):
            self._filling += 1
            self._serve(self._ready_request(), now)

    def nodes_changed(self, now: float) -> None:
        """Other nodes are known: what failed may work now."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        self._retry = RETRY_FIRST
        self.fill(now)

    def build_no_more(self) -> None:
        """What stands stays."""
        self._stopped = True

    def stop(self, now: float) -> None:
        """Close all circuits; build no more."""
        self.build_no_more()
        for place in list(self._places.values()):
            self._close(place, DestroyReason.FINISHED, now)

    @property
    def ready(self) -> int:
        return len(self._ready)

    def number(self, circuit: object) -> int | None:
        """That of a circuit of ours, as `snapshot` has it; None once it is gone."""
        place = self._place(circuit)
        return None if place is None else place.number

    def snapshot(self) -> list[dict[str, Any]]:
        """Every circuit of ours: number, state, purpose, hops (identity in hex, nickname, roles, built)."""
        return [
            {
                "id": place.number,
                "state": STATES.get(place.machine.state, "building"),
                "purpose": place.request.purpose,
                "hops": [
                    {
                        "identity": node.identity.hex(),
                        "nickname": node.nickname,
                        "roles": [role.name.lower() for role in Role if role in node.roles and role.name],
                        "built": index < place.hops_built,
                    }
                    for index, node in enumerate(place.path)
                ],
            }
            for place in self._places.values()
            if place.path
        ]

    # -- building

    def _place(self, circuit: object) -> Place | None:
        return next((place for place in self._places.values() if place.circuit is circuit), None)

    def _serve(self, request: Request, now: float) -> None:
        if self._stopped or request.attempts == 0:
            request.on_failed(request.trouble, now)
            self._given_up(request, now)
            return
        request.attempts -= 1
        self._numbers += 1
        place = self._places[self._numbers] = Place(self._numbers, request)
        place.machine = StateMachine(PLACE, self._outbox, lambda stage, now: self._timed_out(place, stage, now), now)
        request.make_path(now, partial(self._chosen, place))

    def _chosen(self, place: Place, answer: tuple[RelayTarget, ...] | Extension | LocalError, now: float) -> None:
        if place.machine.state is not Stage.CHOOSING:
            return  # too late
        request = place.request
        if isinstance(answer, tuple):
            place.path = answer
            place.machine.move("chosen", now)
            self._neighbours.reach(answer[0].identity, lambda link, now: self._linked(place, link, now), now)
            return
        self._drop(place, now)
        if isinstance(answer, Extension):
            self._ready.remove(answer.place)
            self._extend(answer.place, answer.last, request, now)
        else:
            request.on_failed(answer.why if isinstance(answer, Problem) else Why(PathWhy.NO_PATH), now)

    def _linked(self, place: Place, link: Link | None, now: float) -> None:
        if place.machine.state is not Stage.LINKING:
            return  # too late
        if link is None:
            self._over(place, DestroyReason.CONNECTFAILED, now)
            return
        self._await_hop(place, now)

        def gone(circuit: ClientCircuit, reason: int, now: float) -> None:
            place.circuit = circuit  # a full link may close it within the constructor
            self._over(place, reason, now)

        try:
            circuit = ClientCircuit(
                self._outbox, self._crypto, self._rng, link, place.path, partial(self._built, place), gone, now
            )
        except LocalError:  # the link is full of circuits: no fault of the hop's
            place.request.avoid(place.path[0])
            place.request.trouble = Why(PathWhy.ENTRY_SILENT)
            self._drop(place, now)
            self._serve(place.request, now)
            return
        place.circuit = circuit
        circuit.on_hop = partial(self._hop, place)

    def _await_hop(self, place: Place, now: float) -> None:
        """Give the next hop its time; a slow one is given up, and the request goes on over another path."""
        hop = place.hops_built
        introduced = hop > 0 and self._introduced(place.path[hop - 1], place.path[hop])
        place.machine.move("introduced hop" if introduced else "hop", now)

    def _hop(self, place: Place, now: float) -> None:
        self._hop_stands(place, place.hops_built - 1, now)
        self._await_hop(place, now)

    def _extend(self, place: Place, last: RelayTarget, request: Request, now: float) -> None:
        assert place.circuit is not None
        place.request = request
        place.path = (*place.path, last)
        self._stop_timers(place)
        self._await_hop(place, now)
        place.circuit.extend(last, partial(self._built, place), now)
        self.fill(now)

    def _built(self, place: Place, circuit: ClientCircuit, now: float) -> None:
        place.circuit = circuit
        self._hop_stands(place, place.hops_built - 1, now)
        self._all_stand(place, now)

    def _hand_over(self, place: Place, now: float) -> None:
        """The circuit may be used."""
        assert place.circuit is not None
        on_ready = place.request.on_ready
        place.machine.move("kept" if on_ready is None else "taken", now)
        self._outbox.emit(CircuitBuilt(place.number, place.request.purpose))
        if on_ready is None:
            self._keep(place, now)
        else:
            on_ready(place.circuit, now)

    def _take(self, place: Place, request: Request, now: float) -> None:
        """One that is ready serves this request as it is, or one that is on its way to become so once it stands."""
        place.request = request
        if place in self._ready:
            assert place.circuit is not None and request.on_ready is not None
            self._ready.remove(place)
            self._stop_timers(place)
            place.machine.move("taken", now)
            request.on_ready(place.circuit, now)
        else:
            request.attempts -= 1
            self._filling -= 1
        self._outbox.call_at(now + REPLACED_AFTER, self.fill)

    # -- ending

    def _close(self, place: Place, reason: int, now: float) -> None:
        if place.circuit is not None:
            place.circuit.destroy(reason, now)
        else:
            self._over(place, reason, now)

    def _timed_out(self, place: Place, stage: Stage, now: float) -> None:
        circuit = place.circuit
        if circuit is not None:
            circuit.on_gone = lambda *_: None
            circuit.destroy(DestroyReason.TIMEOUT, now)
        self._ended(place, stage, DestroyReason.TIMEOUT, now)

    def _over(self, place: Place, reason: int, now: float) -> None:
        """The circuit is gone, whoever closed it, or there will be none."""
        stage = place.machine.state
        if stage is not Stage.GONE:
            self._ended(place, stage, reason, now)

    def _ended(self, place: Place, stage: Stage, reason: int, now: float) -> None:
        if stage in (Stage.LINKING, Stage.BUILDING, Stage.INTRODUCING):
            self._not_built(place, now)
            return
        self._drop(place, now)
        if stage is Stage.CHOOSING:
            place.request.on_failed(Why(PathWhy.NODES_SILENT), now)
            return
        if stage is Stage.HELD:
            self._serve(place.request, now)
            return
        self._outbox.emit(CircuitClosed(place.number, int(reason)))
        if stage is not Stage.USED:
            self._lost(place, reason, now)

    def _drop(self, place: Place, now: float) -> None:
        if not place.machine.final:
            place.machine.move("closed", now)
        self._stop_timers(place)
        del self._places[place.number]
        if place.path:
            self._gone(place, now)

    def _not_built(self, place: Place, now: float) -> None:
        request = place.request
        hop = 0 if place.unlinked else place.hops_built
        if not self._stopped:
            self._blame(place, hop, now)
        self._drop(place, now)
        no_entry = place.unlinked or (hop == 0 and len(place.path) > 1)
        request.trouble = Why(PathWhy.ENTRY_SILENT if no_entry else PathWhy.RELAY_SILENT)
        self._serve(request, now)

    # -- the ready ones

    def _keep(self, place: Place, now: float) -> None:
        self._filling -= 1
        self._retry = RETRY_FIRST
        self._ready.append(place)
        place.ready_since = self._outbox.steady(now)
        age = RENEW_AFTER * (1 + fraction(self._rng) / 2)
        renewal = self._outbox.call_at(now + age, lambda now: self._close(place, DestroyReason.FINISHED, now))
        place.timers.append(renewal)
        self._kept(place, now)
        self._outbox.emit(CircuitsReady(len(self._ready)))
        if len(self._ready) == self._size:
            self._on_full(now)
        self.fill(now)

    def _lost(self, place: Place, reason: int, now: float) -> None:
        """A ready one closed."""
        self._ready.remove(place)
        young = self._outbox.steady(now) - place.ready_since < YOUNG
        self._young = self._young + 1 if young else 0
        if young and reason != DestroyReason.FINISHED and not place.unlinked:
            self._died_young(place, now)
        if self._young > MAX_YOUNG:
            self._fill_later(now)
        self.fill(now)

    def _stop_timers(self, place: Place) -> None:
        """Otherwise timers would keep circuits that die young in memory."""
        for timer in place.timers:
            timer.cancel()
        place.timers.clear()

    # -- filling

    def _fill_failed(self, trouble: Why, now: float) -> None:
        self._filling -= 1
        if self._retry_timer is None and not self._stopped:
            self._outbox.emit(Trouble(trouble, retrying=True))
            self._fill_later(now)

    def _fill_later(self, now: float) -> None:
        if self._retry_timer is not None:
            return

        def again(now: float) -> None:
            self._retry_timer = None
            self.fill(now)

        self._retry_timer = self._outbox.call_at(now + self._retry, again)
        self._retry = min(2 * self._retry, RETRY_MAX)
