"""curl through the proxy, in each of its dialects: by a service's name, and to a place in the web."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergence.rdv.ring import POINTS
from tests.e2e.processes import PATIENCE
from tests.interop.ways import Proxy, Service, Way
from tests.interop.website import LARGE, Website
from tests.namespace import program

REQUESTS = 200
DIALECTS = {
    "socks5": ("--socks5-hostname", "127.0.0.1:{port}"),
    "socks4a": ("--proxy", "socks4a://127.0.0.1:{port}"),
    "connect": ("--proxytunnel", "--proxy", "http://127.0.0.1:{port}"),
}
# Of curl(1), "Exit codes".
PROXY_REFUSED = {"socks5": 97, "socks4a": 97, "connect": 56}
UNVERIFIED = 60


@pytest.fixture(scope="module")
def proxy(way: Way) -> Iterator[Proxy]:
    with way.proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def services(way: Way, website: Website) -> Iterator[dict[str, Service]]:
    """The web site, by scheme."""
    with way.to_port(website.http) as http, way.to_port(website.https) as https:
        yield {"http": http, "https": https}


@pytest.fixture
def service(services: dict[str, Service], scheme: str) -> Service:
    return services[scheme]


def curl(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """With no configuration of this machine or user."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [program("curl"), "-q", "--silent", "--show-error", "--noproxy", "", *arguments]
    return subprocess.run(command, capture_output=True, env=env, timeout=PATIENCE, check=False)


def through(proxy: Proxy, dialect: str) -> list[str]:
    return [part.format(port=proxy.port) for part in DIALECTS[dialect]]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_10_mib_from_a_service(proxy: Proxy, service: Service, website: Website, scheme: str, dialect: str) -> None:
    """Only the proxy knows the name: this machine resolves none."""
    address = f"{scheme}://{service.host}/large"
    done = curl(*through(proxy, dialect), "--cacert", website.authority, address)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == LARGE


@pytest.mark.parametrize("dialect", DIALECTS)
def test_10_mib_from_the_web(proxy: Proxy, website: Website, scheme: str, dialect: str) -> None:
    address = f"{scheme}://127.0.0.1:{website.port(scheme)}/large"
    done = curl(*through(proxy, dialect), "--cacert", website.authority, address)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == LARGE


def test_https_is_verified_to_its_far_end(proxy: Proxy, services: dict[str, Service], website: Website) -> None:
    """By curl: what lies between cannot be the site."""
    address = f"https://{services['https'].host}/"
    assert curl(*through(proxy, "socks5"), address).returncode == UNVERIFIED
    unnamed = f"https://localhost:{website.https}/"  # its certificate has no such name
    done = curl(*through(proxy, "socks5"), "--cacert", website.authority, unnamed)
    assert done.returncode == UNVERIFIED


@pytest.mark.parametrize("at_once", [1, 20])
def test_200_short_requests(
    proxy: Proxy, service: Service, website: Website, scheme: str, tmp_path: Path, at_once: int
) -> None:
    """Each is a connection of its own."""
    before = website.connections
    many = ["--parallel", "--parallel-immediate", "--parallel-max", str(at_once)] if at_once > 1 else []
    address = f"{scheme}://{service.host}/word/[1-{REQUESTS}]"
    options = ["--cacert", str(website.authority), "--header", "Connection: close", "-o", f"{tmp_path}/#1"]
    user = f"crowd-{scheme}-{at_once}"
    done = curl(*through(proxy, "socks5"), "--proxy-user", f"{user}:any", *many, *options, address)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        str(number): str(number) for number in range(1, REQUESTS + 1)
    }
    assert website.connections - before == REQUESTS
    proxy.circuits(user, streams=REQUESTS)


@pytest.mark.parametrize("dialect", ["socks5", "connect"])
def test_two_users_share_nothing(proxy: Proxy, service: Service, website: Website, scheme: str, dialect: str) -> None:
    address = f"{scheme}://{service.host}/word/hello"
    users = (f"alice-{dialect}-{scheme}", f"bob-{dialect}-{scheme}")
    for user in users * (POINTS + 2):
        options = ["--cacert", str(website.authority), "--proxy-user", f"{user}:any"]
        done = curl(*through(proxy, dialect), *options, address)
        assert (done.returncode, done.stdout) == (0, b"hello")
    circuits = proxy.circuits(*users, streams=2 * (POINTS + 2))
    assert circuits[users[0]].isdisjoint(circuits[users[1]])
    assert all(len(used) <= POINTS for used in circuits.values())  # a user's own streams share them


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("where", ["nobody-offers-this.hash.conv", "127.0.0.1:1"])
def test_what_cannot_be_reached_is_refused(proxy: Proxy, dialect: str, where: str) -> None:
    done = curl(*through(proxy, dialect), f"http://{where}/")
    assert (done.returncode, done.stdout) == (PROXY_REFUSED[dialect], b"")
    assert proxy.command.process.poll() is None


@pytest.mark.parametrize(
    "options",
    [
        (),  # what a browser sends to a proxy for http, and a page to any port: GET
        ("--data", "a=b"),
        ("--proxytunnel", "--proxy-header", "Origin: http://page.example"),
        ("--proxytunnel", "--proxy-header", "Referer: http://page.example/"),
        ("--proxytunnel", "--proxy-header", "Sec-Fetch-Mode: no-cors"),
    ],
)
def test_what_a_web_page_could_send_is_refused(
    proxy: Proxy, services: dict[str, Service], website: Website, options: tuple[str, ...]
) -> None:
    before = website.connections
    status = ["--write-out", "%{http_code} %{http_connect}", "--output", os.devnull]
    address = f"http://{services['http'].host}/word/secret"
    done = curl("--proxy", f"http://127.0.0.1:{proxy.port}", *options, *status, address)
    assert 400 <= max(map(int, done.stdout.split())) < 500
    assert website.connections == before
