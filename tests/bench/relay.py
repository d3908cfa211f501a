"""The core of a middle relay: cells in at one link, one onion layer, out at the other, both ways.

Batches of 127 cells go through `Link.receive` and come out as Send effects of `Outbox.poll`. What the cells hold is
random: to a middle relay every cell that is not for it looks so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from convergence.link.link import Link
from convergence.wire.cells import CELL_LEN, FIXED_HEADER, PAYLOAD_LEN, Command
from tests.bench.lab import BATCH, NOW, RNG, Figure, Lab, LabNode, best, cells_in, cost_of_layers

TARGET = 500_000  # cells/s on one core
INTERLEAVED = 10


def run(tiny: bool = False) -> list[Figure]:
    batches, rounds = (2, 1) if tiny else (400, 7)
    lab = Lab()
    client, relay, last = lab.node("client", keys=False), lab.node("relay"), lab.node("last")
    for _ in range(INTERLEAVED):
        lab.circuit(client, relay, last)
    links = {link.initiator: link for link in relay.neighbours.links.values()}
    origin_side, next_side = links[False], links[True]
    floor = best("bare AES-CTR", rounds, lambda: cost_of_layers(1, digest=False))
    forward = best("away from the origin", rounds, lambda: rate(relay, origin_side, batches, 1))
    backward = best("towards the origin", rounds, lambda: rate(relay, next_side, batches, 1))
    mixed = best("interleaved", rounds, lambda: rate(relay, origin_side, batches, INTERLEAVED))
    note = f"{BATCH} cells a message"
    return [
        Figure("away from the origin", forward, "cells/s", TARGET, note=note),
        Figure("towards the origin", backward, "cells/s", TARGET, note=note),
        Figure(f"{INTERLEAVED} circuits interleaved", mixed, "cells/s", note="cell by cell in one message"),
        Figure("bare AES-CTR on the same batches", floor, "cells/s"),
        Figure("relay / bare AES-CTR", min(forward, backward) / floor, "ratio"),
    ]


def rate(relay: LabNode, link: Link, batches: int, circuits: int) -> float:
    """Cells per CPU second through the relay from this link."""
    messages = [message(list(link.circuits)[:circuits]) for _ in range(min(batches, 16))]
    passed = 0
    started = time.process_time()
    for number in range(batches):
        link.receive(messages[number % len(messages)], NOW)
        passed += cells_in(relay.outbox.poll(NOW))
    spent = time.process_time() - started
    if passed != batches * BATCH:
        raise AssertionError(f"{passed} of {batches * BATCH} cells came out")
    return passed / spent


def message(circuits: Sequence[int]) -> bytes:
    """Random RELAY cells of these circuits in turn."""
    headers = [FIXED_HEADER.pack(circ_id, Command.RELAY) for circ_id in circuits]
    data = b"".join(headers[at % len(headers)] + RNG.random(PAYLOAD_LEN) for at in range(BATCH))
    assert len(data) == BATCH * CELL_LEN
    return data
