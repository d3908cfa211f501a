"""The circuits of a node's own: some kept ready, renewed, replaced at once when slow or dead.

Does: build along chosen paths with a deadline for each hop, retry over other nodes, hand out circuits for a rendezvous
point or an exit, each to one user only (isolation), and list all of them for people.
Does not: know what goes through a circuit.

Every circuit has a *place* in the pool, from the wait for a link to its end; `PLACE` says what ends each state. When a
hop does not come to stand, the whole path is given up. The request then avoids both relays that may have refused it,
and prefers those that refused nothing so far: a relay that refuses all but its own kind gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any
from typing import Protocol as Shape

from convergence.circuit.client import ClientCircuit
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, LocalError, Problem, Why
from convergence.events import CircuitBuilt, CircuitClosed, CircuitsReady, Trouble
from convergence.link.link import Link
from convergence.link.neighbours import Neighbours
from convergence.outbox import Outbox, Timer
from convergence.path.entries import StickyEntries, user_of
from convergence.path.place import PLACE, STATES, Failed, Place, Probe, Ready, Request, Stage
from convergence.path.reputation import Reputation
from convergence.path.select import Reach, choose, choose_path, entries_to, entry_side, fraction, sample
from convergence.ports import Crypto, Rng
from convergence.states import StateMachine
from convergence.wire.descriptor import Descriptor
from convergence.wire.relay import RDV_SUFFIX
from convergence.wire.target import RelayTarget, Role

POOL_SIZE = 5  # circuits kept ready
RENEW_AFTER = 600.0  # seconds a ready circuit is kept, and up to half as much again so that they do not go together
RETRY_FIRST = 0.5  # seconds between attempts to fill the pool, doubled up to RETRY_MAX while they fail
RETRY_MAX = 30.0
PROBE_EVERY = 15.0  # seconds, give or take a third, between two looks whether a ready circuit still answers
YOUNG = 5.0  # seconds; a ready circuit that closes sooner may be a relay's game
MAX_YOUNG = 20  # such closings in a row that are made good at once; beyond, RETRY_FIRST lies between attempts
DIALS_ALL = Reach()  # what a server without rtc can open links to


def _extends(path: tuple[RelayTarget, ...], node: RelayTarget) -> bool:
    """Whether a circuit along this path can be extended to the node."""
    return all(node.identity != hop.identity for hop in path) and Reach.of(path[-1]).reaches(node)


class Directory(Shape):
    """Which nodes there are."""

    def nodes(self, role: Role, now: float) -> list[Descriptor]: ...


class CircuitPool:
    """Args:
    own: our identity if we are a relay, never part of our own paths.
    origin: what we can open links to.
    hops: of ready circuits and those to rendezvous points; exit_hops: of those to exits.
    size: how many are kept ready; on_full: called whenever that many are.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        directory: Directory,
        *,
        own: bytes | None = None,
        origin: Reach = DIALS_ALL,
        hops: int = 2,
        exit_hops: int = 3,
        size: int = POOL_SIZE,
        on_full: Callable[[float], None] = lambda now: None,
    ) -> None:
        self.hops = hops
        self.exit_hops = exit_hops
        self.entries = StickyEntries(outbox, rng)
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._neighbours = neighbours
        self._directory = directory
        self._reputation = Reputation(outbox)
        self._exclude: Collection[bytes] = () if own is None else (own,)
        self._origin = origin
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

    # -- for those who need circuits

    def rdv_circuit(
        self,
        point: RelayTarget,
        hash_name: bytes,
        provider: bool,
        on_ready: Ready,
        on_failed: Failed,
        now: float,
    ) -> None:
        """A circuit of its own to a rendezvous point, entered on the side of providers or of clients of this name."""

        def make_path(now: float) -> tuple[RelayTarget, ...]:
            nodes = self._nodes(now)
            side = entry_side(nodes, hash_name, provider, point.identity)
            if self.hops > 1:
                leading = entries_to(nodes, self.hops, point, origin=self._origin, exclude=self._exclude)
                useful = {node.identity for node in leading}
                avoided = self._avoided(now)
                side = self.entries.choose(user_of(hash_name, provider), side, useful, avoided)
            return self._path(request, self.hops, now, point, side)

        request = Request(make_path, "rendezvous", on_ready, on_failed, told=True)
        self._serve(request, now)

    def forget(self, hash_name: bytes, provider: bool) -> None:
        """Keep nothing of which entries this side of this file used."""
        self.entries.forget(user_of(hash_name, provider))

    def exit_circuit(self, on_ready: Ready, on_failed: Failed, now: float, *, avoid: Collection[bytes] = ()) -> None:
        """A circuit of its own to an exit: a ready one is extended when one is at hand. `avoid`: identities of exits to
        take only if there are no others."""

        def choose_exit(suits: Callable[[RelayTarget], bool], now: float) -> RelayTarget:
            known = [node.target for node in self._directory.nodes(Role.EXIT, now)]
            exits = [node for node in known if node.identity not in self._exclude and suits(node)]
            if not exits:
                raise Problem(PathWhy.NO_EXIT)
            avoided = {*self._avoided(now), *request.avoided}
            return choose(self._rng, [node for node in exits if node.identity not in avoided] or exits)

        def make_path(now: float) -> tuple[RelayTarget, ...]:
            last = choose_exit(lambda node: True, now)
            try:
                return self._path(request, self.exit_hops, now, last)
            except LocalError:
                if last.has_address:
                    raise
                # No path leads there, perhaps because it has no address: one leads to an exit that has, if to any.
                return self._path(request, self.exit_hops, now, choose_exit(lambda node: node.has_address, now))

        request = Request(make_path, "exit", on_ready, on_failed, avoided=dict.fromkeys(avoid))
        for place in self._ready:
            if len(place.path) != self.exit_hops - 1 or place.machine.state is not Stage.READY:
                continue  # it is being probed
            try:
                last = choose_exit(partial(_extends, place.path), now)
            except LocalError:
                continue
            self._extend(place, last, request, now)
            return
        self._serve(request, now)

    def peer_circuit(
        self, node: RelayTarget, on_ready: Ready, on_failed: Failed, now: float, *, direct: bool = False
    ) -> None:
        """A circuit of its own that ends at this node; `direct`: it is also the first."""
        hops = 1 if direct else self.hops
        request = Request(
            lambda now: self._path(request, hops, now, node), "introduction", on_ready, on_failed, told=True
        )
        self._serve(request, now)

    # -- for the node

    def fill(self, now: float) -> None:
        """Bring the ready circuits up to their number; goes on by itself then."""
        while not self._stopped and self._retry_timer is None and len(self._ready) + self._filling < self._size:
            self._filling += 1
            self._serve_ready(now)

    def nodes_changed(self, now: float) -> None:
        """Other nodes are known: what failed may work now."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        self._retry = RETRY_FIRST
        self.fill(now)

    def set_hops(self, hops: int, now: float) -> None:
        """Circuits have so many from now on; ready ones of another length are replaced."""
        self.hops = hops
        for place in list(self._ready):
            if len(place.path) != hops:
                self._close(place, DestroyReason.FINISHED, now)

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

    def number(self, circuit: ClientCircuit) -> int | None:
        """That of a circuit of ours, as `snapshot` has it; None once it is gone."""
        return next((place.number for place in self._places.values() if place.circuit is circuit), None)

    def snapshot(self) -> list[dict[str, Any]]:
        """Every circuit of ours: number, state, purpose, hops (identity in hex, roles, built)."""
        return [
            {
                "id": place.number,
                "state": STATES.get(place.machine.state, "building"),
                "purpose": place.request.purpose,
                "hops": [
                    {
                        "identity": node.identity.hex(),
                        "roles": [role.name.lower() for role in Role if role in node.roles and role.name],
                        "built": index < place.hops_built,
                    }
                    for index, node in enumerate(place.path)
                ],
            }
            for place in self._places.values()
        ]

    # -- choosing

    def _avoided(self, now: float) -> list[bytes]:
        return self._reputation.avoided([node.identity for node in self._nodes(now)], now)

    def _nodes(self, now: float) -> list[RelayTarget]:
        return [node.target for node in self._directory.nodes(Role(0), now)]

    def _path(
        self,
        request: Request,
        hops: int,
        now: float,
        last: RelayTarget | None = None,
        entries: list[RelayTarget] | None = None,
    ) -> tuple[RelayTarget, ...]:
        nodes = self._nodes(now)
        avoided = {identity: None for identity in self._avoided(now)}
        if request.refused:
            proven = self._reputation.proven(now)
            others = [node.identity for node in nodes if node.identity not in proven and node.identity not in avoided]
            avoided = dict.fromkeys(sample(self._rng, others, len(others))) | avoided
        for identity in request.avoided:
            avoided.pop(identity, None)
        return choose_path(
            self._rng,
            nodes,
            hops,
            origin=self._origin,
            last=last,
            exclude=self._exclude,
            entries=entries,
            avoid=[*avoided, *request.avoided],
        )

    # -- building

    def _serve_ready(self, now: float) -> None:
        request = Request(lambda now: self._path(request, self.hops, now), "ready", None, self._fill_failed)
        self._serve(request, now)

    def _serve(self, request: Request, now: float) -> None:
        if self._stopped or request.attempts == 0:
            request.on_failed(request.trouble, now)
            for entry in request.doubted.values():
                self._check(entry, now)
            return
        request.attempts -= 1
        try:
            path = request.make_path(now)
        except LocalError as error:
            request.on_failed(error.why if isinstance(error, Problem) else Why(PathWhy.NO_PATH), now)
            return
        self._numbers += 1
        place = self._places[self._numbers] = Place(self._numbers, path, request)
        place.machine = StateMachine(PLACE, self._outbox, lambda stage, now: self._timed_out(place, stage, now), now)
        self._neighbours.reach(path[0].identity, lambda link, now: self._linked(place, link, now), now)

    def _check(self, entry: RelayTarget, now: float) -> None:
        """See whether an entry extends to a relay of our choice. It failed to extend to a node that somebody else
        chose, and that node may be to blame. But we have to find a sticky entry that extends to nobody."""
        request = Request(
            lambda now: self._path(request, 2, now, entries=[entry]),
            "check",
            lambda circuit, now: circuit.destroy(DestroyReason.FINISHED, now),
            lambda why, now: None,
            attempts=1,
        )
        self._serve(request, now)

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
        introduced = hop > 0 and not Reach.of(place.path[hop - 1]).dials(place.path[hop])
        place.machine.move("introduced hop" if introduced else "hop", now)

    def _hop(self, place: Place, now: float) -> None:
        self._stood(place, now)
        self._await_hop(place, now)

    def _extend(self, place: Place, last: RelayTarget, request: Request, now: float) -> None:
        assert place.circuit is not None
        self._ready.remove(place)
        place.request = request
        place.path = (*place.path, last)
        self._stop_timers(place)
        self._await_hop(place, now)
        place.circuit.extend(last, partial(self._built, place), now)
        self.fill(now)

    def _built(self, place: Place, circuit: ClientCircuit, now: float) -> None:
        place.circuit = circuit
        self._stood(place, now)
        for node in place.path:
            self._reputation.worked(node.identity)
        on_ready = place.request.on_ready
        place.machine.move("kept" if on_ready is None else "taken", now)
        self._outbox.emit(CircuitBuilt(place.number, place.request.purpose))
        if on_ready is None:
            self._keep(place, now)
        else:
            on_ready(circuit, now)

    def _stood(self, place: Place, now: float) -> None:
        """One more hop stands."""
        self._extended(place, place.hops_built - 1, True, now)

    def _extended(self, place: Place, hop: int, stood: bool, now: float) -> None:
        """Remember how the extension to this hop went, if both of its ends were our choice."""
        if hop > 0 and not (place.request.told and hop == len(place.path) - 1):
            self._reputation.extended(place.path[hop - 1].identity, place.path[hop].identity, stood, now)

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
        self._drop(place, now)
        if stage in (Stage.LINKING, Stage.BUILDING, Stage.INTRODUCING):
            self._not_built(place, now)
            return
        self._outbox.emit(CircuitClosed(place.number, int(reason)))
        if stage is not Stage.USED:
            self._lost(place, reason, now)

    def _drop(self, place: Place, now: float) -> None:
        if not place.machine.final:
            place.machine.move("closed", now)
        self._stop_timers(place)
        del self._places[place.number]

    def _not_built(self, place: Place, now: float) -> None:
        """Blame the first hop only for what it proves itself: no link, one that dies, a bad answer to CREATE2, or no
        answer. About a later hop we have only the word of another relay. Which of the two refused shows in what they
        do with others."""
        request = place.request
        hop = 0 if place.unlinked else place.hops_built
        if self._stopped:
            pass
        elif hop == 0:
            self._reputation.failed(place.path[0].identity, now, unreached=place.circuit is None)
            request.avoid(place.path[0])
        else:
            self._extended(place, hop, False, now)
            request.avoid(place.path[hop - 1], place.path[hop])
            request.refused = True
            if request.told and hop == 1 == len(place.path) - 1:
                request.doubted[place.path[0].identity] = place.path[0]
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
        self._probe_later(place, now)
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
            self._extended(place, len(place.path) - 1, False, now)  # a refusal a moment later is a refusal too
        if self._young > MAX_YOUNG:
            self._fill_later(now)
        self.fill(now)

    def _probe_later(self, place: Place, now: float) -> None:
        """Probe each circuit at its own time: relays could tell that circuits probed together are of one node."""
        pause = PROBE_EVERY * (2 + 2 * fraction(self._rng)) / 3
        place.timers[1:] = [self._outbox.call_at(now + pause, lambda now: self._probe(place, now))]

    def _probe(self, place: Place, now: float) -> None:
        """A relay that hangs keeps its links open. So ask the last hop for a name that nobody has: it has to refuse."""
        assert place.circuit is not None

        def answered(now: float) -> None:
            place.machine.move("answered", now)
            self._probe_later(place, now)

        place.machine.move("probe", now)
        nobody = f"{self._rng.random(32).hex()}{RDV_SUFFIX}:0"
        place.circuit.open_stream(nobody, Probe(answered), now)

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
