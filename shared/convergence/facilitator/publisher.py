"""What a facilitator says of a large network: a signed header for each epoch, and buckets of nodes.

Does: begin epochs, take part in the draw of the shared random value, keep both over restarts, know how old nodes are.
Does not: register nodes or carry records (service.py), or build buckets (netdir/epochs.py).

No header is signed in the epoch in which the facilitator starts: it may have signed one before a restart, and who signs
two is taken for a liar.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from typing import Any

from convergence.errors import ParseError
from convergence.facilitator.ages import Ages
from convergence.netdir.draw import COMMIT_PHASE, NOTHING, Drawing, commitment_of, number_of, value_of
from convergence.netdir.epochs import Epochs, epoch_of
from convergence.netdir.headers import EPOCH
from convergence.outbox import Outbox, Reply
from convergence.ports import Crypto
from convergence.wire.buckets import DAY, Bucket, BucketRequest, EpochHeader, RingKind, SharedValue
from convergence.wire.descriptor import Descriptor
from convergence.wire.reader import Reader
from convergence.wire.sharedrandom import Commit, Draw

EPOCHS = "epochs"
"""Bucket of the store: the latest header, and what was drawn, under one key each."""
HEADER, DRAW = b"header", b"draw"
AGE = "age"
"""Bucket of the store: identity 32 | since u64 -> nothing, so that one scan tells all."""
MAX_MISSED = 30
"""Days without a facilitator, or by which its clock may be behind what it stored, after which the chain of values
begins anew."""
MIN_POINTS = 64
"""Rendezvous points that are older than the value: with fewer, the list serves."""


class Publisher:
    """Args:
    outbox: the facilitator's.
    seed: Ed25519 seed of its identity, 32 bytes.
    each: nodes of one source that are remembered while they are gone.
    list_up_to: nodes above which they are told by header and buckets; below half as many, by a list again.
    others: identities of the other facilitators that take part in the draw.
    stored: takes the answers to what is stored.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        seed: bytes,
        stored: Reply,
        *,
        each: int,
        list_up_to: int,
        others: Collection[bytes] = (),
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._seed = seed
        self._identity = crypto.ed25519_public(seed)
        self._stored = stored
        self._list_up_to = list_up_to
        self._facilitators = {self._identity, *others}
        self._epochs = Epochs(self._identity, self._sign)
        self._ages = Ages(each, self._forgotten)
        self._day = 0  # of the value in use; 0 until what was stored is known
        self._value = self._before = SharedValue(bytes(32), 0)
        self._drawing: Drawing | None = None  # of the next day's value
        self._header: EpochHeader | None = None
        self._large = False

    def start(self, now: float) -> None:
        """Load what was drawn, and the ages of nodes, and begin."""

        def loaded(value: Any, now: float) -> None:
            self._restore(value if isinstance(value, bytes) else b"", now)
            self._outbox.call_at((epoch_of(now) + 1) * EPOCH, self._begin)

        self._outbox.load(EPOCHS, HEADER, self._restore_header)
        self._outbox.load(EPOCHS, DRAW, loaded)
        self._outbox.scan(AGE, b"", self._remember)

    # Nodes

    def put(self, node: Descriptor, raw: bytes, source: str, now: float) -> None:
        """A node is listed, with this descriptor. It came from `source`."""
        known = self._ages.knows(node.identity)
        since = self._ages.came(node.identity, source, now)
        if not known:
            self._outbox.store([(AGE, _age_key(node.identity, since), b"")], self._stored)
        self._epochs.put(node, raw, since)

    def drop(self, identity: bytes, now: float) -> None:
        """It is not listed, or no longer."""
        self._epochs.drop(identity)
        self._ages.left(identity, now)

    def knows(self, identity: bytes) -> bool:
        """Whether the node is here, or was lately."""
        return self._ages.knows(identity)

    # Answers

    @property
    def header(self) -> EpochHeader | None:
        """What is told in place of a list; None while the list serves."""
        return self._header if self._large else None

    def answer(self, request: BucketRequest) -> Bucket | None:
        """The bucket that is asked for; None if there is none, or none any more."""
        return self._epochs.answer(request)

    # Other facilitators

    def committed(self, commit: Commit, now: float) -> None:
        """Another facilitator published a commitment. Raises RemoteError if it does not count."""
        if self._drawing is not None:
            self._drawing.commit(commit, now)
            self._save()

    def revealed(self, facilitator: bytes, number: bytes, now: float) -> None:
        """Another facilitator published its number. Raises RemoteError if it does not count."""
        if self._drawing is not None:
            self._drawing.reveal(facilitator, number, now)
            self._save()

    # Time

    def _begin(self, now: float) -> None:
        """Begin an epoch."""
        self._outbox.call_at((epoch_of(now) + 1) * EPOCH, self._begin)
        self._turn(now)
        if now // DAY < self._day or (self._header is not None and epoch_of(now) <= self._header.epoch):
            return  # the clock was set back
        drawing = self._drawing
        committed = None if drawing is None else drawing.committed(now)
        self._header = self._epochs.sign(self._value, self._before, committed, now)
        self._outbox.store([(EPOCHS, HEADER, self._header.encode())], self._stored)
        self._measure()

    def _measure(self) -> None:
        """Whether the network is one for buckets."""
        assert self._header is not None
        counts = {ring.kind: ring.count for ring in self._header.rings}
        limit = self._list_up_to // 2 if self._large else self._list_up_to
        self._large = counts.get(RingKind.ALL, 0) > limit and counts.get(RingKind.POINTS, 0) >= MIN_POINTS

    def _turn(self, now: float) -> None:
        """Take over what was drawn when a day begins; say what is due of the next draw."""
        today, before = int(now // DAY), (self._day, None if self._drawing is None else self._drawing.draw)
        if abs(today - self._day) > MAX_MISSED:
            self._day, self._drawing = today, None
            # Everybody may know this value ahead: no node is old enough for it.
            self._value = SharedValue(sha256(b"convergence:first value" + self._identity).digest(), 0)
            self._before = SharedValue(bytes(32), 0)
        while self._day < today:
            self._day += 1
            drawn = NOTHING if self._drawing is None else self._drawing.draw
            self._value, self._before = value_of(drawn, self._day, self._value), self._value
            self._drawing = None
        if self._drawing is None:
            self._draw(NOTHING)
        if today == self._day:
            self._say(now)
        if before != (self._day, self._drawing and self._drawing.draw):
            self._save()

    def _draw(self, kept: Draw) -> None:
        self._drawing = Drawing(self._outbox, self._crypto, self._day + 1, self._facilitators, kept)

    def _say(self, now: float) -> None:
        """Commit until noon, reveal afterwards."""
        drawing = self._drawing
        assert drawing is not None
        number = number_of(self._seed, drawing.day)
        commit = Commit(drawing.day, self._identity, commitment_of(self._identity, drawing.day, number))
        if now % DAY < COMMIT_PHASE:
            drawing.commit(commit.sign(self._sign), now)
        elif any(other.facilitator == self._identity for other, _ in drawing.draw.parts):
            drawing.reveal(self._identity, number, now)

    # Storage

    def _save(self) -> None:
        assert self._drawing is not None
        values = self._value.encode() + self._before.encode()
        kept = self._day.to_bytes(4, "big") + values + self._drawing.draw.encode()
        self._outbox.store([(EPOCHS, DRAW, kept)], self._stored)

    def _restore_header(self, data: Any, now: float) -> None:
        try:
            self._header = EpochHeader.parse(data) if isinstance(data, bytes) else None
        except ParseError:
            return
        if self._header is not None:
            self._measure()

    def _restore(self, data: bytes, now: float) -> None:
        reader = Reader(data, "stored draw")
        try:
            day, value, before = reader.unsigned(4), SharedValue.read(reader), SharedValue.read(reader)
            kept = Draw.parse(reader.rest())
        except ParseError:
            day = 0
        if day:
            self._day, self._value, self._before = day, value, before
            self._draw(kept)
        self._turn(now)

    def _remember(self, keys: Any, now: float) -> None:
        """Nodes of an earlier run keep their ages if they come back soon. Where they came from is not known."""
        for key in keys if isinstance(keys, list) else ():
            identity, since = key[:32], int.from_bytes(key[32:], "big")
            before = self._ages.remember(identity, since, now)
            if before not in (None, since):  # it came back before this answer did
                self._forgotten(identity, before)
                self._epochs.older(identity, since)

    def _forgotten(self, identity: bytes, since: int) -> None:
        self._outbox.store([(AGE, _age_key(identity, since), None)], self._stored)

    def _sign(self, message: bytes) -> bytes:
        return self._crypto.ed25519_sign(self._seed, message)


def _age_key(identity: bytes, since: int) -> bytes:
    return identity + since.to_bytes(8, "big")
