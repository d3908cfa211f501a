"""What a facilitator says of a large network: a signed header for each epoch, and buckets of nodes.

Does: cut the nodes into buckets a bit at a time before an epoch begins, and sign; keep the latest header and what was
drawn over restarts; know how old nodes are.
Does not: register nodes or carry records (service.py), build buckets (netdir/epochs.py), or agree with other
facilitators on the same store (decisions.py).

No header is signed in the epoch in which the facilitator starts: it may have signed one before a restart, and who signs
two is taken for a liar. The order of the nodes changes at midnight, with a value that is not known before. So the first
header of a day comes some time after it has begun; until then, the one before serves on.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from convergence.errors import ParseError
from convergence.facilitator.ages import MAX_GONE, UNKNOWN, Ages
from convergence.facilitator.draws import Draws
from convergence.netdir.epochs import Cut, Epochs, epoch_of
from convergence.netdir.headers import EPOCH
from convergence.outbox import Outbox, Reply
from convergence.ports import Crypto
from convergence.wire.buckets import DAY, Bucket, BucketRequest, EpochHeader, RingKind
from convergence.wire.descriptor import Descriptor
from convergence.wire.sharedrandom import Draw

EPOCHS = "epochs"
"""Bucket of the store: the latest header, and what was drawn, under one key each."""
HEADER, DRAW = b"header", b"draw"
AGE = "age"
"""Bucket of the store: identity 32 | since u64 -> nothing, so that one scan tells all."""
MIN_POINTS = 64
"""Rendezvous points that are older than the value: with fewer, the list serves."""
LEAD = 120.0
"""Seconds before an epoch at which its cut is begun: who comes later is in the next one."""
STEP_PAUSE = 0.02
"""Seconds between two steps of a cut, which take a few milliseconds each."""


class Publisher:
    """Args:
    outbox: the facilitator's.
    seed: Ed25519 seed of its identity, 32 bytes.
    gone: nodes that are remembered while they are gone.
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
        gone: int = MAX_GONE,
        list_up_to: int,
        others: Collection[bytes] = (),
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._seed = seed
        self._identity = crypto.ed25519_public(seed)
        self._stored = stored
        self._list_up_to = list_up_to
        self._epochs = Epochs(self._identity, self._sign)
        self._ages = Ages(self._forgotten, gone)
        self._draws = Draws(outbox, crypto, seed, others)
        self._cut: Cut | None = None  # of the next epoch, or of this one if it takes long
        self._header: EpochHeader | None = None  # the latest that was signed
        self._large = False

    def start(self, now: float) -> None:
        """Load what was drawn, and the ages of nodes, and begin."""

        def loaded(value: Any, now: float) -> None:
            try:
                self._draws.restore(value if isinstance(value, bytes) else b"", now)
            except ParseError:
                pass  # the chain of values begins anew
            self._turn(now)
            self._plan(now)

        self._outbox.load(EPOCHS, HEADER, self._restore_header)
        self._outbox.load(EPOCHS, DRAW, loaded)
        self._outbox.scan(AGE, b"", self._remember)

    # Nodes

    def put(self, node: Descriptor, raw: bytes, source: str, first: int, now: float) -> int:
        """A node is listed, with this descriptor. It came from `source`, at `first` (Unix seconds). Returns since when
        it counts, as `Ages.came` does."""
        known = self._ages.knows(node.identity)
        since = self._ages.came(node.identity, source, now, first)
        if not known and self._ages.knows(node.identity):
            self._keep_age(node.identity, since, b"")
        self._epochs.put(node, raw, since)
        return since

    def drop(self, identity: bytes, now: float) -> None:
        """It is not listed, or no longer."""
        self._epochs.drop(identity)
        self._ages.left(identity, now)

    def knows(self, identity: bytes) -> bool:
        """Whether the node is here, or was lately."""
        return self._ages.knows(identity)

    # Answers

    def header(self, now: float) -> EpochHeader | None:
        """What is told in place of a list: the latest header whose buckets are here, unless there are none or they are
        too old. None while the list serves."""
        latest, served = self._header, self._epochs.header
        if latest is not None and served is not None and served.epoch >= latest.epoch - 1:
            latest = served
        return latest if self._large and latest is not None and latest.expires > now else None

    def answer(self, request: BucketRequest) -> Bucket | None:
        """The bucket that is asked for; None if there is none, or none any more."""
        return self._epochs.answer(request)

    def draw(self, day: int) -> Draw:
        """The draw of today's value, or of tomorrow's as far as it is known."""
        return self._draws.draw(day)

    @property
    def drawing(self) -> int:
        """The day of the value that is drawn now; 0 while nothing is known."""
        return self._draws.day + 1 if self._draws.day else 0

    def heard_from(self, facilitator: bytes, now: float) -> bool:
        """Whether all is known that this one can say by now of that draw."""
        return self._draws.heard_from(facilitator, now)

    def heard(self, draw: Draw, now: float) -> None:
        """What another facilitator says of a draw."""
        if self._draws.hear(draw, now):
            self._save(now)

    def health(self, now: float) -> dict[str, Any]:
        """JSON-able: the epoch whose header is told, None while the list serves; and who drew today's value, beside
        whom nobody else committed to a number but who was silent then."""
        header, parts = self.header(now), self._draws.draw(self._draws.day).parts
        names = [(commit.facilitator.hex()[:16], number is not None) for commit, number in parts]
        return {
            "epoch": None if header is None else {"number": header.epoch, "published": header.published},
            "drawn": {
                "by": [name for name, counts in names if counts],
                "silent": [name for name, counts in names if not counts],
            },
        }

    # Epochs

    def _plan(self, now: float) -> None:
        """What is due until the next epoch begins."""
        epoch = epoch_of(now) + 1
        begins = epoch * EPOCH
        self._outbox.call_at(begins, self._begin)
        if begins % DAY and begins - LEAD >= now:  # else its order is known only then, or nodes still come back
            self._outbox.call_at(begins - LEAD, partial(self._prepare, epoch))

    def _prepare(self, epoch: int, now: float) -> None:
        """An epoch begins soon."""
        if self._cut is None:
            self._make(epoch, now)

    def _begin(self, now: float) -> None:
        """An epoch begins."""
        self._plan(now)
        self._turn(now)
        self._lead(now)

    def _lead(self, now: float) -> None:
        self._go(now)

    def _turn(self, now: float) -> None:
        if self._draws.turn(now):
            self._save(now)

    def _go(self, now: float) -> None:
        """A header of this epoch is due: sign it, or make what it is signed over."""
        cut, values = self._cut, (self._draws.value, self._draws.before)
        if cut is None or (cut.value, cut.before) != values:
            self._make(epoch_of(now), now)
        elif cut.done:
            self._finish(cut, now)

    def _make(self, epoch: int, now: float) -> None:
        self._cut = self._epochs.freeze(epoch, self._draws.value, self._draws.before)
        self._step(self._cut, now)

    def _step(self, cut: Cut, now: float) -> None:
        if cut is not self._cut:
            return  # there is another one
        if cut.step():
            self._made(cut, now)
        else:
            self._outbox.call_at(now + STEP_PAUSE, partial(self._step, cut))

    def _made(self, cut: Cut, now: float) -> None:
        """A cut is done."""
        self._ready(cut, now)

    def _ready(self, cut: Cut, now: float) -> None:
        """A header over this cut may be signed once its epoch has begun: then `_begin` follows."""
        if epoch_of(now) >= cut.epoch:
            self._finish(cut, now)

    def _finish(self, cut: Cut, now: float) -> None:
        """Sign."""
        self._cut = None
        if self._due(now):
            header = self._epochs.propose(cut, self._draws.committed(now), now)
            self._large = self._is_large(header)
            self._header = self._epochs.serve(header, cut)
            self._outbox.store([(EPOCHS, HEADER, self._header.encode())], self._stored)

    def _due(self, now: float) -> bool:
        """Whether a header of this epoch may be signed: not if there is one, nor if the clock was set back."""
        return now // DAY >= self._draws.day and (self._header is None or epoch_of(now) > self._header.epoch)

    def _is_large(self, header: EpochHeader) -> bool:
        """Whether the network is one for buckets."""
        counts = {ring.kind: ring.count for ring in header.rings}
        limit = self._list_up_to // 2 if self._large else self._list_up_to
        return counts.get(RingKind.ALL, 0) > limit and counts.get(RingKind.POINTS, 0) >= MIN_POINTS

    # Storage

    def _save(self, now: float) -> None:
        self._outbox.store([(EPOCHS, DRAW, self._draws.encode())], self._stored)

    def _restore_header(self, data: Any, now: float) -> None:
        try:
            header = EpochHeader.parse(data) if isinstance(data, bytes) else None
        except ParseError:
            return
        if header is not None:
            self._header, self._large = header, self._is_large(header)

    def _remember(self, keys: Any, now: float) -> None:
        """Nodes of an earlier run keep their ages if they come back soon. Where they came from is not known."""
        for key in keys if isinstance(keys, list) else ():
            self._came_earlier(key[:32], int.from_bytes(key[32:], "big"), now)

    def _came_earlier(self, identity: bytes, since: int, now: float) -> None:
        before = self._ages.remember(identity, since, now)
        if before is None and self._epochs.nodes.get(identity):  # it came back before this was known, and did not count
            self._epochs.older(identity, self._ages.came(identity, UNKNOWN, now))
        elif before is not None and since < before:
            self._forgotten(identity, before)
            self._epochs.older(identity, since)

    def _forgotten(self, identity: bytes, since: int) -> None:
        self._keep_age(identity, since, None)

    def _keep_age(self, identity: bytes, since: int, value: bytes | None) -> None:
        self._outbox.store([(AGE, identity + since.to_bytes(8, "big"), value)], self._stored)

    def _sign(self, message: bytes) -> bytes:
        return self._crypto.ed25519_sign(self._seed, message)
