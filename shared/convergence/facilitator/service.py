"""The facilitator: channels on which nodes register, ask for the list of nodes, and pass sealed signals on.

Does: registrations (checked, rate-limited), the list, introductions, a health summary; one of several facilitators, if
they share a store. A `driver.Machine`.
Does not: HTTP; keep nodes (registry.py, shared.py) or look for them (reaching.py); read, store or log signals
(introduction/signalling.py forgets them after a minute).

A registration holds a proof for this very channel, so nobody can register a key that he does not have. A node with an
address gets signals from its registration on. It is listed, with the time, once it was found at its address. For a node
without an address, the channel is the only proof.

Several facilitators behind one name have one identity: to nodes they are one, which may go from one to another at any
moment.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from enum import Enum, auto
from typing import Any

from convergence.effects import CloseLink, DescriptionKind, Effect, Protocol, Send
from convergence.errors import ParseError
from convergence.events import Refused
from convergence.facilitator.ages import NEVER, UNKNOWN
from convergence.facilitator.crowd import Crowd
from convergence.facilitator.decisions import SharedPublisher
from convergence.facilitator.exchange import Exchange
from convergence.facilitator.newcomers import Newcomers
from convergence.facilitator.partners import Partners
from convergence.facilitator.publisher import Publisher
from convergence.facilitator.reaching import Reaching
from convergence.facilitator.registry import Node, Refusal, Registry, RegistryLimits, read
from convergence.facilitator.shared import SharedRegistry
from convergence.facilitator.sharing import Sharing
from convergence.introduction.signalling import MAX_TAGS, Switchboard
from convergence.limits import TokenBucket
from convergence.outbox import Outbox
from convergence.ports import Binding, Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import BucketRequest
from convergence.wire.facilitator import (
    NONCE_LEN,
    ErrorCode,
    ErrorRecord,
    Hello,
    ListRequest,
    Reached,
    RecordCutter,
    RecordType,
    Register,
    Signal,
    Solved,
    Unreachable,
    UnreachableReason,
    encode_record,
    register_statement,
)
from convergence.wire.sharedrandom import DrawRequest

MAX_LIFETIME = 6 * 3600
"""Seconds from `published` to `expires` that a descriptor may claim."""
MAX_CLOCK_SKEW = 600
"""Seconds a node's clock may be ahead of ours."""
FIRST_RECORD_TIMEOUT = 30.0
"""Seconds a new channel has to bring one whole record."""
IDLE_TIMEOUT = 300.0
"""Seconds without a whole record after which a channel is closed. Clients ask for the list every minute."""
RECORDS_BURST = 20.0
"""REGISTER and LIST records, and REPLYs to nothing, that a channel may send at once..."""
RECORDS_PER_SECOND = 0.5
"""...and how fast that allowance comes back."""
SIGNALS_BURST = 40.0
"""SIGNAL records that a channel may send at once..."""
SIGNALS_PER_SECOND = 1.0
"""...likewise. One too many is answered by UNREACHABLE."""
FETCHES_BURST = 64.0
"""FETCH records that a channel may send at once..."""
FETCHES_PER_SECOND = 1.0
"""...likewise."""
LIST_UP_TO = 1024
"""Nodes that are told in a list; more are told by header and buckets."""
TAGS_PER_CHANNEL = 16
"""Unexpired introductions for each channel that there may be: nobody has as many all the time."""
LEAVING = 5.0
"""Seconds over which a facilitator that stops sends its nodes elsewhere, so that they do not come there as one."""
LEAVING_STEP = 0.1

ACCEPTED = frozenset(
    (
        *(
            RecordType.REGISTER,
            RecordType.SOLVED,
            RecordType.LIST,
            RecordType.SIGNAL,
            RecordType.REPLY,
            RecordType.FETCH,
        ),
        RecordType.DRAW,
    )
)
ELSEWHERE = "this facilitator stops: another one is there"


class State(Enum):
    """Of one channel."""

    NEW = auto()  # has brought no whole record yet
    HEARD = auto()
    CLOSED = auto()


CHANNEL = Table(
    "channel of a facilitator",
    State.NEW,
    {
        State.NEW: {"record": State.HEARD, "close": State.CLOSED, TIMEOUT: State.CLOSED},
        State.HEARD: {"record": State.HEARD, "close": State.CLOSED, TIMEOUT: State.CLOSED},
    },
    deadlines={State.NEW: FIRST_RECORD_TIMEOUT, State.HEARD: IDLE_TIMEOUT},
)


class _Channel:
    """One open channel: a pipe of the switchboard. There may be very many: what most do not need is made when it is."""

    __slots__ = (
        "_fetches",
        "_on_idle",
        "_outbox",
        "_records",
        "_signals",
        "congested",
        "cutter",
        "identity",
        "listed",
        "machine",
        "network",
        "nonce",
        "number",
        "waiting",
    )

    def __init__(
        self,
        number: int,
        network: str,
        nonce: bytes,
        outbox: Outbox,
        on_idle: Callable[[int, str, float], None],
        now: float,
    ) -> None:
        self.number = number
        self.network = network  # where it comes from
        self.nonce = nonce  # of our HELLO
        self.machine = StateMachine(CHANNEL, outbox, self, now)
        self.congested = False
        self.listed = False  # whether it got the list
        self.waiting: deque[tuple[RecordType, bytes]] | None = None  # requests behind a registration
        self.identity: bytes | None = None  # the one node it may register
        self.cutter: RecordCutter | None = None  # while a record is incomplete
        self._records: TokenBucket | None = None
        self._signals: TokenBucket | None = None
        self._fetches: TokenBucket | None = None
        self._on_idle = on_idle
        self._outbox = outbox

    @property
    def records(self) -> TokenBucket:
        if self._records is None:
            self._records = TokenBucket(self._outbox, RECORDS_PER_SECOND, RECORDS_BURST)
        return self._records

    @property
    def signals(self) -> TokenBucket:
        if self._signals is None:
            self._signals = TokenBucket(self._outbox, SIGNALS_PER_SECOND, SIGNALS_BURST)
        return self._signals

    @property
    def fetches(self) -> TokenBucket:
        if self._fetches is None:
            self._fetches = TokenBucket(self._outbox, FETCHES_PER_SECOND, FETCHES_BURST)
        return self._fetches

    def __call__(self, state: State, now: float) -> None:
        """Time has ended this state. A bound method for its machine would take 80 bytes more of each."""
        self._on_idle(self.number, "idle", now)

    @property
    def source(self) -> Hashable:
        return self.network or self

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        """A signalling record: dropped while the node does not read, for it helps only at once."""
        if not self.congested:
            self.answer(kind, body)

    def answer(self, kind: RecordType, body: bytes = b"") -> None:
        self._outbox.emit(Send(self.number, (encode_record(kind, body),)))


class FacilitatorService:
    """One facilitator.

    Args:
        crypto: signs and verifies.
        rng: nonces.
        seed: Ed25519 seed (32 bytes) of the facilitator's identity; that of all behind one name.
        source: channel -> where it comes from, for limits: all channels of one network have one name. "" where that
            cannot be told: no limit for each source holds then.
        limits: of nodes and channels.
        list_up_to: nodes that are told in a list; more are told by header and buckets.
        outbox: effects and timers; one of its own by default.
        others: facilitators of other operators that draw the shared random value with it: identity -> address.
        shared: whether it shares a store with others. The shell then says `joined`, `parted` and `told`.
        version: of this program, for people.

    Call `start(now)` once, then drive it as a `driver.Machine`.
    """

    def __init__(
        self,
        crypto: Crypto,
        rng: Rng,
        seed: bytes,
        outbox: Outbox | None = None,
        *,
        source: Callable[[int], str] = lambda channel: "",
        limits: RegistryLimits | None = None,
        list_up_to: int = LIST_UP_TO,
        others: Mapping[bytes, str] | None = None,
        shared: bool = False,
        version: str = "",
    ) -> None:
        self.identity = crypto.ed25519_public(seed)
        self.sharing: Sharing | None = None
        self._crypto = crypto
        self._rng = rng
        self._outbox = outbox = outbox or Outbox()
        self._source = source
        self._version = version
        self._limits = limits = limits or RegistryLimits()
        tags = max(MAX_TAGS, TAGS_PER_CHANNEL * limits.channels)
        self._channels: dict[int, _Channel] = {}
        self._crowd: Crowd[int] = Crowd()  # of those whose networks are known: any other has but itself
        self._on_idle = self._close  # one for all channels
        self._leaving: Callable[[float], object] | None = None
        others = others or {}
        told: dict[str, Any] = {"gone": limits.nodes, "list_up_to": list_up_to, "others": others}
        if shared:
            self.sharing = sharing = Sharing(outbox, crypto, rng, seed, version, self._own)
            self._source = lambda channel: sharing.hidden(source(channel))
            self._reaching = Reaching(outbox, crypto, rng, self._known, self.sharing.spend)
            registry = SharedRegistry(
                outbox,
                crypto,
                seed,
                limits,
                self.sharing,
                on_loaded=self._reaching.loaded,
                on_changed=self._publish,
                on_dropped=self._dropped,
            )
            publisher = SharedPublisher(outbox, crypto, rng, seed, self.sharing, **told)
            exchange = Exchange(outbox, self.sharing, registry.holder, registry.source)
            exchange.max_pipes = tags
            self._switchboard = exchange.switchboard
            self.sharing.nodes, self.sharing.signals, self.sharing.headers = registry, exchange, publisher
            self._registry: Registry = registry
            self._publisher: Publisher = publisher
        else:
            self._reaching = Reaching(outbox, crypto, rng, self._known)
            self._registry = Registry(
                outbox,
                crypto,
                seed,
                limits,
                on_loaded=self._reaching.loaded,
                on_changed=self._publish,
                on_dropped=self._dropped,
            )
            self._publisher = Publisher(outbox, crypto, seed, self._registry.stored, **told)
            self._switchboard = Switchboard(outbox)
        self._switchboard.max_tags = tags
        self._partners = Partners(outbox, rng, others, self._publisher)
        self._newcomers = Newcomers(outbox, crypto, rng, self.identity, lambda: len(self._registry.nodes))
        self._reaching.registry = self._registry
        self._prober = self._reaching.prober

    # Machine

    def start(self, now: float) -> None:
        self._registry.start(now)
        self._publisher.start(now)
        self._partners.start(now)
        if self.sharing is not None:
            self.sharing.start(now)

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Binding | None = None) -> None:
        if self._prober.knows(channel):
            self._prober.opened(channel, now)
        elif self._partners.knows(channel):
            self._partners.opened(channel, now)
        elif protocol is not Protocol.FACILITATOR:
            self._outbox.emit(CloseLink(channel, "not a facilitator channel"))
        elif (reason := self._closed_to(self._source(channel), now)) is not None:
            self._send_error(channel, ErrorCode.BUSY, reason)
            self._outbox.emit(CloseLink(channel, reason))
        else:
            hello = Hello(self.identity, self._rng.random(NONCE_LEN))
            network = sys.intern(self._source(channel))  # one text for all of its nodes
            state = _Channel(channel, network, hello.nonce, self._outbox, self._on_idle, now)
            self._channels[channel] = state
            if network:
                self._crowd.add(network, channel)
            state.answer(RecordType.HELLO, hello.encode())

    def _has_room(self, source: str, now: float) -> bool:
        """Whether there is a place for one more channel. If all are taken, the source that has most loses its newest
        one: however many come from elsewhere, whoever has few gets in."""
        if len(self._channels) < self._limits.channels:
            return True
        spare = self._crowd.gives_way(source)
        if spare is not None:
            self._close(spare, "too many open channels from your network", now)
        return spare is not None

    def woke(self, by: float, now: float) -> None:
        """The clock jumped: no channel is idle for that."""
        self._outbox.shift(by)

    def link_described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None:
        """A facilitator has no RTC channels."""

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        if self._prober.knows(channel):
            self._prober.data(channel, data, now)
            return
        self._partners.data(channel, data, now)
        state = self._channels.get(channel)
        if state is None:
            return  # it was closed by us; what was on its way is of no interest
        try:
            cutter = state.cutter or RecordCutter(ACCEPTED)
            records = cutter.feed(data)
            state.cutter = cutter if cutter.held else None
            for kind, body in records:
                if not self._attempt(self._record, state, kind, body, now):
                    return
        except ParseError as error:
            self._refuse(channel, Refusal(ErrorCode.BAD_RECORD, str(error), fatal=True), now)

    def link_closed(self, channel: int, now: float, reason: str) -> None:
        if self._prober.knows(channel):
            self._prober.closed(channel, reason, now)
        self._partners.closed(channel, now)
        self._forget_channel(channel, now)

    def link_congested(self, channel: int, congested: bool, now: float) -> None:
        if channel in self._channels:
            self._channels[channel].congested = congested

    def done(self, request: int, result: Any, now: float) -> None:
        self._outbox.done(request, result, now)

    def timer(self, now: float) -> None:
        self._outbox.run_timers(now)

    def poll(self, now: float) -> list[Effect]:
        return self._outbox.poll(now)

    def deadline(self) -> float | None:
        return self._outbox.deadline()

    # For the shell

    def signed_list(self, now: float) -> bytes:
        """The encoded NodeList."""
        return self._registry.signed_list(now)

    def leave(self, gone: Callable[[float], object], now: float) -> None:
        """This facilitator stops in order: it sends its channels elsewhere, one after the other, and then calls `gone`.
        Its nodes stay listed. The only facilitator has nowhere to send them."""
        if self.sharing is None:
            gone(now)
        else:
            self._leaving = gone
            left = list(self._channels)
            self._leave_on(left, max(1, math.ceil(len(left) * LEAVING_STEP / LEAVING)), now)

    def health(self, now: float) -> dict[str, Any]:
        """JSON-able: who the facilitator is, how many channels are open, how many nodes there are, and some of them."""
        health = {
            "facilitator": self.identity.hex(),
            "version": self._version,
            "channels": len(self._channels),
            "draw": self._partners.health(now),
            **self._publisher.health(now),
            "effort": self._newcomers.effort,
            **self._registry.health(now),
        }
        return health if self.sharing is None else health | self.sharing.health()

    def _closed_to(self, source: str, now: float) -> str | None:
        """Why no more channels of this source are taken; None if they are."""
        if self._leaving is not None:
            return ELSEWHERE
        if self.sharing is not None and self.sharing.starting:
            return "this facilitator has only just started"  # it would tell a network without most of its nodes
        return None if self._has_room(source, now) else "too many open channels"

    # Records

    def _attempt(
        self,
        act: Callable[[_Channel, RecordType, bytes, float], None],
        channel: _Channel,
        kind: RecordType,
        body: bytes,
        now: float,
    ) -> bool:
        """Whether the channel goes on afterwards. Raises ParseError."""
        try:
            act(channel, kind, body, now)
        except Refusal as refusal:
            self._refuse(channel.number, refusal, now)
        return channel.number in self._channels

    def _record(self, channel: _Channel, kind: RecordType, body: bytes, now: float) -> None:
        """Raises ParseError or Refusal."""
        channel.machine.move("record", now)
        if kind is RecordType.SIGNAL:
            self._signal(channel, body, now)
        elif kind is RecordType.REPLY and self._switchboard.reply(channel, body, now):
            pass
        elif not (channel.fetches if kind is RecordType.FETCH else channel.records).take(now):
            raise Refusal(ErrorCode.RATE_LIMIT, "too many records", fatal=True)
        elif channel.waiting is not None:  # answers keep the order of their requests
            channel.waiting.append((kind, body))
        else:
            self._request(channel, kind, body, now)

    def _request(self, channel: _Channel, kind: RecordType, body: bytes, now: float) -> None:
        have = ListRequest.parse(body).have if kind is RecordType.LIST else 0
        if kind in (RecordType.REGISTER, RecordType.SOLVED):
            self._register(channel, kind, body, now)
        elif channel.congested:
            raise Refusal(ErrorCode.BUSY, "read what was sent before asking for more")
        elif kind is RecordType.FETCH:
            bucket = self._publisher.answer(BucketRequest.parse(body))
            channel.answer(RecordType.BUCKET, b"" if bucket is None else bucket.encode())
        elif kind is RecordType.DRAW:
            channel.answer(RecordType.DRAWN, self._publisher.draw(DrawRequest.parse(body).day).encode())
        elif (header := self._publisher.header(now)) is not None:
            channel.answer(RecordType.HEADER, b"" if have == header.epoch else header.encode())
        else:
            anew, channel.listed = self.sharing is not None and not channel.listed, True
            channel.answer(RecordType.NODES, self._registry.signed_list(now, anew=anew))

    def _signal(self, channel: _Channel, body: bytes, now: float) -> None:
        if channel.signals.take(now):
            self._switchboard.signal(channel, body, now)
        else:
            refusal = Unreachable(Signal.parse(body).tag, UnreachableReason.BUSY)
            channel.send(RecordType.UNREACHABLE, refusal.encode(), now)

    def _register(self, channel: _Channel, kind: RecordType, body: bytes, now: float) -> None:
        number = None
        try:
            if kind is RecordType.SOLVED:
                solved = Solved.parse(body)
                number, record = solved.number, solved.register
            else:
                record = Register.parse(body)
            descriptor = read(record.descriptor)
        except ParseError as error:
            raise Refusal(ErrorCode.BAD_RECORD, str(error)) from None
        if channel.identity not in (None, descriptor.identity):
            raise Refusal(ErrorCode.OTHER_NODE, "a channel registers one node")
        if descriptor.published > now + MAX_CLOCK_SKEW or descriptor.expires <= now:
            raise Refusal(ErrorCode.BAD_DATES, "the descriptor is not valid now: check the clock")
        if descriptor.expires - descriptor.published > MAX_LIFETIME:
            raise Refusal(ErrorCode.BAD_DATES, f"a descriptor is valid for {MAX_LIFETIME} seconds at most")
        statement = register_statement(Hello(self.identity, channel.nonce))
        if not self._crypto.ed25519_verify(descriptor.identity, record.proof, statement):
            raise Refusal(ErrorCode.BAD_SIGNATURE, "the proof does not hold on this channel", fatal=True)
        if not self._knows(descriptor.identity) and not self._pays(channel, descriptor.identity, number, now):
            return
        channel.waiting = deque()
        try:
            self._registry.register(
                descriptor,
                record.descriptor,
                channel.network,
                lambda result, now: self._admitted(channel, result, now),
                now,
            )
        except Refusal:
            channel.waiting = None
            raise

    def _knows(self, identity: bytes) -> bool:
        known = identity in self._registry.nodes
        return known or self._publisher.knows(identity)

    def _pays(self, channel: _Channel, identity: bytes, number: int | None, now: float) -> bool:
        """Whether a newcomer has done what is asked of it; else it is asked. Raises Refusal."""
        puzzle = self._newcomers.puzzle(channel.number, now)
        if puzzle is None:
            return True
        if number is None:
            channel.answer(RecordType.PUZZLE, puzzle.encode())
            return False
        if not self._newcomers.may_check(channel.source, now):
            raise Refusal(ErrorCode.BUSY, "too many newcomers come at once")
        if not self._newcomers.check(puzzle, identity, number):
            raise Refusal(ErrorCode.BAD_SIGNATURE, "this does not solve the puzzle of this channel", fatal=True)
        return True

    def _admitted(self, channel: _Channel, result: Node | Refusal, now: float) -> None:
        """The registry has decided: answer, and go on with what the channel asked meanwhile."""
        waiting, channel.waiting = channel.waiting, None
        if channel.number not in self._channels:  # it was closed meanwhile
            if isinstance(result, Node):
                self._registry.detach(result, channel.number, now)
            return
        if isinstance(result, Refusal):
            self._refuse(channel.number, result, now)
        else:
            self._attach(channel, result, now)
        while waiting and channel.waiting is None and channel.number in self._channels:
            self._attempt(self._request, channel, *waiting.popleft(), now)
        if waiting and channel.waiting is not None:
            channel.waiting.extend(waiting)

    def _attach(self, channel: _Channel, node: Node, now: float) -> None:
        self._newcomers.admitted(channel.number, now)
        channel.identity = node.identity
        self._switchboard.register(channel.identity, channel)
        self._registry.attach(node, channel.number, now)
        channel.answer(RecordType.REGISTERED)
        if node.dialled and node.roles:
            if node.reached:
                channel.answer(RecordType.REACHED, Reached(node.reached).encode())
            else:
                self._reaching.check(node, now)

    def _publish(self, node: Node, now: float) -> None:
        if node.listed and self._registry.nodes.get(node.identity) is node:
            source = UNKNOWN if node.loaded else node.source
            if self._publisher.put(node.descriptor, node.raw, source, node.first, now) == NEVER:
                node.first = NEVER  # once there is room for it, its age begins
        else:
            self._publisher.drop(node.identity, now)

    def _known(self, node: Node, now: float) -> None:
        for number in node.channels:
            self._channels[number].send(RecordType.REACHED, Reached(node.reached).encode(), now)

    # Ends

    def _refuse(self, channel: int, refused: Refusal, now: float) -> None:
        self._send_error(channel, refused.code, str(refused))
        self._outbox.emit(Refused(refused.code.name.lower().replace("_", "-"), str(refused)))
        if refused.fatal:
            self._close(channel, str(refused), now)

    def _close(self, channel: int, reason: str, now: float) -> None:
        self._outbox.emit(CloseLink(channel, reason))
        self._forget_channel(channel, now)

    def _forget_channel(self, channel: int, now: float) -> None:
        state = self._channels.pop(channel, None)
        if state is None:
            return
        if not state.machine.final:
            state.machine.move("close", now)
        if state.network:
            self._crowd.remove(state.network, channel)
        self._newcomers.forget(channel)
        self._switchboard.unregister(state, now)
        node = self._registry.nodes.get(state.identity) if state.identity is not None else None
        if node is not None:
            self._registry.detach(node, channel, now)

    def _dropped(self, node: Node, now: float) -> None:
        for channel in node.channels:
            self._channels[channel].identity = None
            self._switchboard.unregister(self._channels[channel], now)
        node.channels = ()

    def _send_error(self, channel: int, code: ErrorCode, text: str) -> None:
        record = encode_record(RecordType.ERROR, ErrorRecord(code, text).encode())
        self._outbox.emit(Send(channel, (record,)))

    # Several facilitators

    def joined(self, now: float) -> None:
        """The shared store can be reached."""
        assert self.sharing is not None
        self.sharing.joined(now)

    def parted(self, reason: str, now: float) -> None:
        """The shared store cannot be reached."""
        assert self.sharing is not None
        self.sharing.parted(reason, now)

    def told(self, data: bytes, now: float) -> None:
        """As `questions.Tell` says."""
        assert self.sharing is not None
        self.sharing.told(data, now)

    def _own(self) -> tuple[int, int]:
        return len(self._channels), self._registry.here

    def _leave_on(self, left: list[int], part: int, now: float) -> None:
        for channel in left[:part]:
            if channel in self._channels:
                self._close(channel, ELSEWHERE, now)
        if left[part:]:
            self._outbox.call_at(now + LEAVING_STEP, lambda now: self._leave_on(left[part:], part, now))
        else:
            assert self.sharing is not None and self._leaving is not None
            self.sharing.leave(now)
            self._leaving(now)
