"""Nodes, storage and streams in memory under a virtual clock: the rig of the tests for ordb/ and rdv/.

`World.run` delivers bytes, cut anywhere, and answers storage effects until nothing moves; `World.advance` lets
time pass, timer by timer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Any

from convergence.circuit.flow import STREAM_WINDOW
from convergence.circuit.streams import SEND_BUFFER_HIGH
from convergence.codes import Dropped, TransferWhy
from convergence.crypto.merkle import MerkleTree
from convergence.effects import Failure, Load, Scan, Store
from convergence.errors import EndReason, LocalError
from convergence.events import Event
from convergence.ordb.download import Download
from convergence.ordb.index import FileBuilder, SharedFile, piece_key
from convergence.ordb.pieces import PieceSet
from convergence.ordb.upload import Upload
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex, Handler, Pipe
from convergence.rdv.keys import SessionKeys
from convergence.rdv.session import Session
from convergence.wire.ordb import PIECE_SIZE, MessageCutter, Queued, encode_message
from convergence.wire.relay import MAX_DATA
from convergence.wire.sharelink import ShareLink
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
WINDOW = STREAM_WINDOW * MAX_DATA  # bytes
START = 1_800_000_000.0 - 1_800_000_000.0 % 86400 + 43200  # a noon: no change of day is near


class CountingRng:
    """The same bytes in every run."""

    def __init__(self) -> None:
        self.calls = 0

    def random(self, size: int, /) -> bytes:
        self.calls += 1
        return (sha256(b"%d" % self.calls).digest() * (size // 32 + 1))[:size]


class Node:
    """An outbox with a storage that answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.outbox = Outbox()
        self.stored: dict[tuple[str, bytes], bytes] = {}
        self.failure: Failure | None = None  # what every Store answers while it is set
        self.load_failure: Failure | None = None
        self.transactions: list[list[tuple[str, bytes, bytes | None]]] = []
        self.hold_replies = False
        self.held: list[tuple[int, Any]] = []
        self.events: list[Event] = []

    def answer(self) -> bool:
        effects = self.outbox.poll(self.world.now)
        for effect in effects:
            match effect:
                case Store(request, items):
                    self.reply(request, self.failure or self.write(list(items)))
                case Load(request, bucket, key):
                    self.reply(request, self.load_failure or self.stored.get((bucket, key)))
                case Scan(request, bucket, prefix):
                    keys = sorted(k for b, k in self.stored if b == bucket and k.startswith(prefix))
                    self.reply(request, self.load_failure or keys)
                case Event():
                    self.events.append(effect)
        return bool(effects)

    def write(self, items: list[tuple[str, bytes, bytes | None]]) -> None:
        self.transactions.append(items)
        for bucket, key, value in items:
            if value is None:
                self.stored.pop((bucket, key), None)
            else:
                self.stored[bucket, key] = value

    def reply(self, request: int, result: Any) -> None:
        if self.hold_replies:
            self.held.append((request, result))
        else:
            self.outbox.done(request, result, self.world.now)

    def release(self) -> None:
        held, self.held = self.held, []
        for request, result in held:
            self.outbox.done(request, result, self.world.now)

    def pieces(self, root: bytes) -> list[int]:
        return sorted(int.from_bytes(k[32:], "big") for b, k in self.stored if b == "piece" and k[:32] == root)


class MemoryStream(Pipe):
    """One end of a stream, a Duplex; what is written waits in `queue` until the world delivers it, and no more than a
    window of it until the far end has consumed that. An end ends both ways, as Tor's does."""

    def __init__(self, world: World, high: int = SEND_BUFFER_HIGH) -> None:
        self.world = world
        self.handler: Handler | None = None
        self.peer: MemoryStream
        self.high = high
        self.queue: deque[bytes] = deque()
        self.queued = 0
        self.most_queued = 0
        self.unused = 0  # bytes handed up and not consumed
        self.most_unused = 0
        self.ending: int | None = None
        self.over = False
        self.stalled = False
        self.rate: int | None = None  # bytes a round; None: all
        self.delivered = 0
        self.was_congested = False
        self.on_leave: Callable[[], None] = lambda: None  # called when its user ends or aborts it

    # -- Duplex

    @property
    def closed(self) -> bool:
        return self.over or self.ending is not None

    @property
    def congested(self) -> bool:
        return self.queued > self.high

    def write(self, data: bytes, now: float) -> None:
        if not self.over and self.ending is None and data:
            self.queue.append(data)
            self.queued += len(data)
            self.most_queued = max(self.most_queued, self.queued)
            self.was_congested = self.was_congested or self.congested

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        self._leave(code)

    def abort(self, code: int, now: float) -> None:
        self.handler = None
        self._drop()
        if not self.over and self.ending is not None:
            self.ending = code
        self._leave(code)

    def consumed(self, size: int, now: float) -> None:
        if self.over or self.handler is None:
            return
        if size > self.unused:
            raise LocalError("more was consumed than was handed up")
        self.unused -= size

    # -- what the world and tests call

    def cut_off(self, code: int = EndReason.DESTROY) -> None:
        """The circuit under both ends dies."""
        for end in (self, self.peer):
            end._finish(code)

    def deliver(self) -> bool:
        if self.stalled or self.over:
            return False
        budget = self.rate if self.rate is not None else self.queued
        moved = False
        while self.queue and not self.over and (room := min(budget, WINDOW - self.peer.unused)) > 0:
            moved = True
            data = self.queue.popleft()
            size = min(len(data), room, self.world.cut(len(data)))
            if size < len(data):
                self.queue.appendleft(data[size:])
            budget -= size
            self.queued -= size
            self.delivered += size
            self.peer._take(data[:size])
        if self.was_congested and self.queued < self.high // 4:
            self.was_congested = False
            if self.handler is not None:
                self.handler.drained(self.world.now)
        if self.ending is not None and not self.queue:
            moved = True
            self.cut_off(self.ending)
        return moved

    def _take(self, data: bytes) -> None:
        if self.handler is not None:
            self.unused += len(data)
            self.most_unused = max(self.most_unused, self.unused)
            self.handler.data(data, self.world.now)

    def _leave(self, code: int) -> None:
        if not self.over and self.ending is None:
            self.ending = code
            self.on_leave()

    def _finish(self, code: int) -> None:
        if self.over:
            return
        self.over = True
        self._drop()
        handler, self.handler = self.handler, None
        if handler is None:
            return
        if code == EndReason.DONE:
            handler.ended(self.world.now)
        else:
            handler.aborted(code, self.world.now)

    def _drop(self) -> None:
        self.queue.clear()
        self.queued = self.unused = 0


class World:
    def __init__(self, seed: int = 1, smallest_cut: int = 1) -> None:
        self.now = START
        self.random = Random(seed)
        self.smallest_cut = smallest_cut
        self.nodes: list[Node] = []
        self.streams: list[MemoryStream] = []
        self.rng = CountingRng()

    def cut(self, size: int) -> int:
        """How many bytes of `size` arrive at once."""
        return self.random.choice((self.smallest_cut, self.random.randint(1, max(size, 1)), size))

    def node(self) -> Node:
        self.nodes.append(Node(self))
        return self.nodes[-1]

    def pair(self, high: int = SEND_BUFFER_HIGH) -> tuple[MemoryStream, MemoryStream]:
        one, other = MemoryStream(self, high), MemoryStream(self, high)
        one.peer, other.peer = other, one
        self.streams += [one, other]
        return one, other

    def step(self) -> bool:
        moved = [stream.deliver() for stream in list(self.streams)]
        answered = [node.answer() for node in self.nodes]
        self.streams = [stream for stream in self.streams if not stream.over]
        return any(moved) or any(answered)

    def run(self) -> None:
        while self.step():
            pass

    def run_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.step(), "everything stands still"

    def advance(self, seconds: float) -> None:
        """Let time pass; timers fire in their order."""
        end = self.now + seconds
        self.run()
        while True:
            deadlines = [d for node in self.nodes if (d := node.outbox.deadline()) is not None and d <= end]
            if not deadlines:
                break
            self.now = max(self.now, min(deadlines))
            for node in self.nodes:
                node.outbox.run_timers(self.now)
            self.run()
        self.now = end


def content(size: int, seed: int = 7) -> bytes:
    return Random(seed).randbytes(size)


def put_file(
    node: Node, data: bytes, name: str = "file.bin", *, stored: set[int] | None = None, manifest_size: int = 0
) -> SharedFile:
    """Store a file as a provider has it; `stored` says which pieces, all when None."""
    builder = FileBuilder()
    pieces = [data[at : at + PIECE_SIZE] for at in range(0, len(data), PIECE_SIZE)]
    for piece in pieces:
        builder.add(piece)
    info, leaves = builder.finish(name, manifest_size=manifest_size)
    for index, piece in enumerate(pieces):
        if stored is None or index in stored:
            node.stored["piece", piece_key(info.root, index)] = piece
    secret = sha256(b"name" + name.encode()).digest()
    return SharedFile.share(info, leaves, CRYPTO.x25519_public(secret), b"\5" * 32, secret)


def link_of(file: SharedFile) -> ShareLink:
    return ShareLink(file.hash_name, file.key)


class Receiver:
    """A download with everything it reported."""

    def __init__(self, node: Node, link: ShareLink, wanted_sources: int = 3, **options: Any) -> None:
        self.node = node
        self.progress: list[int] = []
        self.done: list[SharedFile] = []
        self.failed: list[TransferWhy] = []
        self.paused: list[TransferWhy] = []
        self.dropped: list[Dropped] = []
        self.asked = 0
        self.download = Download(
            link,
            node.outbox,
            node.world.now,
            wanted_sources=wanted_sources,
            on_progress=lambda have, size, now: self.progress.append(have),
            on_done=lambda file, now: self.done.append(file),
            on_need_source=self._need,
            on_paused=lambda why, now: self.paused.append(why),
            on_failed=lambda why, now: self.failed.append(why),
            on_dropped=lambda why, now: self.dropped.append(why),
            **options,
        )
        self.download.start(node.world.now)
        node.world.run()

    def _need(self, now: float) -> None:
        self.asked += 1

    @property
    def bytes(self) -> bytes:
        assert self.download.file is not None
        info = self.download.file.info
        return b"".join(self.node.stored["piece", piece_key(info.root, i)] for i in range(info.pieces))


class Line:
    """A session between a receiver and whatever serves."""

    def __init__(
        self, world: World, server: Node, client: Node, key: bytes, serve: Any, attach: Any, **kw: Any
    ) -> None:
        self.near, self.far = world.pair(kw.get("high", SEND_BUFFER_HIGH))  # near: the client's end
        self.over: list[tuple[int, bool]] = []
        self.served_over: list[tuple[int, bool]] = []
        self.server = Session(
            CRYPTO,
            world.rng,
            server.outbox,
            SessionKeys.of_file(kw.get("server_key", key)),
            bytes(32),
            now=world.now,
            initiator=False,
            attach=serve,
            on_over=lambda reason, local, now: self.served_over.append((reason, local)),
        )
        self.client = Session(
            CRYPTO,
            world.rng,
            client.outbox,
            SessionKeys.of_file(key),
            bytes(32),
            now=world.now,
            initiator=True,
            attach=attach,
            on_over=lambda reason, local, now: self.over.append((reason, local)),
        )
        self.server.bind(self.far)
        self.client.bind(self.near)
        self.far.handler, self.near.handler = self.server, self.client
        self.server.opened(world.now)
        self.client.opened(world.now)


class Sender:
    """Serves a file to receivers, and counts what it sent."""

    def __init__(self, node: Node, file: SharedFile, present: PieceSet | None = None) -> None:
        self.node = node
        self.file = file
        self.present = present
        self.tree = MerkleTree.of(file.leaves)
        self.uploads: list[Upload] = []
        self.sent: list[int] = []

    def serve(self, stream: Duplex) -> Upload:
        upload = Upload(
            stream,
            self.file,
            self.tree,
            self.node.outbox,
            present=self.present,
            on_progress=lambda sent, now: self.sent.append(sent),
        )
        self.uploads.append(upload)
        return upload

    def connect(self, receiver: Receiver, **kw: Any) -> Line:
        key = kw.pop("key", self.file.key)
        return Line(
            self.node.world, self.node, receiver.node, key, self.serve, kw.pop("attach", receiver.download.attach), **kw
        )


class Script:
    """A handler that records messages and sends what a test says."""

    def __init__(self, stream: Duplex) -> None:
        self.stream = stream
        self.now = START  # when it heard something last
        self.messages: list[Any] = []
        self.raw = bytearray()
        self.ends = 0
        self.closes: list[int] = []  # codes of aborts
        self.is_open = False
        self.on_open: Callable[[Script], None] = lambda script: None
        self.on_message: Callable[[Script, Any], None] = lambda script, message: None
        self._cutter = MessageCutter()

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.write(encode_message(message))

    def write(self, data: bytes) -> None:
        self.stream.write(data, self.now)

    def queued(self, position: int, now: float) -> None:
        self.say(Queued(position))

    def idle(self, now: float) -> bool:
        return False

    def opened(self, now: float) -> None:
        self.now = now
        self.is_open = True
        self.on_open(self)

    def data(self, data: bytes, now: float) -> None:
        self.now = now
        self.raw += data
        self.stream.consumed(len(data), now)
        for message in self._cutter.feed(data):
            self.messages.append(message)
            self.on_message(self, message)

    def drained(self, now: float) -> None:
        pass

    def ended(self, now: float) -> None:
        self.ends += 1

    def aborted(self, code: int, now: float) -> None:
        self.closes.append(code)
