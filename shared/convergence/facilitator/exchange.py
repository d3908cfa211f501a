"""Signals between nodes whose channels are at different facilitators.

Does: chain the switchboards of two facilitators (introduction/signalling.py), so that both hold their limits: the
asker's own where its channel is, those of the target, which count by source, where that one's is.
Does not: keep or read signals, gather them (passing.py), or pass any on a second time.

    asker -- SIGNAL --> its facilitator == Forward ==> the target's facilitator -- DELIVER --> target
    asker <-- REPLY, UNREACHABLE -- its facilitator <== Back == the target's facilitator <-- REPLY -- target

For the first facilitator, the second one is a pipe that leads to the target, one for each asker; for the second one,
the first is a pipe that an asker is on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Protocol, cast

from convergence.errors import ParseError
from convergence.facilitator.passing import Passing
from convergence.facilitator.sharing import Sharing
from convergence.introduction.signalling import MAX_TAGS, TAG_LIFETIME, Pipe, Switchboard
from convergence.outbox import Outbox, Timer
from convergence.wire.facilitator import Delivery, RecordType, Signal, Unreachable, UnreachableReason
from convergence.wire.sharing import NOBODY, Back, Forward

LIFETIME = TAG_LIFETIME + 1
"""Seconds after its last signal that a pipe between two nodes is kept."""


class Channel(Pipe, Protocol):
    """What an asker here is on. Its source is named as in the store, so that one source is one everywhere."""

    number: int


class _Onward:
    """From one asker here to one node there: a pipe that a node is on."""

    def __init__(self, exchange: Exchange, asker: Channel, to: bytes, holder: bytes) -> None:
        self._exchange = exchange
        self._asker = asker
        self._to = to
        self.holder = holder
        self.asker_source = asker.source

    @property
    def source(self) -> Hashable:
        return self

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        """Only DELIVER comes this way."""
        delivery = Delivery.parse(body)
        source = bytes.fromhex(self.asker_source) if isinstance(self.asker_source, str) else NOBODY
        forward = Forward(self._asker.number, self._to, delivery.tag, source, delivery.sealed)
        self._exchange.send_on(self, forward, now)


class _Back:
    """From a node here to one asker there: a pipe that an asker is on."""

    def __init__(self, exchange: Exchange, holder: bytes, asker: int, to: bytes, source: Hashable) -> None:
        self._exchange = exchange
        self.holder = holder
        self._asker = asker
        self._to = to
        self._source = source

    @property
    def source(self) -> Hashable:
        return self._source or self

    def send(self, kind: RecordType, body: bytes, now: float) -> None:
        """REPLY and UNREACHABLE come this way."""
        back = Back(self._asker, self._to, kind, body)
        if kind is RecordType.REPLY:
            self._exchange.send_back(self, back, now)
        else:
            self._exchange.refuse(self.holder, self.source, back, now)


class Exchange:
    """All of them.

    Args:
        holder: the other facilitator that has the channel of a node, if one has.
        source: where a node registered from.

    Attributes:
        max_pipes: between two nodes, as there are introductions.
    """

    def __init__(
        self,
        outbox: Outbox,
        sharing: Sharing,
        holder: Callable[[bytes], bytes | None],
        source: Callable[[bytes], Hashable],
    ) -> None:
        self.switchboard = Switchboard(outbox, self._elsewhere)
        self.max_pipes = MAX_TAGS
        self._outbox = outbox
        self._passing = Passing(outbox, sharing)
        self._holder = holder
        self._source = source
        self._pipes: dict[tuple[object, ...], tuple[_Onward | _Back, Timer]] = {}

    def _elsewhere(self, to: bytes, asker: Pipe, now: float) -> Pipe | None:
        holder = self._holder(to)
        if holder is None or isinstance(asker, _Back):
            return None
        channel = cast(Channel, asker)  # as all other pipes of this switchboard are
        return self._pipe((holder, channel.number, to, "on"), lambda: _Onward(self, channel, to, holder), now)

    def send_on(self, pipe: _Onward, forward: Forward, now: float) -> None:
        def lost(why: UnreachableReason, now: float) -> None:
            self.switchboard.refused(pipe, Unreachable(forward.tag, why).encode(), now)

        self._passing.signal(pipe.holder, pipe.asker_source, forward, lost, now)

    def send_back(self, pipe: _Back, back: Back, now: float) -> None:
        """It takes a place of the node that answers. The asker hears at once of an answer that is lost."""

        def lost(why: UnreachableReason, now: float) -> None:
            if why is UnreachableReason.BUSY:
                refusal = Unreachable(Delivery.parse(back.body).tag, why).encode()
                self.refuse(pipe.holder, pipe.source, replace(back, kind=RecordType.UNREACHABLE, body=refusal), now)

        self._passing.signal(pipe.holder, self._source(back.to), back, lost, now)

    def refuse(self, holder: bytes, source: Hashable, back: Back, now: float) -> None:
        """It takes a place of the asker."""
        self._passing.refuse(holder, source, back, now)

    def forwarded(self, sender: bytes, forward: Forward, now: float) -> None:
        source = forward.source.hex() if forward.source != NOBODY else ""
        pipe = self._pipe(
            (sender, forward.asker, forward.to, "back"),
            lambda: _Back(self, sender, forward.asker, forward.to, source),
            now,
        )
        if pipe is not None:
            self.switchboard.signal(pipe, Signal(forward.tag, forward.to, forward.sealed).encode(), now)
            return
        refusal = Unreachable(forward.tag, UnreachableReason.BUSY).encode()
        back = Back(forward.asker, forward.to, RecordType.UNREACHABLE, refusal)
        self.refuse(sender, source or forward.asker, back, now)

    def answered(self, sender: bytes, back: Back, now: float) -> None:
        known = self._pipes.get((sender, back.asker, back.to, "on"))
        if known is None:
            return
        try:
            if back.kind == RecordType.REPLY:
                self.switchboard.reply(known[0], back.body, now)
            elif back.kind == RecordType.UNREACHABLE:
                self.switchboard.refused(known[0], back.body, now)
        except ParseError:
            pass  # of another release

    def gone(self, facilitator: bytes, now: float) -> None:
        for key, (pipe, _) in list(self._pipes.items()):
            if pipe.holder == facilitator:
                self._close(key, now)

    def _pipe(self, key: tuple[object, ...], make: Callable[[], _Onward | _Back], now: float) -> _Onward | _Back | None:
        """The pipe of this key; None if that were one too many."""
        known = self._pipes.get(key)
        if known is None and len(self._pipes) >= self.max_pipes:
            return None
        pipe = make() if known is None else known[0]
        if known is not None:
            known[1].cancel()
        self._pipes[key] = (pipe, self._outbox.call_at(now + LIFETIME, lambda now: self._close(key, now)))
        return pipe

    def _close(self, key: tuple[object, ...], now: float) -> None:
        pipe, timer = self._pipes.pop(key)
        timer.cancel()
        self.switchboard.unregister(pipe, now)
