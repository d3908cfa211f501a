"""Where programs of this machine connect: limits, and what is left of a unix socket."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from convergence.errors import EndReason
from pynode.app import App
from pynode.cli import local as module
from pynode.cli.local import Visitors, listening
from pynode.cli.output import CliError, Output
from pynode.config import Address
from tests.unit.pynode.test_pipes import Driver, loops, run, soon


class FakeApp:
    """What Visitors use of a node."""

    def __init__(self) -> None:
        self.driver = Driver()

    def call(self, command: Any) -> None:
        command(0.0)


@loops
def test_connections_beyond_the_limit_are_closed_and_that_is_said_once(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOCAL", 2)
    words, records = io.StringIO(), io.StringIO()
    came: asyncio.Queue[Any] = asyncio.Queue()

    async def main(output: Output) -> None:
        def visit(pipe: Any) -> None:
            pipe.handler = None
            pipe.start()
            came.put_nowait(pipe)

        visitors = Visitors(cast(App, FakeApp()), output, visit)
        async with listening(Address("127.0.0.1", 0), visitors.pipe) as server:
            where = server.sockets[0].getsockname()
            streams = [await asyncio.open_connection(*where) for _ in range(2)]
            first, _ = [await soon(came.get()) for _ in streams]
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*where)
                try:
                    assert await soon(reader.read()) == b""
                except ConnectionResetError:
                    pass
                writer.close()
            first.abort(EndReason.DONE, 0.0)
            assert await soon(streams[0][0].read()) == b""
            _, writer = await asyncio.open_connection(*where)
            await soon(came.get())
            for stream in (*streams, (None, writer)):
                stream[1].close()

    run(loop, main(Output(False, out=records, err=words)))
    assert words.getvalue().count("2 connections are open") == 1 and came.empty()
    run(loop, main(Output(True, out=records)))
    assert [json.loads(line) for line in records.getvalue().splitlines()] == [{"event": "full", "most": 2}]


@loops
def test_a_socket_is_for_its_user_alone_and_goes_at_the_end(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"

    async def main() -> None:
        async with listening(path, asyncio.Protocol):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with pytest.raises(CliError, match="in use"):
                async with listening(path, asyncio.Protocol):
                    pass
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.close()
        assert not path.exists()

    run(loop, main())


@loops
def test_a_socket_of_nobody_is_replaced_and_what_is_none_is_kept(loop: str, tmp_path: Path) -> None:
    dead, file, ours = tmp_path / "dead.sock", tmp_path / "file", tmp_path / "ours.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(dead))
    file.write_text("mine")

    async def main() -> None:
        async with listening(dead, asyncio.Protocol):
            _, writer = await asyncio.open_unix_connection(str(dead))
            writer.close()
        with pytest.raises(CliError, match="no socket"):
            async with listening(file, asyncio.Protocol):
                pass
        assert file.read_text() == "mine"
        async with listening(ours, asyncio.Protocol):
            ours.unlink()
            ours.write_text("another's")
        assert ours.read_text() == "another's"

    run(loop, main())
