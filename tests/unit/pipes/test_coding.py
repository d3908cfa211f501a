"""Stages that compress: what other programs made and read, input cut anywhere, bombs, and what is no such data."""

import gzip
import io
import random
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import EndReason, LocalError
from convergence.pipes import coding
from convergence.pipes.stage import CHUNK, HIGH, Flaw
from convergence.wire.compressed import ZSTD_WINDOW, zstd_library
from tests.unit.pipes.memory import NOW, Keeper

TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(2000))
MIB = 1 << 20


def libraries():
    """Name -> (compress, decompress) of the library, for each coding that this platform has."""
    yield "deflate", (zlib.compress, zlib.decompress)
    yield "gzip", (gzip.compress, gzip.decompress)
    try:
        import brotli

        yield "brotli", (brotli.compress, brotli.decompress)
    except ImportError:
        pass
    try:
        zstd = zstd_library()
        yield "zstd", (zstd.compress, zstd.decompress)
    except LocalError:
        pass


LIBRARIES = dict(libraries())
SEVERAL = [name for name in LIBRARIES if name in ("gzip", "zstd")]


@pytest.fixture(params=LIBRARIES)
def name(request):
    return request.param


def make(name):
    one = getattr(coding, name)()
    return one, Keeper(one.near), Keeper(one.far)


def packed(name, *pieces, end=True):
    """What goes out for them."""
    _, near, far = make(name)
    far.reads = True
    for piece in pieces:
        near.end.write(piece, NOW)
    if end:
        near.end.end(NOW)
    return b"".join(far.heard)


def unpacked(name, data, cuts=(), end=True):
    """The stage, and what came out of it, for input cut at these places."""
    one, near, far = make(name)
    near.reads = True
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in zip(borders, borders[1:], strict=False):
        far.end.write(data[start:stop], NOW)
    if end:
        far.end.end(NOW)
    return one, near


def flaw(name, data, cuts=()):
    one, near = unpacked(name, data, cuts)
    if one.failure is None:
        assert near.calls == ["ended"]
        return None
    assert near.calls == [EndReason.TORPROTOCOL] and one.closed
    return one.failure.flaw


CUTS = st.lists(st.integers(0, 1 << 16), max_size=6)


@pytest.mark.parametrize("said", [b"", b"x", TEXT, random.Random(2).randbytes(3 * CHUNK)], ids=len)
def test_the_library_reads_what_goes_out_and_the_reverse(name, said):
    compress, decompress = LIBRARIES[name]
    data = packed(name, said)
    assert decompress(data) == said
    one, near = unpacked(name, compress(said))
    assert b"".join(near.heard) == said and near.calls == ["ended"] and one.failure is None


@given(st.sampled_from(list(LIBRARIES)), st.lists(st.binary(max_size=50), max_size=8), CUTS)
def test_input_may_be_cut_anywhere(name, pieces, cuts):
    _, near = unpacked(name, packed(name, *pieces), cuts)
    assert b"".join(near.heard) == b"".join(pieces) and near.calls == ["ended"]


def test_each_write_can_be_read_at_once(name):
    """Interactive traffic passes: nothing waits in the compressor, and nothing in the decompressor."""
    _, near, far = make(name)
    other, user, _ = make(name)
    near.reads = user.reads = far.reads = True
    for piece in (b"a", b"login: ", TEXT, b"\n"):
        far.heard.clear()
        user.heard.clear()
        near.end.write(piece, NOW)
        other.far.write(b"".join(far.heard), NOW)
        assert b"".join(user.heard) == piece


@pytest.mark.parametrize("name", SEVERAL)
@given(pieces=st.lists(st.binary(max_size=50), min_size=1, max_size=8), cuts=CUTS)
def test_several_members_are_one_stream(name, pieces, cuts):
    compress, _ = LIBRARIES[name]
    _, near = unpacked(name, b"".join(map(compress, pieces)), cuts)
    assert b"".join(near.heard) == b"".join(pieces) and near.calls == ["ended"]


def test_gzip_with_a_name_in_its_head():
    file = io.BytesIO()
    with gzip.GzipFile("name.txt", "wb", 9, file, mtime=1) as writer:
        writer.write(TEXT)
    _, near = unpacked("gzip", file.getvalue())
    assert b"".join(near.heard) == TEXT


@pytest.mark.parametrize("cuts", [(), range(1000)])
def test_what_ends_too_early_is_refused(name, cuts):
    data = packed(name, b"some words", b"and some more")
    assert flaw(name, data, cuts) is None
    for size in range(len(data)):
        assert flaw(name, data[:size], cuts) is Flaw.TRUNCATED


def test_what_came_before_the_fault_is_handed_up(name):
    data = packed(name, TEXT)
    _, near = unpacked(name, data[:-1])
    assert b"".join(near.heard) in (TEXT, TEXT[: len(b"".join(near.heard))]) and near.heard


@pytest.mark.parametrize("tail", [b"\0", b"garbage, not a member", bytes(512)])
@pytest.mark.parametrize("cut", [True, False])
def test_what_comes_behind_the_end_is_refused(name, tail, cut):
    data = packed(name, TEXT)
    assert flaw(name, data + tail, [len(data)] if cut else []) in (Flaw.TRAILING, Flaw.GARBAGE, Flaw.TRUNCATED)


@pytest.mark.parametrize("tail", [b"garbage, not a member", b"\x1f\x8b\x08garbage, a bit like a member"])
def test_trailing_garbage_is_refused_even_if_it_looks_like_a_member(tail):
    assert flaw("gzip", gzip.compress(TEXT) + tail) in (Flaw.GARBAGE, Flaw.TRUNCATED)


def test_a_wrong_checksum_is_refused():
    for name, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        data = bytearray(compress(TEXT))
        data[-5 if name == "gzip" else -1] ^= 1
        assert flaw(name, bytes(data)) is Flaw.GARBAGE


def test_noise_is_refused(name):
    rng = random.Random(name)
    for _ in range(50):
        assert flaw(name, b"\xff" + rng.randbytes(100)) in (Flaw.GARBAGE, Flaw.TRUNCATED)


# -- bombs


def bomb(name, size):
    """Zeros of this size (a multiple of MiB), packed."""
    _, near, far = make(name)
    far.reads = True
    for _ in range(size // MIB):
        near.end.write(bytes(MIB), NOW)
    near.end.end(NOW)
    return b"".join(far.heard)


def test_a_bomb_unpacks_as_it_is_read(name):
    data = bomb(name, 32 * MIB)
    assert len(data) < MIB // 4
    one, near, far = make(name)
    far.end.write(data, NOW)
    far.end.end(NOW)
    total = 0
    while near.heard:
        assert near.size <= HIGH and one.incoming._unused <= HIGH
        assert max(map(len, near.heard)) <= CHUNK
        assert one.incoming._account >= len(data) * (total + near.size < 32 * MIB)
        piece = near.heard.pop(0)
        assert not piece.strip(b"\0")
        total += len(piece)
        near.end.consumed(len(piece), NOW)
    assert total == 32 * MIB and near.calls == ["ended"] and far.calls == []


def test_a_gibibyte_in_a_small_gzip_takes_little_memory():
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = head + again * 1023
    assert len(data) < 2 * MIB
    one, near, far = make("gzip")
    tracemalloc.start()
    try:
        far.end.write(data, NOW)
        assert HIGH - CHUNK < near.size <= HIGH and far.end.congested
        for _ in range(1000):
            near.end.consumed(len(near.heard.pop(0)), NOW)
            assert near.size <= HIGH
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * HIGH + 4 * CHUNK
    near.end.abort(EndReason.MISC, NOW)
    assert one.closed and not one.incoming._input


def test_many_empty_members_take_no_more_time_than_their_bytes():
    """They give no output that could pause them, and each leaves the rest over."""
    one, near = unpacked("gzip", gzip.compress(b"") * 5000)
    assert near.heard == [] and near.calls == ["ended"]


# -- what a platform lacks


@pytest.mark.parametrize(("coding_name", "modules"), [("brotli", ["brotli"]), ("zstd", ["compression", "backports"])])
def test_a_coding_that_the_platform_lacks_says_so(monkeypatch, coding_name, modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LocalError, match=f"no {coding_name}"):
        getattr(coding, coding_name)()


@pytest.mark.skipif("zstd" not in LIBRARIES, reason="this platform has no zstd")
def test_zstd_refuses_a_window_that_is_too_large():
    zstd = zstd_library()
    options = {zstd.CompressionParameter.window_log: ZSTD_WINDOW + 1}
    packer = zstd.ZstdCompressor(options=options)
    assert flaw("zstd", packer.compress(TEXT) + packer.flush()) is Flaw.GARBAGE
    for level in (0, coding.MAX_ZSTD_LEVEL + 1):
        with pytest.raises(LocalError):
            coding.zstd(level)


@pytest.mark.skipif("zstd" not in LIBRARIES, reason="this platform has no zstd")
def test_zstd_of_the_highest_level_is_read():
    one = coding.zstd(coding.MAX_ZSTD_LEVEL)
    far = Keeper(one.far)
    one.near.write(TEXT, NOW)
    one.near.end(NOW)
    assert flaw("zstd", b"".join(far.heard)) is None
