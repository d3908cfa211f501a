"""Relays without any address, commands and WebRTC between them all: processes in a network namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import MIB, Command, running, sha256, write_file

pytestmark = pytest.mark.rtc

RELAYS = 4


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """Of a network whose relays listen nowhere: every link is introduced."""
    with running("facilitator", "--listen", "127.0.0.1:0", "--data", tmp_path / "facilitator", "--no-site") as server:
        address: str = server.until("ready")["site"]
        relays: list[Command] = []
        try:
            for number in range(RELAYS):
                data = tmp_path / f"relay-{number}"
                relays.append(Command("relay", "--site", address, "--data", data, "--parent-pipe"))
            for relay in relays:
                assert relay.until("listening")["url"] is None
                relay.until("registered")
            for relay in relays:
                relay.say("refresh")
            for relay in relays:
                relay.until("nodes", lambda record: record["count"] == RELAYS)
            yield address
        finally:
            for relay in relays:
                relay.stop()


def test_a_file_goes_through_relays_that_have_no_address(site: str, tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    digest = write_file(file, 2 * MIB)
    with running("share", file, "--site", site, "--data", tmp_path / "sender") as sender:
        link = sender.until("shared")["link"]
        code, done = Command("get", link, "-o", f"{tmp_path}/out/", "--data", tmp_path / "receiver").end()
        assert (code, done["event"]) == (0, "done"), done
        assert sha256(done["path"]) == digest
