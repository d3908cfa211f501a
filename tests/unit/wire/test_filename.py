from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.wire.filename import MAX_BYTES, saved_name

KEPT = [
    *("report.pdf", "Grüße aus Köln.txt", "写真.jpeg", "archive.tar.gz", "console.log", "no ending", "a-b", "x~"),
    *(".env", ".bashrc", "__init__.py", "_", "~$report.docx", "..a", "a..b", " a", "$(x) `y` 'z'; &"),
    *("می\u200cخواهم.txt", "\U0001f468\u200d\U0001f469\u200d\U0001f467.png"),  # a joiner each
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f.svg",  # England's flag
    *("e\u0301.txt", "\xe9.txt"),  # composed or not: two names
    *("\u0378.txt", "\ue000.txt", "\U000effff"),  # unassigned, or for private use
    "x" * MAX_BYTES,
]
CHANGED = [
    ("../../x", ".._.._x"),
    ("..\\..\\x", ".._.._x"),
    ("/etc/passwd", "_etc_passwd"),
    ("C:\\boot.ini", "C__boot.ini"),
    (".", "_"),
    ("..", "__"),
    ("", "file"),
    ("\0\n\r\t", "____"),
    ("   ", "___"),
    ("-rf", "_rf"),
    ("x\0.exe", "x_.exe"),
    ("line\nbreak.txt", "line_break.txt"),
    ("two\u2028lines", "two_lines"),
    ("photo\u202egpj.exe", "photo_gpj.exe"),
    ("zero\u200bwidth\ufeff", "zero_width_"),
    ("\x1b[31mred", "_[31mred"),
    ("\udc80", "_"),
    ("CON", "_CON"),
    ("nul.txt", "_nul.txt"),
    ("com1", "_com1"),
    ("lpt¹.doc", "_lpt¹.doc"),
    ("trailing. . ", "trailing____"),
    ("<img src=x onerror=alert(1)>", "_img src=x onerror=alert(1)_"),
    ("file.txt:stream", "file.txt_stream"),
    ("a" * 5000 + ".pdf", "a" * 236 + ".pdf"),
    ("x." + "y" * 5000, "x." + "y" * 238),
]


@pytest.mark.parametrize("name", KEPT)
def test_harmless_names_stay_as_they_are(name: str) -> None:
    assert saved_name(name) == name


@pytest.mark.parametrize(("name", "expected"), CHANGED)
def test_what_could_harm_is_replaced(name: str, expected: str) -> None:
    assert saved_name(name) == expected


HOSTILE = st.text(
    st.one_of(
        st.characters(), st.sampled_from("/\\.-~: \0\n\r\u202e\u200b<>|*?\"'`$;&conaux"), st.characters(codec=None)
    ),
    max_size=600,
)


@given(HOSTILE)
def test_whatever_comes_the_name_is_harmless(name: str) -> None:
    safe = saved_name(name)
    assert 0 < len(safe.encode()) <= MAX_BYTES
    assert not set(safe) & set('/\\<>:"|?*')
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in safe)
    assert not any(unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF") for char in safe)
    assert safe[0] != "-" and safe[-1] not in ". "
    assert PurePosixPath(safe).name == safe == PureWindowsPath(safe).name
    assert saved_name(safe) == safe


@given(st.text("aé字😀", min_size=300, max_size=400), st.sampled_from([".pdf", ".tar", ".jpeg"]))
def test_cut_names_keep_their_ending(stem: str, ending: str) -> None:
    safe = saved_name(stem + ending)
    assert safe.endswith(ending) and MAX_BYTES - 4 <= len(safe.encode()) <= MAX_BYTES
