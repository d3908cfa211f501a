"""A circuit at its origin: builds it hop by hop, wraps and unwraps all layers.

Does: CREATE2 and EXTEND2 with ntor, CREATE_FAST to a directory, RELAY_EARLY for extending and for the first cells after
that, tell which hop a cell came from, close on any cell that cannot be placed. It knows its path and never what it is
for.
Does not: choose nodes, time out, retry (path/), or relay for others (relay.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from convergence.circuit.endpoint import AcceptHook, Endpoint, ResolvedReply
from convergence.circuit.hop import ClientHandshake, Hop, begin_handshake
from convergence.circuit.streams import Stream
from convergence.crypto.onion import recognized_candidates
from convergence.errors import DestroyReason, EndReason, LocalError, RemoteError
from convergence.events import CircuitBroken
from convergence.link.link import Link
from convergence.outbox import Outbox
from convergence.pipes.duplex import Handler
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.cells import PAYLOAD_LEN, Command
from convergence.wire.create import FAST_LEN, Create2, Created2, HandshakeType
from convergence.wire.relay import (
    MAX_RELAY_EARLY,
    Begin,
    Extend2,
    Extended2,
    RelayCommand,
    Truncated,
    unpack_message,
)
from convergence.wire.target import RelayTarget

if TYPE_CHECKING:
    from convergence.circuit.conflux import Leg, LinkedSet

MAX_HOPS = 5
HOP_TIMEOUT = 60.0  # seconds that a hop may take; the builder gives up sooner (path/pool.py)
MAX_EARLY_DATA = MAX_RELAY_EARLY - (MAX_HOPS - 1)  # RELAY_EARLY cells beside those for extensions to MAX_HOPS

InfoHook = Callable[[bytes], None]
"""on_info(payload) for a DB_INFO from the last hop. Raises RemoteError for one that was not asked for."""


class CircuitState(Enum):
    CREATING = auto()
    EXTENDING = auto()
    BUILT = auto()
    CLOSED = auto()


_HOP, _BUILT, _EXTEND, _CLOSED = "a hop stands", "all hops stand", "one more hop is wanted", "closed"
_ENDS = {_CLOSED: CircuitState.CLOSED, TIMEOUT: CircuitState.CLOSED}
CIRCUIT: Table[CircuitState] = Table(
    "circuit at its origin",
    CircuitState.CREATING,
    {
        CircuitState.CREATING: {_HOP: CircuitState.EXTENDING, _BUILT: CircuitState.BUILT, **_ENDS},
        CircuitState.EXTENDING: {_HOP: CircuitState.EXTENDING, _BUILT: CircuitState.BUILT, **_ENDS},
        CircuitState.BUILT: {_EXTEND: CircuitState.EXTENDING, _CLOSED: CircuitState.CLOSED},
    },
    deadlines={CircuitState.CREATING: HOP_TIMEOUT, CircuitState.EXTENDING: HOP_TIMEOUT},
    standing={CircuitState.BUILT: "its user, one of its relays or its link closes it"},
)


class ClientCircuit:
    """One circuit of ours.

    Args:
        link: an open link to path[0].
        path: 1 to MAX_HOPS distinct nodes, first to last.
        on_built: called once all hops stand, also after `extend`.
        on_gone: called once with a DestroyReason when the circuit is gone, whoever closed it; for its builder.

    Attributes:
        on_hop: called with `now` once a hop stands, for all but the last; for its builder.
        on_begin, on_info, on_closed: hooks of its user; on_closed(reason, now) is called once, after `on_gone`.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        link: Link,
        path: Sequence[RelayTarget],
        on_built: Callable[[ClientCircuit, float], None],
        on_gone: Callable[[ClientCircuit, int, float], None],
        now: float,
    ) -> None:
        _check_path(path)
        _check_keys(path, link)
        self.path: tuple[RelayTarget, ...] = tuple(path)
        self.on_hop: Callable[[float], None] = lambda now: None
        self.on_begin: AcceptHook | None = None
        self.on_info: InfoHook | None = None
        self.on_closed: Callable[[int, float], None] | None = None
        self.on_gone = on_gone
        self._on_built: Callable[[ClientCircuit, float], None] | None = on_built
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._link = link
        self._hops: list[Hop] = []
        # DATA goes in RELAY_EARLY too, in a random number of cells. Each hop sees one less than the hop before. A relay
        # that counts must not learn the circuit's length, its own position, or whether its neighbour is the origin.
        self._early_data = rng.random(1)[0] % (MAX_EARLY_DATA + 1)
        self._handshake: ClientHandshake | None = None
        self._endpoint: Endpoint | None = None
        self._leg: Leg | None = None  # stands in place of the endpoint, once this circuit is part of a set
        self.id = link.attach(self)
        self._machine = StateMachine(CIRCUIT, outbox, self._timed_out, now)
        handshake = self._start_handshake(self.path[0])
        if handshake.kind == HandshakeType.FAST:
            link.send_one(self.id, Command.CREATE_FAST, handshake.onionskin)
        else:
            link.send_one(self.id, Command.CREATE2, Create2(handshake.kind, handshake.onionskin).encode())

    # -- for its user

    @property
    def built(self) -> bool:
        return self._machine.state is CircuitState.BUILT

    @property
    def closed(self) -> bool:
        return self._machine.state is CircuitState.CLOSED

    @property
    def unlinked(self) -> bool:
        """Whether our link to the first hop is gone. A DestroyReason would not tell: relays send any."""
        return not self._link.open

    @property
    def in_use(self) -> bool:
        """Whether a stream is open on it."""
        return self._endpoint is not None and bool(self._endpoint.entries)

    @property
    def idle(self) -> bool:
        """Whether it stands and nothing is under way on it, so that it can be extended."""
        return self.built and not self.in_use

    @property
    def hops_built(self) -> int:
        return len(self._hops)

    @property
    def binding(self) -> bytes:
        """KH of its last hop, as in Hop."""
        return self._hops[-1].binding

    def open_stream(self, target: str, handler: Handler | None, now: float, flags: int = 0) -> Stream:
        """BEGIN to "host:port" or "<hash>.rdv:0" at the last hop. `handler`: None for a stream that a pipe is
        to be joined to. `flags`: as in Begin. Raises LocalError when it is not built."""
        if not self.built or self._endpoint is None:
            raise LocalError("this circuit is not open")
        stream = self._endpoint.open_stream(target, flags)
        stream.handler = handler
        return stream

    def open_directory(self, handler: Handler, now: float) -> Stream:
        """BEGIN_DIR: a stream to the last hop's own directory. Raises LocalError when the circuit is not built."""
        if not self.built or self._endpoint is None:
            raise LocalError("this circuit is not open")
        stream = self._endpoint.open_directory()
        stream.handler = handler
        return stream

    def resolve(self, host: str, reply: ResolvedReply) -> None:
        """Have the last hop look a host name up. Raises LocalError when the circuit is not built."""
        if not self.built or self._endpoint is None:
            raise LocalError("this circuit is not open")
        self._endpoint.resolve(host, reply)

    def send_message(self, command: int, payload: bytes) -> None:
        """A relay message on stream 0 to the last hop."""
        if self._endpoint is not None:
            self._endpoint.send_message(command, 0, payload)

    def extend(self, node: RelayTarget, on_built: Callable[[ClientCircuit, float], None], now: float) -> None:
        """Add a hop to a built circuit that carries no stream. Raises LocalError for any other circuit."""
        if not self.idle:
            raise LocalError("this circuit cannot be extended now")
        _check_path((*self.path, node))
        _check_keys((*self.path, node), self._link)
        self.path = (*self.path, node)
        self._on_built = on_built
        self._machine.move(_EXTEND, now)
        self._extend_next()

    def join(self, linked: LinkedSet, now: float) -> Leg:
        """Become a leg of a set, which carries all streams from now on. Raises LocalError when it is not built, and
        RemoteError if it cannot be a leg."""
        if not self.built or self._endpoint is None or self._leg is not None:
            raise LocalError("this circuit cannot join a set now")
        self._leg = linked.add(self._endpoint.hand_over(), self.destroy, now)
        return self._leg

    def destroy(self, reason: int, now: float) -> None:
        """Close the circuit; every stream on it ends."""
        if not self.closed:
            self._machine.move(_CLOSED, now)
            self._leave(reason, now)

    # -- for the link

    def relay(self, run: bytes, early: bool, now: float) -> None:
        """A run of cells from the first hop."""
        if early:
            raise RemoteError("RELAY_EARLY towards the origin")
        if not self._hops:
            raise RemoteError("RELAY before CREATED2")
        self._unwrap(run, 0, now)
        receiver = self._leg or self._endpoint
        if receiver is not None:
            receiver.settle(now)

    def created(self, payload: bytes, fast: bool, now: float) -> None:
        """CREATED2 or CREATED_FAST from the first hop."""
        if self._hops:
            raise RemoteError("CREATED2 twice")
        assert self._handshake is not None
        if fast != (self._handshake.kind == HandshakeType.FAST):
            raise RemoteError("CREATED_FAST in answer to CREATE2, or the reverse")
        self._finish_handshake(payload[: 2 * FAST_LEN] if fast else Created2.parse(payload).handshake_data, now)

    def create(self, payload: bytes, now: float) -> None:
        raise RemoteError("CREATE2 on a circuit of ours")

    def destroyed(self, reason: int, now: float) -> None:
        """DESTROY came, or the link is gone; the link has forgotten us."""
        if not self.closed:
            self._machine.move(_CLOSED, now)
            self._gone(reason, now)

    def broken(self, error: RemoteError, now: float) -> None:
        """Input on this circuit broke a rule."""
        self._outbox.emit(CircuitBroken(str(error)))
        self.destroy(DestroyReason.PROTOCOL, now)

    def drained(self, now: float) -> None:
        receiver = self._leg or self._endpoint
        if receiver is not None:
            receiver.resume()

    # -- building

    def _start_handshake(self, node: RelayTarget) -> ClientHandshake:
        self._handshake = begin_handshake(self._crypto, self._rng, node)
        return self._handshake

    def _finish_handshake(self, reply: bytes, now: float) -> None:
        if self._handshake is None:
            raise RemoteError("a handshake reply that was not asked for")
        handshake, self._handshake = self._handshake, None
        last = handshake.finish(reply)
        self._hops.append(last)
        if self._endpoint is not None:
            self._endpoint.supersede()
        endpoint = Endpoint(
            self._outbox,
            last.format,
            last.new_flow(),
            self._transmit,
            self._link_congested,
            originates=True,
        )
        endpoint.on_message = self._message
        endpoint.on_begin = self._begin
        self._endpoint = endpoint
        if len(self._hops) < len(self.path):
            self._machine.move(_HOP, now)
            self._extend_next()
            self.on_hop(now)
            return
        self._machine.move(_BUILT, now)
        built, self._on_built = self._on_built, None
        if built is not None:
            built(self, now)

    def _extend_next(self) -> None:
        node = self.path[len(self._hops)]
        handshake = self._start_handshake(node)
        message = Extend2(node.specifiers, handshake.kind, handshake.onionskin).encode()
        run, _ = self._wrap([self._hops[-1].format.pack(RelayCommand.EXTEND2, 0, message)])
        self._link.send(self.id, Command.RELAY_EARLY, run)

    # -- layers

    def _wrap(self, cells: list[bytes]) -> tuple[bytes, Sequence[bytes]]:
        """The run, and the running digest at the last hop after each cell."""
        last, *others = (hop.keys.forward for hop in reversed(self._hops))
        sealed, digests = last.seal_run(cells)
        run = last.crypt(sealed)
        for layer in others:
            run = layer.crypt(run)
        return run, digests

    def _transmit(self, cells: list[bytes]) -> Sequence[bytes]:
        if self.closed:
            return ()
        run, digests = self._wrap(cells)
        early = min(self._early_data, len(cells)) if len(self._hops) > 1 else 0
        if early > 0:
            self._early_data -= early
            self._link.send(self.id, Command.RELAY_EARLY, run[: early * PAYLOAD_LEN])
            run = run[early * PAYLOAD_LEN :]
        if run:
            self._link.send(self.id, Command.RELAY, run)
        return digests

    def _unwrap(self, run: bytes, depth: int, now: float) -> None:
        """Peel layers from `depth` on. A cell from a middle hop splits the run: deeper key streams skip it."""
        last = len(self._hops) - 1
        while depth < last:
            layer = self._hops[depth].keys.backward
            run = layer.crypt(run)
            for index in recognized_candidates(run):
                cell = run[index * PAYLOAD_LEN : (index + 1) * PAYLOAD_LEN]
                if layer.accepts(cell):
                    if index:
                        self._unwrap(run[: index * PAYLOAD_LEN], depth + 1, now)
                    self._from_middle(cell, now)
                    return  # the one message that a middle hop may send closes the circuit
            depth += 1
        layer = self._hops[last].keys.backward
        receiver = self._leg or self._endpoint
        assert receiver is not None
        receiver.receive(*layer.accept_all(layer.crypt(run)), now)

    def _from_middle(self, cell: bytes, now: float) -> None:
        command, _, data = unpack_message(cell)
        if command != RelayCommand.TRUNCATED:
            raise RemoteError(f"relay command {command} from a hop that is not the last")
        self._truncated(data, now)

    # -- messages on stream 0

    def _message(self, command: int, payload: bytes, now: float) -> None:
        if command == RelayCommand.EXTENDED2:
            if len(self._hops) == len(self.path):
                raise RemoteError("EXTENDED2 that was not asked for")
            self._finish_handshake(Extended2.parse(payload).handshake_data, now)
        elif command == RelayCommand.TRUNCATED:
            self._truncated(payload, now)
        elif command == RelayCommand.DB_INFO and self.on_info is not None:
            self.on_info(payload)
        else:
            raise RemoteError(f"relay command {command} was not expected at an origin")

    def _truncated(self, payload: bytes, now: float) -> None:
        """Part of the circuit is gone: an origin closes the rest and builds a new one."""
        self.destroy(Truncated.parse(payload).reason, now)

    def _begin(self, stream_id: int, begin: Begin, now: float) -> None:
        endpoint = self._endpoint
        assert endpoint is not None
        if self.on_begin is None or not self.built:
            endpoint.refuse(stream_id, EndReason.NOTDIRECTORY)
            return
        refusal = endpoint.offer(stream_id, begin, self.on_begin, now)
        if refusal is not None:
            endpoint.refuse(stream_id, refusal)

    # -- closing

    def _link_congested(self) -> bool:
        return self._link.congested

    def _timed_out(self, state: CircuitState, now: float) -> None:
        self._leave(DestroyReason.TIMEOUT, now)

    def _leave(self, reason: int, now: float) -> None:
        self._link.destroy(self.id, DestroyReason.NONE)  # an origin tells no reasons (tor-spec "Tearing down")
        self._gone(reason, now)

    def _gone(self, reason: int, now: float) -> None:
        receiver = self._leg or self._endpoint
        if receiver is not None:
            receiver.close(now)
        self.on_gone(self, reason, now)
        if self.on_closed is not None:
            self.on_closed(reason, now)


def _check_path(path: Sequence[RelayTarget]) -> None:
    if not 1 <= len(path) <= MAX_HOPS:
        raise LocalError(f"a circuit has 1 to {MAX_HOPS} hops")
    if len({node.identity for node in path}) != len(path):
        raise LocalError("a circuit's nodes are distinct")


def _check_keys(path: Sequence[RelayTarget], link: Link) -> None:
    """CREATE_FAST is for one hop, over a link that nobody else can read."""
    if not all(node.ntor_key for node in path) and not (len(path) == 1 and link.handshake.authenticated):
        raise LocalError("a relay without an onion key can be the only hop of a circuit over an authenticated link")
