"""A circuit at a relay: forwards both ways, extends on request, and is the far end for cells that are for it.

Does: answer CREATE2, add and remove one layer, EXTEND2, TRUNCATE, DESTROY with reasons, count RELAY_EARLY.
Does not: know its origin, its position in the path, or what streams carry: `Services` decides on those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING
from typing import Protocol as Shape

from convergence.circuit.endpoint import Endpoint
from convergence.circuit.hop import Hop, answer_handshake
from convergence.crypto.keys import OnionKeys
from convergence.crypto.onion import recognized_candidates
from convergence.errors import DestroyReason, LocalError, RemoteError
from convergence.link.link import Link
from convergence.link.meter import Meter
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.cells import PAYLOAD_LEN, Command
from convergence.wire.create import Create2, Created2, HandshakeType
from convergence.wire.linkspec import LinkSpecifier
from convergence.wire.relay import (
    MAX_DATA,
    MAX_RELAY_EARLY,
    Begin,
    Extend2,
    Extended2,
    RelayCommand,
    Truncated,
)

if TYPE_CHECKING:
    from convergence.circuit.conflux import Leg, LinkedSet

REACH_TIMEOUT = 60.0  # seconds that a link to the next node may take; link/neighbours.py answers sooner
CREATE_TIMEOUT = 30.0  # seconds that the next node has to answer CREATE2
ORPHAN_LIMIT = 20.0  # most seconds that the rest of a circuit outlives the link that it came over
BUSY = 5.0  # seconds; a circuit that carried cells so lately ends at once, so that nobody waits for more
MAX_REPLY = MAX_DATA - 2  # bytes of handshake data that EXTENDED2 holds; CREATED2 would hold 11 more


class NextState(Enum):
    REACHING = auto()
    CREATING = auto()
    OPEN = auto()
    GONE = auto()


_REACHED, _CREATED, _GONE = "reached", "created", "gone"
NEXT_HOP: Table[NextState] = Table(
    "next hop of a relay circuit",
    NextState.REACHING,
    {
        NextState.REACHING: {_REACHED: NextState.CREATING, _GONE: NextState.GONE, TIMEOUT: NextState.GONE},
        NextState.CREATING: {_CREATED: NextState.OPEN, _GONE: NextState.GONE, TIMEOUT: NextState.GONE},
        NextState.OPEN: {_GONE: NextState.GONE},
    },
    deadlines={NextState.REACHING: REACH_TIMEOUT, NextState.CREATING: CREATE_TIMEOUT},
    standing={NextState.OPEN: "the origin, the next node or a link closes it"},
)


class Services(Shape):
    """What a relay does beyond forwarding: exits and rendezvous points."""

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        """Answer through circuit.endpoint: accept_stream, accept_splice or refuse."""
        ...

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None:
        """Answer with RESOLVED on that stream id."""
        ...

    def message(self, circuit: RelayCircuit, command: int, payload: bytes, now: float) -> None:
        """A message on stream 0. Raises RemoteError when it is not expected."""
        ...

    def sent(self, cells: int) -> None:
        """So many RELAY cells of a circuit went to a link, whoever made them. Must not close anything."""
        ...

    def circuit_closed(self, circuit: RelayCircuit, now: float) -> None: ...


class Extender(Shape):
    """Who may be the next hop, and where its link comes from."""

    def reach(
        self,
        source: Link,
        specifiers: Sequence[LinkSpecifier],
        reply: Callable[[Link | None, float], None],
        now: float,
    ) -> None:
        """An open link to the node that these name, dialled if need be, for a circuit that came from `source`; None
        when there is no way. Raises RemoteError when they name nobody whom a circuit may go on to."""
        ...


class RelayCircuit:
    """One circuit of somebody else's. Made by `accept` for a CREATE2."""

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        link: Link,
        circ_id: int,
        last: Hop,
        services: Services,
        reach: Extender,
        streams: Meter | None,
    ) -> None:
        self.endpoint = Endpoint(
            outbox,
            last.format,
            last.new_flow(),
            self._transmit,
            self._link_congested,
            originates=False,
            streams=streams,
        )
        self.endpoint.on_begin = self.begin  # methods: functions made here would cost each circuit half a kilobyte
        self.endpoint.on_resolve = self.resolve
        self.endpoint.on_message = self._message
        self._receiver: Endpoint | Leg = self.endpoint
        self.binding = last.binding  # as in Hop
        self._outbox = outbox
        self._rng = rng
        self._services = services
        self._reach = reach
        self._pack = last.format.pack
        self._forward = last.keys.forward
        self._backward = last.keys.backward
        self._link = link
        self._id = circ_id
        self._next: _NextHop | None = None
        self._early_left = MAX_RELAY_EARLY
        self._early_cell = False
        self._closed = False
        self._orphaned = False
        self._used = 0.0  # when cells came last, from either side, in steady time

    @classmethod
    def accept(
        cls,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        link: Link,
        circ_id: int,
        create: Create2,
        *,
        keys: OnionKeys,
        services: Services,
        reach: Extender,
        streams: Meter | None = None,
    ) -> RelayCircuit:
        """Answer a CREATE2 with CREATED2, or a CREATE_FAST with CREATED_FAST.

        Args:
            keys: ours.
            streams: counts the streams that are open here, on all circuits that share it.
        Raises:
            RemoteError: the onionskin is not one for us.
        """
        reply, agreed = answer_handshake(crypto, rng, keys, create)
        circuit = cls(outbox, rng, link, circ_id, agreed, services, reach, streams)
        link.adopt(circ_id, circuit)
        if create.handshake_type == HandshakeType.FAST:
            link.send_one(circ_id, Command.CREATED_FAST, reply)
        else:
            link.send_one(circ_id, Command.CREATED2, Created2(reply).encode())
        return circuit

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def link(self) -> Link:
        """Where it came from."""
        return self._link

    @property
    def ends_here(self) -> bool:
        """Whether it neither goes on to another node nor waits for one."""
        return self._next is None

    def join(self, linked: LinkedSet, now: float) -> Leg:
        """Become a leg of a set, whose endpoint is that of all its circuits. Raises RemoteError if it cannot be one."""
        if not self.ends_here or self._receiver is not self.endpoint:
            raise RemoteError("a circuit that is extended or linked cannot become a leg")
        self._receiver = leg = linked.add(self.endpoint.hand_over(), self.destroy, now)
        self.endpoint = linked.endpoint
        return leg

    # -- for the link towards the origin

    def relay(self, run: bytes, early: bool, now: float) -> None:
        """A run of cells on its way from the origin."""
        self._used = self._outbox.steady(now)
        if early:
            self._early_left -= len(run) // PAYLOAD_LEN
            if self._early_left < 0:
                raise RemoteError(f"more than {MAX_RELAY_EARLY} RELAY_EARLY cells")
        run = self._forward.crypt(run)
        self._early_cell = early
        if self._next is None:  # the last hop: what is not for us ends the circuit
            self._receiver.receive(*self._forward.accept_all(run), now)
            self.endpoint.settle(now)
            return
        candidates = recognized_candidates(run)
        if not candidates:
            self._pass_on(run, early)
            return
        start = 0
        for index in candidates:
            cell = run[index * PAYLOAD_LEN : (index + 1) * PAYLOAD_LEN]
            if self._forward.accepts(cell):
                self._pass_on(run[start : index * PAYLOAD_LEN], early)
                start = (index + 1) * PAYLOAD_LEN
                self.endpoint.receive((cell,), (self._forward.digest,), now)
                if self._closed:
                    return
        self._pass_on(run[start:], early)
        self.endpoint.settle(now)

    def created(self, payload: bytes, fast: bool, now: float) -> None:
        raise RemoteError("CREATED2 from the side of the origin")

    def create(self, payload: bytes, now: float) -> None:
        raise RemoteError("CREATE2 on a circuit that exists")

    def destroyed(self, reason: int, now: float) -> None:
        """DESTROY from the origin's side, or that link is gone.

        A link that breaks ends all circuits of its other end at one moment. If we passed that on, a point could tell
        by the moment which circuits belong to one node. So each ends at a random time, unless somebody waits.
        """
        onward = self._next is not None and self._next.open
        if reason != DestroyReason.CHANNEL_CLOSED or not onward or self._outbox.steady(now) - self._used < BUSY:
            self._close(reason, now, towards_origin=False)
            return
        self._orphaned = True
        delay = ORPHAN_LIMIT * int.from_bytes(self._rng.random(2), "big") / (1 << 16)
        self._outbox.call_at(now + delay, lambda now: self._close(reason, now, towards_origin=False))

    def broken(self, error: RemoteError, now: float) -> None:
        self.destroy(error.reason, now)

    def drained(self, now: float) -> None:
        self.endpoint.resume()

    def destroy(self, reason: int, now: float) -> None:
        """Close the circuit on both sides."""
        self._close(reason, now, towards_origin=True)

    # -- forwarding

    def _pass_on(self, run: bytes, early: bool) -> None:
        if not run:
            return
        hop = self._next
        if hop is None or not hop.open:
            raise RemoteError("a cell that is not for us, on a circuit that goes no further")
        self._services.sent(len(run) // PAYLOAD_LEN)
        hop.link.send(hop.id, Command.RELAY_EARLY if early else Command.RELAY, run)

    def pass_back(self, run: bytes, now: float) -> None:
        """A run of cells from the next hop, on its way to the origin."""
        self._used = self._outbox.steady(now)
        if self._orphaned:
            self._close(DestroyReason.CHANNEL_CLOSED, now, towards_origin=False)
            return
        self._services.sent(len(run) // PAYLOAD_LEN)
        self._link.send(self._id, Command.RELAY, self._backward.crypt(run))

    def _transmit(self, cells: list[bytes]) -> Sequence[bytes]:
        if self._closed:
            return ()
        self._services.sent(len(cells))
        run, digests = self._backward.seal_run(cells)
        self._link.send(self._id, Command.RELAY, self._backward.crypt(run))
        return digests

    def _link_congested(self) -> bool:
        return self._link.congested

    # -- what the far end asks

    def begin(self, stream_id: int, begin: Begin, now: float) -> None:
        self._services.begin(self, stream_id, begin, now)

    def resolve(self, stream_id: int, host: str, now: float) -> None:
        self._services.resolve(self, stream_id, host, now)

    def _message(self, command: int, payload: bytes, now: float) -> None:
        if command == RelayCommand.EXTEND2:
            self._extend(Extend2.parse(payload), now)
        elif command == RelayCommand.TRUNCATE:
            if self._next is not None:
                self._next.destroy(now)
                self._next = None
            self._send_truncated(DestroyReason.REQUESTED)
        else:
            self._services.message(self, command, payload, now)

    # -- extending

    def _extend(self, request: Extend2, now: float) -> None:
        if not self._early_cell:
            raise RemoteError("EXTEND2 outside RELAY_EARLY")
        if self._next is not None:
            raise RemoteError("EXTEND2 on a circuit that was extended")
        create = Create2(request.handshake_type, request.handshake_data).encode()
        self._next = _NextHop(self, self._outbox, create, now)
        self._reach.reach(self._link, request.specifiers, self._next.reached, now)

    def extended(self, reply: bytes) -> None:
        self._transmit([self._pack(RelayCommand.EXTENDED2, 0, Extended2(reply).encode())])

    def next_gone(self, reason: int) -> None:
        """The part beyond the next hop is gone (or never came to be)."""
        self._next = None
        if not self._closed and not self._orphaned:
            self._send_truncated(reason)

    def _send_truncated(self, reason: int) -> None:
        self._transmit([self._pack(RelayCommand.TRUNCATED, 0, Truncated(reason).encode())])

    # -- closing

    def _close(self, reason: int, now: float, *, towards_origin: bool) -> None:
        if self._closed:
            return
        self._closed = True
        if towards_origin:
            self._link.destroy(self._id, reason)
        if self._next is not None:
            self._next.destroy(now)
            self._next = None
        self._receiver.close(now)
        self._services.circuit_closed(self, now)


class _NextHop:
    """The side of a relay circuit that faces away from the origin; the link there calls it."""

    __slots__ = ("id", "_circuit", "_create", "_link", "_machine")

    def __init__(self, circuit: RelayCircuit, outbox: Outbox, create: bytes, now: float) -> None:
        self.id = 0
        self._circuit = circuit
        self._create = create
        self._link: Link | None = None
        self._machine = StateMachine(NEXT_HOP, outbox, self._timed_out, now)

    @property
    def open(self) -> bool:
        return self._machine.state is NextState.OPEN

    @property
    def link(self) -> Link:
        assert self._link is not None
        return self._link

    def reached(self, link: Link | None, now: float) -> None:
        if self._machine.final:
            return
        if link is None:
            self.destroyed(DestroyReason.CONNECTFAILED, now)
            return
        try:
            self.id = link.attach(self, source=self._circuit.link)
        except LocalError:  # that link is full
            self.destroyed(DestroyReason.RESOURCELIMIT, now)
            return
        self._link = link
        self._machine.move(_REACHED, now)
        link.send_one(self.id, Command.CREATE2, self._create)
        self._create = b""

    def destroy(self, now: float) -> None:
        """Send no reason away from the origin. Origins send none, so a reason would tell our circuits from others'."""
        if not self._machine.final:
            self._machine.move(_GONE, now)
            self._destroy()

    def relay(self, run: bytes, early: bool, now: float) -> None:
        if early:
            raise RemoteError("RELAY_EARLY towards the origin")
        if not self.open:
            raise RemoteError("RELAY before CREATED2")
        self._circuit.pass_back(run, now)

    def created(self, payload: bytes, fast: bool, now: float) -> None:
        if self.open:
            raise RemoteError("CREATED2 twice")
        if fast:
            raise RemoteError("CREATED_FAST in answer to CREATE2")
        reply = Created2.parse(payload).handshake_data
        if len(reply) > MAX_REPLY:
            raise RemoteError("CREATED2 holds more than EXTENDED2 can carry")
        self._machine.move(_CREATED, now)
        self._circuit.extended(reply)

    def create(self, payload: bytes, now: float) -> None:
        raise RemoteError("CREATE2 on a circuit of ours")

    def destroyed(self, reason: int, now: float) -> None:
        if not self._machine.final:
            self._machine.move(_GONE, now)
            self._circuit.next_gone(reason)

    def broken(self, error: RemoteError, now: float) -> None:
        if not self._machine.final:
            self.destroy(now)
            self._circuit.next_gone(error.reason)

    def drained(self, now: float) -> None:
        """Forwarded cells wait in the link's own queue; there is nothing to resume here."""

    def _timed_out(self, state: NextState, now: float) -> None:
        self._destroy()
        self._circuit.next_gone(DestroyReason.TIMEOUT)

    def _destroy(self) -> None:
        if self._link is not None:
            self._link.destroy(self.id, DestroyReason.NONE)
