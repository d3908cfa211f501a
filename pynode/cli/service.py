"""`convergence serve`: what runs on this machine, offered as a service.

Does: offer a public or private address, and join each connection that comes to a host and port, a unix socket, or a
command of its own. A private service's secret is kept in `services/` of the data folder, so that its address stays.
Does not: look into what is carried, or authenticate clients: who knows the address may connect.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path

from convergence.errors import EndReason, Problem
from convergence.events import Event, ServiceStands, Trouble
from convergence.pipes.duplex import Duplex, Handler, join
from convergence.pipes.pending import Pending
from convergence.services import private_address
from convergence.wire.address import PrivateAddress, PublicAddress, ServiceAddress
from pynode.app import App, Plan
from pynode.cli.common import data_folder, joined, set_up_logs, settings, stun_servers, unless
from pynode.cli.output import CliError, Output, shown
from pynode.cli.pipe import address_of
from pynode.cli.sites import network_of
from pynode.cli.words import trouble_words, words
from pynode.config import Address
from pynode.crypto import CPythonCrypto, SystemRng
from pynode.keyfile import KeyFileError, load_or_create_secret
from pynode.logs import log_event
from pynode.pipes import CommandPipe, SocketPipe, code_of

PRIVATE = "private"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)


def service_of(text: str, folder: Path) -> tuple[ServiceAddress, bytes | None]:
    """The address to serve, and its owner's secret: of "hash:NAME", "private" or "private:NAME". Raises CliError."""
    kind, colon, name = text.strip().partition(":")
    if kind != PRIVATE:
        address = address_of(text)
        if not isinstance(address, PublicAddress):
            raise CliError("Serve hash:NAME for all who know it, or private:NAME for those you give its address.", 2)
        return address, None
    if not colon:
        name = "service"
    if not _NAME.fullmatch(name):
        raise CliError("The name after private: has letters, digits, dots and dashes only.", 2)
    try:
        secret = load_or_create_secret(folder / f"{name}.json", SystemRng())
    except KeyFileError as error:
        raise CliError(f"{error}.") from None
    return private_address(CPythonCrypto(), secret), secret


async def serve(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    config = settings(arguments)
    set_up_logs(arguments, config, "serve", "error")
    if (arguments.to is None) == (not arguments.program):
        raise CliError("Say what is served: --to HOST:PORT, --to unix:PATH, or -- COMMAND.", 2)
    folder = data_folder(arguments, config, "services")
    address, secret = service_of(arguments.address, folder)
    network = await unless(stop, network_of(arguments))
    if network is None:
        return 130
    command = _Command(output, address)
    app = App(Plan(network, folder, stun=stun_servers(arguments, config), circuits=config.circuits), command.event)
    await app.start()
    try:
        leads_to = _Commands(app, output, arguments) if arguments.program else _Target(app, arguments.to)
        try:
            app.call(lambda now: app.node.services.serve(address, leads_to.accept, now, secret=secret))
        except Problem as problem:
            raise CliError(words(problem.why)) from None
        return await command.run(app, stop)
    finally:
        await app.stop()


class _Command:
    def __init__(self, output: Output, address: ServiceAddress) -> None:
        self._output = output
        self._address = address
        self._standing = asyncio.Event()
        self._said: Trouble | None = None

    async def run(self, app: App, stop: asyncio.Event) -> int:
        async def stand() -> bool:
            await joined(app)
            await self._standing.wait()
            return True

        if await unless(stop, stand()) is None:
            return 130
        private = isinstance(self._address, PrivateAddress)
        who = "whoever has this address" if private else "whoever knows this name; anybody else may offer it too"
        self._output.say(f"Served for {who}, for as long as this runs. Stop with Ctrl-C.")
        self._output.result(str(self._address))
        self._output.record("serving", address=str(self._address), host=self._address.host)
        await stop.wait()
        served = app.node.services.snapshot()["services"][0]["served"]
        self._output.say(f"Stopped after {served} {'connection' if served == 1 else 'connections'}.")
        self._output.record("stopped", served=served)
        return 0

    def event(self, event: Event) -> None:
        log_event(event)
        match event:
            case ServiceStands(_, points, _) if points:
                self._standing.set()
            case Trouble(why) if event != self._said:
                self._said = event
                self._output.say(trouble_words(event))
                self._output.record("trouble", code=why.code, message=trouble_words(event))


class _Bridge:
    """Joins connections that came to local ends that take a moment to stand."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, pipe: Duplex, now: float) -> Handler:
        """From within the core."""
        local = Pending(self._app.node.outbox, lambda code, now: None, lambda now: None, now)
        join(pipe, local)
        task = asyncio.get_running_loop().create_task(self._start(local))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        handler = pipe.handler
        assert handler is not None
        return handler

    async def _start(self, local: Pending) -> None:
        try:
            end = await self.open()
        except OSError as error:
            code = code_of(error)
            self._app.call(lambda now: local.fail(code, now))
            return

        def bind(now: float) -> None:
            if local.closed:
                end.abort(EndReason.DONE, now)
                return
            end.handler = local
            local.bind(end)
            local.opened(now)
            end.start()

        self._app.call(bind)

    async def open(self) -> SocketPipe | CommandPipe:
        """A new local end. Raises OSError."""
        raise NotImplementedError


class _Target(_Bridge):
    """A host and port, or a unix socket, of this machine."""

    def __init__(self, app: App, to: Address | Path) -> None:
        super().__init__(app)
        self._to = to

    async def open(self) -> SocketPipe:
        loop = asyncio.get_running_loop()

        def make() -> SocketPipe:
            return SocketPipe(self._app.driver)

        if isinstance(self._to, Path):
            _, pipe = await loop.create_unix_connection(make, str(self._to))
        else:
            _, pipe = await loop.create_connection(make, self._to.host, self._to.port)
        return pipe


class _Commands(_Bridge):
    """A command for each connection, like inetd."""

    def __init__(self, app: App, output: Output, arguments: argparse.Namespace) -> None:
        super().__init__(app)
        self._output = output
        self._program = arguments.program
        self._most = arguments.most
        self._running = 0

    async def open(self) -> CommandPipe:
        if self._running >= self._most:
            raise BlockingIOError
        self._running += 1
        pipe = CommandPipe(self._app.driver, self._exited)
        try:
            await pipe.launch(self._program)
        except OSError as error:
            self._running -= 1
            text = f"{shown(self._program[0])} cannot be started: {error.strerror}."
            self._output.say(text)
            self._output.record("failed", message=text)
            raise
        return pipe

    def _exited(self, code: int) -> None:
        self._running -= 1
        if code:
            self._output.say(f"{shown(self._program[0])} ended with exit code {code}.")
        self._output.record("exited", code=code)
