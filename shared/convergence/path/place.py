"""A place in the pool of circuits: its states, what ends each of them, and the request that it serves.

Does: hold the table and the records.
Does not: act (pool.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from convergence.circuit.client import ClientCircuit
from convergence.codes import PathWhy
from convergence.errors import EndReason, LocalError, Why
from convergence.outbox import Timer
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.target import RelayTarget

CHOOSE_TIMEOUT = 20.0  # seconds that it may take to find out which nodes there are
LINK_TIMEOUT = 30.0  # seconds that the link to a first hop has to open, an introduction counted
HOP_TIMEOUT = 6.0  # seconds a hop has to answer; then another path is tried at once
INTRODUCED_HOP_TIMEOUT = 12.0  # the same for one that the hop before it may have to be introduced to first
HELD_TIMEOUT = 30.0  # seconds that one waits to be allowed; then another path is tried
ATTEMPTS = 4  # paths tried for one request

Ready: TypeAlias = Callable[[ClientCircuit, float], None]
Failed: TypeAlias = Callable[[Why, float], None]
"""Called with a PathWhy and `now`."""
Chosen: TypeAlias = Callable[["tuple[RelayTarget, ...] | Extension | LocalError", float], None]
"""Takes a path, or a ready circuit that is to become one, or why there is none; and `now`."""
PathMaker: TypeAlias = Callable[[float, Chosen], None]
"""Called as make_path(now, then); `then` is called at once, later or never."""


def at_once(choose: Callable[[float], tuple[RelayTarget, ...]]) -> PathMaker:
    """Makes paths by a function that returns one, or raises LocalError."""

    def make_path(now: float, then: Chosen) -> None:
        try:
            path = choose(now)
        except LocalError as error:
            then(error, now)
        else:
            then(path, now)

    return make_path


class Stage(Enum):
    """Of a place in the pool."""

    CHOOSING = auto()  # a path
    LINKING = auto()  # for the first hop
    BUILDING = auto()
    INTRODUCING = auto()  # building, and the next hop may have to be introduced
    HELD = auto()  # all hops stand, and whoever chose the path has not allowed its use yet
    READY = auto()
    PROBING = auto()  # ready, and waiting for an answer
    USED = auto()
    GONE = auto()


_BUILDING = {
    "hop": Stage.BUILDING,
    "introduced hop": Stage.INTRODUCING,
    "held": Stage.HELD,
    "kept": Stage.READY,
    "taken": Stage.USED,
    "closed": Stage.GONE,
    TIMEOUT: Stage.GONE,
}
PLACE = Table(
    "place in the pool",
    Stage.CHOOSING,
    {
        Stage.CHOOSING: {"chosen": Stage.LINKING, "closed": Stage.GONE, TIMEOUT: Stage.GONE},
        Stage.LINKING: {"hop": Stage.BUILDING, "closed": Stage.GONE, TIMEOUT: Stage.GONE},
        Stage.BUILDING: _BUILDING,
        Stage.INTRODUCING: _BUILDING,
        Stage.HELD: {"kept": Stage.READY, "taken": Stage.USED, "closed": Stage.GONE, TIMEOUT: Stage.GONE},
        Stage.READY: {
            "taken": Stage.USED,
            "probe": Stage.PROBING,
            "hop": Stage.BUILDING,
            "introduced hop": Stage.INTRODUCING,
            "closed": Stage.GONE,
        },
        Stage.PROBING: {"answered": Stage.READY, "closed": Stage.GONE, TIMEOUT: Stage.GONE},
        Stage.USED: {"hop": Stage.BUILDING, "introduced hop": Stage.INTRODUCING, "closed": Stage.GONE},
    },
    deadlines={
        Stage.CHOOSING: CHOOSE_TIMEOUT,
        Stage.LINKING: LINK_TIMEOUT,
        Stage.BUILDING: HOP_TIMEOUT,
        Stage.INTRODUCING: INTRODUCED_HOP_TIMEOUT,
        Stage.HELD: HELD_TIMEOUT,
        Stage.PROBING: HOP_TIMEOUT,
    },
    standing={
        Stage.READY: "pool.py probes it every PROBE_EVERY, and closes it after RENEW_AFTER",
        Stage.USED: "its user extends or closes it, or one of its relays closes it",
    },
)
STATES = {Stage.READY: "ready", Stage.PROBING: "ready", Stage.USED: "in use"}  # for people; all others are "building"


@dataclass(eq=False)
class Request:
    """A circuit somebody wants.

    Args:
        on_ready: None: the circuit is for the pool, to be kept ready.
        told: whether somebody else chose its last hop. A refusal there proves nothing about the hop before it.
    """

    make_path: PathMaker
    purpose: str
    on_ready: Ready | None
    on_failed: Failed
    told: bool = False
    attempts: int = ATTEMPTS
    trouble: Why = field(default_factory=lambda: Why(PathWhy.NO_PATH))
    refused: bool = False  # an extension failed, perhaps because one of the two relays prefers others
    avoided: dict[bytes, None] = field(default_factory=dict)  # by this request only; the latest last
    doubted: dict[bytes, RelayTarget] = field(default_factory=dict)  # entries that did not extend to the last hop

    def avoid(self, *nodes: RelayTarget) -> None:
        for node in nodes:
            self.avoided.pop(node.identity, None)
            self.avoided[node.identity] = None


@dataclass(eq=False)
class Place:
    """One circuit of ours, from the choice of its path on."""

    number: int
    request: Request
    path: tuple[RelayTarget, ...] = ()
    machine: StateMachine[Stage] = field(init=False)
    circuit: ClientCircuit | None = None
    started: float = 0.0  # when its first hop was asked, in steady time
    ready_since: float = 0.0
    timers: list[Timer] = field(default_factory=list)  # until it is late, or the next probe and the renewal

    @property
    def hops_built(self) -> int:
        return 0 if self.circuit is None else self.circuit.hops_built

    @property
    def unlinked(self) -> bool:
        """Whether there is no link of ours to the first hop: none came about, or it died."""
        return self.circuit is None or self.circuit.unlinked


@dataclass(frozen=True, slots=True)
class Extension:
    """A ready circuit serves, once it is extended by one hop."""

    place: Place
    last: RelayTarget


class Probe:
    """A stream that is to be refused."""

    def __init__(self, answered: Callable[[float], None]) -> None:
        self._answered = answered

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None: ...

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None:
        self._answered(now)

    def aborted(self, code: int, now: float) -> None:
        if code != EndReason.DESTROY:
            self._answered(now)
