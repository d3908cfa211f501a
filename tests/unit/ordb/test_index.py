import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto.merkle import EMPTY_ROOT
from convergence.errors import LocalError, ParseError
from convergence.ordb.index import FileBuilder, SharedFile, piece_key, piece_length
from convergence.wire.ordb import PIECE_SIZE, FileInfo


@pytest.mark.parametrize(
    ("size", "count", "last"),
    [(1, 1, 1), (PIECE_SIZE, 1, PIECE_SIZE), (PIECE_SIZE + 1, 2, 1), (2 * PIECE_SIZE, 2, PIECE_SIZE)],
)
def test_piece_counts_and_lengths(size: int, count: int, last: int) -> None:
    assert FileInfo(bytes(32), size, "").pieces == count
    assert piece_length(size, count - 1) == last
    assert sum(piece_length(size, index) for index in range(count)) == size


def test_an_empty_file_has_no_pieces() -> None:
    info, leaves = FileBuilder().finish("empty")
    assert (info.root, info.size, info.pieces, leaves) == (EMPTY_ROOT, 0, 0, b"")


def test_piece_keys_sort_by_index() -> None:
    keys = [piece_key(b"r" * 32, index) for index in (0, 1, 255, 256, 70000)]
    assert keys == sorted(keys)
    assert len(keys[0]) == 36


def test_builder_refuses_short_pieces_before_the_last_one() -> None:
    builder = FileBuilder()
    builder.add(b"x")
    with pytest.raises(LocalError):
        builder.add(b"y")
    for wrong in (b"", bytes(PIECE_SIZE + 1)):
        with pytest.raises(LocalError):
            FileBuilder().add(wrong)


def record(size: int = 3 * PIECE_SIZE, leaves: bytes = b"", secret: bytes | None = None) -> SharedFile:
    return SharedFile.share(FileInfo(b"r" * 32, size, "näme", "text/plain"), leaves, b"h" * 32, b"s" * 32, secret)


def test_record_survives_storage() -> None:
    owned = record(leaves=b"l" * 96, secret=b"o" * 32)
    for file in (record(), record(leaves=b"l" * 96), record(size=0), owned):
        assert SharedFile.parse(file.encode()) == file
    assert SharedFile.parse(owned.encode()).secret == b"o" * 32 and record().secret is None
    assert record().encode()[0] == 1, "as before files had owners"
    assert not record().complete
    assert record(leaves=b"l" * 96).complete
    assert record(size=0).complete


def test_record_shows_no_secret() -> None:
    shown = repr(record(secret=b"o" * 32))
    assert not any(secret in shown for secret in ("näme", "hhh", "ooo"))


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_raise_parse_error(data: bytes) -> None:
    for candidate in (data, b"\1" + data, record().encode() + data[1:]):
        try:
            SharedFile.parse(candidate)
        except ParseError:
            pass


def test_damaged_records_are_refused() -> None:
    good = record(leaves=b"l" * 96).encode()
    owned = record(leaves=b"l" * 96, secret=b"o" * 32).encode()
    for bad in (b"", good[:-1], good + b"x", b"\2" + good[1:], b"\3" + good[1:], good[:120], good[:-100], owned[:120]):
        with pytest.raises(ParseError):
            SharedFile.parse(bad)
