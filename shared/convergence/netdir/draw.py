"""The shared random value of a day, drawn by all facilitators together: nobody knows it before, and none chooses it.

Does: compute a value; check a draw that others ran, and tell a lie from what is only not shown.
Does not: run a draw (facilitator/drawing.py), or ask for one that was run (drawcheck.py).

This is Tor's protocol (srv-spec, "Commitment Phase", "Reveal Phase", "Shared Random Value Calculation At 00:00UTC").
The value of a day is drawn on the day before. Until noon (UTC) each facilitator publishes a hash of its number. From
noon on it publishes the number. At midnight the value is the hash of all numbers and of the value before. Whoever
commits twice is left out; whoever comes late, or does not reveal, does not count.

A facilitator's number is not fresh, but derived from its seed. So it survives a restart without being stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum, auto
from hashlib import sha3_256, sha256
from itertools import combinations

from convergence.crypto.kdf import hmac_sha256
from convergence.errors import CryptoError
from convergence.wire.buckets import DAY, SharedValue
from convergence.wire.certs import Verify
from convergence.wire.sharedrandom import Commit, Draw

COMMIT_PHASE = 12 * 3600
"""Seconds from midnight until numbers may be revealed."""
NOTHING = Draw()
_VERSION = (1).to_bytes(4, "big")


def number_of(seed: bytes, day: int) -> bytes:
    """The number of the facilitator with this seed: HMAC-SHA256(seed, "convergence:draw" | day u32), 32 bytes."""
    return hmac_sha256(seed, b"convergence:draw" + day.to_bytes(4, "big"))


def commitment_of(facilitator: bytes, day: int, number: bytes) -> bytes:
    """SHA-256("convergence:commitment" | identity | day u32 | number): nobody can use it as his own."""
    return sha256(b"convergence:commitment" + facilitator + day.to_bytes(4, "big") + number).digest()


def committed_hash(commits: Iterable[Commit]) -> bytes:
    """What a header says of the commitments (in order of facilitator) once they are complete."""
    return sha256(b"convergence:committed" + b"".join(commit.encode() for commit in commits)).digest()


def shared_value(numbers: Collection[tuple[bytes, bytes]], before: bytes) -> bytes:
    """SHA3-256("shared-random" | n u64 | version u32 | SHA3-256((identity | number)*) | value before), 32 bytes.

    Args:
        numbers: (identity, number) in order of identity.
    """
    hashed = sha3_256(b"".join(identity + number for identity, number in numbers)).digest()
    return sha3_256(b"shared-random" + len(numbers).to_bytes(8, "big") + _VERSION + hashed + before).digest()


def value_of(draw: Draw, day: int, before: SharedValue) -> SharedValue:
    """The value that a draw gives. If nobody revealed anything, it follows from the one before (rend-spec, "Computing
    shared random disaster"), and could be known as early as that one."""
    numbers = [(commit.facilitator, number) for commit, number in draw.parts if number is not None]
    if not numbers:
        said = b"shared-random-disaster" + day.to_bytes(8, "big") + before.value
        return SharedValue(sha3_256(said).digest(), before.fixed)
    return SharedValue(shared_value(numbers, before.value), (day - 1) * DAY + COMMIT_PHASE)


def check_draw(draw: Draw, day: int, committed: bytes, before: SharedValue, verify: Verify) -> SharedValue:
    """The value that a draw of others gives.

    Args:
        committed: what a header said of the commitments, before any number was revealed.

    Raises CryptoError if it is not what they committed to.
    """
    if committed_hash(commit for commit, _ in draw.parts) != committed:
        raise CryptoError("other commitments than those that were announced")
    for commit, number in draw.parts:
        if commit.day != day or not commit.verify(verify):
            raise CryptoError("a commitment that its facilitator did not make for this day")
        if number is not None and commitment_of(commit.facilitator, day, number) != commit.commitment:
            raise CryptoError("a number that was not committed to")
    return value_of(draw, day, before)


class Verdict(Enum):
    """On the value of a day."""

    HOLDS = auto()
    NOT_SHOWN = auto()
    FALSE = auto()


def judge(draw: Draw, day: int, committed: bytes, before: SharedValue, value: SharedValue, verify: Verify) -> Verdict:
    """Whether a value comes of a draw that somebody shows.

    Whoever shows it may leave out or make up what he likes, and must not be able to accuse others. So it is a lie only
    if the value cannot come of these commitments at all: every number is there, each proves itself, and no choice of
    them gives the value. Anybody who has the two headers and the draw can repeat that.

    Args:
        committed, value: what headers said of the commitments, and of the value later.
    """
    try:
        drawn = check_draw(draw, day, committed, before, verify)
    except CryptoError:
        return Verdict.NOT_SHOWN
    if drawn == value:
        return Verdict.HOLDS
    if any(number is None for _, number in draw.parts):
        return Verdict.NOT_SHOWN
    for count in range(len(draw.parts)):
        for chosen in combinations(draw.parts, count):
            if value_of(Draw(chosen), day, before) == value:
                return Verdict.HOLDS
    return Verdict.FALSE
