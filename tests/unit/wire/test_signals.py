from dataclasses import replace

import pytest

from convergence.crypto import hpke
from convergence.effects import DescriptionKind
from convergence.errors import ParseError
from convergence.wire.facilitator import MAX_SEALED
from convergence.wire.sdp import MAX_CANDIDATES, Candidate, Candidates, CandidateType, Description, Setup
from convergence.wire.signals import MAX_INTRODUCTION, PREFIX, Introduction, sealing_info
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
SEED = bytes(32)
SENDER = CRYPTO.ed25519_public(SEED)
TO, OTHER = b"t" * 32, b"o" * 32
CANDIDATE = Candidate(CandidateType.HOST, 1, 1, "2001:db8::1", 1)
DESCRIPTION = Description(Setup.ACTIVE, b"f" * 32, "u" * 256, "p" * 256, (CANDIDATE,) * MAX_CANDIDATES)


def sign(message):
    return CRYPTO.ed25519_sign(SEED, message)


def introduction(kind, description):
    return Introduction(kind, b"s" * 16, SENDER, b"r" * 32, 1000, description).sign(sign, TO)


ANSWER = introduction(DescriptionKind.ANSWER, DESCRIPTION)
LATER = introduction(DescriptionKind.CANDIDATES, Candidates((CANDIDATE,)))


def test_layout():
    body = b"\x01\x03" + b"s" * 16 + SENDER + b"r" * 32 + (1000).to_bytes(8, "big") + b"\x01" + CANDIDATE.encode()
    assert LATER.encode() == body + sign(b"convergence:introduction:1" + TO + body)
    assert sealing_info(TO) == PREFIX + TO == b"convergence:introduction:1" + TO


@pytest.mark.parametrize("item", [ANSWER, LATER, introduction(DescriptionKind.OFFER, DESCRIPTION)])
def test_introductions_come_back_and_verify(item):
    parsed = Introduction.parse(memoryview(item.encode()))
    assert parsed == item
    assert parsed.verify(CRYPTO.ed25519_verify, TO)


def test_one_for_another_node_does_not_verify():
    assert not ANSWER.verify(CRYPTO.ed25519_verify, OTHER)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": DescriptionKind.OFFER},
        {"session": b"x" * 16},
        {"sender": OTHER},
        {"reply_key": b"x" * 32},
        {"sent": 1001},
        {"description": replace(DESCRIPTION, fingerprint=b"x" * 32)},
        {"signature": b""},
        {"signature": bytes(64)},
    ],
)
def test_a_change_is_seen(change):
    assert not replace(ANSWER, **change).verify(CRYPTO.ed25519_verify, TO)


def test_the_largest_one_fits_a_sealed_message():
    assert len(ANSWER.encode()) == MAX_INTRODUCTION
    assert MAX_INTRODUCTION + hpke.OVERHEAD <= MAX_SEALED


def test_malformed_introductions():
    data = LATER.encode()
    for bad in (
        b"",
        data[:-1],
        data + b"\0",
        b"\2" + data[1:],
        b"\1\4" + data[2:],
        b"\1\1" + data[2:],
        data[:154],
        data[:90],
    ):
        with pytest.raises(ParseError):
            Introduction.parse(bad)


def test_an_answer_says_who_begins():
    undecided = introduction(DescriptionKind.ANSWER, replace(DESCRIPTION, setup=Setup.ACTPASS))
    with pytest.raises(ParseError):
        Introduction.parse(undecided.encode())


def test_descriptions_and_signatures_are_not_shown():
    assert "2001:db8" not in repr(ANSWER) and repr(ANSWER.signature) not in repr(ANSWER)
