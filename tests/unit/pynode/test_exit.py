"""The exit policy, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.wire.exitpolicy import Rule
from pynode.exit import DEFAULT_PORTS, PRIVATE, ExitPolicy, TorPolicy, is_public, plain_address

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "192.169.0.1", "2606:4700:4700::1111", "2a00:1450::1"]
RESERVED = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
    *("172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "fec0::1", "100::1", "2001:db8::1"),
    *("2001::1", "3fff::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    *("64:ff9b:1::1", "2002:7f00:1::1", "2002:c0a8:101::1", "2002:a9fe:a9fe::", "5f00::1", "::ffff:0:127.0.0.1"),
]
NOT_ADDRESSES = ["", "localhost", "1.2.3", "0x7f.1", "2130706433", "127.0.0.1:80", "1.2.3.4.5", "::g"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed_by_default(address: str) -> None:
    assert ExitPolicy().permits("example.com", address, 443)


@pytest.mark.parametrize("address", RESERVED + NOT_ADDRESSES)
def test_reserved_addresses_are_refused_by_default(address: str) -> None:
    assert not ExitPolicy().permits("example.com", address, 443)
    assert not ExitPolicy().permits(address, address, 443)
    assert not ExitPolicy(hosts=["*", "*.com", "example.com", "0.0.0.0/0", "::/0"]).permits("example.com", address, 80)


@pytest.mark.parametrize("address", ["64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"])
def test_public_ipv4_inside_ipv6_is_judged_as_ipv4(address: str) -> None:
    assert ExitPolicy().permits("example.com", address, 80)
    assert ExitPolicy(hosts=["8.8.8.0/24"]).permits("example.com", address, 80)


def test_ports() -> None:
    assert {80, 443, 8333} <= set(DEFAULT_PORTS) and 25 not in DEFAULT_PORTS
    assert not ExitPolicy().permits("example.com", "1.1.1.1", 25)
    assert not ExitPolicy().may_permit("example.com", 25)
    assert ExitPolicy(ports=[25]).permits("example.com", "1.1.1.1", 25)
    assert not ExitPolicy(ports=[]).may_permit("example.com", None)


@pytest.mark.parametrize(
    ("entry", "host", "address", "port", "allowed"),
    [
        ("example.com", "example.com", "1.1.1.1", 80, True),
        ("example.com", "EXAMPLE.com.", "1.1.1.1", 80, True),
        ("example.com", "www.example.com", "1.1.1.1", 80, False),
        ("*.example.com", "www.example.com", "1.1.1.1", 80, True),
        ("*.example.com", "example.com", "1.1.1.1", 80, False),
        ("*.example.com", "badexample.com", "1.1.1.1", 80, False),
        ("example.com:25", "example.com", "1.1.1.1", 25, True),
        ("example.com:25", "example.com", "1.1.1.1", 80, False),
        ("1.1.1.0/24", "any.thing", "1.1.1.7", 80, True),
        ("1.1.1.0/24", "any.thing", "1.1.2.7", 80, False),
        ("127.0.0.1:8081", "127.0.0.1", "127.0.0.1", 8081, True),
        ("127.0.0.1:8081", "localhost", "127.0.0.1", 8081, True),
        ("127.0.0.1:8081", "127.0.0.1", "::ffff:127.0.0.1", 8081, True),
        ("127.0.0.1:8081", "127.0.0.1", "127.0.0.1", 80, False),
        ("127.0.0.1:8081", "127.0.0.1", "127.0.0.2", 8081, False),
        ("10.0.0.0/8", "10.1.2.3", "10.1.2.3", 80, True),
        ("[::1]:81", "::1", "::1", 81, True),
        ("::1", "::1", "::1", 80, True),
        ("fd00::/8", "fd00::5", "fd00::5", 80, True),
        ("fd00::/8", "fe80::5", "fe80::5", 80, False),
        ("localhost", "localhost", "127.0.0.1", 80, False),  # a name permits no private address
        ("10.0.0.0/7", "10.1.2.3", "10.1.2.3", 80, False),  # nor does a network that is mostly public
    ],
)
def test_entries(entry: str, host: str, address: str, port: int, allowed: bool) -> None:
    policy = ExitPolicy(hosts=[entry])
    assert policy.permits(host, address, port) is allowed
    if allowed:
        assert policy.may_permit(host, port)
        assert policy.permits(host, address, None)


@pytest.mark.parametrize(
    "entry", ["", "a b", "*.", "**", "exa*mple.com", "x:0", "x:99999", "x:y", "[::1", "1.2.3.4/99", "/"]
)
def test_senseless_entries_are_quoted(entry: str) -> None:
    with pytest.raises(ValueError) as error:
        ExitPolicy(hosts=[entry])
    assert f'"{entry}"' in str(error.value)


def test_senseless_ports_and_hosts() -> None:
    for port in (0, -1, 65536, True):
        with pytest.raises(ValueError):
            ExitPolicy(ports=[port])
    for host in ("", ".", "x" * 300, "a\nb"):
        assert not ExitPolicy().may_permit(host, 80)


@given(st.ip_addresses(v=4))
def test_every_ipv6_form_of_an_address_is_judged_alike(address: object) -> None:
    number = int(address)  # type: ignore[call-overload]
    forms = [f"::ffff:{address}", f"64:ff9b::{address}", f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1"]
    allowed = ExitPolicy().permits("x", str(address), 80)
    assert [ExitPolicy().permits("x", form, 80) for form in forms] == [allowed] * 3


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address: object) -> None:
    plain = plain_address(str(address))
    assert plain is not None
    if plain.is_private or plain.is_multicast or plain.is_loopback or plain.is_link_local or plain.is_unspecified:
        assert not is_public(plain)


# -- rules of the Tor network


def rules(*texts: str) -> list[Rule]:
    return [Rule.parse(*text.split()) for text in texts]


def test_an_exit_of_the_tor_network_publishes_what_it_keeps_to() -> None:
    policy = TorPolicy(rules("reject 1.2.3.0/24:*", "accept *:80", "accept *:440-443"))
    published = [str(rule) for rule in policy.published.rules]
    assert published[: len(PRIVATE)] == [f"reject {network}:*" for network in PRIVATE]
    assert published[len(PRIVATE) :] == ["reject 1.2.3.0/24:*", "accept *:80", "accept *:440-443", "reject *:*"]
    assert policy.may_permit("host.example", 443) and policy.may_permit("host.example", None)
    assert not policy.may_permit("host.example", 444)
    assert policy.permits("host.example", "1.1.1.1", 443) and policy.permits("host.example", "1.1.1.1", None)
    for address, port in (("1.2.3.4", 80), ("1.1.1.1", 22), ("10.0.0.1", 80), ("100.64.0.1", 80), ("nothing", 80)):
        assert not policy.permits("host.example", address, port)


@pytest.mark.parametrize("address", ["2606:4700::1111", "::1", "fe80::1%eth0"])
def test_ipv6_is_reached_only_where_that_is_asked_for(address: str) -> None:
    policy = TorPolicy(rules("accept *:*"), private=True)
    assert not policy.permits("host.example", address, 80) and policy.published6.refuses_all
    wanted = TorPolicy(rules("accept *:*"), private=True, ipv6=True)
    assert wanted.permits("host.example", address, 80) == ("%" not in address)
    public = TorPolicy(rules("accept *:*"), ipv6=True)
    assert public.permits("host.example", address, 80) == address.startswith("2606")


def test_rules_of_ipv6_count_and_are_published_as_ports() -> None:
    texts = ("reject [2606:4700::]/32:*", "accept [2620::]/16:22", "accept 1.1.1.1:25", "reject *:25", "accept *:20-80")
    policy = TorPolicy(rules(*texts), ipv6=True)
    assert str(policy.published6) == "accept 20-24,26-80"
    assert not any("[" in str(rule) for rule in policy.published.rules)
    for address, port, permitted in (
        ("2606:4700::1111", 80, False),
        ("2620:fe::fe", 22, True),
        ("2a00::1", 25, False),
        ("2a00::1", 80, True),
        ("1.1.1.1", 25, True),
    ):
        assert policy.permits("host.example", address, port) == permitted


def test_an_address_within_another_counts_for_itself() -> None:
    policy = TorPolicy(rules("accept *:*"))
    assert not policy.permits("host.example", "::ffff:10.0.0.1", 80)
    assert policy.permits("host.example", "::ffff:1.1.1.1", 80)


def test_a_relay_without_rules_is_no_exit() -> None:
    policy = TorPolicy([])
    assert [str(rule) for rule in policy.published.rules] == ["reject *:*"]
    assert not policy.may_permit("host.example", None) and not policy.permits("host.example", "1.1.1.1", 80)


def test_private_addresses_are_reached_where_that_is_asked_for() -> None:
    policy = TorPolicy(rules("accept *:80"), private=True)
    assert policy.permits("localhost", "127.0.0.1", 80)
    assert [str(rule) for rule in policy.published.rules] == ["accept *:80", "reject *:*"]
