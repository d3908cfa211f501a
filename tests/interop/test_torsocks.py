"""Programs that were made for Tor's proxy: tor-resolve, and what torsocks sends there unasked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ENVIRONMENT, PATIENCE, Network
from tests.interop.ways import OPEN_PORT, Proxy, through
from tests.namespace import ADDRESS, program

NAME = "10.99.1"
"""A name of ADDRESS that every system's resolver knows, and torsocks does not: it has exits look it up."""
FETCH = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())"


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"for {self.headers['Host']}".encode())

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """host:port of a web server that is not on loopback: torsocks connects to no address of this machine there."""
    with ThreadingHTTPServer((ADDRESS, OPEN_PORT), _Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"{ADDRESS}:{OPEN_PORT}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def proxy(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with through(network, tmp_path_factory.mktemp("services")).proxy() as proxy:
        yield proxy


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False, text=True)


def by(user: str) -> Callable[[dict[str, Any]], bool]:
    return lambda record: record["user"] == user


def tor_resolve(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(program("tor-resolve"), "-p", str(proxy.port), *arguments)


def torsocks(proxy: Proxy, *command: str | Path, user: str = "torsocks") -> subprocess.CompletedProcess[str]:
    return run(program("torsocks"), "-P", str(proxy.port), "-u", user, "-p", "any", *command)


@pytest.mark.parametrize("version", ["-4", "-5"])
def test_exits_look_names_up(proxy: Proxy, version: str) -> None:
    done = tor_resolve(proxy, version, NAME)
    assert (done.returncode, done.stdout) == (0, f"{ADDRESS}\n"), done.stderr


@pytest.mark.parametrize("version", ["-4", "-5"])
@pytest.mark.parametrize("name", ["nobody.invalid", "chess.hash.conv", "peer.node"])
def test_what_no_exit_finds_or_hears_of_is_refused(proxy: Proxy, version: str, name: str) -> None:
    done = tor_resolve(proxy, version, name)
    assert done.returncode == 1 and done.stdout == "", done.stderr


@pytest.mark.parametrize("address", ["192.0.2.7"])
def test_an_address_is_its_own_answer(proxy: Proxy, address: str) -> None:
    assert tor_resolve(proxy, address).stdout == f"{address}\n"


def test_a_program_reaches_the_web_by_address_and_by_name(proxy: Proxy, site: str) -> None:
    for host in (site, site.replace(ADDRESS, NAME)):
        done = torsocks(proxy, sys.executable, "-c", FETCH, f"http://{host}/")
        assert (done.returncode, done.stdout) == (0, f"for {host}"), done.stderr


def test_curl_reaches_the_web(proxy: Proxy, site: str) -> None:
    done = torsocks(proxy, program("curl"), "-q", "-sS", f"http://{site}/")
    assert (done.returncode, done.stdout) == (0, f"for {site}"), done.stderr


def test_look_ups_and_connections_of_a_user_share_a_circuit_and_no_two_users_do(proxy: Proxy, site: str) -> None:
    circuits: list[int] = []
    for user in ("ann", "bob"):
        done = torsocks(proxy, sys.executable, "-c", FETCH, f"http://{site.replace(ADDRESS, NAME)}/", user=user)
        assert done.returncode == 0, done.stderr
        used = {proxy.command.until(event, by(user))["circuit"] for event in ("resolve", "stream")}
        assert len(used) == 1
        circuits += used
    assert circuits[0] != circuits[1]
