"""One WebSocket connection: its frames become messages for the core.

Does: join fragments and what is buffered already, answer pings, report congestion, end a peer that breaks the rules.
Does not: dial, accept, or know the other connections; its owner (websocket.py) does that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import picows
from picows import WSCloseCode, WSFrame, WSMsgType, WSTransport

from convergence.effects import Protocol
from pynode.transports import LOW_WATER, printable
from pynode.transports.control import PONG_ROOM, ControlFrames
from pynode.transports.slices import Slices
from pynode.transports.unsent import REASON

if TYPE_CHECKING:
    from pynode.transports.websocket import WebSocketTransport

MAX_MESSAGE = 65536 + 4096
"""Longest message taken: 127 cells are 65,278 bytes; the rest is for variable-length handshake cells."""

_CONTROL = (WSMsgType.CLOSE, WSMsgType.PING, WSMsgType.PONG)


class Connection(picows.WSListener):
    """One connection. `channel` is None before it is open and once nothing more is to be reported."""

    def __init__(self, owner: WebSocketTransport, protocol: Protocol, channel: int | None) -> None:
        self.owner = owner
        self.protocol = protocol
        self.channel = channel
        self.incoming = channel is None
        self.congested = False
        self.ws: WSTransport | None = None
        self._slices: Slices | None = None
        self._ping: bytes | None = None  # the latest one of this read
        self._control = ControlFrames()
        self._messages: list[bytes] = []
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.ws = transport
        if self.incoming:
            self.channel = self.owner.channels.accept()
        elif self.channel is None:  # closed by the core while it was being dialled
            transport.disconnect(False)
            return
        tcp = transport.underlying_transport
        high = self.owner.unsent.high_water
        tcp.set_write_buffer_limits(high, min(LOW_WATER, high // 4))
        self._slices = Slices(tcp)
        self.owner.opened(self)

    @property
    def remote(self) -> str | None:
        """The address at the other end."""
        peer = self.ws.underlying_transport.get_extra_info("peername") if self.ws is not None else None
        return str(peer[0]) if peer else None

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket."""
        return self.ws.underlying_transport.get_write_buffer_size() if self.ws is not None else 0

    def overfull(self) -> None:
        self.report(REASON)
        self.owner.cut(self)

    def pause(self, paused: bool) -> None:
        if self._slices is not None:
            self._slices.pause(paused)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        # After a protocol error the library reads on for 10 ms, and may find frames in that: we ignore them.
        if self.channel is None or transport.is_close_frame_sent:
            if kind == WSMsgType.CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.fail(WSCloseCode.PROTOCOL_ERROR, "reserved bits set")
        elif kind == WSMsgType.BINARY and frame.fin and not self._fragments:
            self._messages.append(frame.get_payload_as_bytes())
        elif kind == WSMsgType.BINARY or kind == WSMsgType.CONTINUATION:
            self._fragment(frame, first=kind == WSMsgType.BINARY)
        elif kind == WSMsgType.PING:
            self._ping = frame.get_payload_as_bytes()
        elif kind == WSMsgType.CLOSE:
            self._deliver()
            reason = printable(frame.get_close_reason() or "")
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
            self.owner.cut_later(self)
            self.report(f"closed by the peer: {reason}" if reason else "closed by the peer")
        elif kind == WSMsgType.TEXT:
            self.fail(WSCloseCode.UNSUPPORTED_DATA, "a text message")
        if (kind in _CONTROL or not frame.payload_size) and self._control.too_many():
            self.fail(WSCloseCode.POLICY_VIOLATION, "too many control frames")
        if frame.last_in_buffer:
            self._answer(transport)
            # Any sign of life counts as the answer to a ping, because a pong behind a long queue may come late.
            transport.notify_user_specific_pong_received()
            self._deliver()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        sent = transport.close_handshake.sent if transport.close_handshake else None
        self.report(sent.reason if sent and sent.reason else "connection lost")
        self.owner.gone(self)

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        return False  # pongs come to on_ws_frame, so that `last_in_buffer` is never missed

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if self.channel is not None:
            self.owner.channels.drained(self.channel)

    def fail(self, code: WSCloseCode, reason: str) -> None:
        """End the connection because the peer broke a rule; deliver first what it sent before. (If the library finds
        the fault, it drops all that came in the same read.)"""
        self._deliver()
        if self.ws is not None:
            self.ws.send_close(code, reason.encode())
            self.ws.disconnect()
            self.owner.cut_later(self)
        self.report(reason)

    def report(self, reason: str) -> None:
        """Tell the core, once."""
        channel, self.channel = self.channel, None
        if channel is not None:
            self.owner.closed(channel, reason)

    def _answer(self, transport: WSTransport) -> None:
        """Answer the latest ping only, which is enough (RFC 6455, 5.5.3)."""
        ping, self._ping = self._ping, None
        if ping is not None and self.channel is not None and self.unsent <= PONG_ROOM:
            transport.send_pong(ping)

    def _fragment(self, frame: WSFrame, *, first: bool) -> None:
        """Join the frames of one message: browsers may cut it into several."""
        if first == bool(self._fragments):
            self.fail(WSCloseCode.PROTOCOL_ERROR, "fragments out of order")
            return
        self._fragment_bytes += frame.payload_size
        if self._fragment_bytes > MAX_MESSAGE:
            self.fail(WSCloseCode.MESSAGE_TOO_BIG, f"a message longer than {MAX_MESSAGE} bytes")
            return
        # Empty fragments are not added to the list, so that a flood of them takes no memory.
        if first or frame.payload_size:
            self._fragments.append(frame.get_payload_as_bytes())
        if frame.fin:
            self._messages.append(b"".join(self._fragments))
            self._fragments.clear()
            self._fragment_bytes = 0

    def _deliver(self) -> None:
        if not self._messages:
            return
        data = self._messages[0] if len(self._messages) == 1 else b"".join(self._messages)
        self._messages.clear()
        if data and self.channel is not None:
            self.owner.channels.received(self.channel, data)
