"""Conflux: the streams of one user on several circuits to the same exit (proposal 329). The same at both ends.

Does: number the messages of streams, put those that come back into their order (section 2.6), choose the leg for what
goes out (section 3), measure legs while they are linked (2.2), go on or end when one is gone (2.4.3).
Does not: build circuits, or know whose they are (linking.py at an exit, tor/sets.py at a client). Each leg has the
congestion control of its circuit (2.5). No message is sent twice: where one may be lost with its leg, the set ends.

To the streams, a set is what a circuit is: its `Endpoint` is the usual one, and what that sends takes one of the legs.
To the circuits, a `Leg` is what their own endpoint was before: it is handed the cells that come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from heapq import heappop, heappush
from itertools import groupby
from math import inf

from convergence.circuit.congestion import CWND_MAX, Vegas, XonXoff
from convergence.circuit.endpoint import Carrier, Endpoint
from convergence.circuit.flow import StreamFlow
from convergence.errors import DestroyReason, RemoteError
from convergence.outbox import Outbox
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.conflux import MAX_GAP, NUMBERED, Link, Switch, Wish
from convergence.wire.relay import V0, RelayCommand, Sendme

MAX_LEGS = 8
"""Of one set, as C tor's exits take."""
MAX_REORDERED = 2 * CWND_MAX
"""Messages of one set that wait for those before them: 17 MB. A leg ten times as fast as the other one fills 8 MB while
a message of the slow one is under way for a second."""
LINK_TIMEOUT = 15.0
"""Seconds for the other end to answer LINK or LINKED. Not longer than a stream waits for its exit (section 2.2)."""

ONE_LEG = frozenset((Wish.MIN_LATENCY, Wish.LOW_MEM_LATENCY, Wish.LOW_MEM_THROUGHPUT))
"""Wishes for the leg with the shortest round trip alone, though others have room (MinRTT, section 3.1). Any other wish
is for the shortest one that has room (LowRTT, 3.2)."""

_DATA = int(RelayCommand.DATA)  # compared for every cell, as in endpoint.py


class LegState(Enum):
    ASKED = auto()  # LINK or LINKED is on its way
    LINKED = auto()
    GONE = auto()


_ANSWERED, _GONE = "answered", "gone"
LEG: Table[LegState] = Table(
    "leg of a conflux set",
    LegState.ASKED,
    {
        LegState.ASKED: {_ANSWERED: LegState.LINKED, _GONE: LegState.GONE, TIMEOUT: LegState.GONE},
        LegState.LINKED: {_GONE: LegState.GONE},
    },
    deadlines={LegState.ASKED: LINK_TIMEOUT},
    standing={LegState.LINKED: "its circuit ends, or the set does"},
)

Ending = Callable[[int, float], None]
"""Ends a circuit: (reason, now)."""


class Leg:
    """One circuit of a set. Made when LINK or LINKED is about to go out on it.

    Attributes:
        last_sent, last_received: the number of the last message that went out here, and of the last that came.
        end: closes its circuit.
    """

    __slots__ = (
        *("last_sent", "last_received", "flow", "carrier", "end", "machine"),
        *("_set", "_asked", "_rtt", "_switched"),
    )

    def __init__(
        self, linked: LinkedSet, outbox: Outbox, carrier: Carrier, flow: Vegas, end: Ending, now: float
    ) -> None:
        self.last_sent = linked.last_sent
        self.last_received = linked.delivered
        self.flow = flow
        self.carrier = carrier
        self.end = end
        self.machine = StateMachine(LEG, outbox, self._timed_out, now)
        self._set = linked
        self._asked = outbox.steady(now)
        self._rtt: float | None = None
        self._switched = False  # SWITCH was the last that came

    @property
    def linked(self) -> bool:
        return self.machine.state is LegState.LINKED

    @property
    def rtt(self) -> float:
        """Seconds of its round trip: as SENDMEs tell, before as the handshake did. Infinite while unknown (2.4.2)."""
        return self.flow.rtt or (inf if self._rtt is None else self._rtt)

    @property
    def room(self) -> bool:
        """Whether DATA may go out now."""
        return self.flow.burst > 0 and not self.carrier.congested()

    def say(self, command: int, payload: bytes = b"") -> None:
        """A message of this circuit's own."""
        self.carrier.transmit([self.carrier.format.pack(command, 0, payload)])

    def answered(self, now: float) -> None:
        """The other end has it, too. Raises RemoteError if that is known."""
        if self.machine.state is not LegState.ASKED:
            raise RemoteError("a leg is linked twice")
        self._rtt = self._set.steady(now) - self._asked
        self.machine.move(_ANSWERED, now)

    # -- what its circuit calls, as it calls an Endpoint

    def receive(self, cells: Sequence[bytes], digests: Sequence[bytes], now: float) -> None:
        at = 0
        for _, group in groupby(cells, self.carrier.format.head):
            run = list(group)
            command = self.carrier.format.unpack(run[0])[0]
            if self.machine.final:
                return
            if command == _DATA:
                if due := self.flow.received(len(run)):
                    self._acknowledge([digests[at + index] for index in due])
                self._numbered(run, now)
            elif command in NUMBERED:
                self._numbered(run, now)
            else:
                for cell in run:
                    self._own(cell, now)
            at += len(run)

    def settle(self, now: float) -> None:
        self._set.endpoint.settle(now)

    def resume(self) -> None:
        self._set.endpoint.resume()

    def close(self, now: float) -> None:
        """Its circuit is gone."""
        if not self.machine.final:
            self.machine.move(_GONE, now)
            self._set.lost(self, now)

    # -- inside

    def _acknowledge(self, digests: Sequence[bytes]) -> None:
        """As an Endpoint does."""
        pack = self.carrier.format.pack
        self.carrier.transmit([pack(RelayCommand.SENDME, 0, Sendme(1, digest).encode()) for digest in digests])

    def _numbered(self, run: list[bytes], now: float) -> None:
        if not self.linked:
            raise RemoteError("messages of streams on a leg that is not linked")
        self._switched = False
        first = self.last_received + 1
        self.last_received += len(run)
        self._set.came(first, run, now)

    def _own(self, cell: bytes, now: float) -> None:
        """A message of this circuit's, which has no number."""
        command, stream_id, payload = self.carrier.format.unpack(cell)
        if command == RelayCommand.BEGIN_DIR and self.linked:
            self._set.endpoint.receive((cell,), (), now)  # C tor gives it no number, but all that is said of its stream
        elif stream_id:
            raise RemoteError(f"relay command {command} was not expected on a stream of a set")
        elif command == RelayCommand.SENDME:
            self._acknowledged(Sendme.parse(payload), now)
        elif command == RelayCommand.CONFLUX_SWITCH and self.linked and not self._switched:
            # One follows another only where nothing but the pattern is to be told to somebody (section 4.2.1).
            self._switched = True
            self.last_received += Switch.parse(payload).gap
        elif command != RelayCommand.DROP:
            self._set.on_message(self, command, payload, now)

    def _acknowledged(self, sendme: Sendme, now: float) -> None:
        if sendme.version != 1:
            raise RemoteError("circuit SENDME without a digest")
        self.flow.acknowledge(sendme.digest, self.carrier.congested(), self._set.steady(now))
        self._set.endpoint.resume()

    def _timed_out(self, state: LegState, now: float) -> None:
        self._set.lost(self, now)
        self.end(DestroyReason.TIMEOUT, now)


class LinkedSet:
    """Legs to one exit, and one endpoint for the streams on all of them. It is that endpoint's CircuitFlow.

    Args:
        on_message: on_message(leg, command, payload, now) for a message of a leg's own on stream 0 that is not SENDME,
            SWITCH or DROP. Raises RemoteError for what is not expected.
        on_closed: called once with (reason, now) when the set and its circuits have ended.
        on_waiting: called with (how many messages more or fewer wait for others now, now).

    Attributes:
        wish: what the other end wants of us.
        last_sent: the number of the last message that went out; delivered: of the last that was handed on in order.
        waiting: messages that wait for those before them.
    """

    late = MAX_LEGS * CWND_MAX + MAX_REORDERED
    """Of XonXoff: DATA that was under way or waited here when a stream ended."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        originates: bool,
        on_message: Callable[[Leg, int, bytes, float], None],
        on_closed: Ending,
        on_waiting: Callable[[int, float], None] = lambda more, now: None,
    ) -> None:
        self.wish = Wish.NO_OPINION
        self.last_sent = 0
        self.delivered = 0
        self.overshoot = 0  # of XonXoff
        self.waiting = 0
        self.legs: list[Leg] = []
        self.closed = False
        self.on_message = on_message
        self.on_closed = on_closed
        self.steady = outbox.steady
        self._outbox = outbox
        self._current: Leg | None = None  # took what went out last
        self._waiting: list[tuple[int, list[bytes]]] = []  # a heap: the number of the first message of each run
        self._on_waiting = on_waiting
        self.endpoint = Endpoint(outbox, V0, self, self._transmit, self._congested, originates=originates)

    def add(self, carrier: Carrier, end: Ending, now: float) -> Leg:
        """One leg more. `end` closes its circuit. Raises RemoteError if it has no congestion control, which conflux
        needs (2.2), or if there are MAX_LEGS."""
        if not isinstance(carrier.flow, Vegas) or carrier.format is not V0:
            raise RemoteError("a leg without congestion control")
        if len(self.legs) >= MAX_LEGS or self.closed:
            raise RemoteError("one leg more than a set has", reason=DestroyReason.RESOURCELIMIT)
        if not self.legs:
            self.endpoint.count_on(carrier.streams)
        leg = Leg(self, self._outbox, carrier, carrier.flow, end, now)
        self.legs.append(leg)
        return leg

    def link(self, nonce: bytes, wish: Wish) -> Link:
        """What LINK or LINKED says of the set."""
        return Link(nonce, self.last_sent, self.delivered, wish)

    def agrees(self, link: Link) -> bool:
        """Whether nothing is lost or under way between what the other end says and what we know: only then a leg may be
        added (2.4.4)."""
        return (link.sent, link.received) == (self.delivered, self.last_sent)

    def close(self, reason: int, now: float) -> None:
        """End all legs, and all streams with DESTROY."""
        if self.closed:
            return
        self.closed = True
        self._waiting.clear()
        self._wait(-self.waiting, now)
        legs, self.legs = self.legs, []
        self.endpoint.close(now)
        for leg in legs:
            if not leg.machine.final:
                leg.machine.move(_GONE, now)
            leg.end(reason, now)
        self.on_closed(reason, now)

    # -- what its legs tell

    def came(self, first: int, run: list[bytes], now: float) -> None:
        """Messages came in a row, of which the first has this number."""
        if first > self.delivered + 1:
            self._hold(first, run, now)
            return
        self._deliver(first, run, now)
        while self._waiting and self._waiting[0][0] <= self.delivered + 1:
            first, run = heappop(self._waiting)
            self._wait(-len(run), now)
            self._deliver(first, run, now)

    def lost(self, leg: Leg, now: float) -> None:
        """A leg is gone. The others go on, unless something may be gone with it (2.4.3)."""
        if leg not in self.legs:
            return
        counted_here = leg is self.legs[0]
        self.legs.remove(leg)
        if not self.legs or self._took_something(leg) or self._lacks_for_ever:
            self.close(DestroyReason.FINISHED, now)
            return
        if counted_here:
            self.endpoint.count_on(self.legs[0].carrier.streams)
        self.endpoint.resume()  # what waited for room on this leg goes on over the others

    # -- CircuitFlow

    @property
    def burst(self) -> int:
        leg = self._choose()
        return 0 if leg is None else leg.flow.burst

    def sent(self, digests: Sequence[bytes], now: float) -> None:
        """On the leg that `_transmit` took."""
        if self._current is not None:
            self._current.flow.sent(digests, now)

    def acknowledge(self, digest: bytes, blocked: bool, now: float) -> None:
        raise RemoteError("a set has no SENDME of its own")

    def received(self, cells: int) -> range:
        """The leg has counted them."""
        return range(0)

    def stream(self, originates: bool) -> StreamFlow:
        return XonXoff(self, originates)

    # -- inside

    def _choose(self) -> Leg | None:
        """The leg for DATA (section 3); None: it has to wait. One that lags by more than a SWITCH can tell is left."""
        best, shortest, only = None, inf, self.wish in ONE_LEG
        for leg in self.legs:
            rtt = leg.rtt
            if rtt < shortest and (only or leg.room) and self.last_sent - leg.last_sent <= MAX_GAP:
                best, shortest = leg, rtt
        return best if best is not None and best.room else None

    def _transmit(self, cells: list[bytes]) -> Sequence[bytes]:
        """Messages that are no DATA wait for no window: where there is none, they stay on the leg that was used last
        (2.5)."""
        if self.closed:
            return ()
        self._current = leg = self._choose() or self._current or self.legs[0]
        if gap := self.last_sent - leg.last_sent:
            leg.say(RelayCommand.CONFLUX_SWITCH, Switch(gap).encode())
        self.last_sent += len(cells)
        leg.last_sent = self.last_sent
        return leg.carrier.transmit(cells)

    def _congested(self) -> bool:
        return all(leg.carrier.congested() for leg in self.legs)

    def _deliver(self, first: int, run: list[bytes], now: float) -> None:
        if first <= self.delivered:
            raise RemoteError("a message with the number of one that has come")
        self.delivered += len(run)
        self.endpoint.receive(run, (), now)

    def _hold(self, first: int, run: list[bytes], now: float) -> None:
        heappush(self._waiting, (first, run))
        self._wait(len(run), now)  # which may close this set
        if self._lacks_for_ever:
            self.close(DestroyReason.PROTOCOL, now)
        elif self.waiting > MAX_REORDERED:
            self.close(DestroyReason.RESOURCELIMIT, now)

    def _wait(self, more: int, now: float) -> None:
        self.waiting += more
        self._on_waiting(more, now)

    @property
    def _lacks_for_ever(self) -> bool:
        """Whether something waits for a message that can come on no leg: numbers ascend on each."""
        return bool(self._waiting) and all(leg.last_received > self.delivered for leg in self.legs)

    def _took_something(self, leg: Leg) -> bool:
        """Whether a leg that is gone may have taken messages with it."""
        return (
            leg is self._current
            or leg.flow.unacknowledged
            or leg.last_sent > max(other.last_sent for other in self.legs)
            or leg.last_received > max(other.last_received for other in self.legs)
        )
