"""All links of a node: dialled, reused, accepted, closed when idle.

Does: get the link to a node by its identity (find, dial, or ask for an introduction), hand channel input to its link.
Does not: decide which nodes exist or how one is introduced (callbacks), or what circuits do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Protocol
from convergence.events import LinkClosed
from convergence.limits import below_its_part, gives_way
from convergence.link.handshake import HANDSHAKE_TIMEOUT, Handshake
from convergence.link.link import MAX_QUEUED_ALL, CreateHook, Link
from convergence.link.meter import Meter
from convergence.link.onionskins import Onionskins
from convergence.link.throttle import Throttle
from convergence.outbox import Outbox
from convergence.ports import Binding, Crypto, DtlsBinding, Rng, TlsBinding
from convergence.states import TIMEOUT, StateMachine, Table

MAX_LINKS = 4096  # incoming ones beyond are closed at once
MAX_DIALLED = 2048  # links that others had us dial; beyond them only sources below their equal part get more
DIAL_TIMEOUT = 20.0  # seconds that a dialled address has to answer
INTRODUCE_TIMEOUT = 30.0  # the same for an introduction; the introducing side gives up sooner
IDLE_TIMEOUT = 180.0  # seconds without circuits until a dialled link is closed
INCOMING_IDLE_TIMEOUT = 900.0  # the same for one that the neighbour dialled, who should have closed it long before
SWEEP = 30.0  # seconds between looks for idle links
LOOKUP_TIMEOUT = 3.0  # seconds that a node we never heard of has to turn up in a fresh node list
FINGERPRINT_LEN = 20  # bytes
MAX_WAYS = 64  # nodes that others have us reach at once; for one more, whoever has most gives one up

LinkReply = Callable[[Link | None, float], None]
LinkHook = Callable[[Link, float], None]


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """Where a node takes links.

    Args:
        protocol: LINK or TLS.
        address: as that protocol has it.
        rsa: fingerprint (20 bytes) of the RSA identity that the node has to prove besides; TLS only.
    """

    protocol: Protocol
    address: str
    rsa: bytes | None = None


class WayState(Enum):
    LOOKING = auto()  # for an address, or for an introducer
    DIALLING = auto()
    INTRODUCING = auto()
    SHAKING_HANDS = auto()
    REACHED = auto()
    FAILED = auto()


_DIALLED, _INTRODUCED, _OPENED, _REACHED, _FAILED = "dialled", "introduced", "opened", "reached", "failed"
_ENDS = {_REACHED: WayState.REACHED, _FAILED: WayState.FAILED, TIMEOUT: WayState.FAILED}
WAY: Table[WayState] = Table(
    "way to a node",
    WayState.LOOKING,
    {
        WayState.LOOKING: {_DIALLED: WayState.DIALLING, _INTRODUCED: WayState.INTRODUCING, **_ENDS},
        WayState.DIALLING: {_OPENED: WayState.SHAKING_HANDS, **_ENDS},
        WayState.INTRODUCING: {_OPENED: WayState.SHAKING_HANDS, **_ENDS},
        WayState.SHAKING_HANDS: _ENDS,
    },
    deadlines={
        WayState.LOOKING: LOOKUP_TIMEOUT,
        WayState.DIALLING: DIAL_TIMEOUT,
        WayState.INTRODUCING: INTRODUCE_TIMEOUT,
        WayState.SHAKING_HANDS: HANDSHAKE_TIMEOUT,
    },
)


@dataclass(slots=True, eq=False)
class _Way:
    """The way to one node: all callers that want a link to it wait here. Limits count it for `source`."""

    identity: bytes
    address: LinkAddress | None  # as the caller knew it
    source: Hashable
    waiting: list[LinkReply]
    machine: StateMachine[WayState]
    channel: int = 0
    rsa: bytes | None = None


class Neighbours:
    """Links by channel and by identity.

    Args:
        keys: ours.
        address: (identity, now) -> that of a node that we can dial, None when there is none. A node of the Tor network
            may be named by its RSA fingerprint (20 bytes), as long as nothing else is known of it.
        introduce: (identity, source, now) -> the RTC channel on which a node without such an address was asked for a
            link, None when it cannot be asked. The introducing side reports through `opened` and `closed`.
        on_create: for CREATE2 from neighbours; None where we relay for nobody.
        on_unknown: called with `now` when a link to a node is wanted that we cannot reach. A fresh node list would
            help; call `nodes_changed` when there is one.
        throttle: holds back what all links send for others.
        source_of: whom limits count a channel under.
        ed25519_of: the identity of the relay of the Tor network with this RSA fingerprint; None for one that nobody
            knows. Whoever has broken its RSA key, of 1024 bits, proves the fingerprint with another identity.
        addresses: our own IP addresses, which we tell on links of the Tor network.

    Attributes:
        on_open, on_closed: called with (link, now) for every link that opened, and for every one that is gone.
        on_refused: called with (channel, now) for one that was closed before there was a link.
        on_unreached: called with the identity of a node that was not where it was dialled, or did not answer a call.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        address: Callable[[bytes, float], LinkAddress | None],
        on_create: CreateHook | None,
        *,
        introduce: Callable[[bytes, Hashable, float], int | None] = lambda identity, source, now: None,
        on_unknown: Callable[[float], None] = lambda now: None,
        throttle: Throttle | None = None,
        source_of: Callable[[int], Hashable] = lambda channel: channel,
        addresses: tuple[str, ...] = (),
        ed25519_of: Callable[[bytes], bytes | None] = lambda fingerprint: None,
    ) -> None:
        self.links: dict[int, Link] = {}
        self.on_open: LinkHook = lambda link, now: None
        self.on_closed: LinkHook = lambda link, now: None
        self.on_refused: Callable[[int, float], None] = lambda channel, now: None
        self.on_unreached: Callable[[bytes], None] = lambda identity: None
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._keys = keys
        self._address = address
        self._introduce = introduce
        self._on_create = on_create
        self._on_unknown = on_unknown
        self._throttle = throttle
        self._source_of = source_of
        self._addresses = addresses
        self._ed25519_of = ed25519_of
        self._onionskins = Onionskins(outbox)
        self._queued = Meter(MAX_QUEUED_ALL, self._relieve)
        self._ways: dict[tuple[bytes, LinkAddress | None], _Way] = {}  # the oldest first
        self._unopened: dict[int, _Way] = {}  # by the channel that is to open
        self._reusable: dict[bytes, Link] = {}  # links that may serve to reach an identity
        self._dialled: dict[int, Hashable] = {}  # channels of links that we dialled, and for whom
        self._idle_since: dict[int, float] = {}
        outbox.on_shift(lambda by: self._idle_since.clear())
        self._sweeping = False
        self._closed_in = 0
        self._closed_out = 0

    def reach(
        self,
        identity: bytes,
        reply: LinkReply,
        now: float,
        source: Hashable = None,
        address: LinkAddress | None = None,
    ) -> None:
        """An open link to the node, dialled if need be. None is the answer when there is no way to it, or when `source`
        wants more than its part of MAX_WAYS. The answer comes within the deadlines of `WAY`.

        Args:
            address: where `source` says that it is. A wrong address holds up nobody who names another one. Without
                any, nobody but ourselves is led over TLS: who extends circuits to nodes of our own network must not
                find out which relays of Tor have links to us.
        """
        link = self._reusable.get(identity)
        if link is not None and link.open and _leads(link, source, address) and not self._is_another(link, identity):
            reply(link if _proves(link, address) else None, now)
            return
        way = self._ways.get((identity, address))
        if way is not None:
            way.waiting.append(reply)
            self._share(way, source)
            return
        if identity in (self._keys.identity, self._keys.onion.node_id) or not self._make_way(source, now):
            reply(None, now)
            return
        machine = StateMachine(WAY, self._outbox, lambda state, now: self._timed_out((identity, address), now), now)
        way = self._ways[identity, address] = _Way(identity, address, source, [reply], machine)
        if not self._dial(way, now):
            self._on_unknown(now)

    def nodes_changed(self, now: float) -> None:
        """There is a new node list: dial the nodes that were looked for and are in it."""
        for way in sorted(self._lookups(), key=lambda way: way.identity):
            self._dial(way, now)

    def _make_way(self, source: Hashable, now: float) -> bool:
        """Whether `source` may add a way; we always may. When others have all that they may have, the oldest one of the
        source that has most may end. Links, which carry circuits of many, are not taken from anybody."""
        if source is None:
            return True
        dialled = [whose for whose in self._dialled.values() if whose is not None]
        if len(dialled) >= MAX_DIALLED and not below_its_part(dialled, source, MAX_DIALLED):
            return False
        others = [way for way in self._ways.values() if way.source is not None]
        if len(others) < MAX_WAYS:
            return True
        crowded = gives_way(others, source)
        if crowded is not None:
            self._end(crowded, None, "too many nodes are being reached", now)
        return crowded is not None

    def _share(self, way: _Way, source: Hashable) -> None:
        """A way that several sources want counts for us if we do, else for the one that has fewest: whoever has most
        must not take it along when it gives way."""
        counts = Counter(way.source for way in self._ways.values())
        way.source = min(way.source, source, key=lambda wants: (wants is not None, counts[wants]))

    def _lookups(self) -> list[_Way]:
        return [way for way in self._ways.values() if way.machine.state is WayState.LOOKING]

    def _dial(self, way: _Way, now: float) -> bool:
        """Whether there is a way that may lead there."""
        address = way.address or self._address(way.identity, now)
        if address is not None and address.protocol is Protocol.TLS and way.source is not None and way.address is None:
            address = None
        channel = None
        if address is not None:
            channel = self._outbox.connect(address.protocol, address.address, way.source)
            way.rsa = address.rsa
        else:
            channel = self._introduce(way.identity, way.source, now)
            if channel is None:
                return False
        way.machine.move(_INTRODUCED if address is None else _DIALLED, now)
        way.channel = channel
        self._unopened[channel] = way
        return True

    def _timed_out(self, way: tuple[bytes, LinkAddress | None], now: float) -> None:
        self._end(self._ways[way], None, "no answer", now)

    def _end(self, way: _Way, link: Link | None, reason: str, now: float) -> None:
        """Answer all who wait. A channel that is still to open is not waited for any more."""
        del self._ways[way.identity, way.address]
        if not way.machine.final:
            way.machine.move(_FAILED if link is None else _REACHED, now)
        if link is None and way.channel:
            self.on_unreached(way.identity)
        if self._unopened.pop(way.channel, None) is not None:
            self._outbox.emit(CloseLink(way.channel, reason))
            self.on_refused(way.channel, now)
        for reply in way.waiting:
            reply(link, now)

    # -- from the node

    def opened(self, channel: int, binding: Binding | None, now: float, *, peer: bytes | None = None) -> None:
        """A channel of cells is open. An incoming one may be known to come from `peer`, who then has to prove it."""
        way = self._unopened.pop(channel, None)
        initiator = way is not None and peer is None
        expected = peer if way is None else way.identity
        if not initiator and len(self.links) - len(self._dialled) >= MAX_LINKS:
            self._outbox.emit(CloseLink(channel, "this node accepts no more links"))
            self.on_refused(channel, now)
            if way is not None:
                self._end(way, None, "", now)
            return
        if way is not None:
            way.machine.move(_OPENED, now)
            if initiator:
                self._dialled[channel] = way.source
        handshake = Handshake(
            self._crypto,
            self._rng,
            initiator=initiator,
            keys=self._keys,
            binding=binding,
            expected=self._ed25519_of(expected) if expected and len(expected) == FINGERPRINT_LEN else expected,
            expected_rsa=None if way is None else way.rsa,
            addresses=self._addresses,
        )
        self.links[channel] = Link(
            self._outbox,
            self._rng,
            channel,
            handshake,
            now,
            initiator=initiator,
            on_create=self._on_create,
            on_open=self._link_open,
            on_closed=lambda link, reason, now: self._link_closed(link, way, reason, now),
            meter=self._queued,
            onionskins=self._onionskins,
            throttle=self._throttle,
            source=self._source_of(channel),
        )
        if not self._sweeping:
            self._sweeping = True
            self._outbox.call_at(now + SWEEP, self._sweep)

    def moved(self, now: float) -> None:
        """This machine is on another network: links that we dialled at an address are dead, though nobody noticed."""
        for link in list(self.links.values()):
            if link.initiator and not isinstance(link.handshake.binding, DtlsBinding):
                link.close("this machine changed networks", now)

    def replaced(self, channel: int, by: int) -> None:
        """A link that we wanted on one channel comes on another: both sides called at once, and the peer's call won."""
        way = self._unopened.pop(channel, None)
        if way is not None:
            way.channel = by
            self._unopened[by] = way

    def data(self, channel: int, data: bytes, now: float) -> None:
        link = self.links.get(channel)
        if link is not None:
            link.receive(data, now)

    def closed(self, channel: int, reason: str, now: float) -> None:
        way = self._unopened.pop(channel, None)
        if way is not None:
            self._end(way, None, reason, now)
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
                "rtc": isinstance(link.handshake.binding, DtlsBinding),
                "dialled": link.initiator,
                "open": link.open,
                "circuits": len(link.circuits),
                "bytes_in": link.bytes_in,
                "bytes_out": link.bytes_out,
            }
            for link in self.links.values()
        ]

    def close_all(self, now: float, reason: str = "the node is stopping") -> None:
        """For a clean shutdown, or when none of them can be alive."""
        for link in list(self.links.values()):
            link.close(reason, now)

    # -- inside

    def _link_open(self, link: Link, now: float) -> None:
        if link.peer is not None and (link.initiator or link.handshake.authenticated):
            # An unproven incoming link must not attract circuits that were meant for another node.
            for name in link.names:
                if self._is_another(link, name):
                    continue
                self._reusable[name] = link
                ways = [way for way in self._ways.values() if way.identity == name and _proves(link, way.address)]
                for way in [way for way in ways if _leads(link, way.source, way.address)]:
                    self._end(way, link, "another link to this node opened", now)
        self.on_open(link, now)

    def _is_another(self, link: Link, name: bytes) -> bool:
        """Whether the neighbour proves this RSA fingerprint, but with another identity than it is known to have."""
        return len(name) == FINGERPRINT_LEN and self._ed25519_of(name) not in (None, link.peer)

    def _link_closed(self, link: Link, way: _Way | None, reason: str, now: float) -> None:
        if self.links.pop(link.channel, None) is not None:
            self._closed_in += link.bytes_in
            self._closed_out += link.bytes_out
        self._idle_since.pop(link.channel, None)
        self._dialled.pop(link.channel, None)
        for name in link.names:
            if self._reusable.get(name) is link:
                del self._reusable[name]
        if way is not None and not way.machine.final:
            self._end(way, None, reason, now)
        self._outbox.emit(LinkClosed(link.channel, reason))
        self.on_closed(link, now)

    def _relieve(self) -> None:
        max(self.links.values(), key=lambda link: link.queued).shed()

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


def _leads(link: Link, source: Hashable, address: LinkAddress | None) -> bool:
    """Whether it may serve to reach a node for `source`, who named this address."""
    return source is None or address is not None or not isinstance(link.handshake.binding, TlsBinding)


def _proves(link: Link, address: LinkAddress | None) -> bool:
    """Whether the neighbour has the RSA identity that it is said to have at this address."""
    return address is None or address.rsa in (None, link.handshake.peer_rsa)
