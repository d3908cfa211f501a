"""Names: a point's index of a million, and a node that looks for the points of 10,000.

The index is the point's own (rdv/adverts.py), with limits that let all names be at one point; circuits are stood for by
what it asks of them. Names are common ones: a proof of an owner takes as long as a signature, whatever the index holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convergence.outbox import Outbox
from convergence.rdv import adverts
from convergence.wire.rdv import Advert, DbInfo, Name
from tests.bench.lab import CRYPTO, NOW, RNG, Figure, best
from tests.bench.memory import resident
from tests.bench.supervise import step

NAMES = 1_000_000
OF_CIRCUIT = 25_000
IN_MESSAGE = 12
LOOKED_UP = 20_000
ROUNDS = 5
FILLING = 180.0


class _Link:
    @property
    def source(self) -> object:
        return self


@dataclass(eq=False)
class _Circuit:
    link: _Link
    binding: bytes = b""


def run(tiny: bool = False, quick: bool = False) -> list[Figure]:
    figures = []
    for names in (1_000,) if tiny else (10_000, 100_000) if quick else (10_000, NAMES):
        step(f"an index of {names:,} names", FILLING)
        figures += index(names, 1 if tiny else ROUNDS)
    return figures


def index(names: int, rounds: int) -> list[Figure]:
    adverts.MAX_ADVERTS, before = names + 1, adverts.MAX_ADVERTS
    try:
        memory, started = resident(), time.process_time()
        point: Any = adverts.Adverts(Outbox(), CRYPTO)
        circuit = _Circuit(_Link())
        some: list[Name] = []
        for first in range(0, names, IN_MESSAGE):
            if first % OF_CIRCUIT < IN_MESSAGE:
                circuit = _Circuit(_Link())
            wanted = [Name(RNG.random(32), False) for _ in range(min(IN_MESSAGE, names - first))]
            point.carry_out(circuit, DbInfo(tuple(map(Advert.add, wanted))).encode(), NOW)
            if first % (names // LOOKED_UP + 1) < IN_MESSAGE:
                some += wanted[:1]
        spent, grown = time.process_time() - started, resident() - memory
        assert len(point) == names
        rate = best(f"look-ups among {names:,} names", rounds, lambda: _look_ups(point, some))
    finally:
        adverts.MAX_ADVERTS = before
    return [
        Figure(f"look-ups in an index of {names:,} names", rate, "1/s"),
        Figure("the same, names advertised", names / spent, "1/s"),
        Figure("the same, memory of a name", grown / names, "bytes", note=f"{grown / 1e6:.0f} MB"),
    ]


def _look_ups(point: adverts.Adverts, names: Sequence[Name]) -> float:
    started = time.process_time()
    for name in names:
        assert list(point.of(Name(bytes(bytearray(name.blinded)), False)))
    return len(names) / (time.process_time() - started)
