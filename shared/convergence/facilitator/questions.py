"""What facilitators ask of the store that they share: the port between the core and a store such as Redis.

Does: name the questions, and what answers each; the shell gets them in `effects.Consult`. An answer is a Failure where
the store could not do as asked: of kind "full" where it takes no more, "io" otherwise.
Does not: know the store, or what the bytes in it mean: all but a few fields are sealed (sharing.py).

Each question is carried out whole or not at all, in the order in which they were asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class Written(Enum):
    """What became of a Put."""

    OK = "ok"
    STALE = "stale"  # a newer descriptor of this node is there, or another of the same second
    HELD = "held"  # another facilitator has the node's channel now
    CROWDED = "crowded"  # its source has `most_each` nodes already
    FULL = "full"  # there are `most` nodes already


@dataclass(frozen=True, slots=True)
class Put:
    """Write a node's record and tell `body` to all. Answered by the value of a Written.

    Args:
        identity: the node's, 32 bytes.
        published: of its descriptor, Unix seconds. An older one is refused.
        digest: tells descriptors of one second apart; hexadecimal.
        source: what the limit for each counts by; "" for no such limit.
        holder: the facilitator that has the node's channel; "" for none.
        only_from: write only if this one holds the node now ("": nobody); None: in any case.
    """

    identity: bytes
    published: int
    digest: str
    source: str
    holder: str
    most: int
    most_each: int
    body: bytes = field(repr=False)
    only_from: str | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete a node's record, unless one that was published later than `published` is there, or (with `only_from`, as
    in Put) another facilitator holds it; tell `body` to all if it was deleted. Answered by whether it was."""

    identity: bytes
    published: int
    body: bytes = field(repr=False)
    only_from: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Answered by bodies of records, and what to go on `after`: 0 when these were the last. A record that is there from
    the first to the last is among them, perhaps twice; one that is written or dropped meanwhile may be."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Tell:
    """Pass `body` to one facilitator, or to all ("" for `to`). Answered by how many listened; None if the store cannot
    tell. The shell hands what it is told to FacilitatorService.told, also what this one told to all."""

    to: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Beat:
    """Tell `body` to all, and write something: answered by None when the store takes what is written."""

    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Counter:
    """At most `limit` events of this name in any `window` seconds."""

    name: str
    limit: int
    window: float


@dataclass(frozen=True, slots=True)
class Spend:
    """Count one event on each of these, if all allow it. Answered by whether they did."""

    counters: Sequence[Counter]


@dataclass(frozen=True, slots=True)
class Propose:
    """Decide on the value for a number, if the latest decision is the one for number `after` (0: there is none); with
    None for `after`, if it is one for a lower number. Not before `begins` (Unix seconds) on the store's clock: that of
    one facilitator may be wrong. Answered by the value of the latest decision, this one or another one; None if there
    is none. So facilitators agree, each on top of what it knows."""

    number: int
    value: bytes = field(repr=False)
    after: int | None
    begins: int = 0


@dataclass(frozen=True, slots=True)
class Latest:
    """Answered by the value of the latest decision, None if there is none."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Write a value for `lifetime` seconds. Answered by None."""

    name: str
    value: bytes = field(repr=False)
    lifetime: float


@dataclass(frozen=True, slots=True)
class Kept:
    """Answered by the value of that name, None if there is none any more."""

    name: str


Question = Put | Drop | Read | Tell | Beat | Spend | Propose | Latest | Keep | Kept
