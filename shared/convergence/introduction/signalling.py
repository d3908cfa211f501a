"""Passing sealed messages on: how a node that cannot be dialled is asked for a link.

Does: both ends of the exchange over one pipe (a facilitator channel, or a stream to a peer): `Signals` asks,
`Switchboard` introduces. Each numbers what it sends by tags, and takes answers to those only.
Does not: seal or read a message (links.py), frame records, or choose who introduces (ways.py).

    asker -- SIGNAL(asker's tag, to) --> introducer -- DELIVER(introducer's tag) --> target
    asker <-- REPLY(asker's tag) -- introducer <-- REPLY(introducer's tag) -- target       (several may follow)
    asker <-- UNREACHABLE(asker's tag) -- introducer

On a pipe between peers each side may be both asker and introducer. A REPLY there carries a tag that its receiver gave
to a SIGNAL (odd tags) or to a DELIVER (even tags). Each class here ignores the tags of the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from convergence.codes import RtcWhy
from convergence.errors import LocalError, Why
from convergence.limits import below_its_part
from convergence.outbox import Outbox, Timer
from convergence.wire.facilitator import MAX_SEALED, Delivery, RecordType, Signal, Unreachable, UnreachableReason

TAG_LIFETIME = 60.0
"""Seconds in which a signal may be answered. Limits count over the same time."""
MAX_REPLIES = 16
"""Answers to one signal that are passed on: a description, and candidates as they are found."""
MAX_INTRODUCTIONS_PER_MINUTE = 30
"""Signals of one pipe that are delivered in a minute; an asker sends no more..."""
MAX_PER_PAIR = 10
"""...of which this many to one node..."""
MAX_PER_TARGET = 50
"""...and signals that one node gets from all pipes together. Once it has got these, only sources below their equal part
of them are passed on: nobody shuts out others, and a node gets 207 at most, from 50 sources that came one by one."""
MAX_TAGS = 16_384
"""Unexpired introductions of a switchboard, unless its owner allows more: 7 MB."""
MAX_OF_NODE = 16
"""Pipes that lead to one node; of more, the oldest get no signals."""

REFUSALS: dict[int, RtcWhy] = {
    UnreachableReason.UNKNOWN: RtcWhy.UNKNOWN_NODE,
    UnreachableReason.BUSY: RtcWhy.BUSY,
}

Answered = Callable[[bytes, float], None]
"""Called with a sealed answer and `now`."""
Refused = Callable[[Why, float], None]
"""Called with the reason and `now`."""
Reply = Callable[[bytes, float], None]
"""Sends a sealed answer back, as of `now`, by the way a message came."""
Delivered = Callable[[bytes, Reply, object, float], None]
"""Called with a sealed message for this node, a function that sends a sealed answer, the source that limits count by,
and `now`."""


class Pipe(Protocol):
    """Whatever carries records to one other node, in order. Pipes are told apart by being different objects."""

    @property
    def source(self) -> Hashable:
        """Where it comes from, for limits: the pipe itself where that cannot be told."""
        ...

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        """Send a record, or drop it if the pipe is gone or holds too much already."""
        ...


class Carrier(Protocol):
    """Takes sealed messages to nodes, in a way that is not ours to know."""

    def signal(self, to: bytes, sealed: bytes, answered: Answered, refused: Refused, now: float) -> None:
        """Take `sealed` (at most MAX_SEALED bytes, or LocalError) to the node of identity `to`.

        `answered` is called for each answer, `refused` at most once, instead of any answer; there may be neither, and
        neither is called before this returns.
        """
        ...


def _after(tag: int) -> int:
    """The next tag of the same end of a pipe: every second u32."""
    return tag + 2 & 0xFFFFFFFF


# Asking


@dataclass(slots=True)
class _Asked:
    answered: Answered
    refused: Refused
    expiry: Timer
    answers: int = 0


class Signals:
    """The asking side of one pipe, and what is delivered through it: a `Carrier`.

    Args:
        outbox: timers.
        send: sends a record on the pipe.

    `reply`, `unreachable` and `delivery` take the body of a record of that name; they raise ParseError.
    """

    def __init__(self, outbox: Outbox, send: Callable[[RecordType, bytes, float], object]) -> None:
        self._outbox = outbox
        self._send = send
        self._next_tag = 1
        self._asked: dict[int, _Asked] = {}
        self._closed = False

    def signal(self, to: bytes, sealed: bytes, answered: Answered, refused: Refused, now: float) -> None:
        if len(sealed) > MAX_SEALED:
            raise LocalError(f"a sealed message is at most {MAX_SEALED} bytes")
        if self._closed or len(self._asked) >= MAX_INTRODUCTIONS_PER_MINUTE:
            why = Why(RtcWhy.NO_CARRIER if self._closed else RtcWhy.BUSY)
            self._outbox.call_at(now, lambda later: refused(why, later))
            return
        tag, self._next_tag = self._next_tag, _after(self._next_tag)
        expiry = self._outbox.call_at(now + TAG_LIFETIME, lambda later: self._forget(tag))
        self._asked[tag] = _Asked(answered, refused, expiry)
        self._send(RecordType.SIGNAL, Signal(tag, to, sealed).encode(), now)

    def reply(self, body: bytes, now: float) -> None:
        """A REPLY came. It is ignored if it is late or answers no signal of ours."""
        delivery = Delivery.parse(body)
        asked = self._asked.get(delivery.tag)
        if asked is not None and asked.answers < MAX_REPLIES:
            asked.answers += 1
            asked.answered(delivery.sealed, now)

    def unreachable(self, body: bytes, now: float) -> None:
        """An UNREACHABLE came. It is ignored if it is late or answers no signal of ours."""
        unreachable = Unreachable.parse(body)
        self._refuse(unreachable.tag, Why(REFUSALS.get(unreachable.reason, RtcWhy.REFUSED)), now)

    def delivery(self, body: bytes) -> tuple[bytes, Reply]:
        """A DELIVER came: hand on the sealed message with a function that sends a sealed answer. Once the pipe is
        closed, that function does nothing."""
        delivery = Delivery.parse(body)

        def reply(sealed: bytes, now: float) -> None:
            if not self._closed:
                self._send(RecordType.REPLY, Delivery(delivery.tag, sealed).encode(), now)

        return delivery.sealed, reply

    def closed(self, now: float) -> None:
        """The pipe is gone: what was not answered is refused."""
        self._closed = True
        for tag in list(self._asked):
            self._refuse(tag, Why(RtcWhy.NO_CARRIER), now)

    def _refuse(self, tag: int, why: Why, now: float) -> None:
        asked = self._asked.get(tag)
        if asked is not None:
            self._forget(tag)
            if not asked.answers:
                asked.refused(why, now)

    def _forget(self, tag: int) -> None:
        self._asked.pop(tag).expiry.cancel()


# Introducing


@dataclass(slots=True, eq=False)
class _Port:
    """One pipe of a switchboard. A facilitator has very many, most of which carry nothing."""

    pipe: Pipe | None  # None once it is gone
    source: Hashable
    identity: bytes | None = None
    asked: dict[_Introduction, None] | None = None
    delivered: dict[int, _Introduction] | None = None  # by our tag
    next_tag: int = 2

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        if self.pipe is not None:
            self.pipe.send(kind, body, now)


@dataclass(slots=True, eq=False)
class _Introduction:
    since: float  # steady
    tag: int  # at the target
    asker: _Port
    asker_tag: int
    target: _Port
    answers: int = 0


class Switchboard:
    """The introducing side, for all pipes of a node or facilitator. It keeps who asked whom for TAG_LIFETIME, and tells
    nobody.

    Args:
        elsewhere: a pipe of another introducer that this asker's signals for an identity go to, if no pipe here leads
            to it. What comes back on it goes to `reply` and `refused`.

    Whoever owns a pipe calls `unregister` when it is gone, registered or not. `signal` and `reply` take the body of a
    record of that name; they raise ParseError.

    Attributes:
        max_tags: unexpired introductions.
    """

    def __init__(
        self,
        outbox: Outbox,
        elsewhere: Callable[[bytes, Pipe, float], Pipe | None] = lambda identity, asker, now: None,
    ) -> None:
        self.max_tags = MAX_TAGS
        self._outbox = outbox
        self._elsewhere = elsewhere
        self._ports: dict[Pipe, _Port] = {}
        self._registered: dict[bytes, tuple[_Port, ...]] = {}  # the newest last
        self._live: deque[_Introduction] = deque()  # the oldest first

    def register(self, identity: bytes, pipe: Pipe) -> None:
        """This pipe leads to the node that has proved this identity. The newest pipe to a node gets its signals."""
        port = self._port(pipe)
        self._unlist(port)
        port.identity = identity
        self._registered[identity] = (*self._registered.get(identity, ())[1 - MAX_OF_NODE :], port)

    def unregister(self, pipe: Pipe, now: float) -> None:
        """This pipe is gone. Askers that still wait for a first answer through it get UNREACHABLE."""
        port = self._ports.pop(pipe, None)
        if port is None:
            return
        self._unlist(port)
        port.pipe = None
        for introduction in (port.delivered or {}).values():
            if not introduction.answers:
                self._refuse(introduction.asker, introduction.asker_tag, UnreachableReason.UNKNOWN, now)

    def signal(self, pipe: Pipe, body: bytes, now: float) -> None:
        """A SIGNAL came on this pipe: deliver it, or answer UNREACHABLE."""
        signal = Signal.parse(body)
        asker = self._port(pipe)
        ports = self._registered.get(signal.to)
        target = ports[-1] if ports else None
        if target is None and (onward := self._elsewhere(signal.to, pipe, now)) is not None:
            target = self._port(onward)
        if target is None:
            self._refuse(asker, signal.tag, UnreachableReason.UNKNOWN, now)
        elif self._busy(asker, target):
            self._refuse(asker, signal.tag, UnreachableReason.BUSY, now)
        else:
            tag, target.next_tag = target.next_tag, _after(target.next_tag)
            introduction = _Introduction(self._outbox.steady(now), tag, asker, signal.tag, target)
            asker.asked = asker.asked or {}
            asker.asked[introduction] = None
            target.delivered = target.delivered or {}
            target.delivered[tag] = introduction
            if not self._live:
                self._outbox.call_at(now + TAG_LIFETIME, self._expire)
            self._live.append(introduction)
            target.send(RecordType.DELIVER, Delivery(tag, signal.sealed).encode(), now)

    def reply(self, pipe: Pipe, body: bytes, now: float) -> bool:
        """A REPLY came on this pipe: pass it on to the asker. It is ignored, and False is returned, if it is late or
        answers nothing that was delivered through this very pipe."""
        delivery = Delivery.parse(body)
        port = self._ports.get(pipe)
        introduction = None if port is None else (port.delivered or {}).get(delivery.tag)
        if introduction is not None and introduction.answers < MAX_REPLIES:
            introduction.answers += 1
            answer = Delivery(introduction.asker_tag, delivery.sealed)
            introduction.asker.send(RecordType.REPLY, answer.encode(), now)
            return True
        return False

    def refused(self, pipe: Pipe, body: bytes, now: float) -> None:
        """An UNREACHABLE came from the introducer that this pipe leads to. As `reply`."""
        unreachable = Unreachable.parse(body)
        port = self._ports.get(pipe)
        introduction = None if port is None else (port.delivered or {}).get(unreachable.tag)
        if introduction is not None and not introduction.answers:
            introduction.answers = MAX_REPLIES
            reason = (
                UnreachableReason.BUSY if unreachable.reason == UnreachableReason.BUSY else UnreachableReason.UNKNOWN
            )
            self._refuse(introduction.asker, introduction.asker_tag, reason, now)

    def _port(self, pipe: Pipe) -> _Port:
        port = self._ports.get(pipe)
        if port is None:
            port = self._ports[pipe] = _Port(pipe, pipe.source)
        return port

    def _unlist(self, port: _Port) -> None:
        if port.identity is not None:
            ports = tuple(other for other in self._registered.get(port.identity, ()) if other is not port)
            if ports:
                self._registered[port.identity] = ports
            else:
                self._registered.pop(port.identity, None)
            port.identity = None

    def _busy(self, asker: _Port, target: _Port) -> bool:
        asked, delivered = asker.asked or (), target.delivered or ()
        return (
            len(self._live) >= self.max_tags
            or len(asked) >= MAX_INTRODUCTIONS_PER_MINUTE
            or sum(introduction.target is target for introduction in asked) >= MAX_PER_PAIR
            or (len(delivered) >= MAX_PER_TARGET and not self._below_its_part(asker, target))
        )

    def _below_its_part(self, asker: _Port, target: _Port) -> bool:
        sources = (introduction.asker.source for introduction in (target.delivered or {}).values())
        return below_its_part(sources, asker.source, MAX_PER_TARGET)

    def _refuse(self, asker: _Port, tag: int, reason: int, now: float) -> None:
        asker.send(RecordType.UNREACHABLE, Unreachable(tag, reason).encode(), now)

    def _expire(self, now: float) -> None:
        """Only time ends introductions, because the limits count them."""
        ended = self._outbox.steady(now) - TAG_LIFETIME
        while self._live and self._live[0].since <= ended:
            introduction = self._live.popleft()
            asker, target = introduction.asker, introduction.target
            if asker.asked is not None:
                asker.asked.pop(introduction, None)
                asker.asked = asker.asked or None
            if target.delivered is not None:
                target.delivered.pop(introduction.tag, None)
                target.delivered = target.delivered or None
        if self._live:
            # Never in the same moment, though the difference may be lost in the digits of a date.
            self._outbox.call_at(now + max(self._live[0].since - ended, 0.01), self._expire)
