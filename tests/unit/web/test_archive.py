"""web/worker/archive.py: archives that Python's zipfile, and unzip where there is one, read as they should."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.web.javascript import WEB


def archive() -> Any:
    spec = importlib.util.spec_from_file_location("archive", WEB / "worker" / "archive.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Archive()


def write(path: Path, files: dict[str, bytes | None]) -> None:
    made = archive()
    with open(path, "wb") as out:
        for name, data in files.items():
            out.write(made.folder(name) if data is None else made.file(name, len(data), zlib.crc32(data)) + data)
        out.write(made.end())


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"one": b""},
        {"a/b.txt": b"text", "a/é字.bin": os.urandom(5000), "a/empty": None},
        {f"many/{number}": b"%d" % number for number in range(300)},
    ],
    ids=["none", "empty", "tree", "many"],
)
def test_what_was_put_in_comes_out(tmp_path: Path, files: dict[str, bytes | None]) -> None:
    write(tmp_path / "a.zip", files)
    with zipfile.ZipFile(tmp_path / "a.zip") as read:
        assert {name.rstrip("/"): None if name[-1] == "/" else read.read(name) for name in read.namelist()} == files
        assert read.testzip() is None
    if files and shutil.which("unzip"):
        assert subprocess.run(["unzip", "-tqq", tmp_path / "a.zip"], timeout=60).returncode == 0


def test_more_than_4_gb_in_one_file_and_in_all(tmp_path: Path) -> None:
    """The files are holes, and nobody reads them: the numbers are what counts."""
    made, size = archive(), (1 << 32) + 5
    with open(tmp_path / "a.zip", "wb") as out:
        for name in ("first", "second"):
            out.write(made.file(name, size, 0))
            out.seek(size, os.SEEK_CUR)
        out.write(made.file("last", 3, zlib.crc32(b"abc")) + b"abc" + made.end())
    with zipfile.ZipFile(tmp_path / "a.zip") as read:
        assert [info.file_size for info in read.infolist()] == [size, size, 3]
        assert read.read("last") == b"abc"
