"""Files through relays of Debian's `tor`: command -> a node of ours, or a guard -> relays of tor -> a rendezvous point
of ours <- ... <- another command. No relay of tor complains of us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import MIB, Command, Network, running, sha256, write_file
from tests.interop.tor.network import TorNetwork

SIZE = 16 * MIB
RELAYS = 3
"""Of Tor, on a path: two behind a guard, or behind a node of ours in its place."""
GUARD, ENTRY = ["--tor"], ["--tor", "--entry-node"]


def carried(network: TorNetwork) -> dict[str, int]:
    """Bytes that each of its relays has read, by name."""
    return {process.name: process.carried for process in (*network.servers, *network.relays)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, lines: Path) -> Iterator[str]:
    """Of a network whose nodes lead into the Tor network, and take links of its relays."""
    folder = tmp_path_factory.mktemp("nodes")
    settings = folder / "settings.toml"
    settings.write_text(f'[node]\ntls = "127.0.0.1:0"\n[tor]\nentry = true\nnetwork = "{lines}"\nprivate = true\n')
    page = folder / "dist"
    page.mkdir()
    (page / "index.html").write_text("<title>Convergence</title>")
    options = ("--port", "0", "--data", folder / "data", "--dist", page, "--no-rtc", "--config", settings)
    with running("up", *options, "--relays", "4") as up:
        yield up.until("ready")["site"]


@pytest.fixture(scope="module")
def lines(tor_network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that names the Tor network."""
    file = tmp_path_factory.mktemp("network") / "network.txt"
    file.write_text("".join(f"{authority.line}\n" for authority in tor_network.authorities))
    return file


@contextlib.contextmanager
def shared(site: str, file: Path, *options: str | Path) -> Iterator[tuple[Command, str]]:
    """A command that shares a file, and the link."""
    data = file.parent / "sender"
    with running("share", file, "--site", site, "--data", data, "--no-rtc", *options) as command:
        yield command, command.until("shared")["link"]


@contextlib.contextmanager
def got(site: str, link: str, folder: Path, *options: str | Path) -> Iterator[Command]:
    with running("get", link, "-o", f"{folder}/", "--data", folder / "data", "--no-rtc", *options) as command:
        yield command


WAYS = {
    "from node to node": (ENTRY, ENTRY),
    "from node to guard": (ENTRY, GUARD),
    "from guard to a direct end": (GUARD, []),
    "from a direct end to node": ([], ENTRY),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_through_relays_of_tor(
    tor_network: TorNetwork, site: str, lines: Path, tmp_path: Path, way: str
) -> None:
    ends = WAYS[way]
    sender, receiver = ([*end, "--tor-network", lines] for end in ends)
    digest = write_file(tmp_path / "file.bin", SIZE)
    before = carried(tor_network)
    with shared(site, tmp_path / "file.bin", *sender) as (_, link):
        with got(site, link, tmp_path / "out", *receiver) as command:
            done: dict[str, Any] = command.until("done")
    assert done["fetched"] == SIZE and sha256(done["path"]) == digest
    whole = sum(carried(tor_network).values()) - sum(before.values())
    relays = sum(RELAYS if end is GUARD else RELAYS - 1 if end else 0 for end in ends)
    assert relays * SIZE < whole < (relays + 1) * SIZE, "so many relays of Tor stand before the two ends"
    assert tor_network.notices() == []


def test_a_transfer_goes_on_when_a_relay_of_tor_dies(
    tor_network: TorNetwork, site: str, lines: Path, tmp_path: Path
) -> None:
    tor = (*ENTRY, "--tor-network", lines)
    digest = write_file(tmp_path / "file.bin", 3 * SIZE)
    with shared(site, tmp_path / "file.bin", *tor) as (_, link), got(site, link, tmp_path / "out", *tor) as command:
        before = carried(tor_network)
        command.until("progress", lambda record: record.get("have", 0) >= SIZE // 4)
        after = carried(tor_network)
        relays = (*tor_network.servers, *tor_network.relays)  # authorities carry cells, too
        busiest = max(relays, key=lambda relay: after[relay.name] - before[relay.name])
        assert after[busiest.name] - before[busiest.name] > MIB, "it carries the file"
        with tor_network.without(busiest):
            done = command.until("done")
    last = max(record["have"] for record in command.records if "have" in record)
    assert last == done["fetched"] == 3 * SIZE and sha256(done["path"]) == digest
    assert tor_network.notices() == []


def test_without_a_point_that_takes_links_of_tor_the_person_is_told(
    network: Network, lines: Path, tmp_path: Path
) -> None:
    write_file(tmp_path / "file.bin", 1000)
    options = ("--site", network.site, "--data", tmp_path, "--no-rtc", "--tor", "--tor-network", lines)
    with running("share", tmp_path / "file.bin", *options) as command:
        told = command.until("trouble")
    assert told["code"] == "no-tor-point" and "rendezvous point" in told["message"]
