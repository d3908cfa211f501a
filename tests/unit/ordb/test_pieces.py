import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import LocalError
from convergence.ordb.index import piece_key
from convergence.ordb.pieces import PieceSet


@given(
    st.integers(0, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1) if n else st.nothing())))
)
def test_a_piece_set_is_a_set(case: tuple[int, set[int]]) -> None:
    count, members = case
    pieces = PieceSet(count)
    for index in members:
        pieces.add(index)
    assert len(pieces) == len(members)
    assert [index for index in range(count) if index in pieces] == sorted(members) == pieces.indexes()
    assert pieces.missing().indexes() == sorted(set(range(count)) - members)
    assert pieces.first() == min(members, default=None)
    assert pieces.complete == (len(members) == count)
    again = PieceSet(count)
    for first, length in pieces.ranges():
        again.add_range(first, length)
    assert again.bits == pieces.bits
    for index in members:
        pieces.discard(index)
    assert pieces.bits == 0


def test_ranges_are_maximal_runs() -> None:
    pieces = PieceSet(10)
    for index in (0, 1, 2, 5, 9):
        pieces.add(index)
    assert pieces.ranges() == [(0, 3), (5, 1), (9, 1)]


def test_scan_results_make_a_set_and_strange_keys_do_not_matter() -> None:
    root = b"r" * 32
    keys = [piece_key(root, 0), piece_key(root, 3), piece_key(root, 4), root, root + b"12345", b""]
    assert PieceSet.of_keys(4, keys).indexes() == [0, 3]


@pytest.mark.parametrize(("first", "count"), [(0, 5), (4, 1), (-1, 2), (2, -1)])
def test_ranges_past_the_end_are_refused(first: int, count: int) -> None:
    with pytest.raises(LocalError):
        PieceSet(4).add_range(first, count)
