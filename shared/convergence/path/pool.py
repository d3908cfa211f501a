"""The circuits of a node's own: some kept ready, renewed, replaced at once when slow or dead.

Does: build along chosen paths with a deadline for each hop, retry over other nodes, hand out circuits for a rendezvous
point or an exit, each to one user only (isolation), and keep account of all of them for people to see.
Does not: know what goes through a circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from convergence.circuit.client import ClientCircuit
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, EndReason, LocalError, Problem, Why
from convergence.events import CircuitBuilt, CircuitClosed, CircuitsReady, Trouble
from convergence.link.link import Link
from convergence.link.neighbours import Neighbours
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox, Timer
from convergence.path.select import (
    Reach,
    Reputation,
    choose,
    choose_path,
    entries_to,
    entry_side,
    fraction,
    sample,
)
from convergence.ports import Crypto, Rng
from convergence.wire.descriptor import Descriptor, Role
from convergence.wire.relay import RDV_SUFFIX

POOL_SIZE = 5  # circuits kept ready
HOP_TIMEOUT = 6.0  # seconds a hop has to answer; then another path is tried at once
INTRODUCED_HOP_TIMEOUT = 12.0  # the same for one that the hop before it may have to be introduced to first
ATTEMPTS = 4  # paths tried for one request
RENEW_AFTER = 600.0  # seconds a ready circuit is kept, and up to half as much again so that they do not go together
RETRY_FIRST = 0.5  # seconds between attempts to fill the pool, doubled up to RETRY_MAX while they fail
RETRY_MAX = 30.0
PROBE_EVERY = 15.0  # seconds, give or take a third, between two looks whether a ready circuit still answers
ENTRIES = 2  # first hops that the circuits of one file and side use, while these work
MAX_STICKY = 1024  # files and sides whose entries are remembered
YOUNG = 5.0  # seconds; a ready circuit that closes sooner may be a relay's game
MAX_YOUNG = 20  # such closings in a row that are made good at once; beyond, RETRY_FIRST lies between attempts
DIALS_ALL = Reach()  # what a server without rtc can open links to

Ready: TypeAlias = Callable[[ClientCircuit, float], None]
Failed: TypeAlias = Callable[[Why, float], None]
"""Called with a PathWhy and `now`."""
PathMaker: TypeAlias = Callable[[], tuple[Descriptor, ...]]


@dataclass(eq=False)
class _Entry:
    """One circuit of ours, as the pool keeps it."""

    number: int
    path: tuple[Descriptor, ...]
    purpose: str
    circuit: ClientCircuit | None = None
    ready_since: float | None = None
    deadline: Timer | None = None
    probe: Timer | None = None  # the next one, or the end of the wait for its answer


@dataclass(eq=False)
class _Request:
    """A circuit somebody wants."""

    make_path: PathMaker
    purpose: str
    on_ready: Ready
    on_failed: Failed
    attempts: int = ATTEMPTS
    trouble: Why = field(default_factory=lambda: Why(PathWhy.NO_PATH))


class _Probe:
    """A stream that is to be refused."""

    def __init__(self, answered: Callable[[float], None]) -> None:
        self._answered = answered

    def connected(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None: ...

    def writable(self, now: float) -> None: ...

    def ended(self, reason: int, now: float) -> None:
        if reason != EndReason.DESTROY:
            self._answered(now)


def _extends(path: tuple[Descriptor, ...], node: Descriptor) -> bool:
    """Whether a circuit along this path can be extended to the node."""
    return all(node.identity != hop.identity for hop in path) and Reach.of(path[-1]).reaches(node)


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
        directory: NodeDirectory,
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
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._neighbours = neighbours
        self._directory = directory
        self._reputation = Reputation()
        self._exclude: Collection[bytes] = () if own is None else (own,)
        self._origin = origin
        self._size = size
        self._on_full = on_full
        self._entries: dict[int, _Entry] = {}
        self._entries_of: dict[bytes, tuple[bytes, ...]] = {}  # entries kept for a file's side; latest use last
        self._ready: list[_Entry] = []
        self._filling = 0
        self._numbers = 0
        self._retry = RETRY_FIRST
        self._retry_timer: Timer | None = None
        self._young = 0
        self._stopped = False

    # -- for those who need circuits

    def rdv_circuit(
        self,
        point: Descriptor,
        hash_name: bytes,
        provider: bool,
        on_ready: Ready,
        on_failed: Failed,
        now: float,
    ) -> None:
        """A circuit of its own to a rendezvous point, entered on the side of providers or of clients of this name."""

        def make_path() -> tuple[Descriptor, ...]:
            nodes = self._nodes()
            side = entry_side(nodes, hash_name, provider, point.identity)
            if self.hops > 1:
                leading = entries_to(nodes, self.hops, point, origin=self._origin, exclude=self._exclude)
                side = self._sticky(hash_name + bytes([provider]), side, leading)
            return self._path(self.hops, point, side)

        self._serve(_Request(make_path, "rendezvous", on_ready, on_failed), now)

    def exit_circuit(self, on_ready: Ready, on_failed: Failed, now: float) -> None:
        """A circuit of its own to an exit: a ready one is extended when one is at hand."""

        def choose_exit(suits: Callable[[Descriptor], bool]) -> Descriptor:
            known = self._directory.nodes(Role.EXIT, self._outbox.now)
            exits = [node for node in known if node.identity not in self._exclude and suits(node)]
            if not exits:
                raise Problem(PathWhy.NO_EXIT)
            avoided = self._reputation.avoided(self._outbox.now)
            return choose(self._rng, [node for node in exits if node.identity not in avoided] or exits)

        def make_path() -> tuple[Descriptor, ...]:
            last = choose_exit(lambda node: True)
            try:
                return self._path(self.exit_hops, last)
            except LocalError:
                if last.ws_url is not None:
                    raise
                # No path leads there, perhaps because it has no address: one leads to an exit that has, if to any.
                return self._path(self.exit_hops, choose_exit(lambda node: node.ws_url is not None))

        request = _Request(make_path, "exit", on_ready, on_failed)
        for entry in self._ready:
            if len(entry.path) != self.exit_hops - 1 or entry.circuit is None or entry.circuit.in_use:
                continue  # in use: by a probe
            try:
                last = choose_exit(partial(_extends, entry.path))
            except LocalError:
                continue
            self._extend(entry, last, request, now)
            return
        self._serve(request, now)

    def peer_circuit(
        self, node: Descriptor, on_ready: Ready, on_failed: Failed, now: float, *, direct: bool = False
    ) -> None:
        """A circuit of its own that ends at this node; `direct`: it is also the first."""
        hops = 1 if direct else self.hops
        self._serve(_Request(lambda: self._path(hops, node), "introduction", on_ready, on_failed), now)

    # -- for the node

    def fill(self, now: float) -> None:
        """Bring the ready circuits up to their number; goes on by itself then."""
        while not self._stopped and self._retry_timer is None and len(self._ready) + self._filling < self._size:
            self._filling += 1
            self._serve(_Request(lambda: self._path(self.hops), "ready", self._keep_ready, self._fill_failed), now)

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
        for entry in list(self._ready):
            if len(entry.path) != hops and entry.circuit is not None:
                entry.circuit.destroy(DestroyReason.FINISHED, now)

    def stop(self, now: float) -> None:
        """Close all circuits; build no more."""
        self._stopped = True
        for entry in list(self._entries.values()):
            if entry.circuit is not None:
                entry.circuit.destroy(DestroyReason.FINISHED, now)

    @property
    def ready(self) -> int:
        return len(self._ready)

    def snapshot(self) -> list[dict[str, Any]]:
        """Every circuit of ours: number, state, purpose, hops (identity in hex, roles, built)."""
        return [
            {
                "id": entry.number,
                "state": self._state(entry),
                "purpose": entry.purpose,
                "hops": [
                    {
                        "identity": node.identity.hex(),
                        "roles": [role.name.lower() for role in Role if role in node.roles and role.name],
                        "built": entry.circuit is not None and index < entry.circuit.hops_built,
                    }
                    for index, node in enumerate(entry.path)
                ],
            }
            for entry in self._entries.values()
        ]

    def _state(self, entry: _Entry) -> str:
        if entry.ready_since is None:
            return "building"
        return "ready" if entry in self._ready else "in use"

    # -- building

    def _nodes(self) -> list[Descriptor]:
        return self._directory.nodes(Role(0), self._outbox.now)

    def _sticky(self, user: bytes, side: list[Descriptor], leading: list[Descriptor]) -> list[Descriptor]:
        """The few entries that all circuits of one file and side use, for as long as they are there: who breaks our
        circuits again and again must not get to see ever new entries until one is his. Only those count that are
        `leading` to where this circuit has to end."""
        kept = self._entries_of.pop(user, ())
        avoided = self._reputation.avoided(self._outbox.now)
        useful = {node.identity for node in leading}
        nodes = {node.identity: node for node in side if node.identity in useful}
        usable = [identity for identity in kept if identity in nodes and identity not in avoided]
        if not usable:  # none yet, or each is gone, failing, the point itself, or leads nowhere
            new = [identity for identity in nodes if identity not in avoided and identity not in self._exclude]
            usable = sample(self._rng, new, min(ENTRIES, len(new)))
            kept = (*usable, *kept)[: 2 * ENTRIES]
        self._entries_of[user] = kept
        if len(self._entries_of) > MAX_STICKY:
            del self._entries_of[next(iter(self._entries_of))]
        return [nodes[identity] for identity in usable] or side

    def _path(
        self, hops: int, last: Descriptor | None = None, entries: list[Descriptor] | None = None
    ) -> tuple[Descriptor, ...]:
        return choose_path(
            self._rng,
            self._nodes(),
            hops,
            origin=self._origin,
            last=last,
            exclude=self._exclude,
            entries=entries,
            avoid=self._reputation.avoided(self._outbox.now),
        )

    def _serve(self, request: _Request, now: float) -> None:
        if self._stopped or request.attempts == 0:
            request.on_failed(request.trouble, now)
            return
        request.attempts -= 1
        try:
            path = request.make_path()
        except LocalError as error:
            request.on_failed(error.why if isinstance(error, Problem) else Why(PathWhy.NO_PATH), now)
            return
        self._numbers += 1
        entry = _Entry(self._numbers, path, request.purpose)
        self._entries[entry.number] = entry
        self._neighbours.reach(path[0].identity, lambda link, now: self._start(entry, request, link, now), now)

    def _start(self, entry: _Entry, request: _Request, link: Link | None, now: float) -> None:
        if self._stopped:
            self._entries.pop(entry.number, None)
            return
        if link is None:
            del self._entries[entry.number]
            self._reputation.failed(entry.path[0].identity, now)
            request.trouble = Why(PathWhy.ENTRY_SILENT)
            self._serve(request, now)
            return

        def built(circuit: ClientCircuit, now: float) -> None:
            self._built(entry, request, now)

        def closed(circuit: ClientCircuit, reason: int, now: float) -> None:
            del self._entries[entry.number]
            self._failed_at(entry, circuit.hops_built, reason, now)
            request.trouble = Why(PathWhy.RELAY_SILENT)
            self._serve(request, now)

        try:
            circuit = ClientCircuit(self._outbox, self._crypto, self._rng, link, entry.path, built, closed)
        except LocalError:  # the link takes no more circuits
            del self._entries[entry.number]
            request.trouble = Why(PathWhy.ENTRY_SILENT)
            self._serve(request, now)
            return
        entry.circuit = circuit
        self._watch(entry, circuit, now)

    def _watch(self, entry: _Entry, circuit: ClientCircuit, now: float) -> None:
        """Give each hop its time; a slow one is given up, and the request goes on over another path."""
        if entry.deadline is not None:
            entry.deadline.cancel()
        hop = circuit.hops_built
        introduced = hop > 0 and not Reach.of(entry.path[hop - 1]).dials(entry.path[hop])
        timeout = INTRODUCED_HOP_TIMEOUT if introduced else HOP_TIMEOUT
        entry.deadline = self._outbox.call_at(now + timeout, lambda now: circuit.destroy(DestroyReason.TIMEOUT, now))
        circuit.on_hop = lambda now: self._watch(entry, circuit, now)

    def _extend(self, entry: _Entry, last: Descriptor, request: _Request, now: float) -> None:
        circuit = entry.circuit
        assert circuit is not None
        self._ready.remove(entry)
        entry.purpose = request.purpose
        entry.ready_since = None

        def closed(circuit: ClientCircuit, reason: int, now: float) -> None:
            del self._entries[entry.number]
            self._failed_at(entry, circuit.hops_built, reason, now)
            self._serve(request, now)

        circuit.on_gone = closed
        entry.path = (*entry.path, last)
        circuit.extend(last, lambda circuit, now: self._built(entry, request, now))
        self._watch(entry, circuit, now)
        self.fill(now)

    def _built(self, entry: _Entry, request: _Request, now: float) -> None:
        circuit = entry.circuit
        # A hop may answer within ClientCircuit's constructor only in a broken shell; entry.circuit is set by then.
        assert circuit is not None
        if entry.deadline is not None:
            entry.deadline.cancel()
        for node in entry.path:
            self._reputation.worked(node.identity)
        entry.ready_since = now

        def closed(circuit: ClientCircuit, reason: int, now: float) -> None:
            self._entries.pop(entry.number, None)
            self._outbox.emit(CircuitClosed(entry.number, int(reason)))

        circuit.on_gone = closed
        self._outbox.emit(CircuitBuilt(entry.number, entry.purpose))
        request.on_ready(circuit, now)

    def _failed_at(self, entry: _Entry, hops_built: int, reason: int, now: float) -> None:
        """The hop that was awaited is to blame, as far as an origin can tell; or the one before it, if it relays for
        nobody now."""
        if entry.deadline is not None:
            entry.deadline.cancel()
        blamed = hops_built - 1 if hops_built and reason == DestroyReason.HIBERNATING else hops_built
        if hops_built < len(entry.path):
            self._reputation.failed(entry.path[blamed].identity, now)

    # -- the ready ones

    def _keep_ready(self, circuit: ClientCircuit, now: float) -> None:
        self._filling -= 1
        self._retry = RETRY_FIRST
        entry = next(entry for entry in self._entries.values() if entry.circuit is circuit)
        self._ready.append(entry)

        def closed(circuit: ClientCircuit, reason: int, now: float) -> None:
            self._entries.pop(entry.number, None)
            if entry in self._ready:
                self._ready.remove(entry)
            renewal.cancel()  # or circuits that die young would pile up behind their timers
            if entry.probe is not None:
                entry.probe.cancel()
            self._outbox.emit(CircuitClosed(entry.number, int(reason)))
            self._young = self._young + 1 if now - since < YOUNG else 0
            if self._young > MAX_YOUNG:
                self._fill_later(now)
            self.fill(now)

        since = now
        circuit.on_gone = closed
        self._probe_later(entry, now)
        age = RENEW_AFTER * (1 + fraction(self._rng) / 2)
        renewal = self._outbox.call_at(now + age, lambda now: self._renew(entry, now))
        self._outbox.emit(CircuitsReady(len(self._ready)))
        if len(self._ready) == self._size:
            self._on_full(now)
        self.fill(now)

    def _probe_later(self, entry: _Entry, now: float) -> None:
        """Each at its own time: relays would know circuits that are probed together for one node's."""
        pause = PROBE_EVERY * (2 + 2 * fraction(self._rng)) / 3
        entry.probe = self._outbox.call_at(now + pause, lambda now: self._probe(entry, now))

    def _probe(self, entry: _Entry, now: float) -> None:
        """A relay that hangs keeps its links open: ask the last hop for what nobody has, and see that it says so."""
        circuit = entry.circuit
        if entry not in self._ready or circuit is None:
            return

        def answered(now: float) -> None:
            late.cancel()
            self._probe_later(entry, now)

        def not_answered(now: float) -> None:
            if entry in self._ready:
                circuit.destroy(DestroyReason.TIMEOUT, now)

        entry.probe = late = self._outbox.call_at(now + HOP_TIMEOUT, not_answered)
        nobody = f"{self._rng.random(32).hex()}{RDV_SUFFIX}:0"
        circuit.open_stream(nobody, _Probe(answered), now)

    def _renew(self, entry: _Entry, now: float) -> None:
        if entry in self._ready and entry.circuit is not None:
            entry.circuit.destroy(DestroyReason.FINISHED, now)

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
