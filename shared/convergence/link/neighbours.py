"""All links of a node: dialled, reused, accepted, closed when idle.

Does: find, dial or have introduced the link to a node by its identity, hand channel input to the right link.
Does not: decide which nodes exist or how one is introduced (callbacks), or what circuits do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Protocol
from convergence.events import LinkClosed
from convergence.link.handshake import HANDSHAKE_TIMEOUT, Handshake
from convergence.link.link import MAX_QUEUED_ALL, CreateHook, Link
from convergence.link.meter import Meter
from convergence.link.throttle import Throttle
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng

MAX_LINKS = 4096  # incoming ones beyond are closed at once
DIAL_TIMEOUT = 20.0  # seconds from Connect to an open link
IDLE_TIMEOUT = 180.0  # seconds without circuits until a dialled link is closed
INCOMING_IDLE_TIMEOUT = 900.0  # the same for one that the neighbour dialled, who should have closed it long before
SWEEP = 30.0  # seconds between looks for idle links
LOOKUP_TIMEOUT = 3.0  # seconds that a node we never heard of has to turn up in a fresh node list
MAX_LOOKUPS = 256  # identities looked for at once

LinkReply = Callable[[Link | None, float], None]
LinkHook = Callable[[Link, float], None]


class Neighbours:
    """Links by channel and by identity.

    Args:
        keys: ours.
        address: identity -> WebSocket URL of a node that we can dial, None when there is none.
        introduce: (identity, now) -> the RTC channel on which a node without such an address was asked for, None when
            it cannot be asked. Whoever introduces reports through `opened` and `closed`, within a time of its own.
        on_create: for CREATE2 from neighbours; None where we relay for nobody.
        on_unknown: called with `now` when a node that cannot be reached is wanted: a fresh node list would help, and
            `nodes_changed` is to be called when it is there.
        throttle: holds back what all links send for others.

    Attributes:
        on_open, on_closed: called with (link, now) for every link that opened, and for every one that is gone.
        on_refused: called with (channel, now) for one that was closed before there was a link.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        address: Callable[[bytes], str | None],
        on_create: CreateHook | None,
        *,
        introduce: Callable[[bytes, float], int | None] = lambda identity, now: None,
        on_unknown: Callable[[float], None] = lambda now: None,
        throttle: Throttle | None = None,
    ) -> None:
        self.links: dict[int, Link] = {}
        self.on_open: LinkHook = lambda link, now: None
        self.on_closed: LinkHook = lambda link, now: None
        self.on_refused: Callable[[int, float], None] = lambda channel, now: None
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._keys = keys
        self._address = address
        self._introduce = introduce
        self._on_create = on_create
        self._on_unknown = on_unknown
        self._throttle = throttle
        self._lookups: set[bytes] = set()
        self._queued = Meter(MAX_QUEUED_ALL, self._relieve)
        self._dialled: dict[int, bytes] = {}  # channel -> identity, until it opens
        self._reusable: dict[bytes, Link] = {}  # links that may serve to reach an identity
        self._waiting: dict[bytes, list[LinkReply]] = {}
        self._idle_since: dict[int, float] = {}
        self._sweeping = False
        self._closed_in = 0
        self._closed_out = 0

    def reach(self, identity: bytes, reply: LinkReply) -> None:
        """An open link to the node, dialled if need be. None is the answer when there is no way to it."""
        link = self._reusable.get(identity)
        if link is not None and link.open:
            reply(link, self._outbox.now)
            return
        waiting = self._waiting.get(identity)
        if waiting is not None:
            waiting.append(reply)
            return
        now = self._outbox.now
        self._waiting[identity] = [reply]
        if identity == self._keys.identity:
            self._answer(identity, None, now)
        elif not self._dial(identity, now):
            if len(self._lookups) >= MAX_LOOKUPS:
                self._answer(identity, None, now)
                return
            self._lookups.add(identity)
            self._outbox.call_at(now + LOOKUP_TIMEOUT, lambda now: self._not_found(identity, now))
            self._on_unknown(now)

    def nodes_changed(self, now: float) -> None:
        """The node list is a new one: dial those that were looked for and are in it."""
        for identity in sorted(self._lookups):
            if self._dial(identity, now):
                self._lookups.discard(identity)

    def _dial(self, identity: bytes, now: float) -> bool:
        """Whether there is a way that may lead there."""
        address = self._address(identity)
        if address is not None:
            channel = self._outbox.connect(Protocol.LINK, address)
            self._outbox.call_at(now + DIAL_TIMEOUT, lambda now: self._give_up(channel, identity, now))
        else:
            introduced = self._introduce(identity, now)
            if introduced is None:
                return False
            channel = introduced
        self._dialled[channel] = identity
        return True

    def _not_found(self, identity: bytes, now: float) -> None:
        if identity in self._lookups:
            self._lookups.discard(identity)
            self._answer(identity, None, now)

    # -- from the node

    def opened(self, channel: int, binding: bytes | None, now: float, *, peer: bytes | None = None) -> None:
        """A channel of cells is open. An incoming one may be known to come from `peer`, who then has to prove it."""
        dialled = self._dialled.pop(channel, None)
        initiator = dialled is not None and peer is None
        expected = dialled or peer
        if not initiator and len(self.links) >= MAX_LINKS:
            self._outbox.emit(CloseLink(channel, "this node accepts no more links"))
            self.on_refused(channel, now)
            return
        handshake = Handshake(
            self._crypto, self._rng, initiator=initiator, keys=self._keys, binding=binding, expected=expected
        )
        self.links[channel] = Link(
            self._outbox,
            self._rng,
            channel,
            handshake,
            initiator=initiator,
            on_create=self._on_create,
            on_open=self._link_open,
            on_closed=lambda link, reason, now: self._link_closed(link, expected, reason, now),
            meter=self._queued,
            throttle=self._throttle,
        )
        self._outbox.call_at(now + HANDSHAKE_TIMEOUT, lambda now: self._check_handshake(channel, now))
        if not self._sweeping:
            self._sweeping = True
            self._outbox.call_at(now + SWEEP, self._sweep)

    def moved(self, now: float) -> None:
        """This machine is on another network: what was dialled at an address is dead, though nobody has noticed."""
        for link in list(self.links.values()):
            if link.initiator and not link.handshake.bound:
                link.close("this machine changed networks", now)

    def replaced(self, channel: int, by: int) -> None:
        """What was dialled on one channel comes on another: both sides called at once, and the other one's call won."""
        identity = self._dialled.pop(channel, None)
        if identity is not None:
            self._dialled[by] = identity

    def data(self, channel: int, data: bytes, now: float) -> None:
        link = self.links.get(channel)
        if link is not None:
            link.receive(data, now)

    def closed(self, channel: int, reason: str, now: float) -> None:
        identity = self._dialled.pop(channel, None)
        if identity is not None:
            self._answer(identity, None, now)
            return
        link = self.links.get(channel)
        if link is not None:
            link.gone(reason, now)

    def congested(self, channel: int, congested: bool, now: float) -> None:
        link = self.links.get(channel)
        if link is not None:
            link.set_congested(congested, now)

    @property
    def bytes_in(self) -> int:
        """Received on all links since the start."""
        return self._closed_in + sum(link.bytes_in for link in self.links.values())

    @property
    def bytes_out(self) -> int:
        """Sent on all links since the start."""
        return self._closed_out + sum(link.bytes_out for link in self.links.values())

    def snapshot(self) -> list[dict[str, Any]]:
        """JSON-able, for people: every link, who is there (hex; empty for the anonymous), and what it carried."""
        return [
            {
                "channel": link.channel,
                "peer": "" if link.peer is None else link.peer.hex(),
                "rtc": link.handshake.bound,
                "dialled": link.initiator,
                "open": link.open,
                "circuits": len(link.circuits),
                "bytes_in": link.bytes_in,
                "bytes_out": link.bytes_out,
            }
            for link in self.links.values()
        ]

    def close_all(self, now: float) -> None:
        """For a clean shutdown."""
        for link in list(self.links.values()):
            link.close("the node is stopping", now)

    # -- inside

    def _link_open(self, link: Link, now: float) -> None:
        peer = link.peer
        if peer is not None and (link.initiator or link.handshake.authenticated):
            # An unproven incoming link must not attract circuits that were meant for another node.
            self._reusable[peer] = link
            self._answer(peer, link, now)
        self.on_open(link, now)

    def _link_closed(self, link: Link, expected: bytes | None, reason: str, now: float) -> None:
        if self.links.pop(link.channel, None) is not None:
            self._closed_in += link.bytes_in
            self._closed_out += link.bytes_out
        self._idle_since.pop(link.channel, None)
        for identity in {expected, link.peer} - {None}:
            assert identity is not None
            if self._reusable.get(identity) is link:
                del self._reusable[identity]
        if expected is not None and not link.handshake.open:
            # Who waits once a link has been open waits for another one, dialled because this one is gone.
            self._answer(expected, None, now)
        self._outbox.emit(LinkClosed(link.channel, reason))
        self.on_closed(link, now)

    def _relieve(self) -> None:
        max(self.links.values(), key=lambda link: link.queued).shed()

    def _answer(self, identity: bytes, link: Link | None, now: float) -> None:
        for reply in self._waiting.pop(identity, ()):
            reply(link, now)

    def _give_up(self, channel: int, identity: bytes, now: float) -> None:
        if self._dialled.pop(channel, None) is not None:
            self._outbox.emit(CloseLink(channel, "no answer"))
            self._answer(identity, None, now)

    def _check_handshake(self, channel: int, now: float) -> None:
        link = self.links.get(channel)
        if link is not None and not link.open:
            link.close("the link handshake took too long", now)

    def _sweep(self, now: float) -> None:
        self._sweeping = bool(self.links)
        if self._sweeping:
            self._outbox.call_at(now + SWEEP, self._sweep)
        for channel, link in list(self.links.items()):
            timeout = IDLE_TIMEOUT if link.initiator else INCOMING_IDLE_TIMEOUT
            if link.circuits:
                self._idle_since.pop(channel, None)
            elif now - self._idle_since.setdefault(channel, now) >= timeout:
                link.close("idle", now)
