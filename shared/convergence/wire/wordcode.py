"""Word codes: what a person reads over the telephone in place of a share link.

    7-crossover-clockwork        a number and two words of the PGP word list

Does: draw, format and find them, say what is wrong with one, complete one that is being typed. The number is public:
it leads both ends to each other. The words are the password that they run SPAKE2 with (handover/).
Does not: connect anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from convergence.chance import choose, random_below
from convergence.codes import LinkFlaw
from convergence.errors import Problem
from convergence.ports import Rng
from convergence.wire.pgpwords import THREE_SYLLABLES, TWO_SYLLABLES

MAX_NUMBER = 9999
LISTS = (THREE_SYLLABLES, TWO_SYLLABLES)
BITS = 16
"""Of the words: a guess is right once in 2^16 times."""

# Whatever somebody puts between the parts when he writes down what he hears. No link is like that: its parts have 43
# characters, and names of sites have dots.
_CODE = re.compile(r"\s*([0-9]{1,6})[\s,_-]+([a-z]{2,20})(?:[\s,_-]+([a-z]{2,20}))?[\s,.]*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, repr=False)
class WordCode:
    """Whoever has it can get the link once, so never log it (repr hides it).

    Args:
        number: 1 to MAX_NUMBER.
        words: one of each list.
    """

    number: int
    words: tuple[str, str]

    @classmethod
    def draw(cls, rng: Rng) -> WordCode:
        number = 1 + random_below(rng, MAX_NUMBER)
        return cls(number, (choose(rng, LISTS[0]), choose(rng, LISTS[1])))

    def __str__(self) -> str:
        return "-".join((str(self.number), *self.words))

    @property
    def hash_name(self) -> bytes:
        """Of the service that the number names: anybody can compute it."""
        return sha256(b"convergence:code:1:%d" % self.number).digest()

    @property
    def password(self) -> bytes:
        return "-".join(self.words).encode()


def find_code(text: str) -> WordCode | None:
    """The code that somebody typed, in any case and with other marks or spaces between the parts; None for what is
    something else, such as a link. Raises Problem (LinkFlaw) for one that has a mistake: it is not worth a try."""
    match = _CODE.fullmatch(text[:100])
    if match is None or len(text) > 100:
        return None
    number, *found = match.groups()
    words = [word.lower() for word in found if word]
    if not 1 <= int(number) <= MAX_NUMBER:
        raise Problem(LinkFlaw.CODE_NUMBER, most=MAX_NUMBER)
    if len(words) < len(LISTS):
        raise Problem(LinkFlaw.CODE_SHORT)
    if words[0] in LISTS[1] and words[1] in LISTS[0]:
        raise Problem(LinkFlaw.CODE_ORDER)
    for word, words_of_list in zip(words, LISTS, strict=True):
        if word not in words_of_list:
            raise Problem(LinkFlaw.CODE_WORD, word=word)
    return WordCode(int(number), (words[0], words[1]))


def completions(typed: str) -> Iterator[str]:
    """What a code that begins so can go on as, to the end of the word."""
    parts = typed.lower().split("-")
    if 2 <= len(parts) <= 1 + len(LISTS) and re.fullmatch(r"[1-9][0-9]{0,3}", parts[0], re.ASCII):
        before = "-".join(parts[:-1])
        yield from (f"{before}-{word}" for word in LISTS[len(parts) - 2] if word.startswith(parts[-1]))
