"""WebRTC channels: one data channel of a peer connection each, through aiortc.

Does: gather candidates, offer, answer, apply what the other side says, carry messages with back-pressure, bound what
a stranger can make the library keep, shut down in bounded time. STUN servers are asked only where they are configured.
Does not: carry descriptions, know what a message means, or bind: the core takes the fingerprints from the descriptions.

What aiortc lacks, and what follows:

- It does not trickle: a description holds all candidates, and comes after GATHER_TIMEOUT seconds at the latest.
- It cannot restart ICE: a second offer closes the channel, so that a new link is made.
- It asks one STUN server a connection: several are used in turn.

Host candidates are those of all interfaces but loopback. Browsers hide theirs behind names ("<uuid>.local") that are
asked for by multicast. Such names are passed over: the browser's own checks come from the address behind the name, and
a stranger's description makes us ask nothing of the local network.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from convergence.effects import OFFERER, DescriptionKind, Protocol
from pynode.transports import CLOSE_TIMEOUT, HIGH_WATER, LOW_WATER, Channels, until_gone
from pynode.transports.bounded import MAX_CANDIDATES, bound
from pynode.transports.connection import MAX_MESSAGE

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

LABEL = "convergence"
"""Of the one data channel, which both sides make with id 0."""

MAX_CHANNELS = 512
"""Channels at a time, those that are being made and closed included. Each takes 160 KB, and a UDP port an address."""

OPEN_TIMEOUT = 18.0
"""Seconds from the request to an open channel: introduction, connectivity checks and DTLS."""

MAX_WAITING = 32
"""Descriptions that may wait for the one before to be applied."""

RESTART = "this side cannot restart ICE: a new link is needed"

log = logging.getLogger("pynode.rtc")


def _library() -> Any:
    """Import aiortc when it is first needed: that takes 0.3 s and 38 MB."""
    import aiortc

    # They log addresses and descriptions of peers, and a traceback for a stranger's malformed input.
    for name in ("aiortc", "aioice"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return aiortc


class _Peer:
    """One connection. `channel` is None once nothing more is to be reported."""

    def __init__(self, owner: RtcTransport, channel: int, role: str) -> None:
        self.channel: int | None = channel
        self.open = False
        self._owner = owner
        self._offers = role == OFFERER
        self._congested = False
        self._described = False  # by the other side
        self._waiting: asyncio.Queue[tuple[DescriptionKind, str] | None] = asyncio.Queue()
        self._over = asyncio.Event()
        self._flushed = asyncio.Event()
        self._connection: RTCPeerConnection
        self._data: Any = None

    async def run(self) -> None:
        """From the first description to the end."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._bring_up()
        except TimeoutError:
            self.report("no way to the other side" if self._described else "the other side did not answer")
        except Exception as error:  # the library raises whatever a parser may raise
            log.debug("channel %s: %s", self.channel, type(error).__name__)
            self.report("a description that cannot be used")
        await self._over.wait()
        if self._data is not None:
            await self._take_down()

    def describe(self, kind: DescriptionKind, sdp: str) -> None:
        if kind is DescriptionKind.OFFER and (self._offers or self._described):
            self.report(RESTART)
        elif self._waiting.qsize() >= MAX_WAITING:
            self.report("too many descriptions")
        elif not self.open:  # a candidate that comes later is of no use
            self._described |= kind is not DescriptionKind.CANDIDATES
            self._waiting.put_nowait((kind, sdp))

    def send(self, buffers: Sequence[bytes]) -> bool:
        if not self.open or self._data.readyState != "open":
            return True
        for buffer in buffers:
            self._data.send(bytes(buffer))
        self._congested = self._data.bufferedAmount > HIGH_WATER
        return not self._congested

    def end(self) -> None:
        """Our own close: nothing is reported."""
        self.channel = None
        self._finish()

    def cut(self) -> None:
        """Do not wait for data that is still to be flushed."""
        self._flushed.set()

    def report(self, reason: str) -> None:
        """Tell the core, once, that this is the end. Nothing is flushed."""
        channel, self.channel = self.channel, None
        self._flushed.set()
        self._finish()
        if channel is not None:
            self._owner._closed(channel, reason)

    # -- inside

    def _finish(self) -> None:
        self._over.set()
        self._waiting.put_nowait(None)

    async def _bring_up(self) -> None:
        """Returns when the channel is open, or over."""
        library = await asyncio.to_thread(_library)
        servers = [library.RTCIceServer(urls=server) for server in self._owner.stun()]
        # An empty list, because for None the library would take a server of its own choice.
        self._connection = connection = library.RTCPeerConnection(library.RTCConfiguration(iceServers=servers))
        data = self._data = connection.createDataChannel(LABEL, negotiated=True, id=0)
        assert connection.sctp is not None
        bound(connection.sctp, self.report)
        data.bufferedAmountLowThreshold = LOW_WATER
        data.on("open", self._on_open)
        data.on("message", self._on_message)
        data.on("close", self._on_close)
        data.on("bufferedamountlow", self._on_low)
        connection.on("connectionstatechange", self._on_state)
        if self._offers and not self._over.is_set():
            await connection.setLocalDescription(await connection.createOffer())
            self._tell(DescriptionKind.OFFER)
        while not self._over.is_set() and (item := await self._waiting.get()) is not None:
            await self._apply(library, *item)

    async def _apply(self, library: Any, kind: DescriptionKind, sdp: str) -> None:
        connection = self._connection
        assert connection.sctp is not None
        ice = connection.sctp.transport.transport
        lines = sdp.splitlines()
        if kind is not DescriptionKind.CANDIDATES:
            # Not "end-of-candidates" either: more may come.
            rest = "".join(f"{line}\r\n" for line in lines if "candidate" not in line)
            name = "answer" if kind is DescriptionKind.ANSWER else "offer"
            await connection.setRemoteDescription(library.RTCSessionDescription(rest, name))
            if connection.sctp.mid is None:
                raise ValueError("no data channel in it")
        for line in lines:
            if line.startswith("a=candidate:"):
                candidate = library.sdp.candidate_from_sdp(line.removeprefix("a=candidate:"))
                if not candidate.ip.endswith(".local") and len(ice.getRemoteCandidates()) < MAX_CANDIDATES:
                    await ice.addRemoteCandidate(candidate)
        if kind is DescriptionKind.OFFER:
            await connection.setLocalDescription(await connection.createAnswer())
            self._tell(DescriptionKind.ANSWER)

    def _tell(self, kind: DescriptionKind) -> None:
        sdp = self._connection.localDescription.sdp
        if "\na=candidate:" not in sdp:
            self.report("this machine has no network address but its own")
        elif self.channel is not None:
            self._owner.channels.described(self.channel, kind, sdp)

    async def _take_down(self) -> None:
        """Flush, then close. A peer has CLOSE_TIMEOUT seconds to take what was sent."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self.open and self._data.readyState in ("open", "closing"):
                    self._data.close()
                    await self._flushed.wait()
        except TimeoutError:
            pass
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._connection.close()
        except Exception as error:
            log.debug("a connection did not close in good order: %s", type(error).__name__)

    # -- from the library

    def _on_open(self) -> None:
        if self.channel is not None:
            self.open = True
            self._waiting.put_nowait(None)
            self._owner.channels.opened(self.channel, Protocol.RTC, None)

    def _on_message(self, data: bytes | str) -> None:
        if isinstance(data, str):
            self.report("a text message")
        elif len(data) > MAX_MESSAGE:
            self.report(f"a message longer than {MAX_MESSAGE} bytes")
        elif data and self.channel is not None:
            self._owner.channels.received(self.channel, data)

    def _on_close(self) -> None:
        sctp = self._connection.sctp
        alive = sctp is not None and sctp.transport.state == "connected"
        self.report("closed by the peer" if alive else "connection lost")

    def _on_low(self) -> None:
        if self._congested and self.channel is not None:
            self._congested = False
            self._owner.channels.drained(self.channel)

    def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self.report("connection lost" if self.open else "no secure connection to the other side")


class RtcTransport:
    """Implements ports.Transport for RTC channels. Set `channels` (a Driver) before use.

    Args:
        stun: "stun:host" or "stun:host:port" of servers that tell us our public address; they see it. By default none.
        max_channels: above this many, more are closed at once.
    """

    channels: Channels

    def __init__(self, stun: Sequence[str] = (), max_channels: int = MAX_CHANNELS) -> None:
        self._max_channels = max_channels
        self._stun = cycle(stun) if stun else None
        self._peers: dict[int, _Peer] = {}
        self._live: set[_Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_gone = asyncio.Event()

    def __contains__(self, channel: int) -> bool:
        return channel in self._peers

    # -- ports.Transport

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable = None) -> None:
        """Make a channel as `address` says, OFFERER or ANSWERER."""
        if len(self._live) >= self._max_channels:
            self.channels.closed(channel, "too many WebRTC connections")
            return
        peer = self._peers[channel] = _Peer(self, channel, address)
        self._live.add(peer)
        task = asyncio.get_running_loop().create_task(peer.run())
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._live.discard(peer)
            if not self._live:
                self._all_gone.set()

        task.add_done_callback(ended)

    def describe(self, channel: int, kind: DescriptionKind, sdp: str) -> None:
        """Apply an offer, an answer or candidates of the other side. What cannot be applied closes the channel."""
        peer = self._peers.get(channel)
        if peer is not None:
            peer.describe(kind, sdp)

    def send(self, channel: int, buffers: Sequence[bytes]) -> bool:
        """Each buffer travels as one message."""
        peer = self._peers.get(channel)
        return peer is None or peer.send(buffers)

    def close(self, channel: int, reason: str) -> None:
        """Flush, then close. Data channels carry no reason."""
        peer = self._peers.pop(channel, None)
        if peer is not None:
            peer.end()

    def pause(self, channel: int, paused: bool) -> None:
        """Not possible: a data channel reads at once. The core bounds what it does for such a link."""

    # -- for the application

    async def shutdown(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close everything; wait at most `timeout` seconds for data that is still to be flushed."""
        for channel in list(self._peers):
            self.close(channel, "shutting down")
        await until_gone(self._live, self._all_gone, _Peer.cut, timeout)

    @property
    def connections(self) -> int:
        """How many connections there are now, including those that are being made or closed."""
        return len(self._live)

    # -- inside

    def stun(self) -> list[str]:
        """The server to ask for the next connection, if there is one."""
        return [next(self._stun)] if self._stun is not None else []

    def _closed(self, channel: int, reason: str) -> None:
        self._peers.pop(channel, None)
        log.debug("channel %d ended: %s", channel, reason)
        self.channels.closed(channel, reason)
