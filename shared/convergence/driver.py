"""The one pump that all shells run: inputs -> machine -> effects -> ports, and one timer.

Does: hand every input with the current time to the machine, then carry out all effects, then re-arm the timer.
Does not: know what a cell is, or any platform; it is synchronous, ports answer through its callbacks.

Embedding contract: call `opened`, `described`, `received`, `closed` and `drained` as the transport learns of them,
`tick` when the timer fires, and `run(lambda now: machine.something(..., now))` for commands. Callbacks may come from
inside a port's own call: the driver queues them and never enters the machine twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from typing import Protocol as Shape

from convergence.effects import (
    CloseLink,
    Connect,
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
from convergence.ports import Clock, Resolver, Storage, Timer, Transport


class Machine(Shape):
    """What the driver drives: a node, or a facilitator."""

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: bytes | None) -> None: ...

    def link_described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None: ...

    def link_data(self, channel: int, data: bytes, now: float) -> None: ...

    def link_closed(self, channel: int, now: float, reason: str) -> None: ...

    def link_congested(self, channel: int, congested: bool, now: float) -> None: ...

    def done(self, request: int, result: Any, now: float) -> None: ...

    def timer(self, now: float) -> None: ...

    def poll(self) -> list[Effect]: ...

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

    def resolve(self, host: str, reply: Callable[[list[str] | Failure], None], /) -> None:
        reply(Failure("policy", "this node is no exit"))


class Driver:
    """Pumps one machine.

    Args:
        machine: a Node or a FacilitatorService.
        transport, clock, timer: the platform's ports.
        storage, resolver: likewise; the defaults refuse.
        on_event: called with every Event, outside the machine.
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
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.machine = machine
        self._transport = transport
        self._clock = clock
        self._timer = timer
        self._storage: Storage = storage or NoStorage()
        self._resolver: Resolver = resolver or NoResolver()
        self._on_event = on_event or (lambda event: None)
        self._inputs: deque[Callable[[float], None]] = deque()
        self._running = False
        self._armed: float | None = None
        self._next_channel = 2

    def accept(self) -> int:
        """A number for a channel that the other side opened."""
        channel = self._next_channel
        self._next_channel += 2
        return channel

    def opened(self, channel: int, protocol: Protocol, binding: bytes | None = None) -> None:
        """A channel is open: one that was asked for, or one from `accept`."""
        self.run(lambda now: self.machine.link_opened(channel, now, protocol=protocol, binding=binding))

    def described(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        """What our side of an RTC channel has to tell the other one."""
        self.run(lambda now: self.machine.link_described(channel, kind, sdp, now))

    def received(self, channel: int, data: bytes) -> None:
        self.run(lambda now: self.machine.link_data(channel, data, now))

    def closed(self, channel: int, reason: str) -> None:
        self.run(lambda now: self.machine.link_closed(channel, now, reason))

    def drained(self, channel: int) -> None:
        self.run(lambda now: self.machine.link_congested(channel, False, now))

    def tick(self) -> None:
        """The timer fired."""
        self._armed = None
        self.run(self.machine.timer)

    def run(self, command: Callable[[float], None]) -> None:
        """Feed the machine, then do all it asks for. Safe to call from within a port."""
        self._inputs.append(command)
        if self._running:
            return
        self._running = True
        try:
            busy = True
            while busy:
                while self._inputs:
                    self._inputs.popleft()(self._clock.now())
                effects = self.machine.poll()
                for effect in effects:
                    self._perform(effect)
                busy = bool(effects or self._inputs)
        finally:
            self._running = False
        deadline = self.machine.deadline()
        if deadline != self._armed:
            self._armed = deadline
            self._timer.arm(deadline)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(channel, buffers):
                if not self._transport.send(channel, buffers):
                    self._inputs.append(lambda now: self.machine.link_congested(channel, True, now))
            case Connect(channel, protocol, address):
                self._transport.connect(channel, protocol, address)
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
            case Resolve(request, host):
                self._resolver.resolve(host, self._reply(request))
            case Event():
                self._on_event(effect)

    def _reply(self, request: int) -> Callable[[Any], None]:
        return lambda result: self.run(lambda now: self.machine.done(request, result, now))
