"""Manual pages: groff and mandoc read them, man finds them, and they name all commands and options."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynode.cli import Parser, _split, parser
from pynode.cli.manual import pages, subparsers
from pynode.cli.running import command_of
from tests.namespace import program

VERSION = "1.2.3"
PAGES = pages(parser(), VERSION)


def every(one: Parser) -> Iterator[Parser]:
    yield one
    for below in subparsers(one).values():
        yield from every(below)


def page_of(one: Parser) -> str:
    return f"{one.prog.replace(' ', '-')}.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `man -M` looks for pages."""
    top = tmp_path_factory.mktemp("man")
    (top / "man1").mkdir()
    for name, page in PAGES.items():
        (top / "man1" / name).write_bytes(page)
    return top


def read(folder: Path, *names: str) -> str:
    """What `man NAMES` shows: plain words, and one long line where the page has no other."""
    command = [
        "env",
        "-i",
        "LC_ALL=C.UTF-8",
        "MANWIDTH=2000",
        "PATH=/usr/bin:/bin",
        program("man"),
        "-M",
        folder,
        *names,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", PAGES)
def test_groff_and_mandoc_have_nothing_to_say(name: str, folder: Path) -> None:
    path = folder / "man1" / name
    typeset = [program("groff"), "-man", "-ww", "-Tutf8", path]
    assert subprocess.run(typeset, check=True, capture_output=True, text=True).stderr == ""
    lint = [program("mandoc"), "-T", "lint", "-W", "warning", path]
    found = subprocess.run(lint, capture_output=True, text=True).stdout.splitlines()
    # A page has no date, because equal sources give equal pages.
    assert [line for line in found if "missing date" not in line] == []


@pytest.mark.parametrize("one", [*every(parser())], ids=lambda one: one.prog)
def test_a_page_has_what_help_has(one: Parser, folder: Path) -> None:
    shown = " ".join(read(folder, page_of(one).removesuffix(".1")).split())
    for action in one._actions:
        if action.help == argparse.SUPPRESS:
            assert not any(f"{name} " in shown for name in action.option_strings)
            continue
        for name in action.option_strings or [*subparsers(one)] or [str(action.metavar)]:
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", shown), name
        if action.help:
            assert " ".join(action.help.replace("`", "").split()) in shown
    assert (one.description or "").replace("`", "") in shown


def test_each_command_has_a_function_that_runs_it() -> None:
    names = {one.get_default("command") for one in every(parser()) if not subparsers(one)}
    assert len(names) == len(PAGES) - 2  # all but `convergence` and `convergence release`
    assert all(asyncio.iscoroutinefunction(command_of(name)) for name in names)


def test_man_finds_the_page_of_a_command_by_its_words(folder: Path) -> None:
    assert read(folder, "convergence", "pipe").startswith("CONVERGENCE-PIPE(1)")


def test_pages_refer_to_pages_that_exist() -> None:
    for page in PAGES.values():
        for name in re.findall(r"^\.BR (\S+) \(1\)", page.decode(), re.MULTILINE):
            assert f"{name.replace(chr(92), '')}.1" in PAGES


def test_nothing_but_the_parser_and_the_version_makes_a_page() -> None:
    assert pages(parser(), VERSION) == PAGES
    assert all(b"1.2.3" in page for page in PAGES.values())
    # -S: no site-packages, as where a build begins.
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\nfrom pynode.cli import parser; from pynode.cli.manual import pages\n"
        f"print(b''.join(pages(parser(), {VERSION!r}).values()).decode(), end='')"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-S", "-c", code, root / "shared", root]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"".join(PAGES.values())


def test_what_roff_would_take_for_a_request_is_text() -> None:
    one = Parser(prog="convergence odd", description="Say. 'Quoted' words, \\fBback\\fR, ~ and ünicode.")
    one.add_argument("--dot", help=".TH is text; 'so is this; -x and --dot-dot; 100%%")
    page = pages(one, VERSION)["convergence-odd.1"]
    shown = subprocess.run(
        [program("mandoc"), "-T", "utf8"], input=page, check=True, capture_output=True
    ).stdout.decode()
    shown = re.sub(".\b", "", shown)
    assert "'Quoted' words, \\fBback\\fR, ~ and ünicode." in shown
    assert ".TH is text; 'so is this; -x and --dot-dot; 100%" in " ".join(shown.split())


EXAMPLES = [(one, line) for one in every(parser()) for _, line in one.examples if "convergence" in line]


@pytest.mark.parametrize(("one", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_examples_are_what_the_parser_takes(one: Parser, line: str) -> None:
    found = re.search(r"convergence [^|')]*('[^']*')?", line)
    assert found
    own, _ = _split(shlex.split(found[0])[1:])
    assert f"convergence {own[0]}" == one.prog
    parser().parse_args(own)
