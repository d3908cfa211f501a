"""One draw of a shared random value (netdir/draw.py), as one facilitator sees it.

Does: take commitments until noon, numbers after it, and nothing after midnight; leave out who says two things.
Does not: carry them between facilitators (partners.py), or store them (draws.py).
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

from convergence.errors import CryptoError, RemoteError
from convergence.netdir.draw import COMMIT_PHASE, NOTHING, commitment_of, committed_hash
from convergence.outbox import Outbox
from convergence.ports import Crypto
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.buckets import DAY
from convergence.wire.sharedrandom import Commit, Draw


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
