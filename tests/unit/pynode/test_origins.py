"""Which Host and Origin headers are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.origins import Origins, answers_to, origin, same_site

LOCAL = ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Site.example/path?x#y", "https://site.example"),
        ("https://site.example:443/", "https://site.example"),
        ("http://site.example:443/", "http://site.example:443"),
        ("wss://site.example/facilitator", "https://site.example"),
        ("ws://[::1]:80/", "http://[::1]"),
        ("*", "*"),
    ],
)
def test_the_origin_of_an_address(url: str, expected: str) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize(
    "url", ["", "null", "site.example", "ftp://x", "http://", "http://x:0", "http://x:99999", "h\n"]
)
def test_what_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match="origin|[Pp]ort"):
        origin(url)
    assert not Origins(["https://site.example"]).allow(url)


@pytest.mark.parametrize(
    ("allowed", "header", "accepted"),
    [
        ([], None, True),
        ([], "http://x", False),
        (["*"], "http://x", True),
        (["*"], "null", True),
        (["https://site.example/"], "https://site.example", True),
        (["https://site.example/"], "http://site.example", False),
        (["https://site.example/"], "https://site.example:8443", False),
        (["https://site.example/"], "https://a.site.example", False),
        (["https://site.example/"], "https://site.example.evil.example", False),
        ([], "http://localhost:8000", True),
        ([], "https://[::1]", True),
        ([], "http://127.0.0.1", True),
        ([], "http://localhost.evil.example:8000", False),
        ([], "http://localhost@evil.example", False),
        ([], "http://192.168.0.1", False),
    ],
)
def test_origins(allowed: list[str], header: str | None, accepted: bool) -> None:
    assert Origins(allowed).allow(header) == accepted


@pytest.mark.parametrize(
    ("header", "host", "same"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://localhost:8000", "127.0.0.1:8000", True),
        ("http://localhost:3000", "127.0.0.1:8000", False),
        ("https://site.example", "site.example", True),
        ("https://site.example", "site.example:443", True),
        ("https://evil.example", "site.example", False),
        ("null", "site.example", False),
        ("", "", False),
    ],
)
def test_the_site_of_a_page(header: str, host: str, same: bool) -> None:
    assert same_site(header, host) == same


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST:8000", True),
        ("[::1]:8000", True),
        ("site.example", True),
        ("Site.example:443", True),
        ("localhost:8001", False),
        ("localhost", False),
        ("192.0.2.1:8000", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example:8000", False),
        ("user@localhost:8000", False),
        ("localhost:8000/", False),
        ("localhost:99999", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_hosts(host: str, answered: bool) -> None:
    assert answers_to(host, LOCAL, ["site.example"]) == answered


def test_the_address_that_was_dialled_is_a_name() -> None:
    assert answers_to("192.0.2.1:8000", ("192.0.2.1", 8000), ())
    assert answers_to("[2001:db8::1]:80", ("2001:db8::1", 80, 0, 0), ())
    assert answers_to("[2001:db8::1]", ("2001:db8::1", 80, 0, 0), ())
    assert not answers_to("localhost:8000", None, ())


@given(st.text(), st.text())
def test_no_header_raises(header: str, host: str) -> None:
    assert not Origins(["https://site.example"]).allow(f"x{header}")
    assert not same_site(f"x{header}", host)
    answers_to(host, LOCAL, ["site.example"])
