"""The facilitators of other operators that draw the shared random value with this one.

Does: ask each of them, now and then, for what it contributes to the next draw.
Does not: trust any: what it says proves itself (drawing.py). Who is silent, or lies, does not count, and stops nobody.

Each of them tells everybody who asks what it knows of the draw (the record DRAW), and so does this one. So nobody has
to be told anything, and each asks the others over a channel of its own, as a node would.

    this one -- connects --> the other one -- HELLO --> -- DRAW --> the other one -- DRAWN --> closed
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from functools import partial
from typing import Any

from convergence.chance import fraction
from convergence.effects import CloseLink, Protocol, Send
from convergence.errors import RemoteError
from convergence.facilitator.publisher import Publisher
from convergence.outbox import Outbox
from convergence.ports import Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.facilitator import Hello, RecordCutter, RecordType, encode_record
from convergence.wire.sharedrandom import Draw, DrawRequest

PAUSE = 3600.0
"""Seconds, give or take half, until one that has said all is asked again: it may say two things."""
PAUSE_MISSING = 600.0
"""The same while it has not."""
FIRST = 60.0
"""Seconds within which each is asked for the first time."""
NOT_YET = 1.0
"""The same while this facilitator does not know yet which draw it is."""
LIMIT = 20.0
"""Seconds until a channel is open, and from then on until the answer is there."""


class State(Enum):
    """Of one channel to another facilitator."""

    CONNECTING = auto()
    OPEN = auto()  # HELLO is awaited
    ASKING = auto()
    OVER = auto()


_END = {"end": State.OVER, TIMEOUT: State.OVER}
CHANNEL = Table(
    "channel to a facilitator that draws with us",
    State.CONNECTING,
    {
        State.CONNECTING: {"opened": State.OPEN, **_END},
        State.OPEN: {"hello": State.ASKING, **_END},
        State.ASKING: {"end": State.OVER, TIMEOUT: State.OVER},
    },
    deadlines={State.CONNECTING: LIMIT, State.OPEN: LIMIT, State.ASKING: LIMIT},
)


class _Asked:
    """One that is asked."""

    def __init__(self, identity: bytes, machine: StateMachine[State]) -> None:
        self.identity = identity
        self.machine = machine
        self.cutter = RecordCutter((RecordType.HELLO, RecordType.DRAWN))


class Partners:
    """Args:
    others: identity -> address of each.
    publisher: takes what they say.
    """

    def __init__(self, outbox: Outbox, rng: Rng, others: Mapping[bytes, str], publisher: Publisher) -> None:
        self._outbox = outbox
        self._rng = rng
        self._others = others
        self._publisher = publisher
        self._asked: dict[int, _Asked] = {}  # by channel

    def start(self, now: float) -> None:
        for identity in self._others:
            self._outbox.call_at(now + FIRST * fraction(self._rng), partial(self._ask, identity))

    def knows(self, channel: int) -> bool:
        return channel in self._asked

    def opened(self, channel: int, now: float) -> None:
        self._asked[channel].machine.move("opened", now)

    def data(self, channel: int, data: bytes, now: float) -> None:
        asked = self._asked.get(channel)
        if asked is None:
            return
        try:
            for kind, body in asked.cutter.feed(data):
                self._record(asked, channel, kind, body, now)
                if channel not in self._asked:
                    return
        except RemoteError:
            self._end(channel, now)

    def closed(self, channel: int, now: float) -> None:
        asked = self._asked.pop(channel, None)
        if asked is not None and not asked.machine.final:
            asked.machine.move("end", now)

    def health(self, now: float) -> list[dict[str, Any]]:
        """JSON-able: each, and whether it has contributed to the next draw what it could by now."""
        return [
            {"facilitator": identity.hex()[:16], "contributes": self._publisher.heard_from(identity, now)}
            for identity in sorted(self._others)
        ]

    def _ask(self, identity: bytes, now: float) -> None:
        if not self._publisher.drawing:  # what was kept is being loaded
            self._outbox.call_at(now + NOT_YET, partial(self._ask, identity))
            return
        missing = not self._publisher.heard_from(identity, now)
        pause = (PAUSE_MISSING if missing else PAUSE) * (0.5 + fraction(self._rng))
        self._outbox.call_at(now + pause, partial(self._ask, identity))
        channel = self._outbox.connect(Protocol.FACILITATOR, self._others[identity])
        machine = StateMachine(CHANNEL, self._outbox, lambda state, now: self._end(channel, now), now)
        self._asked[channel] = _Asked(identity, machine)

    def _record(self, asked: _Asked, channel: int, kind: RecordType, body: bytes, now: float) -> None:
        """Raises RemoteError."""
        if asked.machine.state is State.OPEN and kind is RecordType.HELLO:
            if Hello.parse(body).identity != asked.identity:
                raise RemoteError("it is another facilitator")
            asked.machine.move("hello", now)
            request = DrawRequest(self._publisher.drawing)
            self._outbox.emit(Send(channel, (encode_record(RecordType.DRAW, request.encode()),)))
        elif asked.machine.state is State.ASKING and kind is RecordType.DRAWN:
            draw = Draw.parse(body)
            self._end(channel, now)
            self._publisher.heard(draw, now)
        else:
            raise RemoteError("not what was asked for")

    def _end(self, channel: int, now: float) -> None:
        self.closed(channel, now)
        self._outbox.emit(CloseLink(channel, "the draw is told"))
