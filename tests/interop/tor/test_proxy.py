"""`convergence proxy --tor`: programs reach the web through relays of the real tor, which complain of nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.processes import running
from tests.interop.programs import free_port
from tests.interop.test_chromium import context
from tests.interop.test_curl import DIALECTS, PROXY_REFUSED, curl, through
from tests.interop.tor.network import TorNetwork
from tests.interop.tor.upload import UPLOAD, upload_to_a_server_that_waits
from tests.interop.ways import Proxy
from tests.interop.website import LARGE, Website


@contextlib.contextmanager
def proxied(network: TorNetwork, folder: Path, *more: str) -> Iterator[Proxy]:
    """A proxy that keeps what it knows in this folder."""
    folder.mkdir(exist_ok=True)
    lines = folder / "network.txt"
    lines.write_text("".join(f"{authority.line}\n" for authority in network.authorities))
    options = ("--tor", "--tor-network", lines, "--data", folder / "data", *more)
    with running("proxy", "--listen", "127.0.0.1:0", *options) as command:
        yield Proxy(command, command.until("listening")["port"])


@pytest.fixture(scope="module")
def proxy(tor_network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxied(tor_network, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_10_mib_from_the_web(
    tor_network: TorNetwork, proxy: Proxy, website: Website, scheme: str, dialect: str
) -> None:
    address = f"{scheme}://127.0.0.1:{website.port(scheme)}/large"
    done = curl(*through(proxy, dialect), "--cacert", website.authority, address)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == LARGE
    assert tor_network.notices() == []


@pytest.mark.parametrize(("dialect", "scheme"), [("socks5", "http"), ("socks5", "https"), ("http", "https")])
def test_chromium_opens_a_page_by_the_name_that_the_exit_looks_up(
    tor_network: TorNetwork,
    proxy: Proxy,
    website: Website,
    chromium: Browser,
    dialect: str,
    scheme: str,
) -> None:
    with context(chromium, proxy, dialect) as profile:
        page = profile.new_page()
        page.goto(f"{scheme}://web.example:{website.port(scheme)}/")
        assert page.title() == "a page"
    assert tor_network.notices() == []


def test_an_upload_waits_for_a_server_that_does_not_read(tor_network: TorNetwork, proxy: Proxy) -> None:
    """The exit stops it by XOFF, and has it go on by XON."""
    assert upload_to_a_server_that_waits(proxy.port) == len(UPLOAD)
    assert tor_network.notices() == []


def test_two_users_have_circuits_of_their_own(proxy: Proxy, website: Website) -> None:
    address = f"http://127.0.0.1:{website.http}/large"
    for user in ("ann", "ben", "ann"):
        done = curl("--proxy", f"socks5h://{user}:x@127.0.0.1:{proxy.port}", address)
        assert done.stdout == LARGE
    circuits = proxy.circuits("ann", "ben", streams=3)
    assert circuits["ben"] and circuits["ann"].isdisjoint(circuits["ben"])
    assert len(circuits["ann"]) <= 2  # a conflux set may have taken the place of a circuit


@pytest.mark.parametrize("kept_apart", ["host", "port"])
def test_by_choice_hosts_and_ports_have_circuits_of_their_own(
    tor_network: TorNetwork, website: Website, tmp_path: Path, kept_apart: str
) -> None:
    with proxied(tor_network, tmp_path, f"--isolate-{kept_apart}") as proxy:

        def carrier(host: str, scheme: str) -> set[int]:
            asked = f"{scheme}://{host}:{website.port(scheme)}/word/hello"
            assert curl(*through(proxy, "socks5"), "--insecure", asked).stdout == b"hello"
            return proxy.circuits("", streams=1)[""]

        def shared(host: str, scheme: str) -> bool:
            """With http to 127.0.0.1. Between two requests a conflux set may have taken the place of a circuit."""
            return any(carrier("127.0.0.1", "http") == carrier(host, scheme) for _ in range(3))

        assert shared("127.0.0.1", "http")
        assert shared("web.example", "http") == (kept_apart != "host")
        assert shared("127.0.0.1", "https") == (kept_apart != "port")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_port_where_nobody_listens_is_refused(proxy: Proxy, dialect: str) -> None:
    done = curl(*through(proxy, dialect), f"http://127.0.0.1:{free_port()}/")
    assert done.returncode == PROXY_REFUSED[dialect]


def test_a_second_start_needs_no_directory(tor_network: TorNetwork, website: Website, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{website.http}/large"
    with proxied(tor_network, tmp_path) as proxy:
        assert curl(*through(proxy, "socks5"), address).stdout == LARGE
    lines = tmp_path / "network.txt"
    nowhere = [f"127.0.0.1:{free_port()}" for _ in tor_network.authorities]
    known = lines.read_text().splitlines()
    lines.write_text(
        "".join(
            line.replace(line.split("orport=")[1].split()[0], where.rpartition(":")[2]) + "\n"
            for line, where in zip(known, nowhere, strict=True)
        )
    )
    options = ("--tor", "--tor-network", lines, "--data", tmp_path / "data")
    with running("proxy", "--listen", "127.0.0.1:0", *options) as command:
        again = Proxy(command, command.until("listening")["port"])
        assert curl(*through(again, "socks5"), address).stdout == LARGE


def test_one_folder_serves_one_proxy(tor_network: TorNetwork, tmp_path: Path) -> None:
    with proxied(tor_network, tmp_path):
        options = ("--tor", "--tor-network", tmp_path / "network.txt", "--data", tmp_path / "data")
        with running("proxy", "--listen", "127.0.0.1:0", *options) as second:
            code, last = second.end()
    assert code == 1 and "Another command" in last["message"]
