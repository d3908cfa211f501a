"""Epoch headers and buckets as bytes."""

from dataclasses import replace

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.buckets import (
    MAX_BUCKET,
    MAX_DEPTH,
    MAX_HEADER,
    MAX_IN_BUCKET,
    MAX_RINGS,
    Bucket,
    BucketRequest,
    Entry,
    EpochHeader,
    Ring,
    RingKind,
    SharedValue,
)
from convergence.wire.descriptor import MAX_DESCRIPTOR

VALUE, BEFORE = SharedValue(b"v" * 32, 7), SharedValue(b"b" * 32, 6)
RINGS = (Ring(RingKind.ALL, 3, 700, b"a" * 32), Ring(200, 0, 5, b"x" * 32))
HEADER = EpochHeader(9, 100, 200, VALUE, BEFORE, b"c" * 32, RINGS, b"f" * 32, b"s" * 64)


def test_a_header_comes_back_and_names_its_rings():
    assert EpochHeader.parse(HEADER.encode()) == HEADER
    assert HEADER.ring(RingKind.ALL) == RINGS[0] and HEADER.ring(RingKind.EXITS) is None
    assert HEADER.ring(200) == RINGS[1]  # of a later version: kept
    largest = replace(HEADER, rings=tuple(Ring(kind, MAX_DEPTH, 1, b"r" * 32) for kind in range(MAX_RINGS)))
    assert len(largest.encode()) == MAX_HEADER
    assert len(replace(HEADER, rings=largest.rings[: len(RingKind)]).encode()) == 610


@pytest.mark.parametrize(
    "wrong",
    [
        replace(HEADER, expires=100),
        replace(HEADER, rings=RINGS[::-1]),
        replace(HEADER, rings=RINGS[:1] * 2),
        replace(HEADER, rings=(Ring(1, MAX_DEPTH + 1, 1, bytes(32)),)),
        replace(HEADER, rings=(Ring(1, 1, 2 * MAX_IN_BUCKET + 1, bytes(32)),)),
        replace(HEADER, rings=tuple(Ring(kind, 0, 1, bytes(32)) for kind in range(MAX_RINGS + 1))),
    ],
)
def test_what_is_no_header_is_refused_and_not_signed(wrong):
    with pytest.raises(ParseError):
        EpochHeader.parse(wrong.encode())
    with pytest.raises(LocalError):
        wrong.sign(lambda message: bytes(64))
    with pytest.raises(ParseError):
        EpochHeader.parse(b"\2" + HEADER.encode()[1:])


def test_a_signature_is_over_everything():
    signed = HEADER.sign(lambda message: message[-64:])
    assert signed.verify(lambda key, signature, message: key == b"f" * 32 and message.endswith(HEADER.body()))


def test_a_bucket_comes_back_with_references_in_their_places():
    one, other = Entry(b"one", 5), Entry(b"other", 6)
    bucket = Bucket(9, 1, 7, (b"p" * 32,) * 3, (one, other.reference, other))
    assert Bucket.parse(bucket.encode()) == bucket
    assert one.reference != other.reference != Entry(b"other", 7).reference
    assert Bucket.parse(Bucket(1, 1, 0, (), ()).encode()).items == ()
    full = Bucket(9, 1, 7, (b"p" * 32,) * MAX_DEPTH, (Entry(b"d" * MAX_DESCRIPTOR, 1),) * MAX_IN_BUCKET)
    assert len(full.encode()) == MAX_BUCKET


def test_buckets_past_a_limit_are_neither_made_nor_read():
    one = Entry(b"one", 5)
    for wrong in (
        Bucket(9, 1, 7, (bytes(32),) * (MAX_DEPTH + 1), ()),
        Bucket(9, 1, 7, (), (one,) * (MAX_IN_BUCKET + 1)),
    ):
        with pytest.raises(LocalError):
            wrong.encode()
    empty = Bucket(9, 1, 7, (), ()).encode()
    for raw in (
        empty[:-1] + bytes([MAX_DEPTH + 1]) + bytes(32 * (MAX_DEPTH + 1)),
        empty + one.encode() * (MAX_IN_BUCKET + 1),
        empty + Entry(b"d" * (MAX_DESCRIPTOR + 1), 1).encode(),
        empty + one.encode()[:-1],
        empty + bytes(9),
    ):
        with pytest.raises(ParseError):
            Bucket.parse(raw)


def test_a_request_comes_back():
    request = BucketRequest(9, 1, 7, 8)
    assert BucketRequest.parse(request.encode()) == request
    with pytest.raises(ParseError):
        BucketRequest.parse(request.encode() + b"\0")
