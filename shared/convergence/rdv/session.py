"""End-to-end encryption inside one stream: Noise between the two ends of a splice (rdv/keys.py says which pattern).

Does: the handshake, then framing (u16 length | Noise message) both ways. An empty message says that its sender writes
no more: each way ends by itself, and an END of the stream that comes without such messages is an abort. When both have
ended, the side that was asked ENDs the stream. The side that asked waits for that, since whoever asks may be a program
that leaves the network at once, with its circuit and with all that is still under way on it.
Does not: know what the bytes mean, open streams, or retry. A rendezvous point on the way sees ciphertext only.

Nothing is handed up, and nothing of the user's goes out, before the handshake is done. A frame that does not verify
ends the stream with EndReason.TORPROTOCOL: there is no way to go on after a gap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import Protocol as Shape

from convergence.crypto.noise import HANDSHAKE_OVERHEAD, KEY_LEN, MAX_MESSAGE, TAG_LEN, Handshake, Transport
from convergence.errors import CryptoError, EndReason
from convergence.outbox import Outbox, Timer
from convergence.pipes.duplex import Duplex, Handler, Pipe
from convergence.ports import Buffer, Crypto, Rng
from convergence.rdv.keys import SessionKeys
from convergence.states import TIMEOUT, StateMachine, Table

MAX_RECORD = 32 * 1024  # bytes of plaintext in a frame: few calls for a piece, and no long wait on a slow path
MAX_FRAME = MAX_MESSAGE + 2  # bytes; no more than one incomplete frame is ever held
OPEN_TIMEOUT = 20.0  # seconds that a stream of ours has to open
ANSWER_TIMEOUT = 10.0  # seconds from our first message to the other side's: one round trip, and its turn there
FLUSH_LIMIT = 60.0  # seconds in which what was written before we gave up may still go out
SETTLE_TIMEOUT = 120.0  # seconds that our last bytes, about a window, have to arrive once both ends have ended
LAST_LIMIT = 300.0  # seconds that a reader has for our last bytes, where we are who ends the stream: as at exits
FIRST_TIMEOUT = 8.0  # seconds that the asking side has for its first message, which takes one round trip

_LENGTH = struct.Struct(">H")


class Over(Shape):
    """Called once when a session is over, whoever ended it: after the handler's last call, before our END goes out.

    Args:
        reason: an EndReason, or another number as received; DONE when both ends have ended.
        local: whether we aborted it.
    """

    def __call__(self, reason: int, local: bool, now: float) -> None: ...


class Phase(Enum):
    """Phases of a session."""

    STARTING = "starting"  # the stream is not open yet
    ASKING = "asking"  # our first message is out
    EXPECTING = "expecting"  # the other side's first message is due
    OPEN = "open"
    ENDED = "ended"  # we write no more
    HEARD_END = "heard end"  # the other side writes no more
    SETTLING = "settling"  # both write no more; the other side's END of the stream says that it got all
    CLOSED = "closed"


_CLOSING = {"close": Phase.CLOSED, TIMEOUT: Phase.CLOSED}
TABLE = Table(
    "rdv session",
    Phase.STARTING,
    {
        Phase.STARTING: {"ask": Phase.ASKING, "expect": Phase.EXPECTING, **_CLOSING},
        Phase.ASKING: {"shaken": Phase.OPEN, **_CLOSING},
        Phase.EXPECTING: {"shaken": Phase.OPEN, **_CLOSING},
        Phase.OPEN: {"end": Phase.ENDED, "hear end": Phase.HEARD_END, "close": Phase.CLOSED},
        Phase.ENDED: {"hear end": Phase.SETTLING, "close": Phase.CLOSED},
        Phase.HEARD_END: {"end": Phase.SETTLING, "close": Phase.CLOSED},
        Phase.SETTLING: _CLOSING,
    },
    deadlines={
        Phase.STARTING: OPEN_TIMEOUT,
        Phase.ASKING: ANSWER_TIMEOUT,
        Phase.EXPECTING: FIRST_TIMEOUT,
        Phase.SETTLING: SETTLE_TIMEOUT,
    },
    standing={
        Phase.OPEN: "its user closes it, who has deadlines of his own (ordb/upload.py, ordb/download.py)",
        Phase.ENDED: "the far end ends it, or its user aborts it",
        Phase.HEARD_END: "its user ends or aborts it",
    },
)


class Session(Pipe):
    """One end. It is the handler of the stream below and the Duplex of the handler above.

    Args:
        initiator: True at the side that asked.
        keys: of what is served.
        name: the blinded name that was asked for. The handshake is bound to it: otherwise a point could replay or
            misdirect a handshake to learn which names belong together.
        attach: called as attach(session) for the handler above.
        is_new: of the side that was asked: whether the other's ephemeral key (32 bytes) never came before. The first
            message proves that somebody made it who holds the key, not that he is there.
        on_open: (now), when the handshake is done.
        on_over: see `Over`.
        now: when it begins.

    Attributes:
        accepted: whether the stream below has opened: somebody is there.
        last_used: when a message last went either way, in steady time.
    """

    def __init__(
        self,
        crypto: Crypto,
        rng: Rng,
        outbox: Outbox,
        keys: SessionKeys,
        name: bytes,
        *,
        now: float,
        initiator: bool,
        attach: Callable[[Duplex], Handler],
        is_new: Callable[[bytes], bool] = lambda key: True,
        on_open: Callable[[float], None] | None = None,
        on_over: Over | None = None,
    ) -> None:
        self.accepted = False
        self.last_used = outbox.steady(now)
        self._outbox = outbox
        self._machine = StateMachine(TABLE, outbox, self._timed_out, now)
        self._initiator = initiator
        self._shake = Handshake(
            crypto, rng.random(32), keys.psk, initiator=initiator, prologue=keys.prologue + name, static=keys.static
        )
        self._noise: Transport | None = None
        self._is_new = is_new
        self._on_open = on_open
        self._on_over = on_over
        self._stream: Duplex | None = None
        self._buffer = bytearray()  # one incomplete frame: MAX_FRAME
        self._early: list[bytes] = []  # written before the handshake was done
        self._ending = False  # nothing more is written
        self._last: Timer | None = None  # while our last bytes go out, all else being over
        self.handler: Handler | None = attach(self)

    def bind(self, stream: Duplex) -> None:
        """The stream below. Its handler is this session."""
        self._stream = stream

    # -- Duplex

    @property
    def closed(self) -> bool:
        return self._machine.final

    @property
    def congested(self) -> bool:
        """Before the handshake is done it is, so that little is written."""
        return self._stream is not None and (self._noise is None or self._stream.congested)

    def write(self, data: bytes, now: float) -> None:
        if self._ending or self._machine.final:
            return
        if self._noise is None:
            self._early.append(data)
        else:
            self._seal_all(data, now)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        if code != EndReason.DONE:
            self._give_up(code, now)
            return
        if self._ending or self._machine.final:
            return
        self._ending = True
        if self._noise is not None:
            self._send_end(now)

    def abort(self, code: int, now: float) -> None:
        if not self._machine.final:
            self._machine.move("close", now)
            self._over(code, now, local=True)

    def consumed(self, size: int, now: float) -> None:
        if self._stream is not None:
            self._stream.consumed(size, now)

    def expel(self, code: int, now: float) -> None:
        """Neither its user nor the far end gives it up; both are told."""
        self._lost(code, now)

    # -- Handler of the stream

    def opened(self, now: float) -> None:
        if self._machine.state is not Phase.STARTING:
            return
        self.accepted = True
        self._machine.move("ask" if self._initiator else "expect", now)
        if self._initiator:
            self._send_handshake(now)

    def data(self, data: bytes, now: float) -> None:
        if self._machine.final:
            return
        self._buffer += data
        at, end = 0, len(self._buffer)
        try:
            while end - at >= _LENGTH.size and not self._machine.final:
                (length,) = _LENGTH.unpack_from(self._buffer, at)
                if length < TAG_LEN or (self._noise is None and length != HANDSHAKE_OVERHEAD):
                    raise CryptoError("frame of an impossible length")
                start = at + _LENGTH.size
                if end - start < length:
                    break
                at = start + length
                self._on_message(bytes(memoryview(self._buffer)[start:at]), now)
        except CryptoError:
            self._lost(EndReason.TORPROTOCOL, now)
        del self._buffer[:at]

    def drained(self, now: float) -> None:
        if self.handler is not None and self._noise is not None:
            self.handler.drained(now)

    def ended(self, now: float) -> None:
        """An END that the far end did not announce may be anybody's."""
        self._out()
        if self._machine.state is Phase.SETTLING:
            self._close(now)
        else:
            self._lost(EndReason.DONE, now)

    def aborted(self, code: int, now: float) -> None:
        self._out()
        self._lost(code, now)

    # -- inside

    def _out(self) -> None:
        """The stream has ended."""
        self._stream = None
        if self._last is not None:
            self._last.cancel()

    def _on_message(self, message: bytes, now: float) -> None:
        if self._noise is None:
            self.consumed(_LENGTH.size + len(message), now)
            self._on_handshake(message, now)
            return
        data = self._noise.receive.decrypt(message)
        self.last_used = self._outbox.steady(now)
        self.consumed(_LENGTH.size + TAG_LEN, now)
        if self._machine.state in (Phase.HEARD_END, Phase.SETTLING):
            raise CryptoError("a message after the last one")
        if not data:
            self._machine.move("hear end", now)
            last = self._is_last()
            if last:
                self._machine.move("close", now)
            if self.handler is not None:
                self.handler.ended(now)
            if last:
                self._over(EndReason.DONE, now, local=False)
        elif self.handler is not None:
            self.handler.data(data, now)

    def _seal_all(self, data: bytes, now: float) -> None:
        view = memoryview(data)
        for at in range(0, len(view), MAX_RECORD):
            self._seal(view[at : at + MAX_RECORD], now)

    def _seal(self, data: Buffer, now: float) -> None:
        assert self._noise is not None and self._stream is not None
        self.last_used = self._outbox.steady(now)
        sealed = self._noise.send.encrypt(data)
        self._stream.write(_LENGTH.pack(len(sealed)) + sealed, now)

    def _give_up(self, code: int, now: float) -> None:
        """What was written still goes out, for FLUSH_LIMIT."""
        if self._machine.final:
            return
        stream = self._stream if self._noise is not None else None
        if stream is not None:
            self._stream = None
            stream.handler = None
            stream.end(now, code)
            self._outbox.call_at(now + FLUSH_LIMIT, lambda now: stream.abort(code, now))
        self.abort(code, now)

    def _send_end(self, now: float) -> None:
        self._seal(b"", now)
        self._machine.move("end", now)
        if self._is_last():
            self._machine.move("close", now)
            self._over(EndReason.DONE, now, local=False)

    def _is_last(self) -> bool:
        """Whether both have ended, and it is ours to end the stream."""
        return self._machine.state is Phase.SETTLING and not self._initiator

    def _close(self, now: float) -> None:
        """The other side has ended the stream, as was due."""
        self._machine.move("close", now)
        if self.handler is not None:
            self.handler.drained(now)
        self._over(EndReason.DONE, now, local=False)

    def _on_handshake(self, message: bytes, now: float) -> None:
        self._shake.read(message)
        if not self._initiator:
            if not self._is_new(message[:KEY_LEN]):
                raise CryptoError("a handshake that came before")
            self._send_handshake(now)
        self._noise = self._shake.transport()
        self._machine.move("shaken", now)
        early, ending = b"".join(self._early), self._ending
        self._early.clear()
        self._seal_all(early, now)
        if self._on_open is not None:
            self._on_open(now)
        if self.handler is not None:
            self.handler.opened(now)
        if ending and not self._machine.final:
            self._send_end(now)
        elif early and self.handler is not None and not self.congested:
            self.handler.drained(now)

    def _send_handshake(self, now: float) -> None:
        if self._stream is not None:
            message = self._shake.write()
            self._stream.write(_LENGTH.pack(len(message)) + message, now)

    def _timed_out(self, phase: Phase, now: float) -> None:
        self._tell(EndReason.TIMEOUT, now)

    def _lost(self, code: int, now: float) -> None:
        if not self._machine.final:
            self._machine.move("close", now)
            self._tell(code, now)

    def _tell(self, code: int, now: float) -> None:
        """It was not our user who gave up."""
        if self.handler is not None:
            self.handler.aborted(code, now)
        self._over(code, now, local=False)

    def _over(self, reason: int, now: float, *, local: bool) -> None:
        self._buffer.clear()
        self._early.clear()
        self.handler = None
        stream, self._stream = self._stream, None
        if self._on_over is not None:
            on_over, self._on_over = self._on_over, None
            on_over(reason, local, now)
        if stream is None:
            return
        if reason == EndReason.DONE and not local:
            self._last = self._outbox.call_at(now + LAST_LIMIT, lambda now: stream.abort(EndReason.TIMEOUT, now))
            stream.end(now)
        else:
            stream.abort(reason, now)
