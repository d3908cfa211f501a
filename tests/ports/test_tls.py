"""CPython's TLS engine under the suite that every engine has to pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import certifi
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates

from convergence.codes import TlsWhy
from convergence.pipes.tls import TlsError
from pynode.tls import CPythonTls, names_of, revoked_by_mozilla
from tests.ports.tls_servers import Authority
from tests.ports.tls_suite import CASES, check, check_no_host, cuts, fetch, whole
from tests.ports.web_servers import SERVERS, TcpExchange, serving
from web.bundling import revoked
from web.bundling import tls as page


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def tls(authority: Authority) -> CPythonTls:
    return CPythonTls(authority.roots, authority.revoked)


@pytest.mark.parametrize("cut", [whole, cuts(1), cuts(1000)], ids=["whole", "bytes", "pieces"])
@pytest.mark.parametrize("case", CASES)
def test_case(case: str, cut, authority: Authority, tls: CPythonTls) -> None:
    check(tls, case, authority.server(case), cut)


def test_hosts_that_are_none(tls: CPythonTls) -> None:
    check_no_host(tls)


LARGE = 100_000_000  # bytes
FLAT = 8_000_000  # bytes that a process may grow by while they pass


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Callable[[str], AbstractContextManager[int]]:
    """Starts a real server."""
    folder = tmp_path_factory.mktemp("servers")
    (folder / "files").mkdir()
    with (folder / "files" / "large").open("wb") as file:
        file.truncate(LARGE)
    chain, key = authority.good.files(folder)
    return lambda name: serving(name, folder / "files", chain, key, folder)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "openssl -tls1"])
def test_100_mb_of_a_real_server_pass_in_flat_memory(name: str, web, tls: CPythonTls) -> None:
    with web(name) as port:
        start, peak, got, head = 0, 0, 0, b""

        def on_data(data: bytes) -> None:
            nonlocal start, peak, got, head
            head = head or data
            got += len(data)
            if got % (10 << 20) < len(data):
                start, peak = start or resident(), max(peak, resident())

        with closing(TcpExchange(port)) as exchange:
            engine = fetch(tls, exchange, "/large", on_data)
    assert head[:5] == b"HTTP/" and b" 200 " in head[:20], head[:100]
    assert LARGE < got < LARGE + 2000
    assert peak - start < FLAT
    assert engine.protocol == (None if "openssl" in name else "http/1.1")


def test_a_real_server_with_an_old_version_is_refused(web, tls: CPythonTls) -> None:
    with web("openssl -tls1") as port, closing(TcpExchange(port)) as exchange, pytest.raises(TlsError) as caught:
        fetch(tls, exchange, "/large", lambda data: None)
    assert caught.value.why.code is TlsWhy.OLD


def test_mozillas_roots_are_what_counts_by_default(web) -> None:
    """Neither the system's store nor a file that the environment names."""
    with web("nginx") as port, closing(TcpExchange(port)) as exchange, pytest.raises(TlsError) as caught:
        fetch(CPythonTls(), exchange, "/large", lambda data: None)
    assert caught.value.why.code is TlsWhy.UNKNOWN_ROOT


def test_mozillas_list_names_many_and_none_of_the_roots() -> None:
    names = revoked_by_mozilla()
    assert len(names) > 1500 and all(len(name) == 8 for name in names)
    roots = [
        certificate.public_bytes(Encoding.DER)
        for certificate in load_pem_x509_certificates(certifi.contents().encode())
    ]
    assert len(roots) > 100 and not any(set(names_of(root)) & names for root in roots)
    assert page.roots(certifi.contents()) == b"".join(roots) and len(revoked.packed()) == 8 * len(names)
