"""Our relays in a network of Debian's `tor`: the authorities list them, and tor clients go through them, wherever they
stand on a path."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from stem import Flag, StreamStatus
from stem.control import EventType, Listener
from stem.descriptor import parse_file
from stem.descriptor.extrainfo_descriptor import RelayExtraInfoDescriptor
from stem.descriptor.server_descriptor import RelayDescriptor
from stem.response.events import StreamEvent

from tests.e2e.processes import PATIENCE, Command
from tests.interop.programs import free_port
from tests.interop.test_curl import curl
from tests.interop.tor.daemon import Tor
from tests.interop.tor.network import AHEAD, TorNetwork
from tests.interop.tor.test_network import REQUIRED_OF_RELAYS, consensus, fetch, fetched, protocols, written
from tests.interop.tor.upload import UPLOAD, upload_to_a_server_that_waits
from tests.interop.website import LARGE, Website
from tests.namespace import program

OPEN = ["accept *:*"]
LACKING = "HSDir=2 HSIntro=4-5 HSRend=2"
"""What the authorities require of relays, and ours do not do: they serve no onion services."""


class Relay:
    """One of ours, in a process of its own."""

    def __init__(
        self,
        network: TorNetwork,
        folder: Path,
        nickname: str,
        policy: list[str],
        lines: Sequence[str] = (),
    ) -> None:
        self.network = network
        self.lines = lines or [authority.line for authority in network.authorities]
        self.nickname = nickname
        self.address = network.address()
        self.or_port = free_port(self.address)
        self.or_port6 = free_port("::1")
        self.policy = policy
        self._folder = folder / nickname
        self._folder.mkdir()
        self.start()

    def start(self) -> None:
        network = self._folder / "network.txt"
        network.write_text("".join(f"{line}\n" for line in self.lines))
        settings = self._folder / "settings.toml"
        settings.write_text(
            f'[node]\ndata = "{self._folder}/data"\n[tor]\nlisten = "{self.address}:{self.or_port}"\n'
            f'listen6 = "[::1]:{self.or_port6}"\nnickname = "{self.nickname}"\nnetwork = "{network}"\n'
            f"policy = {self.policy}\nipv6_exit = true\nprivate = true\n"
        )
        self.command = Command("relay", "--config", settings, "-v")
        self.fingerprint: str = self.command.until("listening")["fingerprint"]

    def stop(self) -> None:
        self.command.stop()

    def published(self) -> None:
        """Wait until all authorities have taken its descriptor."""
        for _ in self.network.authorities:
            self.command.until("descriptor-taken")

    def told(self, event: str) -> dict[str, Any]:
        """The first record of that kind, which may have come already."""
        before = (record for record in self.command.records if record["event"] == event)
        return next(before, None) or self.command.until(event)

    def document(self, kind: str) -> bytes:
        """Its "server" descriptor or "extra" information, as an authority has it."""
        authority = self.network.authorities[0]
        address = f"http://{authority.address}:{authority.dir_port}/tor/{kind}/fp/{self.fingerprint}"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            document: bytes = answer.read()
            return document


@pytest.fixture(scope="module")
def ours(tor_network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Relay]]:
    """Three that are listed and known to all; the last one is an exit."""
    folder = tmp_path_factory.mktemp("ours")
    with contextlib.ExitStack() as stack:
        relays = []
        for number, policy in enumerate([[], [], OPEN], 1):
            relays.append(Relay(tor_network, folder, f"ours{number}", policy))
            stack.callback(relays[-1].stop)
        names = [relay.fingerprint for relay in relays]
        tor_network.listed(*names)
        for other in tor_network.relays:  # an exit serves no circuit that comes from a relay it has not heard of
            other.wait(EventType.NEWCONSENSUS, lambda other=other: set(names) <= other.flagged(Flag.RUNNING), "news")
        yield relays


def test_our_relays_are_listed_as_running_and_valid_and_by_policy_as_exits(
    tor_network: TorNetwork, ours: list[Relay]
) -> None:
    entries = consensus(tor_network).routers
    for relay in ours:
        entry = entries[relay.fingerprint]
        assert (entry.nickname, entry.address, entry.or_port) == (relay.nickname, relay.address, relay.or_port)
        assert {Flag.RUNNING, Flag.VALID} <= set(entry.flags)
        assert (Flag.EXIT in entry.flags) == (relay.policy == OPEN)
        assert protocols(entry.protocols) >= written(REQUIRED_OF_RELAYS) - written(LACKING)


PLACES = {
    "guard": [0, None, -1],
    "middle": [None, 0, -1],
    "exit": [None, None, 2],
    "all": [0, 1, 2],
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tor_client_fetches_through_our_relay(
    tor_network: TorNetwork, tor_client: Tor, ours: list[Relay], website: Website, place: str
) -> None:
    theirs = iter(relay.fingerprint for relay in tor_network.relays)
    ends = {0: ours[0].fingerprint, 1: ours[1].fingerprint, 2: ours[2].fingerprint}
    ends[-1] = tor_network.relays[-1].fingerprint
    path = [next(theirs) if which is None else ends[which] for which in PLACES[place]]
    with tor_client.through(*path):
        assert fetched(tor_client, website) == path


def sets(client: Tor, exit_: str) -> list[str]:
    """Numbers of the circuits of this client that are legs of conflux sets to this relay."""
    lines = client.controller.get_info("circuit-status").splitlines()
    return [line.split()[0] for line in lines if "PURPOSE=CONFLUX_LINKED" in line and f"${exit_}" in line]


def test_a_tor_client_downloads_over_a_conflux_set_to_our_exit(
    tor_network: TorNetwork, ours: list[Relay], website: Website
) -> None:
    last = ours[2].fingerprint
    with tor_network.client(f"ExitNodes {last}", "StrictNodes 1", AHEAD) as client:
        client.wait(EventType.BW, lambda: len(sets(client, last)) >= 2, "conflux set to our exit")
        opened: Queue[StreamEvent] = Queue()
        client.controller.add_event_listener(opened.put, EventType.STREAM)
        for _ in range(3):
            done = fetch(client, website)
            assert (done.returncode, done.stderr) == (0, b"") and done.stdout == LARGE
            while (event := opened.get(timeout=PATIENCE)).status != StreamStatus.SUCCEEDED:
                pass
            assert event.circ_id in sets(client, last)
        client.controller.remove_event_listener(opened.put)


def test_our_exit_stops_a_tor_client_by_xoff_and_lets_it_go_on(
    tor_network: TorNetwork, tor_client: Tor, ours: list[Relay]
) -> None:
    path = [tor_network.relays[0].fingerprint, tor_network.relays[1].fingerprint, ours[2].fingerprint]
    with tor_client.through(*path):
        assert upload_to_a_server_that_waits(tor_client.port(Listener.SOCKS)) == len(UPLOAD)


def test_a_relay_that_reaches_no_orport_of_an_authority_uses_the_directory_ports(
    tor_network: TorNetwork, tmp_path: Path
) -> None:
    """It gets the consensus, and is known to all authorities."""
    lines = [authority.line for authority in tor_network.authorities]
    nowhere = [re.sub(r"orport=\d+", f"orport={free_port(one.address)}", one.line) for one in tor_network.authorities]
    assert lines != nowhere
    relay = Relay(tor_network, tmp_path, "oursdir", [], nowhere)
    try:
        relay.published()
        assert b"\nmaster-key-ed25519 " in relay.document("server")
    finally:
        relay.stop()


def test_our_relays_were_reached_by_others_before_they_published(ours: list[Relay]) -> None:
    for relay in ours:
        assert relay.told("or-port-reached")["address"] == f"{relay.address}:{relay.or_port}"
        relay.told("descriptor-taken")
        events = [record["event"] for record in relay.command.records]
        assert events.index("or-port-reached") < events.index("descriptor-taken")


def test_our_relays_measure_what_they_carry_from_the_start(tor_network: TorNetwork, ours: list[Relay]) -> None:
    """Padding of their own, around the circuit that came back."""
    for relay in ours[:2]:
        for _ in range(2 * len(tor_network.authorities) - 1):  # again, since there is something to tell
            relay.command.until("descriptor-taken")
        [descriptor] = parse_file(BytesIO(relay.document("server")), "server-descriptor 1.0")
        assert isinstance(descriptor, RelayDescriptor)
        assert descriptor.observed_bandwidth > 10_000
    server, names = tor_network.servers[0], {relay.fingerprint for relay in ours}
    server.wait(EventType.NEWCONSENSUS, lambda: names <= server.flagged(Flag.FAST), "consensus in which ours are Fast")


def test_stem_reads_what_our_relays_say_about_themselves(ours: list[Relay]) -> None:
    for relay in ours:
        raw = relay.document("server")
        [descriptor] = parse_file(BytesIO(raw), "server-descriptor 1.0", validate=True)
        assert isinstance(descriptor, RelayDescriptor)
        assert (descriptor.nickname, descriptor.fingerprint) == (relay.nickname, relay.fingerprint)
        assert descriptor.or_addresses == [("::1", relay.or_port6, True)]
        assert descriptor.exit_policy.is_exiting_allowed() == (relay.policy == OPEN)
        [extra] = parse_file(BytesIO(relay.document("extra")), "extra-info 1.0", validate=True)
        assert isinstance(extra, RelayExtraInfoDescriptor)
        assert (extra.fingerprint, extra.digest()) == (relay.fingerprint, descriptor.extra_info_digest)


def test_our_exit_connects_over_ipv6(
    tor_network: TorNetwork, tor_client: Tor, ours: list[Relay], website: Website
) -> None:
    last = ours[2].fingerprint
    assert "\np6 accept 1-65535\n" in tor_client.controller.get_info(f"md/id/{last}")
    with tor_client.through(*(relay.fingerprint for relay in tor_network.relays[:2]), last):
        proxy = f"127.0.0.1:{tor_client.port(Listener.SOCKS)}"
        done = curl("--socks5-hostname", proxy, f"http://[::1]:{website.http6}/word/six")
        assert (done.returncode, done.stdout) == (0, b"six"), done.stderr


def test_our_exit_looks_names_up_both_ways(tor_network: TorNetwork, tor_client: Tor, ours: list[Relay]) -> None:
    def asked(*arguments: str) -> str:
        command = [program("tor-resolve"), "-p", str(tor_client.port(Listener.SOCKS)), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout.strip()

    with tor_client.through(*(relay.fingerprint for relay in (*tor_network.relays[:2], ours[2]))):
        assert asked("localhost") == "127.0.0.1"
        assert asked("-x", "127.0.0.1") == socket.getnameinfo(("127.0.0.1", 0), socket.NI_NAMEREQD)[0]
        assert asked("no.such.name.example") == ""


def test_a_tor_client_learns_all_of_the_network_from_our_relay(
    tor_network: TorNetwork, ours: list[Relay], website: Website, tmp_path: Path
) -> None:
    """As its bridge, over IPv6: the relay's descriptor, consensus, certificates and microdescriptors come from nowhere
    else."""
    relay = ours[0]
    bridge = f"Bridge [::1]:{relay.or_port6} {relay.fingerprint}"
    log = tmp_path / "log"
    options = ("UseBridges 1", bridge, "ConfluxEnabled 0", AHEAD, f"Log [dir]info file {log}")
    with tor_network.client(*options) as client:
        path = fetched(client, website)
        assert path[0] == relay.fingerprint
        client.wait(EventType.NEWCONSENSUS, lambda: "Applied consensus diff" in log.read_text(), "consensus by a diff")
        assert "Could not apply consensus diff" not in log.read_text()


def test_our_relays_say_what_is_required_of_them_and_missing(ours: list[Relay]) -> None:
    lacking = ours[0].told("protocols-lacking")
    assert written(lacking["protocols"]) == written(LACKING)


def test_a_relay_that_starts_again_is_the_same_relay(
    tor_network: TorNetwork, tor_client: Tor, ours: list[Relay], website: Website
) -> None:
    relay = ours[1]
    before = relay.fingerprint
    relay.stop()
    relay.start()
    assert relay.fingerprint == before
    relay.published()
    path = [tor_network.relays[0].fingerprint, relay.fingerprint, tor_network.relays[-1].fingerprint]
    with tor_client.through(*path):
        assert fetched(tor_client, website) == path


def test_tor_has_nothing_against_our_relays(tor_network: TorNetwork, ours: list[Relay]) -> None:
    """Comes last."""
    assert tor_network.notices() == []
    for relay in ours:
        assert not [line for line in relay.command.log if " a bug" in line]
