"""Which part of a node each of its channels belongs to.

Does: learn it from the effects that ask for a channel and from channels that others open; pass on what happens there.
Does not: keep a channel that was closed, or know what flows in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from convergence.effects import CloseLink, Connect, Effect, Protocol
from convergence.ports import Binding


@dataclass(frozen=True, slots=True)
class Owner:
    """What a part does with its channels: opened(channel, binding, now), data(channel, data, now), closed(channel,
    reason, now), congested(channel, congested, now)."""

    opened: Callable[[int, Binding | None, float], None]
    data: Callable[[int, bytes, float], None]
    closed: Callable[[int, str, float], None]
    congested: Callable[[int, bool, float], None]


class Channels:
    """Args:
    owners: of the channels of each protocol, whoever opens them.
    """

    def __init__(self, owners: Mapping[Protocol, Owner]) -> None:
        self._owners = owners
        self._owner: dict[int, Owner] = {}  # one entry a channel: transport and links limit their number

    def note(self, effects: Iterable[Effect]) -> None:
        """These are about to be carried out."""
        for effect in effects:
            if isinstance(effect, Connect):
                self._owner[effect.channel] = self._owners[effect.protocol]
            elif isinstance(effect, CloseLink):
                self._owner.pop(effect.channel, None)

    def opened(self, channel: int, protocol: Protocol, binding: Binding | None, now: float) -> None:
        if channel % 2 == 0:  # others opened it; ours have odd numbers (outbox.py)
            self._owner[channel] = self._owners[protocol]
        owner = self._owner.get(channel)
        if owner is not None:
            owner.opened(channel, binding, now)

    def data(self, channel: int, data: bytes, now: float) -> None:
        owner = self._owner.get(channel)
        if owner is not None:
            owner.data(channel, data, now)

    def closed(self, channel: int, reason: str, now: float) -> None:
        owner = self._owner.pop(channel, None)
        if owner is not None:
            owner.closed(channel, reason, now)

    def congested(self, channel: int, congested: bool, now: float) -> None:
        owner = self._owner.get(channel)
        if owner is not None:
            owner.congested(channel, congested, now)
