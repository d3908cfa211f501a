"""Connections and look-ups through exits, which share circuits with their own kind only.

Does: keep some circuits to exits for each isolation key, open streams to host:port and ask for names on them, try other
exits while none has opened a stream or answered, renew circuits before they tell too much, end those that nobody uses.
Does not: build circuits (pool.py), resolve names (the exit does), or know where keys come from.

Two of them share a circuit only if their keys are equal: an exit learns that what comes through one circuit belongs
together. A circuit never passes from one key to another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Protocol as Shape
from typing import TypeAlias

from convergence.circuit.endpoint import ResolvedReply
from convergence.circuit.streams import MAX_OPTIMISTIC, Stream
from convergence.errors import DestroyReason, EndReason, LocalError, StreamError, Why
from convergence.limits import PerMinute
from convergence.outbox import Outbox, Timer
from convergence.path.place import Failed
from convergence.pipes.duplex import Duplex, Handler, Pipe
from convergence.pipes.pending import Pending
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.address import is_reserved
from convergence.wire.relay import AnswerType, Begin, Resolve, Resolved, format_target
from convergence.wire.target import Protocols, RelayTarget

MAX_DIRTINESS = 600.0  # seconds after its first use in which a circuit takes new streams (Tor's MaxCircuitDirtiness)
LINGER = 30.0  # seconds a circuit without streams is kept: a program's next request often comes soon
MAX_STREAMS = 48  # of one circuit at once; exits refuse more than 64 (circuit/exit.py)
MAX_FRESH = 6  # circuits of one key that take new streams
MAX_CIRCUITS = 128  # of all keys, and so keys; for one more, the one that has been idle longest gives way
CIRCUITS_PER_MINUTE = 12  # of one key: a page that names hosts which hang makes us try many exits
EXITS_TRIED = 3  # for one connection
ANSWER_LIMIT = 15.0  # seconds an exit has to connect; then another is tried
LOOK_UP_PORT = 443  # names are looked up by exits that connect to it: it is where programs mostly go next
TRY_ELSEWHERE = frozenset(
    (
        *(EndReason.EXITPOLICY, EndReason.DESTROY, EndReason.TIMEOUT, EndReason.NOROUTE),
        *(EndReason.HIBERNATING, EndReason.RESOURCELIMIT, EndReason.MISC),
    )
)
"""Refusals that another exit might not give. The others are about the host itself."""


class ExitCircuit(Shape):
    """What is used of a circuit to an exit. ClientCircuit says what each of these is."""

    on_closed: Callable[[int, float], None] | None

    @property
    def path(self) -> Sequence[RelayTarget]: ...

    @property
    def built(self) -> bool: ...

    def open_stream(self, target: str, handler: Handler | None, now: float, flags: int = 0) -> Stream: ...

    def resolve(self, host: str, reply: ResolvedReply) -> None: ...

    def destroy(self, reason: int, now: float) -> None: ...


ExitReady: TypeAlias = Callable[[ExitCircuit, float], None]


class ExitCircuits(Shape):
    """Where circuits come from (pool.py)."""

    def exit_circuit(
        self, host: str, port: int, on_ready: ExitReady, on_failed: Failed, now: float, *, avoid: Collection[bytes] = ()
    ) -> None: ...

    def serves(self, circuit: ExitCircuit, host: str, port: int) -> bool: ...

    def better(self, circuit: ExitCircuit, host: str, port: int) -> bool:
        """Whether one that serves it better stands ready: new streams are to take that."""
        ...

    def begin_flags(self, circuit: ExitCircuit, port: int) -> int:
        """What BEGIN tells the exit besides: see Begin."""
        ...


class State(Enum):
    """Of one shared circuit."""

    BUILDING = auto()
    USED = auto()
    IDLE = auto()
    GONE = auto()


_STANDS, _USED, _UNUSED, _GONE = "stands", "used", "unused", "gone"
SHARED = Table(
    "circuit of a key",
    State.BUILDING,
    {
        State.BUILDING: {_STANDS: State.USED, _GONE: State.GONE},
        State.USED: {_UNUSED: State.IDLE, _GONE: State.GONE},
        State.IDLE: {_USED: State.USED, _GONE: State.GONE, TIMEOUT: State.GONE},
    },
    deadlines={State.IDLE: LINGER},
    standing={
        State.BUILDING: "the pool hands it over, or says that there will be none",
        State.USED: "its last stream ends, or one of its relays ends it",
    },
)


class ExitPipe(Pending):
    """A pipe to host:port. Tor's END ends both ways, so `end` does too, once all is sent.

    Args:
        optimistic: whether what is written goes out before an exit has connected.

    Attributes:
        on_retry: called with `now` when another exit is tried.
    """

    def __init__(
        self,
        owner: ExitConnections,
        outbox: Outbox,
        host: str,
        port: int,
        key: Hashable,
        now: float,
        *,
        optimistic: bool = False,
    ) -> None:
        self.target = Begin.to(format_target(host, port)).target
        super().__init__(outbox, partial(owner.refused, self), partial(owner.over, self), now)
        self.on_retry: Callable[[float], None] = lambda now: None
        self.host, self.port = host, port
        self.key = key
        self.shared: _Shared | None = None  # the circuit it is on, or waits for
        self.refused_by: list[bytes] = []  # identities of exits
        self.tries = EXITS_TRIED
        self._outbox = outbox
        self._flags = owner.begin_flags
        self._optimistic = optimistic
        self._answer: Timer | None = None

    @property
    def circuit(self) -> ExitCircuit | None:
        """What carries it, if anything does."""
        return None if self.shared is None else self.shared.circuit

    def open_on(self, circuit: ExitCircuit, now: float) -> None:
        """Ask the exit of this circuit."""
        try:
            carrier = self._ask(circuit, now)
        except (LocalError, StreamError):  # it closed just now
            self.aborted(EndReason.DESTROY, now)
            return
        if carrier.closed:  # what we asked was one cell too many for a full link
            self.aborted(EndReason.DESTROY, now)
        else:
            silent = partial(self._silent, carrier, self._outbox.steady(now))
            self._answer = self._outbox.call_at(now + ANSWER_LIMIT, silent)

    def _ask(self, circuit: ExitCircuit, now: float) -> Duplex:
        """BEGIN. Binds what carries this pipe once it opens."""
        stream = circuit.open_stream(self.target, self, now, self._flags(circuit, self.port))
        self.bind(stream)
        # tor-spec 6.2 has exits say by their version whether they take DATA before CONNECTED. All that know congestion
        # control do, in both networks.
        if self._optimistic and Protocols.CONGESTION_CONTROL in circuit.path[-1].protocols:
            stream.optimistic = MAX_OPTIMISTIC
            self.send_ahead(now)
        return stream

    def opened(self, now: float) -> None:
        self._answered(now)
        super().opened(now)

    def aborted(self, code: int, now: float) -> None:
        self._answered(now)
        super().aborted(code, now)

    def await_no_answer(self) -> None:
        if self._answer is not None:
            self._answer.cancel()

    def _answered(self, now: float) -> None:
        self.await_no_answer()
        if self.shared is not None:
            self.shared.answered = self._outbox.steady(now)

    def _silent(self, carrier: Duplex, asked: float, now: float) -> None:
        """Blame the circuit only if it has answered nobody since: the host may be what hangs."""
        assert self.shared is not None
        self.shared.hangs = self.shared.answered <= asked
        carrier.abort(EndReason.TIMEOUT, now)
        super().aborted(EndReason.TIMEOUT, now)


class LookUp(ExitPipe):
    """A look-up, as a pipe that carries nothing: it opens once an exit has found something.

    Attributes:
        found: an address, IPv4 if there is one; or the name of an address.
    """

    def __init__(
        self, owner: ExitConnections, outbox: Outbox, question: Resolve, reverse: bool, key: Hashable, now: float
    ) -> None:
        super().__init__(owner, outbox, question.host, LOOK_UP_PORT, key, now)
        self.found = ""
        self.reverse = reverse

    def _ask(self, circuit: ExitCircuit, now: float) -> Duplex:
        """RESOLVE."""
        question = _Question(self)
        circuit.resolve(self.host, question.answered)
        self.bind(question)
        question.handler = self
        return question


class _Question(Pipe):
    """The carrier of a LookUp: RESOLVE at one exit."""

    congested = False

    def __init__(self, look_up: LookUp) -> None:
        self.handler: Handler | None = None
        self.closed = False
        self._look_up = look_up

    def write(self, data: bytes, now: float) -> None:
        """Goes nowhere."""

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        self.abort(code, now)

    def abort(self, code: int, now: float) -> None:
        self.closed = True
        self.handler = None

    def consumed(self, size: int, now: float) -> None:
        raise LocalError("a look-up hands nothing up")

    def answered(self, answers: Resolved | None, now: float) -> None:
        if self.handler is None:  # it was given up; or the circuit closed within the call that asks
            self.closed = True
            return
        self._look_up.found, code = _read(answers, self._look_up.reverse)
        if self._look_up.found:
            self.handler.opened(now)
        else:
            self.handler.aborted(code, now)


def _read(answers: Resolved | None, reverse: bool) -> tuple[str, EndReason]:
    """What was found; else nothing, and why."""
    if answers is None:
        return "", EndReason.DESTROY
    if any(item.kind == AnswerType.ERROR_TRANSIENT for item in answers.answers):
        return "", EndReason.TIMEOUT  # of the exit's own question: another exit may hear more
    best_first = sorted(answers.answers, key=lambda item: item.kind)  # IPv4 is 4, IPv6 is 6
    found = (item.name if reverse else item.address for item in best_first)
    return next(filter(None, found), ""), EndReason.RESOLVEFAILED


class _Shared:
    """A circuit of one key, standing or on its way."""

    def __init__(self, key: Hashable, machine: StateMachine[State]) -> None:
        self.key = key
        self.machine = machine
        self.circuit: ExitCircuit | None = None
        self.pipes: dict[ExitPipe, None] = {}
        self.first_used: float | None = None  # in steady time
        self.answered = float("-inf")  # when its exit last answered a BEGIN, in steady time
        self.hangs = False

    def fresh(self, steady: float) -> bool:
        """Whether it takes new streams at all."""
        return not self.hangs and (self.first_used is None or steady - self.first_used < MAX_DIRTINESS)

    def suits(self, pipe: ExitPipe) -> bool:
        """Whether there is a place for this one."""
        circuit = self.circuit
        good = circuit is None or (circuit.built and circuit.path[-1].identity not in pipe.refused_by)
        return good and len(self.pipes) < MAX_STREAMS


class ExitConnections:
    """All connections and look-ups of a node through exits."""

    def __init__(self, circuits: ExitCircuits, outbox: Outbox) -> None:
        self.begin_flags = circuits.begin_flags
        self._circuits = circuits
        self._outbox = outbox
        self._asked = PerMinute(outbox, CIRCUITS_PER_MINUTE)
        self._shared: dict[_Shared, None] = {}  # of those that are idle, the one that has been so longest first

    def connect(self, host: str, port: int, isolation: Hashable, now: float, *, optimistic: bool = False) -> ExitPipe:
        """A pipe to host:port through an exit. Its handler hears nothing before this returns.

        Args:
            host: a name, which the exit looks up, or an address.
            isolation: connections whose keys are equal may share circuits.
            optimistic: whether up to MAX_OPTIMISTIC bytes of what is written go to an exit before it has connected.
                Each exit that is tried sees them, and the host hears them twice if one that it heard them from breaks.

        Raises LocalError for what no BEGIN can say, and for names that no exit is to hear.
        """
        _check(host)
        pipe = ExitPipe(self, self._outbox, host, port, isolation, now, optimistic=optimistic)
        self._place(pipe, now)
        return pipe

    def resolve(self, host: str, isolation: Hashable, now: float, *, reverse: bool = False) -> LookUp:
        """Have an exit look a name up, or with `reverse` the name of an IP address; as `connect`. Nothing is kept for
        the next one who asks."""
        _check(host)
        question = Resolve.reverse(host) if reverse else Resolve.to(host)
        look_up = LookUp(self, self._outbox, question, reverse, isolation, now)
        self._place(look_up, now)
        return look_up

    def drop(self, isolation: Hashable, now: float) -> None:
        """End all of a key."""
        for shared in [shared for shared in self._shared if shared.key == isolation]:
            for pipe in list(shared.pipes):
                pipe.fail(EndReason.DESTROY, now)
            self._close(shared, now)

    def stop(self, now: float) -> None:
        """The node leaves: tell all that have not opened. What has opened ends with its link: if we ended all at one
        moment, an exit would see which keys belong together."""
        for pipe in [pipe for shared in self._shared for pipe in shared.pipes]:
            if not pipe.open:
                pipe.fail(EndReason.DESTROY, now)

    # -- what pipes tell

    def refused(self, pipe: ExitPipe, code: int, now: float) -> None:
        """It did not open on its circuit."""
        assert pipe.shared is not None and pipe.shared.circuit is not None
        pipe.refused_by.append(pipe.shared.circuit.path[-1].identity)
        self._release(pipe, now)
        pipe.tries -= 1
        if pipe.tries and code in TRY_ELSEWHERE:
            pipe.on_retry(now)
            if not pipe.closed:
                self._place(pipe, now)
        else:
            pipe.fail(code, now)

    def over(self, pipe: ExitPipe, now: float) -> None:
        self._release(pipe, now)

    # -- inside

    def _place(self, pipe: ExitPipe, now: float) -> None:
        """Give it a place on a circuit of its key that stands or is on its way; ask for one more if there is none."""
        steady = self._outbox.steady(now)
        fresh = [shared for shared in self._shared if shared.key == pipe.key and shared.fresh(steady)]
        suiting = [shared for shared in fresh if shared.suits(pipe) and self._serves(shared, pipe)]
        best = next((shared for shared in suiting if not self._better(shared, pipe)), None)
        if best is not None:
            self._enter(pipe, best, now)
        elif self._may_ask(pipe.key, fresh, now):
            shared = self._add(pipe.key, now)
            self._enter(pipe, shared, now)
            stands, failed = partial(self._stands, shared), partial(self._failed, shared)
            self._circuits.exit_circuit(pipe.host, pipe.port, stands, failed, now, avoid=pipe.refused_by)
        elif suiting:
            self._enter(pipe, suiting[0], now)
        else:
            self._give_up(pipe, EndReason.RESOURCELIMIT, now)

    def _serves(self, shared: _Shared, pipe: ExitPipe) -> bool:
        """Whether its exit may connect to where the pipe leads. While it is on its way, only to the same port."""
        if shared.circuit is None:
            return all(other.port == pipe.port for other in shared.pipes)
        return self._circuits.serves(shared.circuit, pipe.host, pipe.port)

    def _better(self, shared: _Shared, pipe: ExitPipe) -> bool:
        circuit = shared.circuit
        return circuit is not None and not pipe.refused_by and self._circuits.better(circuit, pipe.host, pipe.port)

    def _may_ask(self, key: Hashable, fresh: Collection[_Shared], now: float) -> bool:
        """Whether the key may have one more circuit; an idle one gives way to it."""
        room = self._make_way(fresh, MAX_FRESH, now) and self._make_way(self._shared, MAX_CIRCUITS, now)
        return room and self._asked.spend(key, now)

    def _make_way(self, places: Collection[_Shared], most: int, now: float) -> bool:
        """Whether there may be one more."""
        if len(places) < most:
            return True
        idle = next((shared for shared in places if shared.machine.state is State.IDLE), None)
        if idle is not None:
            self._close(idle, now)
        return idle is not None

    def _add(self, key: Hashable, now: float) -> _Shared:
        def timed_out(state: State, now: float) -> None:
            self._close(shared, now)

        shared = _Shared(key, StateMachine(SHARED, self._outbox, timed_out, now))
        self._shared[shared] = None
        return shared

    def _enter(self, pipe: ExitPipe, shared: _Shared, now: float) -> None:
        pipe.shared = shared
        shared.pipes[pipe] = None
        if shared.machine.state is State.IDLE:
            shared.machine.move(_USED, now)
        if shared.circuit is not None:
            pipe.open_on(shared.circuit, now)

    def _release(self, pipe: ExitPipe, now: float) -> None:
        pipe.await_no_answer()
        shared, pipe.shared = pipe.shared, None
        if shared is not None:
            del shared.pipes[pipe]
            self._look(shared, now)

    def _look(self, shared: _Shared, now: float) -> None:
        """A circuit that nobody uses lingers, or ends if it takes no new streams."""
        if shared.pipes or shared.machine.state is not State.USED:
            return
        if shared.fresh(self._outbox.steady(now)):
            shared.machine.move(_UNUSED, now)
            del self._shared[shared]
            self._shared[shared] = None
        else:
            self._close(shared, now)

    def _stands(self, shared: _Shared, circuit: ExitCircuit, now: float) -> None:
        if shared.machine.final:  # dropped meanwhile
            circuit.destroy(DestroyReason.FINISHED, now)
            return
        shared.circuit = circuit
        shared.first_used = self._outbox.steady(now)
        shared.machine.move(_STANDS, now)
        circuit.on_closed = lambda reason, now: self._close(shared, now)
        for pipe in list(shared.pipes):
            if pipe in shared.pipes:
                pipe.open_on(circuit, now)
        self._look(shared, now)

    def _failed(self, shared: _Shared, why: Why, now: float) -> None:
        for pipe in shared.pipes:
            pipe.why = why
            self._give_up(pipe, EndReason.DESTROY, now)
        self._close(shared, now)

    def _give_up(self, pipe: ExitPipe, code: int, now: float) -> None:
        """Tell its user, but not before `connect` has returned."""
        self._outbox.call_at(now, partial(pipe.fail, code))

    def _close(self, shared: _Shared, now: float) -> None:
        """Nothing goes through it any more."""
        self._shared.pop(shared, None)
        if not shared.machine.final:
            shared.machine.move(_GONE, now)
        if shared.circuit is not None:
            shared.circuit.destroy(DestroyReason.FINISHED, now)


def _check(host: str) -> None:
    if is_reserved(host.lower()):
        raise LocalError("names of this kind lead nowhere from an exit")
