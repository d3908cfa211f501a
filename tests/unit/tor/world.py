"""Directories in memory and a client of theirs, with a clock that jumps from one event to the next.

Does: give each directory a voice (`Directory.answer`), carry its bytes cut in any way, keep what the client stores.
Does not: use links or real circuits.
"""

from __future__ import annotations

import random
from base64 import b64decode
from collections import deque
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count

from convergence.codes import PathWhy
from convergence.effects import Load, Scan, Store
from convergence.errors import DestroyReason, EndReason, LocalError, Why
from convergence.events import DirectoryRefused
from convergence.outbox import Outbox
from convergence.pipes.duplex import Pipe
from convergence.tor.directory import TorDirectory
from convergence.tor.network import DirectoryAddress
from convergence.tor.sources import DirectorySources
from convergence.wire.authority import parse_certificates
from convergence.wire.consensus import Consensus
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import HOUR, NOW, Authority, consensus, relay
from tests.unit.wire.test_consensus_diff import diff

FIVE = [Authority(number) for number in range(5)]
END = object()  # in an answer: the directory ends the stream
DESTROY = object()  # in an answer: it destroys the circuit
STEPS = 100_000  # more of them, and something goes round without a pause


@dataclass(frozen=True)
class Asked:
    """One request, as a directory reads it."""

    when: float
    path: str
    headers: dict[str, str]

    @property
    def kind(self):
        return {"status-vote": "consensus", "keys": "certificates", "micro": "microdescriptors"}[
            self.path.split("/")[2]
        ]

    @property
    def digests(self):
        names = self.path.removeprefix("/tor/micro/d/").split("-")
        return [b64decode(name + "=") for name in names]


def response(body, status=200, version="1.0", encoding="identity", framing="length"):
    """An answer, and how it says where its body ends: by its "length", by the "close" of the stream, or "chunked"."""
    head = [f"HTTP/{version} {status} Word", f"Content-Encoding: {encoding}", "Content-Type: text/plain"]
    if framing == "length":
        head.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        head.append("Transfer-Encoding: chunked")
        pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    whole = "\r\n".join([*head, "", ""]).encode() + body
    return [whole, END] if framing == "close" else [whole]


def error(status):
    return response(b"", status)


@cache
def certificates():
    return b"".join(authority.certificate() for authority in FIVE)


class Documents:
    """What honest directories have: a consensus that lists so many relays, and all that belongs to it."""

    def __init__(self, relays=200, valid_after=NOW, signers=FIVE, seed="documents", **options):
        rng = random.Random(seed)
        self.micro = {}
        lines = []
        for identity in sorted(rng.randbytes(20) for _ in range(relays)):
            text = b"onion-key\nntor-onion-key %s\n" % identity.hex().encode()
            self.micro[sha256(text).digest()] = text
            lines.append(relay(identity, sha256(text).digest()))
        self.consensus = consensus(signers, relays=lines, valid_after=valid_after, **options)
        self.certificates = certificates()
        self.base = None  # an earlier consensus, from which there is a diff

    def later(self, hours=2, **options):
        """The documents some hours later; 200 relays are the same, and there is a diff."""
        after = Documents(valid_after=NOW + hours * HOUR, **options)
        after.base = Consensus.parse(self.consensus)
        return after

    def find(self, asked):
        """The body of the answer, None for 404."""
        if asked.kind == "consensus":
            if self.base is not None and asked.headers.get("x-or-diff-from-consensus") == self.base.diff_base:
                lines = self.base.data.count(b"\n")
                return diff(b"1,%dc\n%s.\n" % (lines, self.consensus), self.consensus, self.base)
            return self.consensus
        if asked.kind == "certificates":
            wanted = asked.path.removeprefix("/tor/keys/fp-sk/").split("+")
            found = [
                cert.data
                for cert in parse_certificates(self.certificates)
                if f"{cert.identity.hex()}-{cert.signing_digest.hex()}".upper() in wanted
            ]
            return b"".join(found) or None
        return b"".join(self.micro[digest] for digest in asked.digests if digest in self.micro) or None

    def __call__(self, asked):
        body = self.find(asked)
        return error(404) if body is None else response(body)


class Stream(Pipe):
    """The client's end of a stream to a directory, a Duplex."""

    def __init__(self, circuit, handler):
        self.circuit = circuit
        self.handler = handler
        self.closed = False
        self.congested = False
        self.unused = 0
        self._request = b""

    def write(self, data, now):
        assert not self.closed
        self._request += data
        if self._request.endswith(b"\r\n\r\n"):
            lines = self._request.decode().split("\r\n")[:-2]
            self._request = b""
            method, path, _ = lines[0].split(" ")
            assert method == "GET"
            fields = [line.split(": ", 1) for line in lines[1:]]
            self.circuit.directory.asked(self, Asked(now, path, {name.lower(): value for name, value in fields}))

    def end(self, now, code=EndReason.DONE):
        self.abort(code, now)

    def abort(self, code, now):
        self.handler = None
        self.closed = True
        self.circuit.streams.discard(self)

    def consumed(self, size, now):
        self.unused -= size
        assert self.unused >= 0

    # -- what the directory does

    def open(self, now):
        if not self.closed:
            self.handler.opened(now)

    def say(self, part, now):
        if self.closed:
            return
        handler = self.handler
        if part is DESTROY:
            self.circuit.destroyed(now)
        elif part is END:
            self.abort(EndReason.DONE, now)
            handler.ended(now)
        elif isinstance(part, int):
            self.abort(part, now)
            handler.aborted(part, now)
        elif part:
            self.unused += len(part)
            handler.data(part, now)


class Circuit:
    """What DirectorySources use of a ClientCircuit."""

    def __init__(self, world, directory):
        self.world = world
        self.directory = directory
        self.streams = set()
        self.closed = False
        self.on_closed = None
        directory.circuits.append(self)

    def open_directory(self, handler, now):
        if self.closed:
            raise LocalError("this circuit is not open")
        stream = Stream(self, handler)
        self.streams.add(stream)
        if self.directory.accepts is True:
            self.world.later(stream.open)
        elif self.directory.accepts is not None:
            self.world.later(lambda now: stream.say(self.directory.accepts, now))
        return stream

    def destroy(self, reason, now):
        if self.closed:
            return
        self.closed = True
        for stream in list(self.streams):
            stream.say(EndReason.DESTROY, now)
        if self.on_closed is not None:
            self.on_closed(reason, now)

    def destroyed(self, now):
        self.destroy(DestroyReason.NONE, now)


class Directory:
    """One directory.

    Attributes:
        answer: Asked -> parts of the answer: bytes, END, DESTROY, an EndReason, or a float: seconds that it waits.
        reached: True, False (no circuit comes about), or None (nothing happens for long).
        accepts: True (CONNECTED), an EndReason or DESTROY in its place, or None: it says nothing.
        cut: bytes -> pieces in which they arrive.
    """

    def __init__(self, world, number, answer):
        self.address = DirectoryAddress(f"192.0.2.{number}:9001", bytes([number]) * 20)
        self.answer = answer
        self.reached = True
        self.accepts = True
        self.cut = lambda data: [data]
        self.circuits = []
        self.requests = []
        self._world = world

    @property
    def target(self):
        return self.address.target

    def asked(self, stream, asked):
        self.requests.append(asked)
        self._world.requests.append(asked)
        delay = 0.0
        for part in self.answer(asked):
            if isinstance(part, float):
                delay += part
                continue
            for piece in self.cut(part) if isinstance(part, bytes) else [part]:
                self._world.later(lambda now, piece=piece: stream.say(piece, now), delay)


class World:
    """A TorDirectory, its clock and its storage, and the directories that it knows.

    Args:
        answers: one for each directory.
        storage: what earlier runs kept.
    """

    def __init__(self, *answers, storage=None, now=float(NOW + 60), seed="client", authorities=FIVE):
        self.now = now
        self.outbox = Outbox()
        self.storage = {} if storage is None else storage
        self.requests = []  # of all directories
        self.refused = []  # DirectoryRefused, and when
        self.changes = 0
        self.directories = [Directory(self, number, answer) for number, answer in enumerate(answers, 1)]
        self.candidates = list(self.directories)
        self._later = []
        self._numbers = count()
        self._replies = deque()
        self._by_identity = {directory.target.identity: directory for directory in self.directories}
        rng = SeededRng(seed)
        self.sources = DirectorySources(
            self.outbox, rng, self, lambda now: [directory.target for directory in self.candidates]
        )
        identities = [authority.identity for authority in authorities]
        self.client = TorDirectory(self.outbox, rng, identities, self.sources, self._changed)

    def _changed(self, now):
        self.changes += 1

    # -- DirectorySources ask

    def directory_circuit(self, node, on_ready, on_failed, now):
        directory = self._by_identity[node.identity]
        if directory.reached:
            self.later(lambda now: on_ready(Circuit(self, directory), now))
        elif directory.reached is False:
            self.later(lambda now: on_failed(Why(PathWhy.RELAY_SILENT), now))

    # -- time

    def later(self, call, seconds=0.0):
        heappush(self._later, (self.now + seconds, next(self._numbers), call))

    def start(self):
        self.client.start(self.now)
        return self

    def run(self, seconds):
        """Let so much time pass."""
        end = self.now + seconds
        for _ in range(STEPS):
            if not self.step(end):
                self.now = end
                return self
        raise AssertionError("something goes round without a pause")

    def until(self, condition):
        """Let time pass until it holds."""
        for _ in range(STEPS):
            if condition():
                return self
            assert self.step(float("inf")), "nothing happens any more"
        raise AssertionError("something goes round without a pause")

    def step(self, end):
        """Do one thing that is due by then; returns whether there was one."""
        self._perform()
        deadline = self.outbox.deadline()
        due = self._later[0][0] if self._later else None
        if self._replies:
            request, result = self._replies.popleft()
            self.outbox.done(request, result, self.now)
        elif due is not None and due <= end and (deadline is None or due <= deadline):
            self.now = max(self.now, due)
            heappop(self._later)[2](self.now)
        elif deadline is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.outbox.run_timers(self.now)
        else:
            return False
        return True

    def shift(self, by):
        """The clock jumps."""
        self.now += by
        self._later = [(when + by, number, call) for when, number, call in self._later]
        self.outbox.shift(by)

    def _perform(self):
        for effect in self.outbox.poll(self.now):
            self.perform(effect)

    def perform(self, effect):
        if isinstance(effect, Store):
            for bucket, key, value in effect.items:
                if value is None:
                    self.storage.pop((bucket, key), None)
                else:
                    self.storage[bucket, key] = value
            self._replies.append((effect.request, None))
        elif isinstance(effect, Load):
            self._replies.append((effect.request, self.storage.get((effect.bucket, effect.key))))
        elif isinstance(effect, Scan):
            found = sorted(key for bucket, key in self.storage if bucket == effect.bucket)
            self._replies.append((effect.request, [key for key in found if key.startswith(effect.prefix)]))
        else:
            assert isinstance(effect, DirectoryRefused), effect
            self.refused.append((self.now, effect))

    # -- what there is

    @property
    def complete(self):
        """Whether the client has all that it needs."""
        return self.client.documents.usable(self.now) and not self.client.missing()

    @property
    def known(self):
        """Its microdescriptors, by digest."""
        return {} if self.client.view is None else self.client.view.microdescriptors

    @property
    def reasons(self):
        return [event.reason for _, event in self.refused]

    def asked(self, kind):
        return [asked for asked in self.requests if asked.kind == kind]

    @property
    def timers(self):
        return [timer for _, _, timer in self.outbox._timers if timer.pending]

    @property
    def circuits(self):
        return [circuit for directory in self.directories for circuit in directory.circuits if not circuit.closed]
