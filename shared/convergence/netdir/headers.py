"""Epoch headers of the facilitator that we trust: which is in use, and whether it says two things.

Does: check headers, keep the latest epochs, find two headers that contradict each other.
Does not: fetch headers or pass them on, or decide whom to trust: no header of anybody changes that.

Two headers of one facilitator that contradict each other are a proof that anybody can check: it shows different
networks to different people, or changes its word. The header in use stays in use; people are told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convergence.errors import ClockError, CryptoError, RemoteError
from convergence.ports import Buffer, Crypto
from convergence.wire.buckets import DAY, HASH_LEN, EpochHeader

EPOCH = 600
"""Seconds. Epochs are numbered from 1970 on."""
MAX_CLOCK_SKEW = 600
"""Seconds that a facilitator's clock may be ahead of ours."""
MAX_LIFETIME = 6 * 3600
"""Seconds from `published` to `expires` that a header may claim."""
KEPT = 6
"""Epochs of which headers are kept: one in use, and those that others may still speak of."""
TELL_BEFORE = 180
"""Seconds of an epoch in which neighbours are told the header of the one before, too: a false one that was shown to
somebody near the end of an epoch is compared all the same."""
MIN_FILL = 4
"""Nodes in a bucket, on average, below which a ring is not cut into so many: honest ones have 48 (epochs.py)."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two headers that no honest facilitator signs both. Both verify."""

    first: EpochHeader
    second: EpochHeader


def contradict(one: EpochHeader, other: EpochHeader) -> bool:
    """Whether one facilitator said both, and must not: two headers of one epoch, or two values of one day."""
    if one.signer != other.signer or one.body() == other.body():
        return False
    if one.epoch == other.epoch:
        return True
    first, second = sorted((one, other), key=lambda header: header.epoch)
    days = second.published // DAY - first.published // DAY
    if days == 0:
        announced = bytes(HASH_LEN) != first.committed != second.committed
        return announced or (first.value, first.before) != (second.value, second.before)
    return days == 1 and second.before != first.value


def check_shape(header: EpochHeader) -> None:
    """Raises CryptoError for what no honest facilitator signs, whatever the nodes are: dates that do not belong
    together, a value that was drawn after the noon before its day (young nodes would be old enough for it), rings in
    absurdly many buckets."""
    if header.published // EPOCH != header.epoch or header.expires - header.published > MAX_LIFETIME:
        raise CryptoError("the header's dates do not belong together")
    noon = header.published // DAY * DAY - DAY // 2
    if header.value.fixed > noon or header.before.fixed > header.value.fixed:
        raise CryptoError("the header's values were drawn too late")
    if any(ring.depth and ring.count < MIN_FILL << ring.depth for ring in header.rings):
        raise CryptoError("the header's rings have nearly empty buckets")


class Headers:
    """Args:
    facilitator: gives the identity that we trust, once there is one.
    on_news: called with `now` when there is a newer header.
    on_contradiction: called once, with `now`.
    """

    def __init__(
        self,
        crypto: Crypto,
        facilitator: Callable[[], bytes | None],
        on_news: Callable[[float], None] = lambda now: None,
        on_contradiction: Callable[[Contradiction, float], None] = lambda contradiction, now: None,
    ) -> None:
        self._crypto = crypto
        self._facilitator = facilitator
        self._on_news = on_news
        self._on_contradiction = on_contradiction
        self._kept: dict[int, EpochHeader] = {}  # by epoch
        self._yesterday: EpochHeader | None = None  # the last one of an earlier day
        self._aside: EpochHeader | None = None  # the last one that our facilitator signed, of use or not
        self.newest: EpochHeader | None = None
        """The one in use."""
        self.contradiction: Contradiction | None = None
        """The first that was found."""

    def to_tell(self, now: float) -> list[bytes]:
        """What others should hear, at most three: the newest header; a contradiction, if there is one, and while the
        epoch is new, the header before."""
        newest, headers = self.newest, self.proof()
        if newest is None:
            return headers
        early = not headers and now < newest.published + TELL_BEFORE
        before = self._kept.get(newest.epoch - 1) if early else None
        return [*headers, *([] if before is None else [before.encode()]), newest.encode()]

    def proof(self) -> list[bytes]:
        """The contradiction, if there is one."""
        return [header.encode() for header in self._proof]

    @property
    def yesterday(self) -> EpochHeader | None:
        """The last one of a day before that of the newest."""
        return self._yesterday

    def at(self, epoch: int) -> EpochHeader | None:
        """The header of an epoch, if it is one of the latest."""
        return self._kept.get(epoch)

    def take(self, data: Buffer, now: float) -> bool:
        """Look at a header that somebody sent. Returns whether it is the newest one now.

        Raises ParseError, CryptoError if it is not what our facilitator signs, ClockError for dates that cannot be,
        RemoteError for one that is older than those that are kept. One that our facilitator signed can prove a lie,
        however old it is: two old ones that follow each other, too.
        """
        header = EpochHeader.parse(data)
        if header in (self._kept.get(header.epoch), *self._proof):
            return False
        self._authenticate(header)
        for other in (*self._kept.values(), self._yesterday, self._aside):
            if self.contradiction is None and other is not None and contradict(other, header):
                self.contradiction = Contradiction(other, header)
                self._on_contradiction(self.contradiction, now)
        self._aside = header
        check_shape(header)
        self._check_dates(header, now)
        if self.newest is not None and header.epoch <= self.newest.epoch - KEPT:
            raise RemoteError("the header is older than those in use")
        if header.epoch not in self._kept:
            self._keep(header)
        if header is self.newest:
            self._on_news(now)
        return header is self.newest

    def recall(self, data: Buffer, now: float) -> None:
        """Take over a header that an earlier run kept, out of date or not, unless there is a newer one. Where nobody is
        pinned, whoever signed it is trusted as before. Raises RemoteError."""
        header = EpochHeader.parse(data)
        if self._facilitator() not in (None, header.signer) or not header.verify(self._crypto.ed25519_verify):
            raise CryptoError("the header is not our facilitator's")
        if header.published <= now + MAX_CLOCK_SKEW and header.epoch not in self._kept:
            self._keep(header)

    @property
    def _proof(self) -> tuple[EpochHeader, ...]:
        found = self.contradiction
        return () if found is None else (found.first, found.second)

    def _authenticate(self, header: EpochHeader) -> None:
        if header.signer != self._facilitator():
            raise CryptoError("the header is signed by another facilitator")
        if not header.verify(self._crypto.ed25519_verify):
            raise CryptoError("the header's signature does not hold")

    def _check_dates(self, header: EpochHeader, now: float) -> None:
        if header.published > now + MAX_CLOCK_SKEW:
            raise ClockError("the header comes from the future", now - header.published)
        if header.expires <= now:
            raise ClockError("the header has expired", now - header.published)

    def _keep(self, header: EpochHeader) -> None:
        self._kept[header.epoch] = header
        newest = self.newest
        if newest is None or header.epoch > newest.epoch:
            if newest is not None and newest.published // DAY < header.published // DAY:
                self._yesterday = newest
            self.newest = header
            for epoch in [epoch for epoch in self._kept if epoch <= header.epoch - KEPT]:
                del self._kept[epoch]
