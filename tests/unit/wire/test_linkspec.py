import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.linkspec import (
    LinkSpecifier,
    ed25519_identity,
    ed25519_specifier,
    encode_specifiers,
    or_address,
    read_specifiers,
    rsa_fingerprint,
)
from convergence.wire.reader import Reader

IDENTITY = bytes(range(32))


def parse(data):
    return read_specifiers(Reader(data, "specifiers"))


def test_identity_alone_names_a_node():
    data = encode_specifiers([ed25519_specifier(IDENTITY)])
    assert data == b"\x01\x03\x20" + IDENTITY
    assert ed25519_identity(parse(data)) == IDENTITY


def test_unknown_specifiers_are_kept_and_ignored():
    data = encode_specifiers([LinkSpecifier(77, b"x"), LinkSpecifier(77, b""), ed25519_specifier(IDENTITY)])
    assert len(parse(data)) == 3
    assert ed25519_identity(parse(data)) == IDENTITY


def test_addresses_may_repeat():
    assert len(parse(b"\x02" + b"\x00\x06abcdef" * 2)) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x01\x03",
        b"\x01\x03\x20abc",
        b"\x01\x03\x01a",
        b"\x01\x00\x05abcde",
        b"\x02" + (b"\x03\x20" + IDENTITY) * 2,
        b"\x02" + (b"\x02\x14" + bytes(20)) * 2,
    ],
)
def test_malformed_lists_are_refused(data):
    with pytest.raises(ParseError):
        parse(data)


def test_a_list_without_identity_names_nobody():
    with pytest.raises(ParseError):
        ed25519_identity(parse(b"\x01\x02\x14" + bytes(20)))


def test_a_relay_of_tor_is_named_by_fingerprint_and_address():
    found = parse(b"\x02\x00\x06\xc0\x00\x02\x07\x01\xbb\x02\x14" + bytes(range(20)))
    assert rsa_fingerprint(found) == bytes(range(20)) and or_address(found) == ("192.0.2.7", 443)
    for data in (b"\x00", b"\x01\x00\x06\xc0\x00\x02\x07\x00\x00"):
        with pytest.raises(ParseError):
            or_address(parse(data))
        with pytest.raises(ParseError):
            rsa_fingerprint(parse(data))


def test_what_does_not_fit_one_byte_is_refused():
    with pytest.raises(LocalError):
        encode_specifiers([LinkSpecifier(9, b"")] * 256)
    with pytest.raises(LocalError):
        encode_specifiers([LinkSpecifier(9, bytes(256))])
