from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import LocalError, ParseError
from convergence.ordb.index import (
    EMPTY_ROOT,
    FileBuilder,
    MerkleTree,
    SharedFile,
    leaf_hash,
    piece_key,
    piece_length,
)
from convergence.ordb.pieces import verify, verify_leaf
from convergence.wire.ordb import PIECE_SIZE, FileInfo


def rfc6962_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, as the RFC says it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + rfc6962_root(leaves[:k]) + rfc6962_root(leaves[k:])).digest()


def rfc6962_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*rfc6962_path(index, leaves[:k]), rfc6962_root(leaves[k:])]
    return [*rfc6962_path(index - k, leaves[k:]), rfc6962_root(leaves[:k])]


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % i) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 100])
def test_tree_is_that_of_rfc_6962(count: int) -> None:
    leaves = some_leaves(count)
    tree = MerkleTree.of(b"".join(leaves))
    assert tree.root == rfc6962_root(leaves)
    assert tree.leaves == b"".join(leaves)
    for index in range(count):
        assert tree.proof(index) == rfc6962_path(index, leaves)
        assert verify(tree.root, count, index, b"%d" % index, tree.proof(index) or [])


def test_rfc_6962_test_vectors() -> None:
    # certificate-transparency's reference inputs and the roots of their first 1, 2, 3 and 8 (merkle_tree_test.cc)
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    leaves = [leaf_hash(bytes.fromhex(text)) for text in inputs]
    for count, root in roots.items():
        assert MerkleTree.of(b"".join(leaves[:count])).root.hex() == root


@given(st.integers(1, 70), st.data())
def test_a_changed_proof_leaf_or_place_does_not_verify(count: int, data: st.DataObject) -> None:
    leaves = some_leaves(count)
    tree = MerkleTree.of(b"".join(leaves))
    index = data.draw(st.integers(0, count - 1))
    proof = tree.proof(index)
    assert proof is not None
    assert verify_leaf(tree.root, count, index, leaves[index], proof)
    assert not verify_leaf(tree.root, count, index, leaf_hash(b"other"), proof)
    assert not verify_leaf(tree.root, count, index, leaves[index], [*proof, bytes(32)])
    other = data.draw(st.integers(-2, count + 2).filter(lambda i: i != index))
    assert not verify_leaf(tree.root, count, other, leaves[index], proof)
    if proof:
        assert not verify_leaf(tree.root, count, index, leaves[index], proof[:-1])
        at = data.draw(st.integers(0, len(proof) - 1))
        proof[at] = bytes(32)
        assert not verify_leaf(tree.root, count, index, leaves[index], proof)


@given(st.integers(1, 70), st.data())
def test_a_tree_with_gaps_proves_what_it_learned(count: int, data: st.DataObject) -> None:
    whole = MerkleTree.of(b"".join(some_leaves(count)))
    learned = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    partial = MerkleTree(count)
    for index in learned:
        partial.learn(index, whole.leaf(index) or b"", whole.proof(index) or [])
    assert partial.root == whole.root
    for index in learned:
        assert partial.proof(index) == whole.proof(index)
    if len(learned) == count:
        assert partial.leaves == whole.leaves


def test_a_tree_with_gaps_says_what_it_does_not_know() -> None:
    partial = MerkleTree(8)
    assert partial.leaf(0) is None
    assert partial.proof(0) is None


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
