"""Congestion control of one end of a circuit, and XON/XOFF of its streams (proposal 324).

Does: TOR_VEGAS. The round trip time, measured from a DATA cell to the SENDME that quotes it, tells how many of our
cells wait in relays' queues; the window grows while these are few and shrinks when they are many. A stream that its
reader leaves unread is stopped by XOFF, and goes on with XON.
Does not: send or parse cells, or agree on all this with the other end (hop.py).

The names of parameters are those of the consensus, without "cc_". As in C tor's Vegas, the bandwidth-delay product
(BDP) is estimated from the congestion window. We send no rates in XONs and ignore those that come: XOFF says enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as Shape

from convergence.circuit.flow import Every, Message, StreamFlow, Tags
from convergence.errors import DestroyReason, EndReason, RemoteError, StreamError
from convergence.wire.relay import MAX_DATA, RelayCommand
from convergence.wire.xon import Xoff, Xon

OUTBUF_CELLS = 127
"""Cells that a relay of ours sends in one message: a queue of so many at each hop is its way of working, no congestion.
C tor's is 62."""
CWND_MAX = 16_384
"""Cells in flight on a circuit at most: 8 MiB. So no end has to keep more than that for streams that it has stopped."""
XOFF_LIMIT = 500
"""Unread cells of a stream after which its sender is told to stop (xoff_client, xoff_exit)..."""
XOFF_HIGHEST = 4 * XOFF_LIMIT
"""...and at most, where a sender far away filled the reader's buffer again only after it had run dry."""
XOFF_BYTES = XOFF_LIMIT * MAX_DATA
"""Bytes that must have come for each XOFF that we send: tor's clients count them. The cells of one who writes little at
a time hold little, so more of them are unread before he is stopped."""
XOFF_COST = XOFF_BYTES // 2
"""Bytes that an origin must have sent for each XOFF that comes, and for each XON that tells nothing but a new rate. The
far end got about XOFF_BYTES for each, but some of them may have been under way when it sent the one before, and its
consensus may have other numbers (xoff_exit, xon_rate). Arti demands as much."""
MAX_EARNED = CWND_MAX * MAX_DATA
"""Of the bytes that were sent, so many pay for XOFFs to come."""
MAX_UNREAD = 2 * CWND_MAX
"""Cells that may wait at the streams of one circuit beyond their limits, for readers that stopped: 16 MiB. A stream
that gets one more is ended."""
CLOCK_JUMP = 5000.0
"""A round trip so many times as long as usual is none: the clock has jumped."""
UNLIMITED = 1 << 30
"""Room of a stream that is not stopped: the circuit's window limits it."""

_XOFF: Message = (RelayCommand.XOFF, Xoff().encode())
_XON: Message = (RelayCommand.XON, Xon().encode())


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of proposal 324, section 6.5. All numbers of cells, but where percent is said."""

    sendme_inc: int = 31
    cwnd_init: int = 4 * OUTBUF_CELLS
    cwnd_min: int = 4 * 31
    cwnd_inc: int = 4 * 31  # less than from alpha to beta; with C tor's 31 a far stream takes minutes to recover
    cwnd_inc_pct_ss: int = 50  # percent of what a SENDME acknowledges, in slow start
    cwnd_full_gap: int = 4  # in units of sendme_inc
    cwnd_full_minpct: int = 25  # percent
    ewma_cwnd_pct: int = 50  # percent of the SENDMEs of a window
    ewma_max: int = 10  # SENDMEs
    ewma_ss: int = 2
    sscap: int = 2000
    ss_max: int = CWND_MAX
    alpha: int = 2 * OUTBUF_CELLS
    beta: int = 3 * OUTBUF_CELLS
    gamma: int = 3 * OUTBUF_CELLS
    delta: int = 5 * OUTBUF_CELLS


class Unread(Shape):
    """What all streams of a circuit have in common.

    Attributes:
        overshoot: cells that wait at them beyond their limits.
        late: DATA cells that may still come on one that we have ended.
    """

    overshoot: int

    @property
    def late(self) -> int: ...


class Vegas:
    """A CircuitFlow.

    Attributes:
        cwnd: the congestion window, in cells; rtt, rtt_min: seconds, smoothed; 0 before the first SENDME.
        overshoot: cells that wait at its streams beyond their limits.
    """

    __slots__ = (
        *("cwnd", "inflight", "rtt", "rtt_min", "overshoot", "_params", "_tags", "_slow_start", "_full"),
        *("_until_update", "_until_full", "_due"),
    )

    late = CWND_MAX

    def __init__(self, params: Parameters = Parameters()) -> None:
        self.cwnd = params.cwnd_init
        self.inflight = 0
        self.rtt = 0.0
        self.rtt_min = 0.0
        self.overshoot = 0
        self._params = params
        self._tags = Tags(params.sendme_inc)
        self._slow_start = True
        self._full = False
        self._until_update = 0  # SENDMEs until the window may change
        self._until_full = 0  # SENDMEs until `_full` is judged anew
        self._due = Every(params.sendme_inc)

    @property
    def unacknowledged(self) -> bool:
        """Whether so much is under way that a SENDME is to come."""
        return self.inflight >= self._params.sendme_inc

    # -- CircuitFlow

    @property
    def burst(self) -> int:
        return self.cwnd - self.inflight

    def sent(self, digests: Sequence[bytes], now: float) -> None:
        self.inflight += len(digests)
        self._tags.sent(digests, now)

    def acknowledge(self, digest: bytes, blocked: bool, now: float) -> None:
        if self._measure(now - self._tags.take(digest)):
            self._update(blocked)
        self.inflight -= self._params.sendme_inc

    def received(self, cells: int) -> range:
        return self._due.of(cells)

    def stream(self, originates: bool) -> StreamFlow:
        return XonXoff(self, originates)

    # -- inside

    def _measure(self, rtt: float) -> bool:
        """Whether this round trip time can be used (section 2.1.1)."""
        params = self._params
        if rtt <= 0 or (not self._slow_start and rtt > CLOCK_JUMP * self.rtt):
            return False
        if self._slow_start:
            smoothing = params.ewma_ss
        else:
            smoothing = max(min(self._sendmes_per_cwnd() * params.ewma_cwnd_pct // 100, params.ewma_max), 2)
        self.rtt = (2 * rtt + (smoothing - 1) * self.rtt) / (smoothing + 1) if self.rtt else rtt
        at_least = not self._slow_start and self.cwnd == params.cwnd_min
        self.rtt_min = self.rtt if at_least or not self.rtt_min else min(self.rtt_min, self.rtt)
        return True

    def _update(self, blocked: bool) -> None:
        """A SENDME has come (section 3.3)."""
        params = self._params
        self._until_update = max(self._until_update - 1, 0)
        self._until_full = max(self._until_full - 1, 0)
        bdp = int(self.cwnd * self.rtt_min / self.rtt)
        queued = self.cwnd - bdp
        if self.inflight + params.cwnd_full_gap * params.sendme_inc >= self.cwnd:
            self._full = True
        elif 100 * self.inflight < params.cwnd_full_minpct * self.cwnd:
            self._full = False
        if self._slow_start:
            self._grow_fast(bdp, queued, blocked)
        elif not self._until_update:
            if queued > params.delta:
                self.cwnd = bdp + params.delta - params.cwnd_inc
            elif queued > params.beta or blocked:
                self.cwnd -= params.cwnd_inc
            elif self._full and queued < params.alpha:
                self.cwnd += params.cwnd_inc
        self.cwnd = min(max(self.cwnd, params.cwnd_min), CWND_MAX)
        if not self._until_update:
            self._until_update = 1 if self._slow_start else self._sendmes_per_cwnd()
        if not self._until_full:
            self._until_full = self._sendmes_per_cwnd()
            self._full = False

    def _grow_fast(self, bdp: int, queued: int, blocked: bool) -> None:
        """Limited slow start (RFC 3742)."""
        params = self._params
        if queued >= params.gamma or blocked:
            self._slow_start = False
            self.cwnd = min(self.cwnd, bdp + params.gamma)
        elif self._full:
            if self.cwnd <= params.sscap:
                more = params.cwnd_inc_pct_ss * params.sendme_inc // 100
            else:
                more = max(round(params.sendme_inc * params.sscap / (2 * self.cwnd)), 1)
            self.cwnd += more
            self._slow_start = more * self._sendmes_per_cwnd() > params.cwnd_inc
        if self.cwnd >= params.ss_max:
            self.cwnd = params.ss_max
            self._slow_start = False

    def _sendmes_per_cwnd(self) -> int:
        return (self.cwnd + self._params.sendme_inc // 2) // self._params.sendme_inc


class XonXoff:
    """A StreamFlow: no window, but a sign to stop.

    An origin closes a circuit whose XOFFs and XONs come too early or too often: they would mark it for whoever watches
    it elsewhere (proposal 324 section 4.1.4).
    """

    __slots__ = ("room", "_circuit", "_originates", "_unread", "_limit", "_peak", "_came", "_for_xoff", "_for_xon")

    def __init__(self, circuit: Unread, originates: bool) -> None:
        self.room = UNLIMITED
        self._circuit = circuit
        self._originates = originates
        self._unread = 0  # cells that came and were not consumed
        self._limit = XOFF_LIMIT
        self._peak = 0  # the most that were unread since our XOFF, while it is out
        self._came = 0  # bytes since our last XON
        self._for_xoff = 0  # bytes that we have sent and that no XOFF was for; MAX_EARNED at most
        self._for_xon = 0  # the same for XONs without an XOFF

    @property
    def late(self) -> int:
        return self._circuit.late

    def sent(self, cells: int, size: int) -> None:
        self._for_xoff = min(self._for_xoff + size, MAX_EARNED)
        self._for_xon = min(self._for_xon + size, MAX_EARNED)

    def received(self, cells: int, size: int) -> Sequence[Message]:
        before = self._over
        self._unread += cells
        self._came += size
        if self._unread <= self._limit:
            return ()
        self._circuit.overshoot += self._over - before
        if self._circuit.overshoot > MAX_UNREAD:
            raise StreamError("DATA in spite of XOFF", EndReason.RESOURCELIMIT)
        stopped = self._peak > 0
        if stopped or self._came >= XOFF_BYTES:
            self._peak = max(self._peak, self._unread)
        return (_XOFF,) if self._peak and not stopped else ()

    def consumed(self, cells: int) -> Sequence[Message]:
        before = self._over
        self._unread -= cells
        due = self._peak > 0 and self._unread <= self._peak // 2
        if due:
            # What comes after this XON is a round trip away. The farther the sender is, the more came after our XOFF,
            # and the more has to be here so that the reader does not wait.
            self._limit = min(max(self._peak // 2, XOFF_LIMIT), XOFF_HIGHEST)
            self._peak = self._came = 0
        self._circuit.overshoot += self._over - before
        return (_XON,) if due else ()

    def control(self, command: int, payload: bytes) -> None:
        if command == RelayCommand.XON:
            Xon.parse(payload)
            if self.room:
                self._for_xon = self._paid(self._for_xon, "XON")
            self.room = UNLIMITED
        elif command == RelayCommand.XOFF:
            Xoff.parse(payload)
            self._for_xoff = self._paid(self._for_xoff if self.room else 0, "XOFF")
            self.room = 0
        else:
            raise RemoteError(f"relay command {command} was not expected on a stream")

    def ended(self) -> None:
        self._circuit.overshoot -= self._over
        self._unread = 0

    @property
    def _over(self) -> int:
        return max(self._unread - self._limit, 0)

    def _paid(self, earned: int, what: str) -> int:
        """What is left of the bytes we have sent after this message."""
        if self._originates and earned < XOFF_COST:
            raise RemoteError(f"{what} that was not due", reason=DestroyReason.PROTOCOL)
        return max(earned - XOFF_COST, 0)
