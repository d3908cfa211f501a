"""Sticky entries: the few first relays that all circuits of one file and side use, kept over restarts.

Does: choose them, keep them for as long as they work, store them and forget them with the file. Choose the one entry
into the Tor network, as guards are: out of a few that never change while they are listed.
Does not: decide who may be one (select.py), or who fails (reputation.py).

An attacker that breaks our circuits again and again must not make us take new entries until one of them is his.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from convergence.chance import sample
from convergence.effects import Failure
from convergence.outbox import Outbox
from convergence.ports import Rng
from convergence.wire.descriptor import KEY_LEN
from convergence.wire.target import RelayTarget

BUCKET = "entry"
ENTRIES = 2  # first hops that the circuits of one file and side use, while these work
MAX_KEPT = 2 * ENTRIES  # identities kept for one file and side: those that failed may come back
PRIMARY = 3  # entries into the Tor network; while so many are listed, no further one is taken, though none works
MAX_USERS = 1024  # files and sides whose entries are remembered; the one used longest ago is forgotten first


def user_of(hash_name: bytes, provider: bool) -> bytes:
    """What the entries of a file and side are kept under (32 bytes): it tells the hash_name to nobody."""
    return hmac.digest(hash_name, b"convergence:entries" + bytes([provider]), "sha256")


class StickyEntries:
    """The entries of every file and side, by `user_of`."""

    def __init__(self, outbox: Outbox, rng: Rng) -> None:
        self._outbox = outbox
        self._rng = rng
        self._kept: dict[bytes, tuple[bytes, ...]] = {}  # latest use last

    def restore(self, now: float, then: Callable[[float], None]) -> None:
        """Read what earlier runs kept; then(now) follows, whatever storage answers. Choices of this run stay."""

        def listed(keys: Any, now: float) -> None:
            users = [] if isinstance(keys, Failure) else [key for key in keys if len(key) == 32][:MAX_USERS]
            left = len(users)
            if not left:
                then(now)

            def loaded(value: Any, now: float, user: bytes) -> None:
                nonlocal left
                if isinstance(value, bytes) and value and len(value) % KEY_LEN == 0:
                    ids = [value[at : at + KEY_LEN] for at in range(0, len(value), KEY_LEN)]
                    self._kept.setdefault(user, tuple(ids[:MAX_KEPT]))
                left -= 1
                if not left:
                    then(now)

            for user in users:
                self._outbox.load(BUCKET, user, partial(loaded, user=user))

        self._outbox.scan(BUCKET, b"", listed)

    def kept(self, user: bytes) -> tuple[bytes, ...]:
        """The identities of those that were chosen so far; MAX_KEPT."""
        return self._kept.get(user, ())

    def choose(
        self, user: bytes, side: Sequence[RelayTarget], leading: Collection[bytes], avoided: Collection[bytes]
    ) -> list[RelayTarget]:
        """The entries to use now; the whole side if no entry is usable.

        Args:
            side: the nodes that may be entries of this file and side.
            leading: identities that begin a path to where this circuit has to end. Only those count.
            avoided: identities that fail. They stay kept, and are used again when they work.
        """
        kept = self._kept.pop(user, ())
        nodes = {node.identity: node for node in side if node.identity in leading}
        usable = [identity for identity in kept if identity in nodes and identity not in avoided][:ENTRIES]
        if not usable:  # none yet, or each is gone, failing, the point itself, or leads nowhere
            new = [identity for identity in nodes if identity not in avoided]
            usable = sample(self._rng, new, min(ENTRIES, len(new)))
            if usable:
                kept = (*usable, *(identity for identity in kept if identity not in usable))[:MAX_KEPT]
                self._outbox.store([(BUCKET, user, b"".join(kept))])
        self._keep(user, kept)
        return [nodes[identity] for identity in usable] or list(side)

    def first(self, user: bytes, side: Sequence[RelayTarget], avoided: Sequence[bytes]) -> RelayTarget:
        """The one entry to use now: of those kept, the one chosen earliest that works. Whoever takes our line down
        again and again makes us use PRIMARY of them in all.

        Args:
            side: the nodes that may be it, one at least.
            avoided: identities that fail, those first that should be tried again first.
        """
        kept = self._kept.pop(user, ())
        nodes = {node.identity: node for node in side}
        listed = [identity for identity in kept if identity in nodes]
        found = next((identity for identity in listed if identity not in avoided), None)
        new = [identity for identity in nodes if identity not in kept and identity not in avoided]
        if found is None and len(listed) < PRIMARY and new:
            [found] = sample(self._rng, new, 1)
            kept = (*kept, found)
            if len(kept) > MAX_KEPT:
                gone = next(identity for identity in kept if identity not in nodes)
                kept = tuple(identity for identity in kept if identity != gone)
            self._outbox.store([(BUCKET, user, b"".join(kept))])
        self._keep(user, kept)
        return nodes[found or next(identity for identity in avoided if identity in (listed or nodes))]

    def forget(self, user: bytes) -> None:
        if self._kept.pop(user, None) is not None:
            self._outbox.store([(BUCKET, user, None)])

    def _keep(self, user: bytes, kept: tuple[bytes, ...]) -> None:
        self._kept[user] = kept
        if len(self._kept) > MAX_USERS:
            self.forget(next(iter(self._kept)))
