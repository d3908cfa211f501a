"""The facilitator: keeps signed descriptors, serves the signed list of nodes, passes sealed signals on.

Does: registrations (checked, bounded for each source, rate-limited, stored), the list, introductions, a health summary.
A `driver.Machine`.
Does not: HTTP; read, store or log signals (introduction/signalling.py forgets them after a minute); dial (prober.py).

A registration holds a proof for this very channel, so nobody can register a key that he does not have. A node with an
address gets signals from its registration on. It is listed, with the time, once it was found at its address, until it
is not found there again. For a node without an address, the channel is the only proof.

A node stays listed until its descriptor expires, and at most `GRACE` seconds after the last channel that registered it
was closed. One loaded from storage is listed until it expires, for its node may not have come back yet. A node without
roles (one that pauses) is registered, so that signals reach it, and not listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, DescriptionKind, Effect, Failure, Protocol, Send
from convergence.errors import ParseError
from convergence.events import NodeLost, NodeRegistered, Refused, StorageTrouble
from convergence.facilitator.prober import Prober
from convergence.facilitator.publisher import Publisher
from convergence.introduction.signalling import Switchboard
from convergence.limits import TokenBucket
from convergence.outbox import Outbox, Timer
from convergence.ports import Binding, Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import BucketRequest
from convergence.wire.descriptor import Descriptor, TransportKind
from convergence.wire.facilitator import (
    MAX_LISTED,
    NONCE_LEN,
    ErrorCode,
    ErrorRecord,
    Hello,
    NodeList,
    Reached,
    RecordCutter,
    RecordType,
    Register,
    Signal,
    Unreachable,
    UnreachableReason,
    encode_record,
    register_statement,
)
from convergence.wire.target import Role

BUCKET = "node"
MAX_REGISTERED = 16_384
"""A list holds MAX_LISTED of them, those that came first; header and buckets tell of all."""
MAX_REGISTERED_EACH = 256
"""Nodes of one source that are registered at once. Where all are, the newest of the source that has most makes room."""
RECHECK = 600.0
"""Seconds until a node that was found at its address is looked for again..."""
RECHECK_SOON = 60.0
"""...and one that was not; twice as long each further time, up to RECHECK."""
MISSES = 2
"""Times in a row that a listed node is not found until it leaves the list."""
MAX_CHANNELS = 8192
"""Open channels. Each holds at most one incomplete record (2 KB)."""
MAX_LIFETIME = 6 * 3600
"""Seconds from `published` to `expires` that a descriptor may claim."""
MAX_CLOCK_SKEW = 600
"""Seconds a node's clock may be ahead of ours."""
GRACE = 30.0
"""Seconds a node stays listed after its channel was closed."""
FIRST_RECORD_TIMEOUT = 30.0
"""Seconds a new channel has to bring one whole record."""
IDLE_TIMEOUT = 300.0
"""Seconds without a whole record after which a channel is closed. Clients ask for the list every minute."""
SWEEP_INTERVAL = 10.0
"""Seconds between looks for expired nodes."""
LIST_INTERVAL = 60.0
"""Seconds a signed list is served as it is while no node changes."""
LIST_LIFETIME = 3 * 3600
"""Seconds from a list's `published` to its `expires`."""
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

ACCEPTED = (RecordType.REGISTER, RecordType.LIST, RecordType.SIGNAL, RecordType.REPLY, RecordType.FETCH)


class _Refused(Exception):
    """A record that gets an ERROR. The channel goes on unless `fatal`."""

    def __init__(self, code: ErrorCode, text: str, fatal: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.fatal = fatal


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
    """One open channel: a pipe of the switchboard."""

    def __init__(
        self, number: int, source: str, hello: Hello, outbox: Outbox, idle: Callable[[State, float], None], now: float
    ) -> None:
        self.number = number
        self._source = source
        self.hello = hello
        self.machine = StateMachine(CHANNEL, outbox, idle, now)
        self.congested = False
        self.identity: bytes | None = None  # the one node it may register
        self.records = TokenBucket(outbox, RECORDS_PER_SECOND, RECORDS_BURST)
        self.signals = TokenBucket(outbox, SIGNALS_PER_SECOND, SIGNALS_BURST)
        self.fetches = TokenBucket(outbox, FETCHES_PER_SECOND, FETCHES_BURST)
        self.cutter = RecordCutter(ACCEPTED)
        self._outbox = outbox

    @property
    def source(self) -> Hashable:
        return self._source or self

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        """A signalling record: dropped while the node does not read, for it helps only at once."""
        if not self.congested:
            self.answer(kind, body)

    def answer(self, kind: RecordType, body: bytes = b"") -> None:
        self._outbox.emit(Send(self.number, (encode_record(kind, body),)))


@dataclass(slots=True)
class _Node:
    descriptor: Descriptor
    raw: bytes
    seen: float
    source: str  # of the channel that registered it first
    reached: int = 0  # Unix seconds
    misses: int = 0  # since then
    check: Timer | None = None
    channels: set[int] = field(default_factory=set)
    grace: Timer | None = None

    @property
    def dialled(self) -> bool:
        """Whether it has to be found at its address to be listed."""
        return self.descriptor.ws_url is not None

    @property
    def listed(self) -> bool:
        return bool(self.descriptor.roles) and (self.reached > 0 or not self.dialled)


class FacilitatorService:
    """One facilitator.

    Args:
        crypto: signs and verifies.
        rng: nonces.
        seed: Ed25519 seed (32 bytes) of the facilitator's identity.
        source: channel -> where it comes from, for limits: all channels of one network have one name. "" where that
            cannot be told: no limit for each source holds then.
        list_up_to: nodes that are told in a list; more are told by header and buckets.
        outbox: effects and timers; one of its own by default.

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
        list_up_to: int = LIST_UP_TO,
    ) -> None:
        self.identity = crypto.ed25519_public(seed)
        self._crypto = crypto
        self._rng = rng
        self._seed = seed
        self._outbox = outbox or Outbox()
        self._source = source
        self._switchboard = Switchboard(self._outbox)
        self._prober = Prober(self._outbox, crypto, rng, NodeKeys.generate(crypto, rng), self._probed)
        self._publisher = Publisher(
            self._outbox, crypto, seed, self._stored, each=MAX_REGISTERED_EACH, list_up_to=list_up_to
        )
        self._channels: dict[int, _Channel] = {}
        self._nodes: dict[bytes, _Node] = {}
        self._list = b""
        self._list_signed: float | None = None
        self._storage_failed = False

    # Machine

    def start(self, now: float) -> None:
        """Load the nodes that were registered before a restart, and begin to sweep."""
        self._outbox.scan(BUCKET, b"", self._scanned)
        self._publisher.start(now)
        self._outbox.call_at(now + SWEEP_INTERVAL, self._sweep)

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Binding | None = None) -> None:
        if self._prober.knows(channel):
            self._prober.opened(channel, now)
        elif protocol is not Protocol.FACILITATOR:
            self._outbox.emit(CloseLink(channel, "not a facilitator channel"))
        elif len(self._channels) >= MAX_CHANNELS:
            self._send_error(channel, ErrorCode.BUSY, "too many open channels")
            self._outbox.emit(CloseLink(channel, "too many open channels"))
        else:
            hello = Hello(self.identity, self._rng.random(NONCE_LEN))
            state = self._channels[channel] = _Channel(
                channel,
                self._source(channel),
                hello,
                self._outbox,
                lambda state, now: self._close(channel, "idle", now),
                now,
            )
            state.answer(RecordType.HELLO, hello.encode())

    def woke(self, by: float, now: float) -> None:
        """The clock jumped: no channel is idle for that."""
        self._outbox.shift(by)

    def link_described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None:
        """A facilitator has no RTC channels."""

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        if self._prober.knows(channel):
            self._prober.data(channel, data, now)
            return
        state = self._channels.get(channel)
        if state is None:
            return  # it was closed by us; what was on its way is of no interest
        try:
            for kind, body in state.cutter.feed(data):
                try:
                    self._record(state, kind, body, now)
                except _Refused as refused:
                    self._refuse(channel, refused, now)
                    if refused.fatal:
                        return
        except ParseError as error:
            self._refuse(channel, _Refused(ErrorCode.BAD_RECORD, str(error), fatal=True), now)

    def link_closed(self, channel: int, now: float, reason: str) -> None:
        if self._prober.knows(channel):
            self._prober.closed(channel, reason, now)
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
        """The encoded NodeList, signed again when nodes changed and every LIST_INTERVAL seconds."""
        if self._list_signed is None or not 0 <= now - self._list_signed < LIST_INTERVAL:
            listed = [node for node in self._nodes.values() if node.listed and node.descriptor.expires > now]
            del listed[MAX_LISTED:]
            nodes = NodeList(
                int(now),
                int(now) + LIST_LIFETIME,
                tuple(node.raw for node in listed),
                self.identity,
                reached=tuple(node.reached for node in listed),
            )
            self._list = nodes.sign(lambda message: self._crypto.ed25519_sign(self._seed, message)).encode()
            self._list_signed = now
        return self._list

    def health(self, now: float) -> dict[str, Any]:
        """JSON-able: who the facilitator is, how many channels are open, and each node in order of identity."""
        return {
            "facilitator": self.identity.hex(),
            "channels": len(self._channels),
            "nodes": [self._summary(identity, now) for identity in sorted(self._nodes)],
        }

    def _summary(self, identity: bytes, now: float) -> dict[str, Any]:
        node = self._nodes[identity]
        return {
            "identity": identity.hex()[:16],
            "roles": [*_roles(node.descriptor)],
            "transports": [*_transports(node.descriptor)],
            "age": max(0, int(now - node.descriptor.published)),
            "expires_in": int(node.descriptor.expires - now),
            "last_seen": max(0, int(now - node.seen)),
            "connected": bool(node.channels),
            "reached": max(0, int(now - node.reached)) if node.reached else None,
        }

    # Records

    def _record(self, channel: _Channel, kind: RecordType, body: bytes, now: float) -> None:
        """Raises ParseError or _Refused."""
        channel.machine.move("record", now)
        if kind is RecordType.SIGNAL:
            self._signal(channel, body, now)
        elif kind is RecordType.REPLY and self._switchboard.reply(channel, body, now):
            pass
        elif not (channel.fetches if kind is RecordType.FETCH else channel.records).take(now):
            raise _Refused(ErrorCode.RATE_LIMIT, "too many records", fatal=True)
        elif kind is RecordType.REGISTER:
            self._register(channel, body, now)
        elif channel.congested:
            raise _Refused(ErrorCode.BUSY, "read what was sent before asking for more")
        elif kind is RecordType.FETCH:
            bucket = self._publisher.answer(BucketRequest.parse(body))
            channel.answer(RecordType.BUCKET, b"" if bucket is None else bucket.encode())
        elif self._publisher.header is not None:
            channel.answer(RecordType.HEADER, self._publisher.header.encode())
        else:
            channel.answer(RecordType.NODES, self.signed_list(now))

    def _signal(self, channel: _Channel, body: bytes, now: float) -> None:
        if channel.signals.take(now):
            self._switchboard.signal(channel, body, now)
        else:
            refusal = Unreachable(Signal.parse(body).tag, UnreachableReason.BUSY)
            channel.send(RecordType.UNREACHABLE, refusal.encode(), now)

    def _register(self, channel: _Channel, body: bytes, now: float) -> None:
        try:
            record = Register.parse(body)
            descriptor = Descriptor.parse(record.descriptor)
        except ParseError as error:
            raise _Refused(ErrorCode.BAD_RECORD, str(error)) from None
        if channel.identity not in (None, descriptor.identity):
            raise _Refused(ErrorCode.OTHER_NODE, "a channel registers one node")
        if descriptor.published > now + MAX_CLOCK_SKEW or descriptor.expires <= now:
            raise _Refused(ErrorCode.BAD_DATES, "the descriptor is not valid now: check the clock")
        if descriptor.expires - descriptor.published > MAX_LIFETIME:
            raise _Refused(ErrorCode.BAD_DATES, f"a descriptor is valid for {MAX_LIFETIME} seconds at most")
        statement = register_statement(channel.hello)
        if not self._crypto.ed25519_verify(descriptor.identity, record.proof, statement):
            raise _Refused(ErrorCode.BAD_SIGNATURE, "the proof does not hold on this channel", fatal=True)
        node = self._nodes.get(descriptor.identity)
        if node is None or node.raw != record.descriptor:
            node = self._replace(node, descriptor, record.descriptor, self._source(channel.number), now)
        self._attach(channel, node, now)
        channel.answer(RecordType.REGISTERED)
        if node.dialled and node.descriptor.roles:
            if node.reached:
                channel.answer(RecordType.REACHED, Reached(node.reached).encode())
            else:
                self._check(node, now)

    def _replace(self, node: _Node | None, descriptor: Descriptor, raw: bytes, source: str, now: float) -> _Node:
        if node is not None and descriptor.published <= node.descriptor.published:
            raise _Refused(ErrorCode.STALE, "a newer descriptor of this node is registered")
        if not descriptor.verify(self._crypto.ed25519_verify):
            raise _Refused(ErrorCode.BAD_SIGNATURE, "the descriptor's signature does not hold", fatal=True)
        if node is None:
            self._make_room(source, now)
            node = self._nodes[descriptor.identity] = _Node(descriptor, raw, now, source)
            if not node.dialled:
                self._outbox.emit(_registered(descriptor))
        else:
            before = node.descriptor
            node.descriptor, node.raw = descriptor, raw
            if not _same_place(before, descriptor):
                node.reached = node.misses = 0
        self._changed(node, now)
        return node

    def _changed(self, node: _Node, now: float) -> None:
        """The list has to be signed anew. What was not found at its address is not kept."""
        self._list_signed = None
        if node.listed:
            self._publisher.put(node.descriptor, node.raw, node.source, now)
        else:
            self._publisher.drop(node.descriptor.identity, now)
        if node.reached or not node.dialled:
            self._outbox.store([(BUCKET, node.descriptor.identity, node.raw)], self._stored)

    def _make_room(self, source: str, now: float) -> None:
        """Make room for one more node of this source, or raise _Refused. In a full list, the source that has most loses
        its newest node."""
        counts = Counter(node.source for node in self._nodes.values())
        if source and counts[source] >= MAX_REGISTERED_EACH:
            raise _Refused(ErrorCode.FULL, f"{MAX_REGISTERED_EACH} nodes of your network are registered")
        if len(self._nodes) >= MAX_REGISTERED:
            crowded, most = counts.most_common(1)[0]
            if counts[source] + 1 >= most:
                raise _Refused(ErrorCode.FULL, f"{MAX_REGISTERED} nodes are registered")
            spare = next(key for key in reversed(self._nodes) if self._nodes[key].source == crowded)
            self._drop(spare, "crowded out", now)

    # Reaching nodes

    def _check(self, node: _Node, now: float) -> None:
        """Look whether the node is at its address, now and again."""
        self._check_later(node, RECHECK, now)  # unless a verdict comes sooner
        if node.dialled and node.descriptor.roles:  # one that pauses takes no circuits
            self._prober.probe(node.descriptor, node.source, now, known=node.reached > 0)

    def _check_later(self, node: _Node, pause: float, now: float) -> None:
        if node.check is not None:
            node.check.cancel()
        node.check = self._outbox.call_at(now + pause, lambda now: self._check(node, now))

    def _probed(self, probed: Descriptor, found: bool, now: float) -> None:
        node = self._nodes.get(probed.identity)
        if node is None or not _same_place(node.descriptor, probed):
            return
        before = node.listed
        node.misses = 0 if found else node.misses + 1
        if found:
            node.reached = int(now)
        elif node.misses >= MISSES:
            node.reached = 0
        self._check_later(node, RECHECK if found else min(RECHECK_SOON * 2 ** (node.misses - 1), RECHECK), now)
        if found and not before:
            self._changed(node, now)
            self._outbox.emit(_registered(node.descriptor))
        elif before and not node.listed:
            self._list_signed = None
            self._publisher.drop(probed.identity, now)
            self._outbox.store([(BUCKET, probed.identity, None)], self._stored)
            self._outbox.emit(NodeLost(probed.identity.hex()[:16], "unreachable"))
        if node.listed != before or not node.reached:
            for number in node.channels:
                self._channels[number].send(RecordType.REACHED, Reached(node.reached).encode(), now)

    def _attach(self, channel: _Channel, node: _Node, now: float) -> None:
        channel.identity = node.descriptor.identity
        self._switchboard.register(channel.identity, channel)
        node.channels.add(channel.number)
        node.seen = now
        if node.grace is not None:
            node.grace.cancel()
            node.grace = None

    # Ends

    def _refuse(self, channel: int, refused: _Refused, now: float) -> None:
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
        self._switchboard.unregister(state, now)
        node = self._nodes.get(state.identity) if state.identity is not None else None
        if node is None:
            return
        node.channels.discard(channel)
        if not node.channels:
            identity = node.descriptor.identity
            node.grace = self._outbox.call_at(now + GRACE, lambda later: self._drop(identity, "disconnected", later))

    def _drop(self, identity: bytes, why: str, now: float) -> None:
        node = self._nodes.pop(identity)
        for timer in (node.grace, node.check):
            if timer is not None:
                timer.cancel()
        for channel in node.channels:
            self._channels[channel].identity = None
            self._switchboard.unregister(self._channels[channel], now)
        self._list_signed = None
        self._publisher.drop(identity, now)
        self._outbox.store([(BUCKET, identity, None)], self._stored)
        self._outbox.emit(NodeLost(identity.hex()[:16], why))

    def _sweep(self, now: float) -> None:
        for identity in [key for key, node in self._nodes.items() if node.descriptor.expires <= now]:
            self._drop(identity, "expired", now)
        self._outbox.call_at(now + SWEEP_INTERVAL, self._sweep)

    def _send_error(self, channel: int, code: ErrorCode, text: str) -> None:
        record = encode_record(RecordType.ERROR, ErrorRecord(code, text).encode())
        self._outbox.emit(Send(channel, (record,)))

    # Storage

    def _stored(self, result: None | Failure, now: float) -> None:
        """Without storage the service goes on: nodes come back by themselves. It is told once."""
        if isinstance(result, Failure) and not self._storage_failed:
            self._outbox.emit(StorageTrouble(result.kind, result.message))
        self._storage_failed = isinstance(result, Failure)

    def _scanned(self, result: list[bytes] | Failure, now: float) -> None:
        if isinstance(result, Failure):
            self._stored(result, now)
            return
        for key in result:
            self._load(key)

    def _load(self, key: bytes) -> None:
        def loaded(result: bytes | None | Failure, now: float) -> None:
            if isinstance(result, Failure):
                self._stored(result, now)
            elif result is not None and not self._restore(key, result, now):
                self._outbox.store([(BUCKET, key, None)], self._stored)

        self._outbox.load(BUCKET, key, loaded)

    def _restore(self, key: bytes, raw: bytes, now: float) -> bool:
        """Whether the stored item is of use. A node that has registered again in the meantime keeps what is newer."""
        try:
            descriptor = Descriptor.parse(raw)
        except ParseError:
            return key in self._nodes
        node = self._nodes.get(key)
        if node is not None:
            if _same_place(node.descriptor, descriptor) and not node.reached:
                node.reached, self._list_signed = descriptor.published, None
                if node.listed:
                    self._publisher.put(node.descriptor, node.raw, node.source, now)
            return True
        valid = descriptor.identity == key and descriptor.expires > now and len(self._nodes) < MAX_REGISTERED
        if not valid or not descriptor.verify(self._crypto.ed25519_verify):
            return False
        node = self._nodes[key] = _Node(descriptor, raw, now, "")
        self._list_signed = None
        if node.dialled:
            node.reached = descriptor.published  # it was found once, or it would not be stored
            self._check(node, now)
        if node.listed:
            self._publisher.put(descriptor, raw, node.source, now)
        return True


def _roles(node: Descriptor) -> tuple[str, ...]:
    return tuple(role.name.lower() for role in Role if role.name and role in node.roles)


def _transports(node: Descriptor) -> tuple[str, ...]:
    known = [(TransportKind(item.kind), item.address) for item in node.transports if item.kind in tuple(TransportKind)]
    return tuple(address if kind == TransportKind.WS else kind.name.lower() for kind, address in known)


def _same_place(one: Descriptor, other: Descriptor) -> bool:
    """Whether what was found of the one holds for the other."""
    return (one.ws_url, one.ntor_key) == (other.ws_url, other.ntor_key)


def _registered(descriptor: Descriptor) -> NodeRegistered:
    return NodeRegistered(descriptor.identity.hex()[:16], _roles(descriptor), _transports(descriptor))
