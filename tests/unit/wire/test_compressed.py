"""Bounded decompression: what tor sent, what is cut short, goes on, or grows."""

import gzip
import lzma
import random
import sys
import tracemalloc
import zlib

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.compressed import SLICE, decompress, offered, zstd_library
from convergence.wire.consensus import Consensus
from tests.unit.netdir.authorities import vector

TEXT = random.Random("text").randbytes(2 * SLICE).hex().encode()
MIB = 1 << 20


def compressors():
    yield "identity", lambda data: data
    yield "deflate", zlib.compress
    yield "gzip", gzip.compress
    yield "x-tor-lzma", lambda data: lzma.compress(data, lzma.FORMAT_ALONE)
    try:
        yield "x-zstd", zstd_library().compress
    except LocalError:
        pass


COMPRESSORS = dict(compressors())
REAL = [name for name in COMPRESSORS if name != "identity"]


@pytest.mark.parametrize("encoding", ["deflate", "x-tor-lzma", "x-zstd"])
def test_what_tor_sent(encoding):
    if encoding not in COMPRESSORS:
        pytest.skip(f"this platform has no {encoding}")
    Consensus.parse(decompress(encoding, vector(f"consensus.{encoding}"), MIB))


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_all_of_it_comes_out_up_to_the_limit(encoding):
    packed = COMPRESSORS[encoding](TEXT)
    assert encoding == "identity" or len(packed) > SLICE
    assert decompress(encoding, packed, len(TEXT)) == TEXT
    assert encoding in offered()
    with pytest.raises(ParseError, match="more than"):
        decompress(encoding, packed, len(TEXT) - 1)


@pytest.mark.parametrize("encoding", REAL)
def test_what_is_cut_short_is_refused(encoding):
    packed = COMPRESSORS[encoding](TEXT[:2000])
    for size in range(len(packed)):
        with pytest.raises(ParseError):
            decompress(encoding, packed[:size], MIB)


@pytest.mark.parametrize("encoding", REAL)
def test_what_is_no_such_data_is_refused(encoding):
    for data in (b"garbage" * 10, b"\0" * 100, b"\xff" * 100):
        with pytest.raises(ParseError):
            decompress(encoding, data, MIB)


@pytest.mark.parametrize("encoding", ["deflate", "x-tor-lzma"])
def test_nothing_follows_the_end(encoding):
    packed = COMPRESSORS[encoding](TEXT)
    for more in (b"x", packed):
        with pytest.raises(ParseError):
            decompress(encoding, packed + more, MIB)


@pytest.mark.parametrize("encoding", [name for name in REAL if name in ("gzip", "x-zstd")])
def test_all_members_count_against_one_limit(encoding):
    packed = COMPRESSORS[encoding](TEXT)
    assert decompress(encoding, packed * 5, 5 * len(TEXT)) == TEXT * 5
    with pytest.raises(ParseError, match="more than"):
        decompress(encoding, packed * 5, 5 * len(TEXT) - 1)
    with pytest.raises(ParseError, match="cut short"):
        decompress(encoding, packed * 2 + packed[:-1], MIB)


@pytest.mark.parametrize("encoding", REAL)
def test_a_bomb_costs_no_more_than_the_limit(encoding):
    bomb = COMPRESSORS[encoding](bytes(256 * MIB if encoding != "x-tor-lzma" else 64 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(ParseError, match="more than"):
            decompress(encoding, bomb, MIB)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


def test_what_a_platform_lacks_is_a_local_error(monkeypatch):
    for name in ("lzma", "compression", "backports", "compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert offered() == ("gzip", "deflate", "identity")
    for encoding in ("x-zstd", "x-tor-lzma", "br"):
        with pytest.raises(LocalError):
            decompress(encoding, b"", 1)
