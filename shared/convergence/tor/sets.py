"""Conflux sets of a client (proposal 329 sections 2.2 and 2.4.1): a few stand ready before they are wanted.

Does: choose an exit that links and legs to it that share no relay, have these built, link them; hand a set out as one
circuit; give up one that does not come about, or that lost a leg before it was used.
Does not: carry anything (circuit/conflux.py), choose relays (path/torpath.py), or build circuits: its owner does
(circuits.py). No leg is added later: a set in use goes on with what is left of it, or ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Protocol as Shape

from convergence.chance import fraction
from convergence.circuit.client import ClientCircuit
from convergence.circuit.conflux import MAX_LEGS, Leg, LinkedSet
from convergence.circuit.endpoint import ResolvedReply
from convergence.circuit.streams import Stream
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, LocalError, Problem, RemoteError
from convergence.netdir.tor import TorRelay
from convergence.outbox import Outbox, Timer
from convergence.path.building import RENEW_AFTER, RETRY_FIRST, RETRY_MAX
from convergence.path.place import Ready
from convergence.path.torpath import LINKING, TorPath, Wanted
from convergence.path.weights import is_exit
from convergence.pipes.duplex import Handler
from convergence.ports import Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.conflux import NONCE_LEN, Link, Wish
from convergence.wire.consensus import Consensus
from convergence.wire.relay import RelayCommand, Truncated
from convergence.wire.target import RelayTarget

SET_TIMEOUT = 60.0  # seconds until all legs are linked, paths that fail counted
REFILL_AFTER = 1.0  # seconds: who asks for one set after the other shall not wait for the building of the next ones
MAX_READY = 6  # sets kept ready, whatever a consensus says
AVOIDED = 8  # exits that did not link; they are taken only if there are no others


@dataclass(frozen=True, slots=True)
class ConfluxParams:
    """Of the consensus, "cfx_..." (proposal 329 section 5, with C tor's defaults).

    Args:
        ready: sets that are kept ready; 0: none is made.
        sets: at once, those in use counted.
        legs: of one set; retries: paths more that may be tried for all of them, so that nobody who refuses one after
            the other learns our guards.
    """

    ready: int = 0
    sets: int = 10
    legs: int = 2
    retries: int = 3

    @classmethod
    def of(cls, consensus: Consensus) -> ConfluxParams:
        exits = [status for status in consensus.relays if is_exit(status)]
        linking = sum(status.protocols.covers(LINKING) for status in exits)
        legs = consensus.param("cfx_num_legs_set", 2, 0, 255)
        ready = consensus.param("cfx_max_prebuilt_set", 3, 0, 255)
        if not linking or legs < 2 or not consensus.param("cfx_enabled", 1, 0, 1):
            ready = 0
        elif 10_000 * linking < consensus.param("cfx_low_exit_threshold", 6000, 0, 10_000) * len(exits):
            ready = min(ready, 1)
        return cls(
            min(ready, MAX_READY),
            consensus.param("cfx_max_linked_set", 10, 0, 255),
            min(legs, MAX_LEGS),
            consensus.param("cfx_max_unlinked_leg_retry", 3, 0, 255),
        )


class Paths(Shape):
    """Who chooses paths."""

    def leg_path(
        self, wanted: Collection[Wanted], legs: Collection[TorPath], now: float, *, avoid: Collection[bytes] = ()
    ) -> TorPath: ...


class Legs(Shape):
    """Who builds circuits."""

    def build_leg(
        self, make_path: Callable[[float], TorPath], on_ready: Ready, on_failed: Callable[[float], None], now: float
    ) -> None:
        """A circuit over what `make_path` gives; another one over what it gives next if that fails."""
        ...

    def lend(self, circuits: Collection[ClientCircuit]) -> None:
        """These are used now."""
        ...


class Stage(Enum):
    BUILDING = auto()  # and linking
    READY = auto()
    USED = auto()
    GONE = auto()


_LINKED, _TAKEN, _GONE = "all legs are linked", "taken", "gone"
SET: Table[Stage] = Table(
    "conflux set of a client",
    Stage.BUILDING,
    {
        Stage.BUILDING: {_LINKED: Stage.READY, _GONE: Stage.GONE, TIMEOUT: Stage.GONE},
        Stage.READY: {_TAKEN: Stage.USED, _GONE: Stage.GONE},
        Stage.USED: {_GONE: Stage.GONE},
    },
    deadlines={Stage.BUILDING: SET_TIMEOUT},
    standing={
        Stage.READY: "it is renewed after RENEW_AFTER, or loses a leg",
        Stage.USED: "its user closes it, or its legs end",
    },
)


class SetCircuit:
    """A set, as its user sees it: a circuit, an exits.ExitCircuit.

    Attributes:
        circuits: its legs, as far as they are built; some may be gone.
        paths: of its legs, by number.
        renewal: when it is renewed, if nobody has taken it by then.
        on_closed: as of ClientCircuit.
    """

    def __init__(self, owner: Sets, outbox: Outbox, nonce: bytes, legs: int, launches: int, now: float) -> None:
        self.circuits: list[ClientCircuit] = []
        self.paths: dict[int, TorPath] = {}
        self.on_closed: Callable[[int, float], None] | None = None
        self.renewal: Timer | None = None
        self.launches = launches
        self.machine = StateMachine(SET, outbox, self._timed_out, now)
        self.linked = LinkedSet(outbox, originates=True, on_message=self._message, on_closed=self._closed)
        self._owner = owner
        self._nonce = nonce
        self._legs = legs

    @property
    def exit(self) -> TorRelay | None:
        """None until a path is chosen."""
        return next((path.relays[-1] for path in self.paths.values()), None)

    @property
    def stable(self) -> bool:
        return all("Stable" in relay.status.flags for path in self.paths.values() for relay in path.relays)

    # -- for its user

    @property
    def path(self) -> Sequence[RelayTarget]:
        return self.circuits[0].path

    @property
    def built(self) -> bool:
        return self.machine.state is Stage.USED

    def open_stream(self, target: str, handler: Handler | None, now: float, flags: int = 0) -> Stream:
        self._check()
        stream = self.linked.endpoint.open_stream(target, flags)
        stream.handler = handler
        return stream

    def resolve(self, host: str, reply: ResolvedReply) -> None:
        self._check()
        self.linked.endpoint.resolve(host, reply)

    def destroy(self, reason: int, now: float) -> None:
        self.linked.close(reason, now)

    # -- for its owner

    def join(self, circuit: ClientCircuit, now: float) -> None:
        """One leg is built: link it."""
        if self.machine.final:
            circuit.destroy(DestroyReason.FINISHED, now)
            return
        self.circuits.append(circuit)
        circuit.on_closed = self._leg_closed
        try:
            leg = circuit.join(self.linked, now)
        except RemoteError:  # it agreed on no congestion control
            self.destroy(DestroyReason.PROTOCOL, now)
            return
        leg.say(RelayCommand.CONFLUX_LINK, self.linked.link(self._nonce, Wish.HIGH_THROUGHPUT).encode())

    # -- inside

    def _check(self) -> None:
        if not self.built:
            raise LocalError("this circuit is not open")

    def _message(self, leg: Leg, command: int, payload: bytes, now: float) -> None:
        if command == RelayCommand.TRUNCATED:
            leg.end(Truncated.parse(payload).reason, now)
        elif command == RelayCommand.CONFLUX_LINKED:
            self._answered(leg, Link.parse(payload), now)
        else:
            raise RemoteError(f"relay command {command} was not expected on a leg")

    def _answered(self, leg: Leg, link: Link, now: float) -> None:
        """An answer with the nonce of another set would tell the exit that both are of one user (section 4.2.1)."""
        if link.nonce != self._nonce or not self.linked.agrees(link):
            raise RemoteError("LINKED that does not answer our LINK")
        leg.answered(now)
        leg.say(RelayCommand.CONFLUX_LINKED_ACK)
        self.linked.wish = link.wish
        if len(self.linked.legs) == self._legs and all(leg.linked for leg in self.linked.legs):
            self.machine.move(_LINKED, now)
            self._owner.stands(self, now)

    def _leg_closed(self, reason: int, now: float) -> None:
        """While it is in use, LinkedSet knows whether it goes on."""
        if not self.built:
            self.destroy(reason, now)

    def _timed_out(self, stage: Stage, now: float) -> None:
        self.destroy(DestroyReason.TIMEOUT, now)
        self._owner.over(self, stage, now)

    def _closed(self, reason: int, now: float) -> None:
        if self.machine.final:  # it timed out
            return
        stage = self.machine.state
        self.machine.move(_GONE, now)
        self._owner.over(self, stage, now)
        if self.on_closed is not None:
            self.on_closed(reason, now)


class Sets:
    """All sets of a client.

    Args:
        expected: the ports that will be wanted, as of now.
    """

    def __init__(
        self, outbox: Outbox, rng: Rng, paths: Paths, legs: Legs, expected: Callable[[float], Sequence[int]]
    ) -> None:
        self.params = ConfluxParams()
        self._outbox = outbox
        self._rng = rng
        self._paths = paths
        self._legs = legs
        self._expected = expected
        self._sets: dict[SetCircuit, None] = {}  # the oldest first
        self._avoided: dict[bytes, None] = {}  # identities of exits
        self._retry = RETRY_FIRST
        self._timer: Timer | None = None
        self._stopped = False

    def update(self, consensus: Consensus) -> None:
        self.params = ConfluxParams.of(consensus)

    def find(self, circuit: object) -> SetCircuit | None:
        """What was handed out as this circuit, if it is a set."""
        return circuit if isinstance(circuit, SetCircuit) else None

    def fill(self, now: float) -> None:
        """Bring the sets that stand ready up to their number; goes on by itself then."""
        while not self._stopped and self._timer is None and self._lacks and self._expected(now):
            self._start(now)

    def take(self, suits: Callable[[TorRelay], bool], stable: bool, now: float) -> SetCircuit | None:
        """A set that `offered` tells of, to be used from now on."""
        linked = self.offered(suits, stable)
        if linked is not None:
            linked.machine.move(_TAKEN, now)
            self._retry = RETRY_FIRST
            self._legs.lend(linked.circuits)
            self._fill_later(REFILL_AFTER, now)
        return linked

    def offered(self, suits: Callable[[TorRelay], bool], stable: bool) -> SetCircuit | None:
        """A ready set whose exit suits; `stable`: over relays that rarely go down only."""
        for linked in self._sets:
            exit = linked.exit
            if linked.machine.state is Stage.READY and exit is not None and suits(exit):
                if not stable or linked.stable:
                    return linked
        return None

    def stop(self, now: float) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for linked in list(self._sets):
            linked.destroy(DestroyReason.FINISHED, now)

    # -- what sets tell

    def stands(self, linked: SetCircuit, now: float) -> None:
        age = RENEW_AFTER * (1 + fraction(self._rng) / 2)
        linked.renewal = self._outbox.call_at(now + age, partial(self._renew, linked))
        self.fill(now)

    def over(self, linked: SetCircuit, stage: Stage, now: float) -> None:
        """It is gone; `stage`: as it was before."""
        self._sets.pop(linked, None)
        if linked.renewal is not None:
            linked.renewal.cancel()  # or it would keep sets that die young in memory
        exit = linked.exit
        if stage is Stage.BUILDING and exit is not None:
            self._avoided.pop(exit.target.identity, None)
            self._avoided[exit.target.identity] = None
            if len(self._avoided) > AVOIDED:
                del self._avoided[next(iter(self._avoided))]
        if stage is not Stage.USED and not self._stopped:
            self._fill_later(self._retry, now)
            self._retry = min(2 * self._retry, RETRY_MAX)
        self.fill(now)

    # -- inside

    @property
    def _lacks(self) -> bool:
        unused = sum(linked.machine.state is not Stage.USED for linked in self._sets)
        return unused < self.params.ready and len(self._sets) < self.params.sets

    def _start(self, now: float) -> None:
        params = self.params
        nonce = self._rng.random(NONCE_LEN)
        linked = SetCircuit(self, self._outbox, nonce, params.legs, params.legs + params.retries, now)
        self._sets[linked] = None
        for number in range(params.legs):
            if linked.machine.final:
                return
            self._legs.build_leg(
                partial(self._path, linked, number),
                linked.join,
                partial(linked.destroy, DestroyReason.FINISHED),
                now,
            )

    def _path(self, linked: SetCircuit, number: int, now: float) -> TorPath:
        """For one of its legs. Raises Problem."""
        if not linked.launches or linked.machine.final:
            raise Problem(PathWhy.NO_PATH)
        linked.launches -= 1
        others = [path for other, path in linked.paths.items() if other != number]
        wanted = [Wanted(port) for port in self._expected(now)]
        linked.paths[number] = path = self._paths.leg_path(wanted, others, now, avoid=self._avoided)
        return path

    def _renew(self, linked: SetCircuit, now: float) -> None:
        if linked.machine.state is Stage.READY:
            self._retry = RETRY_FIRST
            linked.destroy(DestroyReason.FINISHED, now)

    def _fill_later(self, seconds: float, now: float) -> None:
        """And not before."""
        if self._timer is not None:
            return

        def again(now: float) -> None:
            self._timer = None
            self.fill(now)

        self._timer = self._outbox.call_at(now + seconds, again)
