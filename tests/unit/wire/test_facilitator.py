from dataclasses import replace

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.descriptor import (
    DESCRIPTOR_PREFIX,
    MAX_DESCRIPTOR,
    MAX_TRANSPORTS,
    Descriptor,
    Transport,
    TransportKind,
    check_ws_url,
)
from convergence.wire.facilitator import (
    MAX_DESCRIPTORS,
    MAX_LISTED,
    MAX_NODE_LIST,
    MAX_SEALED,
    RECORD_LIMITS,
    Ask,
    Delivery,
    Descriptors,
    ErrorCode,
    ErrorRecord,
    Hello,
    ListRequest,
    NodeList,
    Puzzle,
    RecordCutter,
    RecordType,
    Register,
    Signal,
    Solved,
    Unreachable,
    UnreachableReason,
    encode_record,
    register_statement,
)
from convergence.wire.linkspec import ed25519_identity, ed25519_specifier, or_address, rsa_fingerprint
from convergence.wire.target import Protocols, Role
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
SEED = bytes(32)
IDENTITY = CRYPTO.ed25519_public(SEED)
WS = Transport(TransportKind.WS, "ws://127.0.0.1:9001/")


def sign(message):
    return CRYPTO.ed25519_sign(SEED, message)


DESCRIPTOR = Descriptor(IDENTITY, b"n" * 32, 1000, 2000, Role.RELAY | Role.RDV, (WS,)).sign(sign)
NODES = NodeList(1000, 2000, (DESCRIPTOR.encode(), b"other"), IDENTITY).sign(sign)


# Descriptor


def test_descriptor_layout():
    head = b"\x01" + IDENTITY + b"n" * 32 + (1000).to_bytes(8, "big") + (2000).to_bytes(8, "big")
    body = head + b"\x03\x01\x01\x00\x14ws://127.0.0.1:9001/"
    assert DESCRIPTOR.encode() == body + sign(DESCRIPTOR_PREFIX + body)


def test_descriptor_comes_back_and_verifies():
    parsed = Descriptor.parse(memoryview(DESCRIPTOR.encode()))
    assert parsed == DESCRIPTOR
    assert parsed.verify(CRYPTO.ed25519_verify)
    assert parsed.ws_url == WS.address
    assert not replace(parsed, expires=2001).verify(CRYPTO.ed25519_verify)


def test_unknown_roles_and_transports_are_kept():
    other = Transport(9, "anything goes: \u20ac")
    descriptor = replace(DESCRIPTOR, roles=Role(9), protocols=Protocols(9), transports=(other,)).sign(sign)
    parsed = Descriptor.parse(descriptor.encode())
    assert parsed == descriptor
    assert Role.RELAY in parsed.roles and Protocols.NTOR_V3 in parsed.protocols
    assert parsed.ws_url is None


A, B, C = (bytes([letter]) * 32 for letter in b"ABC")


@pytest.mark.parametrize("introducers", [(), (A,), (A, B, C)])
def test_webrtc_and_who_introduces(introducers):
    descriptor = replace(DESCRIPTOR, transports=(Transport.rtc(introducers), WS)).sign(sign)
    parsed = Descriptor.parse(descriptor.encode())
    assert (parsed.rtc, parsed.introducers, parsed.ws_url) == (True, introducers, WS.address)
    assert parsed.transports[0].address == ",".join(identity.hex() for identity in introducers)


def test_a_node_without_webrtc():
    assert (DESCRIPTOR.rtc, DESCRIPTOR.introducers) == (False, ())


@pytest.mark.parametrize(
    "address",
    [
        "x",
        A.hex()[1:],
        A.hex() + "0",
        B.hex().upper() + "AB",
        A.hex() + ",",
        "," + A.hex(),
        A.hex() + " " + B.hex(),
        A.hex() + ", " + B.hex(),
        A.hex() + "\n",
        (b"\xab" * 32).hex().upper(),
        ",".join([A.hex()] * 4),
        "ws://host/",
    ],
)
def test_other_lists_of_introducers(address):
    with pytest.raises(LocalError):
        replace(DESCRIPTOR, transports=(Transport(TransportKind.RTC, address),)).sign(sign)


TLS = Transport.tls("192.0.2.7:9443", bytes(range(20)))


def test_where_relays_of_tor_reach_a_node():
    parsed = Descriptor.parse(replace(DESCRIPTOR, transports=(WS, TLS)).sign(sign).encode())
    assert parsed.transports[1].address == "000102030405060708090a0b0c0d0e0f10111213@192.0.2.7:9443"
    own, theirs = parsed.target, parsed.target.behind_tor
    assert own.specifiers == (ed25519_specifier(IDENTITY),) and own.schemes == {"ws"}
    assert or_address(theirs.specifiers) == ("192.0.2.7", 9443)
    assert rsa_fingerprint(theirs.specifiers) == bytes(range(20))
    assert ed25519_identity(theirs.specifiers) == IDENTITY
    assert replace(theirs, specifiers=own.specifiers) == own, "it is the same node by the same keys"


def test_a_node_that_relays_of_tor_do_not_reach():
    assert DESCRIPTOR.target.tor_specifiers == ()
    only = replace(DESCRIPTOR, transports=(TLS,)).sign(sign).target
    assert not only.has_address, "no node of ours dials it there"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "192.0.2.7:9443",
        "@192.0.2.7:9443",
        "AB" * 20 + "@192.0.2.7:9443",
        "ab" * 19 + "@192.0.2.7:9443",
        "ab" * 21 + "@192.0.2.7:9443",
        "ab" * 20 + "@192.0.2.7",
        "ab" * 20 + "@192.0.2.7:0",
        "ab" * 20 + "@192.0.2.7:09443",
        "ab" * 20 + "@192.0.2.7:65536",
        "ab" * 20 + "@192.0.2.256:1",
        "ab" * 20 + "@192.0.02.7:1",
        "ab" * 20 + "@192.0.2:1",
        "ab" * 20 + "@[2001:db8::1]:1",
        "ab" * 20 + "@host.example:1",
        "ab" * 20 + "@192.0.2.7:1\n",
        " " + "ab" * 20 + "@192.0.2.7:1",
        "tls://" + "ab" * 20 + "@192.0.2.7:1",
    ],
)
def test_other_addresses_for_relays_of_tor(address):
    with pytest.raises(LocalError):
        replace(DESCRIPTOR, transports=(Transport(TransportKind.TLS, address),)).sign(sign)


def test_largest_descriptor_parses():
    url = "wss://" + "h" * 249
    descriptor = replace(DESCRIPTOR, transports=(Transport(TransportKind.WS, url),) * MAX_TRANSPORTS).sign(sign)
    assert len(descriptor.encode()) == MAX_DESCRIPTOR
    assert Descriptor.parse(descriptor.encode()) == descriptor


@pytest.mark.parametrize(
    "descriptor",
    [
        replace(DESCRIPTOR, expires=1000),
        replace(DESCRIPTOR, transports=(WS,) * (MAX_TRANSPORTS + 1)),
        replace(DESCRIPTOR, transports=(Transport(9, "x" * 256),)),
        replace(DESCRIPTOR, transports=(Transport(TransportKind.WS, "http://host/"),)),
        replace(DESCRIPTOR, identity=b"short"),
    ],
)
def test_invalid_descriptors_are_not_signed(descriptor):
    with pytest.raises(LocalError):
        descriptor.sign(sign)


def test_malformed_descriptors():
    data = DESCRIPTOR.encode()
    for bad in (b"", data[:-1], data + b"\0", b"\2" + data[1:], data.replace(b"ws://127", b"ws\xff//127")):
        with pytest.raises(ParseError):
            Descriptor.parse(bad)


@pytest.mark.parametrize(
    "url",
    ["ws://host", "wss://host.example:443/path/to-x_y~z%20", "ws://[::1]:9001/", "ws://10.0.0.1:1/", "ws://h:65535"],
)
def test_plain_urls(url):
    check_ws_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://host/",
        "WS://host/",
        "ws:/host/",
        "ws://",
        "ws://:80/",
        "ws://user@host/",
        "ws://user:pass@host/",
        "ws://host:0/",
        "ws://host:65536/",
        "ws://host:080/",
        "ws://host:/",
        "ws://host/?query",
        "ws://host/#fragment",
        "ws://host/ space",
        "ws://host/\r\nX: y",
        "ws://h\u00f6st/",
        "ws://-host/",
        "ws://[::g]/",
        "ws://[1:2]/",
        "ws://" + "h" * 251,
    ],
)
def test_other_urls(url):
    with pytest.raises(ParseError):
        check_ws_url(url)


# NodeList


def test_node_list_comes_back_and_verifies():
    parsed = NodeList.parse(memoryview(NODES.encode()))
    assert parsed == NODES
    assert parsed.verify(CRYPTO.ed25519_verify)
    assert not replace(parsed, descriptors=(), reached=()).verify(CRYPTO.ed25519_verify)


def test_malformed_node_lists():
    data = NODES.encode()
    too_many = data[:17] + (MAX_LISTED + 1).to_bytes(2, "big") + data[19:]
    too_long = data[:19] + (MAX_DESCRIPTOR + 1).to_bytes(2, "big") + bytes(5000)
    dates = replace(NODES, expires=1000).encode()
    for bad in (b"", data[:-1], data + b"\0", b"\1" + data[1:], too_many, too_long, dates):
        with pytest.raises(ParseError):
            NodeList.parse(bad)


def test_longest_list_fits_its_record():
    nodes = NodeList(1, 2, (bytes(MAX_DESCRIPTOR),) * MAX_LISTED, IDENTITY).sign(sign)
    assert len(nodes.encode()) == MAX_NODE_LIST
    with pytest.raises(LocalError):
        replace(nodes, descriptors=(b"",) * (MAX_LISTED + 1)).sign(sign)


# Records

HELLO = Hello(A, B)


@pytest.mark.parametrize(
    ("record", "body"),
    [
        (HELLO, A + B),
        (Register(b"p" * 64, b"descriptor"), b"p" * 64 + b"descriptor"),
        (Register(b"p" * 64, b""), b"p" * 64),
        (Signal(0x01020304, A, b"sealed"), b"\1\2\3\4" + A + b"sealed"),
        (Signal(2**32 - 1, A, bytes(MAX_SEALED)), b"\xff" * 4 + A + bytes(MAX_SEALED)),
        (Delivery(7, b"sealed"), b"\0\0\0\7sealed"),
        (Delivery(7, bytes(MAX_SEALED)), b"\0\0\0\7" + bytes(MAX_SEALED)),
        (Unreachable(7, UnreachableReason.BUSY), b"\0\0\0\7\2"),
        (Unreachable(7, 99), b"\0\0\0\7\x63"),
        (Puzzle(b"s" * 16, 1024, 180), b"s" * 16 + b"\0\0\4\0\0\xb4"),
        (Solved(258, Register(b"p" * 64, b"descriptor")), bytes(6) + b"\1\2" + b"p" * 64 + b"descriptor"),
        (Ask(1), bytes(7) + b"\1"),
        (Ask(1, A), bytes(7) + b"\1" + A),
        (ListRequest(258), b"\0\0\1\2"),
        (ListRequest(), b""),
        (Descriptors((b"one", b"")), b"\0\3one\0\0"),
        (Descriptors(), b""),
    ],
)
def test_layouts(record, body):
    assert record.encode() == body
    assert type(record).parse(memoryview(body)) == record


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Hello, b""),
        (Hello, A + B[1:]),
        (Hello, A + B + b"x"),
        (Register, b"p" * 63),
        (Signal, b"\1\2\3\4" + A[1:]),
        (Signal, b"\1\2\3\4" + A + bytes(MAX_SEALED + 1)),
        (Delivery, b"\1\2\3"),
        (Delivery, bytes(4 + MAX_SEALED + 1)),
        (Unreachable, bytes(4)),
        (Unreachable, bytes(6)),
        (Puzzle, b"s" * 16 + bytes(6)),  # asks for nothing
        (Puzzle, b"s" * 21),
        (Puzzle, b"s" * 23),
        (Solved, bytes(8) + b"p" * 63),
        (ListRequest, bytes(3)),
        (ListRequest, bytes(5)),
        (Ask, bytes(7)),
        (Ask, bytes(9)),
        (Ask, bytes(41)),
        (Descriptors, b"\0"),
        (Descriptors, b"\0\2x"),
        (Descriptors, (MAX_DESCRIPTOR + 1).to_bytes(2, "big") + bytes(MAX_DESCRIPTOR + 1)),
    ],
)
def test_malformed_bodies(kind, body):
    with pytest.raises(ParseError):
        kind.parse(body)


def test_a_registration_is_proven_to_one_channel_of_one_facilitator():
    assert register_statement(HELLO) == b"convergence:register:1" + A + B
    assert (
        len({register_statement(hello) for hello in (HELLO, replace(HELLO, nonce=C), replace(HELLO, identity=C))}) == 3
    )


def test_limits_are_those_of_the_largest_records():
    largest = {
        RecordType.REGISTER: Register(bytes(64), bytes(MAX_DESCRIPTOR)),
        RecordType.SIGNAL: Signal(0, A, bytes(MAX_SEALED)),
        RecordType.HELLO: HELLO,
        RecordType.DELIVER: Delivery(0, bytes(MAX_SEALED)),
        RecordType.REPLY: Delivery(0, bytes(MAX_SEALED)),
        RecordType.UNREACHABLE: Unreachable(0, 1),
        RecordType.LIST: ListRequest(1),
        RecordType.ASK: Ask(0, A),
    }
    assert {kind: len(record.encode()) for kind, record in largest.items()} == {
        kind: RECORD_LIMITS[kind] for kind in largest
    }
    assert RECORD_LIMITS[RecordType.DESCRIPTORS] == MAX_DESCRIPTORS == 32768
    assert set(RECORD_LIMITS) == set(RecordType)


def test_sealed_bytes_are_not_shown():
    assert "secret" not in repr((Signal(1, A, b"secret"), Delivery(1, b"secret")))


def test_error_record():
    record = ErrorRecord(ErrorCode.FULL, "full")
    assert record.encode() == b"\x06full"
    assert ErrorRecord.parse(record.encode()) == record
    assert ErrorRecord.parse(b"\xfa") == ErrorRecord(250, "")
    assert ErrorRecord.parse(ErrorRecord(1, "x" + "\u20ac" * 200).encode()).text == "x" + "\u20ac" * 84


@pytest.mark.parametrize("data", [b"", b"\1\xff", b"\1" + b"x" * 256])
def test_malformed_error_records(data):
    with pytest.raises(ParseError):
        ErrorRecord.parse(data)


def test_records_are_cut_anywhere():
    data = encode_record(RecordType.LIST) + encode_record(RecordType.REGISTER, b"body") + encode_record(RecordType.LIST)
    cutter = RecordCutter((RecordType.REGISTER, RecordType.LIST))
    cut = [record for byte in data for record in cutter.feed(bytes([byte]))]
    assert cut == [(RecordType.LIST, b""), (RecordType.REGISTER, b"body"), (RecordType.LIST, b"")]


@pytest.mark.parametrize(
    "header", ["00000000 04", "00000000 06", "00000000 00", "00000005 03", "000004dc 01", "ffffffff 01"]
)
def test_what_a_side_does_not_take_is_refused_by_its_header(header):
    with pytest.raises(ParseError):
        RecordCutter((RecordType.REGISTER, RecordType.LIST)).feed(bytes.fromhex(header))


def test_bodies_over_the_limit_are_not_encoded():
    with pytest.raises(LocalError):
        encode_record(RecordType.LIST, bytes(5))
