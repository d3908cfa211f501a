"""Manual pages, made from the parser: one for `convergence`, and one for each of its commands.

Does: write roff with the man macros, as groff and mandoc read it. Pages depend on the parser and the version alone.
Does not: use argparse's own layout, which differs between versions of Python, or need more than the standard library:
the build makes the pages.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator, Mapping

from pynode.cli import Parser

WIDTH = 70
"""Columns of a line of a page's source, where no word is longer."""
EXIT_STATUS = (
    ("0", "Done."),
    ("1", "Failed; a sentence on standard error says why."),
    ("2", "The command line or a setting is wrong."),
    ("3", "The connection broke (pipe), or nothing came within --wait (get)."),
    ("130", "Interrupted."),
    ("141", "Nobody reads standard output any more (pipe, fetch)."),
)
ENVIRONMENT = (("CONVERGENCE_SITE", "The network's site, where --site is left out."),)
FILES = (("~/.local/share/convergence", "Keys, links and unfinished files, where --data is left out."),)


def subparsers(one: argparse.ArgumentParser) -> Mapping[str, Parser]:
    """The commands of a parser, by name."""
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def gist(one: argparse.ArgumentParser) -> str:
    """What it does, in one sentence."""
    return next(_sentences(one.description or ""), "")


def pages(top: Parser, version: str) -> dict[str, bytes]:
    """All pages, by file name, such as "convergence-pipe.1"."""
    return {f"{one.prog.replace(' ', '-')}.1": _page(one, version).encode("ascii") for one in _all(top)}


def _all(one: Parser) -> Iterator[Parser]:
    yield one
    for below in subparsers(one).values():
        yield from _all(below)


def _page(one: Parser, version: str) -> str:
    name, description = one.prog.replace(" ", "-"), one.description or ""
    does = gist(one)
    arguments = [action for action in one._get_positional_actions() if action.help != argparse.SUPPRESS]
    options = [action for action in one._get_optional_actions() if action.help != argparse.SUPPRESS]
    commands = subparsers(one)
    arguments = [action for action in arguments if not isinstance(action, argparse._SubParsersAction)]
    # No date: equal sources give equal pages.
    lines = [
        f'.TH {name.upper()} 1 "" "Convergence {version}" "Convergence"',
        *(".nh", ".ad l"),  # neither hyphens nor wide gaps in names and commands
        *(".SH NAME", f"{name} \\- {_text(does[:1].lower() + does[1:].rstrip('.'))}"),
        *(".SH SYNOPSIS", *_synopsis(one, arguments, options)),
        *(".SH DESCRIPTION", *_prose(description)),
    ]
    lines += _listed("COMMANDS", [(_bold(below), gist(command)) for below, command in commands.items()])
    lines += _listed("ARGUMENTS", [(f"\\fI{_text(_value(action))}\\fR", _help(action)) for action in arguments])
    lines += _listed("OPTIONS", [(_option(action), _help(action)) for action in options])
    if one.examples:
        lines.append(".SH EXAMPLES")
        for what, line in one.examples:
            lines += [*_prose(what), ".PP", ".RS 4", ".nf", *map(_code, line.splitlines()), ".fi", ".RE", ".PP"]
        lines.pop()
    lines += _listed("EXIT STATUS", [(_bold(code), words) for code, words in EXIT_STATUS])
    if any("--site" in action.option_strings for action in options) or one.prog == name:
        lines += _listed("ENVIRONMENT", [(_bold(variable), words) for variable, words in ENVIRONMENT])
    if any("--data" in action.option_strings for action in options):
        lines += _listed("FILES", [(_bold(path), words) for path, words in FILES])
    return "\n".join([*lines, *_see_also(one, name, list(commands))]) + "\n"


def _synopsis(one: Parser, arguments: list[argparse.Action], options: list[argparse.Action]) -> Iterator[str]:
    yield f".B {_text(one.prog)}"
    if one.usage:
        yield _code(one.usage.removeprefix(one.prog).strip())
        return
    yield "[\\fIoptions\\fR]"
    yield from (_option(action) for action in options if action.required)
    if subparsers(one):
        yield "\\fICOMMAND\\fR ..."
    yield from (f"\\fI{_text(_value(action))}\\fR{' ...' if action.nargs == '+' else ''}" for action in arguments)


def _see_also(one: Parser, name: str, commands: list[str]) -> Iterator[str]:
    parent = name.rpartition("-")[0]
    others = [f"{name}-{below}" for below in commands] or [parent]
    if parent and commands:
        others.insert(0, parent)
    yield ".SH SEE ALSO"
    yield from (f".BR {_text(other)} (1){',' if other != others[-1] else ''}" for other in others)


def _listed(title: str, entries: list[tuple[str, str]]) -> Iterator[str]:
    """A section of things and what they mean."""
    if entries:
        yield f".SH {title}"
    for thing, meaning in entries:
        yield from (".TP", thing, *_prose(meaning))


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {"prog": "convergence"}


def _value(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _option(action: argparse.Action) -> str:
    names = ", ".join(_bold(name) for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} \\fI{_text(_value(action))}\\fR"


def _prose(text: str) -> Iterator[str]:
    """Lines of filled text. A sentence begins a new one, so that each formatter spaces sentences as it likes to."""
    for sentence in _sentences(text):
        for line in textwrap.wrap(sentence, WIDTH, break_long_words=False, break_on_hyphens=False):
            yield _guarded(_text(line))


def _sentences(text: str) -> Iterator[str]:
    yield from re.split(r"(?<=[a-zA-Z)\"]\.) (?=[A-Z`])", text)


def _bold(text: str) -> str:
    return f"\\fB{_code(text)}\\fR"


def _text(text: str) -> str:
    """Words with `code` in them, whose hyphens and those of options are for copying."""
    parts = text.split("`")
    parts[1::2] = map(_bold, parts[1::2])
    parts[::2] = [re.sub(r"(?<![\w-])--?\w[\w-]*", lambda found: _code(found[0]), _plain(part)) for part in parts[::2]]
    return "".join(parts)


def _code(text: str) -> str:
    """What is typed as it stands."""
    return _guarded(_plain(text).replace("-", "\\-").replace("'", "\\(aq"))


def _plain(text: str) -> str:
    text = text.replace("\\", "\\e").replace("~", "\\(ti").replace("^", "\\(ha")
    return re.sub(r"[^\x20-\x7e]", lambda found: f"\\[u{ord(found[0]):04X}]", text)


def _guarded(line: str) -> str:
    """A line that is no request, whatever it begins with."""
    return f"\\&{line}" if line[:1] in (".", "'") else line
