"""`convergence proxy`: one port of this machine that speaks SOCKS 5, 4a and HTTP CONNECT.

Does: join what programs ask for to services (NAME.hash.conv, KEY.key.conv) and, through exits, to the web; have exits
look names up; keep users apart on circuits of their own; write a PAC file for browsers.
Does not: look names up here, or serve pages; what a web page could send is refused (pipes/door.py).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
from collections.abc import Hashable
from pathlib import Path

from convergence.path.exits import ExitPipe, LookUp
from convergence.pipes.door import FrontDoor
from convergence.pipes.duplex import Duplex
from convergence.pipes.pending import Pending
from convergence.pipes.socks import Ask, Command
from convergence.rdv.way import Connection
from convergence.wire.address import address_of
from pynode.app import App
from pynode.cli.common import tor_folder, with_node
from pynode.cli.local import Visitors, listening, warn_of_strangers
from pynode.cli.output import CliError, Output
from pynode.config import Address
from pynode.pipes import SocketPipe

PAC_HEAD = "// Written by `convergence proxy`.\n"
PAC = PAC_HEAD + 'function FindProxyForURL(url, host) {{\n  return "SOCKS5 {address}; SOCKS {address}";\n}}\n'


async def proxy(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""

    async def work(app: App) -> int:
        door = _Door(app, output, arguments)
        async with listening(arguments.listen, Visitors(app, output, door.came).pipe) as server:
            address = Address(arguments.listen.host, server.sockets[0].getsockname()[1])
            if arguments.pac is not None:
                _write_pac(Path(arguments.pac), address)
            output.say(
                f"A proxy for SOCKS5 and HTTP CONNECT is at {address}, for as long as this runs. Stop with Ctrl-C."
            )
            warn_of_strangers(output, arguments.listen)
            output.result(str(address))
            output.record("listening", listen=str(address), port=address.port)
            await stop.wait()
        return 0

    with tor_folder(arguments) as data:
        return await with_node(arguments, "proxy", output, stop, work, data)


class _Door:
    def __init__(self, app: App, output: Output, arguments: argparse.Namespace) -> None:
        self._app = app
        self._output = output
        self._patience = arguments.wait
        self._by_host = arguments.isolate_host
        self._by_port = arguments.isolate_port

    def came(self, local: SocketPipe) -> None:
        """A program connected."""
        self._app.call(lambda now: FrontDoor(self._app.node.outbox, local, self._connect, self._resolve, now))
        local.start()

    def _connect(self, ask: Ask, now: float) -> Duplex:
        """From within the core. Raises LocalError."""
        address = address_of(ask.host, ask.port)
        node = self._app.node
        # A program that speaks before it has its answer wants to be quick (Tor, socks-extensions.txt, section 5).
        pipe = node.connect(address, now, patience=self._patience, isolation=self._isolation(ask), optimistic=True)
        self._record("stream", ask, pipe)
        return pipe

    def _resolve(self, ask: Ask, now: float) -> LookUp:
        """Likewise."""
        reverse = ask.command is Command.RESOLVE_PTR
        look_up = self._app.node.exits.resolve(ask.host, self._isolation(ask), now, reverse=reverse)
        self._record("resolve", ask, look_up)
        return look_up

    def _isolation(self, ask: Ask) -> Hashable:
        """Requests share circuits only where this is equal. A look-up has no port."""
        return ask.isolation, self._by_host and ask.host.lower().rstrip("."), self._by_port and ask.port

    def _record(self, event: str, ask: Ask, pipe: Pending) -> None:
        if self._output.as_json:
            pipe.on_open = lambda: self._output.record(event, user=_user(ask), circuit=self._circuit(pipe))

    def _circuit(self, pipe: Pending) -> int | None:
        """The number of the circuit that carries a pipe."""
        circuit = pipe.circuit if isinstance(pipe, ExitPipe | Connection) else None
        return None if circuit is None else self._app.node.circuit_number(circuit)


def _user(ask: Ask) -> str:
    """The name that a program gave to be kept apart, without its password."""
    _, name, *_ = (*ask.isolation, b"")
    text = name if isinstance(name, str) else name.decode("utf-8", "replace")
    return text.partition(":")[0]


def _write_pac(path: Path, address: Address) -> None:
    """Replaces only a file that an earlier run wrote, and follows no link. Raises CliError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if os.path.lexists(path) and not _is_pac(path):
            raise CliError(f"{path} is there already: choose another name with --pac.")
        with open(aside, "x") as file:
            file.write(PAC.format(address=address))
        aside.replace(path)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {os.strerror(error.errno or 0)}.") from None
    finally:
        aside.unlink(missing_ok=True)


def _is_pac(path: Path) -> bool:
    """A regular file: to open another kind may take for ever."""
    return stat.S_ISREG(path.lstat().st_mode) and path.read_text(errors="replace").startswith(PAC_HEAD)
