"""Words of a root hash: BIP-39's own vectors (trezor/python-mnemonic, vectors.json)."""

from __future__ import annotations

import pytest

from pynode.published.words import root_words


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("00" * 32, "abandon " * 23 + "art"),
        ("ff" * 32, "zoo " * 23 + "vote"),
        (
            "80" * 32,
            "letter advice cage absurd amount doctor acoustic avoid " * 2
            + "letter advice cage absurd amount doctor acoustic bless",
        ),
        (
            "f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f",
            "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol"
            " group space point ten exist slush involve unfold",
        ),
    ],
)
def test_vectors(root: str, words: str) -> None:
    assert root_words(root) == words
