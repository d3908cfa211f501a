"""Exit streams: BEGIN to a TCP channel and back, back-pressure both ways, every end with its reason."""

import pytest

from convergence.circuit.endpoint import REFUSED_TTL
from convergence.circuit.exit import (
    IDLE_LIMIT,
    LOOK_INTERVAL,
    MAX_ANSWERS,
    MAX_CIRCUIT_STREAMS,
    MAX_RESOLVES,
    MAX_WAITING,
    REASONS,
    ExitService,
)
from convergence.circuit.flow import STREAM_WINDOW
from convergence.circuit.streams import MAX_OPTIMISTIC, SEND_BUFFER_HIGH
from convergence.effects import CloseLink, Connect, Failure, Pause, Protocol, Resolve, Send
from convergence.errors import DestroyReason, EndReason
from convergence.wire.relay import MAX_DATA, AnswerType, End
from tests.unit.circuit.rig import Net, endpoint_of, say_data


class Site:
    """An exit in the rig, and a client with a circuit to it."""

    def __init__(self, **limits):
        self.net = Net()
        self.client = self.net.add("client", relays=False)
        path = self.net.relays(2)
        self.exit = path[-1]
        self.service = ExitService(self.exit.outbox, **limits)
        self.exit.services.begin = self.service.begin
        self.exit.services.resolve = self.service.resolve
        self.circuit = self.net.build(self.client, path)

    def open(self, target="host.example:80"):
        """A stream and its TCP channel, which is open."""
        stream, handler = self.net.open(self.circuit, target)
        channel = self.asked(Connect)[-1].channel
        self.service.opened(channel, self.net.now)
        self.net.pump()
        return stream, handler, channel

    def asked(self, kind):
        """What the exit asked its shell for so far; rig channels are not among it."""
        return [effect for effect in self.exit.effects if isinstance(effect, kind)]

    def written(self):
        return b"".join(b"".join(effect.buffers) for effect in self.asked(Send))


@pytest.fixture
def site():
    return Site()


def test_begin_asks_for_a_channel_and_connected_waits_for_it(site):
    _, handler = site.net.open(site.circuit, "host.example:8080")
    [connect] = site.asked(Connect)
    assert (connect.protocol, connect.address) == (Protocol.TCP, "host.example:8080")
    assert handler.calls == []
    site.service.opened(connect.channel, site.net.now)
    site.net.pump()
    assert handler.calls == ["opened"]


def test_bytes_pass_both_ways(site):
    stream, handler, channel = site.open()
    stream.write(b"GET /", site.net.now)
    site.net.pump()
    site.service.data(channel, b"200 OK", site.net.now)
    site.net.pump()
    assert site.written() == b"GET /" and handler.received == b"200 OK"


@pytest.mark.parametrize("reason", [*REASONS, "anything else", ""])
def test_every_end_of_a_channel_has_a_reason(site, reason):
    _, handler, channel = site.open()
    site.service.data(channel, b"tail", site.net.now)
    if reason != "done":
        site.net.pump()  # an abort drops what waits
    site.service.closed(channel, reason, site.net.now)
    site.net.pump()
    assert handler.received == b"tail"
    assert handler.reason == REASONS.get(reason, EndReason.MISC)
    assert site.circuit.built


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_an_origin_is_told_which_address_is_not_allowed(site, address):
    told = []
    endpoint = endpoint_of(site.circuit)
    hear = endpoint._stream_message
    endpoint._stream_message = lambda *message: told.append(End.parse(message[2])) or hear(*message)
    _, handler = site.net.open(site.circuit)
    [connect] = site.asked(Connect)
    site.service.closed(connect.channel, f"policy {address}", site.net.now)
    site.net.pump()
    assert told == [End(EndReason.EXITPOLICY, address, REFUSED_TTL)] and handler.reason == EndReason.EXITPOLICY
    assert not site.service._streams and not endpoint_of(site.exit.circuits[0]).entries


def test_what_comes_for_a_channel_that_closed_is_dropped(site):
    """The stream cannot end before the origin has taken what the site said; meanwhile the origin may write on."""
    stream, handler, channel = site.open()
    handler.pipe = None  # it consumes nothing
    size = 2 * STREAM_WINDOW * MAX_DATA
    site.service.data(channel, bytes(size), site.net.now)
    site.service.closed(channel, "done", site.net.now)
    site.net.pump()
    stream.write(bytes(2 * STREAM_WINDOW * MAX_DATA), site.net.now)
    site.net.pump()
    assert site.asked(Send) == [] and not stream.congested and handler.reason is None
    handler.pipe = stream
    stream.consumed(len(handler.received), site.net.now)
    site.net.pump()
    assert len(handler.received) == size and handler.reason == EndReason.DONE


def optimistic(site, data):
    """A stream whose origin does not wait for CONNECTED, its handler, and the channel, which does not stand yet."""
    stream, handler = site.net.open(site.circuit)
    stream.optimistic = MAX_OPTIMISTIC
    stream.write(data, site.net.now)
    site.net.pump()
    return stream, handler, site.asked(Connect)[-1].channel


def test_optimistic_data_goes_out_first_once_the_channel_stands(site):
    stream, handler, channel = optimistic(site, b"GET ")
    assert site.written() == b"" and handler.calls == []
    site.service.opened(channel, site.net.now)
    site.net.pump()
    assert site.written() == b"GET " and handler.calls == ["opened"]
    stream.write(b"/", site.net.now)
    site.net.pump()
    assert site.written() == b"GET /"


def test_optimistic_data_is_dropped_with_a_channel_that_never_opens(site):
    _, handler, channel = optimistic(site, bytes(MAX_OPTIMISTIC))
    site.service.closed(channel, "refused", site.net.now)
    site.net.pump()
    assert handler.reason == EndReason.CONNECTREFUSED and site.asked(Send) == [] and site.circuit.built


def test_an_origin_that_goes_away_meanwhile_closes_the_channel(site):
    stream, _, channel = optimistic(site, b"GET /")
    stream.abort(EndReason.DONE, site.net.now)
    site.net.pump()
    assert site.asked(CloseLink) == [CloseLink(channel)] and site.asked(Send) == []


def test_no_more_than_a_window_waits_for_a_channel(site):
    stream, _, channel = optimistic(site, b"")
    for _ in range(STREAM_WINDOW + 1):
        say_data(site.circuit, stream.id, bytes(MAX_DATA))
    site.net.pump()
    assert site.circuit.closed and site.asked(Send) == []
    assert site.asked(CloseLink) == [CloseLink(channel)]


def test_a_channel_that_never_opens_ends_the_stream(site):
    _, handler = site.net.open(site.circuit)
    site.service.closed(site.asked(Connect)[0].channel, "refused", site.net.now)
    site.net.pump()
    assert handler.calls == ["aborted"] and handler.reason == EndReason.CONNECTREFUSED


def test_the_origins_end_closes_the_channel(site):
    stream, _, channel = site.open()
    stream.end(site.net.now)
    site.net.pump()
    assert site.asked(CloseLink) == [CloseLink(channel)]
    site.service.data(channel, b"late", site.net.now)
    site.service.closed(channel, "done", site.net.now)
    site.service.congested(channel, True, site.net.now)


def test_a_dead_circuit_closes_its_channels(site):
    channels = {site.open()[2] for _ in range(3)}
    site.circuit.destroy(DestroyReason.FINISHED, site.net.now)
    site.net.pump()
    assert {effect.channel for effect in site.asked(CloseLink)} == channels


def test_a_channel_that_opens_after_its_stream_ended_is_closed(site):
    stream, _ = site.net.open(site.circuit)
    channel = site.asked(Connect)[0].channel
    stream.end(site.net.now)
    site.net.pump()
    site.service.opened(channel, site.net.now)
    site.net.pump()
    assert [effect.channel for effect in site.asked(CloseLink)] == [channel, channel]


def test_a_fast_site_is_paused_until_the_stream_drains(site):
    _, handler, channel = site.open()
    [link] = site.client.links.values()
    held = site.client
    site.net.hold(held, link)
    sent = 0
    while not site.asked(Pause):
        site.service.data(channel, bytes(65_536), site.net.now)
        site.net.pump()
        sent += 65_536
        assert sent < SEND_BUFFER_HIGH + 3 * STREAM_WINDOW * MAX_DATA
    assert site.asked(Pause) == [Pause(channel, True)]
    site.net.hold(held, link, False)
    assert site.asked(Pause) == [Pause(channel, True), Pause(channel, False)]
    assert len(handler.received) == sent


def test_a_slow_site_stops_the_origin(site):
    stream, _, channel = site.open()
    site.service.congested(channel, True, site.net.now)
    stream.write(bytes(1_000_000), site.net.now)
    site.net.pump()
    assert len(site.written()) == STREAM_WINDOW * MAX_DATA
    site.service.congested(channel, False, site.net.now)
    site.net.pump()
    assert len(site.written()) == 1_000_000


def test_what_waits_for_deaf_servers_is_bounded_and_whoever_has_most_loses_a_stream(site):
    """Origins that heed nothing, and servers that read nothing."""
    modest = site.net.build(site.net.add("modest", relays=False), [site.exit])
    crowd = [site.open() for _ in range(3)]
    few = site.net.open(modest)
    crowd.append((*few, site.asked(Connect)[-1].channel))
    site.service.opened(crowd[-1][2], site.net.now)
    pipes = [site.service._streams[channel] for _, _, channel in crowd]
    for _, _, channel in crowd:
        site.service.congested(channel, True, site.net.now)
    for pipe, waits in zip(pipes, (4, 5, 3, 6), strict=True):
        pipe.write(bytes(MAX_WAITING * waits // 20), site.net.now)
    pipes[0].write(bytes(MAX_WAITING // 20), site.net.now)
    assert site.service._waiting.used <= MAX_WAITING
    pipes[0].write(bytes(MAX_WAITING // 10), site.net.now)
    site.net.pump()
    assert [handler.reason for _, handler, _ in crowd] == [EndReason.RESOURCELIMIT, None, None, None]
    assert site.asked(CloseLink) == [CloseLink(crowd[0][2])]
    site.service.congested(crowd[1][2], False, site.net.now)
    site.service.closed(crowd[2][2], "reset", site.net.now)
    few[0].abort(EndReason.DONE, site.net.now)
    site.net.pump()
    assert site.service._waiting.used == 0


def test_exit_streams_are_limited():
    site = Site(streams=3)
    handlers = [site.open()[1] for _ in range(3)]
    _, handler = site.net.open(site.circuit)
    assert handler.reason == EndReason.RESOURCELIMIT and len(site.asked(Connect)) == 3
    assert [handler.reason for handler in handlers] == [None] * 3


def test_an_exit_without_streams_refuses_all():
    site = Site(streams=0)
    assert site.net.open(site.circuit)[1].reason == EndReason.RESOURCELIMIT


def test_at_a_full_exit_the_link_that_has_most_gives_way_to_others():
    site = Site(streams=6)
    crowd = [site.open() for _ in range(6)]
    site.service.data(crowd[0][2], b"in use", site.net.now)
    modest = site.net.build(site.net.add("modest", relays=False), [site.exit])
    handlers = [site.net.open(modest)[1] for _ in range(9)]
    assert [handler.reason for handler in handlers] == [None] * 3 + [EndReason.RESOURCELIMIT] * 6
    limit = EndReason.RESOURCELIMIT
    assert [handler.reason for _, handler, _ in crowd] == [None, limit, limit, limit, None, None], "the idle ones go"
    assert site.asked(CloseLink) == [CloseLink(channel) for _, _, channel in crowd[1:4]]


def test_links_of_one_source_share_one_part_of_an_exit():
    site = Site(streams=6, source_of=lambda channel: "one address")
    for _ in range(6):
        site.open()
    second = site.net.build(site.net.add("second", relays=False), [site.exit])
    assert site.net.open(second)[1].reason == EndReason.RESOURCELIMIT
    assert {effect.source for effect in site.asked(Connect)} == {"one address"}


def test_a_stream_that_nobody_uses_ends(site):
    opened = [site.open() for _ in range(4)]
    (sends, _, _), (_, _, receives), _, (ends, _, _) = opened
    ends.end(site.net.now)
    for _ in range(3):
        site.net.tick(IDLE_LIMIT / 2)
        sends.write(b"x", site.net.now)
        site.service.data(receives, b"x", site.net.now)
        site.net.pump()
    assert [handler.reason for _, handler, _ in opened] == [None, None, EndReason.TIMEOUT, EndReason.DONE]
    assert [effect.channel for effect in site.asked(CloseLink)] == [opened[3][2], opened[2][2]]
    for _ in range(int(IDLE_LIMIT / LOOK_INTERVAL) + 1):
        site.net.tick(LOOK_INTERVAL)
    assert not site.service._streams
    assert site.open()[1].reason is None


def test_what_waits_for_a_reader_keeps_its_place_and_has_a_deadline():
    """Else whoever reads nothing could leave any number of such streams behind, each with a full buffer."""
    site = Site(streams=1)
    _, handler, channel = site.open()
    handler.pipe = None  # it consumes nothing
    site.service.data(channel, bytes(2 * STREAM_WINDOW * MAX_DATA), site.net.now)
    site.net.pump()
    site.service.closed(channel, "done", site.net.now)
    site.net.pump()
    _, other = site.net.open(site.circuit)
    assert handler.reason is None and other.reason == EndReason.RESOURCELIMIT
    for _ in range(int(IDLE_LIMIT / LOOK_INTERVAL) + 1):
        site.net.tick(LOOK_INTERVAL)
    assert handler.reason == EndReason.TIMEOUT and not site.service._streams
    assert site.asked(CloseLink) == [] and site.open()[1].reason is None, "the channel had closed by itself"


def test_a_clock_that_jumps_ends_no_stream(site):
    _, handler, _ = site.open()
    site.exit.outbox.shift(10 * IDLE_LIMIT)
    site.net.tick(10 * IDLE_LIMIT + LOOK_INTERVAL)
    assert handler.reason is None


# -- RESOLVE


def resolve(site, result, host="host.example"):
    answers = []
    site.circuit.resolve(host, lambda resolved, now: answers.append(resolved))
    site.net.pump()
    site.exit.outbox.done(site.asked(Resolve)[-1].request, result, site.net.now)
    site.net.pump()
    [resolved] = answers
    return resolved.answers


def test_addresses_are_answered(site):
    answers = resolve(site, ["192.0.2.7", "2001:db8::1"])
    assert [answer.address for answer in answers] == ["192.0.2.7", "2001:db8::1"]


def test_the_name_of_an_address_is_answered(site):
    [answer] = resolve(site, ["host.example"], "7.2.0.192.in-addr.arpa")
    assert (answer.kind, answer.value) == (AnswerType.HOSTNAME, b"host.example")


@pytest.mark.parametrize("name", ["", "no name", "n\xe4me", "a" * 256, "192.0.2.7\0"])
def test_a_name_that_is_none_is_not_passed_on(site, name):
    [answer] = resolve(site, [name], "7.2.0.192.in-addr.arpa")
    assert answer.kind == AnswerType.ERROR_PERMANENT


def test_no_more_answers_than_fit(site):
    assert len(resolve(site, [f"192.0.2.{number}" for number in range(200)])) == MAX_ANSWERS


@pytest.mark.parametrize(
    ("result", "kind"),
    [(Failure("not-found", "no such host"), AnswerType.ERROR_PERMANENT), ([], AnswerType.ERROR_TRANSIENT)],
)
def test_failures_are_answered(site, result, kind):
    [answer] = resolve(site, result)
    assert answer.kind == kind


def test_an_answer_after_the_circuit_ended_goes_nowhere(site):
    answers = []
    site.circuit.resolve("host.example", lambda resolved, now: answers.append(resolved))
    site.net.pump()
    site.circuit.destroy(DestroyReason.FINISHED, site.net.now)
    site.net.pump()
    site.exit.outbox.done(site.asked(Resolve)[0].request, ["192.0.2.7"], site.net.now)
    site.net.pump()
    assert answers == [None]


def flood(site):
    for _ in range(MAX_RESOLVES):
        site.service.resolve(site.exit.circuits[0], 1, "host.example", site.net.now)


def test_a_flood_of_lookups_is_bounded(site):
    answers = []
    flood(site)
    site.circuit.resolve("one.more", lambda resolved, now: answers.append(resolved))
    site.net.pump()
    assert len(site.asked(Resolve)) == MAX_RESOLVES
    assert answers[0].answers[0].kind == AnswerType.ERROR_TRANSIENT


def test_a_flood_of_lookups_of_one_link_gives_way_to_those_of_others(site):
    flood(site)
    modest, answers = site.net.build(site.net.add("modest", relays=False), [site.exit]), []
    modest.resolve("host.example", lambda resolved, now: answers.append(resolved))
    site.net.pump()
    asked = site.asked(Resolve)
    assert answers == [] and len(asked) == MAX_RESOLVES + 1 and len(site.service._look_ups) == MAX_RESOLVES
    for effect in asked:  # the one that gave way has been answered already
        site.exit.outbox.done(effect.request, ["192.0.2.7"], site.net.now)
    site.net.pump()
    assert answers[0].answers[0].address == "192.0.2.7" and not site.service._look_ups


def test_one_circuit_cannot_take_all_streams_of_an_exit(site):
    streams = [site.net.open(site.circuit) for _ in range(MAX_CIRCUIT_STREAMS + 1)]
    assert len(site.asked(Connect)) == MAX_CIRCUIT_STREAMS
    assert [handler.reason for _, handler in streams] == [None] * MAX_CIRCUIT_STREAMS + [EndReason.RESOURCELIMIT]
    streams[0][0].end(site.net.now)
    site.net.pump()
    _, handler = site.net.open(site.circuit)
    assert handler.reason is None and site.circuit.built
