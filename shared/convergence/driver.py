"""The one pump that all shells run: inputs -> machine -> effects -> ports, and one timer.

Does: hand every input with the current time to the machine, then carry out all effects, then re-arm the timer; notice
that the clock was set or that this process stood still; keep faults of one channel, port or input from the others.
Does not: know what a cell is, or any platform; it is synchronous, ports answer through its callbacks.

Embedding contract: call `opened`, `described`, `received`, `closed` and `drained` as the transport learns of them,
`tick` when the timer fires, and `run(lambda now: machine.something(..., now))` for commands. Callbacks may come from
inside a port's own call: the driver queues them and never enters the machine twice.

Whatever the machine raises at a channel's input closes that channel; what a port raises fails what was asked of it.
Both are bugs: `on_bug` is told. Without it the first is raised when all else is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any
from typing import Protocol as Shape

from convergence.effects import (
    CloseLink,
    Connect,
    Consult,
    Describe,
    DescriptionKind,
    Effect,
    Failure,
    Load,
    Pause,
    Protocol,
    Resolve,
    Scan,
    Send,
    Store,
)
from convergence.events import Event
from convergence.ports import Binding, Clock, Resolver, SharedStore, Storage, Timer, Transport

JUMP = 2.0
"""Seconds by which the clock must differ from the time that passed to count as set. What NTP corrects bit by bit does
not come near; the core's own time never goes back by less."""

HEARTBEAT = 5.0
"""Seconds at most for which the timer is armed, so that jumps are noticed soon."""

LATE = 10.0
"""Seconds after which a timer that has not fired says that this process stood still: suspended, stopped, or frozen."""

MAX_FAULTS = 100
"""Polls in a row that may fail; the rest waits for the next input: one that always fails must not hold the process."""

BROKEN = "an error of this program"


class Machine(Shape):
    """What the driver drives: a node, or a facilitator."""

    def woke(self, by: float, now: float) -> None:
        """The clock jumped by `by` seconds (below 0: backwards), because the machine slept or its clock was set."""
        ...

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Binding | None) -> None: ...

    def link_described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None: ...

    def link_data(self, channel: int, data: bytes, now: float) -> None: ...

    def link_closed(self, channel: int, now: float, reason: str) -> None: ...

    def link_congested(self, channel: int, congested: bool, now: float) -> None: ...

    def done(self, request: int, result: Any, now: float) -> None: ...

    def timer(self, now: float) -> None: ...

    def poll(self, now: float) -> list[Effect]: ...

    def deadline(self) -> float | None: ...


class NoStorage:
    """For machines that store nothing."""

    def store(self, items: Any, reply: Callable[[None | Failure], None], /) -> None:
        reply(Failure("io", "this node has no storage"))

    def load(self, bucket: str, key: bytes, reply: Callable[[bytes | None | Failure], None], /) -> None:
        reply(None)

    def scan(self, bucket: str, prefix: bytes, reply: Callable[[list[bytes] | Failure], None], /) -> None:
        reply([])


class NoResolver:
    """For nodes that are no exits."""

    def resolve(self, host: str, reply: Callable[[list[str] | Failure], None], source: Hashable, /) -> None:
        reply(Failure("policy", "this node is no exit"))


class Driver:
    """Pumps one machine.

    Args:
        machine: a Node or a FacilitatorService.
        transport, clock, timer: the platform's ports.
        storage, resolver: likewise; the defaults refuse.
        shared: likewise, for one of several facilitators.
        on_event: called with every Event, outside the machine.
        on_bug: called with what the machine or a port raised.
    """

    def __init__(
        self,
        machine: Machine,
        transport: Transport,
        clock: Clock,
        timer: Timer,
        *,
        storage: Storage | None = None,
        resolver: Resolver | None = None,
        shared: SharedStore | None = None,
        on_event: Callable[[Event], None] | None = None,
        on_bug: Callable[[Exception], None] | None = None,
    ) -> None:
        self.machine = machine
        self._transport = transport
        self._clock = clock
        self._timer = timer
        self._storage: Storage = storage or NoStorage()
        self._resolver: Resolver = resolver or NoResolver()
        self._shared = shared
        self._on_event = on_event or (lambda event: None)
        self._on_bug = on_bug or self._keep
        self._bug: Exception | None = None
        self._inputs: deque[tuple[Callable[[float], None], int | None]] = deque()  # and the channels they came on
        self._running = False
        self._now: float | None = None  # as the machine was told last
        self._wall = self._elapsed = 0.0  # the clock's readings then
        self._armed: float | None = None
        self._due: float | None = None  # the same by `elapsed`
        self._next_channel = 2

    def accept(self) -> int:
        """A number for a channel that the other side opened."""
        channel = self._next_channel
        self._next_channel += 2
        return channel

    def opened(self, channel: int, protocol: Protocol, binding: Binding | None = None) -> None:
        """A channel is open: one that was asked for, or one from `accept`."""
        self._input(partial(self.machine.link_opened, channel, protocol=protocol, binding=binding), channel)

    def described(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        """What our side of an RTC channel has to tell the other one."""
        self._input(partial(self.machine.link_described, channel, kind, sdp), channel)

    def received(self, channel: int, data: bytes) -> None:
        self._input(partial(self.machine.link_data, channel, data), channel)

    def closed(self, channel: int, reason: str) -> None:
        self._input(lambda now: self.machine.link_closed(channel, now, reason))

    def drained(self, channel: int) -> None:
        self._input(partial(self.machine.link_congested, channel, False), channel)

    def tick(self) -> None:
        """The timer fired."""
        self._armed = None
        self._input(self.machine.timer)

    def run(self, command: Callable[[float], None]) -> None:
        """Feed the machine, then do all it asks for. Safe to call from within a port.

        Raises what the command raises, when all else is done; from within a port that counts as a bug.
        """
        if self._running:
            self._input(command)
            return
        raised: list[Exception] = []

        def attempt(now: float) -> None:
            try:
                command(now)
            except Exception as error:
                raised.append(error)

        self._input(attempt)
        if raised:
            raise raised[0]

    # -- the pump

    def _input(self, call: Callable[[float], None], channel: int | None = None) -> None:
        """Queue an input, of a channel that is closed when it fails, and pump unless that is under way."""
        self._inputs.append((call, channel))
        if not self._running:
            self._pump()

    def _pump(self) -> None:
        self._running = True
        try:
            busy, faults = True, 0
            while busy:
                while self._inputs:
                    call, channel = self._inputs.popleft()
                    now = self._time()
                    try:
                        call(now)
                    except Exception as error:
                        self._on_bug(error)
                        if channel is not None:
                            self._close(channel, now)
                effects = self._poll()
                for effect in effects or ():
                    try:
                        self._perform(effect)
                    except Exception as error:
                        self._failed(effect, error)
                faults = faults + 1 if effects is None else 0
                busy = bool(self._inputs or effects) or 0 < faults < MAX_FAULTS
        finally:
            self._running = False
            self._arm()
        bug, self._bug = self._bug, None
        if bug is not None:
            raise bug

    def _poll(self) -> list[Effect] | None:
        """The machine's effects; None when it failed to gather them: the next poll then goes on behind the fault."""
        now = self._now
        assert now is not None  # an input came first
        try:
            return self.machine.poll(now)
        except Exception as error:
            self._on_bug(error)
            return None

    def _failed(self, effect: Effect, error: Exception) -> None:
        """This effect could not be performed: it alone fails."""
        self._on_bug(error)
        match effect:
            case Connect(channel) | Send(channel) | Describe(channel) | Pause(channel):
                self._inputs.append((partial(self._close, channel), None))
            case Store(request) | Load(request) | Scan(request) | Resolve(request) | Consult(request):
                self._reply(request)(Failure("io", BROKEN))

    def _close(self, channel: int, now: float) -> None:
        """End a channel whose state cannot be trusted."""
        try:
            self._transport.close(channel, BROKEN)
        except Exception as error:
            self._on_bug(error)
        try:
            self.machine.link_closed(channel, now, BROKEN)
        except Exception as error:
            self._on_bug(error)

    def _keep(self, error: Exception) -> None:
        self._bug = self._bug or error

    # -- time

    def _time(self) -> float:
        """What time it is; the machine learns first when that is not what was to be expected."""
        wall, elapsed = self._clock.now(), self._clock.elapsed()
        before, by = self._now, (wall - self._wall) - (elapsed - self._elapsed)
        self._wall, self._elapsed = wall, elapsed
        if self._due is not None and elapsed - self._due > LATE:
            by += elapsed - self._due
            self._due = None
        if before is None or abs(by) < JUMP:
            self._now = wall if before is None else max(before, wall)
            return self._now
        self._now = wall
        try:
            self.machine.woke(by, wall)
        except Exception as error:
            self._on_bug(error)
        self._armed = None
        return wall

    def _arm(self) -> None:
        deadline = self.machine.deadline()
        if deadline is None or self._now is None:
            if self._armed is not None:
                self._timer.arm(None)
            self._armed = self._due = None
        elif self._armed is None or deadline < self._armed:
            # A timer that stands and is early does no harm: it is armed anew when it has fired.
            self._armed = min(deadline, self._now + HEARTBEAT)
            self._due = self._elapsed + max(0.0, self._armed - self._now)
            self._timer.arm(self._armed)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(channel, buffers):
                if not self._transport.send(channel, buffers):
                    self._inputs.append((partial(self.machine.link_congested, channel, True), None))
            case Connect(channel, protocol, address, source):
                self._transport.connect(channel, protocol, address, source)
            case Describe(channel, kind, sdp):
                self._transport.describe(channel, kind, sdp)
            case CloseLink(channel, reason):
                self._transport.close(channel, reason)
            case Pause(channel, paused):
                self._transport.pause(channel, paused)
            case Store(request, items):
                self._storage.store(items, self._reply(request))
            case Load(request, bucket, key):
                self._storage.load(bucket, key, self._reply(request))
            case Scan(request, bucket, prefix):
                self._storage.scan(bucket, prefix, self._reply(request))
            case Resolve(request, host, source):
                self._resolver.resolve(host, self._reply(request), source)
            case Consult(request, question):
                assert self._shared is not None  # or the machine would not ask
                self._shared.consult(question, self._reply(request))
            case Event():
                self._on_event(effect)

    def _reply(self, request: int) -> Callable[[Any], None]:
        return lambda result: self._input(lambda now: self.machine.done(request, result, now))
