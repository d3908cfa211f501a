"""A private Tor network for a lane's stay in this folder, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.tor.daemon import Tor
from tests.interop.tor.nameserver import NameServer
from tests.interop.tor.network import TorNetwork


@pytest.fixture(scope="package")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    """What the exits know."""
    hosts = {"web.example": ["127.0.0.1"], "host.example": ["8.7.6.5", "2a00::1"], "six.example": ["::1"]}
    server = NameServer(tmp_path_factory.mktemp("names"), hosts)
    yield server
    server.close()


@pytest.fixture(scope="package")
def tor_network(names: NameServer) -> Iterator[TorNetwork]:
    """Three authorities and five relays, the last two of which are exits. A test adds processes, and ends none."""
    network = TorNetwork(options=[f"ServerDNSResolvConfFile {names.configuration}"])
    yield network
    network.close()


@pytest.fixture(scope="package")
def tor_client(tor_network: TorNetwork) -> Iterator[Tor]:
    with tor_network.client() as client:
        yield client
