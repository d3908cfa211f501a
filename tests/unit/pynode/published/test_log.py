"""The log's tree, held against the RFC's recursive definitions and against published vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.published.log import (
    MAX_LINES,
    MAX_LOG,
    MAX_PROOF,
    Head,
    Log,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_by_proof,
    tree_root,
)
from pynode.published.manifest import Refused

# The inputs and roots of Certificate Transparency's own tests (google/certificate-transparency, merkletree_test.cc).
INPUTS = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
INPUTS.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_roots_of_certificate_transparency() -> None:
    assert tree_root([]).hex() == EMPTY
    for size, root in enumerate(ROOTS, 1):
        assert tree_root(INPUTS[:size]).hex() == root


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(mth(leaves[:split]), mth(leaves[split:]))


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1, word for word."""
    if len(leaves) <= 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*path(index, leaves[:split]), mth(leaves[split:])]
    return [*path(index - split, leaves[split:]), mth(leaves[:split])]


trees = st.lists(st.binary(max_size=4), min_size=1, max_size=70)


@given(trees, st.data())
def test_roots_and_proofs_are_the_rfcs(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(leaves, index)
    assert tree_root(leaves) == mth(leaves) and proof == path(index, leaves)
    assert root_by_proof(leaves[index], index, len(leaves), proof) == mth(leaves)


@given(st.integers(1, 70), st.data())
def test_a_proof_proves_nothing_else(size: int, data: st.DataObject) -> None:
    """No other leaf, place, or changed proof leads to the same root."""
    leaves = [b"%d" % number for number in range(size)]
    root = tree_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(leaves, index)
    assert root_by_proof(b"other", index, size, proof) != root
    for other in range(size):
        if other != index:
            try:
                assert root_by_proof(leaves[index], other, size, proof) != root
            except Refused:
                pass  # its proofs have another length
    for at in range(len(proof)):
        changed = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert root_by_proof(leaves[index], index, size, changed) != root
        with pytest.raises(Refused, match="too short"):
            root_by_proof(leaves[index], index, size, proof[:at])
    with pytest.raises(Refused, match="too long"):
        root_by_proof(leaves[index], index, size, [*proof, bytes(32)])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (5, 4)])
def test_a_place_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(Refused, match="not within"):
        root_by_proof(b"", index, size, [])


def test_the_longest_proof_fits() -> None:
    assert (MAX_LINES - 1).bit_length() == MAX_PROOF


# -- the text


def root(number: int) -> str:
    return f"{number:064x}"


def log_of(*numbers: int) -> Log:
    log = Log()
    for number in numbers:
        log = log.with_release(f"0.{number}", root(number))
    return log


def test_it_grows_and_is_read_again() -> None:
    log = log_of(1, 2, 3)
    assert log.encode().decode() == "".join(f"0.{number} {root(number)}\n" for number in (1, 2, 3))
    assert Log.parse(log.encode()) == log and Log.parse(b"") == Log()
    assert log.find("0.2", root(2)) == 1 and log.find("0.9", root(9)) is None
    assert log.with_release("0.2", root(2)) is log
    assert log.head() == Head(3, tree_root(log.lines)) and log.head(2) == log_of(1, 2).head()
    with pytest.raises(Refused, match="only 3 of 4"):
        log.head(4)


def test_a_version_has_one_root_hash() -> None:
    for version, digest in (("0.2", root(9)), ("0.9", root(2))):
        with pytest.raises(Refused, match="the log of releases has version 0.2"):
            log_of(1, 2, 3).with_release(version, digest)


@pytest.mark.parametrize(
    "text",
    [
        f"0.1 {root(1)}",
        f"0.1 {root(1)}\n\n",
        f"0.1  {root(1)}\n",
        f"0.1 {root(1)} \n",
        f"0.1\t{root(1)}\n",
        f"0.1 {root(1)}\r\n",
        f"0.1 {root(10).upper()}\n",
        f"x {root(1)}\n",
        f" {root(1)}\n",
        "0.1 abc\n",
        f"0.1 {root(1)}\n0.1 {root(2)}\n",
        f"0.1 {root(1)}\n0.2 {root(1)}\n",
        f"0.١ {root(1)}\n",
        "\n" * (MAX_LINES + 1),
        "x" * (MAX_LOG + 1),
    ],
    ids=range(15),
)
def test_what_is_no_log_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="log of releases"):
        Log.parse(text.encode())
