"""Which directory is asked, over which circuit, and what becomes of streams when circuits die."""

from collections import Counter

import pytest

from convergence.errors import EndReason
from convergence.pipes.pending import CONNECT_LIMIT
from convergence.tor.sources import LINGER, REST, STREAMS
from tests.unit.tor.world import DESTROY, Documents, World

DIRECTORIES = 5


class User:
    """A handler, and the stream that it has."""

    def __init__(self, world):
        self.heard = []
        self.pipe = world.sources.connect(world.now)
        self.pipe.handler = self
        self.source = self.pipe.source

    def opened(self, now):
        self.heard.append("opened")

    def data(self, data, now): ...

    def drained(self, now): ...

    def ended(self, now):
        self.heard.append("ended")

    def aborted(self, code, now):
        self.heard.append(code)


@pytest.fixture
def world():
    return World(*[lambda asked: []] * DIRECTORIES)


def users(world, count):
    return [User(world) for _ in range(count)]


def of(world, user):
    [directory] = [found for found in world.directories if found.target.identity == user.source]
    return directory


def test_nobody_to_ask():
    world = World()
    assert world.sources.connect(world.now) is None and world.timers == []


def test_streams_share_a_circuit_while_it_has_room(world):
    several = users(world, STREAMS)
    world.run(1)
    assert {user.source for user in several} == {several[0].source} and len(world.circuits) == 1
    assert [user.heard for user in several] == [["opened"]] * STREAMS
    one_more = User(world)
    world.run(1)
    assert one_more.heard == ["opened"] and len(world.circuits) <= 2


def test_each_directory_is_asked_by_somebody():
    asked = Counter(User(World(*[lambda asked: []] * DIRECTORIES, seed=str(seed))).source for seed in range(100))
    assert len(asked) == DIRECTORIES


def test_a_circuit_stays_a_while_for_the_next_stream(world):
    first = User(world)
    world.run(1)
    first.pipe.abort(EndReason.DONE, world.now)
    world.run(LINGER - 1)
    second = User(world)
    world.run(LINGER + 1)
    assert second.source == first.source and second.heard == ["opened"] and len(world.circuits) == 1
    second.pipe.abort(EndReason.DONE, world.now)
    world.run(LINGER)
    assert world.circuits == [] and world.timers == []


def test_a_circuit_that_nobody_waits_for_any_more_does_not_stay(world):
    """Its streams ended before it stood."""
    user = User(world)
    world.step(world.now)  # it is being built
    user.pipe.abort(EndReason.DONE, world.now)
    world.run(1)
    assert len(world.circuits) == 1
    world.run(LINGER)
    assert world.circuits == [] and world.timers == []


def test_all_streams_hear_when_their_circuit_dies(world):
    several = users(world, 3)
    world.run(1)
    world.circuits[0].destroyed(world.now)
    assert [user.heard for user in several] == [["opened", EndReason.DESTROY]] * 3
    world.run(1)
    assert world.timers == []


def test_all_streams_hear_when_there_is_no_circuit(world):
    for directory in world.directories:
        directory.reached = False
    several = users(world, 3)
    world.run(1)
    assert [user.heard for user in several] == [[EndReason.DESTROY]] * 3
    assert all(user.pipe.why is not None for user in several) and world.timers == []


def test_streams_that_wait_while_their_circuit_dies(world):
    for directory in world.directories:
        directory.accepts = None
    several = users(world, 3)
    world.run(1)
    world.circuits[0].destroyed(world.now)
    assert [user.heard for user in several] == [[EndReason.DESTROY]] * 3
    world.run(1)
    assert world.timers == []


def test_a_stream_asked_for_while_the_circuit_dies(world):
    """Whoever hears of the end may ask again at once: over another circuit, not the one that is dying."""
    first, later = User(world), []
    world.run(1)
    first.aborted = lambda code, now: later.append(User(world))
    world.circuits[0].destroyed(world.now)
    world.run(1)
    [second] = later
    assert second.heard in (["opened"], [EndReason.DESTROY])
    third = User(world)
    world.run(1)
    assert third.heard == ["opened"]


def test_the_end_of_an_old_circuit_is_not_that_of_the_next(world):
    """Of the same directory, whose circuit was still being built when all was stopped."""
    world.candidates = world.directories[:1]
    directory = world.directories[0]
    failed = []
    world.directory_circuit = lambda node, on_ready, on_failed, now: failed.append(on_failed)
    User(world)
    world.run(1)
    world.sources.stop(world.now)
    del world.directory_circuit
    second = User(world)
    world.run(1)
    failed[0](None, world.now)
    assert second.heard == ["opened"] and not directory.circuits[0].closed


def test_a_directory_that_never_accepts_a_stream(world):
    for directory in world.directories:
        directory.accepts = None
    user = User(world)
    world.run(CONNECT_LIMIT)
    assert user.heard == [EndReason.TIMEOUT]
    world.sources.rest(user.source, world.now)
    assert world.circuits == [] and world.timers == []


@pytest.mark.parametrize("refusal", [int(EndReason.NOTDIRECTORY), DESTROY])
def test_a_relay_that_refuses_streams_to_its_directory(world, refusal):
    for directory in world.directories:
        directory.accepts = refusal
    user = User(world)
    world.run(1)
    assert user.heard == [EndReason.DESTROY if refusal is DESTROY else refusal]


def test_who_failed_rests(world):
    asked = []
    for _ in range(DIRECTORIES):
        user = User(world)
        world.run(1)
        user.pipe.abort(EndReason.DONE, world.now)
        world.sources.rest(user.source, world.now)
        assert world.circuits == []
        asked.append(user.source)
    assert len(set(asked)) == DIRECTORIES
    for source in asked:  # all rest: the one that has rested longest is asked
        user = User(world)
        world.run(1)
        user.pipe.abort(EndReason.DONE, world.now)
        world.sources.rest(user.source, world.now)
        assert user.source == source


def test_a_rest_ends(world):
    for directory in world.directories[1:]:
        world.sources.rest(directory.target.identity, world.now)
    world.run(REST - 1)
    world.shift(1e6)  # no rest for whom the clock was set
    assert User(world).source == world.directories[0].target.identity
    world.run(2)
    world.sources.rest(world.directories[0].target.identity, world.now)
    assert User(world).source != world.directories[0].target.identity


def test_others_on_the_circuit_of_one_that_failed_go_on(world):
    one, other = users(world, 2)
    world.run(1)
    one.pipe.abort(EndReason.DONE, world.now)
    world.sources.rest(one.source, world.now)
    world.run(1)
    assert other.heard == ["opened"] and len(world.circuits) == 1
    assert User(world).source != one.source
    other.pipe.abort(EndReason.DONE, world.now)
    world.run(LINGER)
    assert of(world, one).circuits[0].closed


@pytest.mark.parametrize("steps", range(10))
def test_stopping_at_any_moment_leaves_nothing(world, steps):
    several = users(world, 3)
    for _ in range(steps):
        world.step(world.now)
    world.sources.stop(world.now)
    assert world.timers == [] and world.circuits == []
    world.run(1)
    assert world.timers == [] and world.circuits == []
    assert all(user.heard[-1:] == [EndReason.DESTROY] for user in several)


def test_documents_over_many_directories_that_come_and_go():
    world = World(*[Documents(500)] * 3).start()
    for number in range(200):
        world.candidates = world.directories[number % 3 :]
        world.step(world.now + 100)
    world.candidates = world.directories
    assert world.run(600).complete and world.refused == []
