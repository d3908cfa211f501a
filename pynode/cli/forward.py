"""`convergence forward`: a port or unix socket of this machine that leads to an address.

Does: listen, open a connection to the address for each one that comes, carry bytes both ways.
Does not: listen on other interfaces than loopback unless that is asked for by name.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from convergence.errors import EndReason, Problem
from convergence.pipes.duplex import tie
from convergence.pipes.pending import Pending
from convergence.wire.address import Address as Far
from pynode.app import App
from pynode.cli.common import with_node
from pynode.cli.local import Visitors, listening, warn_of_strangers
from pynode.cli.output import Output
from pynode.cli.pipe import address_of
from pynode.cli.words import connect_words, end_words, words
from pynode.config import Address
from pynode.pipes import SocketPipe, Watch


async def forward(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    address = address_of(arguments.address)

    async def work(app: App) -> int:
        command = _Command(app, output, address, arguments.wait)
        async with listening(arguments.listen, Visitors(app, output, command.came).pipe) as server:
            where, port = _bound(server, arguments.listen)
            output.say(f"{where} leads to the address, for as long as this runs. Stop with Ctrl-C.")
            warn_of_strangers(output, arguments.listen)
            output.result(where)
            output.record("listening", listen=where, port=port)
            await stop.wait()
        return 0

    return await with_node(arguments, "forward", output, stop, work)


class _Command:
    def __init__(self, app: App, output: Output, address: Far, patience: float) -> None:
        self._app = app
        self._output = output
        self._address = address
        self._patience = patience

    def came(self, local: SocketPipe) -> None:
        """Somebody connected."""

        def begin(now: float) -> None:
            far = self._app.node.connect(self._address, now, patience=self._patience)

            def changed() -> None:
                if there.code not in (None, EndReason.DONE):
                    self._say(far, there)

            there = Watch(far, local, changed)
            tie(there, Watch(local, far, lambda: None))

        try:
            self._app.call(begin)
        except Problem as problem:
            self._output.say(words(problem.why))
            self._app.call(lambda now: local.abort(EndReason.RESOURCELIMIT, now))
            return
        local.start()

    def _say(self, far: Pending, there: Watch) -> None:
        assert there.code is not None
        text = end_words(there.code) if there.is_open else connect_words(far.why, there.code)
        self._output.say(text)
        self._output.record("broken", code=there.code, message=text)


def _bound(server: asyncio.Server, where: Address | Path) -> tuple[str, int | None]:
    """Where it listens, in the form of the argument, and at which port if it has one."""
    if isinstance(where, Path):
        return f"unix:{where}", None
    port = server.sockets[0].getsockname()[1]
    return str(Address(where.host, port)), port
