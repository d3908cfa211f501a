"""The nodes of one of several facilitators, which share a store.

Does: what registry.py does, for nodes that registered at any of them; know whose channel leads to a node; write down
what is new here, take over what is new elsewhere.
Does not: know the store, or how it is (sharing.py).

Every facilitator has all nodes in memory and answers from there. A node counts here once the store has it: whoever is
killed then loses nothing. The store also decides what two facilitators could decide differently: limits over all of
them, the newest descriptor, who has the newest channel. Where it does not answer, each goes by what it knows, tells the
others what it can, and writes the rest down later.

`GRACE` begins when the newest channel of a node is closed, at whichever facilitator, or when that facilitator is gone.
If nothing was heard of that one since this one began, all may have been away: nodes have `RETURN` to come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Hashable
from hashlib import sha256
from typing import Any

from convergence.effects import Failure
from convergence.errors import ParseError
from convergence.facilitator import registry
from convergence.facilitator.questions import Put, Written
from convergence.facilitator.registry import Admitted, Node, Refusal, Registry, RegistryLimits
from convergence.facilitator.sharing import Sharing
from convergence.outbox import Outbox
from convergence.ports import Crypto
from convergence.wire.descriptor import Descriptor
from convergence.wire.sharing import NOBODY, Dropped, NodeRecord

RETURN = 300.0
"""Seconds in which nodes come back after no facilitator was there. They try every 3 minutes at least."""
SAVED_AT_ONCE = 64
"""Nodes that are written down at once when the store works again; the others wait for those."""


class SharedRegistry(Registry):
    """As Registry. `Sharing` tells it of the others."""

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        seed: bytes,
        limits: RegistryLimits,
        sharing: Sharing,
        *,
        on_loaded: Callable[[Node, bool, float], None],
        on_changed: Callable[[Node, float], None],
        on_dropped: Callable[[Node, float], None],
    ) -> None:
        super().__init__(
            outbox, crypto, seed, limits, on_loaded=on_loaded, on_changed=on_changed, on_dropped=on_dropped
        )
        self._sharing = sharing
        self._unsaved: deque[bytes] = deque()  # of which the store is to have the next ones
        self._heard: set[bytes] | None = None  # while all is read: of which something was read, or told since then

    def _load(self, now: float) -> None:
        """All are read when the store is there."""

    # Who is there

    def connected(self, node: Node) -> bool:
        return bool(node.channels) or self._sharing.there(node.holder)

    def holder(self, identity: bytes) -> bytes | None:
        """The other facilitator that has this node's channel, if one does."""
        node = self.nodes.get(identity)
        return None if node is None or node.holder in (NOBODY, self._sharing.name) else node.holder

    def source(self, identity: bytes) -> Hashable:
        """Where this node registered from, the node itself where that is unknown."""
        node = self.nodes.get(identity)
        return (node and node.source) or identity

    def ours(self, node: Node) -> bool:
        """The one with its channel does or, where there is none, one that all agree on."""
        if self.connected(node):
            return node.holder == self._sharing.name
        names = (self._sharing.name, *self._sharing.peers)
        return min(names, key=lambda name: sha256(name + node.identity).digest()) == self._sharing.name

    def _summary(self, node: Node, now: float) -> dict[str, Any]:
        holder = node.holder.hex()[:8] if node.holder != NOBODY else None
        return {**super()._summary(node, now), "facilitator": holder}

    # Nodes that register here

    def _confirm(self, node: Node, then: Admitted, now: float) -> None:
        known = self.nodes.get(node.identity)
        if node is known and node.holder == self._sharing.name:
            then(node, now)  # it says the same again
            return

        def written(result: Written | Failure, now: float) -> None:
            known = self.nodes.get(node.identity)
            newer = known is not None and known.published > node.published
            if newer or result is Written.STALE:
                then(registry.stale(), now)
            elif result is Written.CROWDED:
                then(registry.crowded(self._limits), now)
            elif result is Written.FULL:
                then(registry.full(self._limits), now)
            else:
                if isinstance(result, Failure) and known is None:
                    try:
                        self._make_room(node.source, now)  # others may have come while the store was asked
                    except Refusal as refusal:
                        then(refusal, now)
                        return
                admitted = self._admit(node, now)
                admitted.holder, admitted.saved = self._sharing.name, result is Written.OK
                self._tell_unsaved(admitted, now)
                then(admitted, now)

        if self._sharing.works:
            self._put(node, self._sharing.name, None, written, now)
        else:
            written(Failure("io", "the store does not work"), now)

    def detach(self, node: Node, channel: int, now: float) -> None:
        self._part(node, channel)
        if node.channels or self.nodes.get(node.identity) is not node:
            return
        if node.holder == self._sharing.name:
            self._release(node, now)

    def found(self, node: Node, reached: int, now: float) -> None:
        before = node.reached
        super().found(node, reached, now)
        if reached != before:
            self._write(node, node.holder, now)

    def drop(self, node: Node, why: str, now: float) -> None:
        """Also elsewhere; but whoever has its channel meanwhile keeps one that was disconnected here, and says himself
        when it expires: our clock may be wrong. Where it is not known what the store has, it is deleted in any case:
        whoever has its channel writes it down again."""
        ours = self.ours(node)
        self._forget(node, why, now)
        if why == "expired" and not ours:
            return
        only_from = _text(node.holder) if why == "disconnected" and node.saved else None
        self._sharing.drop(Dropped(node.identity, node.published), only_from, now)

    def _keep(self, node: Node, now: float) -> None:
        """The store has it already."""

    # What the others tell

    def reading(self) -> None:
        self._heard = set()

    def read(self, record: NodeRecord, now: float) -> None:
        """What was told since reading began may be newer."""
        self._merge(record, now, self._heard or ())

    def all_read(self, now: float) -> None:
        """A node that the store lacks may have left meanwhile; or the store has lost it, and whoever has its channel
        writes it down again within GRACE."""
        heard, self._heard = self._heard or set(), None
        for node in self.nodes.values():
            if node.identity not in heard:
                node.saved = False
                if not node.channels:
                    self._begin_grace(node, now)
        self._unsaved = deque(identity for identity, node in self.nodes.items() if not node.saved)
        for _ in range(SAVED_AT_ONCE):
            self._save_next(now)

    def recorded(self, record: NodeRecord, now: float) -> None:
        self._merge(record, now)

    def dropped(self, identity: bytes, published: int, now: float) -> None:
        """If its channel is ours, it has to be written down anew."""
        if self._heard is not None:
            self._heard.add(identity)
        node = self.nodes.get(identity)
        if node is None or node.published > published:
            return
        if node.channels and node.expires > now:
            self._claim(node, now)
        else:
            self._forget(node, "dropped elsewhere", now)

    def came(self, facilitator: bytes, now: float) -> None:
        for node in self.nodes.values():
            if node.holder == facilitator and node.saved:  # else it left while that one was not heard
                self._end_grace(node)

    def gone(self, facilitator: bytes, now: float) -> None:
        for node in list(self.nodes.values()):
            if node.holder == facilitator:
                if node.channels:
                    self._claim(node, now)
                else:
                    self._begin_grace(node, now)

    def _merge(self, record: NodeRecord, now: float, but: Container[bytes] = ()) -> None:
        """Take over what another facilitator says of a node, or what the store has kept, unless it is one of `but`: it
        is sealed by one of us, who checked its signature."""
        try:
            descriptor = Descriptor.parse(record.descriptor)
        except ParseError:
            return
        if descriptor.identity in but:
            return
        node = self.nodes.get(descriptor.identity)
        new = node is None
        if node is None:
            if len(self.nodes) >= 2 * self._limits.nodes:
                return
            source = record.source.hex() if record.source != NOBODY else ""
            node = self._enter(Node.of(descriptor, record.descriptor, now, source, record.first))
            if node.dialled:
                self._on_loaded(node, False, now)
        elif descriptor.published < node.published:
            return
        if self._heard is not None:
            self._heard.add(descriptor.identity)
        self._take_over(node, descriptor, record, new, now)

    def _take_over(self, node: Node, descriptor: Descriptor, record: NodeRecord, new: bool, now: float) -> None:
        before, said = node.listed, node.raw
        self._renew(node, descriptor, record.descriptor)
        node.seen, node.saved = now, True
        node.first = min(node.first, record.first)
        if not node.channels or record.holder != self._sharing.name:  # of what is ours, we know more
            node.reached, node.misses, node.holder = record.reached, 0, record.holder
        if node.listed and (new or not before):
            self._tell(node)
        if new or (node.listed, node.raw) != (before, said):
            self._changed(node, now)
        if node.channels and not self._sharing.there(node.holder):
            self._claim(node, now)  # the newest channel is closed, and ours stands
        elif not node.channels and node.holder == self._sharing.name:
            self._release(node, now)  # the store did not hear that its channel closed
        elif node.holder == NOBODY:
            self._begin_grace(node, now)
        elif self._sharing.there(node.holder):
            self._end_grace(node)
        else:
            self._begin_grace(node, now, RETURN)

    # What is written down

    def _claim(self, node: Node, now: float) -> None:
        """Its channel is ours."""
        node.holder = self._sharing.name
        self._write(node, None, now)

    def _save_next(self, now: float) -> None:
        while self._unsaved:
            node = self.nodes.get(self._unsaved.popleft())
            if node is not None and node.channels and not node.saved:
                node.holder = self._sharing.name
                self._write(node, None, now, self._save_next)
                return

    def _release(self, node: Node, now: float) -> None:
        """Its channel was ours, and is closed."""
        node.holder = NOBODY
        self._write(node, self._sharing.name, now)
        self._begin_grace(node, now)

    def _write(
        self, node: Node, only_from: bytes | None, now: float, then: Callable[[float], None] = lambda now: None
    ) -> None:
        """The store is to have it as it is now; `only_from` as in Put; `then` if it did not fail."""

        def written(result: Written | Failure, now: float) -> None:
            if self.nodes.get(node.identity) is node:
                node.saved = not isinstance(result, Failure)
                if result in (Written.CROWDED, Written.FULL):
                    self._forget(node, "crowded out", now)
                self._tell_unsaved(node, now)
            if not isinstance(result, Failure):
                then(now)

        if self._sharing.works:
            self._put(node, node.holder, only_from, written, now)
        else:
            node.saved = False
            self._tell_unsaved(node, now)

    def _put(
        self,
        node: Node,
        holder: bytes,
        only_from: bytes | None,
        then: Callable[[Written | Failure, float], None],
        now: float,
    ) -> None:
        def question(body: bytes) -> Put:
            return Put(
                identity=node.identity,
                published=node.published,
                digest=sha256(node.raw).hexdigest()[:16],
                source=node.source,
                holder=_text(holder),
                most=self._limits.nodes,
                most_each=self._limits.each,
                body=body,
                only_from=None if only_from is None else _text(only_from),
            )

        self._sharing.put(_record(node, holder), question, then, now)

    def _tell_unsaved(self, node: Node, now: float) -> None:
        """What the store does not keep now, it may still pass on."""
        if not node.saved:
            self._sharing.tell_all(_record(node, node.holder), now)


def _record(node: Node, holder: bytes) -> NodeRecord:
    source = bytes.fromhex(node.source) if node.source else NOBODY
    return NodeRecord(holder, node.reached, node.first, source, node.raw)


def _text(holder: bytes) -> str:
    """A holder as a Put names it."""
    return "" if holder == NOBODY else holder.hex()
