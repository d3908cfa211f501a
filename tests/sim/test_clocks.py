"""Machines that sleep, and clocks that are set: files are found again within seconds, and who is wrong is told so."""

import pytest

from convergence.codes import FacilitatorWhy
from convergence.events import Trouble
from convergence.path.pool import POOL_SIZE
from convergence.rdv.blind import DAY
from tests.sim.people import RELAY, arrived, content, get, network, settle, share_and_stand, standing, transfer
from tests.sim.world import START, World

DATA = content("clocks", 3000)
SOON = 15.0  # seconds
HOUR = 3600.0
EVENING = START - START % DAY + DAY - 2 * HOUR  # two hours to midnight, UTC


@pytest.fixture
def scene():
    world = network("clocks", 6, start=EVENING)
    alice = world.add("alice", circuits=POOL_SIZE)
    world.run(5)
    return world, alice, share_and_stand(world, alice, DATA)


def fetched(world, link, name="bob"):
    """A newcomer gets the file."""
    bob = world.add(name, circuits=0)
    world.run(3)
    transfer_id = get(bob, link)
    assert settle(world, bob, transfer_id, 60) == "done", transfer(bob, transfer_id).message
    return arrived(bob, transfer_id) == DATA


@pytest.mark.parametrize("hours", [1 / 6, 26])
def test_who_slept_is_back_within_seconds(scene, hours):
    world, alice, link = scene
    alice.sleep()
    world.run(hours * HOUR)
    assert not alice.driver.machine.outbox.poll(world.now)
    alice.wake()
    assert world.run(SOON, lambda: standing(alice) and len(alice.node.pool.snapshot()) >= POOL_SIZE)
    assert fetched(world, link)


@pytest.mark.parametrize("by", [26 * HOUR, -26 * HOUR, 300.0, -300.0])
def test_who_started_with_a_wrong_clock_is_well_once_it_is_set(scene, by):
    """As before NTP. What the wrong clock made it avoid or wait for is not avoided or waited for till then."""
    world, _, link = scene
    carol = world.add("carol", skew=-by, circuits=POOL_SIZE)
    world.run(120)
    carol.skew = 0.0
    assert world.run(SOON, lambda: carol.node.pool.ready == POOL_SIZE)
    world.run(1)
    transfer_id = get(carol, link)
    assert settle(world, carol, transfer_id, 60) == "done", transfer(carol, transfer_id).message


@pytest.mark.parametrize("by", [26 * HOUR, -26 * HOUR, 300.0, -300.0])
def test_a_share_outlives_a_clock_that_is_wrong_for_a_while(scene, by):
    world, alice, link = scene
    alice.skew = by
    world.run(600)
    alice.skew = 0.0
    assert world.run(SOON, lambda: standing(alice))
    world.run(2)
    assert fetched(world, link)


@pytest.mark.parametrize("ahead", [-3000.0, 300.0, 800.0, 2000.0, 3000.0])
def test_a_browser_has_introducers_soon_after_its_clock_is_set(ahead):
    """Its neighbours refused what it registered with the wrong clock, so neither that nor the wait after it counts."""
    world = World("introducers")
    world.facilitator()
    for number in range(4):
        world.add(f"s{number}", RELAY, circuits=0, rtc=True)
    for number in range(3):
        world.add(f"b{number}", RELAY, browser=True)
    carol = world.add("carol", RELAY, browser=True, skew=ahead)
    world.run(120)
    carol.skew = 0.0
    assert world.run(SOON, lambda: len(carol.node._peers.introducers(carol.now())) >= 3)


@pytest.mark.parametrize("ahead", [3 * HOUR, -3 * HOUR])
def test_a_clock_that_differs_from_the_networks_is_named(scene, ahead):
    world, _, _ = scene
    carol = world.add("carol", skew=ahead, circuits=1)

    def told():
        return [event.why.values["ahead"] for event in carol.events if isinstance(event, Trouble) and about(event)]

    def about(event):
        return event.why.code is FacilitatorWhy.CLOCK

    assert world.run(30, told)
    assert abs(told()[0] - ahead) < 60


def test_who_slept_while_fetching_goes_on(scene):
    """A transfer that waits for its sender is not given up for the time that its own machine slept."""
    world, alice, link = scene
    bob = world.add("bob", circuits=0)
    world.run(3)
    world.kill(alice)
    transfer_id = get(bob, link)
    world.run(30)
    assert transfer(bob, transfer_id).state in ("looking", "waiting")
    bob.sleep()
    world.run(3 * HOUR)
    world.revive(alice)
    assert world.run(60, lambda: standing(alice))
    bob.wake()
    assert settle(world, bob, transfer_id, 120) == "done", transfer(bob, transfer_id)
