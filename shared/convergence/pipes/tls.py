"""TLS over a pipe, as client or as server: plain bytes near, TLS records far.

Does: name what an engine of a platform has to do (`TlsEngine`, `TlsFactory`); put its reasons into codes; run one
between the two ends of a stage, with a deadline for the handshake.
Does not: know cryptography or certificates: an engine does all of TLS (pynode/tls.py, web/worker/tls.py).

`near` opens when the handshake is done: the certificate is then verified. Each way ends by itself, with close_notify.
An end of the far pipe without one is a failure (TRUNCATED): somebody may have cut off the rest. What was read before
is not taken back, so that whoever needs to know an end from a cut has to wait for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import Any
from typing import Protocol as Shape

from convergence.codes import TlsWhy
from convergence.errors import EndReason, StreamError, Why
from convergence.outbox import Outbox
from convergence.pipes.stage import HIGH, Stage, StageEnd
from convergence.ports import Buffer
from convergence.states import TIMEOUT, StateMachine, Table

HANDSHAKE_LIMIT = 30.0  # seconds, with the loading of the engine
MAX_RECORDS = 1 << 16  # bytes at most that `take` and `read` give at once
MAX_ANSWERS = HIGH  # bytes of records that wait for a far end which asks for answers, as KeyUpdate does, and reads none


class TlsError(StreamError):
    """A connection cannot go on. Certificates and broken records end it with TORPROTOCOL."""

    def __init__(self, code: TlsWhy, detail: str = "") -> None:
        super().__init__(f"{code.value} {detail}".rstrip(), _REASONS.get(code, EndReason.TORPROTOCOL))
        self.why = Why(code)


_REASONS = {
    TlsWhy.TRUNCATED: EndReason.CONNRESET,
    TlsWhy.REFUSED: EndReason.CONNECTREFUSED,
    TlsWhy.SILENT: EndReason.TIMEOUT,
    TlsWhy.UNAVAILABLE: EndReason.INTERNAL,
    TlsWhy.NO_HOST: EndReason.INTERNAL,
}


class TlsEngine(Shape):
    """One connection: bytes in and bytes out, nothing else. It verifies what the factory promises before it is open.

    After each call that takes bytes, `take` has what must go to the far end, also after an error (an alert).
    """

    @property
    def open(self) -> bool:
        """The handshake is done, the certificate verified."""
        ...

    @property
    def ended(self) -> bool:
        """The far end's close_notify was read."""
        ...

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on."""
        ...

    def receive(self, data: Buffer, /) -> None:
        """Bytes of the far end. `read` then goes on; it is called until it gives nothing."""
        ...

    def receive_end(self) -> None:
        """The far end sends no more."""
        ...

    def read(self) -> bytes:
        """Go on with the handshake, then the next plain bytes, at most MAX_RECORDS; none for now, or `ended`.
        Raises TlsError."""
        ...

    def write(self, data: Buffer, /) -> None:
        """Plain bytes, once `open`. Raises TlsError."""
        ...

    def end(self) -> None:
        """close_notify, once `open`."""
        ...

    def take(self) -> bytes:
        """The next bytes for the far end, at most MAX_RECORDS; none for now."""
        ...

    def close(self) -> None:
        """Free what it holds. No call follows."""
        ...


class TlsFactory(Shape):
    """Makes clients. TLS 1.3, or 1.2 where the server has no better; the chain is verified to Mozilla's roots, which
    are pinned with this program, not to the system's; keys and signatures have OpenSSL's security level 2; intermediate
    certificates that Mozilla revoked are refused. No session is resumed: it would link two connections."""

    def client(self, host: str, protocols: Sequence[str], now: float, wake: Callable[[float], None], /) -> TlsEngine:
        """A connection to this host.

        Args:
            host: a name (ASCII, as in the DNS) or an IP address, which goes into SNI and has to be the certificate's.
            protocols: for ALPN, the best first.
            now: Unix seconds by which certificates have to be valid; an engine may go by its system's clock instead.
            wake: called as wake(now), later, when the engine goes on by itself because it has been loaded.

        Raises:
            TlsError: NO_HOST.
        """
        ...


# Results of certificate verification, as OpenSSL and its descendants number them (x509_vfy.h).
_VERDICTS = {
    9: TlsWhy.NOT_YET,
    10: TlsWhy.EXPIRED,
    **dict.fromkeys((2, 19, 20, 21), TlsWhy.UNKNOWN_ROOT),
    18: TlsWhy.SELF_SIGNED,
    23: TlsWhy.REVOKED,
    **dict.fromkeys((62, 64), TlsWhy.WRONG_HOST),
    **dict.fromkeys((66, 67, 68), TlsWhy.WEAK),
}
# The same libraries' reasons for everything else; all that are not here mean GARBAGE.
_OLD = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "INAPPROPRIATE_FALLBACK"}
_WEAK = {"DH_KEY_TOO_SMALL", "EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "WRONG_SIGNATURE_TYPE"}


def explained(verdict: int, reason: str) -> TlsError:
    """The failure of an engine that stands on OpenSSL or a descendant.

    Args:
        verdict: X509_V_ERR_*, 0 if verification is not what failed.
        reason: such as "BAD_DECRYPT".
    """
    if verdict:
        return TlsError(_VERDICTS.get(verdict, TlsWhy.BAD_CERTIFICATE), str(verdict))
    if reason in _OLD:
        return TlsError(TlsWhy.OLD, reason)
    if reason in _WEAK:
        return TlsError(TlsWhy.WEAK, reason)
    refused = "_ALERT_" in reason or reason == "HANDSHAKE_FAILURE_ON_CLIENT_HELLO"
    return TlsError(TlsWhy.REFUSED if refused else TlsWhy.GARBAGE, reason)


_HOST = re.compile(r"(?!\.)[0-9A-Za-z_.:-]{1,253}")  # a name as in the DNS, or an IP address


def check_host(host: str) -> None:
    """Raises TlsError (NO_HOST) where no certificate can be for this host."""
    if _HOST.fullmatch(host) is None:
        raise TlsError(TlsWhy.NO_HOST)


class Phase(Enum):
    """How far a connection has come."""

    HANDSHAKE = auto()
    OPEN = auto()
    OVER = auto()


TABLE = Table(
    "tls",
    Phase.HANDSHAKE,
    {
        Phase.HANDSHAKE: {"done": Phase.OPEN, "over": Phase.OVER, TIMEOUT: Phase.OVER},
        Phase.OPEN: {"over": Phase.OVER},
    },
    deadlines={Phase.HANDSHAKE: HANDSHAKE_LIMIT},
    standing={Phase.OPEN: "the users of the two ends"},
)


class Tls(Stage[bytes, bytes]):
    """A stage that speaks TLS. `failure` tells why it gave up.

    Args:
        start: makes the engine, given what it has to call as `wake`.
    """

    def __init__(self, start: Callable[[Callable[[float], None]], TlsEngine], outbox: Outbox, now: float) -> None:
        super().__init__(_Outgoing(self), _Incoming(self))
        self.engine = start(self._woke)
        self._machine = StateMachine(TABLE, outbox, self._timed_out, now)
        self._send(now)

    @classmethod
    def client(cls, factory: TlsFactory, host: str, protocols: Sequence[str], outbox: Outbox, now: float) -> Tls:
        """To this host; see TlsFactory.client. Raises TlsError (NO_HOST)."""
        return cls(lambda wake: factory.client(host, protocols, now, wake), outbox, now)

    @property
    def open(self) -> bool:
        return self._machine.state is Phase.OPEN

    def opened(self, end: StageEnd[Any, Any], now: float) -> None:
        """The far pipe has: the handshake begins. `near` opens when it is done."""
        if end is self.near:
            super().opened(end, now)
        else:
            self.resume(now)

    def went_on(self, now: float) -> None:
        """The engine has taken bytes: hand on what it made of them."""
        self._send(now)
        if not self.closed and self.engine.open and self._machine.allows("done"):
            self._machine.move("done", now)
            super().opened(self.far, now)
        if not self.closed and self.engine.ended:
            self.incoming.end(now, EndReason.DONE)  # whether or not the far pipe ends with it
            self.outgoing.resume(now)

    def _send(self, now: float) -> None:
        while not self.closed and (records := self.engine.take()):
            self.outgoing.push(records, now)
        if self.outgoing.pushed > MAX_ANSWERS:
            self.fail(TlsError(TlsWhy.GARBAGE, "answers are asked for and not read"), now)

    def _woke(self, now: float) -> None:
        self._send(now)
        self.resume(now)

    def _timed_out(self, state: Phase, now: float) -> None:
        self.fail(TlsError(TlsWhy.SILENT), now)

    def _close(self) -> None:
        super()._close()
        self.engine.close()
        if self._machine.allows("over"):
            self._machine.move("over", 0.0)


class _Outgoing:
    """Plain bytes into records, once the handshake is done."""

    def __init__(self, stage: Tls) -> None:
        self._stage = stage

    def feed(self, data: bytes, now: float) -> Iterator[bytes | None]:
        yield from self._opened()
        rest = memoryview(data)
        while rest:
            self._stage.engine.write(rest[:MAX_RECORDS])
            rest = rest[MAX_RECORDS:]
            yield from self._records()

    def finish(self, now: float) -> Iterator[bytes | None]:
        yield from self._opened()
        self._stage.engine.end()
        yield from self._records()
        # close_notify is the half-close. The pipe below goes on for what comes back: it may be one that ends both ways.
        while not self._stage.incoming.ending:
            yield None

    def _opened(self) -> Iterator[None]:
        while not self._stage.open:
            yield None

    def _records(self) -> Iterator[bytes]:
        while records := self._stage.engine.take():
            yield records


class _Incoming:
    """Records into plain bytes."""

    def __init__(self, stage: Tls) -> None:
        self._stage = stage

    def feed(self, data: bytes, now: float) -> Iterator[bytes]:
        self._stage.engine.receive(data)
        yield from self._read(now)

    def finish(self, now: float) -> Iterator[bytes]:
        if not self._stage.engine.ended:
            self._stage.engine.receive_end()
            yield from self._read(now)

    def _read(self, now: float) -> Iterator[bytes]:
        while True:
            try:
                plain = self._stage.engine.read()
            finally:
                self._stage.went_on(now)
            if not plain:
                return
            yield plain
