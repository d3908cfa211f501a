from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto.merkle import MerkleTree, leaf_hash, verify_leaf


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
        assert verify_leaf(tree.root, count, index, leaves[index], tree.proof(index) or [])


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


@given(st.integers(1, 70), st.data())
def test_a_changed_leaf_makes_the_tree_of_the_changed_leaves(count: int, data: st.DataObject) -> None:
    leaves = some_leaves(count)
    tree = MerkleTree.of(b"".join(leaves))
    index = data.draw(st.integers(0, count - 1))
    tree.learn(index, leaf_hash(b"other"), tree.proof(index) or [])
    leaves[index] = leaf_hash(b"other")
    assert tree.root == rfc6962_root(leaves)
    assert [tree.proof(other) for other in range(count)] == [rfc6962_path(other, leaves) for other in range(count)]
