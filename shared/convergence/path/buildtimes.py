"""How long circuits take to build, and which are so slow that another is built in their place (path-spec 2.4).

Does: keep the times of the last circuits, fit the tail of a Pareto distribution to them, and tell the time within which
most are built; forget all when the network has changed so much that most are late.
Does not: measure, or end circuits (tor/circuits.py).

Simpler than path-spec: no circuits are built only to be measured, so that it takes longer to learn. Before, and for
circuits that are late, the deadlines of hops hold (place.py). They are shorter than path-spec's close timeout, whose
least value is a minute, so that one is not computed.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from dataclasses import dataclass
from math import exp, log

from convergence.errors import ParseError
from convergence.wire.consensus import Consensus

KEPT = 1000
"""Times that are kept; the oldest go first."""
BIN = 10
"""Milliseconds of one bin of the histogram."""
MAX_TIME = 0xFFFF
"""Milliseconds that one time can have."""
LEAST = 250
"""Milliseconds within which no circuit is late: less says more about a busy machine than about relays."""


@dataclass(frozen=True, slots=True)
class BuildTimeParams:
    """Of the consensus, "cbt..." (param-spec); times in milliseconds, quantile in percent."""

    disabled: int = 0
    num_modes: int = 10
    recent_count: int = 20
    max_timeouts: int = 18
    min_circs: int = 100
    quantile: int = 80
    min_timeout: int = 10

    @classmethod
    def of(cls, consensus: Consensus) -> BuildTimeParams:
        return cls(
            consensus.param("cbtdisabled", 0, 0, 1),
            consensus.param("cbtnummodes", 10, 1, 20),
            consensus.param("cbtrecentcount", 20, 3, 1000),
            consensus.param("cbtmaxtimeouts", 18, 3, 10000),
            consensus.param("cbtmincircs", 100, 1, 10000),
            consensus.param("cbtquantile", 80, 10, 99),
            consensus.param("cbtmintimeout", 10, 10, (1 << 31) - 1),
        )


class BuildTimes:
    """Of circuits of three hops."""

    def __init__(self) -> None:
        self._params = BuildTimeParams()
        self._times: deque[int] = deque(maxlen=KEPT)
        self._late: deque[bool] = deque(maxlen=self._params.recent_count)
        self._timeout: float | None = None  # milliseconds

    def update(self, params: BuildTimeParams) -> None:
        """There is another consensus."""
        if params == self._params:
            return
        self._params = params
        self._late = deque(self._late, params.recent_count)
        if params.disabled:
            self._times.clear()
        self._estimate()

    def built(self, seconds: float) -> None:
        """A circuit stands, late or not."""
        if self._params.disabled:
            return
        self._times.append(min(max(round(1000 * seconds), 1), MAX_TIME))
        self._estimate()

    def outcome(self, late: bool) -> None:
        """A circuit of which the first hop stands was built in time, or is late (path-spec 2.4.5)."""
        self._late.append(late)
        if sum(self._late) >= self._params.max_timeouts:
            self._late.clear()
            self._times.clear()
            self._estimate()

    def timeout(self, hops: int) -> float | None:
        """Seconds after which a circuit of so many hops is late; None as long as that is not known."""
        return None if self._timeout is None else self._timeout * _actions(hops) / _actions(3) / 1000

    def encode(self) -> bytes:
        """The times, the oldest first: two bytes each."""
        return struct.pack(f">{len(self._times)}H", *self._times)

    def restore(self, data: bytes) -> None:
        """What an earlier run encoded. Raises ParseError."""
        if len(data) % 2 or len(data) > 2 * KEPT or 0 in (times := struct.unpack(f">{len(data) // 2}H", data)):
            raise ParseError("build times that cannot be read")
        self._times = deque(times, KEPT)
        self._estimate()

    def _estimate(self) -> None:
        params, times = self._params, self._times
        if params.disabled or len(times) < params.min_circs:
            self._timeout = None
            return
        x_m = mode(times, params.num_modes)
        late = pareto_quantile(x_m, pareto_alpha(times, x_m), params.quantile / 100)
        self._timeout = max(min(late, max(times)), params.min_timeout, LEAST)


def mode(times: deque[int], modes: int) -> float:
    """Xm: the weighted mean of the midpoints of the bins that have most, the earlier ones first."""
    bins = Counter(time // BIN for time in times)
    most = sorted(bins.items(), key=lambda item: (-item[1], item[0]))[:modes]
    return sum(count * (number * BIN + BIN / 2) for number, count in most) / sum(count for _, count in most)


def pareto_alpha(times: deque[int], x_m: float) -> float:
    """The maximum likelihood estimator. Infinite if no time is above Xm."""
    spread = sum(log(max(x_m, time)) for time in times) - len(times) * log(x_m)
    return len(times) / spread if spread > 0 else float("inf")


def pareto_quantile(x_m: float, alpha: float, q: float) -> float:
    """The time below which the part `q` of all lies."""
    return x_m * exp(-log(1 - q) / alpha)


def _actions(hops: int) -> float:
    """To how many hops something is sent, until a circuit of so many stands."""
    return hops * (hops + 1) / 2
