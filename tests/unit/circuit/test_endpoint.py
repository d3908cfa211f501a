"""The stream layer at both ends of a circuit, over real circuits: windows, SENDMEs, half-closed streams, floods."""

import pytest

from convergence.circuit.endpoint import FAIR_RUN, LATE, MAX_HALF_CLOSED, MAX_LATE_MESSAGES, MAX_STREAMS
from convergence.circuit.flow import CIRCUIT_INCREMENT, CIRCUIT_WINDOW, STREAM_WINDOW
from convergence.circuit.streams import SEND_BUFFER_HIGH
from convergence.errors import DestroyReason, EndReason, StreamError
from convergence.pipes.duplex import join
from convergence.wire.relay import MAX_DATA, Answer, Begin, RelayCommand, Resolved, Sendme, unpack_message
from tests.unit.circuit.rig import Net, Recorder, endpoint_of, say, say_data


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def client(net):
    return net.add("client", relays=False)


@pytest.fixture
def circuit(net, client):
    return net.build(client, net.relays(2))


@pytest.fixture
def last(net, circuit):
    return net.machines[-1]


def far_end(last):
    return last.circuits[0].endpoint


# -- stream ids


def test_each_side_picks_ids_from_its_half(net, circuit, last):
    circuit.on_begin = lambda target, stream, now: Recorder(stream)
    ours = {net.open(circuit)[0].id for _ in range(5)}
    theirs = {far_end(last).open_stream("host:80").id for _ in range(5)}
    net.pump()
    assert len(ours) == len(theirs) == 5 and circuit.built
    assert all(0 < stream_id < 0x8000 for stream_id in ours)
    assert all(stream_id > 0x8000 for stream_id in theirs)


def test_ids_go_round_and_skip_those_in_use(net, circuit):
    stream, _ = net.open(circuit)
    endpoint = endpoint_of(circuit)
    endpoint._last_id = 0x7FFE
    assert net.open(circuit)[0].id == stream.id + 1
    assert circuit.built


def test_streams_on_a_circuit_are_limited(net, circuit):
    endpoint = endpoint_of(circuit)
    endpoint.entries.update((-number, None) for number in range(1, MAX_STREAMS + 1))
    with pytest.raises(StreamError) as error:
        circuit.open_stream("host:80", Recorder(), net.now)
    assert error.value.reason == EndReason.RESOURCELIMIT
    endpoint.entries.clear()


def test_a_flood_of_begins_is_bounded(net, circuit, last):
    """Each BEGIN costs a place, whether it has been answered or not."""
    last.services.on_begin = lambda circuit, stream_id, begin: None  # the answer takes time
    refused = []
    endpoint_of(circuit)._stream_message = lambda command, stream_id, payload, now: refused.append(
        (command, stream_id, payload)
    )
    for number in range(1, MAX_STREAMS + 11):
        say(circuit, RelayCommand.BEGIN, number, Begin("host", 80).encode())
    net.pump()
    assert len(far_end(last).entries) == MAX_STREAMS
    assert refused == [
        (RelayCommand.END, number, bytes([EndReason.RESOURCELIMIT]))
        for number in range(MAX_STREAMS + 1, MAX_STREAMS + 11)
    ]
    assert circuit.built


# -- circuit windows


def test_a_circuit_sendme_comes_every_hundred_cells(net, circuit, last):
    stream, _ = net.open(circuit)
    sendmes = []
    original = endpoint_of(circuit)._other

    def listen(cell, now):
        command, stream_id, payload = unpack_message(cell)
        if command == RelayCommand.SENDME and stream_id == 0:
            sendmes.append(Sendme.parse(payload))
        original(cell, now)

    endpoint_of(circuit)._other = listen
    stream.write(bytes(MAX_DATA * 350), net.now)
    net.pump()
    assert len(sendmes) == 3 and all(sendme.version == 1 for sendme in sendmes)
    assert len({sendme.digest for sendme in sendmes}) == 3


def test_without_sendmes_a_sender_stops_at_its_window(net, circuit, last):
    net.open(circuit)
    handlers = [net.open(circuit)[1] for _ in range(3)]
    endpoint_of(circuit)._acknowledge = lambda digests: None
    for stream, _ in last.services.streams:
        stream.write(bytes(MAX_DATA * 1000), net.now)
    net.pump()
    received = sum(len(handler.received) for handler in handlers)
    received += len(endpoint_of(circuit).entries[1].handler.received)
    assert received == CIRCUIT_WINDOW * MAX_DATA


@pytest.mark.parametrize(
    "payload", [b"", b"\0\0\0", Sendme(1, bytes(20)).encode(), b"\1\0\x13" + bytes(19), b"\2\0\x14" + bytes(20)]
)
def test_a_circuit_sendme_without_the_right_digest_closes(net, circuit, last, payload):
    stream, handler = net.open(circuit)
    far_end(last)._acknowledge = lambda digests: None
    stream.write(bytes(MAX_DATA * CIRCUIT_INCREMENT), net.now)
    net.pump()
    say(last.circuits[0], RelayCommand.SENDME, 0, payload)
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and handler.reason == EndReason.DESTROY


def test_streams_take_turns(net, circuit, last):
    """A large transfer does not starve a small one that starts after it."""
    net.open(circuit)
    net.open(circuit)
    (large, _), (small, _) = last.services.streams
    sent = []
    original = far_end(last)._transmit

    def transmit(cells):
        sent.extend(int.from_bytes(cell[3:5], "big") for cell in cells)
        return original(cells)

    far_end(last)._transmit = transmit
    large.write(bytes(MAX_DATA * 900), net.now)
    small.write(b"hello", net.now)
    net.pump()
    assert sent.index(small.id) == FAIR_RUN and sent.count(large.id) >= 900


# -- stream windows and their abuse


def test_data_beyond_the_stream_window_closes(net, circuit, last):
    stream, handler = net.open(circuit)
    handler.pipe = None  # it consumes nothing
    for _ in range(STREAM_WINDOW):
        say_data(last.circuits[0], stream.id, b"x")
    net.pump()
    assert circuit.built and len(handler.received) == STREAM_WINDOW
    say_data(last.circuits[0], stream.id, b"x")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and len(handler.received) == STREAM_WINDOW


def test_a_slow_reader_stops_its_sender(net, circuit, last):
    stream, handler = net.open(circuit)
    handler.pipe = None  # it consumes nothing
    end, _ = last.services.streams[0]
    end.write(bytes(2000 * MAX_DATA), net.now)
    net.pump()
    assert len(handler.received) == STREAM_WINDOW * MAX_DATA
    handler.pipe = stream
    stream.consumed(len(handler.received), net.now)
    net.pump()
    assert len(handler.received) == 2000 * MAX_DATA


@pytest.fixture
def chain(net, circuit, last):
    """A stream to the last hop, joined there to one of another circuit: (stream, user) at both ends of the two."""
    beyond = net.add("beyond")
    onward = net.build(last, [beyond])

    def begin(circuit, stream_id, begin):
        near = circuit.endpoint.accept_stream(stream_id)
        join(near, onward.open_stream("host.example:80", Recorder(), net.now))
        near.accept(net.now)

    last.services.on_begin = begin
    return net.open(circuit), beyond.services.streams[0]


def test_a_reader_behind_two_joined_streams_stops_the_sender(net, chain):
    (stream, handler), (end, far) = chain
    far.pipe = None
    window, piece, sent = STREAM_WINDOW * MAX_DATA, 65_536, 0
    while not stream.congested:
        stream.write(bytes(piece), net.now)
        sent += piece
        net.pump()
        assert sent <= 2 * (window + SEND_BUFFER_HIGH) + piece
    assert end.flow.late == 0, "one window has come"
    end.write(b"the other way", net.now)
    net.pump()
    assert handler.received == b"the other way"
    far.pipe = end
    end.consumed(len(far.received), net.now)
    net.pump()
    assert len(far.received) == sent and "drained" in handler.calls


@pytest.mark.parametrize("near_first", [True, False])
def test_joined_streams_end_and_abort_together(net, circuit, chain, near_first):
    one, other = chain if near_first else chain[::-1]
    one[0].write(bytes(1_000_000), net.now)
    one[0].end(net.now)
    net.pump()
    assert len(other[1].received) == 1_000_000 and one[1].reason == other[1].reason == EndReason.DONE
    one, other = net.open(circuit), net.machines[-1].services.streams[-1]
    if not near_first:
        one, other = other, one
    one[0].abort(EndReason.HIBERNATING, net.now)
    net.pump()
    assert one[1].reason is None and other[1].reason == EndReason.HIBERNATING


@pytest.mark.parametrize("command", [RelayCommand.CONNECTED, RelayCommand.SENDME])
def test_a_stream_that_breaks_a_rule_ends_and_the_circuit_lives(net, circuit, last, command):
    stream, handler = net.open(circuit)
    say(last.circuits[0], command, stream.id)
    net.pump()
    assert handler.reason == EndReason.TORPROTOCOL
    assert last.services.streams[0][1].reason == EndReason.TORPROTOCOL
    assert circuit.built


def test_data_before_connected_ends_the_stream(net, circuit, last):
    last.services.on_begin = lambda circuit, stream_id, begin: None
    stream, handler = net.open(circuit)
    say(last.circuits[0], RelayCommand.DATA, stream.id, b"x")
    net.pump()
    assert handler.reason == EndReason.TORPROTOCOL and circuit.built and not far_end(last).entries


@pytest.mark.parametrize(
    "command", [RelayCommand.BEGIN_DIR, RelayCommand.EXTEND2, RelayCommand.DB_INFO, RelayCommand.RESOLVE, 77]
)
def test_a_command_that_no_stream_has_closes_the_circuit(net, circuit, last, command):
    stream, _ = net.open(circuit)
    say(last.circuits[0], command, stream.id, b"")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


# -- END


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", EndReason.MISC),
        (b"\0", EndReason.MISC),
        (bytes([EndReason.DONE]), EndReason.DONE),
        (bytes([EndReason.EXITPOLICY]) + b"\x7f\0\0\1\0\0\0\x3c", EndReason.EXITPOLICY),
        (b"\xc8 unlisted", 200),
    ],
)
def test_reasons_of_end(net, circuit, last, payload, reason):
    stream, handler = net.open(circuit)
    say(last.circuits[0], RelayCommand.END, stream.id, payload)
    net.pump()
    assert handler.reason == reason and circuit.built


def test_every_reason_reaches_the_other_side(net, circuit, last):
    for reason in EndReason:
        _, handler = net.open(circuit)
        last.services.streams[-1][0].abort(reason, net.now)
        net.pump()
        assert handler.reason == reason


def test_end_comes_after_all_data(net, circuit, last):
    _, handler = net.open(circuit)
    end, _ = last.services.streams[0]
    end.write(bytes(1_000_000), net.now)
    end.end(net.now)
    net.pump()
    assert len(handler.received) == 1_000_000 and handler.reason == EndReason.DONE


def test_cells_under_way_to_an_ended_stream_are_tolerated(net, circuit, last):
    stream, handler = net.open(circuit)
    end, far = last.services.streams[0]
    net.hold(last, net.other_side(net.machines[1], net.link_between(net.machines[1], last)))
    stream.end(net.now)
    net.pump()
    end.write(bytes(MAX_DATA * STREAM_WINDOW), net.now)
    net.pump()
    assert circuit.built and handler.received == b"" and far.reason is None
    net.hold(last, net.other_side(net.machines[1], net.link_between(net.machines[1], last)), False)
    assert far.reason == EndReason.DONE and circuit.built


def test_no_more_than_a_window_to_an_ended_stream_is_tolerated(net, circuit, last):
    stream, _ = net.open(circuit)
    last.circuits[0].endpoint._stream_message = lambda *args: None  # ignores END
    stream.end(net.now)
    net.pump()
    for _ in range(STREAM_WINDOW):
        say_data(last.circuits[0], stream.id, b"x")
    net.pump()
    assert circuit.built
    say(last.circuits[0], RelayCommand.DATA, stream.id, b"x")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


def test_an_ended_stream_takes_a_bounded_number_of_other_messages(net, circuit, last):
    """They could mark the circuit for somebody who watches it."""
    stream, _ = net.open(circuit)
    last.circuits[0].endpoint._stream_message = lambda *args: None  # ignores END
    stream.end(net.now)
    net.pump()
    for _ in range(MAX_LATE_MESSAGES):
        say(last.circuits[0], RelayCommand.SENDME, stream.id, b"")
    net.pump()
    assert circuit.built
    say(last.circuits[0], RelayCommand.SENDME, stream.id, b"")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


def test_an_end_that_crosses_ours_closes_the_stream_for_good(net, circuit, last):
    stream, _ = net.open(circuit)
    end, _ = last.services.streams[0]
    stream.end(net.now)
    end.end(net.now)
    net.pump()
    assert circuit.built
    say(last.circuits[0], RelayCommand.DATA, stream.id, b"x")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


def test_ended_streams_are_remembered_up_to_a_limit(net, circuit):
    for _ in range(MAX_HALF_CLOSED + 50):
        net.open(circuit)[0].end(net.now)
    net.pump()
    assert len(endpoint_of(circuit)._half_closed) == MAX_HALF_CLOSED and circuit.built


def test_ended_streams_are_forgotten_when_nothing_of_them_can_come_any_more(net, circuit, last):
    """A circuit between peers lives for days, with a stream for each question."""
    ended = []
    for _ in range(40):
        ended.append(net.open(circuit)[0])
        ended[-1].end(net.now)
        net.pump()
        net.now += LATE / 10
        late = ended[-10:]  # ended within LATE, but for one step
        assert {stream.id for stream in late} <= set(endpoint_of(circuit)._half_closed)
    assert len(endpoint_of(circuit)._half_closed) <= 21 and circuit.built
    say_data(last.circuits[0], ended[-9].id, b"x")
    net.pump()
    assert circuit.built
    say_data(last.circuits[0], ended[0].id, b"x")
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL]


def test_an_ended_id_can_be_begun_again(net, circuit, last):
    stream, _ = net.open(circuit)
    last.services.streams[0][0].end(net.now)
    net.pump()
    say(circuit, RelayCommand.BEGIN, stream.id, Begin("host", 80).encode())
    net.pump()
    assert len(last.services.streams) == 2


def test_a_refusal_carries_its_reason(net, circuit, last):
    last.services.on_begin = lambda circuit, stream_id, begin: circuit.endpoint.refuse(stream_id, EndReason.EXITPOLICY)
    _, handler = net.open(circuit)
    assert handler.calls == ["aborted"] and handler.reason == EndReason.EXITPOLICY


def test_a_begin_that_was_withdrawn_is_not_answered(net, circuit, last):
    last.services.on_begin = lambda circuit, stream_id, begin: None
    stream, handler = net.open(circuit)
    assert far_end(last).pending(stream.id)
    stream.abort(EndReason.DONE, net.now)
    net.pump()
    assert not far_end(last).pending(stream.id)
    far_end(last).refuse(stream.id, EndReason.MISC)
    net.pump()
    assert handler.reason is None and circuit.built


# -- RESOLVE


def test_a_name_is_resolved_at_the_last_hop(net, circuit, last):
    answers = []
    circuit.resolve("host.example", lambda resolved, now: answers.append(resolved))
    net.pump()
    [(stream_id, host)] = last.services.resolves
    assert host == "host.example"
    reply = Resolved((Answer.of("192.0.2.7", 60),))
    say(last.circuits[0], RelayCommand.RESOLVED, stream_id, reply.encode())
    net.pump()
    assert answers == [reply]
    say(last.circuits[0], RelayCommand.RESOLVED, stream_id, reply.encode())
    net.pump()
    assert circuit.gone == [DestroyReason.PROTOCOL] and len(answers) == 1


def test_a_malformed_answer_closes_and_who_waits_is_told(net, circuit, last):
    answers = []
    circuit.resolve("host.example", lambda resolved, now: answers.append(resolved))
    net.pump()
    say(last.circuits[0], RelayCommand.RESOLVED, last.services.resolves[0][0], b"\4\3abc")
    net.pump()
    assert answers == [None] and circuit.gone == [DestroyReason.PROTOCOL]


def test_an_end_in_place_of_an_answer_is_told_once(net, circuit, last):
    answers = []
    circuit.resolve("host.example", lambda resolved, now: answers.append(resolved))
    net.pump()
    [(stream_id, _)] = last.services.resolves
    say(last.circuits[0], RelayCommand.END, stream_id, bytes([EndReason.EXITPOLICY]))
    net.pump()
    assert answers == [None] and circuit.built
    say(last.circuits[0], RelayCommand.END, stream_id, bytes([EndReason.EXITPOLICY]))
    net.pump()
    assert answers == [None] and circuit.gone == [DestroyReason.PROTOCOL]


# -- the link below


def test_a_full_link_holds_the_streams_back(net, client, circuit, last):
    stream, _ = net.open(circuit)
    _, far = last.services.streams[0]
    [link] = client.links.values()
    net.congest(client, link)
    stream.write(bytes(100_000), net.now)
    net.pump()
    assert far.received == b"" and link._queued == 0, "what waits, waits in the stream"
    net.congest(client, link, False)
    assert len(far.received) == 100_000


def test_a_relays_full_link_holds_its_streams_back(net, circuit, last):
    _, handler = net.open(circuit)
    link = net.other_side(net.machines[1], net.link_between(net.machines[1], last))
    net.congest(last, link)
    last.services.streams[0][0].write(bytes(100_000), net.now)
    net.pump()
    assert handler.received == b""
    net.congest(last, link, False)
    assert len(handler.received) == 100_000


def test_a_closed_endpoint_takes_and_gives_nothing(net, circuit, last):
    stream, handler = net.open(circuit)
    endpoint = endpoint_of(circuit)
    circuit.destroy(DestroyReason.FINISHED, net.now)
    endpoint.close(net.now)
    endpoint.send_message(RelayCommand.DROP, 0)
    endpoint.receive([bytes([RelayCommand.BEGIN]) + bytes(508)], [bytes(20)], net.now)
    stream.write(b"late", net.now)
    net.pump()
    assert handler.calls == ["opened", "aborted"] and not endpoint.entries
