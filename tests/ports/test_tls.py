"""CPython's TLS engine under the suite that every engine has to pass."""

from __future__ import annotations

import pytest

from pynode.tls import CPythonTls
from tests.ports.tls_servers import Authority
from tests.ports.tls_suite import CASES, check, check_no_host, cuts, whole


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
