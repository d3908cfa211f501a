"""Every table of the core: whatever state a machine is in, something ends it."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import weakref
from enum import Enum, auto
from typing import Any

import pytest

import convergence
from convergence.errors import LocalError
from convergence.outbox import Outbox
from convergence.states import TIMEOUT, StateMachine, Table


class Phase(Enum):
    ASKING = auto()
    OPEN = auto()
    OVER = auto()


TOY = Table(
    "toy",
    Phase.ASKING,
    {
        Phase.ASKING: {"answer": Phase.OPEN, TIMEOUT: Phase.OVER},
        Phase.OPEN: {"close": Phase.OVER},
    },
    deadlines={Phase.ASKING: 5.0},
    standing={Phase.OPEN: "whoever asked closes it"},
)


HEARING = Table(
    "hearing",
    Phase.ASKING,
    {Phase.ASKING: {"heard": Phase.ASKING, TIMEOUT: Phase.OVER}},
    deadlines={Phase.ASKING: 5.0},
)


def all_tables() -> list[Table[Any]]:
    """Module-level tables of every module of the core."""
    found: dict[int, Table[Any]] = {}
    for info in pkgutil.walk_packages(convergence.__path__, "convergence."):
        module = importlib.import_module(info.name)
        found.update({id(value): value for value in vars(module).values() if isinstance(value, Table)})
    return sorted(found.values(), key=lambda table: table.name)


def faults(table: Table[Any]) -> list[str]:
    """What is wrong with a table."""
    found = []
    states = set(type(table.start))
    reached, edge = {table.start}, [table.start]
    while edge:
        for state in table.moves.get(edge.pop(), {}).values():
            if state not in reached:
                reached.add(state)
                edge.append(state)
    found += [f"{state.name} is never reached" for state in states - reached]
    ending = {state for state in states if table.final(state)}
    while more := {state for state in states - ending if ending & set(table.moves[state].values())}:
        ending |= more
    found += [f"no way leads from {state.name} to an end" for state in states - ending]
    for state, row in table.moves.items():
        limit = table.deadlines.get(state)
        if (limit is None) == (state not in table.standing):
            found.append(f"{state.name} needs either a deadline or words for what ends it")
        if limit is not None and not 0 < limit <= 24 * 3600:
            found.append(f"{state.name} has a deadline of {limit} s")
        if (limit is None) == (TIMEOUT in row):
            found.append(f"{state.name} needs a way out by timeout, and only with a deadline")
        if row.get(TIMEOUT) is state:
            found.append(f"{state.name} goes on by timeout for ever")
    found += [f"{state.name} is final and has a deadline" for state in table.deadlines if table.final(state)]
    return found


@pytest.mark.parametrize("table", [TOY, *all_tables()], ids=lambda table: table.name)
def test_something_ends_every_state(table: Table[Any]) -> None:
    assert faults(table) == []


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (Table("a", Phase.ASKING, {Phase.ASKING: {"x": Phase.OPEN}, Phase.OPEN: {"y": Phase.OVER}}), "deadline"),
        (Table("b", Phase.ASKING, {Phase.ASKING: {TIMEOUT: Phase.ASKING}}, {Phase.ASKING: 1.0}), "for ever"),
        (Table("c", Phase.ASKING, {Phase.ASKING: {"x": Phase.OVER}}, {Phase.ASKING: 1.0}), "way out by timeout"),
        (Table("d", Phase.ASKING, {Phase.ASKING: {TIMEOUT: Phase.OVER}}, {Phase.ASKING: 1.0}), "never reached"),
        (
            Table(
                "e", Phase.ASKING, {state: {"x": Phase.ASKING} for state in Phase}, standing=dict.fromkeys(Phase, "?")
            ),
            "to an end",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Table) else "",
)
def test_a_state_that_nothing_ends_is_found(table: Table[Any], fault: str) -> None:
    assert any(fault in text for text in faults(table))


def test_a_deadline_ends_a_state_and_is_counted_from_the_last_progress() -> None:
    outbox, ended = Outbox(), []
    machine = StateMachine(TOY, outbox, lambda state, now: ended.append((state, now)), 100.0)
    machine.extend(103.0)
    outbox.run_timers(107.9)
    assert machine.state is Phase.ASKING
    assert outbox.deadline() == 108.0
    outbox.run_timers(108.0)
    assert machine.state is Phase.OVER and machine.final
    assert ended == [(Phase.ASKING, 108.0)]


def test_a_move_into_the_same_state_leaves_no_timer_behind() -> None:
    """A peer may cause as many of them as it likes."""
    outbox, ended = Outbox(), []
    machine = StateMachine(HEARING, outbox, lambda state, now: ended.append(now), 100.0)
    for number in range(1000):
        machine.move("heard", 100.0 + number)
    assert len(outbox._timers) == 1
    outbox.run_timers(1103.9)
    assert not machine.final
    outbox.run_timers(1104.0)
    assert machine.final and ended == [1104.0]


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_a_deadline_goes_on_when_the_clock_jumps(by: float) -> None:
    outbox, ended = Outbox(), []
    machine = StateMachine(TOY, outbox, lambda state, now: ended.append(now), 100.0)
    machine.extend(103.0)
    outbox.shift(by)
    outbox.run_timers(107.0 + by)
    assert machine.state is Phase.ASKING, "it has been extended"
    outbox.run_timers(108.0 + by)
    assert machine.state is Phase.OVER and ended == [108.0 + by]


def test_leaving_a_state_disarms_its_deadline() -> None:
    outbox = Outbox()
    machine = StateMachine(TOY, outbox, lambda state, now: pytest.fail("it was left in time"), 100.0)
    assert machine.move("answer", 101.0) is Phase.OPEN
    outbox.run_timers(1000.0)
    assert outbox.deadline() is None
    assert machine.move("close", 1001.0) is Phase.OVER


def test_whoever_owns_a_machine_goes_at_once_when_it_is_over() -> None:
    """However many come and go, nothing is left for a collection of garbage."""

    class Owner:
        def __init__(self, outbox: Outbox) -> None:
            self.ended: list[Phase] = []
            self.machine = StateMachine(TOY, outbox, self.timed_out, 100.0)

        def timed_out(self, state: Phase, now: float) -> None:
            self.ended.append(state)

    outbox = Outbox()
    gc.disable()
    try:
        for ends_by_time in (True, False):
            owner = Owner(outbox)
            if ends_by_time:
                outbox.run_timers(1000.0)
            else:
                owner.machine.move("answer", 101.0)
                owner.machine.move("close", 102.0)
            assert owner.machine.final and owner.ended == [Phase.ASKING] * ends_by_time
            outbox.run_timers(1000.0)
            seen = weakref.ref(owner)
            del owner
            assert seen() is None
    finally:
        gc.enable()


def test_an_input_that_has_no_place_is_refused() -> None:
    machine = StateMachine(TOY, Outbox(), lambda state, now: None, 0.0)
    assert not machine.allows("close")
    with pytest.raises(LocalError, match="no close in state ASKING"):
        machine.move("close", 1.0)
