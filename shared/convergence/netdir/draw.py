"""The shared random value of a day, drawn by all facilitators together: nobody knows it before, and none chooses it.

Does: run one draw, commitments first, numbers later; compute a value; check a draw that others ran.
Does not: carry commitments and numbers between facilitators, or store them (their owner does).

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

from convergence.crypto.kdf import hmac_sha256
from convergence.errors import CryptoError, RemoteError
from convergence.outbox import Outbox
from convergence.ports import Crypto
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import DAY, SharedValue
from convergence.wire.certs import Verify
from convergence.wire.sharedrandom import Commit, Draw

COMMIT_PHASE = 12 * 3600
"""Seconds from midnight until numbers may be revealed."""
NOTHING = Draw()
_VERSION = (1).to_bytes(4, "big")


class State(Enum):
    """Of one facilitator's part in a draw."""

    AWAITED = auto()
    COMMITTED = auto()
    REVEALED = auto()
    OUT = auto()


PART = Table(
    "part in a draw",
    State.AWAITED,
    {
        State.AWAITED: {"commit": State.COMMITTED, TIMEOUT: State.OUT},
        State.COMMITTED: {"reveal": State.REVEALED, "contradict": State.OUT, TIMEOUT: State.OUT},
    },
    deadlines={State.AWAITED: COMMIT_PHASE, State.COMMITTED: DAY},  # from the midnight at which the draw begins
)


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


class Drawing:
    """One draw, as one facilitator sees it.

    Args:
        day: on which the value is in use; the draw runs through the day before.
        facilitators: identities of all that may take part.
        kept: what was known of this draw before a restart.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        day: int,
        facilitators: Collection[bytes],
        kept: Draw = NOTHING,
    ) -> None:
        self.day = day
        self._crypto = crypto
        self._begin = (day - 1) * DAY
        self._commits: dict[bytes, Commit] = {}
        self._numbers: dict[bytes, bytes] = {}
        self._parts = {
            identity: StateMachine(PART, outbox, lambda state, now: None, self._begin)
            for identity in sorted(facilitators)
        }
        for commit, number in kept.parts:
            if commit.facilitator in self._parts and commit.day == day:
                self._parts[commit.facilitator].move("commit", self._begin)
                self._commits[commit.facilitator] = commit
                if number is not None:
                    self._parts[commit.facilitator].move("reveal", self._begin)
                    self._numbers[commit.facilitator] = number

    def commit(self, commit: Commit, now: float) -> None:
        """Somebody published a commitment. Raises RemoteError if it does not count."""
        part = self._parts.get(commit.facilitator)
        if part is None or commit.day != self.day or not commit.verify(self._crypto.ed25519_verify):
            raise CryptoError("no commitment for this draw")
        if commit == self._commits.get(commit.facilitator):
            return
        if now >= self._begin + COMMIT_PHASE:
            raise RemoteError("a commitment that comes too late")
        if part.allows("commit"):
            part.move("commit", self._begin)
            self._commits[commit.facilitator] = commit
        else:
            if part.allows("contradict"):
                part.move("contradict", now)
                del self._commits[commit.facilitator]
            raise RemoteError("a second commitment")

    def reveal(self, facilitator: bytes, number: bytes, now: float) -> None:
        """Somebody published the number of a facilitator; anybody may, since only that one knew it. Raises RemoteError
        if it does not count."""
        commit, part = self._commits.get(facilitator), self._parts.get(facilitator)
        if commit is None or part is None or not self._begin + COMMIT_PHASE <= now < self._begin + DAY:
            raise RemoteError("a number that is not awaited")
        if commitment_of(facilitator, self.day, number) != commit.commitment:
            raise CryptoError("a number that was not committed to")
        if part.allows("reveal"):
            part.move("reveal", now)
            self._numbers[facilitator] = number

    def committed(self, now: float) -> bytes | None:
        """What headers say of the commitments: None while more may come."""
        if now < self._begin + COMMIT_PHASE:
            return None
        return committed_hash(commit for commit, _ in self.draw.parts)

    @property
    def draw(self) -> Draw:
        """All that counts so far. After the midnight at which the draw ends, nothing changes any more."""
        return Draw(tuple((commit, self._numbers.get(key)) for key, commit in sorted(self._commits.items())))
