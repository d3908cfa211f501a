"""A node's connection to its facilitator.

Does: keep one channel open, register the node's descriptor and renew it, keep the NodeDirectory fresh, carry signals.
Does not: sign the descriptor or decide what it says (the node's `describe` does), choose nodes, or read signals.

The facilitator may be down, or hostile: whatever happens, the last good list stays in the directory, the channel is
closed with a reason, and another try follows after a time that doubles from RETRY_FIRST to RETRY_MAX.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto

from convergence.chance import fraction
from convergence.codes import FacilitatorWhy
from convergence.crypto.keys import NodeKeys
from convergence.discovery import RENEW_MIN, Discovery
from convergence.effects import CloseLink, Protocol, Send
from convergence.errors import ClockError, CryptoError, RemoteError, Why
from convergence.events import Trouble
from convergence.facilitator.solving import MAX_EFFORT, Solver
from convergence.introduction.signalling import Carrier, Delivered, Signals
from convergence.netdir.headers import EPOCH, Headers
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import BucketRequest, EpochHeader
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import (
    ErrorRecord,
    Hello,
    ListRequest,
    Puzzle,
    Reached,
    RecordCutter,
    RecordType,
    Register,
    Solved,
    encode_record,
    register_statement,
)
from convergence.wire.sharedrandom import DrawRequest
from convergence.wire.target import Role

CONNECT_TIMEOUT = 20.0
ANSWER_TIMEOUT = 30.0
"""Seconds until an unanswered request ends the channel."""
CHECK_TIMEOUT = 5.0
"""The same where there is doubt that the channel still leads anywhere."""
RETRY_FIRST = 1.0
RETRY_MAX = 120.0
STABLE_AFTER = 60.0
"""Seconds a channel must have served for the next pause to begin at RETRY_FIRST again."""
REFRESH_FIRST = 5.0
"""Seconds from the first list to the second. Each further pause is twice as long, up to REFRESH: a network that is just
starting grows quickly, and nodes whose lists differ do not find each other's points."""
REFRESH = 60.0
REST = 240.0
"""The same of a large network, unless the next epoch begins sooner: a channel that is silent for 300 is closed."""
STALE = 3600.0
"""Seconds for which a facilitator may show the same header, if none of our neighbours knows a newer one. An honest one
signs one every ten minutes, or twenty around a restart."""
FEW_RELAYS = 3
"""While fewer are known, pauses stay at REFRESH_FIRST."""
REGISTER_RETRY = 60.0
"""Seconds until a refused registration is tried again."""
MAX_FETCHES = 16
"""Buckets that are waited for at once."""
LIFETIME = 3600
"""Seconds a node's descriptor should be valid: renewed at half of it."""
RTC_LIFETIME = 900
"""The same for a node without an address: a tab goes as it comes."""
STABLE_LIFETIME = 6 * 3600
"""The same of any node that is stable in a large network (`Knowledge.stable`), as it says to the facilitator: that it
is listed in an epoch tells that it is there, and others need not fetch it anew each time. Neighbours are told for as
long as ever."""

ACCEPTED = (
    *(RecordType.HELLO, RecordType.REGISTERED, RecordType.REACHED, RecordType.NODES, RecordType.ERROR),
    *(RecordType.DELIVER, RecordType.REPLY, RecordType.UNREACHABLE, RecordType.HEADER, RecordType.BUCKET),
    *(RecordType.DRAWN, RecordType.PUZZLE),
)
ANSWERS = {
    RecordType.LIST: (RecordType.NODES, RecordType.HEADER),
    RecordType.REGISTER: (RecordType.REGISTERED, RecordType.PUZZLE),
    RecordType.SOLVED: (RecordType.REGISTERED, RecordType.PUZZLE),
    RecordType.FETCH: (RecordType.BUCKET,),
    RecordType.DRAW: (RecordType.DRAWN,),
}


class State(Enum):
    """Of one channel to the facilitator."""

    CONNECTING = auto()
    GREETING = auto()  # it is open: HELLO and the first list are awaited
    IDLE = auto()
    ASKING = auto()  # an answer is awaited
    DOUBTED = auto()  # likewise, and the channel may lead nowhere
    OVER = auto()


_END = {"end": State.OVER, TIMEOUT: State.OVER}
CHANNEL = Table(
    "channel to the facilitator",
    State.CONNECTING,
    {
        State.CONNECTING: {"opened": State.GREETING, **_END},
        State.GREETING: {"answered": State.IDLE, **_END},
        State.IDLE: {"ask": State.ASKING, "end": State.OVER},
        State.ASKING: {"answered": State.IDLE, "doubt": State.DOUBTED, **_END},
        State.DOUBTED: {"answered": State.IDLE, **_END},
    },
    deadlines={
        State.CONNECTING: CONNECT_TIMEOUT,
        State.GREETING: ANSWER_TIMEOUT,
        State.ASKING: ANSWER_TIMEOUT,
        State.DOUBTED: CHECK_TIMEOUT,
    },
    standing={State.IDLE: "the list is asked for again, in a minute or two at most; or the channel is closed"},
)


class FacilitatorClient(Discovery):
    """Owns one FACILITATOR channel.

    Args:
        outbox: the node's.
        crypto, keys: prove to the facilitator that the node is here.
        rng: jitter.
        directory: kept fresh. Only the facilitator that it pins, if any, is dealt with.
        headers: likewise, where the network is too large for a list.
        address: WebSocket URL of the facilitator.
        describe: gives the node's signed descriptor as of now, or None while it has nothing to offer.
        on_nodes: called with `now` when the directory's nodes changed.
        on_registered: called with `now` when a registration was accepted, and the node found at its address if it has
            one.
        on_trouble: called with an event for people, and `now`.
        on_delivered: called with a sealed message for this node, what sends a sealed answer to it, this client as its
            source, and `now`.

    The node passes on what happens to the channel numbered `channel` through `opened`, `data` and `closed`.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        directory: NodeDirectory,
        headers: Headers,
        address: str,
        *,
        describe: Callable[[float], Descriptor | None] = lambda now: None,
        on_nodes: Callable[[float], None] = lambda now: None,
        on_registered: Callable[[float], None] = lambda now: None,
        on_trouble: Callable[[Trouble, float], None] = lambda trouble, now: None,
        on_delivered: Delivered = lambda sealed, reply, source, now: None,
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._keys = keys
        self._directory = directory
        self._headers = headers
        self._address = address
        self._describe = describe
        self._on_nodes = on_nodes
        self._on_registered = on_registered
        self._on_trouble = on_trouble
        self._on_delivered = on_delivered
        self.channel: int | None = None
        self.listed_since: float | None = None
        self._machine: StateMachine[State] | None = None  # of that channel
        self._open_since: float | None = None
        self._attempts = 0
        self._cutter = RecordCutter(ACCEPTED)
        self._hello: Hello | None = None
        self._signals = Signals(outbox, self._send)
        self._refresh_pause = REFRESH_FIRST
        self._waiting: deque[RecordType] = deque()  # requests in the order of their answers
        self._fetching: deque[Callable[[bytes, float], None]] = deque()  # who waits for buckets, in that order
        self._drawn: Callable[[bytes | None, float], None] | None = None  # who waits for a draw
        self._registering: Descriptor | None = None
        self._register_again = False
        self._solver: Solver | None = None  # while many newcomers come
        self._found: bool | None = None  # at our address; None: not known
        self._have = 0  # the epoch of our newest header, as we said when we asked for a newer one
        self._shown = 0, 0.0  # the epoch of the latest header, and when it was shown first
        self._timers: dict[str, Timer] = {}

    @property
    def connected(self) -> bool:
        """Whether the channel is open."""
        return self._open_since is not None

    @property
    def carrier(self) -> Carrier | None:
        """Takes signals to registered nodes while the channel is open."""
        return self._signals if self.connected else None

    def start(self, now: float) -> None:
        """Begin to connect. Does nothing if it has begun."""
        if self.channel is None and "retry" not in self._timers:
            self._connect(now)

    def stop(self, now: float) -> None:
        """Close the channel and stay quiet until `start`."""
        self._abandon("the node stops", now)
        self._attempts = 0

    def register(self, now: float) -> None:
        """Register what `describe` says now: call it when that has changed. It waits for the HELLO of the facilitator,
        which has to name the pinned one. Otherwise an impostor could present the HELLO of any node and get a proof that
        is meant for that node."""
        self._cancel("register")
        if self._hello is None or self._hello.identity != self._directory.facilitator:
            return
        if self._registering is not None:
            self._register_again = True
            return
        descriptor = self._describe(now)
        if descriptor is not None:
            self._registering = descriptor
            self._request(RecordType.REGISTER, self._registration(self._hello, descriptor).encode(), now)

    def refresh(self, now: float) -> None:
        """Ask for the list now."""
        if self.connected and RecordType.LIST not in self._waiting:
            self._cancel("refresh")
            newest, directory = self._headers.newest, self._directory
            ours = directory.facilitator is not None and newest is not None and newest.published >= directory.published
            self._have = newest.epoch if newest is not None and ours else 0
            self._request(RecordType.LIST, ListRequest(self._have).encode(), now)

    def fetch(self, request: BucketRequest, then: Callable[[bytes, float], None], now: float) -> None:
        """Ask for a bucket: then(it, or nothing, now) follows. The facilitator learns which one is wanted."""
        if not self.connected or self._hello is None or len(self._fetching) >= MAX_FETCHES:
            then(b"", now)
            return
        self._fetching.append(then)
        self._request(RecordType.FETCH, request.encode(), now)

    def draw(self, day: int, then: Callable[[bytes | None, float], None], now: float) -> None:
        if not self.connected or self._hello is None or self._drawn is not None:
            then(None, now)
            return
        self._drawn = then
        self._request(RecordType.DRAW, DrawRequest(day).encode(), now)

    def know(self, descriptors: Iterable[bytes], now: float) -> None:
        """The program knows nodes. They count until the first list comes, and after it while there is none."""
        if self._directory.recall(descriptors, now):
            self._on_nodes(now)

    def moved(self, now: float) -> None:
        """This machine is on another network: a channel that stands is dead. Try anew at once."""
        if self.channel is not None or "retry" in self._timers:
            self.stop(now)
            self._connect(now)

    def check(self, now: float) -> None:
        """This machine may be cut off: see whether the channel still answers."""
        self.refresh(now)
        if self._machine is not None and self._machine.allows("doubt"):
            self._machine.move("doubt", now)

    def opened(self, channel: int, now: float) -> None:
        if channel != self.channel or self._machine is None:
            return
        self._machine.move("opened", now)
        self._open_since = self._outbox.steady(now)
        self._cutter = RecordCutter(ACCEPTED)
        self._signals = Signals(self._outbox, self._send)
        self._refresh_pause = REFRESH_FIRST
        self.refresh(now)

    def data(self, channel: int, data: bytes, now: float) -> None:
        if channel != self.channel:
            return
        try:
            for kind, body in self._cutter.feed(data):
                self._record(kind, body, now)
                if self.channel != channel:
                    return  # a callback stopped us
        except ClockError as error:
            self._give_up(FacilitatorWhy.CLOCK, "", now, ahead=round(error.ahead))
        except RemoteError as error:
            self._give_up(FacilitatorWhy.UNUSABLE, str(error), now)

    def closed(self, channel: int, now: float, reason: str) -> None:
        if channel != self.channel:
            return
        self.channel = None
        self._give_up(FacilitatorWhy.LOST if self.connected else FacilitatorWhy.UNREACHABLE, reason, now)

    # Channel

    def _connect(self, now: float) -> None:
        self._cancel("retry")
        self.channel = self._outbox.connect(Protocol.FACILITATOR, self._address)
        self._machine = StateMachine(CHANNEL, self._outbox, self._timed_out, now)

    def _timed_out(self, state: State, now: float) -> None:
        self._give_up(FacilitatorWhy.SILENT, "", now)

    def _give_up(self, code: FacilitatorWhy, detail: str, now: float, **values: int) -> None:
        since = self._open_since
        stable = since is not None and self._outbox.steady(now) - since >= STABLE_AFTER
        self._abandon(code, now)
        self._attempts = 1 if stable else self._attempts + 1
        self._call_at("retry", now + self._pause(), self._connect)
        self._on_trouble(Trouble(Why(code, {"detail": detail, **values}), retrying=True), now)

    def _abandon(self, reason: str, now: float) -> None:
        for name in list(self._timers):
            self._cancel(name)
        if self.channel is not None:
            self._outbox.emit(CloseLink(self.channel, reason))
        if self._machine is not None and not self._machine.final:
            self._machine.move("end", now)
        self.channel = self._machine = None
        self._open_since = None
        self._hello = None
        self._waiting.clear()
        self._registering = None
        self._register_again = False
        if self._solver is not None:
            self._solver.stop(now)
            self._solver = None
        self._found = self.listed_since = None
        self._signals.closed(now)
        while self._fetching:
            self._fetching.popleft()(b"", now)
        self._tell_draw(None, now)

    def _tell_draw(self, draw: bytes | None, now: float) -> None:
        then, self._drawn = self._drawn, None
        if then is not None:
            then(draw, now)

    def _pause(self) -> float:
        """Doubles with every attempt; half to one and a half times that, so that nodes do not come back as one."""
        pause: float = min(RETRY_FIRST * 2 ** min(self._attempts - 1, 16), RETRY_MAX)
        return pause * (0.5 + fraction(self._rng))

    # Requests and answers

    def _send(self, kind: RecordType, body: bytes, now: float) -> None:
        assert self.channel is not None
        self._outbox.emit(Send(self.channel, (encode_record(kind, body),)))

    def _request(self, kind: RecordType, body: bytes, now: float) -> None:
        self._waiting.append(kind)
        self._send(kind, body, now)
        if self._machine is not None and self._machine.allows("ask"):
            self._machine.move("ask", now)

    def _record(self, kind: RecordType, body: bytes, now: float) -> None:
        """Answers keep the order of their requests; records that we did not ask for may come between them."""
        if kind is RecordType.HELLO:
            self._greeted(Hello.parse(body), now)
        elif self._hello is None and kind is not RecordType.ERROR:
            raise RemoteError("a facilitator says HELLO first")
        elif kind is RecordType.REACHED:
            self._reached(Reached.parse(body), now)
        elif kind is RecordType.DELIVER:
            self._on_delivered(*self._signals.delivery(body), self, now)
        elif kind is RecordType.REPLY:
            self._signals.reply(body, now)
        elif kind is RecordType.UNREACHABLE:
            self._signals.unreachable(body, now)
        else:
            self._answer(kind, body, now)

    def _greeted(self, hello: Hello, now: float) -> None:
        if self._hello is not None:
            raise RemoteError("a second HELLO")
        self._hello = hello
        self._check_identity()
        self.register(now)

    def _check_identity(self) -> None:
        if self._hello is None or self._directory.facilitator not in (None, self._hello.identity):
            raise CryptoError("it is another facilitator")

    def _answer(self, kind: RecordType, body: bytes, now: float) -> None:
        if not self._waiting:
            if kind is RecordType.ERROR:  # a farewell: the facilitator closes next
                self._tell_refusal(ErrorRecord.parse(body), now)
                return
            raise RemoteError("an answer to nothing that was asked")
        asked = self._waiting.popleft()
        if self._machine is not None:
            self._machine.move("answered", now)
            if self._waiting:
                self._machine.move("ask", now)
        if kind is RecordType.ERROR:
            self._refused(asked, ErrorRecord.parse(body), now)
        elif kind not in ANSWERS[asked]:
            raise RemoteError("an answer to something else than what was asked")
        elif kind is RecordType.NODES:
            self._nodes(body, now)
        elif kind is RecordType.HEADER:
            self._header(body, now)
        elif kind is RecordType.BUCKET:
            self._fetching.popleft()(body, now)
        elif kind is RecordType.DRAWN:
            self._tell_draw(body, now)
        elif kind is RecordType.PUZZLE:
            self._work(Puzzle.parse(body), now)
        else:
            self._registered(now)

    def _nodes(self, body: bytes, now: float) -> None:
        pinned = self._directory.facilitator
        change = self._directory.update(body, now)
        if pinned is None:
            self._check_identity()
            self.register(now)
        self._call_at("refresh", now + self._refresh_pause, self.refresh)
        few = len(self._directory.nodes(Role.RELAY, now)) < FEW_RELAYS
        self._refresh_pause = REFRESH_FIRST if few else min(2 * self._refresh_pause, REFRESH)
        if change:
            self._on_nodes(now)

    def _header(self, body: bytes, now: float) -> None:
        """The network is too large for a list. As with a list, the first one pins its signer. Nothing: it is the one
        that we have."""
        header = EpochHeader.parse(body) if body or not self._have else None
        epoch = self._have if header is None else header.epoch
        if header is not None and self._directory.facilitator is None and self._hello is not None:
            if header.signer != self._hello.identity or not header.verify(self._crypto.ed25519_verify):
                raise CryptoError("the header's signature does not hold")
            self._directory.pin(header.signer)
            self.register(now)
        # The next one is there when its epoch has begun. Not everybody asks in that second.
        due = (epoch + 1) * EPOCH - now + fraction(self._rng) * REFRESH
        self._call_at("refresh", now + (min(due, REST) if due > 0 else REFRESH), self.refresh)
        newest = self._headers.newest
        if newest is not None and epoch < newest.epoch - 1:  # neighbours, or it itself, told of newer ones
            self._give_up(FacilitatorWhy.OLD, "", now)
            return
        if header is not None:
            self._headers.take(body, now)
        steady = self._outbox.steady(now)
        if epoch != self._shown[0]:
            self._shown = epoch, steady
        elif steady > self._shown[1] + STALE:
            self._on_trouble(Trouble(Why(FacilitatorWhy.OLD), retrying=True), now)

    def _registered(self, now: float) -> None:
        done, self._registering = self._registering, None
        assert done is not None
        if self._register_again:
            self._register_again = False
            self.register(now)
        else:
            self._call_at("register", now + max((done.expires - now) / 2, RENEW_MIN), self.register)
        if self._found or not done.roles or done.ws_url is None:
            self._listed(bool(done.roles), now)

    def _registration(self, hello: Hello, descriptor: Descriptor) -> Register:
        proof = self._crypto.ed25519_sign(self._keys.identity_seed, register_statement(hello))
        return Register(proof, descriptor.encode())

    def _work(self, puzzle: Puzzle, now: float) -> None:
        """Many newcomers come: solve this, and then register what there is to say by then."""
        if puzzle.effort > MAX_EFFORT:
            raise RemoteError("a puzzle that takes too long")

        def solved(number: int | None, now: float) -> None:
            self._solver = self._registering = None
            self._register_again = False
            descriptor = self._describe(now)
            if number is None or descriptor is None or self._hello is None:
                self._call_at("register", now + REGISTER_RETRY, self.register)
                return
            self._registering = descriptor
            record = Solved(number, self._registration(self._hello, descriptor))
            self._request(RecordType.SOLVED, record.encode(), now)

        def told(percent: int, now: float) -> None:
            self._on_trouble(Trouble(Why(FacilitatorWhy.NEWCOMERS, {"percent": percent})), now)

        assert self._hello is not None
        asks, own = self._hello.identity, self._keys.identity
        self._solver = Solver(self._outbox, self._crypto, self._rng, puzzle, asks, own, solved, told, now)

    def _listed(self, listed: bool, now: float) -> None:
        if not listed:
            self.listed_since = None
        elif self.listed_since is None:
            self.listed_since = self._outbox.steady(now)
        self._on_registered(now)

    def _reached(self, reached: Reached, now: float) -> None:
        """Whether this node was found at its address, where it has one."""
        before, self._found = self._found, reached.when > 0
        if self._found and not before:
            self._listed(True, now)
        elif not self._found:
            self.listed_since = None
        if not self._found and before is not False:
            self._on_trouble(Trouble(Why(FacilitatorWhy.NOT_REACHED)), now)

    def _refused(self, asked: RecordType, error: ErrorRecord, now: float) -> None:
        if asked in (RecordType.REGISTER, RecordType.SOLVED):
            self._registering = None
            self._register_again = False
            self._call_at("register", now + REGISTER_RETRY, self.register)
        elif asked is RecordType.FETCH:
            self._fetching.popleft()(b"", now)
            return
        elif asked is RecordType.DRAW:
            self._tell_draw(None, now)
            return
        else:
            self._call_at("refresh", now + REGISTER_RETRY, self.refresh)
        self._tell_refusal(error, now)

    def _tell_refusal(self, error: ErrorRecord, now: float) -> None:
        self._on_trouble(Trouble(Why(FacilitatorWhy.REFUSES, {"detail": _plain(error.text)})), now)

    # Timers

    def _call_at(self, name: str, when: float, call: Callable[[float], None]) -> None:
        self._cancel(name)

        def fire(now: float) -> None:
            del self._timers[name]
            call(now)

        self._timers[name] = self._outbox.call_at(when, fire)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def _plain(text: str) -> str:
    """What a stranger wrote, as one line of printable characters."""
    return "".join(character if character.isprintable() else " " for character in text).strip().rstrip(".")
