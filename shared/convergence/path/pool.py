"""The circuits of a node's own in this network: which relays they go through.

Does: choose paths for ready circuits, for those to a rendezvous point, an exit or a peer; remember which relays failed;
look now and then whether ready circuits still answer.
Does not: build them (building.py), or know what goes through.

After a path that failed, a request avoids both relays that may have refused it, and prefers those that refused nothing
so far: a relay that refuses all but its own kind gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from convergence.chance import choose, fraction, sample
from convergence.circuit.client import MAX_HOPS, ClientCircuit
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, LocalError, Problem, Why
from convergence.link.neighbours import Neighbours
from convergence.netdir.view import Class, Found, Known, View
from convergence.outbox import Outbox
from convergence.path.building import CircuitBuilding
from convergence.path.candidates import NOBODY, Candidates, find
from convergence.path.entries import StickyEntries, user_of
from convergence.path.exits import ExitCircuit
from convergence.path.place import Chosen, Extension, Failed, Place, Probe, Ready, Request, Stage, at_once
from convergence.path.reputation import Reputation
from convergence.path.select import Reach, choose_path, entries_to, entry_side
from convergence.ports import Crypto, Rng
from convergence.wire.relay import RDV_SUFFIX
from convergence.wire.target import RelayTarget

POOL_SIZE = 5  # circuits kept ready
PROBE_EVERY = 15.0  # seconds, give or take a third, between two looks whether a ready circuit still answers
PROVEN = 16  # relays that refused nothing, looked for by name after a refusal
LookUp = Callable[[bytes, float, Found[RelayTarget | None]], None]
DIALS_ALL = Reach()  # what a server without rtc can open links to


def _extends(path: tuple[RelayTarget, ...], node: RelayTarget) -> bool:
    """Whether a circuit along this path can be extended to the node."""
    return all(node.identity != hop.identity for hop in path) and Reach.of(path[-1]).reaches(node)


class CircuitPool(CircuitBuilding):
    """Args:
    view: says which nodes there are.
    own: our identity if we are a relay, never part of our own paths.
    origin: what we can open links to.
    look_up: as in rdv/circuits.py.
    hops: of ready circuits and those to rendezvous points; exit_hops: of those to exits.
    size: how many are kept ready; on_full: called whenever that many are.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        view: View[Known],
        *,
        own: bytes | None = None,
        origin: Reach = DIALS_ALL,
        look_up: LookUp = lambda descriptor, now, then: then(None, now),
        hops: int = 2,
        exit_hops: int = 3,
        size: int = POOL_SIZE,
        on_full: Callable[[float], None] = lambda now: None,
    ) -> None:
        super().__init__(outbox, crypto, rng, neighbours, size=size, on_full=on_full)
        self.hops = hops
        self.exit_hops = exit_hops
        self.entries = StickyEntries(outbox, rng)
        self._view = view
        self._reputation = Reputation(outbox)
        self._exclude: Collection[bytes] = () if own is None else (own,)
        self._origin = origin
        self.look_up = look_up

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
        user = user_of(hash_name, provider)

        def make_path(now: float, then: Chosen) -> None:
            kept = self.entries.kept(user)
            self._find(request, path_from, now, then, sample(self._rng, kept, len(kept)))

        def path_from(found: Candidates, now: float) -> tuple[RelayTarget, ...]:
            if self.hops == 1:
                return self._path(request, found, 1, now, point)
            avoided = self._avoided(found, now)
            kept = self.entries.kept(user)
            fair = [*found.relays, *(node for node in found.named if node.identity in kept)]
            for nodes in (fair, [*fair, *found.dialled]):
                side = entry_side(nodes, hash_name, provider, point.identity, whole=found.whole)
                first = entries_to(nodes, self.hops, point, origin=self._origin, exclude=self._exclude)
                leading = {node.identity for node in first}.difference(avoided)
                if not leading.isdisjoint(node.identity for node in side):
                    break
            entries = self.entries.choose(user, side, leading, avoided)
            return self._path(request, found, self.hops, now, point, entries)

        request = Request(make_path, "rendezvous", on_ready, on_failed, told=True)
        self._serve(request, now)

    def may_extend(self, circuit: ClientCircuit) -> bool:
        """Not one of one hop: its point would be beside us, and chose the next one."""
        return 1 < len(circuit.path) < MAX_HOPS

    def extend(
        self, circuit: ClientCircuit, point: RelayTarget, on_ready: Ready, on_failed: Failed, now: float
    ) -> None:
        """The relay before did not choose the point, and is not judged by how this goes; nor is the point."""
        place = self._place(circuit)
        if place is None or not self.may_extend(circuit) or not circuit.idle:
            on_failed(Why(PathWhy.NO_PATH), now)
        elif point.identity in self._exclude or not _extends(place.path, point):
            on_failed(Why(PathWhy.NO_PATH), now)
        else:
            request = replace(place.request, on_ready=on_ready, on_failed=on_failed, told=True, attempts=0)
            self._extend(place, point, request, now)

    def forget(self, hash_name: bytes, provider: bool) -> None:
        """Keep nothing of which entries this side of this file used."""
        self.entries.forget(user_of(hash_name, provider))

    def exit_circuit(
        self, host: str, port: int, on_ready: Ready, on_failed: Failed, now: float, *, avoid: Collection[bytes] = ()
    ) -> None:
        """A circuit of its own to an exit: a ready one is extended when one is at hand. Exits of this network say
        nothing of what they connect to, so `host` and `port` do not count. `avoid`: identities of exits to take only if
        there are no others."""
        tried = False  # to extend a ready one

        def make_path(now: float, then: Chosen) -> None:
            self._find(request, path_from, now, then, end=Class.EXITS)

        def path_from(found: Candidates, now: float) -> tuple[RelayTarget, ...] | Extension:
            nonlocal tried
            avoided = {*self._avoided(found, now), *request.avoided}

            def choose_exit(suits: Callable[[RelayTarget], bool]) -> RelayTarget:
                exits = [node for node in found.ends if node.identity not in self._exclude and suits(node)]
                if not exits:
                    raise Problem(PathWhy.NO_EXIT)
                return choose(self._rng, [node for node in exits if node.identity not in avoided] or exits)

            ready = () if tried else self._ready
            tried = True
            for place in ready:
                if len(place.path) != self.exit_hops - 1 or place.machine.state is not Stage.READY:
                    continue  # it is being probed
                with suppress(LocalError):
                    return Extension(place, choose_exit(partial(_extends, place.path)))
            last = choose_exit(lambda node: True)
            try:
                return self._path(request, found, self.exit_hops, now, last)
            except LocalError:
                if last.has_address:
                    raise
                # No path leads there, perhaps because it has no address: one leads to an exit that has, if to any.
                return self._path(request, found, self.exit_hops, now, choose_exit(lambda node: node.has_address))

        request = Request(make_path, "exit", on_ready, on_failed, avoided=dict.fromkeys(avoid))
        self._serve(request, now)

    def peer_circuit(
        self, node: RelayTarget, on_ready: Ready, on_failed: Failed, now: float, *, direct: bool = False
    ) -> None:
        """A circuit of its own that ends at this node; `direct`: it is also the first."""
        self._serve(self._request("introduction", on_ready, on_failed, hops=int(direct), last=node), now)

    def serves(self, circuit: ExitCircuit, host: str, port: int) -> bool:
        """Whether the exit of this circuit may connect there."""
        return True

    def better(self, circuit: ExitCircuit, host: str, port: int) -> bool:
        """They are all of one kind."""
        return False

    def begin_flags(self, circuit: ExitCircuit, port: int) -> int:
        """Exits of our own network need none."""
        return 0

    def set_hops(self, hops: int, now: float) -> None:
        """Circuits have so many from now on; ready ones of another length are replaced."""
        self.hops = hops
        for place in list(self._ready):
            if len(place.path) != hops:
                self._close(place, DestroyReason.FINISHED, now)

    # -- choosing

    def _request(
        self,
        purpose: str,
        on_ready: Ready | None,
        on_failed: Failed,
        *,
        hops: int = 0,
        last: RelayTarget | None = None,
        entries: Sequence[RelayTarget] | None = None,
    ) -> Request:
        """For a circuit along any path of so many hops (0: as many as ready ones have), to `last` if that is given:
        then somebody else chose it."""

        def make_path(now: float, then: Chosen) -> None:
            self._find(request, path_from, now, then)

        def path_from(found: Candidates, now: float) -> tuple[RelayTarget, ...]:
            return self._path(request, found, hops or self.hops, now, last, entries)

        request = Request(make_path, purpose, on_ready, on_failed, told=last is not None)
        if hops == 1:
            request.make_path = at_once(partial(path_from, NOBODY))
        return request

    def _find(
        self,
        request: Request,
        choose: Callable[[Candidates, float], tuple[RelayTarget, ...] | Extension],
        now: float,
        then: Chosen,
        names: Sequence[bytes] = (),
        end: Class | None = None,
    ) -> None:
        """Have a path chosen out of candidates, as soon as there are some; nodes of these names among them."""

        def found(candidates: Candidates, now: float) -> None:
            try:
                answer = choose(candidates, now)
            except LocalError as error:
                then(error, now)
            else:
                then(answer, now)

        proven = sorted(self._reputation.proven(now)) if request.refused else []
        proven = sample(self._rng, proven, min(PROVEN, len(proven)))
        find(self._view, [*names, *proven, *self._reputation.questioned(now)], now, found, end=end)

    def _avoided(self, found: Candidates, now: float) -> list[bytes]:
        return self._reputation.avoided(found.known, now, found.count)

    def _path(
        self,
        request: Request,
        found: Candidates,
        hops: int,
        now: float,
        last: RelayTarget | None = None,
        entries: Sequence[RelayTarget] | None = None,
    ) -> tuple[RelayTarget, ...]:
        """Candidates that were not drawn fairly are the first of those to avoid: a path has no more of them than it
        needs."""
        fair = {node.identity: node for node in found.relays}
        avoided = dict.fromkeys(self._avoided(found, now))
        others: list[bytes] = []
        if request.refused:
            proven = self._reputation.proven(now)
            fair |= {identity: node for identity, node in found.known.items() if identity in proven}
        dialled = sample(self._rng, found.dialled, len(found.dialled))
        spare = {node.identity: node for node in (*(entries or ()), *dialled) if node.identity not in fair}
        if request.refused:
            others = [identity for identity in (*fair, *spare) if identity not in proven and identity not in avoided]
            others = sample(self._rng, others, len(others))
        avoid: dict[bytes, None] = {}
        for identity in (*spare, *others, *avoided, *request.avoided):
            avoid.pop(identity, None)
            avoid[identity] = None
        return choose_path(
            self._rng,
            [*fair.values(), *spare.values()],
            hops,
            origin=self._origin,
            last=last,
            exclude=self._exclude,
            entries=entries,
            avoid=list(avoid),
        )

    def _check(self, entry: RelayTarget, now: float) -> None:
        """See whether an entry extends to a relay of our choice. It failed to extend to a node that somebody else
        chose, and that node may be to blame. But we have to find a sticky entry that extends to nobody."""
        request = self._request(
            "check",
            lambda circuit, now: circuit.destroy(DestroyReason.FINISHED, now),
            lambda why, now: None,
            hops=2,
            entries=[entry],
        )
        request.attempts = 1
        self._serve(request, now)

    def _extended(self, place: Place, hop: int, stood: bool, now: float) -> None:
        """Remember how the extension to this hop went, if both of its ends were our choice."""
        if hop > 0 and not (place.request.told and hop == len(place.path) - 1):
            self._reputation.extended(place.path[hop - 1].identity, place.path[hop].identity, stood, now)

    # -- what building asks

    def _ready_request(self) -> Request:
        return self._request("ready", None, self._fill_failed)

    def _blame(self, place: Place, hop: int, now: float) -> None:
        """Blame the first hop only for what it proves itself: no link, one that dies, a bad answer to CREATE2, or no
        answer. About a later hop we have only the word of another relay. Which of the two refused shows in what they
        do with others."""
        request = place.request
        if hop == 0:
            self._reputation.failed(place.path[0].identity, now, unreached=place.circuit is None)
            request.avoid(place.path[0])
            return
        self._extended(place, hop, False, now)
        request.avoid(place.path[hop - 1], place.path[hop])
        request.refused = True
        if request.told and hop == 1 == len(place.path) - 1:
            request.doubted[place.path[0].identity] = place.path[0]

    def _hop_stands(self, place: Place, hop: int, now: float) -> None:
        self._extended(place, hop, True, now)

    def _all_stand(self, place: Place, now: float) -> None:
        ours = place.path[:-1] if place.request.told and len(place.path) > 1 else place.path
        for node in ours:  # whoever chose the last one could clear a friend of what we saw
            self._reputation.worked(node.identity)
        self._hand_over(place, now)

    def _died_young(self, place: Place, now: float) -> None:
        """A refusal a moment later is a refusal too."""
        self._extended(place, len(place.path) - 1, False, now)

    def _given_up(self, request: Request, now: float) -> None:
        for entry in request.doubted.values():
            self._check(entry, now)

    def _introduced(self, before: RelayTarget, after: RelayTarget) -> bool:
        return not Reach.of(before).dials(after)

    def _kept(self, place: Place, now: float) -> None:
        self._probe_later(place, now)

    # -- looking whether ready ones still answer

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
