"""One client of a large network: all that it knows of other nodes, with the core's own code.

Does: fetch headers and buckets on a channel of the facilitator, draw candidates, choose paths, look for points; count
bytes both ways and the CPU time that it takes.
Does not: build circuits. What a node asks for through circuits comes on the same channel here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

from convergence.crypto.keys import NodeKeys
from convergence.effects import Connect, Load, Protocol, Scan, Send, Store
from convergence.facilitator.client import FacilitatorClient
from convergence.netdir.knowledge import Knowledge
from convergence.netdir.view import Class
from convergence.outbox import Outbox
from convergence.path.candidates import CANDIDATES, Candidates, find
from convergence.path.select import Reach, choose_path
from convergence.rdv.ring import FIRST_ASKED
from convergence.wire.buckets import BucketRequest
from convergence.wire.target import Role
from tests.bench.lab import RNG
from tests.bench.population import Population, Unsigned, channel_of

CIRCUITS = 5
HOPS = 3


class Newcomer:
    """Args:
    number: beyond those of the nodes.

    Attributes:
        bytes: that it sent and got so far.
        busy: CPU seconds so far.
        channel: the facilitator's number of its channel.
        fetched: requests for buckets.
    """

    def __init__(self, network: Population, number: int) -> None:
        self.bytes = 0
        self.busy = 0.0
        self.channel = channel_of(number)
        self.fetched: list[BucketRequest] = []
        self._network = network
        self._outbox = Outbox()
        self._ours = 0
        crypto = Unsigned(pays=True)
        keys = NodeKeys.generate(crypto, RNG)
        self.knowledge = Knowledge(
            self._outbox,
            crypto,
            RNG,
            keys.identity,
            "bench",
            network.service.identity,
            fetch=self._fetch,
            on_change=lambda now: None,
            on_found=lambda now: None,
            draw=lambda request, then, now: then(b"", now),
            offers=lambda: Role(0),
            listed_since=lambda: None,
        )
        directory, headers = self.knowledge.directory, self.knowledge.headers
        self._client = FacilitatorClient(self._outbox, crypto, RNG, keys, directory, headers, "wss://facilitator/")

    def start(self) -> None:
        """Join, and choose paths for circuits."""
        self.do(self._client.start)
        assert self.knowledge.view.large, "it did not get a header"
        self.paths()

    def paths(self) -> float:
        """Choose the paths of CIRCUITS circuits. Returns CPU seconds."""
        chosen: list[Any] = []

        def found(candidates: Candidates, now: float) -> None:
            chosen.append(choose_path(RNG, candidates.relays, HOPS, origin=Reach(rtc=True)))

        before = self.busy
        for _ in range(CIRCUITS):
            self.do(lambda now: find(self.knowledge.view, (), now, found))
        assert len(chosen) == CIRCUITS
        return self.busy - before

    def sample(self) -> None:
        """Candidates for one path."""
        self.do(lambda now: self.knowledge.view.sample(Class.RELAYS, CANDIDATES, now, lambda found, now: None))

    def closest(self, name: bytes) -> list[Any]:
        """The points of a name."""
        rings: list[Any] = []
        ask = self.knowledge.view.closest
        self.do(lambda now: ask(Class.POINTS, name, FIRST_ASKED, now, lambda found, now: rings.extend(found)))
        assert rings and len(rings[0]) == FIRST_ASKED
        return list(rings[0])

    def get(self, identity: bytes) -> Any:
        """A node by name."""
        found: list[Any] = []
        self.do(lambda now: self.knowledge.view.get(identity, now, lambda node, now: found.append(node)))
        return found[0]

    def until(self, when: float) -> None:
        """Time passes here. The facilitator's passes first."""
        while (deadline := self._outbox.deadline()) is not None and deadline <= min(when, self._network.now):
            self.do(self._outbox.run_timers)

    def do(self, call: Callable[[float], Any]) -> None:
        """And all that follows from it."""
        self._work(call)
        while True:
            started = time.process_time()
            effects = self._outbox.poll(self._network.now)
            self.busy += time.process_time() - started
            if not effects:
                return
            for effect in effects:
                self._perform(effect)

    def _perform(self, effect: object) -> None:
        network = self._network
        if isinstance(effect, Connect):
            self._ours = effect.channel
            service = network.service
            network.work(lambda now: service.link_opened(self.channel, now, protocol=Protocol.FACILITATOR))
            self._work(lambda now: self._client.opened(self._ours, now))
        elif isinstance(effect, Send):
            for buffer in effect.buffers:
                self.bytes += len(buffer)
                network.say(self.channel, buffer)
        elif isinstance(effect, (Load, Scan, Store)):
            self._work(lambda now: self._outbox.done(effect.request, [] if isinstance(effect, Scan) else None, now))
        for data in network.heard.pop(self.channel, ()):
            self.bytes += len(data)
            self._work(lambda now, data=data: self._client.data(self._ours, data, now))  # type: ignore[misc]

    def _work(self, call: Callable[[float], Any]) -> None:
        started = time.process_time()
        call(self._network.now)
        self.busy += time.process_time() - started

    def _fetch(
        self, request: BucketRequest, key: Hashable, attempt: int, then: Callable[[bytes, float], None], now: float
    ) -> None:
        self.fetched.append(request)
        self._client.fetch(request, then, now)
