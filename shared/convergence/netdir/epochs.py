"""Signed buckets, as a facilitator makes them: rings of all registered nodes, one signature for each epoch.

Does: keep the rings while nodes come and go; sign a header; answer requests for buckets of the last two epochs.
Does not: decide who is registered and since when (the facilitator), or draw the shared random value (draw.py).

A registration costs one hash, whatever the number of nodes. When an epoch is signed, the buckets that changed are
sorted and hashed anew, and the paths above them. All nodes get other places once a day, with the shared random value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import floor
from typing import NamedTuple

from convergence.crypto.merkle import MerkleTree
from convergence.errors import LocalError
from convergence.netdir.headers import EPOCH
from convergence.netdir.rings import AGED, BEFORE, CLASSES, index_of, leaf_of
from convergence.netdir.view import place_of
from convergence.wire.buckets import (
    MAX_DEPTH,
    MAX_IN_BUCKET,
    Bucket,
    BucketRequest,
    Entry,
    EpochHeader,
    Ring,
    RingKind,
    SharedValue,
)
from convergence.wire.certs import Sign
from convergence.wire.descriptor import Descriptor

HEADER_LIFETIME = 3 * 3600
"""Seconds from a header's `published` to its `expires`, as for lists."""
MANY = 128
"""Nodes in a bucket, on average, above which a ring gets twice as many buckets..."""
FEW = 48
"""...and below which it gets half as many."""
KEPT = 2
"""Epochs of which buckets are served."""


def epoch_of(now: float) -> int:
    return floor(now / EPOCH)


def kinds_of(node: Descriptor, since: int, value: SharedValue, before: SharedValue) -> set[RingKind]:
    """The rings that a node is in."""
    target = node.target
    kinds = {kind for kind, members in CLASSES.items() if members.holds(target)}
    young = {kind for kind in AGED if since >= (before if kind in BEFORE else value).fixed}
    return kinds - young


class _Member(NamedTuple):
    place: bytes
    entry: Entry
    signed: int  # first epoch that has it; 0 while none has


@dataclass(frozen=True, slots=True)
class _Signed:
    """A ring as of one epoch."""

    epoch: int
    ordered: int  # the epoch since which nodes have their places and buckets their borders
    buckets: list[tuple[_Member, ...]]
    proofs: MerkleTree


class RingBuilder:
    """One ring."""

    def __init__(self) -> None:
        self._value = b""
        self._depth = 0
        self._ordered = 0
        self._members: dict[bytes, _Member] = {}
        self._inside: list[set[bytes]] = [set()]  # identities, by bucket
        self._stale = {0}  # buckets that changed since the last epoch
        self._buckets: list[tuple[_Member, ...]] = [()]
        self._tree = MerkleTree(1)
        self._signed: deque[_Signed] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._members)

    def put(self, identity: bytes, entry: Entry) -> None:
        """The node is in this ring, and this is what is known of it."""
        known = self._members.get(identity)
        if known is None or known.entry != entry:
            place = place_of(self._value, identity) if known is None else known.place
            self._members[identity] = _Member(place, entry, 0)
            self._touch(identity, place)

    def drop(self, identity: bytes) -> None:
        """The node is not in this ring. Does nothing if it was not."""
        known = self._members.pop(identity, None)
        if known is not None:
            index = index_of(known.place, self._depth)
            self._inside[index].discard(identity)
            self._stale.add(index)

    def sign_off(self, kind: int, epoch: int, value: bytes) -> Ring:
        """The ring of this epoch, as it is now, in the order of `value`."""
        self._order(epoch, value)
        for index in self._stale:
            bucket = tuple(self._bucket(index, epoch))
            self._buckets[index] = bucket
            leaf = leaf_of(member.entry for member in bucket)
            self._tree.learn(index, leaf, self._tree.proof(index) or ())
        self._stale.clear()
        count = sum(map(len, self._buckets))
        self._signed.append(_Signed(epoch, self._ordered, list(self._buckets), self._tree.copy()))
        return Ring(kind, self._depth, count, self._tree.root)

    def answer(self, request: BucketRequest) -> Bucket | None:
        """The bucket that is asked for; None if there is none, or none any more."""
        signed = next((item for item in self._signed if item.epoch == request.epoch), None)
        if signed is None or request.index >= len(signed.buckets):
            return None
        known = request.have if signed.ordered <= request.have < request.epoch else 0
        items = tuple(
            member.entry.reference if member.signed <= known else member.entry
            for member in signed.buckets[request.index]
        )
        return Bucket(
            request.epoch, request.kind, request.index, tuple(signed.proofs.proof(request.index) or ()), items
        )

    def _touch(self, identity: bytes, place: bytes) -> None:
        index = index_of(place, self._depth)
        self._inside[index].add(identity)
        self._stale.add(index)

    def _bucket(self, index: int, epoch: int) -> Iterable[_Member]:
        """The nodes of a bucket in order. If there are too many, somebody makes keys for it: the oldest stay."""
        inside = self._inside[index]
        if len(inside) > MAX_IN_BUCKET:
            inside = set(sorted(inside, key=lambda key: (self._members[key].entry.since, key))[:MAX_IN_BUCKET])
        for identity in sorted(inside, key=lambda key: self._members[key].place):
            member = self._members[identity]
            if not member.signed:
                member = self._members[identity] = member._replace(signed=epoch)
            yield member

    def _order(self, epoch: int, value: bytes) -> None:
        """Give all nodes their places anew if these, or the number of buckets, changed."""
        depth = self._depth
        while depth < MAX_DEPTH and len(self) > MANY << depth:
            depth += 1
        while depth and len(self) < FEW << depth:
            depth -= 1
        if (value, depth) == (self._value, self._depth):
            return
        if value != self._value:
            self._members = {key: member._replace(place=place_of(value, key)) for key, member in self._members.items()}
        self._value, self._depth, self._ordered = value, depth, epoch
        size = 1 << depth
        self._inside = [set() for _ in range(size)]
        self._buckets = [()] * size
        self._tree = MerkleTree.of(leaf_of(()) * size)
        self._stale = set(range(size))
        for identity, member in self._members.items():
            self._touch(identity, member.place)


class Epochs:
    """All rings of a facilitator.

    Args:
        identity: the facilitator's.
        sign: signs with it.
    """

    def __init__(self, identity: bytes, sign: Sign) -> None:
        self._identity = identity
        self._sign = sign
        self._rings = {kind: RingBuilder() for kind in RingKind}
        self._nodes: dict[bytes, tuple[Descriptor, Entry]] = {}
        self._value = self._before = SharedValue(bytes(32), 0)
        self.header: EpochHeader | None = None
        """Of the latest epoch."""

    def put(self, node: Descriptor, raw: bytes, since: int) -> None:
        """A node is listed, with this descriptor. `since`: when it came (Unix seconds)."""
        entry = Entry(raw, since)
        self._nodes[node.identity] = node, entry
        self._place(node, entry)

    def older(self, identity: bytes, since: int) -> None:
        """If the node is listed: it came earlier than was known."""
        if identity in self._nodes:
            node, entry = self._nodes[identity]
            self.put(node, entry.descriptor, since)

    def drop(self, identity: bytes) -> None:
        """A node is no longer listed."""
        if self._nodes.pop(identity, None) is not None:
            for ring in self._rings.values():
                ring.drop(identity)

    def sign(self, value: SharedValue, before: SharedValue, committed: bytes | None, now: float) -> EpochHeader:
        """Begin the epoch of `now` with the nodes that there are. Raises LocalError for one that was signed already,
        or an earlier one: who signs two headers of one epoch is taken for a liar."""
        epoch = epoch_of(now)
        if self.header is not None and epoch <= self.header.epoch:
            raise LocalError("a header of this epoch, or a later one, is signed")
        if (value, before) != (self._value, self._before):
            self._value, self._before = value, before
            for node, entry in self._nodes.values():
                self._place(node, entry)
        rings = tuple(
            ring.sign_off(kind, epoch, (before if kind in BEFORE else value).value)
            for kind, ring in self._rings.items()
        )
        published = int(now)
        dates = epoch, published, published + HEADER_LIFETIME
        header = EpochHeader(*dates, value, before, committed or bytes(32), rings, self._identity)
        self.header = header.sign(self._sign)
        return self.header

    def answer(self, request: BucketRequest) -> Bucket | None:
        """The bucket that is asked for; None if there is none, or none any more."""
        ring = self._rings.get(RingKind(request.kind)) if request.kind in tuple(RingKind) else None
        return None if ring is None else ring.answer(request)

    def _place(self, node: Descriptor, entry: Entry) -> None:
        kinds = kinds_of(node, entry.since, self._value, self._before)
        for kind, ring in self._rings.items():
            if kind in kinds:
                ring.put(node.identity, entry)
            else:
                ring.drop(node.identity)
