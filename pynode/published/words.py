"""A root hash as words, for people to compare aloud or by eye.

Does: 24 words of BIP-39's English list: 256 bits and a checksum of 8.
Does not: make a wallet, or anything secret.
"""

from __future__ import annotations

from functools import cache

from mnemonic import Mnemonic


def root_words(root: str) -> str:
    """`root`: 64 hex digits."""
    return _english().to_mnemonic(bytes.fromhex(root))


@cache
def _english() -> Mnemonic:
    return Mnemonic("english")
