"""`convergence completion`: a script by which bash, zsh or fish completes commands, options, files and folders.

Does: tell shtab, which writes the script, what takes a file, a folder, or the words of a code.
Does not: guess addresses, links or ports, or look at the network.
"""

from __future__ import annotations

import argparse
import asyncio

import shtab

from convergence.wire.pgpwords import THREE_SYLLABLES, TWO_SYLLABLES
from pynode.cli import parser
from pynode.cli.manual import gist, subparsers
from pynode.cli.output import Output

# Each is given what stands before the last dash, and offers it again with each word that may follow.
_BASH = """
_convergence_code() {
  [[ $1 =~ ^[1-9][0-9]{0,3}-([a-z]+-)?[a-z]*$ ]] || return
  local words="@3"
  [[ $1 == *-*-* ]] && words="@2"
  compgen -P "${1%-*}-" -W "$words" -- "${1##*-}"
}
"""
_ZSH = """
_convergence_code() {
  [[ $PREFIX =~ '^[1-9][0-9]{0,3}-([a-z]+-)?[a-z]*$' ]] || return
  local -a words=(@3)
  [[ $PREFIX == *-*-* ]] && words=(@2)
  words=(${PREFIX%-*}-$^words)
  compadd -a words
}
"""
_FISH = """
function _convergence_code
  set -l typed (commandline -ct)
  string match -qr '^[1-9][0-9]{0,3}-([a-z]+-)?[a-z]*$' -- $typed; or return
  set -l words @3
  string match -q '*-*-*' -- $typed; and set words @2
  string replace -r '^' (string replace -r '[^-]*$' '' -- $typed) -- $words
end
"""


def _with_words(function: str) -> str:
    return function.replace("@3", " ".join(THREE_SYLLABLES)).replace("@2", " ".join(TWO_SYLLABLES))


CODE = {
    "bash": "_convergence_code",
    "zsh": "_convergence_code",
    "fish": "(_convergence_code)",
    "preamble": {"bash": _with_words(_BASH), "zsh": _with_words(_ZSH), "fish": _with_words(_FISH)},
}
COMPLETE = {"FILE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY, "LINK": CODE}


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
