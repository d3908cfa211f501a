"""State machines as tables: which input leads from which state to which, and what ends each state.

Does: hold the tables, move along them, and arm the deadline of the state that is entered.
Does not: act. The owner of a machine acts; it is called when time ends a state.

A state is left by an input of its row, or by TIMEOUT when its deadline has come. A final state has no row. A state
with a row has a deadline, or is `standing`: made to last, with words for what ends it. A test walks every
table of the core (`tests/unit/test_states.py`) and fails for a state that nothing ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from convergence.errors import LocalError
from convergence.outbox import Outbox, Timer

TIMEOUT = "timeout"
"""The input that comes when a state's deadline has come."""

S = TypeVar("S", bound=Enum)


@dataclass(frozen=True)
class Table(Generic[S]):
    """What a machine may do.

    Args:
        name: for tests and drawings.
        start: the first state.
        moves: state -> input -> next state. A state without a row is final.
        deadlines: seconds that a state may last; it is then left by TIMEOUT.
        standing: states that may last for ever -> what ends them, in words.
    """

    name: str
    start: S
    moves: Mapping[S, Mapping[str, S]]
    deadlines: Mapping[S, float] = field(default_factory=dict)
    standing: Mapping[S, str] = field(default_factory=dict)

    def final(self, state: S) -> bool:
        return state not in self.moves


class StateMachine(Generic[S]):
    """One machine in a state of its table.

    Args:
        on_timeout: called as on_timeout(the state that time ended, now) after the move.
    """

    __slots__ = ("state", "_table", "_outbox", "_on_timeout", "_timer", "_since")

    def __init__(self, table: Table[S], outbox: Outbox, on_timeout: Callable[[S, float], None], now: float) -> None:
        self.state = table.start
        self._table = table
        self._outbox = outbox
        self._on_timeout = on_timeout
        self._timer: Timer | None = None
        self._arm(now)

    @property
    def final(self) -> bool:
        return self._table.final(self.state)

    def allows(self, input: str) -> bool:
        """Whether this input has a place in the row of the current state."""
        return input in self._table.moves.get(self.state, ())

    def move(self, input: str, now: float) -> S:
        """Go to the next state and arm its deadline. Raises LocalError for an input that the row lacks."""
        if not self.allows(input):
            raise LocalError(f"{self._table.name}: no {input} in state {self.state.name}")
        before, self.state = self.state, self._table.moves[self.state][input]
        if self.state is before and self._timer is not None:
            self.extend(now)  # with no other timer: a peer may move to the same state as often as it likes
        else:
            self._arm(now)
        return self.state

    def extend(self, now: float) -> None:
        """Something went on in this state: its deadline counts from now. Cheap: the timer looks again when it fires."""
        self._since = self._outbox.steady(now)

    def _arm(self, now: float) -> None:
        self.extend(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        limit = self._table.deadlines.get(self.state)
        if limit is not None:
            self._timer = self._outbox.call_at(now + limit, self._timed_out)
        elif self.final:
            self._on_timeout = _nobody  # who held on to each other go at once, without a collection of garbage

    def _timed_out(self, now: float) -> None:
        self._timer = None
        limit = self._table.deadlines[self.state]
        ends = self._since + self._outbox.shifted + limit  # as timers, deadlines go on when the clock jumps
        if now < ends:
            self._timer = self._outbox.call_at(ends, self._timed_out)
            return
        before, on_timeout = self.state, self._on_timeout
        self.move(TIMEOUT, now)
        on_timeout(before, now)


def _nobody(state: Enum, now: float) -> None:
    """For a machine that time ends no more."""
