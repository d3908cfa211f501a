"""Draws without bias.

Does: turn random bytes, which are an argument, into numbers, choices and samples.
Does not: know what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from convergence.errors import LocalError
from convergence.ports import Rng

T = TypeVar("T")


def random_below(rng: Rng, bound: int) -> int:
    """Uniform in 0..bound-1. Draws again rather than fold the range, which would favour low numbers."""
    if bound < 1:
        raise LocalError("there is nothing to choose from")
    bits = (bound - 1).bit_length()
    size = -(-bits // 8)
    while True:
        number = int.from_bytes(rng.random(size), "big") >> (8 * size - bits)
        if number < bound:
            return number


def fraction(rng: Rng) -> float:
    """Uniform in 0 to 1 (exclusive), in steps of 2**-16: for times that nobody should foretell."""
    return random_below(rng, 1 << 16) / (1 << 16)


def choose(rng: Rng, items: Sequence[T]) -> T:
    """One of them, each as likely. Raises LocalError if there is none."""
    return items[random_below(rng, len(items))]


def sample(rng: Rng, items: Sequence[T], count: int) -> list[T]:
    """`count` different ones in random order. Raises LocalError if there are fewer."""
    if count > len(items):
        raise LocalError(f"{count} are needed, there are {len(items)}")
    rest = list(items)
    return [rest.pop(random_below(rng, len(rest))) for _ in range(count)]
