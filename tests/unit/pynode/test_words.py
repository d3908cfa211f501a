"""Both shells have words for all that the core may say."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

import convergence
from convergence import codes
from convergence.errors import Code, LocalError, Problem, Why
from convergence.events import Trouble
from pynode.cli.words import WORDS, error_words, trouble_words, words

ALL = [code for kind in vars(codes).values() if isinstance(kind, type) and issubclass(kind, Code) for code in kind]
VALUES = {
    **{"part": "first", "name": "a.txt", "most": 5, "needed": 2, "known": 1, "schemes": "ws wss", "rtc": True},
    **{
        "failure": "io",
        "detail": "the disk is broken.",
        "flaw": codes.UrlFlaw.HTTPS,
        "position": 3,
        "ahead": 60,
        "percent": 7,
        "word": "clokwork",
    },
}


def test_codes_are_told_apart_by_their_value_alone() -> None:
    assert len({code.value for code in ALL}) == len(ALL) > 60


@pytest.mark.parametrize("code", ALL)
def test_each_code_has_words(code: Code) -> None:
    said = words(Why(code, VALUES))
    assert said == "" if code is codes.RtcWhy.NONE else len(said) > 5
    assert "{" not in said and ".." not in said


def test_there_are_no_words_without_a_code() -> None:
    assert set(WORDS) == set(ALL)
    named = {name for text in WORDS.values() for _, name, _, _ in string.Formatter().parse(text) if name}
    assert named <= {*VALUES, "way", "clock", "nobody"}


def test_values_are_put_into_words() -> None:
    few = Why(codes.PathWhy.FEW_RELAYS, {"needed": 2, "known": 1})
    assert words(few) == "No circuit could be built: 2 relays are needed, 1 are known."
    assert trouble_words(Trouble(few, retrying=True)).endswith(" Trying again.")
    reach = Why(codes.PathWhy.OUT_OF_REACH, {"known": 3, "schemes": "wss", "rtc": True})
    assert words(reach).endswith("it takes a wss:// address or WebRTC.")
    assert words(Why(codes.FileFlaw.TOO_LARGE, {"most": 1 << 36})).endswith("a file has at most 68.7 GB.")
    clock = codes.FacilitatorWhy.CLOCK
    assert "clock is 1 d 2 h 3 min ahead of the" in words(Why(clock, {"ahead": 86400 + 7200 + 180}))
    assert "clock is 11 min behind the" in words(Why(clock, {"ahead": -650}))
    lost = codes.FacilitatorWhy.LOST
    assert words(Why(lost, {"detail": ""})) == "The connection to the facilitator was lost."
    assert words(Why(lost, {"detail": "by\x1b[2J us"})).isprintable()


@pytest.mark.parametrize("code", [codes.TlsWhy.SELF_SIGNED, codes.TlsWhy.UNKNOWN_ROOT])
def test_a_file_of_certificates_is_named_where_it_was_asked(code: Code) -> None:
    assert "whom Mozilla trusts" in words(code)
    assert "Mozilla" not in words(code, "ours.pem") and "ours.pem" in words(code, "ours.pem")


def test_what_the_core_raises_is_put_into_words() -> None:
    assert error_words(Problem(codes.UrlFlaw.HTTPS)) == words(codes.UrlFlaw.HTTPS)
    assert error_words(LocalError("this circuit is not open")) == "This circuit is not open."


def test_the_core_holds_no_advice_for_people() -> None:
    """Sentences that send their reader to a button, a link or a page belong to the shells."""
    for path in Path(convergence.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docs:
                text = node.value.lower()
                assert not any(word in text for word in ADVICE), f"{path.name}: {node.value}"


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
ADVICE = ("retry.", "try again", "open the link", "ask the sender", "check your", "trying again", "free some")
