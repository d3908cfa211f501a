"""What a node does for others: within limits that hostile neighbours run into, counted, paused and resumed."""

from types import SimpleNamespace

import pytest

from convergence.circuit.relaying import MAX_PAUSED, MAX_REACHING, Relaying, RelayLimits
from convergence.crypto import ntor
from convergence.errors import DestroyReason, EndReason, LocalError, RemoteError
from convergence.rdv.point import RdvPoint
from convergence.wire.cells import CELL_LEN, Command
from convergence.wire.create import Create2, HandshakeType
from convergence.wire.rdv import Advert, DbInfo, Name, format_rdv_target
from convergence.wire.relay import MAX_DATA, PEER_HOST, Begin, RelayCommand
from tests.unit.circuit.rig import CRYPTO, Net, Recorder, cell, say, say_early
from tests.unit.circuit.test_relay import extend_to

PIPE = f"{PEER_HOST}:0"
NAME = Name(bytes(range(32)))


class Scene:
    """A client, a relay that is under test, and one behind it."""

    def __init__(self, limits=RelayLimits()):  # noqa: B008
        self.net = Net("relaying")
        self.client = self.net.add("client", relays=False)
        self.relay, self.last = self.net.relays(2)
        self.relaying = Relaying(
            self.relay.outbox,
            CRYPTO,
            self.relay.rng,
            self.relay.keys,
            self.relay.services,
            limits=limits,
        )
        self.reach = self.relay.reach
        self.relaying.neighbours = SimpleNamespace(
            links=self.relay.links, reach=lambda *arguments: self.reach(*arguments)
        )
        self.spent = []
        self.relaying.on_spent = self.spent.append
        self.relay._create = self.relaying.create
        self.relay.throttle = self.relaying.throttle

    def build(self, *path, client=None):
        return self.net.build(client or self.client, path or [self.relay])

    def open(self, circuit, target="host.example:80"):
        return self.net.open(circuit, target)

    def set_limits(self, limits):
        self.relaying.set_limits(limits, self.net.now)
        self.net.pump()

    @property
    def shown(self):
        return self.relaying.snapshot()


@pytest.fixture
def scene():
    return Scene()


# -- circuits


def test_a_neighbour_that_opens_more_circuits_than_allowed_is_refused_one_by_one():
    scene = Scene(RelayLimits(circuits=4))
    circuits = [scene.build() for _ in range(6)]
    assert [circuit.gone for circuit in circuits] == [[]] * 4 + [[DestroyReason.RESOURCELIMIT]] * 2
    assert scene.shown["circuits"] == 4 and scene.shown["circuits_total"] == 4
    circuits[0].destroy(DestroyReason.FINISHED, scene.net.now)
    scene.net.pump()
    assert scene.build().built


def test_create_fast_is_answered_by_relays_of_the_tor_network_only(scene):
    """Who knows a node of ours knows its onion key too."""
    with pytest.raises(RemoteError, match="CREATE_FAST"):
        scene.relaying.create(None, 1, Create2(HandshakeType.FAST, bytes(20)), scene.net.now)


def test_at_a_full_node_whoever_has_most_circuits_gives_way():
    scene = Scene(RelayLimits(circuits=4))
    modest = scene.net.add("modest", relays=False)
    greedy = [scene.build() for _ in range(9)]
    taken = [scene.build(client=modest).built for _ in range(9)]
    assert taken == [True] * 2 + [False] * 7
    assert [circuit.gone for circuit in greedy[:4]] == [[DestroyReason.RESOURCELIMIT]] * 2 + [[]] * 2, "the oldest"
    assert scene.shown["circuits"] == 4


def test_many_links_from_one_address_have_no_more_than_one():
    scene = Scene(RelayLimits(circuits=6, streams=8))
    clients = [scene.net.add(f"greedy{number}", relays=False) for number in range(3)]
    for client in clients:
        scene.net.other_side(client, scene.net.link_between(client, scene.relay)).source = "one address"
    greedy = [scene.build(client=client) for client in clients for _ in range(3)]
    assert [circuit.built for circuit in greedy] == [True] * 6 + [False] * 3
    modest = [scene.build() for _ in range(4)]
    assert [circuit.built for circuit in modest] == [True] * 3 + [False]
    for circuit in greedy[3:6]:
        scene.open(circuit), scene.open(circuit), scene.open(circuit)
    assert scene.shown["streams"] == 8
    taken = [scene.open(modest[0])[1].reason is None for _ in range(5)]
    assert taken == [True] * 4 + [False], "half of the streams, since there are two sources"


def test_circuits_that_go_on_over_a_link_are_no_circuits_of_that_neighbour():
    """Or one neighbour could use up another one's share."""
    scene = Scene(RelayLimits(circuits=4))
    for _ in range(4):
        assert scene.build(scene.relay, scene.last).built
    back = scene.net.other_side(scene.relay, scene.net.link_between(scene.relay, scene.last))
    scene.net._between[scene.last, scene.relay] = back
    assert scene.build(client=scene.last).built


def test_a_create2_that_is_not_for_us_takes_no_place(scene):
    far = scene.net.other_side(scene.client, scene.net.link_between(scene.client, scene.relay))
    scene.net.pump()
    scene.net.deliver(scene.relay, far, cell(0x80000007, Command.CREATE2, Create2(2, bytes(84)).encode()))
    assert scene.shown["circuits_total"] == 0 and not scene.relaying.circuits and not scene.relaying._of


def test_all_circuits_of_a_link_that_breaks_are_forgotten(scene):
    for _ in range(3):
        scene.build()
    scene.net.break_link(scene.client, scene.net.link_between(scene.client, scene.relay))
    assert not scene.relaying.circuits and not scene.relaying._of
    assert len(scene.relay.services.closed) == 3


def test_a_link_that_waits_for_many_next_hops_gets_no_more_and_others_do():
    """One link must not use up all dials of a node on nodes that do not exist."""
    scene = Scene()
    waiting = []
    scene.reach = lambda identity, reply, now, source, address: waiting.append(reply)
    modest = scene.net.add("modest", relays=False)
    gone = [scene.build(scene.relay, scene.last).gone for _ in range(MAX_REACHING + 3)]
    assert len(waiting) == MAX_REACHING
    assert [bool(reasons) for reasons in gone] == [False] * MAX_REACHING + [True] * 3
    scene.build(scene.relay, scene.last, client=modest)
    assert len(waiting) == MAX_REACHING + 1

    waiting.pop(0)(None, scene.net.now)
    scene.net.pump()
    scene.build(scene.relay, scene.last)
    scene.build(scene.relay, scene.last)
    assert len(waiting) == MAX_REACHING + 1
    for reply in waiting:
        reply(None, scene.net.now)
    assert not scene.relaying._reaching


def test_a_next_hop_is_reached_on_behalf_of_whoever_is_behind_the_link(scene):
    reached = []
    scene.reach = lambda identity, reply, now, source, address: reached.append((identity, source))
    scene.build(scene.relay, scene.last)
    [link] = scene.relay.links.values()
    assert reached == [(scene.last.keys.identity, link.source)] and link.source == link.channel


@pytest.mark.parametrize("proven", [False, True])
def test_extend2_back_to_the_previous_hop_is_refused_only_if_that_hop_proved_who_it_is(scene, proven):
    """Over a WebSocket link it did not (docs/threat-model.md)."""
    before, net = scene.last, scene.net
    if proven:
        net.prove(before, scene.relay)
    circuit = scene.build(before, scene.relay)
    _, onionskin = ntor.client_start(CRYPTO, bytes(range(32)), before.keys.onion.node_id, before.keys.ntor_public)
    say_early(circuit, RelayCommand.EXTEND2, extend_to(before, onionskin))
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]  # of the relay, or of the origin for an EXTENDED2 too many
    assert len(before.circuits) == (1 if proven else 2)


def test_whom_circuits_may_go_on_to_is_a_parameter(scene):
    address, reached = object(), []

    def next_hop(specifiers):
        if len(reached) == 1:
            raise RemoteError("nobody here")
        return bytes(32), address

    scene.relaying.next_hop = next_hop
    scene.reach = lambda identity, reply, now, source, address: reached.append((identity, address))
    scene.build(scene.relay, scene.last)
    assert reached == [(bytes(32), address)]
    assert scene.build(scene.relay, scene.last).gone == [DestroyReason.PROTOCOL] and len(reached) == 1


# -- streams


def test_a_stream_too_many_is_refused_and_the_circuit_lives():
    scene = Scene(RelayLimits(streams=3))
    one, two = scene.build(), scene.build()
    opened = [scene.open(circuit) for circuit in (one, two, one, two)]
    assert [handler.reason for _, handler in opened] == [None, None, None, EndReason.RESOURCELIMIT]
    assert scene.shown["streams"] == 3 and two.built
    opened[0][0].end(scene.net.now)
    scene.net.pump()
    assert scene.open(two)[1].reason is None


def test_a_full_node_takes_streams_from_sources_that_have_less_than_their_share():
    scene = Scene(RelayLimits(streams=6))
    modest = scene.net.add("modest", relays=False)
    greedy, other = scene.build(), scene.build(client=modest)
    taken = [[scene.open(circuit)[1].reason is None for _ in range(9)] for circuit in (greedy, other)]
    assert taken == [[True] * 6 + [False] * 3, [True] * 3 + [False] * 6]
    assert greedy.built and other.built
    for circuit in (greedy, other):
        circuit.destroy(DestroyReason.FINISHED, scene.net.now)
    scene.net.pump()
    assert scene.shown["streams"] == 0 and not scene.relaying._streams


def test_streams_of_a_circuit_that_is_destroyed_make_place():
    scene = Scene(RelayLimits(streams=2))
    one, two = scene.build(), scene.build()
    scene.open(one), scene.open(one)
    one.destroy(DestroyReason.FINISHED, scene.net.now)
    scene.net.pump()
    assert scene.shown["streams"] == 0
    assert scene.open(two)[1].reason is None


def test_streams_that_pass_through_do_not_count():
    scene = Scene(RelayLimits(streams=1))
    circuit = scene.build(scene.relay, scene.last)
    assert [scene.open(circuit)[1].reason for _ in range(3)] == [None] * 3
    assert scene.shown["streams"] == 0


def test_a_pipe_is_opened_where_no_other_stream_may_be():
    scene = Scene(RelayLimits(streams=1))
    scene.open(scene.build())
    assert scene.open(scene.build(), PIPE)[1].reason is None


# -- counting


def splice(scene):
    """A stream that the relay, as a rendezvous point, joins to a provider's."""
    point = RdvPoint(scene.relay.outbox, CRYPTO)
    scene.relay.services.on_begin = lambda *begin: point.begin(*begin, scene.net.now)
    scene.relay.services.message = lambda circuit, command, payload, now: point.message(circuit, payload, now)
    provided = Recorder()
    provider = scene.build(client=scene.net.add("provider", relays=False))

    def accept(target, stream, now):
        provided.pipe = stream
        return provided

    provider.on_begin = accept
    provider.send_message(RelayCommand.DB_INFO, DbInfo((Advert.add(NAME),)).encode())
    scene.net.pump()
    stream, _ = scene.open(scene.build(), format_rdv_target(NAME))
    return stream, provided


def test_a_splice_counts_as_two_streams_and_its_cells_once(scene):
    stream, provided = splice(scene)
    assert scene.shown["streams"] == 2
    before = scene.shown["cells"]
    stream.write(bytes(MAX_DATA * 20), scene.net.now)
    scene.net.pump()
    assert len(provided.received) == MAX_DATA * 20
    assert scene.shown["cells"] - before == 20
    stream.end(scene.net.now)
    scene.net.pump()
    assert scene.shown["streams"] == 0


@pytest.mark.parametrize("side", [0, 1])
def test_a_circuit_that_breaks_under_a_splice_leaves_no_stream(scene, side):
    stream, provided = splice(scene)
    stream.write(bytes(MAX_DATA * 20), scene.net.now)
    list(scene.relaying.circuits)[side].destroy(DestroyReason.INTERNAL, scene.net.now)
    scene.net.pump()
    assert scene.shown["streams"] == 0


def test_what_is_relayed_both_ways_is_counted_and_stays_counted(scene):
    circuit = scene.build(scene.relay, scene.last)
    before = scene.shown["cells"]
    stream, _ = scene.open(circuit)
    stream.write(bytes(MAX_DATA * 10), scene.net.now)
    scene.net.pump()
    assert scene.shown["cells"] - before == 12  # BEGIN, CONNECTED, ten DATA
    assert scene.shown["bytes"] == scene.shown["cells"] * CELL_LEN
    after = scene.shown["cells"]
    circuit.destroy(DestroyReason.FINISHED, scene.net.now)
    scene.net.pump()
    assert scene.shown["cells"] == after and scene.shown["circuits"] == 0 and scene.shown["circuits_total"] == 1


def test_the_snapshot_tells_the_limits(scene):
    assert scene.shown["limits"] == {"circuits": 32768, "streams": 8192, "volume": None, "rate": None, "burst": None}
    assert scene.shown["paused"] is False
    scene.set_limits(None)
    assert scene.shown["limits"] is None and scene.shown["paused"] is True


@pytest.mark.parametrize("limits", [{"circuits": 0}, {"streams": 0}, {"volume": CELL_LEN - 1}, {"rate": 0}])
def test_limits_that_relay_nothing_are_refused(limits):
    with pytest.raises(LocalError):
        RelayLimits(**limits)


# -- volume


def test_the_volume_is_reached_in_the_middle_of_a_stream():
    scene = Scene(RelayLimits(volume=300 * CELL_LEN))
    through, ending = scene.build(scene.relay, scene.last), scene.build()
    stream, handler = scene.open(through)
    stream.write(bytes(MAX_DATA * 1000), scene.net.now)
    scene.net.pump()
    assert through.gone == ending.gone == [DestroyReason.HIBERNATING] and handler.reason == EndReason.DESTROY
    assert all(circuit.closed for circuit in scene.last.circuits) and not scene.relaying.circuits
    assert scene.spent == [scene.net.now] and scene.relaying.paused and scene.shown["spent"]
    assert 300 <= scene.shown["cells"] < 300 + 1000
    circuit = scene.build()
    assert scene.open(circuit)[1].reason == EndReason.DESTROY and circuit.gone == [DestroyReason.HIBERNATING]


def test_volume_is_used_up_by_splices_and_streams_that_end_here():
    scene = Scene(RelayLimits(volume=100 * CELL_LEN))
    stream, provided = splice(scene)
    stream.write(bytes(MAX_DATA * 500), scene.net.now)
    scene.net.pump()
    assert provided.reason == EndReason.DESTROY and scene.relaying.paused
    scene = Scene(RelayLimits(volume=100 * CELL_LEN))
    _, handler = scene.open(scene.build())
    scene.relay.services.streams[0][0].write(bytes(MAX_DATA * 200), scene.net.now)
    scene.net.pump()
    assert handler.reason == EndReason.DESTROY and scene.relaying.paused


def test_a_pipe_outlives_the_volume_and_ends_nothing_again():
    scene = Scene(RelayLimits(volume=100 * CELL_LEN))
    stream, handler = scene.open(scene.build(), PIPE)
    circuit = scene.build(scene.relay, scene.last)
    passing, _ = scene.open(circuit)
    passing.write(bytes(MAX_DATA * 400), scene.net.now)
    scene.net.pump()
    assert circuit.gone and handler.reason is None
    waiting = scene.build()
    scene.relay.services.streams[0][0].write(b"still there", scene.net.now)
    scene.net.pump()
    assert handler.received == b"still there" and waiting.built and len(scene.spent) == 1
    stream.end(scene.net.now)
    scene.net.pump()
    assert handler.reason == EndReason.DONE and scene.shown["streams"] == 0


def test_more_volume_resumes_and_less_than_was_relayed_pauses():
    scene = Scene(RelayLimits(volume=50 * CELL_LEN))
    stream, _ = scene.open(scene.build(scene.relay, scene.last))
    stream.write(bytes(MAX_DATA * 100), scene.net.now)
    scene.net.pump()
    assert scene.relaying.paused
    scene.set_limits(RelayLimits(volume=10_000 * CELL_LEN))
    circuit = scene.build(scene.relay, scene.last)
    assert circuit.built and not scene.relaying.paused
    scene.set_limits(RelayLimits(volume=CELL_LEN))
    assert circuit.gone == [DestroyReason.HIBERNATING] and scene.relaying.paused
    assert len(scene.spent) == 1, "whoever set the limits knows"


# -- pause


def test_a_pause_ends_all_circuits_of_others(scene):
    circuits = [scene.build(), scene.build(scene.relay, scene.last)]
    scene.open(circuits[0])
    scene.set_limits(None)
    assert [circuit.gone for circuit in circuits] == [[DestroyReason.HIBERNATING]] * 2
    assert not scene.relaying.circuits and all(circuit.closed for circuit in scene.last.circuits)
    assert scene.shown["streams"] == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda circuit, last: say(circuit, RelayCommand.BEGIN, 5, Begin("host.example", 80).encode()),
        lambda circuit, last: say(circuit, RelayCommand.BEGIN, 5, Begin(f"{'0' * 64}.rdv", 0).encode()),
        lambda circuit, last: say(circuit, RelayCommand.RESOLVE, 5, b"host.example\0"),
        lambda circuit, last: say(circuit, RelayCommand.DB_INFO, 0, DbInfo((Advert.add(NAME),)).encode()),
        lambda circuit, last: say_early(circuit, RelayCommand.EXTEND2, extend_to(last)),
    ],
)
def test_a_paused_node_does_nothing_that_is_asked_of_it(scene, ask):
    scene.set_limits(None)
    circuit = scene.build()
    assert circuit.built
    ask(circuit, scene.last)
    scene.net.pump()
    assert circuit.gone == [DestroyReason.HIBERNATING] and not scene.relaying.circuits
    services = scene.relay.services
    assert not services.targets and not services.messages and not services.resolves and not scene.last.circuits


def test_a_paused_node_still_takes_pipes_and_keeps_those_it_has(scene):
    circuit = scene.build()
    old, old_handler = scene.open(circuit, PIPE)
    scene.set_limits(None)
    assert circuit.built and old_handler.reason is None
    new, new_handler = scene.open(scene.build(), PIPE)
    for stream in (old, new):
        stream.write(b"record", scene.net.now)
    scene.net.pump()
    assert [handler.received for _, handler in scene.relay.services.streams] == [b"record"] * 2
    assert scene.shown["circuits"] == 0, "pipes relay nothing"


@pytest.mark.parametrize("pipe_first", [True, False])
def test_a_pipe_protects_nothing_else_on_its_circuit(scene, pipe_first):
    circuit = scene.build()
    for target in (PIPE, "host.example:80") if pipe_first else ("host.example:80", PIPE):
        scene.open(circuit, target)
    scene.set_limits(None)
    assert circuit.gone == [DestroyReason.HIBERNATING]


def test_a_pipe_protects_no_circuit_that_was_extended(scene):
    circuit = scene.build()
    scene.open(circuit, PIPE)
    say_early(circuit, RelayCommand.EXTEND2, extend_to(scene.last))
    scene.set_limits(None)
    assert circuit.gone == [DestroyReason.HIBERNATING]


def test_what_else_is_asked_on_a_pipes_circuit_during_a_pause_ends_it(scene):
    circuit = scene.build()
    _, handler = scene.open(circuit, PIPE)
    scene.set_limits(None)
    scene.open(circuit)
    assert circuit.gone == [DestroyReason.HIBERNATING] and handler.reason == EndReason.DESTROY


def test_circuits_are_few_during_a_pause_but_every_link_may_have_one(scene):
    other = scene.net.add("other", relays=False)
    scene.net.link_between(other, scene.relay)
    scene.set_limits(None)
    circuits = [scene.build() for _ in range(MAX_PAUSED + 1)]
    assert circuits[-1].gone == [DestroyReason.HIBERNATING] and circuits[-2].built
    assert scene.build(client=other).built


def test_after_a_pause_it_goes_on(scene):
    scene.set_limits(None)
    scene.set_limits(RelayLimits())
    circuit = scene.build(scene.relay, scene.last)
    assert circuit.built and scene.open(circuit)[1].reason is None and scene.open(scene.build())[1].reason is None


def test_a_node_may_start_paused():
    scene = Scene(None)
    assert scene.relaying.paused and scene.open(scene.build())[1].reason == EndReason.DESTROY
    assert scene.open(scene.build(), PIPE)[1].reason is None


# -- rate


def test_the_rate_holds_for_all_circuits_together_and_the_memory_is_the_windows():
    rate = 1000 * CELL_LEN
    scene = Scene(RelayLimits(rate=rate))
    circuits = [scene.build(scene.relay, scene.last) for _ in range(4)]
    streams = [scene.open(circuit)[0] for circuit in circuits]
    scene.net.tick(10)  # the burst is there
    start = scene.shown["cells"]
    for stream in streams:
        stream.write(bytes(MAX_DATA * 2000), scene.net.now)
    scene.net.pump()
    received = [handler for _, handler in scene.last.services.streams]

    def cells():
        return sum(len(handler.received) for handler in received) // MAX_DATA

    assert 900 <= cells() <= 1001
    for second in range(1, 5):
        for _ in range(40):
            scene.net.tick(0.025)
            assert all(link.queued <= 4 * 500 * 2 * CELL_LEN for link in scene.relay.links.values())
        assert 850 * (second + 1) <= cells() <= 1001 * (second + 1)
    shares = [len(handler.received) for handler in received]
    assert max(shares) < 1.5 * min(shares)
    scene.set_limits(RelayLimits())
    assert cells() == 8000, "without a limit all goes at once"
    assert scene.shown["cells"] > start


def test_a_pause_ends_at_once_what_the_rate_held():
    scene = Scene(RelayLimits(rate=CELL_LEN))
    circuit = scene.build(scene.relay, scene.last)
    stream, _ = scene.open(circuit)
    stream.write(bytes(MAX_DATA * 500), scene.net.now)
    scene.net.pump()
    assert any(link.queued for link in scene.relay.links.values())
    scene.set_limits(None)
    assert circuit.gone == [DestroyReason.HIBERNATING] and all(circuit.closed for circuit in scene.last.circuits)
    assert not any(link.queued for link in scene.relay.links.values())
