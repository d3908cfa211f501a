"""The nodes that a facilitator knows, and the list of them that it signs.

Does: admit nodes within limits, keep them for as long as they count, also in storage; sign the list. Where several
facilitators share a store, shared.py does more.
Does not: carry channels, check proofs (service.py), or dial (reaching.py).

A node stays listed until its descriptor expires, and at most `GRACE` seconds after the last channel that registered it
was closed. One loaded from storage is listed for longer, `RESTORED` seconds or, if it has an address, until it expires:
its node may not have come back yet. A node without roles (one that pauses) is registered, so that signals reach it, and
not listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from convergence.effects import Failure
from convergence.errors import ParseError
from convergence.events import NodeLost, NodeRegistered, StorageTrouble
from convergence.facilitator.crowd import Crowd
from convergence.facilitator.expiry import Expiry
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto
from convergence.wire.descriptor import Descriptor, TransportKind
from convergence.wire.facilitator import MAX_LISTED, ErrorCode, NodeList
from convergence.wire.sharing import NOBODY
from convergence.wire.target import Role

BUCKET = "node"
NODE_MEMORY = 3072
"""Bytes that a node takes in all, with its channel, its places in the buckets of two epochs and its age: measured with
a million (docs/benchmarks.md). Its connection takes more, and that of the shell."""
MAX_REGISTERED = 65_536
"""200 MB. A list holds MAX_LISTED of them, those that came first; header and buckets tell of all."""
MAX_REGISTERED_EACH = 256
"""Nodes of one source that are registered at once. Where all are, the newest of the source that has most makes room."""
MAX_CHANNELS = 4096
"""Open channels. Each holds at most one incomplete record (2 KB), and those that wait for a registration (40 KB)."""
GRACE = 30.0
"""Seconds a node stays listed after its channel was closed."""
RESTORED = 900.0
"""The same of one without an address after a restart of ours. If it is there, it comes back within minutes
(`client.RETRY_MAX`)."""
SWEEP_INTERVAL = 10.0
"""Seconds between looks for expired nodes."""
LIST_INTERVAL = 60.0
"""Seconds a signed list is served as it is while no node changes."""
FEW_LISTED = 1024
"""Nodes in a list up to which it is signed again with each change..."""
LIST_PAUSE = 1.0
"""...and seconds at least between two longer ones."""
LIST_LIFETIME = 3 * 3600
"""Seconds from a list's `published` to its `expires`."""
MAX_TOLD = 1024
"""Nodes in a health summary."""


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """What one facilitator holds.

    Args:
        nodes: registered at once, here and at others that share the store.
        each: of them from one source.
        channels: open at once, here.
    """

    nodes: int = MAX_REGISTERED
    each: int = MAX_REGISTERED_EACH
    channels: int = MAX_CHANNELS


class Refusal(Exception):
    """A record that gets an ERROR. The channel goes on unless `fatal`."""

    def __init__(self, code: ErrorCode, text: str, fatal: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.fatal = fatal


read = lru_cache(maxsize=64)(Descriptor.parse)
"""As Descriptor.parse. Within one registration several want to know what the node says."""


@dataclass(slots=True, eq=False)
class Node:
    """A registered node. What it says is kept as it came: a descriptor that was read takes four times as much memory.

    Attributes:
        roles: of the descriptor, as `published` and `expires` are (Unix seconds).
        dialled: whether it has to be found at its address to be listed.
        channels: of ours, on which it registered.
    """

    identity: bytes
    raw: bytes
    published: int
    expires: int
    roles: Role
    dialled: bool
    seen: float
    source: str  # of the channel that registered it first, as the registry names it
    first: int  # Unix seconds: when that was; NEVER where it does not grow old
    reached: int = 0  # Unix seconds
    misses: int = 0  # since then
    check: Timer | None = None
    channels: tuple[int, ...] = ()
    grace: Timer | None = None
    holder: bytes = NOBODY  # of several facilitators, the one that has its newest channel
    saved: bool = True  # whether the store that they share has it as it is
    loaded: bool = False  # from storage, and not back: its source is not known

    @classmethod
    def of(cls, said: Descriptor, raw: bytes, seen: float, source: str, first: int, reached: int = 0) -> Node:
        dates = said.published, said.expires
        return cls(said.identity, raw, *dates, said.roles, said.ws_url is not None, seen, source, first, reached)

    @property
    def descriptor(self) -> Descriptor:
        return read(self.raw)

    @property
    def listed(self) -> bool:
        return bool(self.roles) and (self.reached > 0 or not self.dialled)

    def same_place(self, other: Descriptor) -> bool:
        """Whether what was found of the one holds for the other."""
        if not self.dialled:
            return other.ws_url is None
        said = self.descriptor
        return (said.ws_url, said.ntor_key) == (other.ws_url, other.ntor_key)


Admitted = Callable[[Node | Refusal, float], None]


class Registry:
    """All nodes of the only facilitator.

    Args:
        seed: Ed25519 seed of the facilitator's identity, 32 bytes.
        limits: of how many nodes it keeps.
        on_loaded: called with a node that has an address and did not register here: it has to be looked for, at once
            or (False) some time later.
        on_changed: called with a node that says something new, or is listed now or no longer.
        on_dropped: called with a node that is no longer registered.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        seed: bytes,
        limits: RegistryLimits,
        *,
        on_loaded: Callable[[Node, bool, float], None],
        on_changed: Callable[[Node, float], None] = lambda node, now: None,
        on_dropped: Callable[[Node, float], None],
    ) -> None:
        self.nodes: dict[bytes, Node] = {}
        self.here = 0
        """How many of them have channels of ours."""
        self._identity = crypto.ed25519_public(seed)
        self._outbox = outbox
        self._crypto = crypto
        self._seed = seed
        self._limits = limits
        self._on_loaded = on_loaded
        self._on_changed = on_changed
        self._on_dropped = on_dropped
        self._listed: dict[bytes, Node] = {}  # the oldest first
        self._crowd: Crowd[bytes] = Crowd()
        self._expiry = Expiry()
        self._list = b""
        self._list_signed: float | None = None
        self._list_changed = False
        self._storage_failed = False

    def start(self, now: float) -> None:
        """Load the nodes that were registered before a restart, and begin to sweep."""
        self._load(now)
        self._outbox.call_at(now + SWEEP_INTERVAL, self._sweep)

    # Who is there

    def connected(self, node: Node) -> bool:
        """Whether a channel leads to it."""
        return bool(node.channels)

    def ours(self, node: Node) -> bool:
        """Whether it is this facilitator that looks for the node at its address."""
        return True

    def signed_list(self, now: float, *, anew: bool = False) -> bytes:
        """The encoded NodeList, signed again when nodes changed and every LIST_INTERVAL seconds; with `anew` in this
        very second, for a node that may have the list of another facilitator."""
        age = None if self._list_signed is None else now - self._list_signed
        pause = LIST_PAUSE if len(self._listed) > FEW_LISTED else 0.0
        if (
            age is None
            or not 0 <= age < LIST_INTERVAL
            or (self._list_changed and age >= pause)
            or (anew and int(now) != int(now - age))
        ):
            listed = list(islice((node for node in self._listed.values() if node.expires > now), MAX_LISTED))
            nodes = NodeList(
                int(now),
                int(now) + LIST_LIFETIME,
                tuple(node.raw for node in listed),
                self._identity,
                reached=tuple(node.reached for node in listed),
            )
            self._list = nodes.sign(lambda message: self._crypto.ed25519_sign(self._seed, message)).encode()
            self._list_signed, self._list_changed = now, False
        return self._list

    def health(self, now: float) -> dict[str, Any]:
        """JSON-able: how many nodes there are, and MAX_TOLD of them, those that came first, in order of identity."""
        told = sorted(islice(self.nodes.values(), MAX_TOLD), key=lambda node: node.identity)
        return {
            "registered": len(self.nodes),
            "listed": len(self._listed),
            "nodes": [self._summary(node, now) for node in told],
        }

    def _summary(self, node: Node, now: float) -> dict[str, Any]:
        return {
            "identity": node.identity.hex()[:16],
            "roles": [*_roles(node.descriptor)],
            "transports": [*_transports(node.descriptor)],
            "age": max(0, int(now - node.published)),
            "expires_in": int(node.expires - now),
            "last_seen": max(0, int(now - node.seen)),
            "connected": self.connected(node),
            "reached": max(0, int(now - node.reached)) if node.reached else None,
        }

    # Nodes that register here

    def register(self, descriptor: Descriptor, raw: bytes, source: str, then: Admitted, now: float) -> None:
        """Admit a node that has proved itself on a channel of ours, or what it says anew. Raises Refusal at once;
        `then` gets the node, or a Refusal, perhaps seconds later. Whoever gets the node calls `attach` or `detach`."""
        node = self.nodes.get(descriptor.identity)
        if node is None or node.raw != raw:
            if node is not None and descriptor.published <= node.published:
                raise stale()
            if not descriptor.verify(self._crypto.ed25519_verify):
                raise Refusal(ErrorCode.BAD_SIGNATURE, "the descriptor's signature does not hold", fatal=True)
        if node is None:
            self._make_room(source, now)
            node = Node.of(descriptor, raw, now, source, int(now))
        else:
            if node.loaded:
                self._is_of(node, source)
            if node.raw != raw:
                reached = node.reached if node.same_place(descriptor) else 0
                node = Node.of(descriptor, raw, now, node.source, node.first, reached)
        self._confirm(node, then, now)

    def _confirm(self, node: Node, then: Admitted, now: float) -> None:
        then(self._admit(node, now), now)

    def _admit(self, admitted: Node, now: float) -> Node:
        """It is registered: from now on it counts."""
        node = self.nodes.get(admitted.identity)
        if node is None:
            node = self._enter(admitted)
            if not node.dialled:
                self._tell(node)
            self._changed(node, now)
            self._keep(node, now)
        elif node.raw != admitted.raw:
            if not node.same_place(admitted.descriptor):
                node.reached = node.misses = 0
            self._renew(node, admitted.descriptor, admitted.raw)
            self._changed(node, now)
            self._keep(node, now)
        return node

    def _enter(self, node: Node) -> Node:
        self.nodes[node.identity] = node
        self._crowd.add(node.source, node.identity)
        self._expiry.put(node.identity, node.expires)
        return node

    def _renew(self, node: Node, said: Descriptor, raw: bytes) -> None:
        """The node says this from now on."""
        self._expiry.drop(node.identity, node.expires)
        node.raw, node.published, node.expires = raw, said.published, said.expires
        node.roles, node.dialled = said.roles, said.ws_url is not None
        self._expiry.put(node.identity, node.expires)

    def _changed(self, node: Node, now: float) -> None:
        """It is listed or not, or says something else than before. So the list has to be signed anew."""
        if node.listed and self.nodes.get(node.identity) is node:
            self._listed[node.identity] = node
        else:
            self._listed.pop(node.identity, None)
        self._list_changed = True
        self._on_changed(node, now)

    def attach(self, node: Node, channel: int, now: float) -> None:
        """The node registered on this channel of ours."""
        self.here += not node.channels
        node.channels = (*(other for other in node.channels if other != channel), channel)
        node.seen = now
        self._end_grace(node)

    def detach(self, node: Node, channel: int, now: float) -> None:
        """That channel is closed, or was before the node was admitted."""
        self._part(node, channel)
        if not node.channels:
            self._begin_grace(node, now)

    def _part(self, node: Node, channel: int) -> None:
        if channel in node.channels:
            node.channels = tuple(other for other in node.channels if other != channel)
            self.here -= not node.channels

    def found(self, node: Node, reached: int, now: float) -> None:
        """The node was looked for at its address: `reached` says when it was found; 0: it is not there."""
        before, node.reached = node.listed, reached
        if node.listed == before:
            return
        self._changed(node, now)
        self._keep(node, now)
        if before:
            self._outbox.emit(NodeLost(node.identity.hex()[:16], "unreachable"))
        else:
            self._tell(node)

    def drop(self, node: Node, why: str, now: float) -> None:
        """It no longer counts."""
        self._forget(node, why, now)
        self._outbox.store([(BUCKET, node.identity, None)], self.stored)

    def _forget(self, node: Node, why: str, now: float) -> None:
        del self.nodes[node.identity]
        self._crowd.remove(node.source, node.identity)
        self._expiry.drop(node.identity, node.expires)
        self.here -= bool(node.channels)
        self._end_grace(node)
        if node.check is not None:
            node.check.cancel()
        self._changed(node, now)
        self._on_dropped(node, now)
        self._outbox.emit(NodeLost(node.identity.hex()[:16], why))

    def _begin_grace(self, node: Node, now: float, seconds: float = GRACE) -> None:
        if node.grace is None:
            node.grace = self._outbox.call_at(now + seconds, lambda now: self.drop(node, "disconnected", now))

    def _end_grace(self, node: Node) -> None:
        if node.grace is not None:
            node.grace.cancel()
            node.grace = None

    def _is_of(self, node: Node, source: str) -> None:
        """A node that was loaded is back: it counts for its source again. Raises Refusal."""
        self._check_room(source)
        self._crowd.remove(node.source, node.identity)
        node.source, node.loaded = source, False
        self._crowd.add(source, node.identity)

    def _check_room(self, source: str) -> None:
        if source and self._crowd.count(source) >= self._limits.each:
            raise crowded(self._limits)

    def _make_room(self, source: str, now: float) -> None:
        """Make room for one more node of this source, or raise Refusal. In a full list, the source that has most loses
        its newest node."""
        self._check_room(source)
        if len(self.nodes) >= self._limits.nodes:
            spare = self._crowd.gives_way(source)
            if spare is None:
                raise full(self._limits)
            self.drop(self.nodes[spare], "crowded out", now)

    def _tell(self, node: Node) -> None:
        roles, transports = _roles(node.descriptor), _transports(node.descriptor)
        self._outbox.emit(NodeRegistered(node.identity.hex()[:16], roles, transports))

    def _sweep(self, now: float) -> None:
        for identity in self._expiry.due(now):
            if self.nodes[identity].expires <= now:
                self.drop(self.nodes[identity], "expired", now)
        self._outbox.call_at(now + SWEEP_INTERVAL, self._sweep)

    # Storage

    def _keep(self, node: Node, now: float) -> None:
        """What is not found at its address is not kept."""
        if node.reached or not node.dialled:
            self._outbox.store([(BUCKET, node.identity, node.raw)], self.stored)
        elif node.misses:
            self._outbox.store([(BUCKET, node.identity, None)], self.stored)

    def stored(self, result: None | Failure, now: float) -> None:
        """Without storage the service goes on: nodes come back by themselves. It is told once."""
        if isinstance(result, Failure) and not self._storage_failed:
            self._outbox.emit(StorageTrouble(result.kind, result.message))
        self._storage_failed = isinstance(result, Failure)

    def _load(self, now: float) -> None:
        self._outbox.scan(BUCKET, b"", self._scanned)

    def _scanned(self, result: list[bytes] | Failure, now: float) -> None:
        if isinstance(result, Failure):
            self.stored(result, now)
            return
        for key in result:
            self._load_one(key)

    def _load_one(self, key: bytes) -> None:
        def loaded(result: bytes | None | Failure, now: float) -> None:
            if isinstance(result, Failure):
                self.stored(result, now)
            elif result is not None and not self._restore(key, result, now):
                self._outbox.store([(BUCKET, key, None)], self.stored)

        self._outbox.load(BUCKET, key, loaded)

    def _restore(self, key: bytes, raw: bytes, now: float) -> bool:
        """Whether the stored item is of use. A node that has registered again in the meantime keeps what is newer."""
        try:
            descriptor = Descriptor.parse(raw)
        except ParseError:
            return key in self.nodes
        node = self.nodes.get(key)
        if node is not None:
            if node.same_place(descriptor) and not node.reached:
                node.reached = descriptor.published
                self._changed(node, now)
            return True
        valid = descriptor.identity == key and descriptor.expires > now and len(self.nodes) < self._limits.nodes
        if not valid or not descriptor.verify(self._crypto.ed25519_verify):
            return False
        node = self._enter(Node.of(descriptor, raw, now, "", int(now)))
        node.loaded = True
        if not node.dialled:
            self._begin_grace(node, now, RESTORED)
        else:
            node.reached = descriptor.published  # it was found once, or it would not be stored
            self._on_loaded(node, True, now)
        self._changed(node, now)
        return True


def stale() -> Refusal:
    return Refusal(ErrorCode.STALE, "a newer descriptor of this node is registered")


def crowded(limits: RegistryLimits) -> Refusal:
    return Refusal(ErrorCode.FULL, f"{limits.each} nodes of your network are registered")


def full(limits: RegistryLimits) -> Refusal:
    return Refusal(ErrorCode.FULL, f"{limits.nodes} nodes are registered")


def _roles(node: Descriptor) -> tuple[str, ...]:
    return tuple(role.name.lower() for role in Role if role.name and role in node.roles)


def _transports(node: Descriptor) -> tuple[str, ...]:
    known = [(TransportKind(item.kind), item.address) for item in node.transports if item.kind in tuple(TransportKind)]
    return tuple(address if kind == TransportKind.WS else kind.name.lower() for kind, address in known)
