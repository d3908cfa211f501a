from __future__ import annotations

import json
from pathlib import Path

import pytest

from convergence.crypto.kdf import MAX_OUTPUT, hkdf_expand, hkdf_sha256, kdf_tor

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "hkdf.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["source"])
def test_published_vectors(case):
    key, salt, info, output = (bytes.fromhex(case[name]) for name in ("key", "salt", "info", "output"))
    assert hkdf_sha256(key, salt=salt, info=info, length=len(output)) == output


def test_a_shorter_output_is_a_prefix_of_a_longer_one():
    longest = hkdf_expand(bytes(32), b"info", MAX_OUTPUT)
    assert len(longest) == MAX_OUTPUT
    for length in (0, 1, 31, 32, 33, 72):
        assert hkdf_expand(bytes(32), b"info", length) == longest[:length]


@pytest.mark.parametrize("length", [-1, MAX_OUTPUT + 1])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(ValueError):
        hkdf_expand(bytes(32), b"", length)


@pytest.mark.parametrize(
    ("secret", "key_hash", "forward_digest", "backward_digest", "forward_key", "backward_key"),
    [
        (  # KEY_1 of stem's test/unit/client/kdf.py
            "ecec2eeb3752f20acbce97f486821923100f08f0a25ade4a8f328c63f6fa0e098366c5e2b394a813",
            "ca2b8105149d296fa682e942a83ff2af851b5d36",
            "acccbc91b1afd7e0e99d4623d8db7ae8e6ca832c",
            "2ae5736358bb2bca20cba4bcad0f950c4fccacf1",
            "c3bec9e1f49066da69f3f3f514b5b903",
            "55af1e1bb1717c7c86413c5ff7a02586",
        )
    ],
)
def test_kdf_tor(secret, key_hash, forward_digest, backward_digest, forward_key, backward_key):
    expected = bytes.fromhex(key_hash + forward_digest + backward_digest + forward_key + backward_key)
    for length in (0, 1, 20, 21, 92):
        assert kdf_tor(bytes.fromhex(secret), length) == expected[:length]
