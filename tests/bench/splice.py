"""The core of a rendezvous point: DATA cells of a provider's circuit, spliced to a client's circuit.

Both circuits have two hops and are real, and so is the advert; only the point's own CPU time counts.
"""

from __future__ import annotations

from convergence.circuit.streams import Stream
from convergence.wire.rdv import Advert, AdvertOp, DbInfo, Name, format_rdv_target
from convergence.wire.relay import MAX_DATA, RelayCommand
from tests.bench.lab import NOW, Figure, Lab, Sink, best

CHUNK = 1 << 18  # bytes given to a stream at once
BLINDED = bytes(range(32))


def run(tiny: bool = False) -> list[Figure]:
    size, rounds = (CHUNK, 1) if tiny else (16 * CHUNK, 7)
    lab = Lab()
    provider, client = lab.node("provider", keys=False), lab.node("client", keys=False)
    point, first, second = lab.node("point"), lab.node("first"), lab.node("second")
    sharing = lab.circuit(provider, first, point)
    streams: list[Stream] = []

    def accept(target: str, stream: Stream, now: float) -> Sink:
        streams.append(stream)
        return Sink()

    sharing.on_begin = accept
    sharing.send_message(RelayCommand.DB_INFO, DbInfo((Advert(BLINDED, AdvertOp.ADD),)).encode())
    lab.settle()
    sink = Sink()
    sink.pipe = lab.circuit(client, second, point).open_stream(format_rdv_target(Name(BLINDED)), sink, NOW)
    lab.settle()
    chunk = bytes(CHUNK)

    def splicing() -> float:
        before = sink.received
        lab.reset()
        for _ in range(size // CHUNK):
            streams[0].write(chunk, NOW)
            lab.settle()
        return (sink.received - before) / MAX_DATA / point.busy

    return [
        Figure(
            "DATA cells spliced", best("splicing", rounds, splicing), "cells/s", note="two layers, two digests a cell"
        )
    ]
