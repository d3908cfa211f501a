"""A newcomer's work: in small steps, told of, ended in time; and both ends together."""

import pytest

from convergence.codes import FacilitatorWhy
from convergence.crypto.puzzle import solves
from convergence.facilitator.newcomers import MAX_EFFORT
from convergence.facilitator.solving import MAX_EFFORT as MAX_ASKED
from convergence.facilitator.solving import MAX_TIME, PAUSE, TOLD_AFTER, TOLD_EVERY, Solver
from convergence.outbox import Outbox
from convergence.wire.facilitator import Puzzle
from tests.unit.facilitator.test_newcomers import CountedCrypto
from tests.unit.facilitator.world import CRYPTO, START, HashRng, World, node_keys

FACILITATOR, IDENTITY = b"f" * 32, b"i" * 32


class Rig:
    def __init__(self, effort, lifetime=180, crypto=CRYPTO):
        self.outbox = Outbox()
        self.puzzle = Puzzle(b"s" * 16, effort, lifetime)
        self.solved, self.told = [], []
        self.solver = Solver(
            self.outbox,
            crypto,
            HashRng(),
            self.puzzle,
            FACILITATOR,
            IDENTITY,
            lambda number, now: self.solved.append((number, now - START)),
            lambda percent, now: self.told.append((percent, now - START)),
            START,
        )

    def run(self):
        """How many timers fired."""
        fired = 0
        while (deadline := self.outbox.deadline()) is not None:
            self.outbox.run_timers(deadline)
            fired += 1
        return fired


def test_one_try_at_a_time_until_it_is_solved():
    rig = Rig(20)
    fired = rig.run()
    [(number, took)] = rig.solved
    assert solves(CRYPTO, rig.puzzle, FACILITATOR, IDENTITY, number)
    assert fired > 3 and took == pytest.approx((fired - 1) * PAUSE)
    assert not rig.told and rig.outbox.deadline() is None


def test_people_are_told_of_work_that_takes_long_and_it_ends_when_no_answer_counts_any_more():
    crypto = CountedCrypto()
    rig = Rig(1000, lifetime=20, crypto=crypto)
    rig.run()
    [(number, took)] = rig.solved
    assert number is None and took == pytest.approx(20, abs=0.1)
    assert crypto.checks == pytest.approx(20 / PAUSE, abs=2)
    times = [when for _, when in rig.told]
    assert times == pytest.approx([TOLD_AFTER + number * TOLD_EVERY for number in range(4)], abs=0.2)
    assert [percent for percent, _ in rig.told] == pytest.approx([5, 30, 55, 80], abs=1)


def test_it_ends_whatever_lifetime_somebody_says():
    rig = Rig(MAX_ASKED, lifetime=65535, crypto=CountedCrypto())
    rig.run()
    [(number, took)] = rig.solved
    assert number is None and took == pytest.approx(MAX_TIME, abs=0.1)


def test_what_was_stopped_is_over():
    rig = Rig(1000, crypto=CountedCrypto())
    rig.solver.stop(START)
    rig.solver.stop(START)
    assert rig.run() == 0 and not rig.solved


# Both ends


@pytest.fixture
def dear():
    world = World()
    asked_for(world, 30)
    return world


def asked_for(world, effort):
    newcomers = world.service._newcomers
    newcomers.effort, newcomers._began = effort, world.time


def test_a_node_works_and_is_registered_and_renews_for_nothing(dear):
    machine = dear.client(1)
    dear.run(5)
    assert node_keys(1).identity in dear.service._registry.nodes and machine.registrations == 1
    asked_for(dear, MAX_EFFORT)
    machine.port.driver.run(machine.client.register)
    dear.run(1)
    assert not machine.troubles and machine.client._solver is None


def test_the_list_comes_while_the_work_goes_on_and_people_are_told(dear):
    asked_for(dear, MAX_EFFORT)
    machine = dear.client(1)
    dear.run(2)
    assert machine.updates or machine.directory.published
    assert [trouble.why.code for trouble in machine.troubles] == [FacilitatorWhy.NEWCOMERS]
    assert 0 <= machine.troubles[0].why.values["percent"] < 10
    machine.port.driver.run(machine.client.stop)
    dear.run(60)
    assert machine.client._solver is None and not dear.service._registry.nodes


def test_a_facilitator_that_goes_away_meanwhile_costs_no_more_work(dear):
    asked_for(dear, MAX_EFFORT)
    machine = dear.client(1)
    dear.run(1)
    assert machine.client._solver is not None
    dear.restart_service()
    dear.run(30)
    assert machine.client._solver is None and machine.registrations == 1


def test_a_facilitator_that_asks_for_hours_of_work_gets_none(dear):
    asked_for(dear, MAX_ASKED + 1)
    machine = dear.client(1)
    dear.run(0.5)
    assert machine.client._solver is None and machine.troubles[0].why.code is FacilitatorWhy.UNUSABLE


def test_what_changed_meanwhile_is_what_is_registered(dear):
    asked_for(dear, 300)
    machine = dear.client(1)
    dear.run(0.05)
    assert machine.client._solver is not None
    machine.roles = type(machine.roles).RELAY
    machine.port.driver.run(machine.client.register)
    dear.run(30)
    assert dear.service._registry.nodes[node_keys(1).identity].descriptor.roles == machine.roles
