"""Vectors: tests/vectors/relay_messages.json, which says where they come from."""

import json
from pathlib import Path

import pytest

from convergence.errors import DestroyReason, EndReason, LocalError, ParseError
from convergence.wire.linkspec import LinkSpecifier
from convergence.wire.relay import (
    DIGEST_OFFSET,
    LENGTH_OFFSET,
    MAX_DATA,
    PEER_HOST,
    RECOGNIZED_OFFSET,
    RELAY_HEADER,
    RELAY_HEADER_LEN,
    STREAM_ID_OFFSET,
    TTL_UNKNOWN,
    Answer,
    AnswerType,
    Begin,
    Connected,
    End,
    Extend2,
    Extended2,
    RelayCommand,
    Resolve,
    Resolved,
    Sendme,
    Truncated,
    pack_header,
    pack_message,
    parse_target,
    reverse_address,
    unpack_data,
    unpack_message,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "relay_messages.json").read_text())
hexed = bytes.fromhex


def both_ways(record, body):
    assert type(record).parse(body) == record
    assert type(record).parse(memoryview(body)) == record
    assert record.encode() == body


# Header


def test_header_offsets_are_those_of_the_spec():
    body = RELAY_HEADER.pack(0x11, 0x2222, 0x3333, b"DDDD", 0x4444)
    assert len(body) == RELAY_HEADER_LEN == 11
    assert body[RECOGNIZED_OFFSET:STREAM_ID_OFFSET] == b"\x22\x22"
    assert body[STREAM_ID_OFFSET:DIGEST_OFFSET] == b"\x33\x33"
    assert body[DIGEST_OFFSET:LENGTH_OFFSET] == b"DDDD"
    assert body[LENGTH_OFFSET:] == b"\x44\x44"


def test_message_is_509_bytes_with_recognized_and_digest_zero():
    body = pack_message(RelayCommand.DATA, 7, b"hello")
    assert len(body) == 509
    assert body[:16] == hexed("02 0000 0007 00000000 0005") + b"hello"
    assert not any(body[16:])
    assert unpack_message(body) == (2, 7, b"hello")


def test_padding_is_ignored():
    body = pack_message(RelayCommand.DATA, 7, b"hello")[:16] + b"\xaa" * 493
    assert unpack_message(memoryview(body)) == (2, 7, b"hello")


def test_a_message_holds_498_bytes():
    assert unpack_message(pack_message(2, 1, bytes(MAX_DATA)))[2] == bytes(498)


def test_data_of_many_bodies_is_that_of_each():
    parts = [bytes([1]) * MAX_DATA, b"", b"x", bytes(MAX_DATA)]
    assert unpack_data([pack_message(2, 1, part) for part in parts]) == parts


def test_one_of_many_bodies_that_claims_more_than_it_holds_is_refused():
    wrong = bytearray(pack_message(2, 1, b"x"))
    wrong[LENGTH_OFFSET:RELAY_HEADER_LEN] = (MAX_DATA + 1).to_bytes(2, "big")
    with pytest.raises(ParseError):
        unpack_data([pack_message(2, 1, b"x"), bytes(wrong)])
    with pytest.raises(LocalError):
        pack_message(2, 1, bytes(MAX_DATA + 1))
    with pytest.raises(LocalError):
        pack_header(2, 1, MAX_DATA + 1)


def test_bodies_of_wrong_size_or_length_are_refused():
    with pytest.raises(ParseError):
        unpack_message(bytes(508))
    with pytest.raises(ParseError):
        unpack_message(RELAY_HEADER.pack(2, 0, 1, bytes(4), MAX_DATA + 1) + bytes(MAX_DATA))


# Targets


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        ("Example.COM:80", ("example.com", 80)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[2001:DB8::1]:22", ("2001:db8::1", 22)),
        ("a_b.example.:1", ("a_b.example.", 1)),
        ("f" * 64 + ".rdv:0", ("f" * 64 + ".rdv", 0)),
        ("Peer.Node:0", (PEER_HOST, 0)),
        ("peer.node:80", (PEER_HOST, 80)),
    ],
)
def test_targets(target, parsed):
    assert parse_target(target) == parsed
    assert Begin.to(target).target == target.lower()


@pytest.mark.parametrize(
    "target",
    [
        "",
        "host",
        ":80",
        "host:",
        "host:0",
        "x.peer.node:0",
        "peer.node.:0",
        "host:65536",
        "host:123456",
        "host:080",
        "host:-1",
        "host:+1",
        "host:\u0661",
        "ho st:80",
        "ho\nst:80",
        "h\u00f6st:80",
        "-host:80",
        "user@host:80",
        "2001:db8::1:80",
        "[::1:80",
        "[]:80",
        "[127.0.0.1]:80",
        "[fe80::1%eth0]:80",
        "[::g]:80",
        "x" * 256 + ":80",
        "host/path:80",
    ],
)
def test_bad_targets(target):
    with pytest.raises(ParseError):
        parse_target(target)
    with pytest.raises(LocalError):
        Begin.to(target)


# BEGIN


@pytest.mark.parametrize("body, host, port, flags", VECTORS["begin"])
def test_begin_vectors(body, host, port, flags):
    both_ways(Begin(host, port, flags), hexed(body))


def test_begin_ignores_short_flags_and_what_follows_them():
    assert Begin.parse(b"a:1\0\0\0\1") == Begin("a", 1, 0)
    assert Begin.parse(b"a:1\0\0\0\0\1junk") == Begin("a", 1, 1)


@pytest.mark.parametrize("body", [b"", b"a:1", b"\0", b"a\0", b"\xff:1\0", b"a:1\n\0"])
def test_malformed_begin(body):
    with pytest.raises(ParseError):
        Begin.parse(body)


# CONNECTED


@pytest.mark.parametrize("body, address, ttl", VECTORS["connected"])
def test_connected_vectors(body, address, ttl):
    both_ways(Connected(address, ttl), hexed(body))


def test_connected_without_ttl():
    assert Connected.parse(hexed("7f000001")) == Connected("127.0.0.1", TTL_UNKNOWN)
    assert Connected.parse(hexed("7f000001 000001")) == Connected("127.0.0.1", TTL_UNKNOWN)


@pytest.mark.parametrize("body", ["7f0000", "00000000", "00000000 04" + "00" * 20, "00000000 06 0011"])
def test_malformed_connected(body):
    with pytest.raises(ParseError):
        Connected.parse(hexed(body))


# END


@pytest.mark.parametrize("body, reason, address, ttl", VECTORS["end"])
def test_end_vectors(body, reason, address, ttl):
    both_ways(End(reason, address, ttl), hexed(body))


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("", End(EndReason.MISC)),
        ("00", End(EndReason.MISC)),
        ("fe", End(254)),
        ("06 7f000001", End(EndReason.DONE)),
        ("04", End(EndReason.EXITPOLICY)),
        ("04 7f0000", End(EndReason.EXITPOLICY)),
        ("04 7f000001", End(EndReason.EXITPOLICY, "127.0.0.1")),
    ],
)
def test_end_is_read_whatever_it_holds(body, end):
    assert End.parse(hexed(body)) == end


# SENDME


@pytest.mark.parametrize("body, version, digest", VECTORS["sendme (by hand)"])
def test_sendme_vectors(body, version, digest):
    both_ways(Sendme(version, hexed(digest)), hexed(body))


def test_sendme_uses_twenty_bytes():
    assert Sendme.parse(hexed("01 0016") + bytes(range(22)) + b"junk") == Sendme(1, bytes(range(20)))


@pytest.mark.parametrize("body", ["00", "02 0014" + "00" * 20, "01", "01 0014 00", "01 0013" + "00" * 19])
def test_malformed_sendme(body):
    with pytest.raises(ParseError):
        Sendme.parse(hexed(body))


# EXTEND2, EXTENDED2, TRUNCATED


def test_extend2_vector():
    vector = VECTORS["extend2"]
    specifiers = tuple(LinkSpecifier(kind, hexed(data)) for kind, data in vector["specifiers"])
    record = Extend2(specifiers, vector["handshake_type"], hexed(vector["handshake_data"]))
    both_ways(record, hexed(vector["body"]))
    assert Extend2.parse(hexed(vector["body"]) + b"junk") == record


def test_extend2_has_to_fit_one_message():
    with pytest.raises(LocalError):
        Extend2((LinkSpecifier(3, bytes(32)),), 2, bytes(460)).encode()
    assert len(Extend2((LinkSpecifier(3, bytes(32)),), 2, bytes(459)).encode()) == MAX_DATA


@pytest.mark.parametrize("body", ["", "00", "00 0002", "00 0002 0001", "01 03 20 00"])
def test_malformed_extend2(body):
    with pytest.raises(ParseError):
        Extend2.parse(hexed(body))


@pytest.mark.parametrize("body, data", VECTORS["extended2"])
def test_extended2_vectors(body, data):
    both_ways(Extended2(hexed(data)), hexed(body))


def test_malformed_extended2():
    with pytest.raises(ParseError):
        Extended2.parse(b"\0\5abcd")
    with pytest.raises(LocalError):
        Extended2(bytes(497)).encode()


@pytest.mark.parametrize("body, reason", VECTORS["truncated"])
def test_truncated_vectors(body, reason):
    both_ways(Truncated(reason), hexed(body))


def test_truncated_without_reason():
    assert Truncated.parse(b"") == Truncated(DestroyReason.NONE)


# RESOLVE, RESOLVED


@pytest.mark.parametrize("body, host", VECTORS["resolve (by hand)"])
def test_resolve_vectors(body, host):
    both_ways(Resolve(host), hexed(body))


@pytest.mark.parametrize("body", [b"", b"host", b"\0", b"ho st\0", b"\xff\0", b"x" * 256 + b"\0"])
def test_malformed_resolve(body):
    with pytest.raises(ParseError):
        Resolve.parse(body)


def test_resolve_ends_at_the_first_nul_and_is_lower_case():
    assert Resolve.parse(b"Host\0junk\0") == Resolve("host")


def test_resolve_asks_for_host_names_only():
    assert Resolve.to("Host.Example") == Resolve("host.example")
    for text in ("", "a b", "::1", "a:1", "x" * 256):
        with pytest.raises(LocalError):
            Resolve.to(text)


def test_reverse_names():
    """RFC 1035, section 3.5; RFC 3596, section 2.5, with its example."""
    assert Resolve.reverse("10.2.0.52") == Resolve("52.0.2.10.in-addr.arpa")
    assert Resolve.reverse("4321:0:1:2:3:4:567:89ab") == Resolve(
        "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa"
    )
    for text in ("", "a.example", "1.2.3"):
        with pytest.raises(LocalError):
            Resolve.reverse(text)


@pytest.mark.parametrize("body, answers", VECTORS["resolved (by hand)"])
def test_resolved_vectors(body, answers):
    both_ways(Resolved(tuple(Answer(kind, hexed(value), ttl) for kind, value, ttl in answers)), hexed(body))


def test_answers_tell_addresses():
    assert Answer.of("127.0.0.1", 60) == Answer(AnswerType.IPV4, hexed("7f000001"), 60)
    assert Answer.of("::1", 60).address == "::1"
    assert Answer(AnswerType.HOSTNAME, b"host", 60).address is None


def test_answers_tell_names():
    assert Answer(AnswerType.HOSTNAME, b"Host.Example", 60).name == "host.example"
    assert Answer(AnswerType.HOSTNAME, b"a" * 255, 60).name == "a" * 255
    assert Answer.of("127.0.0.1", 60).name is None
    for text in (b"", b"a b", b"a\n", b"a\0", b"\xff", b"127.0.0.1", b"::1", b"a" * 256):
        assert Answer(AnswerType.HOSTNAME, text, 60).name is None


@pytest.mark.parametrize(
    "body",
    [
        "04",
        "04 04 7f000001 000000",
        "04 05 7f00000100 00000000",
        "06 04 7f000001 00000000",
        "f0 00 00000000 04 04 7f000001 00000000",
    ],
)
def test_malformed_resolved(body):
    with pytest.raises(ParseError):
        Resolved.parse(hexed(body))


def test_resolved_has_to_fit_one_message():
    with pytest.raises(LocalError):
        Resolved((Answer.of("::1", 1),) * 23).encode()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("7.2.0.192.in-addr.arpa", "192.0.2.7"),
        ("1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8::1"),
        ("host.example", None),
        ("2.0.192.in-addr.arpa", None),
        ("1.7.2.0.192.in-addr.arpa", None),
        ("256.2.0.192.in-addr.arpa", None),
        ("in-addr.arpa", None),
        ("8.b.d.0.1.0.0.2.ip6.arpa", None),
        ("x." + "0." * 31 + "ip6.arpa", None),
        ("10." + "0." * 31 + "ip6.arpa", None),
    ],
)
def test_names_of_addresses(name, address):
    assert reverse_address(name) == address
