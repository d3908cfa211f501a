"""git through a forwarded port, where `git daemon` listens, and through ssh."""

from __future__ import annotations

import os
import random
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import ENVIRONMENT, PATIENCE
from tests.interop.openssh import HOST, OpenSsh
from tests.interop.programs import free_port, serving
from tests.interop.ways import Way
from tests.namespace import program

COMMITS = 200
SIZE = 10_000
"""Bytes, which do not compress, that each commit brings: 2 MB of history."""

# No configuration of this machine or user, and nobody to ask.
GIT = {
    **ENVIRONMENT,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
}


def git(*arguments: str | Path, given: bytes = b"", env: dict[str, str] = GIT) -> str:
    done = subprocess.run(
        [program("git"), *arguments], input=given, capture_output=True, env=env, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare one, with a history."""
    folder = tmp_path_factory.mktemp("git") / "project.git"
    git("init", "-q", "--bare", "--initial-branch=main", folder)
    numbers = random.Random(10)
    stream = bytearray()
    for number in range(COMMITS):  # the format of git-fast-import(1)
        stream += b"commit refs/heads/main\ncommitter A <a@example> %d +0000\ndata 0\n" % (1_700_000_000 + number)
        stream += b"M 644 inline file-%d\ndata %d\n%s\n" % (number % 20, SIZE, numbers.randbytes(SIZE))
    git("-C", folder, "fast-import", "--quiet", given=bytes(stream))
    return folder


@pytest.fixture(scope="module")
def daemon(repository: Path) -> Iterator[int]:
    """The port of `git daemon`, which serves the folder of the repository."""
    port = free_port()
    command: list[str | Path] = [Path(git("--exec-path").strip()) / "git-daemon", "--verbose", "--export-all"]
    command += ["--listen=127.0.0.1", f"--port={port}", f"--base-path={repository.parent}", repository.parent]
    with serving(*command, ready="Ready to rumble", env=GIT):
        yield port


def same(copy: Path, repository: Path) -> None:
    git("-C", copy, "fsck", "--strict")
    assert git("-C", copy, "rev-parse", "HEAD") == git("-C", repository, "rev-parse", "main")
    assert git("-C", copy, "rev-list", "--count", "HEAD").strip() == str(COMMITS)


def test_a_clone_through_a_forwarded_port(way: Way, daemon: int, repository: Path, tmp_path: Path) -> None:
    with way.to_port(daemon) as service, service.forward() as (_, port):
        git("clone", "-q", f"git://127.0.0.1:{port}/project.git", tmp_path / "copy")
    same(tmp_path / "copy", repository)


def test_a_clone_and_a_push_over_ssh(way: Way, repository: Path, tmp_path: Path) -> None:
    with OpenSsh(tmp_path).running() as openssh, way.to_port(openssh.port) as service:
        env = {**GIT, "GIT_SSH_COMMAND": shlex.join(openssh.client(service.proxy_command))}
        copy = tmp_path / "copy"
        git("clone", "-q", f"ssh://{HOST}{repository}", copy, env=env)
        same(copy, repository)
        git("-C", copy, "push", "-q", "origin", "HEAD~1:refs/heads/before", env=env)
        assert git("-C", repository, "rev-parse", "before") == git("-C", copy, "rev-parse", "HEAD~1")
        # What the way back carries as well: all of it, to an empty place.
        git("init", "-q", "--bare", tmp_path / "empty.git")
        git("-C", copy, "push", "-q", f"ssh://{HOST}{tmp_path}/empty.git", "HEAD:refs/heads/main", env=env)
        assert git("-C", tmp_path / "empty.git", "rev-parse", "main") == git("-C", copy, "rev-parse", "HEAD")
