"""`convergence proxy --tor` with relays of Debian's `tor`: look-ups by exits, and data that does not wait for them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.e2e.processes import PATIENCE, running
from tests.interop.test_curl import curl
from tests.interop.test_torsocks import tor_resolve
from tests.interop.tor.nameserver import NameServer
from tests.interop.tor.network import TorNetwork
from tests.interop.ways import Proxy
from tests.interop.website import Website


@pytest.fixture(scope="module")
def proxy(tor_network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    lines = [*(authority.line for authority in tor_network.authorities), "EnforceDistinctSubnets 0"]
    (folder / "torrc").write_text("\n".join(lines))
    network = ("--tor", "--tor-network", folder / "torrc", "--data", folder / "data")
    with running("proxy", "--listen", "127.0.0.1:0", "--no-rtc", *network) as command:
        yield Proxy(command, command.until("listening")["port"])


@pytest.fixture(autouse=True, scope="module")
def without_complaints(proxy: Proxy, tor_network: TorNetwork) -> Iterator[None]:
    yield
    assert tor_network.notices() == []


def test_curl_names_a_host_that_the_exit_looks_up(proxy: Proxy, website: Website, names: NameServer) -> None:
    done = curl("--socks5-hostname", f"127.0.0.1:{proxy.port}", f"http://web.example:{website.http}/word/hello")
    assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
    assert "web.example" in names.asked


class SixServer(HTTPServer):
    address_family = socket.AF_INET6


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"six")


@pytest.mark.parametrize("host", ["[::1]", "six.example"])
@pytest.mark.parametrize("option", ["--socks5-hostname", "--proxy"])
def test_hosts_that_have_ipv6_addresses_only_are_reached(proxy: Proxy, host: str, option: str) -> None:
    with SixServer(("::1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            tunnel = ("--proxytunnel",) if option == "--proxy" else ()
            address = f"http://{host}:{server.server_port}/"
            done = curl(option, f"127.0.0.1:{proxy.port}", *tunnel, address)
        finally:
            server.shutdown()
            thread.join()
    assert (done.returncode, done.stdout) == (0, b"six"), done.stderr


@pytest.mark.parametrize("version", ["-4", "-5"])
def test_names_are_looked_up(proxy: Proxy, names: NameServer, version: str) -> None:
    done = tor_resolve(proxy, version, "host.example")
    assert (done.returncode, done.stdout) == (0, "8.7.6.5\n"), done.stderr


@pytest.mark.parametrize("address", ["8.7.6.5", "2a00::1"])
def test_addresses_are_looked_up_for_their_names(proxy: Proxy, names: NameServer, address: str) -> None:
    done = tor_resolve(proxy, "-x", address)
    assert (done.returncode, done.stdout) == (0, "host.example\n"), done.stderr


@pytest.mark.parametrize("question", [("nobody.example",), ("-x", "8.7.6.6")])
def test_what_is_not_found_is_told(proxy: Proxy, names: NameServer, question: tuple[str, ...]) -> None:
    done = tor_resolve(proxy, *question)
    assert done.returncode == 1 and "'4'" in done.stderr  # "host unreachable"


def test_what_is_said_early_gets_its_answer_behind_that_of_the_proxy(proxy: Proxy, website: Website) -> None:
    """Also where the host refuses, which tor 0.4.9.11 gives no reason for."""
    for port, code in ((website.http, 0), (1, 1)):
        target = b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big")
        with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE) as program:
            program.sendall(b"\5\1\0" + target + b"GET /word/hello HTTP/1.0\r\n\r\n")
            said = b""
            while part := program.recv(1 << 16):
                said += part
        assert said[:4] == bytes((5, 0, 5, code)) and said.endswith(b"hello" if code == 0 else bytes(6))
