"""Bounds that aiortc and aioice lack, put into their objects.

Does: replace methods of one connection's own objects, not of classes. Does not: work with any other version than those
named here, which pyproject.toml pins: a test fails when what is replaced or read has another shape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pynode.transports.connection import MAX_MESSAGE

WRITTEN_FOR = {"aiortc": "1.16.0", "aioice": "0.13.0"}

GATHER_TIMEOUT = 1.0
"""Seconds that a STUN server has to answer."""

MAX_CANDIDATES = 64
"""Addresses of the other side: told ones, and those that its checks come from."""

MAX_DATAGRAM = 2048
MAX_DATAGRAMS = 2048
"""Longest datagram taken, and how many may wait to be read: anybody may send to our ports."""


def bound(sctp: Any, refuse: Callable[[str], None]) -> None:
    """Set bounds that the library lacks: how long it waits for a STUN server, and what it keeps of strangers' traffic
    (datagrams, addresses that checks come from, fragments beyond the window that it announced)."""
    from aiortc.rtcsctptransport import DataChunk, ForwardTsnChunk

    ice = sctp.transport.transport.iceGatherer._connection
    ice.get_component_candidates = partial(ice.get_component_candidates, timeout=GATHER_TIMEOUT)
    take_datagram, take_check, take_chunk = ice.data_received, ice.request_received, sctp._receive_chunk

    def data_received(data: bytes, component: int) -> None:
        if len(data) <= MAX_DATAGRAM and ice._queue.qsize() < MAX_DATAGRAMS:
            take_datagram(data, component)

    def request_received(*check: Any) -> None:
        if len(ice._remote_candidates) < MAX_CANDIDATES:
            take_check(*check)

    async def receive_chunk(chunk: Any) -> None:
        if isinstance(chunk, ForwardTsnChunk):
            refuse("an unreliable stream")
        elif isinstance(chunk, DataChunk):
            room = sctp._advertised_rwnd
            if chunk.stream_id != 0 or not chunk.user_data or room < -MAX_MESSAGE:
                refuse("data that breaks the rules of the channel")
            elif room > 0 or chunk.tsn == (sctp._last_received_tsn + 1) % 2**32:
                await take_chunk(chunk)
        else:
            await take_chunk(chunk)

    ice.data_received, ice.request_received, sctp._receive_chunk = data_received, request_received, receive_chunk
