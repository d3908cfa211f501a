"""Received file names."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.names import MAX_BYTES, safe_name

CASES = [
    ("report.pdf", "report.pdf"),
    ("Grüße aus Köln.txt", "Grüße aus Köln.txt"),
    ("写真.jpeg", "写真.jpeg"),
    ("archive.tar.gz", "archive.tar.gz"),
    ("../../x", "x"),
    ("..\\..\\x", "x"),
    ("/etc/passwd", "passwd"),
    ("C:\\boot.ini", "boot.ini"),
    ("C:boot.ini", "C_boot.ini"),
    ("a/..", "a"),
    ("..", "file"),
    ("", "file"),
    ("\0\n\r\t", "file"),
    ("   ", "file"),
    (".bashrc", "bashrc"),
    ("-rf", "rf"),
    ("--help.txt", "help.txt"),
    ("~/.ssh/authorized_keys", "authorized_keys"),
    ("x\0.exe", "x.exe"),
    ("line\nbreak.txt", "linebreak.txt"),
    ("two\u2028lines", "two lines"),
    ("photo\u202egpj.exe", "photogpj.exe"),
    ("zero\u200bwidth\ufeff", "zerowidth"),
    ("\x1b[31mred", "[31mred"),
    ("CON", "_CON"),
    ("nul.txt", "_nul.txt"),
    ("com1", "_com1"),
    ("lpt¹.doc", "_lpt¹.doc"),
    ("console.log", "console.log"),
    ("trailing. . ", "trailing"),
    ("<img src=x onerror=alert(1)>", "_img src=x onerror=alert(1)_"),
    ("file.txt:stream", "file.txt_stream"),
    ("a" * 5000 + ".pdf", "a" * 146 + ".pdf"),
    ("x." + "y" * 5000, "x." + "y" * 148),
]


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_hostile_and_honest_names(name: str, expected: str) -> None:
    assert safe_name(name) == expected


HOSTILE = st.text(
    st.one_of(
        st.characters(), st.sampled_from("/\\.-~: \0\n\r\u202e\u200b<>|*?\"'`$;&conaux"), st.characters(codec=None)
    ),
    max_size=600,
)


@given(HOSTILE)
def test_whatever_comes_the_name_is_harmless(name: str) -> None:
    safe = safe_name(name, "fallback")
    assert 0 < len(safe.encode()) <= MAX_BYTES
    assert not set(safe) & set('/\\<>:"|?*')
    assert not any(unicodedata.category(c)[0] == "C" for c in safe)
    assert safe[0] not in ".-~ " and safe[-1] not in ". "
    assert PurePosixPath(safe).name == safe == PureWindowsPath(safe).name
    assert safe.isprintable()
    assert safe_name(safe, "fallback") == safe


@given(st.text("aé字😀", min_size=200, max_size=400), st.sampled_from([".pdf", ".tar", ".jpeg"]))
def test_cut_names_keep_their_ending(stem: str, ending: str) -> None:
    safe = safe_name(stem + ending)
    assert safe.endswith(ending) and MAX_BYTES - 4 <= len(safe.encode()) <= MAX_BYTES
