"""Relays and programs that find each other by files alone: there is no facilitator and no site."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.processes import ENVIRONMENT, PATIENCE, PROGRAM, Command, running

RELAYS = 4


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Command]]]:
    """A folder to which each relay adds a file, and in which each finds those of the others."""
    base = tmp_path_factory.mktemp("given")
    folder = base / "nodes"
    folder.mkdir()
    with ExitStack() as stack:
        relays = []
        for number in range(RELAYS):
            name = f"relay-{number}"
            options: list[str | Path] = ["--listen", "127.0.0.1:0", "--no-rtc", "--data", base / name]
            options += ["--nodes", folder, "--descriptor", folder / f"{name}.txt"]
            relays.append(stack.enter_context(running("relay", *options)))
        for relay in relays:
            relay.until("announced")
        for relay in relays:
            relay.until("nodes", lambda record: record["count"] == RELAYS)
        yield folder, relays


def test_a_service_is_reached_with_a_folder_and_with_one_file(
    network: tuple[Path, list[Command]], tmp_path: Path
) -> None:
    folder, _ = network
    one = tmp_path / "nodes.txt"
    one.write_text("# the network\n" + "".join(file.read_text() for file in folder.iterdir()))
    serve: list[str | Path] = ["serve", "hash:given", "--nodes", folder, "--no-rtc", "--", "cat"]
    with running(*serve) as service:
        service.until("serving")
        pipe = [*PROGRAM, "pipe", "hash:given", "--nodes", str(one), "--no-rtc"]
        done = subprocess.run(
            [sys.executable, *pipe], input=b"there and back", capture_output=True, env=ENVIRONMENT, timeout=PATIENCE
        )
        assert (done.returncode, done.stdout) == (0, b"there and back"), done.stderr


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import pynode.cli.common as c; c.JOIN_TIMEOUT = 0.1; from pynode.cli import main; raise SystemExit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "pipe", "hash:given", "--nodes", str(tmp_path), "--no-rtc"],
        input=b"",
        capture_output=True,
        env=ENVIRONMENT,
        timeout=PATIENCE,
    )
    assert done.returncode == 1 and b"There is no node in" in done.stderr


def test_a_relay_that_comes_back_finds_the_others_and_they_find_it(network: tuple[Path, list[Command]]) -> None:
    folder, relays = network
    before = (folder / "relay-0.txt").read_text()
    arguments = relays[0].process.args
    assert isinstance(arguments, list)
    assert relays[0].stop() == 0
    options = arguments[len(PROGRAM) + 1 : -1]
    with running(*options) as again:
        again.until("announced")
        again.until("nodes", lambda record: record["count"] == RELAYS)
        assert (folder / "relay-0.txt").read_text() != before
