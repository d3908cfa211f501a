"""A client puzzle: work that is dear to do and cheap to check, asked of newcomers while there are too many.

Does: one try at a puzzle, which is also how an answer is checked.
Does not: say how much is asked (facilitator/newcomers.py), or pace the tries (facilitator/solving.py).

As in RFC 8019 (client puzzles for IKEv2), the asker chooses a seed and a difficulty; an answer counts for one seed and
one identity. Difficulty is the effort of Tor's proposal 327, "R * E <= UINT32_MAX": so many tries, on average. A try is
one Argon2id (RFC 9106) of 1 MiB, so that hardware made for hashing gains little by it: what a try costs is reading and
writing memory. It costs whoever checks as much as whoever tries, once.
"""

from __future__ import annotations

from convergence.ports import Crypto
from convergence.wire.facilitator import Puzzle

MEMORY = 1024
"""KiB of a try: 0.5 ms with libsodium, 6 ms in a page, 20 where the processor is a quarter as fast
(docs/benchmarks.md)."""
PREFIX = b"convergence:newcomer:1"


def solves(crypto: Crypto, puzzle: Puzzle, facilitator: bytes, identity: bytes, number: int) -> bool:
    """Whether `number` (u64) solves the puzzle that this facilitator gave to the node `identity`."""
    message = PREFIX + facilitator + identity + number.to_bytes(8, "big")
    digest = crypto.argon2id(message, puzzle.seed, MEMORY)
    return int.from_bytes(digest[:4], "big") * puzzle.effort <= 0xFFFFFFFF
