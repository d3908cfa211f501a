"""Addresses of pipes: what people write, and what programs ask a proxy for."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.codes import AddressFlaw, LinkFlaw
from convergence.errors import Problem
from convergence.wire.address import (
    MAX_NAME,
    PrivateAddress,
    PublicAddress,
    TcpAddress,
    address_of,
    parse_address,
)
from convergence.wire.sharelink import ShareLink

PRIVATE = PrivateAddress(bytes(range(32)))


def flaw(call, *arguments):
    with pytest.raises(Problem) as refused:
        call(*arguments)
    return refused.value.why.code


def test_the_proposals_example():
    """SHA-256 of the text in UTF-8, by `printf 'Satoshi Nakamoto' | sha256sum`."""
    known = "a0dc65ffca799873cbea0ac274015b9526505daaaed385155425f7337704883e"
    address = parse_address("hash:Satoshi Nakamoto")
    assert address == PublicAddress(bytes.fromhex(known), "Satoshi Nakamoto")
    assert parse_address(f"hash:{known}").hash_name == address.hash_name
    assert str(address) == "hash:Satoshi Nakamoto" and str(parse_address(f"hash:{known}")) == f"hash:{known}"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://Example.org:443", "example.org", 443),
        ("tcp:example.org:80", "example.org", 80),
        ("example.org:80", "example.org", 80),
        ("127.0.0.1:8333", "127.0.0.1", 8333),
        ("tcp://[::1]:22", "::1", 22),
        ("[::1]:22", "::1", 22),
    ],
)
def test_hosts(text, host, port):
    address = parse_address(text)
    assert address == TcpAddress(host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("form", ["tcp://{}:80", "tcp:{}.:80", "{}:80"])
def test_a_service_named_as_a_host_is_no_host(form):
    """An exit that was asked for it would have the capability."""
    public = PublicAddress.of("Satoshi Nakamoto")
    assert parse_address(form.format(PRIVATE.host)) == PRIVATE
    assert parse_address(form.format(PRIVATE.host.upper())) == PRIVATE
    assert parse_address(form.format(public.host)).hash_name == public.hash_name


@pytest.mark.parametrize("name", ["x.conv", "conv", "a.conv.", "x.onion", "x.exit", "peer.node", "x.rdv"])
def test_names_that_no_exit_is_to_hear(name):
    assert flaw(parse_address, f"tcp://{name}:80") is AddressFlaw.NO_HOST
    assert flaw(address_of, name, 80) is AddressFlaw.NO_HOST


@pytest.mark.parametrize(
    "text", ["tcp://", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://:80", "[::1:80", "tcp://a b:80"]
)
def test_what_is_no_host_and_port(text):
    assert flaw(parse_address, text) in (AddressFlaw.NO_HOST, AddressFlaw.NO_ADDRESS)


def test_names_are_equal_when_they_look_so_and_case_counts():
    composed, decomposed = "hash:caf\u00e9", "hash: cafe\u0301 "
    assert parse_address(composed) == parse_address(decomposed)
    assert parse_address("hash:a") != parse_address("hash:A")
    assert parse_address("HASH:a") == parse_address("hash:a")


def test_names_have_limits():
    assert parse_address("hash:" + "é" * (MAX_NAME // 2)).hash_name == sha256("é".encode() * (MAX_NAME // 2)).digest()
    assert flaw(parse_address, "hash:" + "é" * 10_000) is AddressFlaw.LONG_NAME
    assert flaw(parse_address, "hash:  ") is AddressFlaw.NO_NAME
    assert flaw(parse_address, "hash:a\0b") is AddressFlaw.CHARACTERS
    assert flaw(parse_address, "hash:a\nb") is AddressFlaw.CHARACTERS
    assert flaw(parse_address, "hash:\udcff") is AddressFlaw.CHARACTERS
    assert flaw(parse_address, " ") is AddressFlaw.NO_ADDRESS
    assert flaw(parse_address, "chat") is AddressFlaw.NO_ADDRESS


def test_a_private_address_is_a_link_that_is_no_files():
    text = str(PRIVATE)
    assert parse_address(text) == PRIVATE == parse_address(f"https://site.example/#{text}")
    assert text not in repr(PRIVATE) and PRIVATE.key.hex() not in repr(PRIVATE)
    of_a_file = ShareLink(b"h" * 32, PRIVATE.key).format()
    assert flaw(parse_address, of_a_file) is AddressFlaw.FILE
    assert flaw(parse_address, text[:-1]) in LinkFlaw


def test_names_of_hosts_stand_for_services():
    public = parse_address("hash:chat")
    assert address_of("chat.hash.conv", 80) == public == address_of("CHAT.Hash.Conv.", 443)
    assert address_of(public.host, 1).hash_name == public.hash_name
    assert address_of(PRIVATE.host, 80) == PRIVATE
    assert max(map(len, PRIVATE.host.split("."))) <= 63, "a label of DNS"
    assert address_of("a.b.hash.conv", 80) == parse_address("hash:a.b")
    assert address_of("xn--caf-dma.hash.conv", 80) == parse_address("hash:café")
    assert address_of("example.org", 80) == TcpAddress("example.org", 80)
    assert address_of("::1", 80) == TcpAddress("::1", 80)
    assert flaw(address_of, "short.key.conv", 80) is AddressFlaw.NO_KEY
    assert flaw(address_of, ".hash.conv", 80) is AddressFlaw.NO_NAME


@given(st.text(max_size=200))
def test_what_is_taken_as_a_public_name_comes_back_from_its_text(name):
    try:
        address = PublicAddress.of(name)
    except Problem:
        return
    assert parse_address(str(address)) == address
    assert address_of(address.host, 80).hash_name == address.hash_name


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_a_text_and_a_host_name(key):
    address = PrivateAddress(key)
    assert parse_address(str(address)) == address == address_of(address.host, 80)
