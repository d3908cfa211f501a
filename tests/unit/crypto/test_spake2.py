"""SPAKE2 against published vectors, and against those who guess. Vectors: tests/vectors/spake2.json."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.crypto.edwards import BASE, COFACTOR, ORDER, Point
from convergence.crypto.spake2 import SECRET_LEN, M, N, Spake2, key_schedule, password_scalar
from convergence.errors import CryptoError
from pynode.crypto import CPythonCrypto

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "spake2.json").read_text())
SECRETS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(SECRET_LEN, "big"))


def little(text: str) -> int:
    return int.from_bytes(bytes.fromhex(text), "little")


def run(w: int, secret: bytes, *, first: bool) -> Spake2:
    return Spake2(w, secret, b"A", b"B", first=first)


@pytest.mark.parametrize("case", VECTORS["key_schedule"])
def test_the_key_schedule_is_that_of_the_specification(case):
    parts = [bytes.fromhex(case[name]) for name in ("share_a", "share_b", "k", "w")]
    keys = key_schedule(case["a"].encode(), case["b"].encode(), *parts)
    assert keys.shared.hex() == case["shared"]
    assert (keys.confirm_a.hex(), keys.confirm_b.hex()) == (case["confirm_a"], case["confirm_b"])


@pytest.mark.parametrize("case", VECTORS["group"])
def test_shares_and_results_are_those_of_kerberos(case):
    w, x, y = (little(case[name]) for name in "wxy")
    t, s = M * w + BASE * x, N * w + BASE * y
    assert (t.encode().hex(), s.encode().hex()) == (case["t"], case["s"])
    assert ((s - N * w) * x).encode().hex() == case["k"] == ((t - M * w) * y).encode().hex()


@pytest.mark.parametrize("case", VECTORS["group"])
def test_an_end_sends_and_computes_what_the_vectors_say(case):
    """x and y of the vectors are multiples of the cofactor, with which our ends multiply themselves."""
    w, x, y = (little(case[name]) % ORDER for name in "wxy")
    ends = [run(w, number.to_bytes(SECRET_LEN, "big"), first=first) for number, first in ((x, True), (y, False))]
    assert [end.share.hex() for end in ends] == [case["t"], case["s"]]
    k = (Point.decode(bytes.fromhex(case["k"])) * COFACTOR).encode()
    expected = key_schedule(b"A", b"B", ends[0].share, ends[1].share, k, w.to_bytes(32, "big"))
    assert ends[0].finish(ends[1].share) == expected == ends[1].finish(ends[0].share)


def test_the_fixed_points_are_hashes_of_their_names():
    """As section 6 says: SHA-256, again and again, until it encodes a point of the right order."""
    for point, name in ((M, "M"), (N, "N")):
        digest = sha256(f"edwards25519 point generation seed ({name})".encode()).digest()
        while True:
            try:
                found = Point.decode(digest)
            except CryptoError:
                found = None
            if found is not None and (found * ORDER).neutral:
                break
            digest = sha256(digest).digest()
        assert found.encode() == point.encode()


@settings(max_examples=5)
@given(SECRETS, SECRETS, st.integers(0, ORDER - 1), st.integers(0, ORDER - 1))
def test_both_have_one_key_if_and_only_if_their_passwords_are_equal(one, other, w, v):
    a, b = run(w, one, first=True), run(w, other, first=False)
    assert a.finish(b.share) == b.finish(a.share)
    if v != w:
        wrong, right = run(v, one, first=True).finish(b.share), b.finish(run(v, one, first=True).share)
        assert wrong.shared != right.shared and wrong.confirm_a != right.confirm_a
        assert wrong.confirm_b != right.confirm_b


def test_a_share_that_is_no_point_is_refused():
    for share in (b"", b"\xff" * 32, BASE.encode() + b"\0"):
        with pytest.raises(CryptoError):
            run(1, bytes(SECRET_LEN - 1) + b"\1", first=True).finish(share)


@pytest.mark.parametrize("first", [True, False])
def test_a_share_for_which_k_is_neutral_gives_keys_that_nobody_can_compute(first):
    secret = b"s" * SECRET_LEN
    end = run(7, secret, first=first)
    share = ((N if first else M) * 7).encode()
    keys = end.finish(share)
    shares = (end.share, share) if first else (share, end.share)
    assert keys != key_schedule(b"A", b"B", *shares, b"\1" + bytes(31), (7).to_bytes(32, "big"))
    assert keys == end.finish(share) != run(7, b"t" * SECRET_LEN, first=first).finish(share)


def test_words_give_another_scalar_for_another_purpose():
    crypto = CPythonCrypto()
    scalars = {password_scalar(crypto, password, context) for password in (b"a", b"b") for context in (b"1", b"2")}
    assert len(scalars) == 4 and all(0 < scalar < ORDER for scalar in scalars)
