"""`tar | pipe | tar`: a tree of files arrives whole, however large it is, and nothing in between grows with it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.processes import ENVIRONMENT, MIB, PATIENCE
from tests.interop.programs import Memory, child
from tests.interop.ways import Way
from tests.namespace import program

LONG = 15 * PATIENCE
"""Seconds for 1 GiB."""


def make_tree(folder: Path, size: int) -> None:
    """Files of many sizes, an empty one and an empty folder, links, and a name that is not ASCII."""
    numbers = random.Random(size)
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "nothing in it").mkdir()
    (folder / "link").symlink_to("empty")
    below = folder / "naïve 名前"
    below.mkdir()
    left, number = size, 0
    while left:
        part = min(left, numbers.choice((1, 511, 512, 10_240, MIB, 16 * MIB)))
        (below / f"{number}").write_bytes(numbers.randbytes(part))
        left, number = left - part, number + 1


def tree(folder: Path) -> dict[str, str]:
    """What is in a folder: for each path its kind, permissions and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = f"{path.lstat().st_mode:o} "
        if path.is_symlink():
            what += os.readlink(path)
        elif path.is_file():
            with path.open("rb") as file:
                what += hashlib.file_digest(file, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = what
    return found


@pytest.mark.parametrize(
    ("size", "patience"), [(64 * MIB, PATIENCE), pytest.param(1024 * MIB, LONG, marks=pytest.mark.long)]
)
def test_a_tree_arrives_and_memory_stays_flat(way: Way, tmp_path: Path, size: int, patience: float) -> None:
    make_tree(tmp_path / "here", size)
    there = tmp_path / "there"
    there.mkdir()
    tar = program("tar")
    with (
        way.to_program(tar, "-x", "-p", "-C", there) as service,
        child([tar, "-c", "-C", tmp_path / "here", "."], patience=patience, stdout=subprocess.PIPE) as packing,
        child(service.pipe, patience=patience, stdin=packing.stdout, stdout=subprocess.PIPE) as piping,
    ):
        assert packing.stdout
        packing.stdout.close()  # it is the pipe's now
        with Memory(service.command.pid, piping.pid, *way.pids) as memory:
            out, _ = piping.communicate(timeout=patience)
        # The pipe ends when the far tar has: all is there now.
        assert (packing.wait(patience), piping.returncode, out) == (0, 0, b"")
    assert memory.below(way.ceiling), memory.peaks
    assert tree(there) == tree(tmp_path / "here")
    for folder in (tmp_path / "here", there):  # pytest would keep gigabytes of them
        shutil.rmtree(folder)


def test_what_the_far_program_cannot_do_is_the_pipes_exit_code(way: Way, tmp_path: Path) -> None:
    with way.to_program(program("tar"), "-x", "-C", tmp_path / "missing") as service:
        done = subprocess.run(
            service.pipe, input=b"no archive", capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False
        )
    assert done.returncode != 0 and done.stdout == b"" and done.stderr
