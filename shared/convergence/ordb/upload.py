"""The serving end of one transfer: answers requests for pieces of one file on one stream.

Does: send the FileInfo, answer each request in order with a piece and its proof, announce pieces that come later.
Does not: choose what to send (the receiver pulls), know circuits, or read storage itself (Outbox.load).

Memory: at most one loaded piece beyond what the stream buffers, and MAX_QUEUED_REQUESTS numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from convergence.crypto.merkle import MerkleTree
from convergence.errors import EndReason, ParseError
from convergence.ordb.index import SharedFile, piece_key, piece_length
from convergence.ordb.pieces import PieceSet
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.ordb import (
    MAX_RANGES,
    Done,
    Have,
    Info,
    Message,
    MessageCutter,
    Piece,
    Queued,
    Refuse,
    RefuseReason,
    Request,
    encode_message,
)

MAX_QUEUED_REQUESTS = 64  # far more than a receiver of ours keeps outstanding
IDLE_TIMEOUT = 300.0  # seconds without a request, and with nothing taken, after which the stream is ended
GIVE_WAY_AFTER = 20.0  # the same while others wait for its place
STUCK_AFTER = 60.0  # the same, for a receiver that does not take what it asked for
QUEUE_LIMIT = 4 * 3600.0  # seconds that a receiver waits for its turn


class Phase(Enum):
    """Phases of an upload."""

    OPENING = "opening"
    QUEUED = "queued"
    SERVING = "serving"
    OVER = "over"


TABLE = Table(
    "upload",
    Phase.OPENING,
    {
        Phase.OPENING: {"queue": Phase.QUEUED, "serve": Phase.SERVING, "end": Phase.OVER},
        Phase.QUEUED: {"serve": Phase.SERVING, "end": Phase.OVER, TIMEOUT: Phase.OVER},
        Phase.SERVING: {"end": Phase.OVER, TIMEOUT: Phase.OVER},
    },
    deadlines={Phase.QUEUED: QUEUE_LIMIT, Phase.SERVING: IDLE_TIMEOUT},
    standing={Phase.OPENING: "the session under it ends, whose handshake has a deadline (rdv/session.py)"},
)


class Upload:
    """Serves one stream: the provider's handler of a session (`Served` in rdv/service.py).

    Args:
        tree: the file's tree; with gaps when we hold only some pieces.
        present: which pieces we hold; None means all. It is only read here.
        on_progress: called as on_progress(bytes of pieces sent so far, now).
        on_over: called once when the upload has ended, for whatever reason.
    """

    def __init__(
        self,
        stream: Duplex,
        file: SharedFile,
        tree: MerkleTree,
        outbox: Outbox,
        *,
        present: PieceSet | None = None,
        on_progress: Callable[[int, float], None] | None = None,
        on_over: Callable[[float], None] | None = None,
    ) -> None:
        self.bytes_sent = 0
        self._stream = stream
        self._file = file
        self._tree = tree
        self._outbox = outbox
        self._present = present
        self._count = file.info.pieces
        self._cutter = MessageCutter()
        self._queue: deque[int] = deque()
        self._loading = False
        self._held: Piece | Refuse | None = None  # one answer that waits for the stream
        self._last = 0.0  # when the receiver last asked for something or got it, in steady time
        self._machine = StateMachine(TABLE, outbox, self._timed_out, 0.0)  # its first phase has no deadline
        self._on_progress = on_progress
        self._on_over = on_over

    def announce(self, now: float) -> None:
        """Tell the receiver which pieces we hold now (the first MAX_RANGES runs of them)."""
        if self._present is not None and self._machine.state is Phase.SERVING:
            self._send(Have(tuple(self._present.ranges()[:MAX_RANGES])), now)

    def stop(self, now: float, reason: int = EndReason.DONE) -> None:
        """End the upload from this side."""
        if not self._machine.final:
            self._machine.move("end", now)
            self._finish(now)
            self._stream.abort(reason, now)

    # -- Served

    def queued(self, position: int, now: float) -> None:
        """Others come first: tell the receiver its place. Later calls tell a new place, or that we are still here."""
        if self._machine.state is not Phase.QUEUED:  # else its deadline would begin anew
            self._machine.move("queue", now)
        self._send(Queued(position), now)

    def idle(self, now: float) -> bool:
        """Whether its place should go to a receiver that waits."""
        owes = bool(self._queue) or self._loading or self._held is not None or self._stream.congested
        patience = STUCK_AFTER if owes else GIVE_WAY_AFTER
        return self._machine.state is Phase.SERVING and self._outbox.steady(now) - self._last >= patience

    def opened(self, now: float) -> None:
        """The receiver has a place: describe the file."""
        self._machine.move("serve", now)
        self._last = self._outbox.steady(now)
        self._send(Info(self._file.salt, self._file.info), now)
        self.announce(now)

    def data(self, data: bytes, now: float) -> None:
        try:
            for message in self._cutter.feed(data):
                if self._machine.final:
                    return
                match message:
                    case Request(index) if self._machine.state is Phase.SERVING:
                        self._on_request(index, now)
                    case Done():
                        self.stop(now)
                    case _:
                        self.stop(now, EndReason.TORPROTOCOL)  # a message that only senders send
        except ParseError:
            self.stop(now, EndReason.TORPROTOCOL)
        self._stream.consumed(len(data), now)  # the queue of requests has a limit of its own

    def drained(self, now: float) -> None:
        self._send_held(now)
        self._pump(now)

    def ended(self, now: float) -> None:
        """The receiver asks for nothing more."""
        self.stop(now)

    def aborted(self, code: int, now: float) -> None:
        if not self._machine.final:
            self._machine.move("end", now)
            self._finish(now)

    # -- the queue

    def _on_request(self, index: int, now: float) -> None:
        if index >= self._count:
            self.stop(now, EndReason.TORPROTOCOL)
        elif len(self._queue) == MAX_QUEUED_REQUESTS:
            self.stop(now, EndReason.RESOURCELIMIT)
        else:
            self._used(now)
            self._queue.append(index)
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Load the next piece when none is waiting for the stream."""
        while self._queue and not self._loading and self._held is None and not self._machine.final:
            index = self._queue.popleft()
            proof = self._tree.proof(index)
            if proof is None or (self._present is not None and index not in self._present):
                self._answer(Refuse(index, RefuseReason.NOT_HERE), now)
                continue
            self._loading = True
            path = tuple(proof)

            def reply(piece: Any, now: float, index: int = index, path: tuple[bytes, ...] = path) -> None:
                self._loaded(index, path, piece, now)

            self._outbox.load("piece", piece_key(self._file.info.root, index), reply)

    def _loaded(self, index: int, proof: tuple[bytes, ...], piece: Any, now: float) -> None:
        self._loading = False
        if self._machine.final:
            return
        if isinstance(piece, bytes) and len(piece) == self._length(index):
            self._answer(Piece(index, proof, piece), now)
        else:
            self._answer(Refuse(index, RefuseReason.STORAGE), now)
        self._pump(now)

    def _answer(self, message: Piece | Refuse, now: float) -> None:
        self._held = message
        if not self._stream.congested:
            self._send_held(now)

    def _send_held(self, now: float) -> None:
        message, self._held = self._held, None
        if message is None or self._machine.final:
            return
        self._send(message, now)
        self._used(now)
        if isinstance(message, Piece):
            self.bytes_sent += len(message.data)
            if self._on_progress is not None:
                self._on_progress(self.bytes_sent, now)

    def _send(self, message: Message, now: float) -> None:
        self._stream.write(encode_message(message), now)

    def _length(self, index: int) -> int:
        return piece_length(self._file.info.size, index, self._file.info.piece_size)

    def _used(self, now: float) -> None:
        self._last = self._outbox.steady(now)
        self._machine.extend(now)

    def _timed_out(self, phase: Phase, now: float) -> None:
        self._finish(now)
        self._stream.abort(EndReason.TIMEOUT, now)

    def _finish(self, now: float) -> None:
        self._queue.clear()
        self._held = None
        if self._on_over is not None:
            self._on_over(now)
