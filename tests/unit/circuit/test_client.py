"""A circuit at its origin: building, layers, and what relays cannot make it believe."""

import pytest

from convergence.circuit.client import HOP_TIMEOUT, MAX_HOPS
from convergence.crypto.keys import NodeKeys
from convergence.errors import DestroyReason, EndReason, LocalError
from convergence.events import CircuitBroken
from convergence.wire.cells import CELL_LEN, PAYLOAD_LEN, Command
from convergence.wire.create import Created2
from convergence.wire.descriptor import Descriptor
from convergence.wire.relay import Begin, Extended2, RelayCommand, Sendme
from convergence.wire.target import Role
from tests.unit.circuit.rig import CRYPTO, Net, Recorder, SeededRng, cell, say


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def client(net):
    return net.add("client", relays=False)


@pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))
def test_a_circuit_is_built_hop_by_hop(net, client, hops):
    path = net.relays(hops)
    circuit = net.build(client, path)
    assert circuit.built and circuit.hops_built == hops and circuit.times_built == [circuit]
    stream, handler = net.open(circuit)
    assert handler.calls == ["opened"]
    assert [machine.services.targets for machine in path] == [[]] * (hops - 1) + [["host.example:80"]]
    stream.write(b"up", net.now)
    net.pump()
    end, far = path[-1].services.streams[0]
    end.write(b"down", net.now)
    net.pump()
    assert (far.received, handler.received) == (b"up", b"down")


def test_its_builder_hears_of_each_hop_but_the_last(net, client):
    circuit = net.build(client, net.relays(4), pump=False)
    heard = []
    circuit.on_hop = lambda now: heard.append(circuit.hops_built)
    net.pump()
    assert heard == [1, 2, 3] and circuit.built


@pytest.mark.parametrize("size", [1, 7, 100, CELL_LEN - 1, CELL_LEN + 1])
def test_cells_may_be_cut_anywhere(size):
    net = Net(cut=lambda data: [data[at : at + size] for at in range(0, len(data), size)])
    client = net.add("client", relays=False)
    circuit = net.build(client, net.relays(3))
    stream, handler = net.open(circuit)
    stream.write(b"x" * 5000, net.now)
    net.pump()
    _, far = net.machines[-1].services.streams[0]
    assert far.received == b"x" * 5000


@pytest.mark.parametrize("size", [0, 1, 497, 498, 499, 996, 65_536, 2 << 20])
def test_data_arrives_both_ways(net, client, size):
    circuit = net.build(client, net.relays(3))
    up, down = SeededRng("up").random(size), SeededRng("down").random(size)
    stream, handler = net.open(circuit)
    end, far = net.machines[-1].services.streams[0]
    stream.write(up, net.now)
    end.write(down, net.now)
    net.pump()
    stream.end(net.now)
    net.pump()
    assert far.received == up and handler.received == down
    assert far.reason == EndReason.DONE and handler.reason == EndReason.DONE, "all has gone out"


def test_no_relay_learns_what_passes(net, client):
    """Layer by layer: only the last hop sees what is sent, no two links carry the same cells."""
    seen = {}
    marker = b"the marker text of this test" * 10

    def tap(sender, receiver, data):
        seen.setdefault((sender.name, receiver.name), bytearray()).extend(data)
        return data

    circuit = net.build(client, net.relays(3))
    net.tap = tap
    stream, _ = net.open(circuit)
    stream.write(marker, net.now)
    net.pump()
    assert marker in net.machines[-1].services.streams[0][1].received
    cells = set()
    for data in seen.values():
        assert b"marker" not in data and b"host.example" not in data
        bodies = {bytes(data[at + 5 : at + CELL_LEN]) for at in range(0, len(data), CELL_LEN)}
        assert not cells & bodies
        cells |= bodies


@pytest.mark.parametrize("hops", [1, 3])
def test_a_hop_that_never_answers_ends_the_circuit(net, client, hops):
    path = net.relays(hops)
    path[-1]._create = lambda link, circ_id, payload, now: None
    circuit = net.build(client, path)
    net.hold(client, first_link(net, client))  # or the hop before would tell, which gives up sooner
    net.tick(HOP_TIMEOUT - 1)
    assert circuit.gone == []
    net.tick(1)
    assert circuit.gone == [DestroyReason.TIMEOUT] and not first_link(net, client).circuits


def test_a_path_has_1_to_5_distinct_hops(net, client):
    relays = net.relays(6)
    for path in ([], relays, [relays[0], relays[1], relays[0]]):
        with pytest.raises(LocalError):
            net.build(client, relays[:1], targets=[relay.target for relay in path])


def test_create_fast_is_never_sent(net, client):
    commands = set()

    def tap(sender, receiver, data):
        if sender is client and len(data) % CELL_LEN == 0:
            commands.update(data[at + 4] for at in range(0, len(data), CELL_LEN))
        return data

    net.tap = tap
    net.build(client, net.relays(2))
    assert Command.CREATE2 in commands and Command.CREATE_FAST not in commands and Command.CREATE not in commands


# -- relays that misbehave


def broken(client):
    return [event.reason for event in client.events if isinstance(event, CircuitBroken)]


def first_link(net, client):
    [link] = client.links.values()
    return link


def test_a_first_hop_without_the_key_is_refused(net, client):
    [relay] = net.relays(1)
    other = NodeKeys.generate(CRYPTO, SeededRng("other"))
    wrong = Descriptor(relay.keys.identity, other.ntor_public, 0, 1 << 40, Role(7), ())
    circuit = net.build(client, [relay], targets=[wrong.target])
    assert circuit.gone == [DestroyReason.PROTOCOL] and not circuit.times_built


def test_a_created2_that_does_not_authenticate_closes(net, client):
    [relay] = net.relays(1)
    circuit = net.build(client, [relay], pump=False)
    net.deliver(client, first_link(net, client), cell(circuit.id, Command.CREATED2, Created2(bytes(64)).encode()))
    assert circuit.gone == [DestroyReason.PROTOCOL]


@pytest.mark.parametrize("reply", [bytes(64), b"", bytes(63), b"\xff" * 64])
def test_an_extended2_that_does_not_authenticate_closes(net, client, reply):
    one, two = net.relays(2)
    circuit = net.build(client, [one, two], pump=False)
    # The first hop answers EXTEND2 itself.
    answer = Extended2(reply).encode()
    one.reach = lambda *arguments: say(one.circuits[0], RelayCommand.EXTENDED2, 0, answer)
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and not circuit.times_built


@pytest.mark.parametrize(
    ("command", "stream_id", "payload"),
    [
        (RelayCommand.EXTENDED2, 0, Extended2(bytes(64)).encode()),
        (RelayCommand.CONNECTED, 5, b""),
        (RelayCommand.DATA, 5, b"data"),
        (RelayCommand.END, 5, b"\6"),
        (RelayCommand.SENDME, 5, b""),
        (RelayCommand.RESOLVED, 5, b""),
        (RelayCommand.RESOLVE, 5, b"host.example\0"),
        (RelayCommand.EXTEND2, 0, b""),
        (RelayCommand.TRUNCATE, 0, b""),
        (RelayCommand.DB_INFO, 0, b""),
        (RelayCommand.SENDME, 0, Sendme(1, bytes(20)).encode()),
        (RelayCommand.SENDME, 0, b""),
        (RelayCommand.BEGIN, 0, Begin("host", 80).encode()),
        (RelayCommand.BEGIN, 5, Begin("host", 80).encode()),
        (77, 0, b""),
        (77, 9, b""),
    ],
)
def test_what_was_not_asked_for_closes_the_circuit(net, client, command, stream_id, payload):
    path = net.relays(2)
    circuit = net.build(client, path)
    say(path[-1].circuits[0], command, stream_id, payload)
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and len(broken(client)) == 1
    assert all(machine.circuits[0].closed for machine in path)


def test_drop_and_padding_are_ignored(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    say(path[-1].circuits[0], RelayCommand.DROP, 0, b"noise")
    say(path[-1].circuits[0], RelayCommand.DROP, 7, b"noise")
    net.pump()
    assert circuit.built


@pytest.mark.parametrize("command", [RelayCommand.CONNECTED, RelayCommand.DATA, RelayCommand.END, RelayCommand.SENDME])
def test_a_middle_hop_cannot_speak_for_the_last(net, client, command):
    path = net.relays(3)
    circuit = net.build(client, path)
    stream, handler = net.open(circuit)
    say(path[1].circuits[0], command, stream.id, b"injected")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]
    assert handler.received == b"" and handler.reason == EndReason.DESTROY
    assert "not the last" in broken(client)[0]


def test_what_the_last_hop_said_before_a_middle_hop_spoke_is_kept(net, client):
    """Both are in one batch: the run is split where the middle hop's cell is."""
    path = net.relays(3)
    circuit = net.build(client, path)
    _, handler = net.open(circuit)
    end, _ = path[-1].services.streams[0]
    first = net.other_side(client, first_link(net, client))
    end.write(b"from the exit", net.now)
    net.congest(path[0], first)
    net.pump()
    say(path[0].circuits[0], RelayCommand.DATA, 1, b"injected")
    net.congest(path[0], first, False)
    assert handler.received == b"from the exit"
    assert circuit.gone == [DestroyReason.PROTOCOL]


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_tagged_cell_closes_the_circuit(net, client, hop):
    """One bit changed on the way back (or by any relay): no digest fits at the origin."""
    path = net.relays(3)
    circuit = net.build(client, path)
    _, handler = net.open(circuit)
    end, _ = path[-1].services.streams[0]
    receiver = [client, *path][hop]

    def tap(sender, to, data):
        if to is receiver and sender is path[hop] and len(data) == CELL_LEN:
            net.tap = None
            return data[:100] + bytes([data[100] ^ 1]) + data[101:]
        return data

    net.tap = tap
    end.write(b"data", net.now)
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and handler.received == b""
    assert broken(client) == ["a cell that no hop's digest fits"]


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_cell_tagged_on_its_way_out_closes_the_circuit(net, client, hop):
    path = net.relays(3)
    circuit = net.build(client, path)
    stream, handler = net.open(circuit)
    sender = [client, *path][hop]

    def tap(source, to, data):
        if source is sender and to is path[hop] and len(data) == CELL_LEN:
            net.tap = None
            return data[:100] + bytes([data[100] ^ 1]) + data[101:]
        return data

    net.tap = tap
    stream.write(b"data", net.now)
    net.pump()
    assert circuit.closed and handler.reason == EndReason.DESTROY
    assert path[-1].services.streams[0][1].received == b""


@pytest.mark.parametrize("hops", [1, 2, 3, 5])
def test_the_first_cells_go_early_so_that_counting_them_tells_no_length(net, client, hops):
    circuit = net.build(client, net.relays(hops))
    stream, _ = net.open(circuit)
    stream.write(bytes(20 * PAYLOAD_LEN), net.now)
    seen = {machine.name: 0 for machine in net.machines}

    def tap(sender, receiver, data):
        seen[receiver.name] += sum(command == Command.RELAY_EARLY for command in data[4::CELL_LEN])
        return data

    net.tap = tap
    net.pump()
    assert circuit.built
    assert len({seen[machine.name] for machine in net.machines if machine is not client}) == 1


def test_how_many_cells_go_early_does_not_tell_the_origins_neighbour_from_the_next_hop():
    counts = [set(), set()]
    for number in range(40):
        net = Net(f"early {number}")
        client, path = net.add("client", relays=False), net.relays(2)
        seen = {machine.name: 0 for machine in net.machines}

        def tap(sender, receiver, data, seen=seen):
            seen[receiver.name] += sum(command == Command.RELAY_EARLY for command in data[4::CELL_LEN])
            return data

        net.tap = tap
        stream, _ = net.open(net.build(client, path))
        stream.write(bytes(20 * PAYLOAD_LEN), net.now)
        net.pump()
        for machine, found in zip(path, counts, strict=True):
            found.add(seen[machine.name])
    assert len(counts[0] & counts[1]) >= 4, "of 1 to 5 and 0 to 4"


def test_a_circuit_that_was_in_use_can_be_extended_again_and_again(net, client):
    """To its greatest length, without one RELAY_EARLY too many, which would end it."""
    *path, last = net.relays(MAX_HOPS)
    circuit = net.build(client, path[:1])
    for more in [*path[1:], last]:
        stream, _ = net.open(circuit)
        stream.write(bytes(20 * PAYLOAD_LEN), net.now)
        net.pump()
        stream.end(net.now)
        circuit.extend(more.target, lambda circuit, now: None, net.now)
        net.pump()
    assert circuit.built and circuit.hops_built == MAX_HOPS


def test_what_the_last_hop_tells_is_for_whoever_asked(net, client):
    """A DB_INFO that nobody asked for ends the circuit."""
    *path, last = net.relays(2)
    circuit, told = net.build(client, [*path, last]), []
    circuit.on_info = told.append
    endpoint = last.circuits[0].endpoint
    endpoint.send_message(RelayCommand.DB_INFO, 0, b"news")
    net.pump()
    assert told == [b"news"] and circuit.built
    circuit.on_info = None
    endpoint.send_message(RelayCommand.DB_INFO, 0, b"more")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and told == [b"news"]


def test_inbound_relay_early_is_refused(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    link = first_link(net, client)
    net.deliver(client, link, cell(circuit.id, Command.RELAY_EARLY))
    assert circuit.gone == [DestroyReason.PROTOCOL] and broken(client) == ["RELAY_EARLY towards the origin"]


def test_relay_before_created2_is_refused(net, client):
    circuit = net.build(client, net.relays(1), pump=False)
    net.deliver(client, first_link(net, client), cell(circuit.id, Command.RELAY))
    assert broken(client) == ["RELAY before CREATED2"] and circuit.gone == [DestroyReason.PROTOCOL]


@pytest.mark.parametrize("command", [Command.CREATED2, Command.CREATE2, Command.CREATED_FAST, Command.CREATED])
def test_link_cells_that_a_built_circuit_does_not_expect(net, client, command):
    circuit = net.build(client, net.relays(1))
    net.deliver(client, first_link(net, client), cell(circuit.id, command, Created2(bytes(64)).encode()))
    assert circuit.gone == [DestroyReason.PROTOCOL]


@pytest.mark.parametrize("payload", [b"\xff\xff", b"\2\0"])
def test_a_malformed_created2_closes(net, client, payload):
    circuit = net.build(client, net.relays(1), pump=False)
    net.deliver(client, first_link(net, client), cell(circuit.id, Command.CREATED2, payload))
    assert circuit.gone == [DestroyReason.PROTOCOL]


def test_cells_of_the_old_last_hop_behind_extended2_are_refused(net, client):
    one, two = net.relays(2)
    circuit = net.build(client, [one])
    again = []
    link = net.other_side(client, first_link(net, client))
    circuit.extend(two.target, lambda circuit, now: again.append(circuit), net.now)

    original = one.circuits[0].extended

    def extended(reply):
        net.congest(one, link)
        original(reply)
        say(one.circuits[0], RelayCommand.DROP)

    one.circuits[0].extended = extended
    net.pump()
    net.congest(one, link, False)
    assert circuit.gone == [DestroyReason.PROTOCOL]


@pytest.mark.parametrize("speaker", [0, 1, 2])
@pytest.mark.parametrize(("payload", "reason"), [(b"\x08", DestroyReason.CHANNEL_CLOSED), (b"", DestroyReason.NONE)])
def test_truncated_from_any_hop_closes(net, client, speaker, payload, reason):
    path = net.relays(3)
    circuit = net.build(client, path)
    say(path[speaker].circuits[0], RelayCommand.TRUNCATED, 0, payload)
    net.pump()
    assert circuit.gone == [reason] and broken(client) == []


def test_a_relay_message_longer_than_its_cell_closes(net, client):
    path = net.relays(1)
    net.build(client, path)
    raw = bytearray(PAYLOAD_LEN)
    raw[0], raw[9:11] = RelayCommand.DROP, (499).to_bytes(2, "big")
    path[0].circuits[0]._transmit([bytes(raw)])
    net.pump()
    assert broken(client) == ["relay message claims 499 bytes, 498 fit"]


# -- the life of a circuit


def test_destroy_from_the_path_ends_streams_and_tells_once(net, client):
    path = net.relays(3)
    circuit = net.build(client, path)
    _, handler = net.open(circuit)
    told = []
    circuit.on_closed = lambda reason, now: told.append(reason)
    path[0].circuits[0].destroy(DestroyReason.HIBERNATING, net.now)
    net.pump()
    assert circuit.gone == [DestroyReason.HIBERNATING] == told
    assert handler.reason == EndReason.DESTROY
    circuit.destroy(DestroyReason.FINISHED, net.now)
    net.pump()
    assert len(told) == 1 and all(machine.circuits[0].closed for machine in path)


def test_an_origin_tells_no_reason(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    reasons = []
    net.tap = lambda sender, receiver, data: reasons.append(data[5]) or data if sender is client else data
    circuit.destroy(DestroyReason.TIMEOUT, net.now)
    net.pump()
    assert reasons == [DestroyReason.NONE] and circuit.gone == [DestroyReason.TIMEOUT]


def test_a_broken_link_destroys_its_circuits(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    _, handler = net.open(circuit)
    net.break_link(client, first_link(net, client))
    assert circuit.gone == [DestroyReason.CHANNEL_CLOSED] and handler.reason == EndReason.DESTROY
    assert all(machine.circuits[0].closed for machine in path)


def test_a_stream_handler_may_destroy_the_circuit_while_data_is_handed_over(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    handler = Recorder(on_data=lambda data: circuit.destroy(DestroyReason.FINISHED, net.now))
    net.open(circuit, handler=handler)
    end, _ = path[-1].services.streams[0]
    end.write(b"x" * 100_000, net.now)
    net.pump()
    assert circuit.gone == [DestroyReason.FINISHED] and handler.reason == EndReason.DESTROY


def test_a_stream_handler_may_end_other_streams_when_the_circuit_dies(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    streams = []

    class Ender(Recorder):
        def aborted(self, code, now):
            super().aborted(code, now)
            for stream in streams:
                stream.abort(code, now)

    handlers = []
    for _ in range(3):
        stream, handler = net.open(circuit, handler=Ender())
        streams.append(stream)
        handlers.append(handler)
    circuit.destroy(DestroyReason.FINISHED, net.now)
    assert [handler.reason for handler in handlers] == [EndReason.DESTROY, None, None]


def test_what_needs_an_open_circuit_says_so(net, client):
    path = net.relays(2)
    circuit = net.build(client, path, pump=False)
    calls = (
        lambda: circuit.open_stream("host:80", Recorder(), net.now),
        lambda: circuit.resolve("host.example", lambda answers, now: None),
        lambda: circuit.extend(path[0].target, lambda circuit, now: None, net.now),
    )
    for call in calls:
        with pytest.raises(LocalError):
            call()
    circuit.send_message(RelayCommand.DB_INFO, b"")
    net.pump()
    assert circuit.built
    circuit.destroy(DestroyReason.FINISHED, net.now)
    for call in calls:
        with pytest.raises(LocalError):
            call()


def test_a_malformed_target_costs_nothing(net, client):
    circuit = net.build(client, net.relays(1))
    with pytest.raises(LocalError):
        circuit.open_stream("no target", Recorder(), net.now)
    assert not circuit._endpoint.entries


def test_a_built_circuit_can_be_extended(net, client):
    one, two, three = net.relays(3)
    circuit = net.build(client, [one, two])
    again = []
    circuit.extend(three.target, lambda circuit, now: again.append(circuit), net.now)
    assert not circuit.built
    net.pump()
    assert circuit.built and again == [circuit] and len(circuit.times_built) == 1
    net.open(circuit)
    assert three.services.targets == ["host.example:80"]
    with pytest.raises(LocalError):
        circuit.extend(one.target, lambda circuit, now: None, net.now)


def test_a_circuit_is_not_extended_to_a_node_twice(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    with pytest.raises(LocalError):
        circuit.extend(path[0].target, lambda circuit, now: None, net.now)


# -- streams that the last hop opens (a rendezvous point towards a provider)


def test_a_begin_from_the_last_hop_is_offered_to_the_user(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    seen = []

    def accept(target, stream, now):
        seen.append((target, stream))
        return Recorder(stream)

    circuit.on_begin = accept
    target = f"{'ab' * 32}.rdv:0"
    end = path[-1].circuits[0].endpoint.open_stream(target)
    end.handler = Recorder(end)
    net.pump()
    assert seen[0][0] == target and end.handler.calls == ["opened"]
    end.write(b"question", net.now)
    seen[0][1].write(b"answer", net.now)
    net.pump()
    assert seen[0][1].handler.received == b"question" and end.handler.received == b"answer"


@pytest.mark.parametrize(("hook", "reason"), [(None, EndReason.NOTDIRECTORY), (True, EndReason.RESOLVEFAILED)])
def test_a_begin_nobody_wants_is_ended_with_a_reason(net, client, hook, reason):
    path = net.relays(2)
    circuit = net.build(client, path)
    circuit.on_begin = None if hook is None else lambda target, stream, now: None
    end = path[-1].circuits[0].endpoint.open_stream("host:80")
    handler = end.handler = Recorder()
    net.pump()
    assert handler.reason == reason and circuit.built


def test_a_begin_with_an_id_of_the_origins_half_closes(net, client):
    path = net.relays(2)
    circuit = net.build(client, path)
    circuit.on_begin = lambda target, stream, now: Recorder(stream)
    say(path[-1].circuits[0], RelayCommand.BEGIN, 0x1234, Begin("host", 80).encode())
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]
