"""Connections through exits: who shares a circuit with whom and how long, and what a refusal costs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.circuit.streams import MAX_OPTIMISTIC
from convergence.codes import PathWhy
from convergence.errors import EndReason, LocalError, Why
from convergence.path import exits as exits_module
from convergence.path.exits import (
    ANSWER_LIMIT,
    CIRCUITS_PER_MINUTE,
    EXITS_TRIED,
    LINGER,
    MAX_DIRTINESS,
    MAX_FRESH,
    MAX_STREAMS,
    TRY_ELSEWHERE,
    ExitConnections,
)
from convergence.pipes.pending import CONNECT_LIMIT
from convergence.wire.relay import Answer, AnswerType, RelayCommand, Resolved
from convergence.wire.target import Protocols, Role
from tests.unit.circuit.rig import Recorder
from tests.unit.path.test_pool import Scene as PoolScene

HELD = object()  # an exit's answer that does not come


class Scene(PoolScene):
    """A client with a pool and connections, and exits that do with a host what `answers` says: accept if nothing."""

    def __init__(self, relays=8):
        super().__init__(relays=relays)
        self.exits = ExitConnections(self.pool, self.client.outbox)
        self.answers = {}  # host -> EndReason or HELD
        self.begun = []  # (host, relay circuit), in order
        self.streams = {}  # host -> (stream, recorder) at the exit, the latest one
        self.resolved = {}  # host -> answers of RESOLVED, or an EndReason, or HELD
        for machine in self.relays:
            machine.services.on_begin = self.begin
            machine.services.resolve = self.resolve

    def begin(self, circuit, stream_id, begin):
        self.begun.append((begin.host, circuit))
        answer = self.answers.get(begin.host)
        if answer is None:
            stream = circuit.endpoint.accept_stream(stream_id)
            stream.handler = Recorder(stream)
            self.streams[begin.host] = stream, stream.handler
            stream.accept(self.net.now)
        elif answer is not HELD:
            circuit.endpoint.refuse(stream_id, answer)

    def resolve(self, circuit, stream_id, host, now):
        self.begun.append((host, circuit))
        answer = self.resolved[host]
        if isinstance(answer, EndReason):
            circuit.endpoint.send_message(RelayCommand.END, stream_id, bytes([answer]))
        elif answer is not HELD:
            circuit.endpoint.send_message(RelayCommand.RESOLVED, stream_id, Resolved(answer).encode())

    def start(self, host="a.example", key="key", port=80, **options):
        """A connection and its user; nothing has been carried yet."""
        pipe = self.exits.connect(host, port, key, self.net.now, **options)
        pipe.handler = Recorder(pipe)
        return pipe, pipe.handler

    def look_up(self, host="a.example", answer=(), key="key", reverse=False):
        """Ask exits which answer this."""
        pipe = self.exits.resolve(host, key, self.net.now, reverse=reverse)
        user = pipe.handler = Recorder()
        self.resolved.setdefault(pipe.host, answer)
        self.net.tick(0)
        return pipe, user

    def connect(self, host="a.example", key="key"):
        pipe, user = self.start(host, key)
        self.net.tick(0)
        return pipe, user

    @property
    def circuits(self):
        """Relay circuits at exits, each once."""
        return list(dict.fromkeys(circuit for _, circuit in self.begun))

    @property
    def open(self):
        """Circuits of ours that stand or are on their way."""
        return len(self.states)

    def quiet(self):
        """Nothing is left: no circuit, no timer."""
        return not self.states and not self.exits._shared and self.client.outbox.deadline() is None


@pytest.fixture
def scene():
    return Scene()


def test_bytes_pass_both_ways_and_nothing_is_left(scene):
    pipe, user = scene.start()
    pipe.write(b"early ", scene.net.now)
    assert user.calls == [] and not pipe.open
    scene.net.pump()
    assert user.calls == ["opened", "drained"] and scene.begun[0][0] == "a.example"
    stream, far = scene.streams["a.example"]
    pipe.write(b"question", scene.net.now)
    stream.write(b"answer", scene.net.now)
    scene.net.pump()
    assert far.received == b"early question" and user.received == b"answer"
    stream.end(scene.net.now)
    scene.net.pump()
    assert user.reason == EndReason.DONE and pipe.closed
    scene.net.tick(LINGER)
    assert scene.quiet()


def test_an_end_goes_out_behind_what_was_written(scene):
    pipe, user = scene.start()
    pipe.write(b"all", scene.net.now)
    pipe.end(scene.net.now)
    scene.net.pump()
    _, far = scene.streams["a.example"]
    assert far.received == b"all" and far.reason == EndReason.DONE and user.reason == EndReason.DONE


@pytest.mark.parametrize(
    ("host", "port"), [("", 80), ("a b", 80), ("a", 0), ("a", 65536), ("a:1", 80), ("-a", 80), ("::g", 80), ("ü", 80)]
)
def test_what_no_stream_can_name_is_refused_at_once(scene, host, port):
    with pytest.raises(LocalError):
        scene.exits.connect(host, port, "key", scene.net.now)
    assert scene.quiet()


@pytest.mark.parametrize("name", ["key.conv", "ABC.key.conv.", "x.hash.conv", "x.onion", "peer.node", "x.rdv"])
def test_no_exit_hears_names_that_have_no_place_in_the_dns(name):
    """The name of a private service is the capability to reach it."""
    scene = Scene()
    with pytest.raises(LocalError) as refused:
        scene.exits.connect(name, 80, "key", scene.net.now)
    assert name.lower() not in str(refused.value).lower() and not scene.begun


def test_addresses_are_named_as_begin_names_them(scene):
    assert scene.start("2001:DB8::1", port=443)[0].target == "[2001:db8::1]:443"
    assert scene.start("192.0.2.1")[0].target == "192.0.2.1:80"


# -- who shares


def test_equal_keys_share_a_circuit_and_others_do_not(scene):
    for host, key in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b"), ("a3", ("a",))):
        scene.connect(host, key)
    of = dict(scene.begun)
    assert of["a1"] is of["a2"] and of["b1"] is of["b2"]
    assert len({of["a1"], of["b1"], of["a3"]}) == 3


def test_connections_that_come_together_wait_for_one_circuit(scene):
    users = [scene.start(f"h{number}")[1] for number in range(MAX_STREAMS)]
    scene.net.pump()
    assert all(user.calls[0] == "opened" for user in users) and len(scene.circuits) == 1


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["connect", "start", "look up", "end", "refuse", "hang", "break", "drop", "wait", "wait long"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(ACTIONS)
def test_no_circuit_ever_serves_two_keys(actions):
    """Whatever happens between: ends, refusals, exits that hang, circuits that break, time."""
    scene, pipes = Scene(relays=4), []
    for number, (action, key) in enumerate(actions):
        host = f"k{key}-{number}.example"
        scene.answers[host] = {"refuse": EndReason.EXITPOLICY, "hang": HELD}.get(action)
        if action in ("connect", "refuse", "hang", "start"):
            pipes.append(scene.start(host, key)[0])
        elif action == "look up":
            pipes.append(scene.look_up(host, (V4,), key)[0])
        elif action == "end" and pipes:
            pipes.pop(key % len(pipes)).abort(EndReason.DONE, scene.net.now)
        elif action == "break" and scene.circuits:
            scene.circuits[key % len(scene.circuits)].destroy(0, scene.net.now)
        elif action == "drop":
            scene.exits.drop(key, scene.net.now)
        elif action.startswith("wait"):
            scene.net.tick(LINGER / 2 if action == "wait" else MAX_DIRTINESS)
        if action != "start":
            scene.net.tick(0)
    keys = {}
    for host, circuit in scene.begun:
        keys.setdefault(circuit, set()).add(host.partition("-")[0])
    assert all(len(of_circuit) == 1 for of_circuit in keys.values())
    for pipe in pipes:
        pipe.abort(EndReason.DONE, scene.net.now)
    for _ in range(4):
        scene.net.tick(CONNECT_LIMIT)
    assert scene.quiet()


# -- how many


def test_a_full_circuit_is_joined_by_others_up_to_a_limit(scene):
    pipes = [scene.connect(f"h{number}") for number in range(MAX_STREAMS * MAX_FRESH)]
    counts = [sum(circuit is other for _, circuit in scene.begun) for other in scene.circuits]
    assert counts == [MAX_STREAMS] * MAX_FRESH
    _, user = scene.connect("more.example")
    assert user.reason == EndReason.RESOURCELIMIT and len(scene.circuits) == MAX_FRESH
    _, other = scene.connect("b.example", "other key")
    assert other.calls[0] == "opened"
    pipes[0][0].abort(EndReason.DONE, scene.net.now)
    _, user = scene.connect("h")
    assert user.calls[0] == "opened" and scene.begun[-1][1] is scene.circuits[0]


def test_old_streams_do_not_count_against_new_circuits(scene):
    """A program that keeps a connection open for hours goes on to get new ones."""
    users = []
    for number in range(2 * MAX_FRESH):
        users.append(scene.connect(f"h{number}")[1])
        scene.net.tick(MAX_DIRTINESS)
    assert len(scene.circuits) == 2 * MAX_FRESH and all(user.reason is None for user in users)


def test_keys_are_bounded_and_whoever_was_idle_longest_gives_way(scene, monkeypatch):
    monkeypatch.setattr(exits_module, "MAX_CIRCUITS", 4)
    pipes = [scene.connect(f"h{number}", number)[0] for number in range(4)]
    _, user = scene.connect("h4", 4)
    assert user.reason == EndReason.RESOURCELIMIT, "all are used"
    for number in (2, 1):
        pipes[number].abort(EndReason.DONE, scene.net.now)
    _, user = scene.connect("h5", 5)
    assert user.calls[0] == "opened" and scene.open == 4
    assert [circuit.closed for circuit in scene.circuits[:4]] == [False, False, True, False]


# -- how long


def test_a_circuit_takes_new_streams_for_ten_minutes_and_ends_with_its_last_one(scene):
    pipe, user = scene.connect("h0")
    scene.net.tick(MAX_DIRTINESS - 1)
    scene.connect("h1")[0].abort(EndReason.DONE, scene.net.now)
    assert len(scene.circuits) == 1
    scene.net.tick(1)
    scene.connect("h2")
    assert len(scene.circuits) == 2 and user.reason is None
    pipe.abort(EndReason.DONE, scene.net.now)
    scene.net.pump()
    assert [circuit.closed for circuit in scene.circuits] == [True, False]


@pytest.mark.parametrize("by", [-86400.0, 86400.0])
def test_a_clock_that_jumps_makes_no_circuit_older_or_younger(scene, by):
    scene.connect("h0")
    scene.net.tick(MAX_DIRTINESS - 1)
    scene.client.outbox.shift(by)
    scene.net.now += by
    scene.connect("h1")
    assert len(scene.circuits) == 1
    scene.net.tick(1)
    scene.connect("h2")
    assert len(scene.circuits) == 2


def test_an_idle_circuit_lingers_for_the_next_request(scene):
    for number in range(5):
        scene.connect(f"h{number}")[0].abort(EndReason.DONE, scene.net.now)
        scene.net.tick(LINGER - 1)
    assert len(scene.circuits) == 1
    scene.net.tick(1)
    assert scene.circuits[0].closed and scene.quiet()


def test_a_connection_given_up_while_its_circuit_is_built_leaves_one_that_ends(scene):
    pipe, user = scene.start()
    pipe.abort(EndReason.DONE, scene.net.now)
    scene.net.pump()
    assert scene.begun == [] and scene.open == 1 and user.calls == []
    scene.net.tick(LINGER)
    assert scene.quiet()


# -- refusals


@pytest.mark.parametrize("reason", sorted(TRY_ELSEWHERE - {EndReason.TIMEOUT}))
def test_three_exits_are_tried(scene, reason):
    scene.answers["a.example"] = reason
    pipe, user = scene.start()
    retries = []
    pipe.on_retry = retries.append
    scene.net.pump()
    assert user.calls == ["aborted"] and user.reason == reason and len(retries) == EXITS_TRIED - 1
    exits = {machine for machine in scene.relays for circuit in machine.circuits if circuit in scene.circuits}
    assert len(scene.begun) == len(exits) == EXITS_TRIED, "each at another exit"


def test_an_exit_that_refuses_one_host_serves_another(scene):
    scene.answers["a.example"] = EndReason.EXITPOLICY
    scene.connect("a.example")
    _, user = scene.connect("b.example")
    assert user.calls[0] == "opened" and scene.begun[-1][1] is scene.begun[0][1]


def test_where_one_exit_refuses_another_may_serve(scene):
    scene.answers["a.example"] = EndReason.EXITPOLICY
    pipe, user = scene.start()
    pipe.write(b"early", scene.net.now)
    pipe.on_retry = lambda now: scene.answers.clear()
    scene.net.pump()
    assert user.calls[0] == "opened" and len(scene.begun) == 2
    assert scene.streams["a.example"][1].received == b"early"


def test_with_one_exit_only_that_one_is_asked_again(scene):
    scene.directory.known = [scene.describe(machine, Role.RELAY) for machine in scene.relays[1:]]
    scene.directory.known.append(scene.describe(scene.relays[0], Role.EXIT))
    scene.answers["a.example"] = EndReason.RESOURCELIMIT
    _, user = scene.connect()
    assert user.reason == EndReason.RESOURCELIMIT and len(scene.begun) == EXITS_TRIED


@pytest.mark.parametrize(
    "reason", [EndReason.RESOLVEFAILED, EndReason.CONNECTREFUSED, EndReason.CONNRESET, EndReason.DONE]
)
def test_what_another_exit_would_not_mend_is_told_at_once(scene, reason):
    scene.answers["a.example"] = reason
    _, user = scene.connect()
    assert user.calls == ["aborted"] and user.reason == reason and len(scene.begun) == 1


@pytest.mark.parametrize("reason", sorted(TRY_ELSEWHERE))
def test_nothing_is_tried_again_once_it_opened(scene, reason):
    _, user = scene.connect()
    scene.streams["a.example"][0].abort(reason, scene.net.now)
    scene.net.tick(0)
    assert user.calls == ["opened", "drained", "aborted"] and user.reason == reason and len(scene.begun) == 1


def test_a_user_may_give_up_at_a_retry(scene):
    scene.answers["a.example"] = EndReason.EXITPOLICY
    pipe, user = scene.start()
    pipe.on_retry = lambda now: pipe.abort(EndReason.DONE, now)
    scene.net.pump()
    assert user.calls == [] and len(scene.begun) == 1
    scene.net.tick(LINGER)
    assert scene.quiet()


def test_a_circuit_that_breaks_is_replaced_for_whoever_waits_only(scene):
    _, opened = scene.connect("open.example")
    scene.answers["held.example"] = HELD
    _, waiting = scene.connect("held.example")
    scene.answers.clear()
    scene.circuits[0].destroy(0, scene.net.now)
    scene.net.pump()
    assert opened.reason == EndReason.DESTROY
    assert waiting.calls[0] == "opened" and len(scene.circuits) == 2


def test_an_exit_that_hangs_is_left_by_new_streams_only(scene):
    _, old = scene.connect("old.example")
    scene.answers["slow.example"] = HELD
    _, slow = scene.connect("slow.example")
    scene.net.tick(ANSWER_LIMIT - 1)
    scene.answers.clear()
    assert slow.calls == []
    scene.net.tick(1)
    assert slow.calls[0] == "opened" and len(scene.circuits) == 2 and old.reason is None
    scene.connect("new.example")
    assert scene.begun[-1][1] is scene.circuits[1]


def test_an_exit_that_answers_others_is_not_to_blame_for_a_host_that_hangs(scene):
    scene.answers["slow.example"] = HELD
    scene.connect("slow.example")
    for _ in range(int(ANSWER_LIMIT) + 1):
        scene.net.tick(1)
        scene.connect("fine.example")
    assert {circuit for host, circuit in scene.begun if host == "fine.example"} == {scene.circuits[0]}
    assert len(scene.circuits) == 2, "the slow one is tried elsewhere"


def test_a_page_that_names_hosts_which_hang_does_not_make_us_build_without_end(scene):
    """Else it could go on until a circuit leads through relays of its own."""
    for number in range(60):
        scene.answers[f"slow{number}.example"] = HELD
        scene.connect(f"slow{number}.example")
        scene.net.tick(1)
    assert EXITS_TRIED < len(scene.circuits) <= CIRCUITS_PER_MINUTE
    _, user = scene.connect("fine.example", "other key")
    assert user.calls[0] == "opened"
    scene.net.tick(CONNECT_LIMIT)
    _, user = scene.connect("fine.example")
    assert user.calls[0] == "opened"


def test_exits_that_all_hang_are_given_up(scene):
    scene.answers["a.example"] = HELD
    _, user = scene.connect()
    for _ in range(EXITS_TRIED):
        assert user.reason is None
        scene.net.tick(ANSWER_LIMIT)
    assert user.reason == EndReason.TIMEOUT and len(scene.circuits) == EXITS_TRIED
    assert scene.quiet(), "no circuit lingers that hangs"


def test_circuits_that_cannot_be_built_are_given_up_in_time(scene):
    scene.silent = {machine.keys.identity for machine in scene.relays}
    _, user = scene.connect()
    for _ in range(int(CONNECT_LIMIT)):
        scene.net.tick(1)
    assert user.reason in (EndReason.TIMEOUT, EndReason.DESTROY)


def test_without_an_exit_the_user_is_told_why_but_not_before_connect_returns(scene):
    scene.directory.known = [scene.describe(machine, Role.RELAY) for machine in scene.relays]
    pipe, user = scene.start()
    assert user.calls == []
    scene.net.tick(0)
    assert user.reason == EndReason.DESTROY and pipe.why == Why(PathWhy.NO_EXIT) and scene.quiet()


def test_a_reader_that_stops_stops_the_exit(scene):
    _, user = scene.connect()
    user.pipe = None  # it consumes nothing from now on
    stream, _ = scene.streams["a.example"]
    stream.write(bytes(4_000_000), scene.net.now)
    scene.net.pump()
    assert len(user.received) < 300_000 and stream.congested


# -- ends


def test_drop_ends_all_of_a_key_and_nothing_else(scene):
    scene.answers["held.example"] = HELD
    users = [scene.connect(host)[1] for host in ("a.example", "held.example")]
    scene.connect("idle.example", "idle")[0].abort(EndReason.DONE, scene.net.now)
    _, other = scene.connect("b.example", "other")
    _, building = scene.start("c.example", "building")
    for key in ("key", "idle", "building", "unknown"):
        scene.exits.drop(key, scene.net.now)
    scene.net.pump()
    assert [user.reason for user in (*users, building)] == [EndReason.DESTROY] * 3
    assert other.reason is None and scene.open == 1


def test_stop_tells_who_waits_and_leaves_the_rest_to_the_links(scene):
    users = [scene.connect(f"h{key}", key)[1] for key in range(2)]
    scene.answers["held.example"] = HELD
    waiting = [scene.connect("held.example", 0)[1], scene.start("b.example", "building")[1]]
    scene.exits.stop(scene.net.now)
    assert [user.reason for user in waiting] == [EndReason.DESTROY] * 2
    assert [user.reason for user in users] == [None] * 2
    scene.pool.stop(scene.net.now)
    scene.net.pump()
    assert [user.reason for user in users] == [EndReason.DESTROY] * 2
    _, late = scene.connect("late.example")
    assert late.reason == EndReason.DESTROY
    assert scene.quiet()


def test_a_link_that_is_full_refuses_like_an_exit(scene):
    """BEGIN may be one cell too many for it, within the call that opens the stream."""
    _, first = scene.connect("first.example")
    circuit = next(iter(scene.exits._shared)).circuit
    send = circuit._link.send

    def overflow(*arguments):
        circuit._link.send = send
        circuit.destroyed(0, scene.net.now)

    circuit._link.send = overflow
    _, user = scene.connect("second.example")
    assert first.reason == EndReason.DESTROY and user.calls[0] == "opened"


def test_a_circuit_that_closes_as_it_is_handed_over_costs_nothing_but_another(scene):
    build = scene.pool.exit_circuit

    def exit_circuit(host, port, on_ready, *arguments, **options):
        def ready(circuit, now):
            scene.pool.exit_circuit = build
            circuit.destroy(0, now)
            on_ready(circuit, now)

        build(host, port, ready, *arguments, **options)

    scene.pool.exit_circuit = exit_circuit
    first, user = scene.start("first.example")
    second, other = scene.start("second.example")
    _, third = scene.start("third.example")
    first.on_retry = lambda now: second.abort(EndReason.DONE, now)
    scene.net.pump()
    assert user.calls[0] == third.calls[0] == "opened" and other.calls == []
    assert [host for host, _ in scene.begun] == ["first.example", "third.example"]


# -- optimistic data


class Hasty(Scene):
    """Its exits take DATA before CONNECTED, and its users send some."""

    def __init__(self):
        super().__init__()
        known = [self.describe(machine) for machine in self.relays]
        self.directory.known = [replace(node, protocols=Protocols.CONGESTION_CONTROL) for node in known]

    def begin(self, circuit, stream_id, begin):
        """A test answers."""
        stream = circuit.endpoint.accept_stream(stream_id)
        stream.handler = Recorder(stream)
        self.streams[begin.host] = stream, stream.handler


@pytest.fixture
def hasty():
    return Hasty()


def test_early_bytes_go_out_behind_begin(hasty):
    pipe, user = hasty.start(optimistic=True)
    pipe.write(b"a", hasty.net.now)
    hasty.net.pump()
    pipe.write(b"b", hasty.net.now)
    hasty.net.pump()
    stream, far = hasty.streams["a.example"]
    assert b"".join(stream._inbox) == b"ab" and user.calls == []
    stream.accept(hasty.net.now)
    hasty.net.pump()
    pipe.write(b"c", hasty.net.now)
    hasty.net.pump()
    assert far.received == b"abc" and user.calls == ["opened", "drained"]


def test_where_one_exit_refuses_another_gets_the_same_bytes(hasty):
    pipe, user = hasty.start(optimistic=True)
    pipe.write(b"early", hasty.net.now)
    hasty.net.pump()
    first, far = hasty.streams["a.example"]
    first.end(hasty.net.now, EndReason.EXITPOLICY)
    hasty.net.pump()
    second, other = hasty.streams["a.example"]
    assert second is not first and far.received == b""
    second.accept(hasty.net.now)
    hasty.net.pump()
    assert other.received == b"early" and user.calls == ["opened", "drained"]


def test_no_more_than_a_limit_goes_out_before_an_exit_has_connected(hasty):
    pipe, _ = hasty.start(optimistic=True)
    data = bytes(index % 251 for index in range(3 * MAX_OPTIMISTIC))
    pipe.write(data, hasty.net.now)
    hasty.net.pump()
    stream, far = hasty.streams["a.example"]
    assert sum(map(len, stream._inbox)) == MAX_OPTIMISTIC
    stream.accept(hasty.net.now)
    hasty.net.pump()
    assert far.received == data


def test_nothing_goes_out_early_unasked(hasty):
    pipe, _ = hasty.start()
    pipe.write(b"early", hasty.net.now)
    hasty.net.pump()
    assert not hasty.streams["a.example"][0]._inbox


def test_exits_that_may_not_take_it_get_nothing_early(hasty):
    hasty.directory.known = [hasty.describe(machine) for machine in hasty.relays]
    pipe, _ = hasty.start(optimistic=True)
    pipe.write(b"early", hasty.net.now)
    hasty.net.pump()
    assert not hasty.streams["a.example"][0]._inbox


# -- look-ups

V4, V6 = Answer.of("192.0.2.7", 60), Answer.of("2001:db8::1", 60)
NAME = Answer(AnswerType.HOSTNAME, b"Host.Example", 60)
LATER, NEVER = (Answer(kind, b"why", 60) for kind in (AnswerType.ERROR_TRANSIENT, AnswerType.ERROR_PERMANENT))


@pytest.mark.parametrize(
    ("answers", "found"), [((V4,), "192.0.2.7"), ((V6, V4), "192.0.2.7"), ((NAME, V6), "2001:db8::1")]
)
def test_a_name_is_looked_up_by_the_exit(scene, answers, found):
    look_up, user = scene.look_up(answer=answers)
    assert user.calls == ["opened", "drained"] and look_up.found == found
    look_up.abort(EndReason.DONE, scene.net.now)
    assert user.calls == ["opened", "drained"]
    scene.net.tick(LINGER)
    assert scene.quiet()


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("192.0.2.7", "7.2.0.192.in-addr.arpa"),
        ("2001:DB8::1", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"),
    ],
)
def test_the_name_of_an_address_is_looked_up(scene, address, asked):
    look_up, _ = scene.look_up(address, (V4, NAME), reverse=True)
    assert scene.begun[0][0] == asked and look_up.found == "host.example"


@pytest.mark.parametrize(
    "name",
    [b"", b"a b", b"a\nb", b"a\0b", b"\x1b[2J", b"\xff", b"192.0.2.7", b"::1", b"-a", b"<b>", b"a/b"],
)
def test_what_is_no_name_is_no_answer(scene, name):
    look_up, user = scene.look_up("192.0.2.7", (Answer(AnswerType.HOSTNAME, name, 60),), reverse=True)
    assert look_up.found == "" and user.reason == EndReason.RESOLVEFAILED


@pytest.mark.parametrize("answers", [(NEVER,), (), (NAME,), (Answer(0x7F, b"?", 60),)])
def test_a_name_that_is_not_found_is_told_at_once(scene, answers):
    _, user = scene.look_up(answer=answers)
    assert user.reason == EndReason.RESOLVEFAILED and len(scene.begun) == 1


@pytest.mark.parametrize(
    ("answer", "reason"), [((LATER,), EndReason.TIMEOUT), (EndReason.EXITPOLICY, EndReason.DESTROY)]
)
def test_another_exit_may_know_more(scene, answer, reason):
    _, user = scene.look_up(answer=answer)
    assert user.reason == reason and len({circuit for _, circuit in scene.begun}) == EXITS_TRIED


def test_an_exit_that_does_not_answer_a_look_up_is_left(scene):
    look_up, user = scene.look_up(answer=HELD)
    scene.resolved["a.example"] = (V4,)
    scene.net.tick(ANSWER_LIMIT)
    assert look_up.found == "192.0.2.7" and user.calls[0] == "opened" and len(scene.circuits) == 2


def test_a_look_up_carries_nothing(scene):
    look_up, user = scene.look_up(answer=(V4,))
    look_up.write(b"nothing", scene.net.now)
    with pytest.raises(LocalError):
        look_up.consumed(1, scene.net.now)
    look_up.end(scene.net.now)
    scene.net.pump()
    assert look_up.closed and user.calls == ["opened", "drained"] and not scene.begun[0][1].closed
    assert not scene.begun[0][1].endpoint.entries


def test_an_answer_that_comes_late_is_nobodys(scene):
    look_up, user = scene.look_up(answer=HELD)
    look_up.abort(EndReason.DONE, scene.net.now)
    (_, circuit), *_ = scene.begun
    circuit.endpoint.send_message(RelayCommand.RESOLVED, 1, Resolved((V4,)).encode())
    scene.net.pump()
    assert user.calls == [] and look_up.found == "" and not circuit.closed


def test_a_circuit_that_breaks_is_replaced_for_a_look_up(scene):
    look_up, user = scene.look_up(answer=HELD)
    scene.resolved["a.example"] = (V4,)
    scene.circuits[0].destroy(0, scene.net.now)
    scene.net.pump()
    assert look_up.found == "192.0.2.7" and user.calls[0] == "opened"


def test_a_full_link_refuses_a_look_up_like_an_exit(scene):
    scene.connect("first.example")
    circuit = next(iter(scene.exits._shared)).circuit
    send = circuit._link.send

    def overflow(*arguments):
        circuit._link.send = send
        circuit.destroyed(0, scene.net.now)

    circuit._link.send = overflow
    look_up, _ = scene.look_up(answer=(V4,))
    assert look_up.found == "192.0.2.7"


def test_look_ups_share_circuits_as_connections_do_and_keep_nothing(scene):
    for host, key in (("a", "a"), ("b", "b"), ("a", "a")):
        scene.look_up(host, (V4,), key)[0].abort(EndReason.DONE, scene.net.now)
    scene.connect("c", "a")
    circuits = [circuit for _, circuit in scene.begun]
    assert circuits[0] is circuits[2] is circuits[3] and circuits[1] is not circuits[0]


@pytest.mark.parametrize("name", ["key.conv", "x.hash.conv", "x.onion", "peer.node", "", "a b", "::1", "a:1"])
def test_no_exit_is_asked_for_what_is_no_name_of_the_dns(scene, name):
    with pytest.raises(LocalError):
        scene.exits.resolve(name, "key", scene.net.now)
    assert scene.quiet()


@pytest.mark.parametrize("address", ["a.example", "", "1.2.3", "fe80::1%eth0x" * 30])
def test_only_addresses_have_names(scene, address):
    with pytest.raises(LocalError):
        scene.exits.resolve(address, "key", scene.net.now, reverse=True)
    assert scene.quiet()
