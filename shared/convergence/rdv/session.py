"""End-to-end encryption inside one stream: Noise_NNpsk0 between the two ends of a splice.

Does: the handshake, then framing (u16 length | Noise message) both ways; tells its handler why it closed.
Does not: know what the bytes mean, open streams, or retry. A rendezvous point on the way sees ciphertext only.

Nothing is handed up, and nothing can be sent, before the handshake is done. A frame that does not verify ends the
stream with EndReason.TORPROTOCOL: there is no way to go on after a gap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import Protocol as Shape

from convergence.crypto.kdf import hkdf_sha256
from convergence.crypto.noise import HANDSHAKE_OVERHEAD, MAX_MESSAGE, TAG_LEN, Handshake, Transport
from convergence.errors import CryptoError, EndReason, LocalError
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table

MAX_RECORD = 32 * 1024  # bytes of plaintext in a frame: few calls for a piece, and no long wait on a slow path
MAX_FRAME = MAX_MESSAGE + 2  # bytes; no more than one incomplete frame is ever held
OPEN_TIMEOUT = 20.0  # seconds that a stream of ours has to open
ANSWER_TIMEOUT = 20.0  # seconds from our first message to the other side's
FIRST_TIMEOUT = 8.0  # seconds that the asking side has for its first message, which takes one round trip
PROLOGUE = b"convergence:session:1"

_LENGTH = struct.Struct(">H")


def psk_of(key: bytes) -> bytes:
    """The pre-shared key (32 bytes), from a share link's key."""
    return hkdf_sha256(key, info=b"convergence:psk", length=32)


class RawStream(Shape):
    """What a session needs of the stream under it (circuit/streams.py)."""

    @property
    def congested(self) -> bool: ...

    def send(self, data: bytes) -> None: ...

    def end(self, reason: int = EndReason.DONE, after_flush: bool = True) -> None: ...


class ByteStream(Shape):
    """What a session is to its user."""

    @property
    def congested(self) -> bool:
        """Stop producing until `writable`."""
        ...

    def send(self, data: bytes) -> None:
        """Queue any number of bytes. Dropped once the session has closed."""
        ...

    def end(self, reason: int, now: float) -> None:
        """Close; what was sent goes first. The handler hears no more."""
        ...


class SessionHandler(Shape):
    """The user of a session."""

    def opened(self, now: float) -> None:
        """The other side proved that it holds the link's key."""
        ...

    def data(self, data: bytes, now: float) -> None:
        """Any number of bytes, in order."""
        ...

    def writable(self, now: float) -> None: ...

    def closed(self, reason: int, now: float) -> None:
        """The session closed, not by us. `reason`: an EndReason, or another number as received. The last call."""
        ...


class Over(Shape):
    """Called once when a session is over, whoever ended it: after the handler's `closed`, before our END goes out."""

    def __call__(self, reason: int, local: bool, now: float) -> None: ...


class Phase(Enum):
    """Phases of a session."""

    STARTING = "starting"  # the stream is not open yet
    ASKING = "asking"  # our first message is out
    EXPECTING = "expecting"  # the other side's first message is due
    OPEN = "open"
    CLOSED = "closed"


TABLE = Table(
    "rdv session",
    Phase.STARTING,
    {
        Phase.STARTING: {"ask": Phase.ASKING, "expect": Phase.EXPECTING, "close": Phase.CLOSED, TIMEOUT: Phase.CLOSED},
        Phase.ASKING: {"shaken": Phase.OPEN, "close": Phase.CLOSED, TIMEOUT: Phase.CLOSED},
        Phase.EXPECTING: {"shaken": Phase.OPEN, "close": Phase.CLOSED, TIMEOUT: Phase.CLOSED},
        Phase.OPEN: {"close": Phase.CLOSED},
    },
    deadlines={Phase.STARTING: OPEN_TIMEOUT, Phase.ASKING: ANSWER_TIMEOUT, Phase.EXPECTING: FIRST_TIMEOUT},
    standing={Phase.OPEN: "its user closes it, who has deadlines of his own (ordb/upload.py, ordb/download.py)"},
)


class Session:
    """One end. It is the handler of the stream below and the ByteStream of the handler above.

    Args:
        initiator: True at the side that asked for the file.
        key: the link's key, 32 bytes.
        name: the blinded name that was asked for. The handshake is bound to it: otherwise a point could replay or
            misdirect a handshake to learn which names belong to one file.
        attach: called as attach(session) for the handler above.
        on_open: (now), when the handshake is done.
        on_over: see `Over`.
        now: when it begins.
    """

    def __init__(
        self,
        crypto: Crypto,
        rng: Rng,
        outbox: Outbox,
        key: bytes,
        name: bytes,
        *,
        now: float,
        initiator: bool,
        attach: Callable[[ByteStream], SessionHandler],
        on_open: Callable[[float], None] | None = None,
        on_over: Over | None = None,
    ) -> None:
        self._machine = StateMachine(TABLE, outbox, self._timed_out, now)
        self._initiator = initiator
        self._shake = Handshake(crypto, rng.random(32), psk_of(key), initiator=initiator, prologue=PROLOGUE + name)
        self._noise: Transport | None = None
        self._on_open = on_open
        self._on_over = on_over
        self._stream: RawStream | None = None
        self._buffer = bytearray()  # one incomplete frame: MAX_FRAME
        self._handler = attach(self)

    def bind(self, stream: RawStream) -> None:
        """The stream below. Its handler is this session."""
        self._stream = stream

    @property
    def is_open(self) -> bool:
        return self._machine.state is Phase.OPEN

    # -- ByteStream

    @property
    def congested(self) -> bool:
        return self._stream is not None and self._stream.congested

    def send(self, data: bytes) -> None:
        """Raises LocalError before the handshake is done."""
        if self._machine.final:
            return
        if self._noise is None or self._stream is None:
            raise LocalError("nothing is sent before the handshake is done")
        view = memoryview(data)
        for at in range(0, len(view), MAX_RECORD):
            sealed = self._noise.send.encrypt(view[at : at + MAX_RECORD])
            self._stream.send(_LENGTH.pack(len(sealed)) + sealed)

    def end(self, reason: int, now: float) -> None:
        self._close(reason, now, local=True)

    # -- StreamHandler

    def connected(self, now: float) -> None:
        if self._machine.state is not Phase.STARTING:
            return
        self._machine.move("ask" if self._initiator else "expect", now)
        if self._initiator:
            self._send_handshake()

    def data(self, data: bytes, now: float) -> None:
        if self._machine.final:
            return
        self._buffer += data
        at, end = 0, len(self._buffer)
        try:
            while end - at >= 2 and self._buffer:  # emptied when a handler closes us
                (length,) = _LENGTH.unpack_from(self._buffer, at)
                if length < TAG_LEN or (self._noise is None and length != HANDSHAKE_OVERHEAD):
                    raise CryptoError("frame of an impossible length")
                if end - at < 2 + length:
                    break
                message = bytes(memoryview(self._buffer)[at + 2 : at + 2 + length])
                at += 2 + length
                if self._noise is None:
                    self._on_handshake(message, now)
                else:
                    self._handler.data(self._noise.receive.decrypt(message), now)
        except CryptoError:
            self._close(EndReason.TORPROTOCOL, now, local=False)
        del self._buffer[:at]

    def writable(self, now: float) -> None:
        if self.is_open:
            self._handler.writable(now)

    def ended(self, reason: int, now: float) -> None:
        self._stream = None
        self._close(reason, now, local=False)

    def _on_handshake(self, message: bytes, now: float) -> None:
        self._shake.read(message)
        if not self._initiator:
            self._send_handshake()
        self._noise = self._shake.transport()
        self._machine.move("shaken", now)
        if self._on_open is not None:
            self._on_open(now)
        self._handler.opened(now)

    def _send_handshake(self) -> None:
        if self._stream is not None:
            message = self._shake.write()
            self._stream.send(_LENGTH.pack(len(message)) + message)

    def _timed_out(self, phase: Phase, now: float) -> None:
        self._over(EndReason.TIMEOUT, now, local=False)

    def _close(self, reason: int, now: float, *, local: bool) -> None:
        if not self._machine.final:
            self._machine.move("close", now)
            self._over(reason, now, local=local)

    def _over(self, reason: int, now: float, *, local: bool) -> None:
        self._buffer.clear()
        stream, self._stream = self._stream, None
        if not local:
            self._handler.closed(reason, now)
        if self._on_over is not None:
            self._on_over(reason, local, now)
        if stream is not None:
            stream.end(reason)
