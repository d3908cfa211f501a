"""Manifests of collections: what they may say, and where it is saved."""

from __future__ import annotations

from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.codes import FileFlaw
from convergence.errors import ParseError, Problem
from convergence.wire.manifest import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_PATH,
    Entry,
    encode_manifest,
    parse_manifest,
    saved_paths,
)
from convergence.wire.ordb import MAX_MANIFEST, MAX_SIZE
from tests.unit.wire.test_filename import HOSTILE

TREE = (Entry("a.txt", 5, "text/plain"), Entry("b", None), Entry("c/d/e", 0), Entry("c/d2", 1 << 33))


def raw(*entries: Entry, count: int | None = None) -> bytes:
    """A manifest as a liar writes it."""
    data = (len(entries) if count is None else count).to_bytes(4, "big")
    for entry in entries:
        path = entry.path.encode("utf-8", "surrogateescape")
        data += bytes([2 if entry.size is None else 1]) + len(path).to_bytes(2, "big") + path
        if entry.size is not None:
            data += entry.size.to_bytes(8, "big") + bytes([len(entry.media_type)]) + entry.media_type.encode()
    return data


def test_layout() -> None:
    data = "000000020100016100000000000000050a" + b"text/plain".hex() + "020003622f63"
    assert encode_manifest([Entry("b/c", None), Entry("a", 5, "text/plain")]).hex() == data
    assert parse_manifest(bytes.fromhex(data)) == (Entry("a", 5, "text/plain"), Entry("b/c", None))


def test_a_tree_comes_back_in_order() -> None:
    assert parse_manifest(encode_manifest(reversed(TREE))) == TREE
    assert parse_manifest(encode_manifest([])) == ()
    assert encode_manifest(TREE) == raw(*TREE)


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/etc/passwd", "a/", "a//b", "../a", "a/../../b", "a/./b", "a\\..\\b", "a\0", "x" * (MAX_PATH + 1)]
    + ["/".join("x" * (MAX_DEPTH + 1)), "\udc80"],
)
def test_paths_that_are_none(path: str) -> None:
    for size in (None, 1):
        with pytest.raises(ParseError):
            parse_manifest(raw(Entry(path, size)))
        with pytest.raises(Problem):
            encode_manifest([Entry(path, size)])


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("a", 1), Entry("a", 1)],
        [Entry("a", 1), Entry("a", None)],
        [Entry("b", 1), Entry("a", 1)],
        [Entry("a", 1), Entry("a/b", 1)],
        [Entry("a", None), Entry("a/b", 1)],
        [Entry("a", 1), Entry("a-b", 1), Entry("a/b/c/d", None)],
        [Entry("a", MAX_SIZE + 1)],
        [Entry("a", 1, "text/\n")],
        [Entry("a", 1, "x" * 128)],
        [Entry("a", 1, "té")],
    ],
    ids=str,
)
def test_what_contradicts_itself(entries: list[Entry]) -> None:
    with pytest.raises(ParseError):
        parse_manifest(raw(*entries))


def test_what_is_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(ParseError, match="too many"):
        parse_manifest(raw(count=1_000_000))
    with pytest.raises(ParseError, match="too long"):
        parse_manifest(bytes(MAX_MANIFEST + 1))
    many = [Entry(f"{number:05}", 0) for number in range(MAX_ENTRIES + 1)]
    with pytest.raises(Problem) as told:
        encode_manifest(many)
    assert told.value.why.code is FileFlaw.MANY_ENTRIES
    assert len(parse_manifest(encode_manifest(many[1:]))) == MAX_ENTRIES


def test_malformed_ones() -> None:
    data = raw(*TREE)
    for bad in (b"", data[:-1], data + b"\0", b"\0\0\0\5" + data[4:], b"\0\0\0\1\3\0\1a", b"\0\0\0\1\2\0\1\xff"):
        with pytest.raises(ParseError):
            parse_manifest(bad)


# -- where it is saved


@pytest.mark.parametrize(
    ("paths", "saved"),
    [
        (["a/b.txt", "a/c"], ["a/b.txt", "a/c"]),
        (["con/nul.txt", "a:b/c|d"], ["_con/_nul.txt", "a_b/c_d"]),
        (["a:", "a|", "a?/x", "a_"], ["a_", "a_ (1)", "a_ (2)/x", "a_ (3)"]),
        (["x:/1", "x:/2", "x?/1"], ["x_/1", "x_/2", "x_ (1)/1"]),
        (["a:.txt", "a?.txt", ".e:", ".e?"], ["a_.txt", "a_ (1).txt", ".e_", ".e_ (1)"]),
        (["A", "a"], ["A", "a"]),
    ],
)
def test_trees_stay_as_they_are_but_for_what_is_dangerous(paths: list[str], saved: list[str]) -> None:
    assert saved_paths(paths) == saved


def test_names_that_differ_in_case_get_numbers_where_the_system_makes_no_difference() -> None:
    paths = ["A/x", "a/x", "MASSE", "Maße", "e\u0301", "\xe9"]
    assert saved_paths(paths, fold=True) == ["A/x", "a (1)/x", "MASSE", "Maße (1)", "e\u0301", "\xe9 (1)"]


def test_many_names_that_become_one_take_no_time() -> None:
    names = [f"{number:016b}".replace("0", ":").replace("1", "?") for number in range(MAX_ENTRIES)]
    assert len(set(saved_paths(names))) == MAX_ENTRIES


part = HOSTILE.map(lambda name: name.replace("/", "").replace("\\", "").replace("\0", "")).filter(
    lambda name: name not in ("", ".", "..") and not any("\ud800" <= char <= "\udfff" for char in name)
)
paths_of_strangers = st.lists(st.lists(part, min_size=1, max_size=4).map("/".join), max_size=12)


@given(paths_of_strangers, st.booleans())
def test_whatever_comes_is_saved_below_the_folder_and_apart(paths: list[str], fold: bool) -> None:
    paths = sorted(set(paths))
    paths = [one for one in paths if not any(other.startswith(one + "/") for other in paths)]
    saved = saved_paths(paths, fold=fold)
    assert len(set(saved)) == len(paths)
    for path, where in zip(paths, saved, strict=True):
        for kind in (PurePosixPath, PureWindowsPath):
            parts = kind(where).parts
            assert not kind(where).is_absolute() and ".." not in parts and len(parts) == path.count("/") + 1
    assert not any(later.startswith(one + "/") for one, later in pairwise(sorted(saved)))
