"""Circuits that many offers of one node share, one to each point: for nodes with thousands of names.

Does: build one circuit to a point and give a part of it to every offer there, pass each client on to the offer that it
names, spread adverts out so that neither this node nor a point has much to do at once.
Does not: serve, or choose points (service.py).

A point sees then that all names on such a circuit are of one node. So it is done only where the owner allows it
(docs/threat-model.md). However many names there are, a node has no more circuits than there are points.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from hashlib import sha256
from typing import TypeAlias

from convergence.circuit.client import ClientCircuit
from convergence.circuit.endpoint import AcceptHook
from convergence.circuit.streams import Stream
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, ParseError, Why
from convergence.outbox import Outbox
from convergence.pipes.duplex import Handler
from convergence.rdv.circuits import CircuitSource
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.rdv import DbInfo, Name, parse_rdv_target
from convergence.wire.target import RelayTarget

TURNS = 32.0
"""Turns a second of a node, in each of which one offer is advertised at one point. A turn is up to two signatures here,
and as many checks at the point, which allows more (rdv/adverts.py): 10,000 names at three points take 16 minutes."""
BUILD_LIMIT = 150.0  # seconds; the builder of circuits answers much sooner, and posts wait for longer
PAUSE = 10.0  # seconds until a circuit that could not be built is tried again

Ready: TypeAlias = Callable[["SharedCircuit", float], None]
Failed: TypeAlias = Callable[[Why, float], None]


class Phase(Enum):
    """Phases of the circuit to one point."""

    BUILDING = "building"
    STANDING = "standing"
    FAILED = "failed"  # whoever asks hears so at once: thousands of offers make no more attempts than one
    CLOSED = "closed"


TABLE = Table(
    "group of offers",
    Phase.BUILDING,
    {
        Phase.BUILDING: {"built": Phase.STANDING, "fail": Phase.FAILED, TIMEOUT: Phase.FAILED},
        Phase.STANDING: {"close": Phase.CLOSED},
        Phase.FAILED: {TIMEOUT: Phase.CLOSED},
    },
    deadlines={Phase.BUILDING: BUILD_LIMIT, Phase.FAILED: PAUSE},
    standing={Phase.STANDING: "its circuit ends, or the last offer leaves"},
)


class Groups:
    """All groups of a node's offers of one kind.

    Args:
        kind: what they are.
    """

    def __init__(self, circuits: CircuitSource, kind: bytes, outbox: Outbox) -> None:
        self.circuits = circuits
        self.outbox = outbox
        # In place of a hash_name where entries are chosen. Always the same, so that they are kept over restarts.
        self.name = sha256(b"convergence:group:" + kind).digest()
        self._groups: dict[bytes, _Group] = {}  # by the point's identity
        self._next_turn = float("-inf")  # in steady time

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

    def turn(self, now: float) -> float:
        """When an offer that asks now may be advertised at one point: one after the other."""
        turn = max(self._next_turn, self.outbox.steady(now))
        self._next_turn = turn + 1 / TURNS
        return turn + self.outbox.shifted

    def forget(self, group: _Group) -> None:
        if self._groups.get(group.point.identity) is group:
            del self._groups[group.point.identity]


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
        self._machine = StateMachine(TABLE, groups.outbox, self._timed_out, now)

    def ready(self, circuit: ClientCircuit, now: float) -> None:
        if self._machine.state is not Phase.BUILDING:
            circuit.destroy(DestroyReason.FINISHED, now)
            return
        self._machine.move("built", now)
        self.circuit = circuit
        circuit.on_begin, circuit.on_closed = self._begin, self._lost
        waiting, self.waiting = self.waiting, []
        for part, (on_ready, _) in [(SharedCircuit(self, circuit), calls) for calls in waiting]:
            if part in self.parts:  # the circuit is not gone meanwhile
                on_ready(part, now)

    def failed(self, why: Why, now: float) -> None:
        if self._machine.state is Phase.BUILDING:
            self._machine.move("fail", now)
            self._fail(why, now)

    def leave(self, part: SharedCircuit, now: float) -> None:
        """The circuit ends with the last of its parts."""
        self.parts.pop(part, None)
        circuit = self.circuit
        if not self.parts and circuit is not None:
            self._close(now)
            circuit.on_begin = circuit.on_closed = None
            circuit.destroy(DestroyReason.FINISHED, now)

    def _begin(self, target: str, stream: Stream, now: float) -> Handler | None:
        try:
            part = self.names.get(parse_rdv_target(target))
        except ParseError:
            return None
        return None if part is None or part.on_begin is None else part.on_begin(target, stream, now)

    def _lost(self, reason: int, now: float) -> None:
        parts = list(self.parts)
        self._close(now)
        for part in parts:
            if part.on_closed is not None:
                part.on_closed(reason, now)

    def _close(self, now: float) -> None:
        self._machine.move("close", now)
        self._groups.forget(self)
        self.circuit = None
        self.parts.clear()
        self.names.clear()

    def _timed_out(self, phase: Phase, now: float) -> None:
        if phase is Phase.FAILED:
            self._groups.forget(self)
        else:  # the builder of circuits said nothing
            self._fail(Why(PathWhy.NO_PATH), now)

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
        self.on_begin: AcceptHook | None = None
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
