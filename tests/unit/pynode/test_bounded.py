"""What we replace in libraries, and make of their insides, has the shape that it was written for.

Where this fails after an update: read what changed, see that the bounds still hold, then name the new version.
"""

from __future__ import annotations

import asyncio
import inspect
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import picows
import pytest
from aioice.ice import Connection
from aiortc import RTCPeerConnection
from aiortc.rtcsctptransport import DataChunk, ForwardTsnChunk, RTCSctpTransport
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from pynode.transports.bounded import WRITTEN_FOR

MADE_BY_US = {"picows": "2.3.1"}


@pytest.mark.parametrize(("name", "number"), [*WRITTEN_FOR.items(), *MADE_BY_US.items()])
def test_versions_are_pinned_to_those_it_was_written_for(name: str, number: str) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    pinned = [line.split(";")[0].strip() for line in project["dependencies"] if line.startswith(name)]
    assert pinned == [f"{name}=={number}"] and version(name) == number


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (Connection.get_component_candidates, ["self", "component", "addresses", "timeout"]),
        (Connection.data_received, ["self", "data", "component"]),
        (Connection.request_received, ["self", "message", "addr", "protocol"]),
        (RTCSctpTransport._receive_chunk, ["self", "chunk"]),
    ],
)
def test_replaced_methods_take_what_we_pass_on(method: Callable[..., Any], parameters: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == parameters
    is_async = method.__name__ in ("get_component_candidates", "_receive_chunk")
    assert inspect.iscoroutinefunction(method) == is_async


@pytest.mark.parametrize(
    ("owner", "name", "caller"),
    [
        (Connection, "get_component_candidates", "gather_candidates"),
        (RTCSctpTransport, "_receive_chunk", "_handle_data"),
    ],
)
def test_replaced_methods_are_called_on_the_object(owner: type, name: str, caller: str) -> None:
    assert f"self.{name}(" in inspect.getsource(getattr(owner, caller))


def test_attributes_that_are_read_are_there() -> None:
    async def test() -> None:
        connection = RTCPeerConnection()
        connection.createDataChannel("x", negotiated=True, id=0)
        sctp: Any = connection.sctp
        ice = sctp.transport.transport.iceGatherer._connection
        assert type(sctp) is RTCSctpTransport and type(ice) is Connection
        assert type(ice._remote_candidates) is list and ice._queue.qsize() == 0
        assert type(sctp._advertised_rwnd) is int and hasattr(sctp, "_last_received_tsn")
        chunk = DataChunk()
        assert (chunk.stream_id, chunk.tsn, chunk.user_data) == (0, 0, b"") and ForwardTsnChunk().type != chunk.type
        await connection.close()

    asyncio.run(test())


def test_the_websocket_protocol_is_what_the_library_itself_makes() -> None:
    """`ws_create_server` names no argument that we do not."""
    source = inspect.getsource(picows.ws_create_server)
    made = source[source.index("return WSProtocol(") :]
    for argument in (
        *("ws_listener_factory", "disconnect_on_exception", "websocket_handshake_timeout", "enable_auto_ping"),
        *("auto_ping_idle_timeout", "auto_ping_reply_timeout", "auto_ping_strategy", "enable_auto_pong"),
        *("max_frame_size", "read_buffer_init_size"),
    ):
        assert argument in made[: made.index("server = await")]
    assert issubclass(WSProtocol, asyncio.BufferedProtocol)
