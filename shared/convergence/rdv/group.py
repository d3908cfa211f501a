"""Circuits that many offers of one node share, one to each point: for nodes with thousands of names.

Does: build one circuit to a point and give a part of it to every offer there, pass each client on to the offer that it
names, spread adverts out so that neither this node nor a point has much to do at once; keep a point that closes
circuits, and a name that very many ask for, from taking what the others need.
Does not: serve, or choose points (service.py).

A point sees then that all names on such a circuit are of one node. So it is done only where the owner allows it
(docs/threat-model.md). However many names there are, a node has no more circuits than there are points.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import TypeAlias

from convergence.circuit.client import ClientCircuit
from convergence.circuit.endpoint import MAX_STREAMS
from convergence.circuit.streams import Stream
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, EndReason, ParseError, StreamError, Why
from convergence.limits import gives_way
from convergence.outbox import Outbox, Timer
from convergence.rdv.circuits import CircuitSource
from convergence.rdv.session import Session
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.rdv import DbInfo, Name, parse_rdv_target
from convergence.wire.target import RelayTarget

TURNS = 32.0
"""Turns a second of a node, in each of which one offer is advertised at one point. A turn is up to two signatures here,
and as many checks at the point, which allows more (rdv/adverts.py): 10,000 names at three points take 16 minutes."""
MAX_SLOW = 32
"""A point that says that it is told too much gets every second turn of its own after that, then every fourth, up to
this, until it has been told all. The others do not wait for it."""
BUILD_LIMIT = 150.0  # seconds; the builder of circuits answers much sooner, and posts wait for longer
PAUSE = 10.0  # seconds until a circuit that could not be built, or was closed while names were told, is tried again
MAX_CLIENTS = MAX_STREAMS * 3 // 4  # on one circuit; beyond, the name that has most gives way. Some are on their way

Ready: TypeAlias = Callable[["SharedCircuit", float], None]
Failed: TypeAlias = Callable[[Why, float], None]
Accept: TypeAlias = Callable[[str, Stream, float], Session | None]
"""As circuit.endpoint.AcceptHook."""


class Phase(Enum):
    """Phases of the circuit to one point."""

    BUILDING = "building"
    STANDING = "standing"
    FAILED = "failed"  # whoever asks hears so at once: thousands of offers make no more attempts than one
    RESTING = "resting"  # it was closed while names were told; whoever asks waits
    CLOSED = "closed"


TABLE = Table(
    "group of offers",
    Phase.BUILDING,
    {
        Phase.BUILDING: {"built": Phase.STANDING, "fail": Phase.FAILED, TIMEOUT: Phase.FAILED},
        Phase.STANDING: {"close": Phase.CLOSED, "break": Phase.RESTING},
        Phase.FAILED: {TIMEOUT: Phase.CLOSED},
        Phase.RESTING: {TIMEOUT: Phase.CLOSED},
    },
    deadlines={Phase.BUILDING: BUILD_LIMIT, Phase.FAILED: PAUSE, Phase.RESTING: PAUSE},
    standing={Phase.STANDING: "its circuit ends, or the last offer leaves"},
)


class Groups:
    """All groups of a node's offers of one kind.

    Args:
        kind: what they are.

    Attributes:
        slow: of each point that was told too much: it uses one of so many turns of its own.
    """

    def __init__(self, circuits: CircuitSource, kind: bytes, outbox: Outbox) -> None:
        self.circuits = circuits
        self.outbox = outbox
        self.slow: dict[bytes, int] = {}
        # In place of a hash_name where entries are chosen. Always the same, so that they are kept over restarts.
        self.name = sha256(b"convergence:group:" + kind).digest()
        self._groups: dict[bytes, _Group] = {}  # by the point's identity
        self._waiting: dict[_Group, None] = {}  # where somebody waits for a turn, the next one first
        self._next_turn = float("-inf")  # in steady time
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """At how many points there is a circuit, or it is being built, or failed lately."""
        return len(self._groups)

    def join(self, point: RelayTarget, on_ready: Ready, on_failed: Failed, now: float) -> None:
        """A part of the circuit to a point. One of on_ready and on_failed follows, perhaps at once."""
        group = self._groups.get(point.identity)
        if group is None:
            group = self._groups[point.identity] = _Group(self, point, now)
            group.waiting.append((on_ready, on_failed))
            self.circuits.rdv_circuit(point, self.name, True, group.ready, group.failed, now)
        elif group.circuit is not None:
            on_ready(SharedCircuit(group, group.circuit), now)
        elif group.failure is not None:
            on_failed(group.failure, now)
        else:
            group.waiting.append((on_ready, on_failed))

    def turn(self, point: RelayTarget, call: Callable[[float], None], now: float) -> Timer:
        """Have this called when an offer may be advertised at a point that it has joined: soon, if none was lately.
        Points have their turns one after the other, however many names wait at each."""
        group = self._groups[point.identity]
        self._waiting.setdefault(group)
        self._arm(now)
        return group.await_turn(call)

    def leave(self, group: _Group) -> None:
        """This group has ended."""
        self._waiting.pop(group, None)
        if self._groups.get(group.point.identity) is group:
            del self._groups[group.point.identity]

    def _serve(self, now: float) -> None:
        self._timer = None
        steady = self.outbox.steady(now)
        while self._waiting and self._next_turn <= steady:
            group = next(iter(self._waiting))
            del self._waiting[group]
            if group.has_turns:
                self._next_turn = steady + 1 / TURNS
                self._waiting[group] = None
                group.turn(now)
        self._arm(now)

    def _arm(self, now: float) -> None:
        if self._waiting and self._timer is None:
            self._timer = self.outbox.call_at(max(now, self._next_turn + self.outbox.shifted), self._serve)


@dataclass(eq=False, slots=True)
class _Client:
    """One that asked for a name of this group."""

    session: Session
    source: SharedCircuit


class _Group:
    """The offers at one point."""

    def __init__(self, groups: Groups, point: RelayTarget, now: float) -> None:
        self.point = point
        self.circuit: ClientCircuit | None = None
        self.failure: Why | None = None  # why there is none
        self.waiting: list[tuple[Ready, Failed]] = []  # for the circuit
        self.parts: dict[SharedCircuit, None] = {}
        self.names: dict[Name, SharedCircuit] = {}
        self._groups = groups
        self._turns: deque[Timer] = deque()  # one for each part that waits, and some that do not any more
        self._turn = 0  # numbers turns
        self._told_at = float("-inf")  # when the last one was used, in steady time
        self._clients: list[_Client] = []  # MAX_CLIENTS, and some that have gone
        self._machine = StateMachine(TABLE, groups.outbox, self._timed_out, now)

    # -- turns

    def await_turn(self, call: Callable[[float], None]) -> Timer:
        turn = Timer(call)
        self._turns.append(turn)
        return turn

    @property
    def has_turns(self) -> bool:
        while self._turns and not self._turns[0].pending:
            self._turns.popleft()
        return bool(self._turns)

    def turn(self, now: float) -> None:
        self._turn += 1
        if self._turn % self._groups.slow.get(self.point.identity, 1) == 0:
            self._told_at = self._groups.outbox.steady(now)
            self._turns.popleft().fire(now)
            if not self.has_turns:
                self._groups.slow.pop(self.point.identity, None)

    # -- the circuit

    def ready(self, circuit: ClientCircuit, now: float) -> None:
        if self._machine.state is not Phase.BUILDING:
            circuit.destroy(DestroyReason.FINISHED, now)
            return
        self._machine.move("built", now)
        self.circuit = circuit
        circuit.on_begin, circuit.on_closed = self._begin, self._lost
        waiting, self.waiting = self.waiting, []
        for part, calls in [(SharedCircuit(self, circuit), calls) for calls in waiting]:
            if part in self.parts:
                calls[0](part, now)
            else:  # the circuit is gone meanwhile
                self._groups.join(self.point, *calls, now)

    def failed(self, why: Why, now: float) -> None:
        if self._machine.state is Phase.BUILDING:
            self._machine.move("fail", now)
            self._fail(why, now)

    def leave(self, part: SharedCircuit, now: float) -> None:
        """The circuit ends with the last of its parts."""
        self.parts.pop(part, None)
        circuit = self.circuit
        if not self.parts and circuit is not None:
            self._machine.move("close", now)
            self._groups.slow.pop(self.point.identity, None)
            self._groups.leave(self)
            self.circuit = None
            circuit.on_begin = circuit.on_closed = None
            circuit.destroy(DestroyReason.FINISHED, now)

    def _begin(self, target: str, stream: Stream, now: float) -> Session | None:
        try:
            part = self.names.get(parse_rdv_target(target))
        except ParseError:
            return None
        if part is None or part.on_begin is None:
            return None
        if len(self._clients) >= MAX_CLIENTS:
            self._make_room(part, now)
        session = part.on_begin(target, stream, now)
        if session is not None:
            self._clients.append(_Client(session, part))
        return session

    def _make_room(self, part: SharedCircuit, now: float) -> None:
        """All names share the streams of a circuit: the last to come for the name that has most clients gives way.
        Raises StreamError if that is this one."""
        self._clients = [client for client in self._clients if not client.session.closed]
        if len(self._clients) < MAX_CLIENTS:
            return
        client = gives_way(self._clients[::-1], part)
        if client is None:
            raise StreamError("too many clients", EndReason.RESOURCELIMIT)
        client.session.expel(EndReason.RESOURCELIMIT, now)

    def _lost(self, reason: int, now: float) -> None:
        steady, slow = self._groups.outbox.steady(now), self._groups.slow
        parts, self.parts, self.circuit = self.parts, {}, None
        if self.has_turns or steady - self._told_at < PAUSE:
            if reason == DestroyReason.RESOURCELIMIT:
                slow[self.point.identity] = min(2 * slow.get(self.point.identity, 1), MAX_SLOW)
            self._machine.move("break", now)
        else:
            self._machine.move("close", now)
            self._groups.leave(self)
        for part in parts:
            if part.on_closed is not None:
                part.on_closed(reason, now)

    def _timed_out(self, phase: Phase, now: float) -> None:
        if phase is Phase.BUILDING:  # the builder of circuits said nothing
            self._fail(Why(PathWhy.NO_PATH), now)
            return
        self._groups.leave(self)
        if not self.waiting:
            self._groups.slow.pop(self.point.identity, None)
        for calls in self.waiting:
            self._groups.join(self.point, *calls, now)

    def _fail(self, why: Why, now: float) -> None:
        self.failure = why
        waiting, self.waiting = self.waiting, []
        for _, on_failed in waiting:
            on_failed(why, now)


class SharedCircuit:
    """What one offer has of a circuit: its own adverts, and the clients that ask for them.

    Attributes:
        binding: of the circuit.
    """

    def __init__(self, group: _Group, circuit: ClientCircuit) -> None:
        self.binding = circuit.binding
        self.on_begin: Accept | None = None
        self.on_closed: Callable[[int, float], None] | None = None
        self._group = group
        self._circuit = circuit
        group.parts[self] = None

    def send_message(self, command: int, payload: bytes) -> None:
        """Adverts. No offer withdraws what another one advertises."""
        if self not in self._group.parts:
            return
        names, adverts = self._group.names, []
        for advert in DbInfo.parse(payload).adverts:
            if advert.adds:
                names[advert.name] = self
            elif names.get(advert.name) is self:
                del names[advert.name]
            else:
                continue
            adverts.append(advert)
        if adverts:
            self._circuit.send_message(command, DbInfo(tuple(adverts)).encode())

    def destroy(self, reason: int, now: float) -> None:
        """The offer leaves: its adverts were withdrawn before. Others stay."""
        self._group.leave(self, now)
