"""Samples: tests/vectors/sdp.json, which says where they come from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convergence.effects import DescriptionKind
from convergence.errors import ParseError
from convergence.wire.sdp import (
    MAX_CANDIDATES,
    MAX_DESCRIPTION,
    MAX_SDP,
    Candidate,
    Candidates,
    CandidateType,
    Description,
    Setup,
)

SAMPLES = json.loads((Path(__file__).parents[2] / "vectors" / "sdp.json").read_text())
OFFER, ANSWER = DescriptionKind.OFFER, DescriptionKind.ANSWER
NAME = "0f57d7ea-27c0-45b7-aa0d-7aed4f82f6c6.local"
CANDIDATES = (
    Candidate(CandidateType.HOST, 1, 2113937151, "192.0.2.1", 50000),
    Candidate(CandidateType.HOST, 2, 2113937150, "2001:db8::1", 50001),
    Candidate(CandidateType.HOST, 3, 2113937149, NAME, 50002),
    Candidate(CandidateType.SRFLX, 4, 1677729535, "203.0.113.7", 50000),
    Candidate(CandidateType.SRFLX, 5, 1677729534, "2001:db8::2", 65535),
)
DESCRIPTION = Description(Setup.ACTIVE, bytes(range(32)), "ufra", "p" * 20 + "+/", CANDIDATES)
SDP = DESCRIPTION.to_sdp(ANSWER)


# What is really written


def idents(samples):
    return [" ".join(str(value) for value in list(sample.values())[:-1]) for sample in samples]


@pytest.mark.parametrize("sample", SAMPLES["descriptions"], ids=idents(SAMPLES["descriptions"]))
def test_sdp_of_every_program_is_read(sample):
    lines = sample["sdp"].split("\r\n")
    description = Description.from_sdp(sample["sdp"])
    assert description.setup == (Setup.ACTPASS if sample["kind"] == "offer" else Setup.ACTIVE)
    assert f"a=ice-ufrag:{description.ufrag}" in lines
    assert f"a=ice-pwd:{description.password}" in lines
    assert f"a=fingerprint:sha-256 {description.fingerprint.hex(':').upper()}" in lines
    told = [line.split() for line in lines if line.startswith("a=candidate:") and "tcp" not in line]
    assert [(item.address, str(item.port), str(item.priority)) for item in description.candidates] == [
        (words[4], words[5], words[3]) for words in told
    ]
    assert {item.type for item in description.candidates} == set(CandidateType)
    assert any(item.address.endswith(".local") for item in description.candidates) == (sample["addresses"] == "mDNS")


@pytest.mark.parametrize("sample", SAMPLES["descriptions"], ids=idents(SAMPLES["descriptions"]))
def test_what_was_read_survives_the_wire_and_the_template(sample):
    description = Description.from_sdp(sample["sdp"])
    assert Description.parse(description.encode()) == description
    assert len(description.encode()) < 200
    kind = OFFER if sample["kind"] == "offer" else ANSWER
    assert Description.from_sdp(description.to_sdp(kind)) == description


@pytest.mark.parametrize("sample", SAMPLES["late"], ids=idents(SAMPLES["late"]))
def test_late_candidates_of_every_program_are_read(sample):
    found = Candidates.from_lines("\r\n".join(sample["lines"]))
    assert [item.address for item in found.items] == [line.split()[4] for line in sample["lines"] if "tcp" not in line]
    assert Candidates.from_lines("".join(f"a={line}\r\n" for line in sample["lines"])) == found
    assert Candidates.from_lines(found.to_lines()) == Candidates.parse(found.encode()) == found


# What we write


def test_the_template():
    assert SDP == (
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n"
        "a=ice-ufrag:ufra\r\na=ice-pwd:pppppppppppppppppppp+/\r\na=ice-options:trickle\r\n"
        "a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:"
        "10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n"
        "a=setup:active\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n"
        "a=candidate:1 1 udp 2113937151 192.0.2.1 50000 typ host\r\n"
        "a=candidate:2 1 udp 2113937150 2001:db8::1 50001 typ host\r\n"
        f"a=candidate:3 1 udp 2113937149 {NAME} 50002 typ host\r\n"
        "a=candidate:4 1 udp 1677729535 203.0.113.7 50000 typ srflx raddr 0.0.0.0 rport 0\r\n"
        "a=candidate:5 1 udp 1677729534 2001:db8::2 65535 typ srflx raddr :: rport 0\r\n"
    )
    assert Description.from_sdp(SDP) == DESCRIPTION


def test_an_offer_leaves_the_roles_open():
    assert "a=setup:actpass\r\n" in DESCRIPTION.to_sdp(OFFER)


def test_layout():
    data = replace(DESCRIPTION, candidates=CANDIDATES[2:4]).encode()
    head = b"\x01" + bytes(range(32)) + b"\x00\x04ufra\x00\x16" + b"p" * 20 + b"+/\x02"
    host = bytes.fromhex("00 02 00000003 7e001efd c352 0f57d7ea27c045b7aa0d7aed4f82f6c6")
    assert data == head + host + bytes.fromhex("01 00 00000004 64001eff c350 cb007107")


def test_addresses_are_not_shown():
    shown = repr((DESCRIPTION, Candidates(CANDIDATES)))
    assert not any(text in shown for text in ("192.0.2.1", "2001:db8", NAME, "50001", DESCRIPTION.password))


def test_the_largest_description_fits_a_sealed_message():
    largest = Description(Setup.PASSIVE, bytes(32), "u" * 256, "p" * 256, CANDIDATES[1:2] * MAX_CANDIDATES)
    assert len(largest.encode()) == MAX_DESCRIPTION < 1400
    assert Description.parse(largest.encode()) == largest


# Candidates


@pytest.mark.parametrize(
    "line",
    [
        "candidate:1 1 tcp 2105458943 192.0.2.1 9 typ host tcptype active",
        "candidate:1 1 udp 41885439 192.0.2.1 50000 typ relay raddr 0.0.0.0 rport 0",
        "candidate:1 1 udp 41885439 192.0.2.1 50000 typ prflx raddr 0.0.0.0 rport 0",
        "candidate:1 2 udp 41885439 192.0.2.1 50000 typ host",
        "candidate:1 1 udp 0 192.0.2.1 50000 typ host",
        "candidate:1 1 udp 2147483648 192.0.2.1 50000 typ host",
        "candidate:1 1 udp 99999999999 192.0.2.1 50000 typ host",
        f"candidate:1 1 udp {'9' * 5000} 192.0.2.1 50000 typ host",
        "candidate:1 1 udp 1 192.0.2.1 0 typ host",
        "candidate:1 1 udp 1 192.0.2.1 65536 typ host",
        "candidate:1 1 udp -1 192.0.2.1 1 typ host",
        "candidate:1 1 udp 1 192.0.2.256 1 typ host",
        "candidate:1 1 udp 1 127.0.0.1 1 typ host",
        "candidate:1 1 udp 1 0.0.0.0 1 typ host",
        "candidate:1 1 udp 1 224.0.0.251 1 typ host",
        "candidate:1 1 udp 1 255.255.255.255 1 typ host",
        "candidate:1 1 udp 1 ::1 1 typ host",
        "candidate:1 1 udp 1 :: 1 typ host",
        "candidate:1 1 udp 1 ff02::fb 1 typ host",
        "candidate:1 1 udp 1 ::ffff:127.0.0.1 1 typ host",
        "candidate:1 1 udp 1 fe80::1%eth0 1 typ host",
        "candidate:1 1 udp 1 host.example 1 typ host",
        "candidate:1 1 udp 1 router.local 1 typ host",
        f"candidate:1 1 udp 1 x.{NAME} 1 typ host",
        f"candidate:1 1 udp 1 {NAME}.example 1 typ host",
        f"candidate:{'f' * 33} 1 udp 1 192.0.2.1 1 typ host",
        "candidate:f_o 1 udp 1 192.0.2.1 1 typ host",
        "candidate: 1 udp 1 192.0.2.1 1 typ host",
        "candidate:1 1 udp 1 192.0.2.1 1 typ hostess",
        "candidate:1 1 udp 1 192.0.2.1 \u0661 typ host",
        "candidate:",
        "",
        "end-of-candidates",
        "remote-candidate:1 1 udp 1 192.0.2.1 1 typ host",
    ],
)
def test_candidates_that_cannot_serve_are_left_out(line):
    assert Candidate.from_line(line) is None


def test_candidates_in_other_spellings():
    line = f"candidate:aB+/ 1 UDP 5 {NAME.upper()} 050 typ HOST generation 0 network-cost 999"
    found = Candidate.from_line(line)
    assert (found.address, found.port, found.priority) == (NAME, 50, 5)
    assert Candidate.from_line("candidate:1 1 udp 1 2001:DB8:0::1 1 typ host").address == "2001:db8::1"


def test_foundations_stay_equal_and_different():
    numbers = [
        Candidate.from_line(f"candidate:{text} 1 udp 1 192.0.2.1 1 typ host").foundation
        for text in ("0", "4294967295", "4294967296", "007", "7", "28d09117ed7be62fd2553196dd6100b6", "0")
    ]
    assert numbers[:2] == [0, 2**32 - 1] and numbers[4] == 7 and numbers[6] == 0
    assert len(set(numbers)) == 6


def test_reflexive_candidates_survive_a_crowd():
    hosts = [f"a=candidate:1 1 udp 1 10.0.0.{number} 1 typ host\r\n" for number in range(1, 30)]
    reflexive = "a=candidate:2 1 udp 1 203.0.113.7 1 typ srflx raddr 10.0.0.1 rport 1\r\n"
    found = Description.from_sdp(replace(DESCRIPTION, candidates=()).to_sdp(ANSWER) + "".join([*hosts, reflexive]))
    assert [item.address for item in found.candidates] == ["203.0.113.7", *(f"10.0.0.{n}" for n in range(1, 16))]


def test_ten_thousand_candidates():
    line = "a=candidate:1 1 udp 1 192.0.2.1 1 typ host\r\n"
    with pytest.raises(ParseError):
        Description.from_sdp(SDP + line * 10_000)
    with pytest.raises(ParseError):
        Candidates.from_lines(line * 10_000)
    assert len(Candidates.from_lines(line * (MAX_SDP // len(line))).items) == MAX_CANDIDATES


@pytest.mark.parametrize("text", ["", "\r\n", "a=end-of-candidates\r\n", "candidate:\r\n"])
def test_no_candidates(text):
    assert Candidates.from_lines(text) == Candidates(())
    assert Candidates(()).to_lines() == ""
    assert Candidates.parse(b"\0") == Candidates(())


# Hostile SDP


def with_line(line):
    return SDP + line + "\r\n"


FINGERPRINT = DESCRIPTION.fingerprint.hex(":").upper()


@pytest.mark.parametrize(
    "line",
    [
        "a=ice-ufrag:ufra",
        f"a=fingerprint:sha-256 {FINGERPRINT.lower()}",
        f"a=fingerprint:SHA-256 {FINGERPRINT}",
        f"a=fingerprint:sha-512 {FINGERPRINT}:{FINGERPRINT}",
        "a=fingerprint:sha-256",
        "a=unknown:value",
        "x=what",
        "",
    ],
)
def test_repetitions_and_unknown_lines_change_nothing(line):
    assert Description.from_sdp(with_line(line)) == DESCRIPTION


@pytest.mark.parametrize(
    "sdp",
    [
        "",
        "v=0\r\n",
        with_line("m=audio 9 UDP/TLS/RTP/SAVPF 111"),
        with_line("m=application 9 UDP/DTLS/SCTP webrtc-datachannel"),
        SDP.replace("UDP/DTLS/SCTP", "TCP/DTLS/SCTP"),
        SDP.replace("m=application 9", "m=application 999999"),
        with_line("a=ice-ufrag:other"),
        with_line("a=ice-pwd:" + "q" * 22),
        with_line("a=setup:passive"),
        with_line("a=fingerprint:sha-256 " + FINGERPRINT.replace("1F", "1E")),
        SDP.replace("ufra", "ufr"),
        SDP.replace("ufra", "u" * 257),
        SDP.replace("ufra", "uf ra"),
        SDP.replace("ufra", "uf-ra"),
        SDP.replace("+/", ""),
        SDP.replace("+/", "+" * 300),
        SDP.replace("setup:active", "setup:holdconn"),
        SDP.replace("setup:active", "setup:ACTIVE\u0131"),
        SDP.replace("sha-256", "sha-1"),
        SDP.replace(":1F", ""),
        SDP.replace(":1F", ":1G"),
        SDP.replace("a=ice-ufrag:ufra\r\n", ""),
        SDP.replace("a=ice-pwd", "a=ice-password"),
        SDP.replace("a=setup:active\r\n", ""),
        with_line("a=x:\0"),
        with_line("a=x:\x7f"),
        with_line("a=x:\x85"),
        with_line("a=x:\u2028a=ice-ufrag:evil"),
        with_line("a=x:\ta"),
        with_line("a=x:\ra=y"),
        SDP + "\ud800",
        SDP + " " * MAX_SDP,
    ],
)
def test_hostile_sdp_is_refused(sdp):
    with pytest.raises(ParseError):
        Description.from_sdp(sdp)


@pytest.mark.parametrize("text", ["candidate:\0", "a=candidate:1 1 udp 1 192.0.2.1 1 typ host\rx", "\u20ac"])
def test_hostile_lines_are_refused(text):
    with pytest.raises(ParseError):
        Candidates.from_lines(text)


# Hostile records: what is not refused here would be written into SDP.

DATA = DESCRIPTION.encode()


@pytest.mark.parametrize(
    "description",
    [
        replace(DESCRIPTION, ufrag="abc\r\na=setup:passive"),
        replace(DESCRIPTION, ufrag="abcd\n"),
        replace(DESCRIPTION, ufrag="abc"),
        replace(DESCRIPTION, ufrag="u" * 257),
        replace(DESCRIPTION, password="p" * 21),
        replace(DESCRIPTION, password="p" * 22 + "\r\n"),
        replace(DESCRIPTION, password="p" * 257),
        replace(DESCRIPTION, password="\u00e9" * 22),
        replace(DESCRIPTION, candidates=CANDIDATES[:1] * (MAX_CANDIDATES + 1)),
        replace(DESCRIPTION, candidates=(replace(CANDIDATES[0], priority=0),)),
        replace(DESCRIPTION, candidates=(replace(CANDIDATES[0], priority=2**31),)),
        replace(DESCRIPTION, candidates=(replace(CANDIDATES[0], port=0),)),
        replace(DESCRIPTION, candidates=(replace(CANDIDATES[0], address="127.0.0.1"),)),
        replace(DESCRIPTION, candidates=(replace(CANDIDATES[1], address="::ffff:10.0.0.1"),)),
        replace(DESCRIPTION, setup=3),
    ],
)
def test_hostile_records_are_refused(description):
    with pytest.raises(ParseError):
        Description.parse(description.encode())


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA + b"\0", DATA[:1] + DATA[2:]])
def test_records_of_a_wrong_length_are_refused(data):
    with pytest.raises(ParseError):
        Description.parse(data)


@pytest.mark.parametrize(
    "data", [b"", b"\1", b"\x11", b"\0\0", b"\1\2" + bytes(26), b"\1\0\3" + b"\1" * 26, b"\1\0\0" + b"\1" * 15]
)
def test_hostile_candidates_are_refused(data):
    with pytest.raises(ParseError):
        Candidates.parse(data)
