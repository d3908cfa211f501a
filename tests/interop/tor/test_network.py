"""The network of Debian's `tor` that others here are compared with: it works without us, and what it says is as told.

These are the controls of all tests in this folder: what fails here is a fault of the rig.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import urllib.request
from io import BytesIO
from pathlib import Path
from queue import Queue

import pytest
from stem import Flag, StreamStatus
from stem.control import EventType, Listener
from stem.descriptor import DocumentHandler, parse_file
from stem.descriptor.networkstatus import NetworkStatusDocumentV3
from stem.response.events import StreamEvent

from tests.e2e.processes import PATIENCE
from tests.interop.test_curl import curl
from tests.interop.tor.daemon import Tor, notices
from tests.interop.tor.network import EXIT, TorNetwork
from tests.interop.website import LARGE, Website

# Of a consensus that tor 0.4.9.11 makes; the public network's of July 2026 said the same.
REQUIRED_OF_CLIENTS = "Cons=2 Desc=2 FlowCtrl=1 Link=4 Microdesc=2 Relay=2"
REQUIRED_OF_RELAYS = (
    "Cons=2 Desc=2 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2-4"
)


def fetch(client: Tor, website: Website) -> subprocess.CompletedProcess[bytes]:
    """10 MiB, by curl through the client."""
    proxy = f"127.0.0.1:{client.port(Listener.SOCKS)}"
    return curl("--socks5-hostname", proxy, f"http://127.0.0.1:{website.http}/large")


def fetched(client: Tor, website: Website) -> list[str]:
    """Fetch, and check what came. Returns the fingerprints of the relays that it came through."""
    opened: Queue[StreamEvent] = Queue()
    client.controller.add_event_listener(opened.put, EventType.STREAM)
    try:
        done = fetch(client, website)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == LARGE
        while (event := opened.get(timeout=PATIENCE)).status != StreamStatus.SUCCEEDED:
            pass
        return [fingerprint for fingerprint, _ in client.controller.get_circuit(event.circ_id).path]
    finally:
        client.controller.remove_event_listener(opened.put)


def consensus(network: TorNetwork, flavor: str = "") -> NetworkStatusDocumentV3:
    """As an authority serves it at its directory port."""
    authority = network.authorities[0]
    address = f"http://{authority.address}:{authority.dir_port}/tor/status-vote/current/consensus{flavor}"
    kind = f"network-status-{'microdesc-' if flavor else ''}consensus-3 1.0"
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        (document,) = parse_file(BytesIO(answer.read()), kind, document_handler=DocumentHandler.DOCUMENT)
    assert isinstance(document, NetworkStatusDocumentV3)
    return document


def protocols(offered: dict[str, list[int]]) -> set[tuple[str, int]]:
    return {(name, version) for name, versions in offered.items() for version in versions}


def written(text: str) -> set[tuple[str, int]]:
    found = set()
    for name, _, versions in (entry.partition("=") for entry in text.split()):
        first, _, last = versions.partition("-")
        found |= {(name, version) for version in range(int(first), int(last or first) + 1)}
    return found


def test_a_client_fetches_through_three_relays(tor_network: TorNetwork, tor_client: Tor, website: Website) -> None:
    path = fetched(tor_client, website)
    servers = {process.fingerprint for process in (*tor_network.servers, *tor_network.relays)}
    assert len(path) == len(set(path)) == 3
    assert set(path) <= servers
    assert path[-1] in {relay.fingerprint for relay in tor_network.relays[-2:]}  # an exit


def test_a_client_goes_over_the_relays_that_it_is_told(
    tor_network: TorNetwork, tor_client: Tor, website: Website
) -> None:
    exit_relay = tor_network.relays[-1].fingerprint
    others = [relay.fingerprint for relay in tor_network.relays[:3]]
    for first, second in itertools.islice(itertools.permutations(others, 2), 3):
        path = [first, second, exit_relay]
        with tor_client.through(*path):
            assert fetched(tor_client, website) == path


def test_all_relays_are_listed_with_the_flags_that_they_are_to_have(tor_network: TorNetwork) -> None:
    server, everybody = tor_network.servers[0], {relay.fingerprint for relay in tor_network.relays}
    flags = Flag.RUNNING, Flag.VALID, Flag.FAST, Flag.GUARD, Flag.HSDIR, Flag.V2DIR
    server.wait(EventType.NEWCONSENSUS, lambda: everybody <= server.flagged(*flags), "consensus with all flags")
    entries = {entry.fingerprint: entry for entry in server.controller.get_network_statuses()}
    for relay in tor_network.relays:
        entry = entries[relay.fingerprint]
        assert (entry.nickname, entry.address, entry.or_port) == (relay.name, relay.address, relay.or_port)
        assert (Flag.EXIT in entry.flags) == (relay in tor_network.relays[-2:])


def test_authorities_are_who_their_data_says(tor_network: TorNetwork) -> None:
    signers = {authority.v3ident: authority for authority in consensus(tor_network).directory_authorities}
    for server, told in zip(tor_network.servers, tor_network.authorities, strict=True):
        signer = signers[told.v3ident]
        assert (signer.nickname, signer.address) == (told.name, told.address)
        assert (signer.or_port, signer.dir_port) == (told.or_port, told.dir_port)
        assert server.fingerprint == told.fingerprint
        assert server.controller.get_info("md/id/" + told.fingerprint).count(f"id ed25519 {told.ed25519}") == 1


@pytest.mark.parametrize("flavor", ["", "-microdesc"])
def test_the_consensus_requires_what_the_public_one_does(tor_network: TorNetwork, flavor: str) -> None:
    document = consensus(tor_network, flavor)
    assert protocols(document.required_client_protocols) == written(REQUIRED_OF_CLIENTS)
    assert protocols(document.required_relay_protocols) == written(REQUIRED_OF_RELAYS)
    for entry in document.routers.values():
        assert protocols(entry.protocols) >= written(REQUIRED_OF_RELAYS)


@pytest.mark.long
def test_who_comes_later_is_listed_and_carries_streams(tor_network: TorNetwork, website: Website) -> None:
    """As a relay of anybody's: the authorities know nothing of it beforehand."""
    late = tor_network.add_relay(*EXIT)
    late.until("Bootstrapped 0%")
    tor_network.listed(late.fingerprint)
    first, second = (relay.fingerprint for relay in tor_network.relays[:2])
    with tor_network.client() as client, client.through(first, second, late.fingerprint):
        assert fetched(client, website) == [first, second, late.fingerprint]


def test_nobody_has_anything_against_anybody(tor_network: TorNetwork) -> None:
    """Comes last. Else no other test could tell by these logs that C tor has nothing against us."""
    assert tor_network.notices() == []


def test_a_network_that_does_not_start_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(AssertionError, match="Unknown option 'Nonsense'"):
        TorNetwork(authorities=1, relays=0, exits=0, options=["Nonsense 1"])
    assert list(tmp_path.iterdir()) == []


def test_what_a_log_holds_against_others() -> None:
    held = [
        "Nov 29 20:54:41.322 [warn] {PROTOCOL} Client asked me to extend back to the previous hop.",
        "Nov 29 20:54:41 [notice] {DIRSERV} Rejecting descriptor from 127.0.0.1.",
        "Nov 29 20:54:41 [err] {NET,GENERAL} something",
        "Nov 29 20:54:41 [warn] {BUG} tor_bug_occurred_(): Bug: line 1",
    ]
    harmless = [
        "Nov 29 20:54:41.322 [warn] TestingTorNetwork is set.",
        "Nov 29 20:54:41.322 [notice] {CONTROL} Bootstrapped 100% (done): Done",
        "Nov 29 20:54:41.322 [warn] {FS} Could not open",
        '{DIR} Received http status code 404 ("Not found") from server 127.2.0.1:1 while fetching consensus directory.',
        "Nov 29 20:54:41.322 [warn] {DIR} Not enough info to publish pending ns consensus",
        "a line of another form",
    ]
    assert notices("\n".join([*harmless, *held, *harmless])) == held
