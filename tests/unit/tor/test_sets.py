"""Conflux sets of a client: over relays in memory that link, refuse to, lie or die."""

from gc import collect
from types import SimpleNamespace
from weakref import ref

import pytest

from convergence.circuit.conflux import LINK_TIMEOUT
from convergence.errors import DestroyReason, EndReason, LocalError, RemoteError
from convergence.path.building import RENEW_AFTER, RETRY_FIRST, RETRY_MAX
from convergence.path.exits import ExitConnections
from convergence.path.place import HOP_TIMEOUT
from convergence.path.predicted import KEPT
from convergence.tor.sets import MAX_READY, REFILL_AFTER, SET, SET_TIMEOUT, ConfluxParams, SetCircuit, Stage
from convergence.wire.conflux import Link, Wish
from convergence.wire.relay import MAX_DATA, RelayCommand, Truncated, pack_message
from tests.unit.circuit.rig import Recorder
from tests.unit.circuit.test_conflux import Exit
from tests.unit.netdir.authorities import PROTOCOLS
from tests.unit.path.tornetwork import EXIT, GUARD, Made, TorNetwork
from tests.unit.tor.test_circuits_and_guards import Scene as Circuits

LINKS = f"Conflux=1 {PROTOCOLS}"


class Scene(Circuits):
    """All relays link. `sets`: that are kept ready."""

    def __init__(self, sets=1, legs=2, retries=3, **options):
        super().__init__(protocols=LINKS, legs=True, **options)
        for made in self.made:
            made.machine.services = Exit(made.machine.outbox)
        self.pool.sets.params = ConfluxParams(sets, 10, legs, retries)
        self.pool.start(self.net.now)

    def fill(self):
        self.pool.fill(self.net.now)
        self.net.pump()
        return self

    @property
    def all(self):
        return list(self.pool.sets._sets)

    @property
    def ready(self):
        return [linked for linked in self.all if linked.machine.state is Stage.READY]

    def machine_of(self, relay):
        return next(made.machine for made in self.made if made.identity == relay.status.identity)

    def exit_of(self, linked):
        return self.machine_of(linked.exit)

    def services(self):
        return [made.machine.services for made in self.made]

    def at_exits(self):
        """The far ends of all sets."""
        return [own.linked for services in self.services() for own in services.linking._sets.values()]


@pytest.fixture
def scene():
    return Scene().fill()


def test_a_set_is_ready_before_it_is_wanted(scene):
    [linked] = scene.ready
    assert linked.linked.wish == Wish.MIN_LATENCY and not linked.built
    [far] = scene.at_exits()
    assert far.wish == Wish.HIGH_THROUGHPUT and len(far.legs) == 2 and all(leg.linked for leg in far.legs)
    assert [item["purpose"] for item in scene.pool.snapshot()] == ["leg", "leg"]


def test_legs_share_their_exit_and_no_other_relay(scene):
    for _ in range(8):
        [linked] = scene.ready
        guards, middles, exits = (
            {path.relays[place].status.identity for path in linked.paths.values()} for place in range(3)
        )
        assert len(exits) == 1 and len(guards) == len(middles) == 2 and not guards & middles
        linked.destroy(DestroyReason.FINISHED, scene.net.now)
        scene.net.tick(RETRY_MAX)


def test_guards_of_legs_are_the_first_ones(scene):
    [linked] = scene.ready
    first = [path.relays[0].target.identity for path in linked.paths.values()]
    assert set(first) == set(scene.primary[:2])


def test_a_set_is_handed_out_and_another_one_is_made(scene):
    [linked] = scene.ready
    scene.exit()
    assert scene.got == [linked] and linked.built and linked.path[-1].identity == linked.exit.target.identity
    scene.net.tick(REFILL_AFTER)
    assert len(scene.ready) == 1 and scene.ready != [linked]
    assert scene.pool.serves(linked, "host.example", 443) and not scene.pool.serves(linked, "host.example", 25)
    assert scene.pool.begin_flags(linked, 443) == 0
    assert sorted(item["purpose"] for item in scene.pool.snapshot()) == ["exit", "exit", "leg", "leg"]
    assert scene.pool.number(linked) == scene.pool.number(linked.circuits[0])


def test_streams_go_over_a_set(scene):
    scene.exit()
    [linked] = scene.got
    handler = Recorder()
    stream = handler.pipe = linked.open_stream("host.example:443", handler, scene.net.now)
    scene.net.pump()
    far, _ = scene.exit_of(linked).services.streams[0]
    far.write(bytes(900 * MAX_DATA), scene.net.now)
    scene.net.pump()
    assert len(handler.received) == 900 * MAX_DATA
    assert all(leg.last_received for leg in linked.linked.legs)
    closed = []
    linked.on_closed = lambda reason, now: closed.append(reason)
    linked.destroy(DestroyReason.FINISHED, scene.net.now)
    scene.net.pump()
    assert handler.reason == EndReason.DESTROY and closed == [DestroyReason.FINISHED] and stream.closed
    assert not linked.built and all(circuit.closed for circuit in linked.circuits)


def test_a_set_that_is_not_in_use_opens_nothing(scene):
    with pytest.raises(LocalError):
        scene.ready[0].open_stream("host.example:443", None, scene.net.now)
    with pytest.raises(LocalError):
        scene.ready[0].resolve("host.example", lambda answers, now: None)


def test_without_a_ready_set_a_single_circuit_serves(scene):
    scene.pool.sets.params = ConfluxParams()
    scene.exit()
    scene.exit()
    assert isinstance(scene.got[0], SetCircuit) and not isinstance(scene.got[1], SetCircuit)


def test_new_connections_leave_a_single_circuit_once_a_set_is_ready():
    """The first connections of a client come before its first set. What is on the circuit stays there."""
    scene = Scene()
    exits = ExitConnections(scene.pool, scene.client.outbox)

    def connect(key="user"):
        pipe = exits.connect("host.example", 443, key, scene.net.now)
        pipe.handler = Recorder(pipe)
        scene.net.pump()
        return pipe

    scene.pool.sets.params = ConfluxParams()
    first, second = connect(), connect()
    assert first.circuit is second.circuit and not isinstance(first.circuit, SetCircuit)
    scene.pool.sets.params = ConfluxParams(2)
    scene.fill()
    third, fourth = connect(), connect()
    assert isinstance(third.circuit, SetCircuit) and third.circuit is fourth.circuit, "one set for one user"
    assert connect("other").circuit is not third.circuit
    assert first.circuit is second.circuit and first.circuit.built
    for pipe in (third, fourth):
        pipe.handler = Recorder(pipe)
    third.circuit.destroy(DestroyReason.FINISHED, scene.net.now)
    scene.pool.sets.params = ConfluxParams()
    for linked in scene.ready:
        linked.destroy(DestroyReason.FINISHED, scene.net.now)
    assert connect().circuit is first.circuit


def test_an_exit_that_refused_or_does_not_serve_is_not_taken(scene):
    identity = scene.ready[0].exit.target.identity
    scene.pool.exit_circuit(
        "host.example", 443, lambda circuit, now: scene.got.append(circuit), None, scene.net.now, avoid=(identity,)
    )
    scene.net.pump()
    assert not isinstance(scene.got[0], SetCircuit) and len(scene.ready) == 1


def test_connections_that_last_take_no_set_with_relays_that_go_down(scene):
    taken = scene.pool.sets.take(lambda exit: True, True, scene.net.now)
    assert taken is not None and taken.stable
    scene = Scene().fill()
    flags = SimpleNamespace(status=SimpleNamespace(flags={"Fast"}))
    scene.ready[0].paths[1] = SimpleNamespace(relays=[flags])
    assert scene.pool.sets.take(lambda exit: True, True, scene.net.now) is None


def test_single_circuits_are_made_first():
    scene = Scene(size=2)
    made = []
    build = scene.pool.build_leg
    scene.pool.sets._legs = scene.pool
    scene.pool.build_leg = lambda *arguments: (made.append(scene.pool.ready), build(*arguments))
    scene.fill()
    assert made and set(made) == {2} and len(scene.ready) == 1


def test_after_an_hour_without_a_request_no_set_is_made(scene):
    scene.net.now += KEPT + 1
    scene.ready[0].destroy(DestroyReason.FINISHED, scene.net.now)
    scene.net.tick(RETRY_FIRST)
    assert not scene.all


def test_a_set_that_stood_for_long_is_renewed(scene):
    [linked] = scene.ready
    scene.net.tick(1.5 * RENEW_AFTER)
    scene.net.tick(RETRY_FIRST)
    assert linked.machine.final and len(scene.ready) == 1
    scene.exit()
    scene.net.tick(1.5 * RENEW_AFTER)
    assert scene.got[0].built, "one in use was renewed"


def test_stopping_leaves_nothing(scene):
    scene.exit()
    scene.pool.stop(scene.net.now)
    scene.net.pump()
    scene.net.tick(SET_TIMEOUT)
    assert not scene.all and not scene.pool.snapshot() and not scene.at_exits()


# -- relays that fail or lie


def test_a_ready_set_that_loses_a_leg_is_replaced_but_not_at_once(scene):
    """Whoever ends what is ready again and again does not keep us busy."""
    [linked] = scene.ready
    leg = scene.at_exits()[0].legs[0]
    leg.end(DestroyReason.REQUESTED, scene.net.now)
    scene.net.pump()
    assert linked.machine.final and not scene.all
    scene.net.tick(RETRY_FIRST)
    assert len(scene.ready) == 1


def test_sets_that_are_ended_as_soon_as_they_stand_become_rare_and_leave_nothing(scene):
    """A guard that does so would choose our exits, and have us build for it all day."""
    seen = []
    for _ in range(600):
        for linked in scene.ready:
            seen.append(ref(linked))
            linked.circuits[0].destroy(DestroyReason.REQUESTED, scene.net.now)
        linked = None
        scene.net.tick(RETRY_FIRST)
    assert 600 * RETRY_FIRST / RETRY_MAX <= len(seen) < 20
    scene.fill()
    collect()
    assert not any(linked() is not None for linked in seen)
    scene.net.tick(RETRY_MAX)
    scene.exit()
    scene.net.tick(REFILL_AFTER)
    [linked] = scene.ready
    linked.destroy(DestroyReason.FINISHED, scene.net.now)
    scene.net.tick(RETRY_FIRST)
    assert scene.ready, "one was taken, and all is well again"


def test_one_in_use_goes_on_with_the_other_leg(scene):
    scene.exit()
    [linked] = scene.got
    handler = Recorder()
    handler.pipe = linked.open_stream("host.example:443", handler, scene.net.now)
    scene.net.pump()
    far = scene.exit_of(linked).services.streams[0][0]
    idle = next(leg for leg in scene.at_exits()[0].legs if leg is not scene.at_exits()[0]._current)
    idle.end(DestroyReason.REQUESTED, scene.net.now)
    scene.net.pump()
    far.write(bytes(100), scene.net.now)
    scene.net.pump()
    assert linked.built and len(handler.received) == 100
    assert scene.pool.number(linked) is not None and scene.pool.serves(linked, "host.example", 443)


@pytest.mark.parametrize(
    "answer", ["nothing", "refusal", "other nonce", "numbers", "garbage", "TRUNCATED", "EXTENDED2"]
)
def test_an_exit_that_does_not_link_is_left_for_another_one(answer):
    scene = Scene()
    asked = []

    def message(circuit, command, payload, now):
        exit = circuit._services
        if exit not in asked:
            asked.append(exit)
        if exit is not asked[0]:
            exit.linking.message(circuit, command, payload, now)
            return
        if command != RelayCommand.CONFLUX_LINK:
            return  # as if all were well
        link = Link.parse(payload)
        replies = {
            "other nonce": (RelayCommand.CONFLUX_LINKED, Link(bytes(32)).encode()),
            "numbers": (RelayCommand.CONFLUX_LINKED, Link(link.nonce, 5, 0).encode()),
            "garbage": (RelayCommand.CONFLUX_LINKED, b"\\x01"),
            "TRUNCATED": (RelayCommand.TRUNCATED, Truncated(DestroyReason.REQUESTED).encode()),
            "EXTENDED2": (RelayCommand.EXTENDED2, bytes(66)),
        }
        if answer == "refusal":
            raise RemoteError("no")
        if answer in replies:
            circuit._transmit([pack_message(replies[answer][0], 0, replies[answer][1])])

    for services in scene.services():
        services.message = message
    avoided = []
    leg_path = scene.pool.sets._paths.leg_path

    def choose(wanted, legs, now, *, avoid):
        avoided.extend(avoid)
        return leg_path(wanted, legs, now, avoid=avoid)

    scene.pool.sets._paths = SimpleNamespace(leg_path=choose)
    scene.fill()
    for seconds in (LINK_TIMEOUT + 0.1, RETRY_FIRST, RETRY_FIRST):
        scene.net.tick(seconds)
    [linked] = scene.ready
    assert len(asked) == 2 and scene.exit_of(linked).services is asked[1]
    left = next(made for made in scene.made if made.machine.services is asked[0])
    assert set(avoided) == {left.machine.keys.identity}


def test_paths_that_fail_are_few():
    """An exit or a middle relay that refuses one leg after the other would else learn our guards (section 4.2.2)."""
    scene = Scene(guards=12, middles=6, retries=3)
    for made in scene.made:
        if "Guard" not in made.flags:
            made.machine._create = lambda *arguments: None
    tried = []
    leg_path = scene.pool.sets._paths.leg_path
    scene.pool.sets._paths = type(
        "Paths", (), {"leg_path": lambda self, *a, **o: tried.append(a) or leg_path(*a, **o)}
    )()
    scene.fill()
    [linked] = scene.all
    for _ in range(8):
        scene.net.tick(HOP_TIMEOUT + 0.1)
        if linked.machine.final:
            break
    assert linked.machine.final and len(tried) <= 2 + 3 + 2  # two of the next set


def test_a_set_that_takes_too_long_is_given_up():
    scene = Scene(retries=200)
    scene.held = []  # no link ever comes about
    scene.fill()
    [linked] = scene.all
    scene.net.tick(SET_TIMEOUT + 0.1)
    assert linked.machine.final and linked not in scene.all


def test_where_no_second_way_leads_to_an_exit_no_set_is_made():
    scene = Scene(guards=1, middles=1)
    scene.fill()
    scene.net.tick(RETRY_FIRST)
    assert not scene.ready
    scene.exit()
    assert scene.got and not isinstance(scene.got[0], SetCircuit)


# -- what a consensus says


def params(text="", linking=3, exits=4):
    relays = [
        Made(number, EXIT, 1, "accept 443", protocols=LINKS if number <= linking else PROTOCOLS)
        for number in range(1, exits + 1)
    ]
    relays.append(Made(100, GUARD, 1))
    return ConfluxParams.of(TorNetwork(relays, params=f"bwweightscale=10000 {text}".strip()).consensus())


@pytest.mark.parametrize(
    ("text", "linking", "expected"),
    [
        ("", 3, ConfluxParams(3, 10, 2, 3)),
        ("cfx_enabled=0", 3, ConfluxParams(0, 10, 2, 3)),
        ("", 0, ConfluxParams(0, 10, 2, 3)),
        ("", 2, ConfluxParams(1, 10, 2, 3)),
        ("cfx_low_exit_threshold=5000", 2, ConfluxParams(3, 10, 2, 3)),
        ("cfx_low_exit_threshold=8000", 3, ConfluxParams(1, 10, 2, 3)),
        ("cfx_max_linked_set=20 cfx_max_prebuilt_set=2", 3, ConfluxParams(2, 20, 2, 3)),
        ("cfx_max_prebuilt_set=255", 3, ConfluxParams(MAX_READY, 10, 2, 3)),
        ("cfx_max_unlinked_leg_retry=0 cfx_num_legs_set=3", 3, ConfluxParams(3, 10, 3, 0)),
        ("cfx_num_legs_set=1", 3, ConfluxParams(0, 10, 1, 3)),
        ("cfx_num_legs_set=255", 3, ConfluxParams(3, 10, 8, 3)),
    ],
)
def test_parameters(text, linking, expected):
    assert params(text, linking) == expected


def test_no_more_sets_at_once_than_the_consensus_says():
    scene = Scene(sets=2)
    scene.pool.sets.params = ConfluxParams(2, 3, 2, 3)
    scene.fill()
    for _ in range(4):
        scene.exit()
        scene.net.tick(REFILL_AFTER)
    assert len(scene.all) == 3 and sum(isinstance(circuit, SetCircuit) for circuit in scene.got) == 3
    assert SET.final(Stage.GONE)
