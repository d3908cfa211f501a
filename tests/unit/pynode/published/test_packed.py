"""Unpacking what anybody sent: to a limit, and to the end."""

from __future__ import annotations

import gzip

import brotli
import pytest

from pynode.published.manifest import Refused
from pynode.published.packed import unpacked, unpacker

DATA = b"all work and no play " * 5000
PACKED = {
    "": DATA,
    "identity": DATA,
    "gzip": gzip.compress(DATA),
    "x-gzip": gzip.compress(DATA),
    "br": brotli.compress(DATA),
}


@pytest.mark.parametrize("encoding", PACKED)
def test_whole_and_in_pieces(encoding: str) -> None:
    packed = PACKED[encoding]
    assert unpacked(encoding, packed, len(DATA)) == DATA
    parts: list[bytes] = []
    one = unpacker(encoding, len(DATA), parts.append)
    for at in range(len(packed)):
        one.feed(packed[at : at + 1])
    one.finish()
    assert b"".join(parts) == DATA


@pytest.mark.parametrize("encoding", PACKED)
def test_no_byte_more_than_the_limit(encoding: str) -> None:
    got: list[bytes] = []
    with pytest.raises(Refused, match="longer than it should be"):
        unpacker(encoding, len(DATA) - 1, got.append).feed(PACKED[encoding])
    assert sum(map(len, got)) < len(DATA)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_bomb_is_not_unpacked(encoding: str) -> None:
    zeros = bytes(64 << 20)
    bomb = gzip.compress(zeros) if encoding == "gzip" else brotli.compress(zeros, quality=5)
    with pytest.raises(Refused, match="longer"):
        unpacked(encoding, bomb, 1000)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_damage_and_breaks(encoding: str) -> None:
    packed = PACKED[encoding]
    with pytest.raises(Refused, match="breaks off"):
        unpacked(encoding, packed[:-5], len(DATA))
    with pytest.raises(Refused, match="damaged"):
        unpacked(encoding, b"\xff" * 50, len(DATA))
    with pytest.raises(Refused, match="damaged|followed"):
        unpacked(encoding, packed + b"more", len(DATA))


@pytest.mark.parametrize("encoding", ["deflate", "zstd", "gzip, br", "GZIP "])
def test_only_what_was_asked_for(encoding: str) -> None:
    with pytest.raises(Refused, match="not asked for"):
        unpacker(encoding, 10, print)
