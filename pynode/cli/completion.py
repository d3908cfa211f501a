"""`convergence completion`: a script by which bash, zsh or fish completes commands, options, files and folders.

Does: tell shtab, which writes the script, what takes a file or a folder.
Does not: guess addresses, links or ports, or look at the network.
"""

from __future__ import annotations

import argparse
import asyncio

import shtab

from pynode.cli import parser
from pynode.cli.manual import gist, subparsers
from pynode.cli.output import Output

COMPLETE = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}


async def completion(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    output.text(script(parser(), arguments.shell))
    return 0


def script(top: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of SHELLS. The parser is changed."""
    _prepare(top, shell)
    text = shtab.complete(top, shell)
    # shtab lets zsh complete the first of several files only: in its specifications "*" is what stands for several.
    return text.replace('"(*):', '"*:') if shell == "zsh" else text


def _prepare(one: argparse.ArgumentParser, shell: str) -> None:
    one.description = gist(one)
    for action in one._actions:
        if action.metavar in COMPLETE:
            action.complete = COMPLETE[action.metavar]  # type: ignore[attr-defined]
        elif isinstance(action.metavar, str) and shell == "zsh":
            # In a specification of zsh's, a colon ends the words that describe an argument.
            action.metavar = action.metavar.replace(":", "\\:")
    for below in subparsers(one).values():
        _prepare(below, shell)
