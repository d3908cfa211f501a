"""A pipe to a peer: a stream to PEER_HOST that carries the records of wire/facilitator.py, one end of it.

Does: frame records, say HELLO, register and check registrations, ask for descriptors and answer such requests, all
within limits. A broken rule ends the stream with a reason, and only the stream.
Does not: build circuits, choose peers (pipes.py), or introduce (signalling.py).

    opener -- [HELLO, if it may be registered] --> accepting end -- HELLO --> opener
    opener -- REGISTER --> accepting end, which then knows the opener and may register too: -- REGISTER --> opener
    both, at any time: SIGNAL, DELIVER, REPLY, UNREACHABLE, ASK [HEADER HEADER], [HEADER,] DESCRIPTORS, FETCH
    opener -- FETCH --> accepting end -- [HEADER,] BUCKET --> opener

An opener that says no HELLO stays anonymous. A proof holds for the identity and nonce in the HELLO of its reader. A
node signs one only for a reader that has proved its identity, so a proof meant for one node is useless with another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum, auto
from typing import Protocol as Shape
from typing import TypeAlias

from convergence.circuit.streams import Stream
from convergence.crypto.keys import NodeKeys
from convergence.errors import CryptoError, EndReason, RemoteError
from convergence.introduction.signalling import Reply, Signals, Switchboard
from convergence.limits import TokenBucket
from convergence.netdir.nodes import MAX_CLOCK_SKEW, NodeDirectory
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import BucketRequest
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import (
    MAX_DESCRIPTORS,
    NONCE_LEN,
    Ask,
    Descriptors,
    Hello,
    RecordCutter,
    RecordType,
    Register,
    encode_record,
    register_statement,
    told_hash,
)
from convergence.wire.relay import PEER_HOST

PEER_TARGET = f"{PEER_HOST}:0"
SETUP_TIMEOUT = 15.0
"""Seconds from our CREATE2 to the neighbour's HELLO."""
GREETING_TIMEOUT = 30.0
"""Seconds from the BEGIN of an incoming pipe to its first record, and from a HELLO to the registration."""
MAX_BEHIND = 1 << 16
"""Bytes of records that are still sent on a congested stream; more are dropped until it is not."""
MAX_REGISTRATIONS = 12
"""REGISTERs on one pipe in REGISTRATION_WINDOW seconds; checking one costs two signatures."""
REGISTRATION_WINDOW = 60.0
ASK_INTERVAL = 10.0
"""Seconds between two ASKs on one pipe at least..."""
ASK_PAUSE = 2 * ASK_INTERVAL
"""...and between two of our own, because delays on the way may bring them closer together."""
ANSWER_TIMEOUT = 60.0
"""Seconds from ASK to the end of the answer, and from REGISTER to REGISTERED. A node that asked and does not read the
answer in that time loses the pipe as well."""
MAX_ANSWER = 1 << 20
"""Bytes of descriptors in one answer, over all its records..."""
MAX_ANSWER_ITEMS = 4096
"""...and how many of them."""
FETCHES_BURST = 16.0
"""FETCH records on one pipe at once..."""
FETCHES_PER_SECOND = 0.5
"""...and how fast that allowance comes back."""
MAX_FETCHING = 16
"""Buckets that one end waits for."""
MAX_ANSWER_HEADERS = 3
"""Epoch headers in one answer: the newest, and two that contradict each other."""
MAX_PROOF_HEADERS = 2
"""Epoch headers that may follow ASK: two that contradict each other. So who never asks hears of a lie, too."""
MAX_HEADERS_DUE = MAX_FETCHING + MAX_ANSWER_HEADERS + MAX_PROOF_HEADERS

ASKING = (RecordType.HELLO, RecordType.REPLY, RecordType.UNREACHABLE, RecordType.HEADER, RecordType.BUCKET)
"""Records that may come to an end that only asks: for introductions, for buckets."""
PEERING = (
    *(RecordType.HELLO, RecordType.REPLY, RecordType.UNREACHABLE, RecordType.HEADER),
    *(RecordType.REGISTER, RecordType.REGISTERED, RecordType.SIGNAL, RecordType.DELIVER),
    *(RecordType.ASK, RecordType.DESCRIPTORS, RecordType.FETCH),
)
"""Records that may come to any other end; also BUCKET, if we opened the pipe."""


class State(Enum):
    """State of one end."""

    OPENING = auto()  # we opened it: a circuit, a stream and a HELLO are awaited
    ACCEPTED = auto()  # somebody opened it, and has said nothing yet
    GREETED = auto()  # said HELLO: a registration is awaited
    ANONYMOUS = auto()  # said something else: only asks
    READY = auto()  # we know each other
    CLOSED = auto()


PIPE = Table(
    "pipe",
    State.OPENING,
    {
        State.OPENING: {
            "accept": State.ACCEPTED,
            "hello": State.READY,
            "close": State.CLOSED,
            TIMEOUT: State.CLOSED,
        },
        State.ACCEPTED: {
            "hello": State.GREETED,
            "record": State.ANONYMOUS,
            "close": State.CLOSED,
            TIMEOUT: State.CLOSED,
        },
        State.GREETED: {"registered": State.READY, "close": State.CLOSED, TIMEOUT: State.CLOSED},
        State.ANONYMOUS: {"close": State.CLOSED},
        State.READY: {"close": State.CLOSED},
    },
    deadlines={
        State.OPENING: SETUP_TIMEOUT,
        State.ACCEPTED: GREETING_TIMEOUT,
        State.GREETED: GREETING_TIMEOUT,
    },
    standing={
        State.ANONYMOUS: "the stream ends with its circuit, or makes room for another one",
        State.READY: "the stream ends with its circuit, a request is not answered, or it makes room for another one",
    },
)


class Request(Enum):
    """What one end waits for."""

    AWAITED = auto()
    OVER = auto()


REQUEST = Table(
    "request on a pipe",
    Request.AWAITED,
    {Request.AWAITED: {"answer": Request.OVER, TIMEOUT: Request.OVER}},
    deadlines={Request.AWAITED: ANSWER_TIMEOUT},
)


class RecordPipe:
    """Records over a stream: the stream's handler, and a `signalling.Pipe`. `signals` asks for introductions on it.

    Args:
        accepts: record types that may come.
    """

    def __init__(self, outbox: Outbox, accepts: Collection[RecordType]) -> None:
        self.signals = Signals(outbox, self.send)
        self.closed = False
        self._outbox = outbox
        self._cutter = RecordCutter(accepts)
        self._stream: Stream | None = None
        self._behind = 0
        self._fetching: deque[Callable[[bytes, float], None]] = deque()  # who waits for buckets, in that order

    def fetch(self, request: BucketRequest, then: Callable[[bytes, float], None], now: float) -> None:
        """Ask the other end for a bucket: then(it, or nothing, now) follows."""
        if self.closed or len(self._fetching) >= MAX_FETCHING:
            then(b"", now)
            return
        self._fetching.append(then)
        self.send(RecordType.FETCH, request.encode(), now)

    def bind(self, stream: Stream) -> None:
        """The stream below; its handler is this pipe."""
        self._stream = stream

    @property
    def congested(self) -> bool:
        return self._stream is None or self._stream.congested

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        """Send a record; dropped when the pipe is closed or the other end reads too slowly."""
        stream = self._stream
        if self.closed or stream is None:
            return
        record = encode_record(kind, body)
        if stream.congested:
            self._behind += len(record)
            if self._behind > MAX_BEHIND:
                return
        stream.write(record, now)

    def close(self, why: str, now: float, reason: int = EndReason.DONE) -> None:
        """End the stream. Signals that were not answered are refused."""
        if self.closed:
            return
        self.closed = True
        stream, self._stream = self._stream, None
        if stream is not None and reason == EndReason.DONE:
            stream.end(now)
        elif stream is not None:
            stream.abort(reason, now)
        self.signals.closed(now)
        while self._fetching:
            self._fetching.popleft()(b"", now)
        self._over(why, now)

    # -- Handler

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None:
        if self.closed:
            return
        try:
            for kind, body in self._cutter.feed(data):
                self._record(kind, body, now)
                if self.closed:
                    return
        except RemoteError as error:
            self.close(str(error), now, EndReason.TORPROTOCOL)
        if self._stream is not None:
            self._stream.consumed(len(data), now)  # a record that is not whole has a limit of its own

    def drained(self, now: float) -> None:
        self._behind = 0

    def ended(self, now: float) -> None:
        self._stream = None
        self.close("the other end closed it", now)

    def aborted(self, code: int, now: float) -> None:
        self.ended(now)

    def _on_bucket(self, body: bytes, now: float) -> None:
        if not self._fetching:
            raise RemoteError("BUCKET that was not asked for")
        self._fetching.popleft()(body, now)

    # -- for the two kinds of pipe

    def _record(self, kind: RecordType, body: bytes, now: float) -> None:
        """Raises RemoteError for what ends the pipe."""
        raise NotImplementedError

    def _over(self, why: str, now: float) -> None:
        """The pipe is closed, whoever closed it."""


Give: TypeAlias = Callable[[bytes, bytes, float], None]


class Peering(Shape):
    """Who owns the pipes."""

    def describe(self, now: float) -> Descriptor | None:
        """What we register; None while we have nothing to offer."""
        ...

    def met(self, pipe: PeerPipe, now: float) -> None:
        """The other end is known from now on: `pipe.peer`."""
        ...

    def registered(self, pipe: PeerPipe, now: float) -> None:
        """The other end took our registration."""
        ...

    def delivered(self, pipe: PeerPipe, sealed: bytes, reply: Reply, now: float) -> None:
        """Somebody sent us this through the other end."""
        ...

    def heard(self, descriptors: Sequence[bytes], now: float) -> None:
        """Encoded descriptors that nobody has checked."""
        ...

    def headers(self, now: float) -> Sequence[bytes]:
        """Encoded epoch headers that we know, at most MAX_ANSWER_HEADERS."""
        ...

    def proof(self, now: float) -> Sequence[bytes]:
        """Of these, those that prove a lie: none or two."""
        ...

    def heard_header(self, raw: bytes, now: float) -> None:
        """An encoded epoch header that nobody has checked. Raises ParseError."""
        ...

    def wanted(self, pipe: PeerPipe, request: BucketRequest, give: Give, now: float) -> None:
        """The other end wants a bucket: give(header, bucket, now) is to follow, both encoded; empty without one, or
        where the header is of the epoch that was asked for."""
        ...

    def answered(self, pipe: PeerPipe, now: float) -> None:
        """The answer to ASK is complete."""
        ...

    def over(self, pipe: PeerPipe, why: str, now: float) -> None:
        """The pipe is closed. The last call."""
        ...


class PeerPipe(RecordPipe):
    """One end.

    Args:
        peer: identity of the node that we opened the stream to, proved by the circuit; None for an incoming stream.

    Attributes:
        peer: identity of the other end, once it is proven.
        registered_since: when the other end first took our registration.
        answered_at: when an answer to our ASK was last complete; 0 before.
        anonymous: whether it can take no registration, because we opened the pipe and said no HELLO.
        offered: whether we sent a registration.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        directory: NodeDirectory,
        switchboard: Switchboard,
        owner: Peering,
        peer: bytes | None,
        now: float,
    ) -> None:
        super().__init__(outbox, PEERING if peer is None else (*PEERING, RecordType.BUCKET))
        self.peer = peer
        self.registered_since: float | None = None
        self.answered_at = 0.0
        self.anonymous = False
        self.offered = False
        self._crypto = crypto
        self._keys = keys
        self._directory = directory
        self._switchboard = switchboard
        self._owner = owner
        self._opener = peer is not None
        self._fetches = TokenBucket(outbox, FETCHES_PER_SECOND, FETCHES_BURST)
        self._machine = StateMachine(PIPE, outbox, self._timed_out, now)
        if not self._opener:
            self._machine.move("accept", now)
        self._ours = Hello(keys.identity, rng.random(NONCE_LEN))
        self._theirs: Hello | None = None
        self._listed = False  # the other end is registered here
        self._awaited = 0  # REGISTEREDs
        self._registrations = 0  # of the other end, since _window
        self._window = float("-inf")  # in steady time, as the two below
        self._may_ask = float("-inf")  # time from which the other end may ask
        self._asked = float("-inf")
        self._answering: StateMachine[Request] | None = None  # our ASK
        self._registering: StateMachine[Request] | None = None  # our REGISTERs
        self._items = self._bytes = 0  # received of the answer to our ASK so far
        self._headers_due = 0  # that may come
        self._giving: deque[list[bytes]] = deque()  # answers to FETCHes, in their order; empty while they are sought
        self._answer: Iterator[bytes] | None = None  # the rest of our own answer
        self._reading: StateMachine[Request] | None = None  # the deadline for the other end to read our answer

    @property
    def source(self) -> PeerPipe:
        """A circuit does not tell where it comes from."""
        return self

    @property
    def ready(self) -> bool:
        """Whether records that we send are read by somebody we know."""
        return self.peer is not None and self._theirs is not None and not self.closed

    def register(self, now: float) -> None:
        """Register what we have to offer now, if the other end is one to register with."""
        theirs, descriptor = self._theirs, self._owner.describe(now)
        if theirs is None or self.peer is None or descriptor is None or self.anonymous or self.closed:
            return
        self.offered = True
        proof = self._crypto.ed25519_sign(self._keys.identity_seed, register_statement(theirs))
        if not self._awaited:
            self._registering = self._await("no answer to REGISTER", now)
        self._awaited += 1
        self.send(RecordType.REGISTER, Register(proof, descriptor.encode()).encode(), now)

    def may_ask(self, now: float) -> bool:
        """Whether it is time, and the other end reads what is sent."""
        rested = self._outbox.steady(now) >= self._asked + ASK_PAUSE
        return self.ready and self._answering is None and rested and not self.congested

    def ask(self, since: int, now: float) -> None:
        """Ask for descriptors published at `since` (Unix seconds) or later: `heard` follows."""
        self._asked = self._outbox.steady(now)
        self._items = self._bytes = 0
        self._may_tell(MAX_ANSWER_HEADERS)
        self._answering = self._await("no answer to ASK", now)
        self.send(RecordType.ASK, Ask(since, told_hash(self._owner.headers(now))).encode(), now)
        for header in self._owner.proof(now):
            self.send(RecordType.HEADER, header, now)

    def fetch(self, request: BucketRequest, then: Callable[[bytes, float], None], now: float) -> None:
        self._may_tell(1)
        super().fetch(request, then, now)

    def _may_tell(self, headers: int) -> None:
        """The other end may send so many headers more."""
        self._headers_due = min(self._headers_due + headers, MAX_HEADERS_DUE)

    # -- Handler

    def opened(self, now: float) -> None:
        self.anonymous = self._opener and self._owner.describe(now) is None
        if not self.anonymous:
            self.send(RecordType.HELLO, self._ours.encode(), now)

    def drained(self, now: float) -> None:
        super().drained(now)
        self._go_on(now)

    # -- time

    def _timed_out(self, state: State, now: float) -> None:
        what = "registration" if state is State.GREETED else "HELLO" if state is State.OPENING else "record"
        self.close(f"no {what} in time", now, EndReason.TIMEOUT)

    def _await(self, why_not: str, now: float) -> StateMachine[Request]:
        def late(state: Request, now: float) -> None:
            self.close(why_not, now, EndReason.TIMEOUT)

        return StateMachine(REQUEST, self._outbox, late, now)

    # -- records

    def _record(self, kind: RecordType, body: bytes, now: float) -> None:
        if kind is RecordType.HELLO:
            if not self._machine.allows("hello"):
                raise RemoteError("HELLO comes first, and once")
        elif self._machine.state is State.OPENING:
            raise RemoteError("HELLO comes first, and once")
        elif self._machine.allows("record"):
            self._machine.move("record", now)
        match kind:
            case RecordType.HELLO:
                self._on_hello(Hello.parse(body), now)
            case RecordType.REGISTER:
                self._on_register(Register.parse(body), now)
            case RecordType.REGISTERED:
                self._on_registered(now)
            case RecordType.SIGNAL:
                self._switchboard.signal(self, body, now)
            case RecordType.REPLY:
                self.signals.reply(body, now)
                self._switchboard.reply(self, body, now)
            case RecordType.UNREACHABLE:
                self.signals.unreachable(body, now)
            case RecordType.DELIVER:
                self._on_deliver(body, now)
            case RecordType.ASK:
                self._on_ask(Ask.parse(body), now)
            case RecordType.HEADER:
                self._on_header(body, now)
            case RecordType.FETCH:
                if not self._fetches.take(now):
                    raise RemoteError("too many requests for buckets")
                self._on_fetch(BucketRequest.parse(body), now)
            case RecordType.BUCKET:
                self._on_bucket(body, now)
            case _:
                self._on_descriptors(Descriptors.parse(body), now)

    def _on_hello(self, hello: Hello, now: float) -> None:
        if hello.identity == self._keys.identity or (self._opener and hello.identity != self.peer):
            raise CryptoError("HELLO names another node than it can be from")
        self._theirs = hello
        self._machine.move("hello", now)
        if self._opener:
            self._owner.met(self, now)
            self.register(now)

    def _on_register(self, register: Register, now: float) -> None:
        steady = self._outbox.steady(now)
        if steady >= self._window + REGISTRATION_WINDOW:
            self._window, self._registrations = steady, 0
        self._registrations += 1
        if self._registrations > MAX_REGISTRATIONS:
            raise RemoteError("too many registrations")
        descriptor = Descriptor.parse(register.descriptor)
        if self._theirs is None or descriptor.identity != self._theirs.identity:
            raise CryptoError("a registration of another node than HELLO named")
        if not descriptor.published - MAX_CLOCK_SKEW <= now < descriptor.expires:
            raise RemoteError("the descriptor is not valid now")
        verify = self._crypto.ed25519_verify
        if self.anonymous or not verify(descriptor.identity, register.proof, register_statement(self._ours)):
            raise CryptoError("the proof of a registration does not hold")
        if not descriptor.verify(verify):
            raise CryptoError("the signature of a registered descriptor does not hold")
        self.send(RecordType.REGISTERED, b"", now)
        first, self._listed = not self._listed, True
        if first:
            self._switchboard.register(descriptor.identity, self)
            if not self._opener:
                self.peer = descriptor.identity
                self._machine.move("registered", now)
                self._owner.met(self, now)
                self.register(now)
        self._owner.heard([register.descriptor], now)

    def _on_registered(self, now: float) -> None:
        if not self._awaited:
            raise RemoteError("REGISTERED that was not due")
        self._awaited -= 1
        if not self._awaited:
            _end(self._registering, now)
        if self.registered_since is None:
            self.registered_since = now
            self._owner.registered(self, now)

    def _on_deliver(self, body: bytes, now: float) -> None:
        if self.registered_since is None and not self._awaited:
            raise RemoteError("DELIVER to a node that is not registered")
        sealed, reply = self.signals.delivery(body)
        self._owner.delivered(self, sealed, reply, now)

    def _on_ask(self, ask: Ask, now: float) -> None:
        steady = self._outbox.steady(now)
        if steady < self._may_ask or self._answer is not None:
            raise RemoteError("ASK too soon after the one before")
        self._may_ask = steady + ASK_INTERVAL
        self._may_tell(MAX_PROOF_HEADERS)
        headers = self._owner.headers(now)
        for header in headers if told_hash(headers) != ask.known else ():
            self.send(RecordType.HEADER, header, now)
        self._answer = _bodies(self._directory.newer(ask.since, now))
        self._reading = self._await("the answer to ASK is not read", now)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Send as much of the answer as the stream takes."""
        while self._answer is not None and not self.congested:
            body = next(self._answer, None)
            if body is None:
                self._answer = None
                _end(self._reading, now)
            self.send(RecordType.DESCRIPTORS, body or b"", now)

    def _on_fetch(self, request: BucketRequest, now: float) -> None:
        if len(self._giving) >= MAX_FETCHING:
            raise RemoteError("too many requests for buckets")
        slot: list[bytes] = []
        self._giving.append(slot)

        def give(header: bytes, bucket: bytes, now: float) -> None:
            slot[:] = (header, bucket)
            while self._giving and self._giving[0]:
                header, bucket = self._giving.popleft()
                if header:
                    self.send(RecordType.HEADER, header, now)
                behind = self._behind + len(bucket) if self.congested else 0
                if behind > MAX_BEHIND:  # an answer that is left out would shift all that follow
                    self.close("buckets are asked for and not read", now, EndReason.TIMEOUT)
                    return
                self.send(RecordType.BUCKET, bucket, now)

        self._owner.wanted(self, request, give, now)

    def _on_header(self, body: bytes, now: float) -> None:
        if not self._headers_due:
            raise RemoteError("HEADER that was not asked for")
        self._headers_due -= 1
        self._owner.heard_header(body, now)

    def _on_descriptors(self, descriptors: Descriptors, now: float) -> None:
        if self._answering is None:
            raise RemoteError("DESCRIPTORS that were not asked for")
        self._items += len(descriptors.items)
        self._bytes += sum(map(len, descriptors.items))
        if self._items > MAX_ANSWER_ITEMS or self._bytes > MAX_ANSWER:
            raise RemoteError("the answer to ASK is too long")
        if descriptors.items:
            self._owner.heard(descriptors.items, now)
        else:
            _end(self._answering, now)
            self._answering = None
            self.answered_at = now
            self._owner.answered(self, now)

    def _over(self, why: str, now: float) -> None:
        if not self._machine.final:
            self._machine.move("close", now)
        for request in (self._answering, self._registering, self._reading):
            _end(request, now)
        self._answering = self._answer = None
        self._switchboard.unregister(self, now)
        self._owner.over(self, why, now)


def _end(request: StateMachine[Request] | None, now: float) -> None:
    if request is not None and not request.final:
        request.move("answer", now)


def _bodies(items: Sequence[bytes]) -> Iterator[bytes]:
    """These descriptors as bodies of DESCRIPTORS, the last (and newest) first, as many as an answer may hold."""
    part: list[bytes] = []
    size = total = 0
    for item in reversed(items[-MAX_ANSWER_ITEMS:]):
        total += len(item)
        if total > MAX_ANSWER:
            break
        if size + 2 + len(item) > MAX_DESCRIPTORS:
            yield Descriptors(tuple(part)).encode()
            part, size = [], 0
        part.append(item)
        size += 2 + len(item)
    if part:
        yield Descriptors(tuple(part)).encode()
