"""Runs the command that the arguments name.

Does: import its module, run it on an event loop, turn every error into one sentence and an exit code
(0 done, 1 failed, 2 asked for wrongly, 130 interrupted).
Does not: parse anything.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TypeAlias

from convergence.errors import ConvergenceError, Problem
from pynode.app import AppError
from pynode.cli.output import CliError, Output, sentence
from pynode.cli.words import words
from pynode.loop import run
from pynode.storage import StorageError

Command: TypeAlias = Callable[[argparse.Namespace, Output, asyncio.Event], Awaitable[int]]


def command_of(name: str) -> Command:
    """The function "module.function" of this package."""
    module, _, function = name.partition(".")
    command: Command = getattr(import_module(f"pynode.cli.{module}"), function)
    return command


def run_command(arguments: argparse.Namespace) -> int:
    """Returns its exit code."""
    output = Output(arguments.json)
    command = command_of(arguments.command)

    async def guarded(stop: asyncio.Event) -> int:
        try:
            return await command(arguments, output, stop)
        except (CliError, AppError, StorageError, ConvergenceError) as error:
            text = words(error.why) if isinstance(error, Problem) else str(error)
            text = text if isinstance(error, CliError) else sentence(text)
            output.say(text)
            output.record("error", message=text)
            return error.code if isinstance(error, CliError) else 1

    return run(guarded)
