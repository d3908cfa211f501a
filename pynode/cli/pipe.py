"""`convergence pipe`: standard input and output of this process, joined to an address.

Does: carry bytes both ways with back-pressure, say by the exit code how the far side ended. A service hears the end of
our input; a host on the web (tcp://) cannot be told, since Tor's END ends both ways: it has to end by itself, or is
silent for as long as --end-after says.
Does not: print anything but bytes to standard output, or speak while all is well.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable

from convergence.errors import EndReason, Problem
from convergence.pipes.duplex import Duplex, tie
from convergence.pipes.pending import Pending
from convergence.wire.address import Address, TcpAddress, parse_address
from pynode.app import App
from pynode.cli.common import unless, with_node
from pynode.cli.output import NO_READER, CliError, Output, Rate, size_words
from pynode.cli.words import connect_words, end_words, error_words
from pynode.pipes import StdioPipe, Watch

BROKE = 3  # exit code: the connection stood, and then broke
TELL_EVERY = 0.5  # seconds between two looks at the progress


def address_of(text: str) -> Address:
    """What an argument names. Raises CliError."""
    try:
        return parse_address(text)
    except Problem as problem:
        raise CliError(error_words(problem), 2) from None


async def pipe(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code: 0 both sides ended, 1 no connection, 3 it broke."""
    output = Output(output.as_json, out=sys.stderr)  # standard output is for bytes
    address = address_of(arguments.address)
    if arguments.end_after is not None and not isinstance(address, TcpAddress):
        raise CliError("--end-after is for tcp:// addresses: a service hears the end of standard input.", 2)

    async def work(app: App) -> int:
        return await _Command(app, output, address, arguments).run(stop, arguments.progress)

    return await with_node(arguments, "pipe", output, stop, work)


class _Patient(Watch):
    """Keeps the end of our input to itself. An exit ends both ways when told, so that no answer could come any more."""

    def ended(self, now: float) -> None:
        self.heard_end = True
        self._on_change()


class _Heard(Watch):
    """What comes, which ends a silence.

    Args:
        on_data: (), after each part.
    """

    def __init__(
        self, out_of: Duplex, into: Duplex, on_change: Callable[[], None], on_data: Callable[[], None]
    ) -> None:
        super().__init__(out_of, into, on_change)
        self._on_data = on_data

    def data(self, data: bytes, now: float) -> None:
        super().data(data, now)
        self._on_data()


class _Command:
    def __init__(self, app: App, output: Output, address: Address, arguments: argparse.Namespace) -> None:
        self._app = app
        self._output = output
        self._over = asyncio.Event()
        self._local = StdioPipe(app.driver, sys.stdin.fileno(), sys.stdout.fileno())
        self._connection: Pending = app.call(lambda now: app.node.connect(address, now, patience=arguments.wait))
        self._came = _Heard(self._connection, self._local, self._changed, self._await_silence)
        went = _Patient if isinstance(address, TcpAddress) else Watch
        self._went = went(self._local, self._connection, self._changed)
        tie(self._came, self._went)
        self._started = False
        self._end_after: int | None = arguments.end_after
        self._silence: asyncio.TimerHandle | None = None

    async def run(self, stop: asyncio.Event, progress: bool) -> int:
        telling = asyncio.ensure_future(self._tell()) if progress or self._output.as_json else None
        try:
            if await unless(stop, self._finish()) is None:
                self._app.call(lambda now: self._connection.abort(EndReason.CONNRESET, now))
                return 130
        finally:
            if telling is not None:
                telling.cancel()
        return self._result()

    async def _finish(self) -> bool:
        await self._over.wait()
        await self._local.flushed.wait()
        return True

    def _result(self) -> int:
        came, went, failure = self._came, self._went, self._local.failure
        self._output.record("ended", code=came.code, received=came.size, sent=went.size)
        if isinstance(failure, BrokenPipeError):
            return NO_READER
        if failure is not None:
            raise CliError(f"What came cannot be written: {os.strerror(failure.errno or 0)}.")
        if came.code is None:
            return 0
        if not came.is_open:
            raise CliError(connect_words(self._connection.why, came.code))
        raise CliError(end_words(came.code), BROKE)

    def _changed(self) -> None:
        """From within the core: something opened or ended."""
        if self._came.is_open and not self._started:
            self._started = True
            self._output.record("opened")
            self._local.start()
        if self._came.heard_end and sys.stdin.isatty():  # nobody types an end of input for a far side that has gone
            asyncio.get_running_loop().call_soon(self._app.call, self._connection.end)
        if self._silence is None:
            self._await_silence()
        if self._connection.closed or self._came.code is not None or self._went.code is not None:
            if not self._started:  # then there is nobody who closes standard output
                self._local.flushed.set()
            self._over.set()

    def _await_silence(self) -> None:
        """Our input has ended, and the far side spoke just now."""
        if self._end_after is None or not self._went.heard_end:
            return
        if self._silence is not None:
            self._silence.cancel()
        self._silence = asyncio.get_running_loop().call_later(self._end_after, self._silent)

    def _silent(self) -> None:
        if self._local.congested:  # it is our reader who holds it up
            self._await_silence()
        else:
            self._app.call(self._connection.end)

    async def _tell(self) -> None:
        rate = Rate()
        while True:
            came, went = self._came.size, self._went.size
            rate.add(came + went)
            line = f"{size_words(came)} received, {size_words(went)} sent, {size_words(rate.value)}/s"
            self._output.progress(line if self._came.is_open else "Looking for it", received=came, sent=went)
            await asyncio.sleep(TELL_EVERY)
