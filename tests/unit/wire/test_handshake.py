from dataclasses import replace

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.handshake import AuthChallenge, Authenticate, Certs, Netinfo, Versions

AUTHENTICATE = Authenticate(*(bytes([n]) * 32 for n in range(8)), rand=b"r" * 24).sign(lambda message: b"s" * 64)


def test_versions():
    assert Versions().encode() == b"\0\4\0\5"
    assert Versions.parse(memoryview(b"\0\3\0\4")) == Versions((3, 4))
    assert Versions().common(Versions((3, 4))) == 4
    assert Versions().common(Versions((1, 2))) is None
    assert Versions().common(Versions.parse(b"")) is None
    with pytest.raises(ParseError):
        Versions.parse(b"\0\4\0")


def test_certs():
    certs = Certs(((4, b"four"), (5, b"")))
    assert certs.encode() == bytes.fromhex("02 04 0004") + b"four" + bytes.fromhex("05 0000")
    assert Certs.parse(certs.encode() + b"padding") == certs
    assert certs.get(4) == b"four"
    assert certs.get(6) is None


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\4\0\2a", b"\2\4\0\0", b"\2\4\0\0\4\0\0"])
def test_malformed_certs(data):
    with pytest.raises(ParseError):
        Certs.parse(data)


def test_auth_challenge():
    challenge = AuthChallenge(b"c" * 32, (1, 3))
    assert challenge.encode() == b"c" * 32 + bytes.fromhex("0002 0001 0003")
    assert AuthChallenge.parse(challenge.encode() + b"padding") == challenge
    assert AuthChallenge.parse(challenge.encode()[:32] + b"\0\0") == AuthChallenge(b"c" * 32, ())
    with pytest.raises(LocalError):
        AuthChallenge(b"short").encode()


@pytest.mark.parametrize("data", [b"", bytes(32), bytes(32) + b"\0\1\0", bytes(32) + b"\xff\xff"])
def test_malformed_auth_challenge(data):
    with pytest.raises(ParseError):
        AuthChallenge.parse(data)


def test_authenticate():
    data = AUTHENTICATE.encode()
    assert data[:12] == bytes.fromhex("0003 0160") + b"AUTH0003"
    assert len(data) == 4 + 8 + 8 * 32 + 24 + 64
    assert Authenticate.parse(data + b"padding") == AUTHENTICATE
    assert AUTHENTICATE.signed_part() == data[4:-64]


def test_signed_bytes_after_rand_are_kept_for_the_signature():
    longer = replace(AUTHENTICATE, extra=b"future field")
    assert Authenticate.parse(longer.encode()) == longer
    assert longer.signed_part().endswith(b"future field")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\3",
        b"\0\1" + AUTHENTICATE.encode()[2:],
        AUTHENTICATE.encode()[:-1],
        bytes.fromhex("0003 0008") + b"AUTH0001",
        bytes.fromhex("0003 015f") + AUTHENTICATE.encode()[4:-1],
    ],
)
def test_malformed_authenticate(data):
    with pytest.raises(ParseError):
        Authenticate.parse(data)


def test_only_whole_authenticates_are_encoded():
    for broken in (
        replace(AUTHENTICATE, sid=b""),
        replace(AUTHENTICATE, rand=b""),
        replace(AUTHENTICATE, signature=b""),
    ):
        with pytest.raises(LocalError):
            broken.encode()


def test_netinfo():
    record = Netinfo(1, "127.0.0.1", ("::1", "10.0.0.1"))
    data = bytes.fromhex("00000001 04 04 7f000001 02 06 10") + bytes(15) + bytes.fromhex("01 04 04 0a000001")
    assert record.encode() == data
    assert Netinfo.parse(data.ljust(509, b"\0")) == record
    assert Netinfo.parse(Netinfo().encode()) == Netinfo(0, None, ())


def test_addresses_of_unknown_type_or_wrong_length_are_ignored():
    data = bytes.fromhex("00000000 04 05 7f00000100 02 00 03 616263 06 04 7f000001")
    assert Netinfo.parse(data) == Netinfo(0, None, (None, None))


@pytest.mark.parametrize("data", ["", "000000", "00000000 04", "00000000 04 04 7f0000", "00000000 00 00 01 04"])
def test_malformed_netinfo(data):
    with pytest.raises(ParseError):
        Netinfo.parse(bytes.fromhex(data))
