"""The core of a client: three layers off, digests, streams, DATA to a handler that only counts; and the way out.

A real stream to the third relay of a real circuit. The relays' work goes on in between and is not counted: the figure
is the client's own CPU time, its SENDMEs included.
"""

from __future__ import annotations

from convergence.wire.relay import MAX_DATA
from tests.bench.lab import NOW, Figure, Lab, Sink, best, cost_of_layers, serve

TARGET = 120_000  # cells/s on one core
CHUNK = 1 << 18  # bytes given to a stream at once


def run(tiny: bool = False) -> list[Figure]:
    size, rounds = (CHUNK, 1) if tiny else (16 * CHUNK, 7)
    lab = Lab()
    client = lab.node("client", keys=False)
    path = [lab.node(f"relay{number}") for number in range(3)]
    far_sink, near_sink = Sink(), Sink()
    far = serve(path[-1], far_sink)
    near = near_sink.pipe = lab.circuit(client, *path).open_stream("example.com:80", near_sink, NOW)
    lab.settle()
    chunk = bytes(CHUNK)

    def receiving() -> float:
        before = near_sink.received
        lab.reset()
        for _ in range(size // CHUNK):
            far[0].write(chunk, NOW)
            lab.settle()
        return (near_sink.received - before) / MAX_DATA / client.busy

    def sending() -> float:
        before = far_sink.received
        lab.reset()
        for _ in range(size // CHUNK):
            client.work(lambda: near.write(chunk, NOW))
            lab.settle()
        return (far_sink.received - before) / MAX_DATA / client.busy

    floor = best("bare cryptography", rounds, lambda: cost_of_layers(3, digest=True))
    inward, outward = best("receiving", rounds, receiving), best("sending", rounds, sending)
    return [
        Figure("receiving", inward, "cells/s", TARGET),
        Figure("sending", outward, "cells/s"),
        Figure("bare cryptography (3 AES-CTR, SHA-1 by cell)", floor, "cells/s"),
        Figure("receiving / bare cryptography", inward / floor, "ratio"),
        Figure("sending / bare cryptography", outward / floor, "ratio"),
    ]
