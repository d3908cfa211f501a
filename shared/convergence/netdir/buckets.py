"""Buckets that a node has fetched, each checked against a header.

Does: fetch those that are asked for, once for all who ask; try again elsewhere; keep some, and ask only for what is new
in them; give them to others.
Does not: carry requests (introduction/fetching.py), choose buckets (bucketview.py), or believe headers (headers.py).

A bucket of the epoch in use or of the one before answers at once. An older one answers too, but only if no newer one
can be had: the facilitator may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import TypeAlias

from convergence.errors import CryptoError, ParseError, RemoteError
from convergence.netdir.headers import Headers
from convergence.netdir.rings import BEFORE, BadBucket, Member, check_bucket, index_of
from convergence.outbox import Outbox
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import Bucket, BucketRequest, Entry, EpochHeader

ATTEMPTS = 3
"""Sources that are asked for one bucket."""
FETCH_LIMIT = 20.0
"""Seconds until another source is asked."""
USED_WITHIN = 1
"""Epochs for which a bucket serves after its own."""
ALIVE = 0.75
"""Share of a bucket's nodes that have to have valid descriptors, else it is worth fetching anew before its time."""
MAX_FETCHES = 64
"""Buckets that are fetched at once; beyond, what is here has to do."""
MAX_BYTES = 8 << 20
"""Of buckets that are kept, about 400. Those that were used longest ago go first."""

Took: TypeAlias = Callable[[bytes, float], bool]
"""Takes an encoded bucket, or nothing if it cannot be had, and `now`. False: whoever sent this is a liar."""
Fetch: TypeAlias = Callable[[BucketRequest, Hashable, int, Took, float], None]
"""fetch(request, key, attempt, then, now): then(an encoded bucket, or nothing, now) follows, at once or later. What has
a `key` must not be known to come from us, nor together with what has another key."""


class State(Enum):
    """Of one bucket that is fetched."""

    ASKING = auto()
    OVER = auto()


FETCHING = Table(
    "bucket that is fetched",
    State.ASKING,
    {State.ASKING: {"over": State.OVER, TIMEOUT: State.OVER}},
    deadlines={State.ASKING: FETCH_LIMIT},
)

Members: TypeAlias = tuple[Member, ...]
Wanted: TypeAlias = Callable[[Members | None, float], None]
"""Takes the nodes of a bucket, or None if it cannot be had; and `now`."""


@dataclass(slots=True)
class Kept:
    """One bucket, whole."""

    bucket: Bucket
    header: EpochHeader  # under which it was checked
    order: tuple[bytes, int]  # of its ring: the value, and how many buckets there are
    members: Members
    size: int
    until: float  # when fewer than ALIVE of its nodes' descriptors hold, Unix seconds


@dataclass(slots=True)
class _Fetch:
    key: Hashable
    waiting: list[Wanted]
    attempts: int = 0
    whole: bool = False  # not only what is new is asked for
    machine: StateMachine[State] | None = field(default=None)


def order_of(header: EpochHeader, kind: int) -> tuple[bytes, int] | None:
    """What says which places a bucket of this kind holds; None if there is no such ring."""
    ring = header.ring(kind)
    return None if ring is None else ((header.before if kind in BEFORE else header.value).value, ring.depth)


class Buckets:
    """Args:
    fetch: asks others.
    on_bad: called with `now` when the facilitator has signed what it must not.
    """

    def __init__(
        self,
        outbox: Outbox,
        headers: Headers,
        fetch: Fetch,
        on_bad: Callable[[BadBucket, float], None] = lambda error, now: None,
    ) -> None:
        self._outbox = outbox
        self._headers = headers
        self._fetch = fetch
        self._on_bad = on_bad
        self._kept: dict[tuple[int, int], Kept] = {}  # by kind and index; what was used longest ago first
        self._size = 0
        # By kind, index and whether it is asked for openly: who fetches for others must not wait for what it has asked
        # others for, who may wait for us.
        self._fetching: dict[tuple[int, int, bool], _Fetch] = {}
        self.version = 0  # grows with every bucket that comes

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept.values())

    def want(self, kind: int, index: int, key: Hashable, now: float, then: Wanted) -> None:
        """Have the nodes of a bucket in the order of the newest header: then(they, now) follows, at once if it is here
        and no more than USED_WITHIN epochs older."""
        header = self._headers.newest
        order = None if header is None else order_of(header, kind)
        if header is None or order is None:
            then(None, now)
            return
        kept = self._of(kind, index, order)
        if kept is not None and kept.bucket.epoch >= header.epoch - USED_WITHIN:
            then(kept.members, now)
            return
        fetch = self._fetching.get((kind, index, key is None))
        if fetch is not None:
            fetch.waiting.append(then)
        elif len(self._fetching) >= MAX_FETCHES:
            then(None if kept is None else kept.members, now)
        else:
            self._begin(kind, index, key, now, then)

    def refresh(self, kind: int, index: int, now: float, then: Wanted) -> None:
        """As `want`, but with no key; and one that is here of the epoch before is fetched anew."""
        header, kept = self._headers.newest, self.kept(kind, index)
        known = kept is None or header is None or kept.bucket.epoch == header.epoch
        if known or (kind, index, True) in self._fetching:
            self.want(kind, index, None, now, then)
        else:
            self._begin(kind, index, None, now, then)

    def kept(self, kind: int, index: int) -> Kept | None:
        """What is here of a bucket in the order of the newest header."""
        header = self._headers.newest
        order = None if header is None else order_of(header, kind)
        return None if order is None else self._of(kind, index, order)

    def ours(self, request: BucketRequest) -> Bucket | None:
        """What can be given to others who ask: the bucket in the epoch that they want, or in a later one."""
        kept = self._kept.get((request.kind, request.index))
        return None if kept is None or kept.bucket.epoch < request.epoch else kept.bucket

    def here(self, kind: int, place: bytes, value: bytes) -> Members:
        """The nodes of the bucket that holds a place, of any epoch, where the order of this ring is that of this value;
        none if it is not here."""
        header = self._headers.newest
        order = None if header is None else order_of(header, kind)
        if order is None or order[0] != value:
            return ()
        kept = self._of(kind, index_of(place, order[1]), order)
        return () if kept is None else kept.members

    def restore(self, raw: bytes) -> None:
        """Keep a bucket of an earlier run, if it is under a header that is here. Raises RemoteError."""
        self._take(Bucket.parse(raw))

    def _begin(self, kind: int, index: int, key: Hashable, now: float, then: Wanted) -> None:
        self._fetching[kind, index, key is None] = fetch = _Fetch(key, [then])
        self._ask(kind, index, fetch, now)

    def _of(self, kind: int, index: int, order: tuple[bytes, int]) -> Kept | None:
        kept = self._kept.get((kind, index))
        if kept is None or kept.order != order:
            return None
        self._kept[kind, index] = self._kept.pop((kind, index))
        return kept

    def _ask(self, kind: int, index: int, fetch: _Fetch, now: float) -> None:
        header = self._headers.newest
        assert header is not None
        fetch.attempts += 1
        kept = self.kept(kind, index)
        have = kept.bucket.epoch if kept is not None and not fetch.whole else 0
        request = BucketRequest(header.epoch, kind, index, have)
        machine = StateMachine(FETCHING, self._outbox, lambda state, now: self._failed(kind, index, fetch, now), now)
        fetch.machine = machine

        def answered(raw: bytes, now: float) -> bool:
            if machine.final:
                return True
            machine.move("over", now)
            honest = True
            try:
                self._look(raw, request)
            except BadBucket as error:  # not the sender's fault
                self._on_bad(error, now)
                self._failed(kind, index, fetch, now)
            except RemoteError as error:
                # References are short, and a node can make two entries that share one: before whoever answered is
                # called a liar, he is asked for all.
                honest = not raw or request.have > 0 or not isinstance(error, CryptoError | ParseError)
                fetch.attempts -= bool(raw and request.have)
                self._failed(kind, index, fetch, now)
            else:
                self._over(kind, index, fetch, now)
            return honest

        self._fetch(request, fetch.key, fetch.attempts, answered, now)

    def _look(self, raw: bytes, request: BucketRequest) -> None:
        """Keep the bucket that was asked for, or a newer one. Raises RemoteError; whoever sends something else is not
        asked again for this one."""
        bucket = Bucket.parse(raw)
        if (bucket.kind, bucket.index) != (request.kind, request.index) or bucket.epoch < request.epoch:
            raise CryptoError("another bucket than the one that was asked for")
        self._take(bucket)

    def _take(self, bucket: Bucket) -> None:
        header = self._headers.at(bucket.epoch)
        before = self._kept.get((bucket.kind, bucket.index))
        if header is None or (before is not None and before.bucket.epoch > bucket.epoch):
            raise RemoteError("a bucket of an epoch that is not in use")
        known: dict[bytes, Entry] = {}
        if before is not None and any(isinstance(item, bytes) for item in bucket.items):
            known = {item.reference: item for item in before.bucket.items if isinstance(item, Entry)}
        members = check_bucket(header, bucket, known)
        order = order_of(header, bucket.kind)
        assert order is not None
        entries = tuple(known[item] if isinstance(item, bytes) else item for item in bucket.items)
        whole = Bucket(bucket.epoch, bucket.kind, bucket.index, bucket.proof, entries)
        size = sum(len(entry.descriptor) + 10 for entry in entries)
        self._keep(Kept(whole, header, order, members, size, _alive_until(members)))

    def _keep(self, kept: Kept) -> None:
        name = kept.bucket.kind, kept.bucket.index
        before = self._kept.pop(name, None)
        self._size += kept.size - (0 if before is None else before.size)
        self._kept[name] = kept
        self.version += 1
        while self._size > MAX_BYTES:
            self._size -= self._kept.pop(next(iter(self._kept))).size

    def _failed(self, kind: int, index: int, fetch: _Fetch, now: float) -> None:
        header, fetch.whole = self._headers.newest, True
        if fetch.attempts < ATTEMPTS and header is not None and order_of(header, kind) is not None:
            self._ask(kind, index, fetch, now)
        else:
            self._over(kind, index, fetch, now)

    def _over(self, kind: int, index: int, fetch: _Fetch, now: float) -> None:
        """Answer all who wait: with what is here, whatever its age."""
        del self._fetching[kind, index, fetch.key is None]
        kept = self.kept(kind, index)
        for then in fetch.waiting:
            then(None if kept is None else kept.members, now)


def _alive_until(members: Members) -> float:
    ends = sorted(member.node.expires for member in members)
    return ends[int(len(ends) * (1 - ALIVE))] if ends else inf
