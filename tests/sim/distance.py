"""What the tests with distances share: people who write and read without end, and a look at what waits where.

Does: give users of pipes and a server on the web that produce and consume as fast as they may, and count; tell how many
bytes wait at each place of a node.
Does not: build networks (world.py), or know what is a good figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from convergence.circuit.streams import SpliceEnd, Stream
from convergence.effects import Pause, Protocol, Send
from convergence.outbox import Outbox
from convergence.wire.cells import CELL_LEN
from tests.sim.world import Host, World

CHUNK = bytes(1 << 16)
DOWNLOAD, UPLOAD = b"d", b"u"
"""First byte of a connection to a Server: it writes, or it reads."""


class User:
    """The user of a pipe.

    Attributes:
        heard: bytes.
        writes: whether it goes on to write CHUNKs; reads: whether it consumes what it hears.
        asks: what it writes first.
    """

    def __init__(self, host: Host, pipe: Any, *, asks: bytes = b"", writes: bool = False, reads: bool = True) -> None:
        self.host = host
        self.pipe = pipe
        self.heard = 0
        self.writes = writes
        self.code: int | None = None
        self._asks = asks
        self._reads = reads
        self._owed = 0
        self._open = False

    def read(self, reads: bool) -> None:
        """Stop to read, or go on."""
        self._reads = reads
        if reads and self.code is None:
            owed, self._owed = self._owed, 0
            self.host.driver.run(lambda now: self.pipe.consumed(owed, now) if owed else None)

    def go(self, *, writes: bool) -> None:
        """Write on, or write no more."""
        self.writes = writes
        self.host.driver.run(self._write)

    @property
    def unread(self) -> int:
        """Bytes that it heard and did not consume."""
        return self._owed

    def opened(self, now: float) -> None:
        self._open = True
        if self._asks:
            self.pipe.write(self._asks, now)
        self._write(now)

    def data(self, data: bytes, now: float) -> None:
        self.heard += len(data)
        if self._reads:
            self.pipe.consumed(len(data), now)
        else:
            self._owed += len(data)

    def drained(self, now: float) -> None:
        self._write(now)

    def ended(self, now: float) -> None:
        self.code = 0

    def aborted(self, code: int, now: float) -> None:
        self.code = code

    def _write(self, now: float) -> None:
        while self.writes and self._open and self.code is None and not self.pipe.congested:
            self.pipe.write(CHUNK, now)


@dataclass
class _Channel:
    heard: int = 0
    writes: bool = False
    congested: bool = False


@dataclass(eq=False)
class Server:
    """A Machine: a server on the web. What a connection's first byte asks for goes on without end.

    Attributes:
        reads: whether it reads; if not, the first bytes of each connection may still come.
        channels: what each of its connections does, in the order in which they came.
    """

    reads: bool = True
    channels: dict[int, _Channel] = field(default_factory=dict)
    outbox: Outbox = field(default_factory=Outbox)

    @property
    def heard(self) -> int:
        """Bytes, of all connections."""
        return sum(channel.heard for channel in self.channels.values())

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: bytes | None = None) -> None:
        self.channels[channel] = _Channel()
        if not self.reads:
            self.outbox.emit(Pause(channel, True))

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        state = self.channels[channel]
        if not state.heard and data[:1] == DOWNLOAD:
            state.writes = True
            self.outbox.flush_later(self)
        state.heard += len(data)

    def link_closed(self, channel: int, now: float, reason: str) -> None:
        self.channels[channel].writes = False

    def link_congested(self, channel: int, congested: bool, now: float) -> None:
        self.channels[channel].congested = congested
        if not congested:
            self.outbox.flush_later(self)

    def flush(self, now: float) -> bool:
        busy = False
        for number, channel in self.channels.items():
            if channel.writes and not channel.congested:
                self.outbox.emit(Send(number, [CHUNK] * 4))
                busy = True
        return busy

    def woke(self, by: float, now: float) -> None: ...

    def timer(self, now: float) -> None: ...

    def deadline(self) -> float | None:
        return None

    def poll(self, now: float) -> list[Any]:
        return self.outbox.poll(now)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Bytes that wait at one node.

    Args:
        transport: for lines, or for far ends that do not read.
        links: in the queues of circuits at links.
        splices: between two streams that the node joined.
        streams: of its exit streams, for their circuits' windows.
    """

    transport: int
    links: int
    splices: int
    streams: int

    @classmethod
    def at(cls, host: Host) -> Waiting:
        node = host.node
        entries = [entry for circuit in node.relaying.circuits for entry in circuit.endpoint.entries.values()]
        return cls(
            transport=sum(pipe.unsent for pipe in host.pipes.values()),
            links=sum(link.queued for link in node.neighbours.links.values()),
            splices=sum(entry.waiting for entry in entries if isinstance(entry, SpliceEnd)) * CELL_LEN,
            streams=sum(entry._queued for entry in entries if isinstance(entry, Stream)),
        )

    @property
    def all(self) -> int:
        return self.transport + self.links + self.splices + self.streams


class Watch:
    """Looks at hosts every `interval` seconds of virtual time, and keeps the most that ever waited at each."""

    def __init__(self, world: World, hosts: Iterable[Host], interval: float = 0.01) -> None:
        self.most: dict[str, Waiting] = {}
        self._world = world
        self._hosts = list(hosts)
        self._interval = interval
        self._look()

    def reset(self) -> None:
        self.most.clear()

    @property
    def worst(self) -> int:
        """Bytes at the host where most waited."""
        return max((waiting.all for waiting in self.most.values()), default=0)

    def _look(self) -> None:
        for host in self._hosts:
            waiting = Waiting.at(host)
            if waiting.all > self.most.get(host.name, Waiting(0, 0, 0, -1)).all:
                self.most[host.name] = waiting
        self._world.later(self._interval, self._look)


def rate(world: World, count: Callable[[], int], seconds: float) -> float:
    """What `count` grows by per second, within so many seconds from now."""
    before = count()
    world.run(seconds)
    return (count() - before) / seconds
