"""A private Tor network for a lane's stay in this folder, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.tor.daemon import Tor
from tests.interop.tor.network import TorNetwork


@pytest.fixture(scope="package")
def tor_network() -> Iterator[TorNetwork]:
    """Three authorities and five relays, the last two of which are exits. A test adds processes, and ends none."""
    network = TorNetwork()
    yield network
    network.close()


@pytest.fixture(scope="package")
def tor_client(tor_network: TorNetwork) -> Iterator[Tor]:
    with tor_network.client() as client:
        yield client
