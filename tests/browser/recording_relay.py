"""A relay that writes down all that it sees: `python recording_relay.py BASE relay ...`.

Does: run the relay of this tree, and append to BASE.received and BASE.sent every byte of its channels, and to
BASE.opened every relay cell's data before and after its own onion layer: what a curious operator could keep.
Does not: change what the relay does.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from convergence.crypto import onion
from convergence.driver import Driver
from convergence.effects import Effect, Send
from convergence.wire.cells import split
from convergence.wire.relay import RELAY_HEADER_LEN
from pynode.cli import main

KEPT = 128
"""Bytes of a direction that are written again before what follows: longer than anything that is searched for, so that
no cut between two batches hides it."""


class Recorder:
    def __init__(self, base: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._files = {kind: os.open(f"{base}.{kind}", flags, 0o600) for kind in ("received", "sent", "opened")}

    def add(self, kind: str, data: bytes) -> None:
        os.write(self._files[kind], data)


class View:
    """The data of one direction's cells, without their headers, so that what spans two cells is in one piece."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._tail = b""

    def add(self, run: Any) -> None:
        data = self._tail + b"".join(cell[RELAY_HEADER_LEN:] for cell in split(run))
        self._recorder.add("opened", data)
        self._tail = data[-KEPT:]


def record(recorder: Recorder) -> None:
    received, perform, layer = Driver.received, Driver._perform, onion.Layer

    def recording_received(self: Driver, channel: int, data: bytes) -> None:
        recorder.add("received", data)
        received(self, channel, data)

    def recording_perform(self: Driver, effect: Effect) -> None:
        if isinstance(effect, Send):
            recorder.add("sent", b"".join(effect.buffers))
        perform(self, effect)

    class RecordingLayer(layer):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            crypt, before, after = self.crypt, View(recorder), View(recorder)

            def recording_crypt(run: Any) -> bytes:
                before.add(run)
                result: bytes = crypt(run)
                after.add(result)
                return result

            self.crypt = recording_crypt

    Driver.received = recording_received  # type: ignore[method-assign]
    Driver._perform = recording_perform  # type: ignore[method-assign]
    onion.Layer = RecordingLayer  # type: ignore[misc]


if __name__ == "__main__":
    record(Recorder(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
