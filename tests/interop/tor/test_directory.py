"""Our client gets its documents from the directories of C tor, and takes each consensus that they agree on."""

from __future__ import annotations

import asyncio

import pytest

from convergence.events import DirectoryRefused
from convergence.netdir.consensus import ConsensusDirectory
from convergence.wire.consensus_diff import is_diff
from convergence.wire.microdescriptor import Microdescriptor
from tests.interop.tor.client import Kept, TorClient
from tests.interop.tor.network import TorNetwork


def refused(client: TorClient) -> list[DirectoryRefused]:
    return [event for event in client.events if isinstance(event, DirectoryRefused)]


def test_it_bootstraps_and_starts_again_from_what_it_kept(tor_network: TorNetwork) -> None:
    kept: Kept = {}

    async def test() -> None:
        async with TorClient(tor_network.authorities, kept) as client:
            await client.until(lambda: client.complete)
            consensus = client.network.directory.consensus
            assert consensus is not None
            listed = {relay.identity.hex().upper() for relay in consensus.relays}
            assert listed == {process.fingerprint for process in (*tor_network.servers, *tor_network.relays)}
            for raw in client.network.directory.view.microdescriptors.values():
                assert Microdescriptor.parse(raw).ed25519 is not None
            assert refused(client) == []
        async with TorClient(tor_network.authorities, kept) as again:
            await again.until(lambda: again.complete)
            assert not again.neighbours.links, "without a question"

    asyncio.run(test())
    assert tor_network.notices() == []


def test_it_follows_by_diffs(tor_network: TorNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    diffs = []
    reading = ConsensusDirectory.reading
    monkeypatch.setattr(
        ConsensusDirectory, "reading", lambda self, data: diffs.append(is_diff(data)) or reading(self, data)
    )

    async def test() -> None:
        async with TorClient(tor_network.authorities, {}) as client:
            await client.until(lambda: client.complete)
            first = client.network.directory.consensus
            # A directory that has made no diff yet gives the whole.
            await client.until(lambda: client.network.directory.consensus is not first and any(diffs))
            assert client.network.directory.documents.live(client.network.directory.consensus.fresh_until)
            assert refused(client) == []

    asyncio.run(test())
    assert not diffs[0]
    assert tor_network.notices() == []
