"""What a person types, or a program gives on standard input.

Does: ask for a password that the terminal does not show; read a share link, or the mail that holds it: arguments show
in `ps` and in the shell's history. Does not: check passwords.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import sys
import termios
from collections.abc import Iterator

from convergence.errors import Problem
from convergence.wire.sharelink import MAX_TEXT, find_link
from convergence.wire.wordcode import find_code
from pynode.cli.common import unless
from pynode.cli.output import CliError, Output

MAX_PASSWORD = 1024


async def ask_link(stop: asyncio.Event) -> str | None:
    """A text that should hold a link: all of standard input; from a terminal, lines until there is a link in them, or
    an empty one. None when it was stopped."""
    terminal, text = sys.stdin.isatty(), ""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    if terminal:
        sys.stderr.write("Paste the link, or type the code: ")
        sys.stderr.flush()
    while len(text) < MAX_TEXT:
        data = await _piece(sys.stdin.fileno(), stop)
        if data is None:
            return None
        text += decode(data, not data)
        if not data or (terminal and _has_link(text)):
            break
    return text


def _has_link(text: str) -> bool:
    """Or a word code, or an empty line."""
    if text.endswith("\n\n") or not text.strip():
        return True
    for find in (find_code, find_link):
        with contextlib.suppress(Problem):
            if find(text) is not None:
                return True
    return False


async def _piece(descriptor: int, stop: asyncio.Event) -> bytes | None:
    """Some bytes; none at the end of input. None when it was stopped."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except OSError:  # a plain file is always ready
        return os.read(descriptor, MAX_TEXT)
    try:
        arrived = await unless(stop, ready.wait())
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, MAX_TEXT) if arrived else None


async def ask_password(question: str, output: Output, stop: asyncio.Event) -> str | None:
    """A line that the terminal does not show; else the next line of standard input. None when it was stopped."""
    if not sys.stdin.isatty():
        return _line()
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    with _no_echo(sys.stdin.fileno()):
        sys.stderr.write(question)
        sys.stderr.flush()
        loop.add_reader(sys.stdin.fileno(), ready.set)
        try:
            answered = await unless(stop, ready.wait())
        finally:
            loop.remove_reader(sys.stdin.fileno())
            output.say("")
        return _line() if answered else None


def _line() -> str:
    try:
        line = sys.stdin.readline(MAX_PASSWORD).rstrip("\n")
        line.encode()
    except UnicodeError:
        raise CliError("This password is not UTF-8, which a key's has to be: set the terminal to UTF-8.", 2) from None
    return line


@contextlib.contextmanager
def _no_echo(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
