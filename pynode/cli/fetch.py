"""`convergence fetch`: one http or https address through an exit.

Does: write the body to standard output or to a new file, everything else to standard error.
Does not: let a page drive the terminal: control characters are taken out where standard output is one.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from convergence.codes import FetchStage
from convergence.errors import LocalError
from convergence.events import Event, FetchDone, FetchFailed, FetchProgress, FetchResponse, FetchStatus
from convergence.fetch import Target
from pynode.app import App, Plan
from pynode.cli.common import joined, set_up_logs, settings, stun_servers, tor_folder, unless
from pynode.cli.output import NO_READER, CliError, Output, discard, shown, size_words
from pynode.cli.sites import network_of
from pynode.cli.words import error_words, words
from pynode.logs import log_event


async def fetch(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code: 1 too when the site answers with an error."""
    try:
        return await _fetch(arguments, output, stop)
    except BrokenPipeError:  # of standard output
        return NO_READER


async def _fetch(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    config = settings(arguments)
    set_up_logs(arguments, config, "fetch", "error")
    try:
        Target.parse(arguments.url)
    except LocalError as error:
        raise CliError(error_words(error), 2) from None
    network = await unless(stop, network_of(arguments))
    if network is None:
        return 130
    with tor_folder(arguments) as data, _sink(arguments.output, output.as_json) as sink:
        command = _Command(output, sink, arguments.ca)
        stun, roots = stun_servers(arguments, config), _roots(arguments.ca)
        app = App(Plan(network, data, stun=stun, circuits=config.circuits, roots=roots), command.event)
        await app.start()
        try:
            if await unless(stop, joined(app)) is None:
                return 130
            app.call(lambda now: app.node.fetch(arguments.url, command.body, now))
            await unless(stop, command.finished)
        finally:
            await app.stop()
        if command.finished.cancelled():
            return 130
        command.finished.result()
        sink.complete = True
    return 0 if command.status < 400 else 1


def _roots(name: str | None) -> str | None:
    """Certificates from a file in PEM. Raises CliError."""
    if name is None:
        return None
    try:
        text = Path(name).read_text(encoding="ascii")
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        raise CliError(f"{shown(name)} cannot be used: it holds no certificate in PEM.", 2) from None
    except OSError as error:
        raise CliError(f"{shown(name)} cannot be read: {os.strerror(error.errno or 0)}.", 2) from None
    return text


class _Command:
    def __init__(self, output: Output, sink: _Sink, ca: str | None = None) -> None:
        self.status = 0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._output = output
        self._sink = sink
        self._ca = ca
        self._said: set[FetchStage] = set()

    def body(self, data: bytes) -> None:
        """Called by the core with each part of the body."""
        try:
            self._sink.write(data)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)

    def event(self, event: Event) -> None:
        log_event(event)
        match event:
            case FetchStatus(_, stage) if stage not in self._said:  # several attempts may report the same
                self._said.add(stage)
                self._output.say(f"{words(stage)}…")
            case FetchResponse(_, status, kind, length):
                self.status = status  # not in the pattern: a name with a dot there is compared, not bound
                of_kind = f", {shown(kind)}" if kind else ""
                of_length = f", {size_words(length)}" if length is not None else ""
                self._output.say(f"The site answers {self.status}{of_kind}{of_length}.")
                self._output.record("response", status=self.status, type=kind, length=length)
            case FetchProgress(_, size):
                self._output.progress(f"{size_words(size)} so far", size=size)
            case FetchDone(_, size):
                self._output.say(f"{size_words(size)} fetched.")
                self._output.record("done", size=size, status=self.status)
                if not self.finished.done():
                    self.finished.set_result(None)
            case FetchFailed(_, why):
                self._fail(CliError(words(why, self._ca)))


class _Sink:
    """Where the body goes. On a terminal it is text without control characters. Only what is `complete` is kept."""

    def __init__(self, file: BinaryIO) -> None:
        self.complete = False
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if file.isatty() else None

    def write(self, data: bytes) -> None:
        if self._decoder is None:
            self._file.write(data)
        else:
            text = self._decoder.decode(data)
            self._file.write("".join(c if c.isprintable() or c in "\n\t" else " " for c in text).encode())


@contextmanager
def _sink(name: str | None, as_json: bool) -> Iterator[_Sink]:
    """Standard output, or a file that appears once it is complete and replaces none."""
    if name is None:
        if as_json:
            raise CliError("--json needs -o FILE: the body would be mixed with the records.", 2)
        try:
            yield _Sink(sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as error:
            discard(sys.stdout)
            if isinstance(error, BrokenPipeError):
                raise
            raise CliError(f"What came cannot be written: {os.strerror(error.errno or 0)}.") from None
        return
    path = Path(name)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    if path.exists() or path.is_symlink():
        raise CliError(f"{shown(str(path))} is there already: choose another name with -o.", 2)
    try:
        with open(part, "xb") as file:
            sink = _Sink(file)
            yield sink
        if sink.complete:
            os.link(part, path)
    except FileExistsError:
        raise CliError(f"{shown(str(path))} is there already: choose another name with -o.") from None
    except OSError as error:
        raise CliError(f"{shown(str(path))} cannot be written: {os.strerror(error.errno or 0)}.") from None
    finally:
        part.unlink(missing_ok=True)
