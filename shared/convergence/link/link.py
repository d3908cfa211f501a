"""One neighbour: the handshake, then cells of many circuits.

Does: group a batch's RELAY cells by circuit, dispatch by one look-up, give out circuit ids, queue outgoing cells
fairly and within named limits, close on what breaks the link protocol.
Does not: look into RELAY cells, choose neighbours (neighbours.py), or know what circuits are for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum, auto
from typing import Protocol as Shape

from convergence.effects import CloseLink, Pause, Send
from convergence.errors import DestroyReason, LinkError, LocalError, ParseError, RemoteError, Scope
from convergence.limits import TokenBucket
from convergence.link.handshake import HANDSHAKE_TIMEOUT, Handshake
from convergence.link.meter import Meter
from convergence.link.onionskins import ASKED, ASKED_BURST, Onionskins
from convergence.link.padding import Padding
from convergence.link.throttle import Throttle
from convergence.outbox import Outbox, Timer
from convergence.ports import Rng, TlsBinding
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.cells import (
    CELL_LEN,
    FIXED_HEADER,
    HEADER_LEN,
    VARIABLE_HEADER,
    Command,
    cells,
    cut,
    encode_cell,
    is_variable,
    payloads,
)
from convergence.wire.create import Create2, Destroy, create_fast
from convergence.wire.padding import PaddingNegotiate

MAX_CIRCUITS = 16384  # on one link; a CREATE2 beyond is answered with DESTROY
CELLS_PER_MESSAGE = 127  # 65,278 bytes: a WebSocket message is at most 64 KiB
FLUSH_CELLS = 8 * CELLS_PER_MESSAGE  # given to the transport before others have a turn
MAX_CREATES = 64  # CREATE2s of one link that wait for their handshake; one more is answered with DESTROY
MAX_REFUSALS = 2048  # DESTROYs that wait to answer refused CREATE2s; a neighbour with more of them does not read
FLUSH_BYTES = FLUSH_CELLS * CELL_LEN
MAX_QUEUED = 16 << 20  # bytes on one link; above it the circuits that have most are destroyed (tor's OOM handler)
MAX_QUEUED_ALL = 256 << 20  # bytes on all links of a node; above it the link that has most queued does the same
RETAINED = 0.9  # of what is queued stays when circuits are destroyed, so that this is rare (tor retains as much)
CROWDED = 1 << 20  # bytes queued on one link; above it MAX_UNANSWERED holds
MAX_UNANSWERED = 16  # CREATE2s on a crowded link for circuits that come from one other link
PADDED_VERSION = 5  # the first link protocol that has padding
INITIATOR_ID_BIT = 0x80000000  # set in circuit ids that the link's initiator chooses (tor-spec "Choosing circuit ids")


class CircuitHandler(Shape):
    """What a link keeps under a circuit id. RemoteErrors that these raise come back through `broken`."""

    def relay(self, run: bytes, early: bool, now: float) -> None:
        """RELAY (or RELAY_EARLY) cells in order: n * 509 bytes."""
        ...

    def create(self, payload: bytes, now: float) -> None: ...

    def created(self, payload: bytes, fast: bool, now: float) -> None:
        """CREATED2 came, or CREATED_FAST."""
        ...

    def destroyed(self, reason: int, now: float) -> None:
        """DESTROY came or the link is gone; the id is free again."""
        ...

    def broken(self, error: RemoteError, now: float) -> None:
        """The circuit broke a rule and must be closed by the handler."""
        ...

    def drained(self, now: float) -> None:
        """The link takes cells again."""
        ...


class LinkState(Enum):
    HANDSHAKE = auto()
    OPEN = auto()
    CLOSED = auto()


_OPENED, _CLOSED = "the handshake is done", "closed"
LINK: Table[LinkState] = Table(
    "link",
    LinkState.HANDSHAKE,
    {
        LinkState.HANDSHAKE: {_OPENED: LinkState.OPEN, _CLOSED: LinkState.CLOSED, TIMEOUT: LinkState.CLOSED},
        LinkState.OPEN: {_CLOSED: LinkState.CLOSED},
    },
    deadlines={LinkState.HANDSHAKE: HANDSHAKE_TIMEOUT},
    standing={LinkState.OPEN: "either side closes it, ours also when it has been idle (neighbours.py)"},
)


class _Queue(deque[bytes]):
    """Buffers of whole cells that one circuit sends. One is made for nearly every run, so there is no constructor.

    Attributes:
        size: bytes.
        relayed: whether it is somebody else's circuit, which a throttle may hold back.
    """

    __slots__ = ("size", "relayed")
    size: int
    relayed: bool

    def take(self, limit: int) -> bytes:
        """The next buffer, or the first `limit` bytes of it."""
        part = self.popleft()
        if len(part) > limit:
            self.appendleft(part[limit:])
            part = part[:limit]
        return part


# Compared for every cell: an IntEnum member takes several times as long.
_RELAY, _RELAY_EARLY, _CREATE2 = int(Command.RELAY), int(Command.RELAY_EARLY), int(Command.CREATE2)
_CREATED2, _DESTROY, _VERSIONS = int(Command.CREATED2), int(Command.DESTROY), int(Command.VERSIONS)
_CREATE_OLD = (Command.CREATE, Command.CREATE_FAST)
_HANDSHAKE_ONLY = (Command.VERSIONS, Command.CERTS, Command.AUTH_CHALLENGE, Command.AUTHENTICATE)
_REFUSALS = 0  # the circuit id under which DESTROYs wait for circuits that were never created

CreateHook = Callable[["Link", int, Create2, float], None]
"""on_create(link, circ_id, create, now) for a CREATE2, or a CREATE_FAST; raises RemoteError to refuse."""


class Link:
    """An established or establishing link.

    Args:
        channel: its number at the driver.
        initiator: whether we dialled.
        on_create: None where we relay for nobody.
        on_open: called once when the handshake is done.
        on_closed: called once with a reason, whoever closed it.
        meter: counts the bytes queued on all links of the node.
        onionskins: gives the links of the node their turns to have a CREATE2 answered.
        throttle: limits what all links send on circuits of others; our own circuits do not wait for it.
        source: whom limits count it under; None for itself.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        channel: int,
        handshake: Handshake,
        now: float,
        *,
        initiator: bool,
        on_create: CreateHook | None,
        on_open: Callable[[Link, float], None],
        on_closed: Callable[[Link, str, float], None],
        meter: Meter | None = None,
        onionskins: Onionskins | None = None,
        throttle: Throttle | None = None,
        source: Hashable = None,
    ) -> None:
        self.channel = channel
        self.source = channel if source is None else source
        self.handshake = handshake
        self.initiator = initiator
        self.congested = False
        self.circuits: dict[int, CircuitHandler] = {}
        self.bytes_in = 0
        self.bytes_out = 0
        self._outbox = outbox
        self._rng = rng
        self._id_bit = INITIATOR_ID_BIT if initiator else 0
        self._on_create = on_create
        self._on_open = on_open
        self._on_closed = on_closed
        self._machine = StateMachine(LINK, outbox, self._timed_out, now)
        self._partial = b""
        self._skip = 0  # bytes still to come of a variable cell that is ignored
        self._creates: dict[int, Create2] = {}  # those that wait, by circuit id
        self._onionskins = onionskins or Onionskins(outbox)
        self._asked = TokenBucket(outbox, ASKED, ASKED_BURST)
        self._pause: Timer | None = None  # set while we read nothing of a link that asks for too much
        self._queues: dict[int, _Queue] = {}  # by circuit id, in turn order
        self._held: dict[int, _Queue] = {}  # those that wait for the throttle
        self._onward: dict[int, Link] = {}  # circuits of others that go on over this link, and where they come from
        self._unanswered: dict[Link, set[int]] = {}  # those of them that have no CREATED2 yet, by where they come from
        self._queued = 0
        self._shed: dict[int, None] = {}  # circuits whose cells were dropped, and that `flush` closes
        self._choked = False  # the neighbour reads nothing: `flush` closes the link
        self._throttle = throttle
        self._padding: Padding | None = None
        self._meter = meter or Meter(MAX_QUEUED_ALL)
        self._send_now(handshake.start())

    @property
    def open(self) -> bool:
        return self._machine.state is LinkState.OPEN

    @property
    def queued(self) -> int:
        """Bytes that wait for the transport."""
        return self._queued

    @property
    def peer(self) -> bytes | None:
        """The identity that the neighbour claims; proven only if handshake.authenticated."""
        return self.handshake.peer

    @property
    def names(self) -> list[bytes]:
        """All by which the neighbour is reached: its identity, and on the Tor network its RSA fingerprint, too."""
        return [name for name in (self.handshake.peer, self.handshake.peer_rsa) if name is not None]

    # -- circuits

    def attach(self, handler: CircuitHandler, *, source: Link | None = None) -> int:
        """A free circuit id of ours for a new circuit; somebody else's has a `source`, the link that it comes from.

        Raises LocalError when there is none, and on a crowded link for a source with MAX_UNANSWERED. Other sources go
        on to extend circuits over it, whoever crowds it.
        """
        if self._closed or len(self.circuits) >= MAX_CIRCUITS:
            raise LocalError("this link takes no more circuits")
        if source is not None and self._queued > CROWDED and len(self._unanswered.get(source, ())) >= MAX_UNANSWERED:
            raise LocalError("too many cells queued")
        while True:
            circ_id = int.from_bytes(self._rng.random(4), "big") & 0x7FFFFFFF | self._id_bit
            if circ_id not in self.circuits and circ_id & 0x7FFFFFFF:
                self.circuits[circ_id] = handler
                if source is not None:
                    self._onward[circ_id] = source
                    self._unanswered.setdefault(source, set()).add(circ_id)
                return circ_id

    def adopt(self, circ_id: int, handler: CircuitHandler) -> None:
        """Keep a circuit that the neighbour created."""
        self.circuits[circ_id] = handler

    def send(self, circ_id: int, command: int, run: bytes) -> None:
        """Queue a run of RELAY or RELAY_EARLY cells (n * 509 bytes)."""
        self._queue(circ_id, cells(FIXED_HEADER.pack(circ_id, command), run))

    def send_one(self, circ_id: int, command: int, payload: bytes) -> None:
        """Queue one fixed cell; the payload is padded."""
        self._queue(circ_id, encode_cell(circ_id, command, payload))

    def destroy(self, circ_id: int, reason: int) -> None:
        """Send DESTROY, after what is queued for the circuit, and forget it. Nothing of it is sent when its CREATE2 is
        still queued: the neighbour has not heard of it."""
        if circ_id not in self.circuits:
            return
        queue = self._queues.get(circ_id) or self._held.get(circ_id)
        if queue and queue[0][HEADER_LEN - 1] == _CREATE2:
            self._drop(circ_id)
        else:
            self.send_one(circ_id, Command.DESTROY, Destroy(reason).encode())
        self._forget(circ_id)

    def release(self) -> None:
        """The throttle lets this link send again."""
        self._queues.update(self._held)
        self._held.clear()
        self._outbox.flush_later(self)

    # -- input

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the neighbour, cut anywhere. Closes the link when they break its protocol."""
        self.bytes_in += len(data)
        try:
            if self._machine.state is LinkState.HANDSHAKE:
                self._send_now(self.handshake.receive(data, now))
                if not self.handshake.open:
                    return
                self._machine.move(_OPENED, now)
                self._pad(now)
                self._on_open(self, now)
                data = self.handshake.leftover()
            if self._skip:
                skipped = min(self._skip, len(data))
                self._skip -= skipped
                data = data[skipped:]
            elif self._partial:
                data = self._partial + data
            self._cut(data, now)
            if self._asked.left < 0:
                self._pace(now)
        except RemoteError as error:
            self.close(str(error), now)

    def set_congested(self, congested: bool, now: float) -> None:
        """The transport is full, or has drained."""
        self.congested = congested
        if not congested:
            self._outbox.flush_later(self)
            if self._creates:
                self._onionskins.wait(self, now)
            for handler in list(self.circuits.values()):
                handler.drained(now)

    def close(self, reason: str, now: float) -> None:
        """Close the link from our side."""
        if not self._closed:
            self._outbox.emit(CloseLink(self.channel, reason))
            self.gone(reason, now)

    def gone(self, reason: str, now: float) -> None:
        """The link is closed: every circuit on it is destroyed."""
        if not self._closed:
            self._machine.move(_CLOSED, now)
            self._ended(reason, now)

    @property
    def _closed(self) -> bool:
        return self._machine.state is LinkState.CLOSED

    def _timed_out(self, state: LinkState, now: float) -> None:
        reason = "the link handshake took too long"
        self._outbox.emit(CloseLink(self.channel, reason))
        self._ended(reason, now)

    def _ended(self, reason: str, now: float) -> None:
        self._queues.clear()
        self._held.clear()
        self._onward.clear()
        self._unanswered.clear()
        self._creates.clear()
        self._onionskins.forget(self)
        if self._padding is not None:
            self._padding.stop()
        if self._pause is not None:
            self._pause.cancel()
        self._account(-self._queued)
        if self._throttle is not None:
            self._throttle.forget(self)
        circuits, self.circuits = self.circuits, {}
        for handler in circuits.values():
            handler.destroyed(DestroyReason.CHANNEL_CLOSED, now)
        self._on_closed(self, reason, now)

    def _cut(self, data: bytes, now: float) -> None:
        """Take bytes that begin with a whole cell. Fixed cells go on in batches. Variable cells belong to the
        handshake: on an open link, padding and unknown ones are dropped (tor-spec "Cell Packet format")."""
        commands = data[HEADER_LEN - 1 :: CELL_LEN]
        if commands.isascii() and _VERSIONS not in commands:  # the usual batch: no variable cell
            whole = len(data) - len(data) % CELL_LEN
            self._partial = data[whole:]
            if whole:
                self._cells(data[:whole], now)
            return
        start = at = 0
        self._partial = b""
        while len(data) - at >= HEADER_LEN:
            command = data[at + HEADER_LEN - 1]
            if not is_variable(command):
                if len(data) - at < CELL_LEN:
                    break
                at += CELL_LEN
                continue
            if at > start:
                self._cells(data[start:at], now)
                start = at
            if command in _HANDSHAKE_ONLY:
                raise LinkError(f"cell command {command} after the handshake")
            if len(data) - at < VARIABLE_HEADER.size:
                break
            start = at = at + VARIABLE_HEADER.size + VARIABLE_HEADER.unpack_from(data, at)[2]
        if at > len(data):
            self._skip = at - len(data)
            return
        if at > start:
            self._cells(data[start:at], now)
        self._partial = data[at:]

    def _cells(self, data: bytes, now: float) -> None:
        """Whole fixed cells. RELAY cells are gathered by circuit; any other cell comes after those before it."""
        head = data[:HEADER_LEN]
        count = len(data) // CELL_LEN
        for at in range(HEADER_LEN):
            if data[at::CELL_LEN].count(head[at]) != count:
                break
        else:
            if head[4] == _RELAY:  # the usual batch: one busy circuit
                self._relay(head, payloads(data, count), now)
                return
        runs: dict[bytes, list[bytes]] = {}
        for header, payload in cut(data, count):
            gathered = runs.get(header)
            if gathered is not None:
                gathered.append(payload)
                continue
            if header[4] == _RELAY:
                runs[header] = [payload]
                continue
            if self._closed:  # a cell before this one filled our own queue
                return
            self._relay_all(runs, now)
            self._other(header, payload, now)
        self._relay_all(runs, now)

    def _relay_all(self, runs: dict[bytes, list[bytes]], now: float) -> None:
        for header, gathered in runs.items():
            self._relay(header, b"".join(gathered), now)
        runs.clear()

    def _relay(self, header: bytes, run: bytes, now: float) -> None:
        circ_id, command = FIXED_HEADER.unpack(header)
        handler = self.circuits.get(circ_id)
        if handler is None:
            return  # cells that were under way when the circuit closed (tor-spec "Tearing down circuits")
        try:
            handler.relay(run, command == _RELAY_EARLY, now)
        except RemoteError as error:
            self._circuit_error(handler, error, now)

    def _other(self, header: bytes, payload: bytes, now: float) -> None:
        circ_id, command = FIXED_HEADER.unpack(header)
        if command == _RELAY_EARLY:
            self._relay(header, payload, now)
            return
        handler = self.circuits.get(circ_id)
        if handler is None:
            self._without_circuit(circ_id, command, payload, now)
            return
        try:
            if command == _CREATED2:
                self._answered(circ_id)
                handler.created(payload, False, now)
            elif command == Command.CREATED_FAST:
                handler.created(payload, True, now)
            elif command == _DESTROY:
                self._forget(circ_id)
                handler.destroyed(Destroy.parse(payload).reason, now)
            elif command == _CREATE2:
                handler.create(payload, now)
            elif command in _CREATE_OLD or command == Command.CREATED:
                raise RemoteError(f"cell command {command} is not offered")
        except RemoteError as error:
            self._circuit_error(handler, error, now)

    def _without_circuit(self, circ_id: int, command: int, payload: bytes, now: float) -> None:
        """A cell that begins a circuit. Any other is dropped: it was under way when its circuit closed, as in `_relay`,
        or it is padding, or its command is not known (tor-spec "Cell Packet format")."""
        try:
            if command == _CREATE2 or (command == Command.CREATE_FAST and self._tls):
                self._create(circ_id, command, payload, now)
            elif command == _DESTROY:
                self._creates.pop(circ_id, None)
            elif command == Command.NETINFO:
                raise LinkError(f"cell command {command} after the handshake")
            elif command == Command.PADDING_NEGOTIATE and self._padded:
                self._negotiate_padding(payload, now)
            elif command in _CREATE_OLD:
                raise RemoteError(f"cell command {command} is not offered")
        except RemoteError as error:
            self._refuse(circ_id, error)

    @property
    def _tls(self) -> bool:
        """Whether it is a link of the Tor network. Only there CREATE_FAST is answered: TLS protects its keys."""
        return isinstance(self.handshake.binding, TlsBinding)

    @property
    def _padded(self) -> bool:
        """Whether the link's protocol has padding. Other transports than Tor's have none."""
        return self._tls and self.handshake.version >= PADDED_VERSION

    def _pad(self, now: float) -> None:
        """Pad from now on, if the initiator is a client."""
        client = self.handshake.anonymous if self.initiator else self.handshake.peer is None
        if self._padded and client:
            self._padding = Padding(self._outbox, self._rng, self._send_padding, now)

    def _send_padding(self, now: float) -> None:
        if not self.congested and not self._queues:
            self._send_now([encode_cell(0, Command.PADDING)])

    def _negotiate_padding(self, payload: bytes, now: float) -> None:
        """Only clients may ask: whoever takes it from a relay would let it tell that this is a client (padding-spec
        section 2.5)."""
        if self.initiator:
            raise LinkError("PADDING_NEGOTIATE from a relay")
        try:
            wish = PaddingNegotiate.parse(payload)
        except ParseError as error:
            raise LinkError(str(error)) from error
        if self._padding is not None:
            self._padding.negotiate(wish, now)

    def _forget(self, circ_id: int) -> None:
        """The circuit is closed here: its id is free."""
        self._answered(circ_id)
        self._onward.pop(circ_id, None)
        del self.circuits[circ_id]

    def _answered(self, circ_id: int) -> None:
        """The circuit's CREATE2 is not waited for any more."""
        source = self._onward.get(circ_id)
        if source is not None and source in self._unanswered:
            self._unanswered[source].discard(circ_id)
            if not self._unanswered[source]:
                del self._unanswered[source]

    # -- CREATE2

    def _create(self, circ_id: int, command: int, payload: bytes, now: float) -> None:
        if bool(circ_id & INITIATOR_ID_BIT) == bool(self._id_bit) or not circ_id & 0x7FFFFFFF:
            raise LinkError("CREATE2 with a circuit id of our half")
        self._asked.refill(now)
        self._asked.left -= 1
        if self._on_create is None:
            raise RemoteError("this node relays for nobody", reason=DestroyReason.HIBERNATING)
        if self._creates.pop(circ_id, None) is not None:
            raise RemoteError("CREATE2 twice")
        full = len(self._creates) >= MAX_CREATES or len(self.circuits) + len(self._creates) >= MAX_CIRCUITS
        if full:
            raise RemoteError("too many circuits", reason=DestroyReason.RESOURCELIMIT)
        self._creates[circ_id] = Create2.parse(payload) if command == _CREATE2 else create_fast(payload)
        self._onionskins.wait(self, now)

    @property
    def wants_turn(self) -> bool:
        """Whether a CREATE2 waits, and the neighbour reads what it is sent."""
        return bool(self._creates) and not self.congested

    def answer_create(self, now: float) -> None:
        """Answer the CREATE2 that has waited longest."""
        circ_id = next(iter(self._creates))
        create = self._creates.pop(circ_id)
        assert self._on_create is not None
        try:
            self._on_create(self, circ_id, create, now)
        except LinkError as error:
            self.close(str(error), now)
        except RemoteError as error:
            self._refuse(circ_id, error)

    def _refuse(self, circ_id: int, error: RemoteError) -> None:
        """Answer with DESTROY: no circuit is made under this id."""
        if error.scope is Scope.LINK:
            raise error
        self.circuits.pop(circ_id, None)
        self._queue(_REFUSALS, encode_cell(circ_id, _DESTROY, Destroy(error.reason).encode()))

    def _pace(self, now: float) -> None:
        """Read nothing more for a while of a neighbour that asked for too many circuits."""
        self._asked.refill(now)
        if self._asked.debt and self._pause is None and not self._closed:
            self._outbox.emit(Pause(self.channel, True))
            seconds = self._onionskins.pause(self, self._asked.debt)
            self._pause = self._outbox.call_at(now + seconds, self._resume)

    def _resume(self, now: float) -> None:
        self._pause = None
        self._onionskins.resume(self)
        self._outbox.emit(Pause(self.channel, False))

    def _circuit_error(self, handler: CircuitHandler, error: RemoteError, now: float) -> None:
        if error.scope is Scope.LINK:
            raise error
        handler.broken(error, now)

    # -- output

    def _send_now(self, buffers: list[bytes]) -> None:
        if buffers:
            self.bytes_out += sum(map(len, buffers))
            self._outbox.emit(Send(self.channel, buffers))

    def _queue(self, circ_id: int, data: bytes) -> None:
        if self._closed or self._choked or circ_id in self._shed:
            return
        queue = self._queues.get(circ_id) or self._held.get(circ_id)
        if queue is None:
            queue = self._queues[circ_id] = _Queue()
            queue.size = 0
            queue.relayed = circ_id & INITIATOR_ID_BIT != self._id_bit or circ_id in self._onward
        queue.append(data)
        queue.size += len(data)
        self._outbox.flush_later(self)
        self._account(len(data))
        if self._queued > MAX_QUEUED:
            self.shed()
        elif circ_id == _REFUSALS and queue.size > MAX_REFUSALS * CELL_LEN:
            self._choke()

    def _account(self, change: int) -> None:
        self._queued += change
        self._meter.add(change)

    def shed(self) -> None:
        """Too much is queued: drop what waits for the circuits that have most (tor-spec leaves the choice; C Tor does
        the same). `flush` closes those circuits."""
        before = self._queued
        sizes = {circ_id: queue.size for queues in (self._queues, self._held) for circ_id, queue in queues.items()}
        for circ_id in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if self._queued <= RETAINED * before or circ_id == _REFUSALS or sizes[circ_id] <= CELL_LEN:
                break
            self._drop(circ_id)
            self._shed[circ_id] = None
        if self._queued == before:  # only a neighbour that reads nothing at all can cause this
            self._choke()
        else:
            self._outbox.flush_later(self)

    def _drop(self, circ_id: int) -> None:
        """What waits for a circuit is not sent."""
        queue = self._queues.pop(circ_id, None) or self._held.pop(circ_id)
        self._account(-queue.size)

    def _choke(self) -> None:
        """Nothing is read: drop all. `flush` closes the link."""
        self._choked = True
        self._queues.clear()
        self._held.clear()
        self._account(-self._queued)
        self._outbox.flush_later(self)

    def _close_shed(self, now: float) -> None:
        shed, self._shed = self._shed, {}
        for circ_id in shed:
            handler = self.circuits.get(circ_id)
            if handler is None:  # closed already: its DESTROY was among the dropped cells
                self.send_one(circ_id, Command.DESTROY, Destroy(DestroyReason.RESOURCELIMIT).encode())
            else:
                handler.broken(RemoteError("too many cells queued", reason=DestroyReason.RESOURCELIMIT), now)

    def flush(self, now: float) -> bool:
        """Hand up to FLUSH_CELLS cells to the transport, a buffer of each circuit in turn."""
        if self._choked:
            self.close("too many cells queued", now)
        elif self._shed:
            self._close_shed(now)
        if self.congested or self._closed or not self._queues:
            return False
        throttle = self._throttle
        if throttle is not None and throttle.rate is None:
            throttle = None
        queue = next(iter(self._queues.values()))
        if len(self._queues) == 1 and queue.size <= FLUSH_BYTES and (throttle is None or not queue.relayed):
            data = b"".join(queue)
            self._queues.clear()
        else:
            data = b"".join(self._take_turns(throttle, now))
        if data:
            self._account(-len(data))
            if self._padding is not None:
                self._padding.sent(now)
            step = CELLS_PER_MESSAGE * CELL_LEN
            self._send_now([data] if len(data) <= step else [data[at : at + step] for at in range(0, len(data), step)])
        return bool(self._queues)

    def _take_turns(self, throttle: Throttle | None, now: float) -> list[bytes]:
        parts: list[bytes] = []
        room = FLUSH_BYTES
        allowance = left = math.inf if throttle is None else throttle.allowance(now)
        while self._queues and room > 0:
            for circ_id in list(self._queues):
                queue = self._queues.pop(circ_id)  # it goes back, behind the others, if anything is left in it
                if throttle is None or not queue.relayed:
                    part = queue.popleft()
                elif left > 0:
                    part = queue.take(max(int(left) // CELL_LEN, 1) * CELL_LEN)
                    left -= len(part)
                else:
                    self._held[circ_id] = queue
                    continue
                parts.append(part)
                room -= len(part)
                if queue:
                    queue.size -= len(part)
                    self._queues[circ_id] = queue
                if room <= 0:
                    break
        if throttle is not None:
            throttle.settle(self, int(allowance - left), bool(self._held), now)
        return parts
