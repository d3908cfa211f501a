"""Directories that can be asked, and the streams to them.

Does: choose one at random among those that do not rest, keep a circuit to each for the next request, let one rest that
failed or lied. A relay asks one to which no circuit can be built at its directory port, if it has one.
Does not: ask (request.py), or judge answers (directory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from typing import Protocol as Shape

from convergence.chance import choose
from convergence.circuit.client import ClientCircuit
from convergence.errors import DestroyReason, EndReason, LocalError, StreamError, Why
from convergence.outbox import Outbox, Timer
from convergence.path.place import Failed, Ready
from convergence.pipes.pending import Pending
from convergence.ports import Rng
from convergence.wire.target import RelayTarget

if TYPE_CHECKING:  # clients, and so pages, have none
    from convergence.tor.dirports import DirectoryPorts

REST = 600.0  # seconds for which a directory that failed is not asked, as long as there are others
LINGER = 30.0  # seconds that a circuit without streams is kept
STREAMS = 4  # at once on one circuit


class Circuits(Shape):
    """Builds circuits that end at a directory."""

    def directory_circuit(self, directory: RelayTarget, on_ready: Ready, on_failed: Failed, now: float) -> None: ...


class DirectoryPipe(Pending):
    """A stream to a directory."""

    def __init__(self, sources: DirectorySources, outbox: Outbox, source: bytes, now: float) -> None:
        super().__init__(outbox, self.fail, lambda now: sources.over(self, now), now)
        self.source = source


class _Way:
    """A circuit to one directory, standing or on its way."""

    def __init__(self, node: RelayTarget) -> None:
        self.node = node
        self.circuit: ClientCircuit | None = None
        self.pipes: list[DirectoryPipe] = []
        self.timer: Timer | None = None  # builds it, or ends it when nothing was asked for a while


class DirectorySources:
    """Args:
    candidates: all directories that may be asked now.
    ports: for relays only.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        circuits: Circuits,
        candidates: Callable[[float], Sequence[RelayTarget]],
        ports: DirectoryPorts | None = None,
    ) -> None:
        self._ports = ports
        self._outbox = outbox
        self._rng = rng
        self._circuits = circuits
        self._candidates = candidates
        self._ways: dict[bytes, _Way] = {}
        self._resting: dict[bytes, float] = {}  # identity -> until when, in steady time

    def connect(self, now: float) -> DirectoryPipe | None:
        """A stream to some directory. It opens later, or fails. None: there is none to ask."""
        steady = self._outbox.steady(now)
        self._resting = {source: until for source, until in self._resting.items() if until > steady}
        directories = self._candidates(now)
        if not directories:
            return None
        return self.connect_to(self._choose(directories), now)

    def connect_to(self, node: RelayTarget, now: float) -> DirectoryPipe:
        """A stream to this directory."""
        pipe = DirectoryPipe(self, self._outbox, node.identity, now)
        way = self._ways.get(node.identity)
        if way is None:
            way = self._ways[node.identity] = _Way(node)
            # Later, so that nobody hears of an end before this has returned.
            way.timer = self._outbox.call_at(now, lambda now: self._build(way, now))
        way.pipes.append(pipe)
        if way.circuit is not None:
            self._open(way, way.circuit, pipe, now)
        return pipe

    def rest(self, source: bytes, now: float) -> None:
        """It failed, or what it sent was refused: ask others for a while."""
        self._resting[source] = self._outbox.steady(now) + REST
        if source in self._ways:
            self._settle(self._ways[source], now)

    def worked(self, source: bytes) -> None:
        """What it sent holds."""
        self._resting.pop(source, None)

    def moved(self) -> None:
        """This machine is on another network, or slept: those that failed may be reached now."""
        self._resting.clear()

    def rests(self, source: bytes, now: float) -> bool:
        return self._resting.get(source, 0.0) > self._outbox.steady(now)

    def stop(self, now: float) -> None:
        """End all circuits."""
        for way in list(self._ways.values()):
            self._end(way, now)

    def over(self, pipe: DirectoryPipe, now: float) -> None:
        """A pipe is over."""
        way = self._ways.get(pipe.source)
        if way is not None and pipe in way.pipes:
            way.pipes.remove(pipe)
            self._settle(way, now)

    # -- inside

    def _choose(self, directories: Sequence[RelayTarget]) -> RelayTarget:
        """When all rest, it is the one that has rested longest."""
        fresh = [node for node in directories if node.identity not in self._resting]
        if not fresh:
            return min(directories, key=lambda node: self._resting[node.identity])
        return choose(self._rng, [node for node in fresh if self._has_place(node)] or fresh)

    def _has_place(self, node: RelayTarget) -> bool:
        way = self._ways.get(node.identity)
        return way is not None and len(way.pipes) < STREAMS

    def _build(self, way: _Way, now: float) -> None:
        def ready(circuit: ClientCircuit, now: float) -> None:
            if not self._stands(way):
                circuit.destroy(DestroyReason.FINISHED, now)
                return
            way.circuit = circuit
            circuit.on_closed = lambda reason, now: self._end(way, now)
            for pipe in list(way.pipes):
                self._open(way, circuit, pipe, now)
            self._settle(way, now)

        def failed(why: Why, now: float) -> None:
            for pipe in list(way.pipes):
                pipe.why = why
                if self._ports is not None and self._ports.carry(way.node.identity, pipe):
                    way.pipes.remove(pipe)
            self._end(way, now)

        self._circuits.directory_circuit(way.node, ready, failed, now)

    def _open(self, way: _Way, circuit: ClientCircuit, pipe: DirectoryPipe, now: float) -> None:
        if way.timer is not None:
            way.timer.cancel()
        try:
            stream = circuit.open_directory(pipe, now)
        except (LocalError, StreamError):
            self._outbox.call_at(now, lambda now: pipe.fail(EndReason.DESTROY, now))
            return
        pipe.bind(stream)

    def _settle(self, way: _Way, now: float) -> None:
        """Nobody may need its circuit any more."""
        if way.pipes:
            return
        if way.node.identity in self._resting:
            self._end(way, now)
        elif way.circuit is not None:
            way.timer = self._outbox.call_at(now + LINGER, lambda now: self._end(way, now))

    def _stands(self, way: _Way) -> bool:
        return self._ways.get(way.node.identity) is way

    def _end(self, way: _Way, now: float) -> None:
        if not self._stands(way):
            return
        del self._ways[way.node.identity]
        if way.timer is not None:
            way.timer.cancel()
        if way.circuit is not None:
            way.circuit.destroy(DestroyReason.FINISHED, now)
        for pipe in list(way.pipes):
            pipe.fail(EndReason.DESTROY, now)
