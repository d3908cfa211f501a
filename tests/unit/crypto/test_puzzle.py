"""One try at a puzzle."""

from convergence.crypto.puzzle import solves
from convergence.wire.facilitator import Puzzle
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
SEED, FACILITATOR, IDENTITY = b"s" * 16, b"f" * 32, b"i" * 32


def numbers(effort=16, *, seed=SEED, facilitator=FACILITATOR, identity=IDENTITY, tries=200):
    """Which of the first numbers solve it."""
    puzzle = Puzzle(seed, effort, 180)
    return {number for number in range(tries) if solves(CRYPTO, puzzle, facilitator, identity, number)}


def test_effort_is_how_many_tries_it_takes():
    assert len(numbers(1, tries=20)) == 20
    assert 4 < len(numbers(16)) < 25  # 12.5, on average
    assert numbers(64) < numbers(16), "what solves a dear puzzle solves a cheap one of the same seed"


def test_an_answer_is_one_to_this_seed_facilitator_and_node():
    known = numbers()
    for other in ({"seed": b"t" * 16}, {"facilitator": b"g" * 32}, {"identity": b"j" * 32}):
        assert len(known & numbers(**other)) < len(known) / 2
