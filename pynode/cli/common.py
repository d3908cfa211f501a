"""What the commands have in common.

Does: settings from file and options, a node while a command works, a lock for each folder or download, waiting for
something or for the end.
Does not: know what a command does.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from convergence.codes import LIES
from convergence.events import Event, TorDirectoryChanged, Trouble
from pynode import logs
from pynode.app import App, NotJoinedError, Plan
from pynode.cli.output import CliError, Output
from pynode.cli.sites import network_of
from pynode.cli.words import trouble_words, words
from pynode.config import Config, ConfigError, load

JOIN_TIMEOUT = 30.0
"""Seconds until a list of nodes must have come."""
TOR_TIMEOUT = 120.0
"""The same for the directory of the Tor network: at the first start about 8 MB."""

T = TypeVar("T")


def settings(arguments: argparse.Namespace) -> Config:
    """The file that --config names, else the defaults. Raises CliError."""
    if arguments.config is None:
        return Config()
    try:
        return load(Path(arguments.config))
    except ConfigError as error:
        raise CliError(f"{error}.", 2) from None


def data_folder(arguments: argparse.Namespace, config: Config, *names: str) -> Path:
    """The folder that --data names, or the file, or the default; in it, a command's own part."""
    base = Path(arguments.data).expanduser() if arguments.data else config.node.data
    return base.joinpath(*names)


def stun_servers(arguments: argparse.Namespace, config: Config) -> tuple[str, ...] | None:
    """The STUN servers for WebRTC links, from --stun or else the file; None when there are to be no such links."""
    return None if arguments.no_rtc else tuple(arguments.stun) or config.rtc.servers


def set_up_logs(arguments: argparse.Namespace, config: Config, node: str, quiet: str | None = None) -> None:
    """Log as -v says, else as the file says, else as `quiet` does for commands that speak for themselves."""
    level = config.log.level if quiet is None or arguments.config else quiet
    if arguments.verbose:
        level = "debug" if arguments.verbose > 1 else "info"
    logs.setup(node, level, as_json=config.log.json)


async def joined(app: App) -> bool:
    """Wait for the first list of nodes, or with Tor for its directory. Raises CliError when that does not come in time;
    else it is True."""
    tor = app.plan.network.tor is not None
    try:
        try:
            await app.joined(JOIN_TIMEOUT)
        except NotJoinedError:
            if not tor or app.call(app.node.snapshot)["tor"]["entries"] == 0:
                raise
            await app.joined(TOR_TIMEOUT - JOIN_TIMEOUT)
    except NotJoinedError as error:
        silent = "The facilitator sends no list of nodes: try again later."
        if tor:
            silent = "No directory of the Tor network gave what is needed: is this machine online, and its clock right?"
        if (source := app.plan.network.nodes) is not None:
            silent = f"There is no node in {source}: it should hold what `convergence relay --descriptor` writes."
        raise CliError(words(error.trouble.why) if error.trouble else silent) from None
    return True


class Warner:
    """Logs all events, and says on standard error what people have to know whatever they do: each once."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said: set[str] = set()

    def __call__(self, event: Event) -> None:
        logs.log_event(event)
        if isinstance(event, Trouble) and event.why.code in LIES and event.why.code not in self._said:
            self._said.add(event.why.code)
            self._output.say(trouble_words(event))
            self._output.record("trouble", code=event.why.code, message=trouble_words(event))


def tell_directory(output: Output, event: TorDirectoryChanged) -> None:
    """How far the directory of the Tor network is."""
    if not event.ready and event.relays:
        line = f"Loading the list of Tor's relays: {100 * event.known // event.relays} %"
        output.progress(line, stage="tor-directory", known=event.known, relays=event.relays)


async def with_node(
    arguments: argparse.Namespace,
    name: str,
    output: Output,
    stop: asyncio.Event,
    work: Callable[[App], Awaitable[int]],
    data: Path | None = None,
) -> int:
    """Join the network, do the work, leave. Returns the work's exit code; 130 when stopped before it begins. `name`:
    marks log lines; `output` takes warnings; `data`: where the node keeps what it is to remember. Raises CliError and
    AppError."""
    config = settings(arguments)
    set_up_logs(arguments, config, name, "error")
    network = await unless(stop, network_of(arguments))
    if network is None:
        return 130
    plan = Plan(network, data, stun=stun_servers(arguments, config), circuits=config.circuits)
    app = App(plan, Warner(output))
    await app.start()
    try:
        return 130 if await unless(stop, joined(app)) is None else await work(app)
    finally:
        await app.stop()


@contextmanager
def locked(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock file while the body runs; the system releases it when the process ends,
    however it ends.

    Raises:
        CliError: somebody else holds it (with the message `taken`), or the folder cannot be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CliError(f"Cannot use the data folder {path.parent}: {os.strerror(error.errno or 0)}.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        path.unlink(missing_ok=True)
    except BlockingIOError:
        raise CliError(taken) from None
    finally:
        os.close(handle)


@contextmanager
def tor_folder(arguments: argparse.Namespace) -> Iterator[Path | None]:
    """With --tor the folder for guards, entries and the directory, which is ours while the body runs; else None.
    Raises CliError."""
    if not arguments.tor:
        yield None
        return
    data = data_folder(arguments, settings(arguments), "tor")
    with locked(data / "lock", f"Another command uses {data}: stop it, or choose another folder with --data."):
        yield data


async def unless(stop: asyncio.Event, what: Awaitable[T]) -> T | None:
    """The result of `what`. When `stop` is set first, `what` is cancelled and the result is None."""
    task = asyncio.ensure_future(what)
    ending = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, ending):
            one.cancel()
        await asyncio.gather(task, ending, return_exceptions=True)
