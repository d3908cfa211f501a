"""`convergence fetch` of https, through an exit, from a real server: the exit carries what it cannot read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import ENVIRONMENT, MIB, PATIENCE, PROGRAM, Command, Network
from tests.interop.programs import Memory
from tests.interop.website import LARGE, Website

CEILING = 128 * MIB
"""Bytes that a fetch may have resident, whatever the size of the body."""


@pytest.fixture
def options(network: Network, website: Website) -> list[str]:
    return ["--ca", str(website.authority), "--site", network.site]


def fetched(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """As people run it."""
    command = [sys.executable, *PROGRAM, "fetch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False)


def test_a_page_is_verified_to_its_server(website: Website, options: list[str]) -> None:
    done = fetched(f"https://127.0.0.1:{website.https}/word/secret", *options)
    assert (done.returncode, done.stdout) == (0, b"secret"), done.stderr


def test_without_its_authority_nothing_is_asked(website: Website, network: Network) -> None:
    done = fetched(f"https://127.0.0.1:{website.https}/word/secret", "--site", network.site)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Traceback" not in done.stderr and b"certificate" in done.stderr.lower()


def test_another_hosts_certificate_is_refused(website: Website, options: list[str]) -> None:
    done = fetched(f"https://localhost:{website.https}/", *options)
    assert (done.returncode, done.stdout) == (1, b"") and b"Traceback" not in done.stderr


def test_https_to_a_port_that_speaks_http_fails_in_words(website: Website, options: list[str]) -> None:
    done = fetched(f"https://127.0.0.1:{website.http}/", *options)
    assert done.returncode == 1 and b"Traceback" not in done.stderr


def test_redirects_within_a_site_share_a_connection_and_never_lead_to_http(
    website: Website, options: list[str]
) -> None:
    address = f"https://127.0.0.1:{website.https}"
    before = website.connections
    done = fetched(f"{address}/to?address=/word/here", *options)
    assert (done.returncode, done.stdout) == (0, b"here") and website.connections == before + 1
    done = fetched(f"{address}/to?address=http://127.0.0.1:{website.http}/word/open", *options)
    assert (done.returncode, done.stdout) == (1, b"") and b"http" in done.stderr


def test_100_mib_in_chunks_arrive_with_flat_memory(website: Website, options: list[str], tmp_path: Path) -> None:
    target = tmp_path / "body"
    command = Command("fetch", f"https://127.0.0.1:{website.https}/chunks/100", "-o", target, *options)
    with Memory(command.pid) as memory:
        code, done = command.end()
    assert (code, done["size"]) == (0, 100 * MIB)
    assert memory.below(CEILING), memory.peaks
    assert target.stat().st_size == 100 * MIB
    with target.open("rb") as file:
        assert all(part == LARGE[:MIB] for part in iter(lambda: file.read(MIB), b""))
