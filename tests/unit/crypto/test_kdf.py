from __future__ import annotations

import json
from pathlib import Path

import pytest

from convergence.crypto.kdf import MAX_OUTPUT, hkdf_expand, hkdf_sha256

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
