"""One stream that a download draws from.

Does: read a sender's messages, refuse what was not asked for, keep track of what is outstanding and how fast it comes.
Does not: choose, verify or store pieces: the download does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol as Shape

from convergence.codes import Dropped
from convergence.errors import LocalError, ParseError
from convergence.ordb.pieces import PieceSet
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex
from convergence.wire.ordb import Done, Have, Info, MessageCutter, Piece, Queued, Refuse, Request, encode_message

MAX_REQUESTS = 8  # pieces requested from one source and not stored yet: 2 MiB cover a slow path's delay
MAX_REFUSALS = 64  # a source that refuses more pieces than this is dropped


class SourceOwner(Shape):
    """The download, as its sources see it."""

    def source_opened(self, source: Source, now: float) -> None: ...

    def source_info(self, source: Source, info: Info, now: float) -> int | None:
        """Returns the number of pieces, or None when the source was dropped."""
        ...

    def source_piece(self, source: Source, index: int, proof: Sequence[bytes], data: bytes, now: float) -> None: ...

    def source_queued(self, source: Source, now: float) -> None:
        """It is busy, and gave us a place in its queue (`position`)."""
        ...

    def source_ready(self, source: Source, now: float) -> None:
        """It may have something for us now."""
        ...

    def source_returned(self, indexes: Sequence[int], now: float) -> None:
        """These pieces were requested and will not come from this source."""
        ...

    def drop(self, source: Source, why: Dropped, now: float, *, ban: bool) -> None: ...

    def source_closed(self, source: Source, now: float) -> None: ...


class Source:
    """The handler of a session. Its times are steady ones (outbox.py)."""

    def __init__(self, stream: Duplex, owner: SourceOwner, outbox: Outbox) -> None:
        self.stream = stream
        self.has: PieceSet | None = None  # None until the FileInfo has come
        self.position = 0  # our place in its queue; 0 once it serves us
        self.queued = 0.0  # when it gave us that place
        self.requested: dict[int, float] = {}  # piece -> when it was asked for, oldest first
        self.storing = 0  # its pieces that are verified and not stored yet: each still takes a slot
        self.last = 0.0  # when bytes last came
        self.last_piece = 0.0
        self.pieces = 0
        self.piece_time = 0.0  # seconds between pieces, smoothed
        self.alive = True
        self._owner = owner
        self._outbox = outbox
        self._cutter = MessageCutter()
        self._refusals = 0

    @property
    def free_slots(self) -> int:
        return MAX_REQUESTS - len(self.requested) - self.storing

    def request(self, indexes: Sequence[int], now: float) -> None:
        for index in indexes:
            self.requested[index] = self._outbox.steady(now)
        self.stream.write(b"".join([encode_message(Request(index)) for index in indexes]), now)

    def oldest_age(self, now: float) -> float:
        """Seconds that we have waited for the piece that is due next."""
        for asked in self.requested.values():
            return self._outbox.steady(now) - max(asked, self.last_piece)
        return 0.0

    def begin(self, now: float) -> None:
        """From now on it may give pieces."""
        self.last = self.last_piece = self._outbox.steady(now)

    def age(self, now: float) -> float:
        """Seconds since it gave a piece, or could first give one."""
        return self._outbox.steady(now) - self.last_piece

    def silence(self, now: float) -> float:
        """Seconds since bytes last came."""
        return self._outbox.steady(now) - self.last

    def waiting(self, now: float) -> float:
        """Seconds that we have waited in its queue; 0 where we wait in none."""
        return self._outbox.steady(now) - self.queued if self.position else 0.0

    # -- Handler

    def opened(self, now: float) -> None:
        self.begin(now)
        self._owner.source_opened(self, now)

    def data(self, data: bytes, now: float) -> None:
        self.last = self._outbox.steady(now)
        try:
            for message in self._cutter.feed(data):
                if not self.alive:
                    return
                self._on_message(message, now)
        except (ParseError, LocalError):
            self._owner.drop(self, Dropped.NO_MESSAGE, now, ban=True)
        self.stream.consumed(len(data), now)  # only pieces that were requested come: that is what bounds them

    def drained(self, now: float) -> None:
        if self.alive:
            self._owner.source_ready(self, now)

    def ended(self, now: float) -> None:
        if self.alive:
            self._owner.drop(self, Dropped.STOPPED, now, ban=False)

    def aborted(self, code: int, now: float) -> None:
        if self.alive:
            self._owner.source_closed(self, now)

    def _on_message(self, message: object, now: float) -> None:
        match message:
            case Piece(index, proof, data):
                self._on_piece(index, proof, data, now)
            case Queued(position) if self.has is None:
                if not self.position:
                    self.queued = self.last
                self.position = position
                self._owner.source_queued(self, now)
            case Info() if self.has is None:
                self.position = 0
                self.begin(now)
                count = self._owner.source_info(self, message, now)
                if count is not None:
                    self.has = PieceSet.full(count)
                    self._owner.source_ready(self, now)
            case Have(ranges) if self.has is not None:
                self.has.bits = 0
                for first, count in ranges:
                    self.has.add_range(first, count)
                self._owner.source_ready(self, now)
            case Refuse(index, _) if self.has is not None and index in self.requested:
                del self.requested[index]
                self.has.discard(index)
                self._refusals += 1
                self._owner.source_returned([index], now)
                if self._refusals > MAX_REFUSALS:
                    raise ParseError("too many refusals")
            case Done():
                self._owner.drop(self, Dropped.STOPPED, now, ban=False)
            case _:
                raise ParseError("a message that was not due")

    def _on_piece(self, index: int, proof: Sequence[bytes], data: bytes, now: float) -> None:
        asked = self.requested.pop(index, None)
        if asked is None:
            self._owner.drop(self, Dropped.NOT_ASKED, now, ban=True)
            return
        took = self.last - max(asked, self.last_piece)
        self.piece_time = took if not self.pieces else 0.75 * self.piece_time + 0.25 * took
        self.pieces += 1
        self.last_piece = self.last
        self._owner.source_piece(self, index, proof, data, now)

    def stop(self, reason: int, now: float) -> list[int]:
        """Abort the stream; returns the pieces that will not come. DONE says that we want nothing more."""
        self.alive = False
        self.stream.abort(reason, now)
        outstanding = list(self.requested)
        self.requested.clear()
        return outstanding
