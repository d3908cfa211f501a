"""What both ends of a rendezvous need from circuits, and how long they wait before they try again.

Does: say what a builder of circuits must offer; turn failures into delays.
Does not: build circuits (path/pool.py), or decide what a failure is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Shape

from convergence.chance import fraction
from convergence.circuit.client import ClientCircuit
from convergence.errors import Why
from convergence.ports import Rng
from convergence.wire.target import RelayTarget

LINGER = 2.0  # seconds between our last message on a circuit and its end, so that the message still arrives


class CircuitSource(Shape):
    """Builds circuits to rendezvous points."""

    def rdv_circuit(
        self,
        point: RelayTarget,
        hash_name: bytes,
        provider: bool,
        on_ready: Callable[[ClientCircuit, float], None],
        on_failed: Callable[[Why, float], None],
        now: float,
    ) -> None:
        """Build a fresh circuit that ends at `point`, with an entry from the provider's or the client's side.

        Exactly one of on_ready and on_failed (a PathWhy) follows, within the builder's own time limit. The
        circuit belongs to the caller, who destroys it.
        """
        ...

    def may_extend(self, circuit: ClientCircuit) -> bool:
        """Whether a circuit of `rdv_circuit` may go on to a point that its last hop names."""
        ...

    def extend(
        self,
        circuit: ClientCircuit,
        point: RelayTarget,
        on_ready: Callable[[ClientCircuit, float], None],
        on_failed: Callable[[Why, float], None],
        now: float,
    ) -> None:
        """Add a hop to such a circuit, which carries no stream.

        Exactly one of on_ready and on_failed follows, as for `rdv_circuit`, perhaps at once. After on_failed the
        circuit is gone, unless it cannot lead there at all: then it stays as it was.
        """
        ...

    def look_up(self, descriptor: bytes, now: float, then: Callable[[RelayTarget | None, float], None]) -> None:
        """The node of an encoded descriptor that another node showed us, or None if it may not be used. Nothing of it
        is kept. The answer may come at once, later or never."""
        ...

    def forget(self, hash_name: bytes, provider: bool) -> None:
        """This side of this file is no longer used: forget which entries it used."""
        ...


class Backoff:
    """Delays that double with each failure in a row, with jitter so that many nodes do not come at once.

    Args:
        first, limit: seconds; a delay is 50 to 100 % of min(first * 2^n, limit).
    """

    def __init__(self, rng: Rng, first: float, limit: float) -> None:
        self.failures = 0
        self._rng = rng
        self._first = first
        self._limit = limit

    def reset(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Count one more failure; returns how many seconds to wait."""
        delay: float = min(self._first * 2 ** min(self.failures, 30), self._limit)
        self.failures += 1
        return delay * (1 + fraction(self._rng)) / 2
