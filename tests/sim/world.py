"""Many real nodes in one process, under a virtual clock.

Every node is the product's `Node` with the product's `Driver` and real cryptography; only time, randomness (seeded),
sockets and storage are simulated. Channels are reliable and ordered, as WebSockets and our data channels are: loss
shows as a delay (a retransmission) or as a channel that breaks. Without a `Line` between two hosts whatever is sent
arrives after a short random time; a Line carries so many bytes a second, and tells a sender that is ahead of it to
stop, as the transports of a real shell do. An RTC channel opens when both ends were given each
other's description with its true fingerprint, as DTLS demands, and no NAT is between them. Names in the event heap
make runs with one seed identical. An exception in any handler of any node leaves `World.run` and so fails the test.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
import zlib
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from convergence.crypto.keys import NodeKeys
from convergence.driver import Driver, Machine
from convergence.effects import OFFERER, DescriptionKind, Failure, Protocol
from convergence.events import Event
from convergence.facilitator.service import FacilitatorService
from convergence.node import Node, NodeConfig
from convergence.ports import TlsBinding
from convergence.wire.sdp import Candidate, CandidateType, Description, Setup
from convergence.wire.target import Role
from pynode.crypto import CPythonCrypto
from pynode.torkeys import RsaSecret
from pynode.transports import HIGH_WATER, LOW_WATER

START = 1_790_000_000.0  # Unix seconds
RTC_TIMEOUT = 15.0  # seconds until an end of an RTC channel gives up
CUT_NOTICED = (15.0, 30.0)  # seconds until both ends of a channel that leads nowhere know
NO_ROLES = Role(0)


class SeededRng:
    """Not for secrets: tests only."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def random(self, size: int) -> bytes:
        return self._random.randbytes(size)


class MemoryStorage:
    """ports.Storage in a dict; `fail` makes every store answer with that Failure.

    `rewritten` counts pieces that were stored although they were there: each was fetched twice.
    """

    def __init__(self, host: Host) -> None:
        self.items: dict[tuple[str, bytes], bytes] = {}
        self.fail: Failure | None = None
        self.rewritten = 0
        self._host = host

    def store(self, items: Sequence[tuple[str, bytes, bytes | None]], reply: Callable[[Any], None]) -> None:
        if self.fail is None:
            for bucket, key, value in items:
                if value is None:
                    self.items.pop((bucket, key), None)
                else:
                    self.rewritten += bucket == "piece" and (bucket, key) in self.items
                    self.items[bucket, key] = value
        self._answer(reply, self.fail)

    def load(self, bucket: str, key: bytes, reply: Callable[[Any], None]) -> None:
        self._answer(reply, self.items.get((bucket, key)))

    def scan(self, bucket: str, prefix: bytes, reply: Callable[[Any], None]) -> None:
        self._answer(reply, sorted(key for kind, key in self.items if kind == bucket and key.startswith(prefix)))

    def _answer(self, reply: Callable[[Any], None], result: Any) -> None:
        """Later, unless the process that asked is dead by then."""
        host, life = self._host, self._host.life
        host.world.later(0.0, lambda: reply(result) if host.alive and host.life == life else None)


@dataclass(frozen=True, slots=True)
class Line:
    """What lies between two hosts.

    Args:
        delay: seconds, each way.
        rate: bytes/s of each channel, each way.
    """

    delay: float
    rate: float


class Pipe:
    """One side of a channel.

    Attributes:
        busy_until: when the last of what was sent arrives.
        free: when all that was sent is on the line.
        held: bytes, and what happens to them, of all that arrived while the host does not read.
    """

    def __init__(self, host: Host, channel: int) -> None:
        self.host = host
        self.channel = channel
        self.peer: Pipe | None = None
        self.open = True
        self.lost = False  # what is sent arrives nowhere
        self.busy_until = 0.0
        self.line: Line | None = None
        self.free = 0.0
        self.congested = False
        self.paused = False
        self.held: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the line, or at a far end that does not read."""
        if self.line is None or self.peer is None:
            return 0
        return int(max(self.free - self.host.world.now, 0.0) * self.line.rate) + sum(size for size, _ in self.peer.held)


class PeerConnection:
    """One end of an RTC channel, as the shell keeps it."""

    def __init__(self, host: Host, channel: int, offers: bool) -> None:
        self.host = host
        self.channel = channel
        self.offers = offers
        name = f"{host.name}-{host.life}-{channel}"
        self.ufrag = hashlib.sha256(name.encode()).hexdigest()[:8]
        self.fingerprint = hashlib.sha256(b"certificate of " + name.encode()).digest()
        self.remote: Description | None = None
        self.open = False

    def sdp(self, kind: DescriptionKind) -> str:
        port = 1024 + self.channel % 60_000
        candidate = Candidate(CandidateType.HOST, 1, 1 << 30, "192.0.2.1", port)
        setup = Setup.ACTPASS if kind is DescriptionKind.OFFER else Setup.ACTIVE
        return Description(setup, self.fingerprint, self.ufrag, "p" * 24, (candidate,)).to_sdp(kind)


class Host:
    """One machine: a Driver and its ports."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.hung = False  # keeps its channels and does nothing
        self.life = 0  # counts the processes that ran here, one after the other
        self.pipes: dict[int, Pipe] = {}
        self.connections: dict[int, PeerConnection] = {}
        self.events: list[Event] = []
        self.seen: set[str] = set()  # names of the hosts this one had a channel with: what a wiretap here shows
        self.received = bytearray() if world.record else None
        self.storage = MemoryStorage(self)
        self.on_event: Callable[[Event], None] | None = None
        self.node: Any = None
        self.keys: NodeKeys | None = None
        self.skew = 0.0  # seconds that the clock here is ahead
        self.driver: Driver = None  # type: ignore[assignment]
        self.asleep: float | None = None  # since when
        self.slept = 0.0  # seconds in all
        self._armed = 0
        self._armed_for = 0.0

    # -- Clock, Timer

    def now(self) -> float:
        return self.world.now + self.skew

    def elapsed(self) -> float:
        """As on Linux: this clock stands still in sleep."""
        return self.world.now - self.slept

    def sleep(self) -> None:
        """The lid is closed: nothing runs here, and the others lose their connections to it."""
        self.hung, self.asleep = True, self.world.now
        self._armed += 1
        for pipe in self.pipes.values():
            self.world.hang_up(pipe, "connection lost")

    def wake(self) -> None:
        """What was connected is not, and nobody says so."""
        assert self.asleep is not None
        left = max(0.0, self._armed_for - self.asleep)
        self.slept += self.world.now - self.asleep
        self.hung, self.asleep = False, None
        mark = self._armed
        self.world.later(left, lambda: self._fire(mark))

    def arm(self, deadline: float | None) -> None:
        self._armed += 1
        if deadline is not None:
            mark = self._armed
            self._armed_for = max(deadline - self.skew, self.world.now)
            self.world.at(self._armed_for, lambda: self._fire(mark))

    def _fire(self, mark: int) -> None:
        if mark == self._armed and self.alive:
            self.driver.tick()

    # -- Transport

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        if protocol is Protocol.RTC:
            self._offer(channel, address == OFFERER)
            return
        if protocol is Protocol.TCP:
            address = address.partition("/")[0]  # over whichever version of IP
        pipe = self.pipes[channel] = Pipe(self, channel)
        self.world.later(self.world.latency(), lambda: self.world.dial(pipe, protocol, address))

    def _offer(self, channel: int, offers: bool) -> None:
        end = self.connections[channel] = PeerConnection(self, channel, offers)
        self.world.ends[end.ufrag] = end
        if offers:
            self._tell(end, DescriptionKind.OFFER)
        self.world.later(RTC_TIMEOUT, lambda: self._rtc_closed(end, "no connection came about"))

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        end = self.connections.get(channel)
        if end is None or kind is DescriptionKind.CANDIDATES:
            return
        end.remote = Description.from_sdp(sdp)
        if kind is DescriptionKind.OFFER:
            self._tell(end, DescriptionKind.ANSWER)
        self.world.meet(end)

    def restart_ice(self, channel: int) -> None:
        """What a shell does when its network changed."""
        self._tell(self.connections[channel], DescriptionKind.OFFER)

    def _tell(self, end: PeerConnection, kind: DescriptionKind) -> None:
        def described() -> None:
            if self.connections.get(end.channel) is end and self.alive and not self.hung:
                self.driver.described(end.channel, kind, end.sdp(kind))

        self.world.later(self.world.latency(), described)

    def _rtc_closed(self, end: PeerConnection, reason: str) -> None:
        if not end.open and self.connections.get(end.channel) is end:
            del self.connections[end.channel]
            if self.alive:
                self.driver.closed(end.channel, reason)

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        pipe = self.pipes.get(channel)
        if pipe is None or pipe.peer is None:
            return True
        for buffer in [b"".join(buffers)] if pipe.line is None else buffers:
            self.world.carry(pipe, buffer)
        if not pipe.congested and pipe.unsent > HIGH_WATER:
            pipe.congested = True
            self.world.drain(pipe)
        return not pipe.congested

    def close(self, channel: int, reason: str) -> None:
        self.connections.pop(channel, None)
        pipe = self.pipes.pop(channel, None)
        if pipe is not None:
            self.world.hang_up(pipe, reason)

    def pause(self, channel: int, paused: bool) -> None:
        pipe = self.pipes.get(channel)
        if pipe is None or pipe.line is None or pipe.paused == paused:
            return
        pipe.paused = paused
        self.world.later(0.0, lambda: self.world.release(pipe))

    def event(self, event: Event) -> None:
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)


class World:
    """The network.

    Args:
        seed: decides all randomness.
        start: the virtual clock's first reading, Unix seconds.
        loss: chance that a delivery takes RETRANSMIT seconds more; breaks: that its channel breaks.
        record: keep every byte each host receives.
        line: between any two hosts, where `lines` has no other by their names.
    """

    RETRANSMIT = 0.2

    def __init__(
        self,
        seed: int | str = 0,
        *,
        start: float = START,
        loss: float = 0.0,
        breaks: float = 0.0,
        record: bool = False,
        line: Line | None = None,
    ) -> None:
        self.now = start
        self.seed = seed
        self.record = record
        self.hosts: dict[str, Host] = {}
        self.crypto = CPythonCrypto()
        self.transcript = hashlib.sha256()
        self.random = random.Random(f"{seed}-world")
        self._loss = loss
        self._breaks = breaks
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._addresses: dict[str, Host] = {}
        self.behind: dict[str, list[Host]] = {}  # several machines behind one address, which take turns by chance
        self.line = line
        self.lines: dict[frozenset[str], Line] = {}
        self.ends: WeakValueDictionary[str, PeerConnection] = WeakValueDictionary()  # by their ufrag
        self.apart: set[frozenset[str]] = set()  # names of two hosts that no RTC connection can join
        self._island: Callable[[str], bool] | None = None

    # -- building

    def facilitator(self, **settings: Any) -> FacilitatorService:
        """The facilitator joins, or comes back with its key and storage."""
        host = self.hosts.get("facilitator") or self._host("facilitator", "ws://facilitator/")
        rng = SeededRng(f"{self.seed}-facilitator")
        service = FacilitatorService(self.crypto, rng, rng.random(32), **settings)
        self._run_on(host, service)
        host.driver.run(service.start)
        return service

    def add(
        self, name: str, roles: Role = NO_ROLES, *, skew: float = 0.0, browser: bool = False, **config: Any
    ) -> Host:
        """A node that joins at once; `config` is NodeConfig's. With `browser` it has no address and speaks rtc only."""
        url = f"ws://{name}/"
        host = self._host(name, url)
        host.skew = skew
        rng = SeededRng(f"{self.seed}-{name}")
        host.keys = NodeKeys.generate(self.crypto, rng) if roles else None
        if "tls" in config:
            assert host.keys is not None
            host.keys = replace(host.keys, rsa=RsaSecret.generate())
            self._addresses[config["tls"]] = host
        if browser:
            config["rtc"] = True
        urls = (url,) if roles and not browser else ()
        config.setdefault("facilitator", "ws://facilitator/")
        settings = NodeConfig(roles=roles, urls=urls, **config)
        self.boot(host, Node(settings, self.crypto, rng, keys=host.keys))
        return host

    def boot(self, host: Host, node: Node, *, restore: bool = False) -> None:
        """Start (or start again) a node on a host; its storage stays."""
        self._run_on(host, node)
        host.driver.run(lambda now: node.start(now, restore=restore))

    def place(self, name: str, machine: Machine, address: str | None = None, **ports: Any) -> Host:
        """A host that runs any other machine; `ports` are Driver's."""
        host = self._host(name, address or f"ws://{name}/")
        self._run_on(host, machine, **ports)
        return host

    def revive(self, host: Host, *, anew: bool = False) -> None:
        """A node that was killed or left comes back with its keys and storage; or `anew`, as a page that is opened
        again: another node, with what the profile keeps."""
        rng = SeededRng(f"{self.seed}-{host.name}-{host.life}")
        if anew:
            host.keys = NodeKeys.generate(self.crypto, rng)
        self.boot(host, Node(host.node.config, self.crypto, rng, keys=host.keys), restore=True)

    def restart(self, host: Host) -> None:
        """The process dies and comes back with its storage."""
        self.kill(host)
        self.revive(host)

    def leave(self, host: Host) -> None:
        """A clean shutdown; what the node says goodbye with still arrives."""
        host.driver.run(host.node.stop)
        self.kill(host)

    def kill(self, host: Host) -> None:
        """The process dies; its peers learn of it."""
        host.alive = False
        host._armed += 1
        for pipe in list(host.pipes.values()):
            self.hang_up(pipe, "connection lost")
        host.pipes.clear()
        host.connections.clear()

    def vanish(self, host: Host) -> None:
        """The same, but no connection is reset: each peer notices within CUT_NOTICED."""
        for pipe in host.pipes.values():
            self._lose(pipe)
        self.kill(host)

    def _run_on(self, host: Host, machine: Machine, **ports: Any) -> None:
        host.alive = True
        host.life += 1
        host.node = machine
        host.driver = Driver(machine, host, host, host, storage=host.storage, on_event=host.event, **ports)

    def _host(self, name: str, url: str) -> Host:
        host = self.hosts[name] = Host(self, name)
        self._addresses[url] = host
        return host

    # -- time

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), call))

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def latency(self) -> float:
        delay = self.random.uniform(0.005, 0.03)
        return delay + self.RETRANSMIT if self._loss and self.random.random() < self._loss else delay

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let virtual time pass; True as soon as `until` holds, False when the time is over."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            if until():
                return True
            self.now, _, call = heapq.heappop(self._heap)
            call()
        self.now = max(self.now, end) if not until() else self.now
        return until()

    # -- channels

    def cut(self, island: Callable[[str], bool]) -> None:
        """From now on nothing passes between hosts on the island, by their names, and all others."""
        self._island = island
        for host in self.hosts.values():
            for pipe in [pipe for pipe in host.pipes.values() if pipe.peer and self._parted(host, pipe.peer.host)]:
                self._lose(pipe)

    def mend(self) -> None:
        """There is one network again. Channels that were cut are not mended."""
        self._island = None

    def _parted(self, one: Host, other: Host) -> bool:
        return self._island is not None and self._island(one.name) != self._island(other.name)

    def _lose(self, pipe: Pipe) -> None:
        """Nothing passes any more, and both ends find that out by themselves."""
        if pipe.peer is not None and not pipe.lost:
            pipe.lost = pipe.peer.lost = True
            self.later(self.random.uniform(*CUT_NOTICED), partial(self._broken, pipe, pipe.peer))

    @staticmethod
    def _broken(*ends: Pipe) -> None:
        for pipe in ends:
            if pipe.open and pipe.host.alive and pipe.host.pipes.get(pipe.channel) is pipe:
                pipe.open = False
                del pipe.host.pipes[pipe.channel]
                pipe.host.driver.closed(pipe.channel, "connection lost")

    def dial(self, pipe: Pipe, protocol: Protocol, address: str) -> None:
        target = self._target(pipe.host, address)
        if not pipe.host.alive or not pipe.open:
            return
        if target is not None and (target.asleep is not None or self._parted(pipe.host, target)):
            return
        if target is None or not target.alive:
            pipe.host.pipes.pop(pipe.channel, None)
            pipe.host.driver.closed(pipe.channel, "connection refused")
            return
        other = Pipe(target, target.driver.accept())
        target.pipes[other.channel] = other
        self._connect(pipe, other)
        pipe.host.seen.add(target.name)
        target.seen.add(pipe.host.name)
        binding = self._tls(pipe) if protocol is Protocol.TLS else None
        target.driver.opened(other.channel, protocol, binding)
        pipe.host.driver.opened(pipe.channel, protocol, binding)

    def _target(self, host: Host, address: str) -> Host | None:
        there = [one for one in self.behind.get(address, ()) if one.alive and not self._parted(host, one)]
        return self.random.choice(there) if there else self._addresses.get(address)

    @staticmethod
    def _tls(pipe: Pipe) -> TlsBinding:
        """What both ends have in common."""
        name = f"{pipe.host.name}-{pipe.host.life}-{pipe.channel}".encode()
        return TlsBinding(b"certificate of " + name, lambda context: hashlib.sha256(name + context).digest())

    def meet(self, end: PeerConnection) -> None:
        """Open the channel between this end and the one that its remote description names, if both may."""
        other = None if end.remote is None else self.ends.get(end.remote.ufrag)
        if other is None or other.host.connections.get(other.channel) is not other or not other.host.alive:
            return
        if other.open or end.open or other.offers == end.offers:
            return
        apart = frozenset((end.host.name, other.host.name)) in self.apart or self._parted(end.host, other.host)
        if not apart and _knows(end, other) and _knows(other, end):
            end.open = other.open = True
            self.later(2 * self.latency(), lambda: self._join(end, other))

    def _join(self, one: PeerConnection, two: PeerConnection) -> None:
        there = all(end.host.alive and end.host.connections.get(end.channel) is end for end in (one, two))
        if not there or self._parted(one.host, two.host):
            one.open = two.open = False
            return
        pipes = [Pipe(end.host, end.channel) for end in (one, two)]
        self._connect(*pipes)
        for pipe, other in zip(pipes, reversed(pipes), strict=True):
            pipe.host.pipes[pipe.channel] = pipe
            pipe.host.seen.add(other.host.name)
        for pipe in pipes:
            pipe.host.driver.opened(pipe.channel, Protocol.RTC)

    def carry(self, pipe: Pipe, data: bytes) -> None:
        peer = pipe.peer
        assert peer is not None
        if pipe.lost:
            return
        if self._breaks and self.random.random() < self._breaks:
            self.hang_up(pipe, "connection lost")
            pipe.host.pipes.pop(pipe.channel, None)
            life = pipe.host.life

            def noticed() -> None:
                if pipe.host.alive and pipe.host.life == life:
                    pipe.host.driver.closed(pipe.channel, "connection lost")

            self.later(0.0, noticed)
            return
        if pipe.line is None:
            arrival = pipe.busy_until = max(self.now + self.latency(), pipe.busy_until)
        else:
            pipe.free = max(pipe.free, self.now) + len(data) / pipe.line.rate
            arrival = pipe.busy_until = pipe.free + pipe.line.delay

        def deliver() -> None:
            if peer.open and peer.host.alive and not peer.host.hung and not peer.lost:
                what = f"{self.now:.6f} {pipe.host.name} {peer.host.name} {len(data)} {zlib.crc32(data)}\n"
                self.transcript.update(what.encode())
                if peer.host.received is not None:
                    peer.host.received += data
                peer.host.driver.received(peer.channel, data)

        self.at(arrival, lambda: self._arrive(peer, len(data), deliver))

    def drain(self, pipe: Pipe) -> None:
        """Tell the host when its congested pipe is that no more."""
        if not pipe.open or not pipe.host.alive or not pipe.congested:
            return
        assert pipe.line is not None and pipe.peer is not None
        if pipe.unsent <= LOW_WATER:
            pipe.congested = False
            pipe.host.driver.drained(pipe.channel)
        elif not pipe.peer.paused:  # else `release` looks again
            self.at(max(pipe.free - LOW_WATER / pipe.line.rate, self.now + 1e-6), lambda: self.drain(pipe))

    def release(self, pipe: Pipe) -> None:
        """The host reads again what was held."""
        while pipe.held and not pipe.paused:
            pipe.held.popleft()[1]()
        if pipe.peer is not None and not pipe.paused:
            self.drain(pipe.peer)

    def _arrive(self, pipe: Pipe, size: int, call: Callable[[], None]) -> None:
        if pipe.paused or pipe.held:
            pipe.held.append((size, call))
        else:
            call()

    def _connect(self, one: Pipe, two: Pipe) -> None:
        one.peer, two.peer = two, one
        one.line = two.line = self.lines.get(frozenset((one.host.name, two.host.name)), self.line)

    def hang_up(self, pipe: Pipe, reason: str) -> None:
        pipe.open = False
        peer = pipe.peer
        if peer is None or pipe.lost:
            return

        def closed() -> None:
            if peer.open and not peer.lost and peer.host.alive and peer.host.asleep is None:
                peer.open = False
                peer.host.pipes.pop(peer.channel, None)
                peer.host.driver.closed(peer.channel, reason)

        arrival = max(self.now + (self.latency() if pipe.line is None else pipe.line.delay), pipe.busy_until)
        self.at(arrival, lambda: self._arrive(peer, 0, closed))


def identity_seed(world: World) -> bytes:
    """Ed25519 seed of the facilitator's identity."""
    return SeededRng(f"{world.seed}-facilitator").random(32)


def _knows(end: PeerConnection, other: PeerConnection) -> bool:
    remote = end.remote
    return remote is not None and remote.ufrag == other.ufrag and remote.fingerprint == other.fingerprint
