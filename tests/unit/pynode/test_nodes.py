"""Descriptors of nodes as text, in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.netdir.nodes import MAX_RECALLED
from convergence.wire.descriptor import MAX_DESCRIPTOR
from pynode.nodes import MAX_BYTES, MAX_LINE, NodeFiles, from_text, to_text, write_descriptor

ONE, TWO = b"one" * 60, b"two" * 60


@given(st.lists(st.binary(min_size=1, max_size=MAX_DESCRIPTOR), max_size=20))
def test_what_was_made_text_comes_back(descriptors: list[bytes]) -> None:
    assert from_text("# nodes\n\n" + "\n".join(map(to_text, descriptors))) == descriptors


@given(st.text())
def test_any_text_costs_no_more_than_its_lines(text: str) -> None:
    assert len(from_text(text)) <= len(text.splitlines())


def test_a_wrong_line_costs_itself_only() -> None:
    lines = [to_text(ONE), "no base64!", "é", "A" * (MAX_LINE + 1), f"  {to_text(TWO)}  "]
    assert from_text("\n".join(lines)) == [ONE, TWO]
    assert len(from_text("\n".join([to_text(ONE)] * (MAX_RECALLED + 10)))) == MAX_RECALLED


def test_files_are_read_once_after_each_change(tmp_path: Path) -> None:
    source = NodeFiles(tmp_path)
    assert list(source()) == []
    write_descriptor(tmp_path / "one.txt", ONE)
    assert list(source()) == [ONE] and list(source()) == []
    write_descriptor(tmp_path / "two.txt", TWO)
    (tmp_path / ".hidden").write_text("still written")
    (tmp_path / "folder").mkdir()
    assert list(source()) == [ONE, TWO] and list(source()) == []
    write_descriptor(tmp_path / "one.txt", TWO)
    assert list(source()) == [TWO, TWO]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "folder", "one.txt", "two.txt"]


def test_a_file_alone_is_read_too_and_what_is_missing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = NodeFiles(tmp_path / "nodes.txt")
    assert list(source()) == [] and "cannot read the nodes" in caplog.text
    write_descriptor(tmp_path / "nodes.txt", ONE)
    assert list(source()) == [ONE] and str(source) == str(tmp_path / "nodes.txt")


def test_no_more_is_read_than_a_limit(tmp_path: Path) -> None:
    big = tmp_path / "big.txt"
    with open(big, "wb") as file:
        os.truncate(file.fileno(), 100 * MAX_BYTES)  # zeros that take no room
    (tmp_path / "later.txt").write_text(to_text(ONE))
    assert list(NodeFiles(tmp_path)()) == []


def test_what_cannot_be_written_raises_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        write_descriptor(tmp_path / "none" / "file", ONE)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_descriptor(tmp_path / "taken", ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
