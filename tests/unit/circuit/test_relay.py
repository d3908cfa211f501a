"""A circuit at a relay: what it forwards, extends and answers, and what it closes for."""

from dataclasses import replace

import pytest

from convergence.circuit.relay import BUSY, CREATE_TIMEOUT, MAX_REPLY, ORPHAN_LIMIT, REACH_TIMEOUT, RelayCircuit
from convergence.crypto.keys import NodeKeys
from convergence.errors import DestroyReason, EndReason
from convergence.link.handshake import HANDSHAKE_TIMEOUT
from convergence.link.link import MAX_CIRCUITS, MAX_UNANSWERED
from convergence.wire.cells import CELL_LEN, PAYLOAD_LEN, Command
from convergence.wire.create import Create2, Created2
from convergence.wire.linkspec import LinkSpecifier, ed25519_specifier
from convergence.wire.relay import MAX_RELAY_EARLY, Begin, Extend2, RelayCommand, pack_message
from tests.unit.circuit.rig import CRYPTO, Net, cell, say, say_early


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def client(net):
    return net.add("client", relays=False)


def extend_to(machine_or_identity, data=bytes(84), handshake_type=2):
    keys = getattr(machine_or_identity, "keys", None)
    identity = machine_or_identity if keys is None else keys.identity
    return Extend2((ed25519_specifier(identity),), handshake_type, data).encode()


def client_link(client):
    [link] = client.links.values()
    return link


def say_at(circuit, hop, command, payload=b""):
    """One relay message to a hop that is not the last."""
    run, _ = circuit._hops[hop].keys.forward.seal_run([pack_message(command, 0, payload)])
    for layer in reversed(circuit._hops[: hop + 1]):
        run = layer.keys.forward.crypt(run)
    client_link(circuit.client).send(circuit.id, Command.RELAY, run)


# -- CREATE2


@pytest.mark.parametrize(
    "payload",
    [
        Create2(2, bytes(84)).encode(),  # for another node
        Create2(2, b"").encode(),
        Create2(2, bytes(83)).encode(),
        Create2(0, bytes(186)).encode(),  # TAP
        Create2(3, bytes(300)).encode(),  # ntor v3
        Create2(77, b"x").encode(),
        b"\0\2\xff\xff",
    ],
)
def test_a_create2_that_is_not_for_us_is_refused(net, client, payload):
    [relay] = net.relays(1)
    link = net.link_between(client, relay)
    net.pump()
    seen = []
    net.tap = lambda sender, receiver, data: seen.append((data[4], data[5])) or data
    far = net.other_side(client, link)
    net.deliver(relay, far, cell(0x80000007, Command.CREATE2, payload))
    assert seen == [(Command.DESTROY, DestroyReason.PROTOCOL)]
    assert not far.circuits and far.open


def test_a_relay_accepts_its_ntor_key_before_this_one(net, client):
    [relay] = net.relays(1)
    old = relay.target
    fresh = NodeKeys.generate(CRYPTO, relay.rng)
    relay.keys = replace(
        relay.keys,
        ntor_secret=fresh.ntor_secret,
        ntor_public=fresh.ntor_public,
        previous=(relay.keys.ntor_public, relay.keys.ntor_secret),
    )
    assert net.build(client, [relay], targets=[old]).built
    assert net.build(client, [relay]).built


# -- link cells that a relay's circuit does not expect


@pytest.mark.parametrize("command", [Command.CREATED2, Command.CREATE2, Command.CREATE_FAST])
def test_unexpected_link_cells_from_the_origin_close(net, client, command):
    path = net.relays(2)
    circuit = net.build(client, path)
    far = net.other_side(client, client_link(client))
    net.deliver(path[0], far, cell(circuit.id, command, Created2(bytes(64)).encode()))
    assert circuit.gone == [DestroyReason.PROTOCOL]
    assert path[0].circuits[0].closed and path[1].circuits[0].closed


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (Command.CREATED2, Created2(bytes(64)).encode()),
        (Command.CREATE2, Create2(2, bytes(84)).encode()),
        (Command.RELAY_EARLY, bytes(PAYLOAD_LEN)),
    ],
)
def test_unexpected_link_cells_from_the_next_hop_cut_the_circuit_there(net, client, command, payload):
    one, two = net.relays(2)
    circuit = net.build(client, [one, two])
    link = net.link_between(one, two)
    [circ_id] = link.circuits
    net.deliver(one, link, cell(circ_id, command, payload))
    assert circuit.gone == [DestroyReason.PROTOCOL]  # TRUNCATED with that reason
    assert two.circuits[0].closed and one.circuits[0].closed


def test_relay_cells_from_the_next_hop_before_its_created2(net, client):
    one, two = net.relays(2)
    link = net.link_between(one, two)
    net.pump()
    net.hold(one, link)
    circuit = net.build(client, [one, two])
    [circ_id] = link.circuits
    net.deliver(one, link, cell(circ_id, Command.RELAY))
    assert circuit.gone == [DestroyReason.PROTOCOL] and two.circuits[0].closed


def test_created_fast_from_the_next_hop_answers_no_create2(net, client):
    one, two = net.relays(2)
    link = net.link_between(one, two)
    net.pump()
    net.hold(one, link)
    circuit = net.build(client, [one, two])
    [circ_id] = link.circuits
    net.deliver(one, link, cell(circ_id, Command.CREATED_FAST, bytes(40)))
    assert circuit.gone == [DestroyReason.PROTOCOL] and circuit.hops_built == 1
    assert two.circuits[0].closed and one.circuits[0].closed
    assert client.events == [], "the origin was told so; it did not find out by itself"


@pytest.mark.parametrize("size", [MAX_REPLY + 1, 507])
def test_a_created2_too_long_to_pass_on_truncates(net, client, size):
    """CREATED2 can hold more than EXTENDED2: a hostile next hop must not make a relay fail."""
    one, two = net.relays(2)
    circuit = net.build(client, [one])
    link = net.link_between(one, two)
    net.pump()
    net.hold(one, link)
    say_early(circuit, RelayCommand.EXTEND2, extend_to(two))
    net.pump()
    [circ_id] = link.circuits
    net.deliver(one, link, cell(circ_id, Command.CREATED2, Created2(bytes(size)).encode()))
    assert circuit.gone == [DestroyReason.PROTOCOL]


# -- EXTEND2


def test_extend2_outside_relay_early_is_refused(net, client):
    one, two = net.relays(2)
    circuit = net.build(client, [one])
    say(circuit, RelayCommand.EXTEND2, 0, extend_to(two))
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and not two.links


def test_extend2_twice_is_refused(net, client):
    one, two, three = net.relays(3)
    circuit = net.build(client, [one])
    say_early(circuit, RelayCommand.EXTEND2, extend_to(two))
    say_early(circuit, RelayCommand.EXTEND2, extend_to(three))
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and not three.circuits


def test_extend2_to_itself_or_the_unknown_truncates(net, client):
    [one] = net.relays(1)
    for identity in (one.keys.identity, bytes(32)):
        circuit = net.build(client, [one])
        say_early(circuit, RelayCommand.EXTEND2, extend_to(identity))
        net.pump()
        assert circuit.gone == [DestroyReason.CONNECTFAILED]


def test_extend2_over_a_link_that_is_full_truncates(net, client):
    one, two = net.relays(2)
    link = net.link_between(one, two)
    net.pump()
    link.circuits.update((number, None) for number in range(MAX_CIRCUITS))
    circuit = net.build(client, [one, two])
    assert circuit.gone == [DestroyReason.RESOURCELIMIT]
    link.circuits.clear()


def test_extend2_over_a_crowded_link_truncates_circuits_of_the_link_that_asks_for_many(net, client, monkeypatch):
    one, two = net.relays(2)
    modest = net.add("modest", relays=False)
    crowding = net.build(client, [one, two])
    link = net.link_between(one, two)
    link.set_congested(True, net.now)
    monkeypatch.setattr("convergence.link.link.CROWDED", 10 * CELL_LEN)
    for _ in range(11):
        say(crowding, RelayCommand.DROP)
    circuits = [net.build(client, [one, two]) for _ in range(MAX_UNANSWERED + 3)]
    others = [net.build(modest, [one, two]) for _ in range(MAX_UNANSWERED)]
    assert [circuit.gone for circuit in circuits[MAX_UNANSWERED:]] == [[DestroyReason.RESOURCELIMIT]] * 3
    net.congest(one, link, False)
    assert all(circuit.built for circuit in [*circuits[:MAX_UNANSWERED], *others]) and not crowding.gone


def test_circuits_that_are_dropped_before_they_are_asked_for_cost_the_next_hop_nothing(net, client):
    one, two = net.relays(2)
    link = net.link_between(one, two)
    net.pump()
    link.set_congested(True, net.now)
    for _ in range(5):
        net.build(client, [one, two]).destroy(DestroyReason.FINISHED, net.now)
    net.pump()
    assert link.queued == 0 and not link.circuits
    net.congest(one, link, False)
    assert not two.circuits


def test_extend2_over_a_link_that_breaks_truncates(net, client):
    one, two = net.relays(2)
    link = net.link_between(one, two)
    net.pump()
    net.hold(two, net.other_side(one, link))
    circuit = net.build(client, [one, two])
    net.break_link(one, link)
    assert circuit.gone == [DestroyReason.CHANNEL_CLOSED]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01\x03\x20" + bytes(31),
        Extend2((), 2, bytes(84)).encode(),
        Extend2((LinkSpecifier(0, bytes(6)),), 2, bytes(84)).encode(),
        b"\x00\x00\x02\xff\xff",
    ],
)
def test_a_malformed_extend2_is_refused(net, client, payload):
    [one] = net.relays(1)
    circuit = net.build(client, [one])
    say_early(circuit, RelayCommand.EXTEND2, payload)
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


@pytest.mark.parametrize(("data", "kind"), [(bytes(84), 2), (b"", 2), (bytes(84), 77)])
def test_the_next_hops_refusal_is_told_to_the_origin(net, client, data, kind):
    one, two = net.relays(2)
    circuit = net.build(client, [one])
    say_early(circuit, RelayCommand.EXTEND2, extend_to(two, data, kind))
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and not two.circuits
    assert not net.link_between(one, two).circuits


def test_an_answer_of_a_link_that_comes_too_late_is_ignored(net, client):
    one, two = net.relays(2)
    replies = []
    one.reach = lambda identity, reply, now: replies.append(reply)
    circuit = net.build(client, [one, two])
    circuit.destroy(DestroyReason.TIMEOUT, net.now)
    net.pump()
    link = net.link_between(one, two)
    net.pump()
    replies[0](link, net.now)
    net.pump()
    assert not link.circuits and not two.circuits


def test_a_link_that_never_comes_ends_the_extension(net, client):
    one, two = net.relays(2)
    replies = []
    one.reach = lambda identity, reply, now: replies.append(reply)
    circuit = net.build(client, [one])
    say_early(circuit, RelayCommand.EXTEND2, extend_to(two))
    net.pump()
    net.tick(REACH_TIMEOUT - 1)
    assert circuit.gone == [] and len(replies) == 1
    net.tick(1)
    assert circuit.gone == [DestroyReason.TIMEOUT]


def test_a_next_hop_that_never_answers_ends_the_extension(net, client):
    one, two = net.relays(2)
    two._create = lambda link, circ_id, payload, now: None
    circuit = net.build(client, [one])
    say_early(circuit, RelayCommand.EXTEND2, extend_to(two))
    net.pump()
    net.tick(CREATE_TIMEOUT - 1)
    assert circuit.gone == [] and len(net.link_between(one, two).circuits) == 1
    net.tick(1)
    assert circuit.gone == [DestroyReason.TIMEOUT] and not net.link_between(one, two).circuits


def test_a_circuit_that_stands_sets_no_timer(net, client):
    one, two = net.relays(2)
    net.build(client, [one, two])
    net.tick(HANDSHAKE_TIMEOUT)
    assert one.outbox.deadline() is None and two.outbox.deadline() is None and client.outbox.deadline() is None


# -- RELAY_EARLY


def test_eight_relay_early_pass_and_the_ninth_closes(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)  # one is used up
    for _ in range(MAX_RELAY_EARLY - 1):
        say_early(circuit, RelayCommand.DROP)
    net.pump()
    assert circuit.built
    say_early(circuit, RelayCommand.DROP)
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


def test_relay_early_stays_early_on_its_way(net, client):
    path = net.relays(3)
    circuit = net.build(client, path)
    commands = []
    net.tap = lambda sender, receiver, data: commands.append(data[4]) or data
    say_early(circuit, RelayCommand.DROP)
    net.pump()
    assert commands == [Command.RELAY_EARLY] * 3


# -- forwarding


def test_a_cell_that_is_for_nobody_closes_at_the_last_hop(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    client_link(client).send(circuit.id, Command.RELAY, bytes(PAYLOAD_LEN))
    net.pump()
    assert circuit.closed and all(machine.circuits[0].closed for machine in path)


def test_cells_for_the_middle_hop_may_be_between_those_for_the_last(net, client):
    """The origin may speak to any hop: a run is split at the cells that are for this one."""
    one, two = net.relays(2)
    circuit = net.build(client, [one, two])
    first = circuit._hops[0].keys.forward
    stream, _ = net.open(circuit)
    link = client_link(client)
    link.set_congested(True, net.now)

    def to_last(data):
        say(circuit, RelayCommand.DATA, stream.id, data)

    def to_first(command):
        link.send(circuit.id, Command.RELAY, first.crypt(first.seal(pack_message(command, 0))))

    to_last(b"one ")
    to_first(RelayCommand.DROP)
    to_last(b"two ")
    to_last(b"three ")
    to_first(RelayCommand.DROP)
    to_last(b"four")
    net.congest(client, link, False)
    assert two.services.streams[0][1].received == b"one two three four"
    assert circuit.built


def test_cells_for_a_next_hop_that_is_not_there_yet_close(net, client):
    one, two = net.relays(2)
    one.reach = lambda identity, reply, now: None  # dialling
    circuit = net.build(client, [one])
    say_early(circuit, RelayCommand.EXTEND2, extend_to(two))
    client_link(client).send(circuit.id, Command.RELAY, bytes(PAYLOAD_LEN))
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and one.circuits[0].closed


@pytest.mark.parametrize("hop", [0, 1])
def test_nothing_of_a_batch_is_handled_after_the_cell_that_closed_the_circuit(net, client, hop):
    path = net.relays(2)
    circuit = net.build(client, path)
    services = path[hop].services
    services.on_begin = lambda circuit, stream_id, begin: circuit.destroy(DestroyReason.RESOURCELIMIT, net.now)
    cells = [pack_message(RelayCommand.BEGIN, number, Begin("host", 80).encode()) for number in (1, 2)]
    run, _ = circuit._hops[hop].keys.forward.seal_run(cells)
    for layer in reversed(circuit._hops[: hop + 1]):
        run = layer.keys.forward.crypt(run)
    client_link(client).send(circuit.id, Command.RELAY, run)
    net.pump()
    assert services.targets == ["host:80"] and circuit.closed
    assert all(machine.circuits[0].closed for machine in path)


def test_truncate_cuts_behind_the_hop(net, client):
    one, two = net.relays(2)
    circuit = net.build(client, [one, two])
    say_at(circuit, 0, RelayCommand.TRUNCATE, b"\3")
    net.pump()
    assert two.circuits[0].closed
    assert circuit.gone == [DestroyReason.REQUESTED]  # the origin gives a truncated circuit up


@pytest.mark.parametrize(
    "end",
    [
        lambda net, circuit, one: circuit.destroy(DestroyReason.FINISHED, net.now),
        lambda net, circuit, one: net.break_link(circuit.client, client_link(circuit.client)),
        lambda net, circuit, one: one.circuits[0].destroy(DestroyReason.HIBERNATING, net.now),
        lambda net, circuit, one: say_at(circuit, 0, RelayCommand.TRUNCATE, b"\3"),
    ],
    ids=["finished", "link lost", "paused", "truncated"],
)
def test_how_a_circuit_ends_does_not_tell_the_next_hop_whose_it_was(net, client, end, monkeypatch):
    """A relay is an origin too. An origin tells no reasons; nor does it for others, away from their origin."""
    one, two = net.relays(2)
    circuit = net.build(client, [one, two])
    reasons = []
    destroyed = RelayCircuit.destroyed

    def keep(self, reason, now):
        if self is two.circuits[0]:
            reasons.append(reason)
        destroyed(self, reason, now)

    monkeypatch.setattr(RelayCircuit, "destroyed", keep)
    end(net, circuit, one)
    net.pump()
    assert reasons == [DestroyReason.NONE]


def test_truncate_at_the_last_hop_is_answered(net, client):
    [one] = net.relays(1)
    circuit = net.build(client, [one])
    say(circuit, RelayCommand.TRUNCATE)
    net.pump()
    assert circuit.gone == [DestroyReason.REQUESTED]


# -- what the last hop does with messages


@pytest.mark.parametrize(
    ("command", "stream_id", "payload"),
    [
        (RelayCommand.EXTENDED2, 0, b""),
        (RelayCommand.EXTEND, 0, b""),
        (RelayCommand.TRUNCATED, 0, b""),
        (RelayCommand.BEGIN_DIR, 5, b""),
        (RelayCommand.BEGIN, 0, Begin("host", 80).encode()),
        (RelayCommand.BEGIN, 0x8005, Begin("host", 80).encode()),  # the relay's half of the ids
        (RelayCommand.CONNECTED, 5, b""),
        (RelayCommand.DATA, 0, b"data"),
        (RelayCommand.DATA, 5, b"data"),
        (RelayCommand.END, 5, b""),
        (RelayCommand.SENDME, 5, b""),
        (RelayCommand.SENDME, 0, b""),
        (RelayCommand.SENDME, 0, b"\0\0\0"),
        (RelayCommand.SENDME, 0, b"\1\0\x14" + bytes(20)),
        (RelayCommand.RESOLVE, 5, b"no end"),
        (RelayCommand.RESOLVE, 0, b"host\0"),
        (RelayCommand.RESOLVED, 5, b""),
        (77, 0, b""),
        (77, 5, b""),
    ],
)
def test_messages_that_have_no_place_close_the_circuit(net, client, command, stream_id, payload):
    path = net.relays(2)
    circuit = net.build(client, path)
    say(circuit, command, stream_id, payload)
    net.pump()
    assert circuit.gone and all(machine.circuits[0].closed for machine in path)


def test_begin_on_a_stream_id_in_use_closes(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    stream, _ = net.open(circuit)
    say(circuit, RelayCommand.BEGIN, stream.id, Begin("host", 80).encode())
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


@pytest.mark.parametrize("payload", [b"", b"host.example:80", b":80\0", b"host\0", b"host:99999\0", b"\xff:80\0"])
def test_a_malformed_begin_ends_the_stream_only(net, client, payload):
    path = net.relays(2)
    circuit = net.build(client, path)
    stream, handler = net.open(circuit)
    circuit._endpoint.entries[77] = circuit._endpoint.entries[stream.id]
    say(circuit, RelayCommand.BEGIN, 77, payload)
    net.pump()
    assert handler.reason == EndReason.TORPROTOCOL and circuit.built


def test_db_info_goes_to_the_services(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    circuit.send_message(RelayCommand.DB_INFO, b"adverts")
    net.pump()
    assert path[-1].services.messages == [b"adverts"] and path[0].services.messages == []


# -- closing


def test_a_dead_next_hop_is_told_with_truncated(net, client):
    path = net.relays(3)
    circuit = net.build(client, path)
    path[2].circuits[0].destroy(DestroyReason.HIBERNATING, net.now)
    net.pump()
    assert circuit.gone == [DestroyReason.HIBERNATING]
    assert all(machine.circuits[0].closed for machine in path)


@pytest.mark.parametrize("jump", [-3600.0, 0.0, 3600.0])
@pytest.mark.parametrize(("idle", "at_once"), [(BUSY - 1, 8), (BUSY, 0)])
def test_idle_circuits_of_a_link_that_breaks_end_one_by_one_whatever_the_clock_did(net, client, jump, idle, at_once):
    """And those that carried cells lately end at once."""
    entry, point = net.relays(2)
    for _ in range(8):
        net.build(client, [entry, point])
    for machine in net.machines:
        machine.outbox.shift(jump)
    net.now += jump + idle
    net.break_link(client, client_link(client))
    assert len(point.services.closed) == at_once
    net.tick(ORPHAN_LIMIT / 2)
    assert at_once or 0 < len(point.services.closed) < 8
    net.tick(ORPHAN_LIMIT / 2)
    assert len(point.services.closed) == 8


def test_services_hear_of_each_end_once(net, client):
    path = net.relays(3)
    circuit = net.build(client, path)
    net.open(circuit)
    circuit.destroy(DestroyReason.FINISHED, net.now)
    net.pump()
    for machine in path:
        assert machine.services.closed == machine.circuits
        machine.circuits[0].destroy(DestroyReason.INTERNAL, net.now)
        assert not any(link.circuits for link in machine.links.values())
    assert path[-1].services.streams[0][1].reason == EndReason.DESTROY


def test_cells_sent_for_others_are_counted(net, client):
    middle, last = path = net.relays(2)
    circuit = net.build(client, path)
    before = middle.services.cells, last.services.cells
    stream, _ = net.open(circuit)
    stream.write(bytes(498 * 10), net.now)
    net.pump()
    assert middle.services.cells - before[0] == 12  # BEGIN, CONNECTED, ten DATA
    assert last.services.cells - before[1] == 1  # CONNECTED


def test_a_full_queue_sheds_the_circuit_while_it_forwards(net, client, monkeypatch):
    """The circuit that floods a link which takes nothing is destroyed; another one on it lives."""
    one, two = net.relays(2)
    victim, other = net.build(client, [one, two]), net.build(client, [one, two])
    link = net.link_between(one, two)
    link.set_congested(True, net.now)
    monkeypatch.setattr("convergence.link.link.MAX_QUEUED", 100 * CELL_LEN)
    for _ in range(200):
        say(victim, RelayCommand.DROP)
    net.pump()
    assert victim.gone and not other.gone
    net.congest(one, link, False)
    assert other.built and two.circuits[0].closed and not two.circuits[1].closed
