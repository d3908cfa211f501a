"""A page that came over https reaches relays that have no certificate: by WebRTC, introduced by the facilitator."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import Browser

from tests.browser.harness import Peer
from tests.browser.swarm import links_of
from tests.e2e.processes import MIB, Network, running, sha256, write_file

pytestmark = pytest.mark.rtc


def certificate(folder: Path) -> Path:
    """A self-signed one for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


class Front:
    """Takes TLS and passes what is in it to a port of this machine: as a proxy in front of a site does."""

    def __init__(self, folder: Path, port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(folder))
        self._port = port
        self._listening = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.site = f"https://localhost:{self._listening.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                outside, _ = self._listening.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            inside = socket.create_connection(("127.0.0.1", self._port))
            for one, other in ((outside, inside), (inside, outside)):
                threading.Thread(target=pump, args=(one, other), daemon=True).start()


def pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(1 << 16):
            other.sendall(data)
    except OSError:
        pass
    for end in (one, other):
        end.close()


@pytest.fixture
def network(tmp_path: Path, dist: Path) -> Iterator[Network]:
    network = Network(tmp_path / "network", dist, relays=4, rtc=True, public="localhost")
    yield network
    network.close()


def test_a_page_over_https_uses_relays_without_certificates(
    network: Network, chromium: Browser, peer: Callable[..., Peer], tmp_path: Path
) -> None:
    front = Front(tmp_path, int(network.site.rstrip("/").rpartition(":")[2]))
    try:
        page = peer(chromium, front.site, ignore_https_errors=True).open().ready()
        relays = {relay.identity[:16] for relay in network.relays}
        assert links_of(page) <= relays and links_of(page)
        assert {link["kind"] for link in page.state["links"]} == {"rtc"}
        file = tmp_path / "over-https.bin"
        digest = write_file(file, 2 * MIB)
        with running("share", file, "--site", network.site, "--data", tmp_path / "sharer", "--no-rtc") as sharer:
            link = sharer.until("shared")["link"]
            page.get(link.replace(network.site, front.site))
            page.done(link)
            assert sha256(page.save(link)) == digest
    finally:
        front.close()
