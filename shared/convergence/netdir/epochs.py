"""Signed buckets, as a facilitator makes them: rings of all listed nodes, one header for each epoch.

Does: keep who is listed; cut all nodes of an epoch into rings and buckets, a bit at a time; sign a header; answer
requests for buckets of the last two epochs.
Does not: decide who is listed and since when (the facilitator), or draw the shared random value (draw.py).

A registration costs no hash. A *cut* is the nodes of one moment, in the order of two values. It is made in steps of a
few milliseconds each, about 10 µs a node in all, while nodes come and go and the buckets of the last cut are served.
Rings of one value differ only in which nodes they leave out. So a cut keeps one order for each value, in slices of
about a hundred nodes, and with each node a few bits that say which rings it is in: a bucket is one slice or several.

All that there is for each node is bytes and numbers, in tables and runs of bytes. Python's garbage collector never
looks into these. New tables of a million objects for each epoch would take it a second, three times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import floor
from typing import NamedTuple

from convergence.crypto.merkle import MerkleTree, leaf_hash
from convergence.errors import LocalError
from convergence.netdir.headers import EPOCH
from convergence.netdir.rings import AGED, BEFORE, CLASSES, index_of, stable_since
from convergence.netdir.view import place_of
from convergence.wire.buckets import (
    HASH_LEN,
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
from convergence.wire.descriptor import KEY_LEN, Descriptor

HEADER_LIFETIME = 3 * 3600
"""Seconds from a header's `published` to its `expires`, as for lists."""
MANY = 128
"""Nodes in a bucket, on average, above which a ring gets twice as many buckets..."""
FEW = 48
"""...and below which it gets half as many."""
KEPT = 2
"""Epochs of which buckets are served."""
NODES_A_STEP = 1000
"""Nodes that get their places in one step of a cut: 5 ms."""
LARGE_TREE = 10
"""log2 of the leaves above which hashing a ring's tree is a step of its own: 2 ms."""
SLICES_A_STEP = 16
"""Slices that are sorted and hashed in one step: 10 ms."""


def epoch_of(now: float) -> int:
    return floor(now / EPOCH)


def classes_of(node: Descriptor) -> int:
    """The rings that a node is in once it is old enough: bit 1 << kind for each."""
    return sum(1 << kind for kind, members in CLASSES.items() if members.holds(node.target))


_AGED = sum(1 << kind for kind in AGED if kind not in BEFORE)
_AGED_BEFORE = sum(1 << kind for kind in AGED if kind in BEFORE)
_STABLE = 1 << RingKind.STABLE
_U32 = 0xFFFFFFFF
_PLACED_LEN = HASH_LEN + 1 + KEY_LEN


class Listed(NamedTuple):
    """A node of a cut: its identity, encoded descriptor, since when it is known, the rings that it is in once it is
    older than their value (bit 1 << kind; STABLE only if it is stable), and the first epoch since which all cuts have
    had just that.
    """

    identity: bytes
    descriptor: bytes
    since: int
    classes: int
    signed: int = 0

    @property
    def entry(self) -> Entry:
        return Entry(self.descriptor, self.since)


class Listing:
    """Nodes, by identity."""

    def __init__(self, nodes: Iterable[Listed] = ()) -> None:
        self._descriptors: dict[bytes, bytes] = {}
        self._facts: dict[bytes, int] = {}  # since | classes u32 | signed u32
        for node in nodes:
            self.put(node)

    def __len__(self) -> int:
        return len(self._facts)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._facts

    def __iter__(self) -> Iterator[Listed]:
        """Meanwhile, nodes that are in it may be put."""
        for identity in self._facts:
            yield self[identity]

    def __getitem__(self, identity: bytes) -> Listed:
        facts = self._facts[identity]
        return Listed(identity, self._descriptors[identity], facts >> 64, facts >> 32 & _U32, facts & _U32)

    def get(self, identity: bytes) -> Listed | None:
        return self[identity] if identity in self else None

    def put(self, node: Listed) -> None:
        self._descriptors[node.identity] = node.descriptor
        self._facts[node.identity] = node.since << 64 | node.classes << 32 | node.signed

    def drop(self, identity: bytes) -> None:
        """If it is there."""
        self._descriptors.pop(identity, None)
        self._facts.pop(identity, None)

    def copy(self) -> Listing:
        made = Listing()
        made._descriptors, made._facts = self._descriptors.copy(), self._facts.copy()
        return made


class _Slice(NamedTuple):
    """The nodes of an equal part of the range of places, in order: their identities, and of each a byte of bits that
    says which rings it is in."""

    identities: bytes
    rings: bytes

    def nodes(self, listing: Listing) -> Iterator[tuple[Listed, int]]:
        for number, rings in enumerate(self.rings):
            yield listing[self.identities[number * KEY_LEN : (number + 1) * KEY_LEN]], rings


class _Order:
    """The nodes in the order of one value, and the rings that follow it."""

    def __init__(self, value: SharedValue, kinds: Sequence[RingKind], depth: int) -> None:
        self.value = value
        self.kinds = kinds  # their numbers follow each other
        self.depth = depth  # 2^depth slices
        self._alike = [0] * (1 << len(kinds))  # nodes, by the rings that they are in
        self._placed = [bytearray() for _ in range(1 << depth)]  # until they are slices: place | rings u8 | identity
        self.slices: list[_Slice] = []

    def place(self, identity: bytes, classes: int) -> None:
        rings = classes >> self.kinds[0] & len(self._alike) - 1
        if rings:
            place = place_of(self.value.value, identity)
            self._placed[index_of(place, self.depth)] += b"%b%c%b" % (place, rings, identity)
            self._alike[rings] += 1

    def count(self, bit: int) -> int:
        return sum(count for rings, count in enumerate(self._alike) if rings >> bit & 1)

    def sort(self, index: int) -> _Slice:
        run, self._placed[index] = bytes(self._placed[index]), bytearray()
        placed = sorted(run[at : at + _PLACED_LEN] for at in range(0, len(run), _PLACED_LEN))
        made = _Slice(b"".join(item[-KEY_LEN:] for item in placed), bytes(item[HASH_LEN] for item in placed))
        self.slices.append(made)
        return made


class Cut:
    """The nodes of one epoch, and their buckets once it is `done`.

    Args:
        epoch: for which it is made.
        nodes: they are this cut's own.
        last: the cut before, for what has not changed since.
        depths: of rings, where another one has chosen them already. Nodes that he left out of STABLE stay out.
    """

    def __init__(
        self,
        epoch: int,
        value: SharedValue,
        before: SharedValue,
        nodes: Listing,
        last: Cut | None,
        depths: Mapping[int, int] | None = None,
    ) -> None:
        self.value = value
        self.before = before
        self.nodes = nodes
        self.rings: tuple[Ring, ...] = ()
        self.steps = 0
        self.epoch = epoch
        self._stable_since = stable_since(epoch)
        self._depths = depths
        slices = max(0, (len(nodes) // FEW).bit_length() - 1)  # no ring has more buckets than that
        depth = min(max(slices, *(depths or {0: 0}).values()), MAX_DEPTH)
        self._orders = (
            _Order(value, [kind for kind in RingKind if kind not in BEFORE], depth),
            _Order(before, BEFORE, depth),
        )
        self._trees: dict[int, MerkleTree] = {}
        self._ordered: dict[int, int] = {}  # since which epoch a ring has its value and as many buckets
        self._work = self._make(last)

    @property
    def done(self) -> bool:
        return bool(self.rings)

    def step(self) -> bool:
        """Do some of what is left, in a few milliseconds. Returns whether it is done."""
        self.steps += 1
        next(self._work, None)
        return self.done

    def _make(self, last: Cut | None) -> Iterator[None]:
        known = Listing() if last is None else last.nodes
        for number, node in enumerate(self.nodes, 1):
            if node.since > self._stable_since:
                node = node._replace(classes=node.classes & ~_STABLE)
            was = known.get(node.identity)
            if was is None or was[1:4] != node[1:4]:
                was = node._replace(signed=self.epoch)
            self.nodes.put(was)
            since, classes = was.since, was.classes
            if since >= self.before.fixed:  # it is too young
                classes &= ~_AGED_BEFORE
            if since >= self.value.fixed:
                classes &= ~_AGED
            for order in self._orders:
                order.place(node.identity, classes)
            if number % NODES_A_STEP == 0:
                yield
        rings = []
        for order in self._orders:
            depths = [self._depth_of(kind, order.count(bit), last) for bit, kind in enumerate(order.kinds)]
            leaves = [bytearray() for _ in order.kinds]
            counts = [0 for _ in order.kinds]
            gathered: list[list[tuple[Listed, bytes]]] = [[] for _ in order.kinds]  # of the bucket that is not whole
            for index in range(1 << order.depth):
                encoded = [(node, node.entry.encode(), ring) for node, ring in order.sort(index).nodes(self.nodes)]
                for bit, depth in enumerate(depths):
                    gathered[bit] += [(node, entry) for node, entry, ring in encoded if ring >> bit & 1]
                    if (index + 1) % (1 << order.depth - depth) == 0:
                        inside = _oldest(gathered[bit])
                        leaves[bit] += leaf_hash(b"".join(entry for _, entry in inside))
                        counts[bit] += len(inside)
                        gathered[bit] = []
                if index % SLICES_A_STEP == SLICES_A_STEP - 1:
                    yield
            for kind, depth, count, leaf in zip(order.kinds, depths, counts, leaves, strict=True):
                self._trees[kind] = tree = MerkleTree.of(bytes(leaf))
                self._ordered[kind] = self._ordered_since(kind, depth, last)
                rings.append(Ring(kind, depth, count, tree.root))
                if depth > LARGE_TREE:
                    yield
        self.rings = tuple(rings)

    def _depth_of(self, kind: RingKind, count: int, last: Cut | None) -> int:
        if self._depths is not None:
            return min(self._depths.get(kind, 0), self._orders[0].depth)
        depth = 0 if last is None else last.rings[kind - 1].depth
        while depth < MAX_DEPTH and count > MANY << depth:
            depth += 1
        while depth and count < FEW << depth:
            depth -= 1
        return depth

    def _ordered_since(self, kind: RingKind, depth: int, last: Cut | None) -> int:
        same = last is not None and (last._order(kind).value, last.rings[kind - 1].depth) == (
            self._order(kind).value,
            depth,
        )
        return last._ordered[kind] if last is not None and same else self.epoch

    def _order(self, kind: RingKind) -> _Order:
        return self._orders[kind in BEFORE]

    def bucket(self, epoch: int, request: BucketRequest) -> Bucket | None:
        """The bucket that is asked for, of the epoch that this cut is signed for; None if there is none."""
        if request.kind not in self._trees or request.index >> self.rings[request.kind - 1].depth:
            return None
        kind = RingKind(request.kind)
        order, each = self._order(kind), self._order(kind).depth - self.rings[kind - 1].depth
        bit = order.kinds.index(kind)
        slices = order.slices[request.index << each : request.index + 1 << each]
        inside = _oldest([(node, b"") for part in slices for node, ring in part.nodes(self.nodes) if ring >> bit & 1])
        known = request.have if self._ordered[kind] <= request.have < epoch else 0
        items = tuple(node.entry.reference if node.signed <= known else node.entry for node, _ in inside)
        return Bucket(epoch, kind, request.index, tuple(self._trees[kind].proof(request.index) or ()), items)


def _oldest(inside: list[tuple[Listed, bytes]]) -> list[tuple[Listed, bytes]]:
    """What a bucket holds. If there are too many, somebody makes keys for it: the oldest stay."""
    if len(inside) <= MAX_IN_BUCKET:
        return inside
    ages = sorted((node.since, node.identity) for node, _ in inside)
    limit = ages[MAX_IN_BUCKET]
    return [pair for pair in inside if (pair[0].since, pair[0].identity) < limit]


class Epochs:
    """All rings of one facilitator.

    Args:
        identity: the facilitator's.
        sign: signs with it.
    """

    def __init__(self, identity: bytes, sign: Sign) -> None:
        self._identity = identity
        self._sign = sign
        self.nodes = Listing()
        self._served: deque[tuple[EpochHeader, Cut]] = deque(maxlen=KEPT)

    @property
    def header(self) -> EpochHeader | None:
        """Of the latest epoch whose buckets are served."""
        return self._served[-1][0] if self._served else None

    @property
    def cut(self) -> Cut | None:
        """Of the latest epoch."""
        return self._served[-1][1] if self._served else None

    def put(self, node: Descriptor, raw: bytes, since: int) -> None:
        """A node is listed, with this descriptor. `since`: when it came (Unix seconds)."""
        self.nodes.put(Listed(node.identity, raw, since, classes_of(node)))

    def older(self, identity: bytes, since: int) -> None:
        """If the node is listed: it came earlier than was known."""
        node = self.nodes.get(identity)
        if node is not None:
            self.nodes.put(node._replace(since=since))

    def drop(self, identity: bytes) -> None:
        """A node is no longer listed."""
        self.nodes.drop(identity)

    def freeze(self, epoch: int, value: SharedValue, before: SharedValue) -> Cut:
        """Begin a cut of the nodes that there are."""
        return Cut(epoch, value, before, self.nodes.copy(), self.cut)

    def repeat(self, header: EpochHeader, nodes: Listing) -> Cut:
        """Begin the cut that somebody else made and this header is of."""
        depths = {ring.kind: ring.depth for ring in header.rings}
        return Cut(header.epoch, header.value, header.before, nodes, self.cut, depths)

    def propose(self, cut: Cut, committed: bytes | None, now: float) -> EpochHeader:
        """The header of the epoch of `now` over a cut that is done; not signed.

        Args:
            committed: hash of the commitments to the next day's value, once they are complete.
        """
        published = int(now)
        dates = epoch_of(now), published, published + HEADER_LIFETIME
        return EpochHeader(*dates, cut.value, cut.before, committed or bytes(32), cut.rings, self._identity)

    def serve(self, header: EpochHeader, cut: Cut) -> EpochHeader:
        """Sign this header, and answer for its buckets from now on. Raises LocalError for one of an epoch that was
        signed already, or an earlier one: who signs two headers of one epoch is taken for a liar."""
        if self.header is not None and header.epoch <= self.header.epoch:
            raise LocalError("a header of this epoch, or a later one, is signed")
        signed = header.sign(self._sign)
        self._served.append((signed, cut))
        return signed

    def sign(self, value: SharedValue, before: SharedValue, committed: bytes | None, now: float) -> EpochHeader:
        """Cut, sign and serve at once: for small networks."""
        cut = self.freeze(epoch_of(now), value, before)
        while not cut.step():
            pass
        return self.serve(self.propose(cut, committed, now), cut)

    def answer(self, request: BucketRequest) -> Bucket | None:
        """The bucket that is asked for; None if there is none, or none any more."""
        found = next((cut for header, cut in self._served if header.epoch == request.epoch), None)
        return None if found is None else found.bucket(request.epoch, request)
