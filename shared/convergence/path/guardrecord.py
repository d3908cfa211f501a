"""One entry guard: what is remembered of it, what is stored, and how long it counts (guard-spec 4.1, 4.5, appendix A).

Does: hold the record and the parameters, say when a guard has expired and when a failed one is tried again.
Does not: choose guards (guards.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from convergence.chance import random_below
from convergence.errors import ParseError
from convergence.ports import Rng
from convergence.wire.consensus import Consensus
from convergence.wire.reader import Reader

DAY = 24 * 3600
VERSION = 1
MAX_GUARDS = 250
"""Of one sample, whatever a consensus says. A stored index is one byte."""
NOT_CONFIRMED = 255
ID_LEN = 20
RETRY_PRIMARY = 30.0, 6 * 3600.0
"""Seconds between two tries of a guard that fails, at least and at most (proposal 336)."""
RETRY_OTHERS = 600.0, 36 * 3600.0
GROWTH = 3
"""By this factor the time to the next try grows, at most; it is random, so that clients come back one by one."""


@dataclass(frozen=True, slots=True)
class GuardParams:
    """Parameters of the consensus, with Tor's defaults. Times in seconds.

    Args:
        lifetime: after which a sampled guard that nobody confirmed is dropped, and a confirmed one...
        confirmed_lifetime: ...if that was so long ago.
        unlisted_lifetime: for which a guard that the consensus lacks is kept.
        offline_after: without a guard that worked, we take it that our own line is down.
        connect_timeout: for which circuits wait for a better guard that is being tried.
        sample: the most guards sampled; sample_percent: and the most of all guards.
        min_filtered: usable guards that the sample should have.
        primary: how many are primary; primary_used: of those that work, how many circuits use; directory_used: and
            requests for documents.
    """

    lifetime: float = 120 * DAY
    confirmed_lifetime: float = 60 * DAY
    unlisted_lifetime: float = 20 * DAY
    offline_after: float = 600
    connect_timeout: float = 15
    sample: int = 60
    sample_percent: int = 20
    min_filtered: int = 20
    primary: int = 3
    primary_used: int = 1
    directory_used: int = 3

    @classmethod
    def of(cls, consensus: Consensus) -> GuardParams:
        """Those of param-spec section 11, each within its bounds and ours."""

        def count(name: str, default: int, most: int = MAX_GUARDS) -> int:
            return consensus.param(f"guard-{name}", default, 1, most)

        return cls(
            lifetime=count("lifetime-days", 120, 3650) * DAY,
            confirmed_lifetime=count("confirmed-min-lifetime-days", 60, 3650) * DAY,
            unlisted_lifetime=count("remove-unlisted-guards-after-days", 20, 3650) * DAY,
            offline_after=count("internet-likely-down-interval", 600, DAY),
            connect_timeout=count("nonprimary-guard-connect-timeout", 15, DAY),
            sample=count("max-sample-size", 60),
            sample_percent=count("max-sample-threshold-percent", 20, 100),
            min_filtered=count("min-filtered-sample-size", 20),
            primary=count("n-primary-guards", 3),
            primary_used=count("n-primary-guards-to-use", 1),
            directory_used=count("n-primary-dir-guards-to-use", 3),
        )

    def max_sample(self, guards: int) -> int:
        """The most guards to sample if the network has so many."""
        return max(min(guards * self.sample_percent // 100, self.sample), self.min_filtered)


class Reachable(Enum):
    """What is known of a guard."""

    MAYBE = auto()  # worth a try
    YES = auto()
    NO = auto()


@dataclass(eq=False, slots=True)
class Guard:
    """One sampled guard.

    Args:
        identity: SHA-1 of its RSA key, 20 bytes.
        added, confirmed, unlisted: Unix seconds, each a random while before it was sampled, first worked, and was first
            missing in the consensus.
        tried, answered: when it was last selected and last worked, in steady time, of this run.
        pending: whether a circuit through it is on its way while it is not primary.
        retry_at: when it is worth a try again after a failure, in steady time.
    """

    identity: bytes
    added: int
    confirmed: int | None = None
    unlisted: int | None = None
    reachable: Reachable = Reachable.MAYBE
    tried: float = float("-inf")
    answered: float = float("-inf")
    pending: bool = False
    retry_at: float = 0.0
    _delay: float = field(default=0.0, repr=False)

    def worked(self, steady: float) -> None:
        self.reachable = Reachable.YES
        self.answered = steady
        self.pending = False
        self._delay = 0.0

    def failed(self, rng: Rng, steady: float, primary: bool) -> None:
        """Not to be tried for a while, which is longer with each failure in a row."""
        self.reachable = Reachable.NO
        self.pending = False
        least, most = RETRY_PRIMARY if primary else RETRY_OTHERS
        span = max(GROWTH * self._delay - least, 1.0)
        self._delay = min(least + random_below(rng, int(span) + 1), most)
        self.retry_at = steady + self._delay

    def expired(self, params: GuardParams, now: float) -> bool:
        """Whether it is to be dropped."""
        if self.unlisted is not None and now - self.unlisted > params.unlisted_lifetime:
            return True
        old = now - self.added > params.lifetime
        return old and (self.confirmed is None or now - self.confirmed > params.confirmed_lifetime)

    def correct(self, now: float) -> None:
        """`now` is certain. A date that is later was taken from a clock that was ahead, and would keep it for ever."""
        self.added = min(self.added, int(now))
        self.confirmed = None if self.confirmed is None else min(self.confirmed, int(now))
        self.unlisted = None if self.unlisted is None else min(self.unlisted, int(now))


def encode_guards(sample: list[Guard], confirmed: list[Guard]) -> bytes:
    """VERSION, and for each guard in the order of the sample: identity (20 bytes), added, confirmed and unlisted (8
    bytes each, 0 for never), and its place among the confirmed (1 byte, 255 for none)."""
    order = {guard.identity: place for place, guard in enumerate(confirmed)}
    parts = [bytes([VERSION])]
    for guard in sample:
        parts.append(guard.identity)
        parts += [date.to_bytes(8, "big") for date in (guard.added, guard.confirmed or 0, guard.unlisted or 0)]
        parts.append(bytes([order.get(guard.identity, NOT_CONFIRMED)]))
    return b"".join(parts)


def decode_guards(data: bytes) -> tuple[list[Guard], list[Guard]]:
    """The sample, and those confirmed, each in its order. Raises ParseError."""
    reader = Reader(data, "stored guards")
    if reader.unsigned(1) != VERSION:
        raise ParseError("stored guards of an unknown version")
    sample: dict[bytes, Guard] = {}
    places: dict[int, Guard] = {}
    while reader.left:
        identity = reader.take(ID_LEN)
        added, confirmed, unlisted = (reader.unsigned(8) for _ in range(3))
        guard = Guard(identity, added, confirmed or None, unlisted or None)
        place = reader.unsigned(1)
        twice = identity in sample or place in places
        if twice or len(sample) == MAX_GUARDS or (place == NOT_CONFIRMED) == bool(confirmed):
            raise ParseError("stored guards that contradict each other")
        sample[identity] = guard
        if place != NOT_CONFIRMED:
            places[place] = guard
    return list(sample.values()), [places[place] for place in sorted(places)]
