"""All that a node knows of which nodes exist.

Does: own the directory, headers, buckets and their View, look-ups by name, and what is kept for the next run; tell of
a facilitator that lies, or that shows others a network without this node.
Does not: fetch lists or buckets (facilitator/client.py, introduction/fetching.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convergence.chance import fraction
from convergence.codes import FacilitatorWhy
from convergence.errors import Why
from convergence.events import Trouble
from convergence.netdir.buckets import Buckets, Fetch
from convergence.netdir.bucketview import SILENT, BucketView
from convergence.netdir.drawcheck import Ask, DrawCheck
from convergence.netdir.headers import EPOCH, Contradiction, Headers
from convergence.netdir.listview import ListView
from convergence.netdir.lookup import Lookup
from convergence.netdir.memory import NodeMemory
from convergence.netdir.nodes import NodeDirectory
from convergence.netdir.rings import ABSENCE, STABLE_AGE, BadBucket
from convergence.netdir.view import View
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.wire.descriptor import Descriptor
from convergence.wire.target import Role

TOLD_WITHIN = 3 * EPOCH  # seconds until a listed node is in all buckets that are in use
LOOK_EVERY = 3600.0  # seconds, give or take half, between two looks whether this node is where others look for it


class Knowledge:
    """Args:
    identity: this node's.
    network: the facilitator's address, which names the network in the store.
    facilitator: its Ed25519 identity; None pins the one whose list comes first.
    fetch: gets buckets.
    draw: asks how a value was drawn.
    on_change: called with `now` when answers of the View may have changed.
    on_found: called with `now` when a node that was asked for by name is known.
    offers: the roles that this node is listed with.
    listed_since: when the facilitator took this node in (steady time); None if it is not listed.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        identity: bytes,
        network: str,
        facilitator: bytes | None,
        *,
        fetch: Fetch,
        draw: Ask,
        on_change: Callable[[float], None],
        on_found: Callable[[float], None],
        offers: Callable[[], Role],
        listed_since: Callable[[], float | None],
    ) -> None:
        self._outbox = outbox
        self._rng = rng
        self._identity = identity
        self._offers = offers
        self._listed_since = listed_since
        self._look_after = 0.0
        self._listed: tuple[float, float] | None = None  # since when, but for short absences, and until when (steady)
        self.directory = NodeDirectory(crypto, facilitator)
        self.headers = Headers(crypto, lambda: self.directory.facilitator, self._header, self._contradiction)
        self.buckets = Buckets(outbox, self.headers, fetch, self._bad)
        self.view = BucketView(
            outbox,
            crypto,
            rng,
            self.headers,
            self.buckets,
            self.directory,
            self.listed(),
            network,
            on_change,
        )
        self._draws = DrawCheck(outbox, crypto, rng, self.headers, draw)
        self.lookup = Lookup(outbox, self.view, on_found)
        self._memory = NodeMemory(outbox, rng, self.directory, network)

    def listed(self) -> View[Descriptor]:
        """The View of the list, which answers while there is one."""
        return ListView(self.directory, self._rng)

    def restore(self, now: float, then: Callable[[float], None]) -> None:
        """Read what an earlier run kept; then(now) follows, whatever storage answers."""
        self.view.restore(now)
        self._memory.restore(now, then)

    def changed(self, now: float) -> None:
        """Other nodes are known: keep them for the next run."""
        self._memory.changed(now)

    def woke(self, now: float) -> None:
        """The clock jumped."""
        self._look_after = min(self._look_after, now)

    def stable(self, now: float) -> bool:
        """Whether this node is one of the stable ones of a large network, whose facilitator says in each epoch who is
        there. One that was gone for a short time is again: the facilitator has not forgotten it either."""
        header, listed = self.headers.newest, self._listed
        if listed is None or header is None or not self.view.large or now >= header.published + SILENT:
            return False
        steady = self._outbox.steady(now)
        return steady < listed[1] + ABSENCE and steady >= listed[0] + STABLE_AGE

    def snapshot(self, now: float) -> dict[str, Any] | None:
        """JSON-able, of a large network: the epoch in use, how many seconds ago its header was signed, and how today's
        random value was drawn (None: nothing is known of that yet, or it was not drawn as announced)."""
        header, said = self.headers.newest, self._draws.said
        if header is None or not self.view.large:
            return None
        drawn = None if said is None else {name: getattr(said, name) for name in ("announced", "committed", "counted")}
        return {"number": header.epoch, "age": max(0, round(now - header.published)), "drawn": drawn}

    def _header(self, now: float) -> None:
        """There is a new header. Now and then, look whether others are shown this node."""
        self._draws.header(now)
        self.view.header_changed(now)
        self.view.hold(self._identity, self._offers(), now)
        since, steady = self._listed_since(), self._outbox.steady(now)
        if since is None:
            return
        known = self._listed is not None and steady < self._listed[1] + ABSENCE
        self._listed = (self._listed[0] if known and self._listed else since), steady
        if now < self._look_after or steady < since + TOLD_WITHIN:
            return
        self._look_after = now + LOOK_EVERY * (0.5 + fraction(self._rng))

        def looked(listed: bool, now: float) -> None:
            if not listed and self._listed_since() == since:
                self._outbox.emit(Trouble(Why(FacilitatorWhy.LEAVES_OUT)))

        self.view.lists(self._identity, now, looked)

    def lied(self, now: float) -> None:
        """The facilitator gave a bucket that is not the one it signed."""
        self._told("a bucket that is not the one that was signed")

    def _bad(self, error: BadBucket, now: float) -> None:
        self._told(str(error))

    def _told(self, detail: str) -> None:
        self._outbox.emit(Trouble(Why(FacilitatorWhy.UNUSABLE, {"detail": detail}), retrying=True))

    def _contradiction(self, found: Contradiction, now: float) -> None:
        proof = {"first": found.first.encode().hex(), "second": found.second.encode().hex()}
        self._outbox.emit(Trouble(Why(FacilitatorWhy.CONTRADICTS, proof)))
