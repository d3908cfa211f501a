"""Through a node of Convergence into the Tor network: `convergence relay` with `tor.entry`, and `convergence proxy
--tor --entry-node`, before relays and exits of the real tor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Network, running
from tests.interop.test_curl import curl, through
from tests.interop.tor.network import TorNetwork
from tests.interop.ways import Proxy
from tests.interop.website import LARGE, Website

ENTRIES = 3


@pytest.fixture(scope="module")
def lines(tor_network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What names the Tor network."""
    file = tmp_path_factory.mktemp("lines") / "network.txt"
    file.write_text("".join(f"{authority.line}\n" for authority in tor_network.authorities))
    return file


@pytest.fixture(scope="module")
def entered(lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network of ours, all of whose relays lead into the Tor network."""
    folder = tmp_path_factory.mktemp("entered")
    (folder / "dist").mkdir()
    (folder / "dist" / "index.html").write_text("<title>Convergence</title>")  # nothing here opens the page
    settings = folder / "settings.toml"
    settings.write_text(f'[tor]\nentry = true\nnetwork = "{lines}"\nprivate = true\n')
    network = Network(folder, folder / "dist", relays=ENTRIES, options=["--config", settings])
    try:
        for relay in network.relays:
            if not any(record["event"] == "tor-directory" and record["ready"] for record in relay.command.records):
                relay.command.until("tor-directory", lambda record: record["ready"])
        yield network
    finally:
        network.close()


@pytest.fixture(scope="module")
def proxy(entered: Network, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    data = tmp_path_factory.mktemp("proxy")
    options = ("--tor", "--tor-network", lines, "--entry-node", "--site", entered.site, "--data", data, "-v")
    with running("proxy", "--listen", "127.0.0.1:0", *options) as command:
        yield Proxy(command, command.until("listening")["port"])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_10_mib_from_the_web(tor_network: TorNetwork, proxy: Proxy, website: Website, scheme: str) -> None:
    address = f"{scheme}://127.0.0.1:{website.port(scheme)}/large"
    done = curl(*through(proxy, "socks5"), "--cacert", website.authority, address)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == LARGE
    assert tor_network.notices() == []
