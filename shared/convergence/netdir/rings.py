"""Rings of nodes, as whoever uses them sees them: where a name's place is, and whether a bucket is what was signed.

Does: say which bucket holds a place; check a bucket against a header; fill in what the asker had of it.
Does not: fetch or keep buckets, or build them (epochs.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from convergence.crypto.merkle import leaf_hash, verify_leaf
from convergence.errors import CryptoError, ParseError, RemoteError
from convergence.netdir.headers import EPOCH
from convergence.netdir.view import Class, place_of
from convergence.wire.buckets import Bucket, Entry, EpochHeader, RingKind
from convergence.wire.descriptor import Descriptor

CLASSES = {
    RingKind.ALL: Class.ALL,
    RingKind.RELAYS: Class.RELAYS,
    RingKind.DIALLED: Class.DIALLED,
    RingKind.EXITS: Class.EXITS,
    RingKind.TOR: Class.TOR,
    RingKind.POINTS: Class.POINTS,
    RingKind.TOR_POINTS: Class.TOR_POINTS,
    RingKind.STABLE: Class.RELAYS,
    RingKind.POINTS_BEFORE: Class.POINTS,
    RingKind.TOR_POINTS_BEFORE: Class.TOR_POINTS,
}
"""What the nodes of a ring are."""
BEFORE = (RingKind.POINTS_BEFORE, RingKind.TOR_POINTS_BEFORE)
"""Rings in the order of the value before."""
AGED = (RingKind.POINTS, RingKind.TOR_POINTS, *BEFORE)
"""Rings that nodes enter only when they are older than the value of their order."""
STABLE_AGE = 2 * 3600
"""Seconds before an epoch since when a facilitator has to know a stable relay: whoever was here so long will be here
for another while, as Tor takes it (dir-spec, "Assigning flags in a vote": Stable). Of tabs with a median life of 10
minutes, one in 4,000 lives as long. An hour would leave one in 64: a fifth of the ring, where one node in 15 is a
server."""
ABSENCE = 3600.0
"""Seconds that a node may be gone and keep its age."""
MADE_BEFORE = 2 * EPOCH
"""Seconds before an epoch at which its nodes may have been looked at last."""


class BadBucket(RemoteError):
    """A facilitator signed what it must not: whoever passed it on is not to blame."""


def index_of(place: bytes, depth: int) -> int:
    """Which of 2^depth buckets holds a place: the place's first `depth` bits."""
    return int.from_bytes(place[:4], "big") >> (32 - depth)


def stable_since(epoch: int) -> int:
    """Who is stable in an epoch came at that time (Unix seconds) at the latest."""
    return epoch * EPOCH - STABLE_AGE


def leaf_of(entries: Iterable[Entry]) -> bytes:
    """The hash of a bucket in its ring's tree."""
    return leaf_hash(b"".join(entry.encode() for entry in entries))


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a bucket. Its own signature has not been checked."""

    place: bytes
    node: Descriptor
    entry: Entry


def rings_of(member: Member, header: EpochHeader) -> list[RingKind]:
    """The rings that a node has to be in, by its roles and its age."""
    fixed = {kind: (header.before if kind in BEFORE else header.value).fixed for kind in AGED}
    fixed[RingKind.STABLE] = stable_since(header.epoch) - MADE_BEFORE
    return [
        kind
        for kind, members in CLASSES.items()
        if members.holds(member.node.target) and (kind not in fixed or member.entry.since < fixed[kind])
    ]


def check_bucket(header: EpochHeader, bucket: Bucket, known: Mapping[bytes, Entry]) -> tuple[Member, ...]:
    """The nodes of a bucket, in order of place.

    Args:
        header: one that is believed.
        known: entries that the asker has, by their references.

    A descriptor that cannot be read, as one of a later version, is left out.

    Raises RemoteError if the bucket is of another epoch or refers to what is not known, CryptoError if it is not the
    one under the header's root, and BadBucket if the facilitator signed what it must not.
    """
    ring = header.ring(bucket.kind)
    if ring is None or bucket.epoch != header.epoch:
        raise RemoteError("the bucket is of another epoch or of no ring")
    try:
        entries = [known[item] if isinstance(item, bytes) else item for item in bucket.items]
    except KeyError:
        raise RemoteError("the bucket refers to what is not known") from None
    if not verify_leaf(ring.root, 1 << ring.depth, bucket.index, leaf_of(entries), bucket.proof):
        raise CryptoError("the bucket is not the one that was signed")
    if len(entries) > ring.count or (not ring.depth and len(entries) < ring.count):
        raise BadBucket("the bucket has other nodes than were counted")
    value = header.before if bucket.kind in BEFORE else header.value
    members = []
    for entry in entries:
        try:
            node = Descriptor.parse(entry.descriptor)
        except ParseError:
            continue
        members.append(Member(place_of(value.value, node.identity), node, entry))
        if bucket.kind in AGED and entry.since >= value.fixed:
            raise BadBucket("a node in the bucket is too young for its ring")
        if bucket.kind == RingKind.STABLE and entry.since > stable_since(header.epoch):
            raise BadBucket("a node in the bucket is not stable")
        if bucket.kind in CLASSES and not CLASSES[RingKind(bucket.kind)].holds(node.target):
            raise BadBucket("a node in the bucket is of another kind than its ring")
    places = [member.place for member in members]
    if places != sorted(set(places)) or any(index_of(place, ring.depth) != bucket.index for place in places):
        raise BadBucket("the bucket's nodes are not in their places")
    return tuple(members)
