"""The pump: one entry at a time, effects in order, one timer."""

import pytest

from convergence.driver import BROKEN, HEARTBEAT, JUMP, LATE, MAX_FAULTS, Driver, NoResolver, NoStorage
from convergence.effects import (
    CloseLink,
    Connect,
    Describe,
    DescriptionKind,
    Failure,
    Load,
    Pause,
    Protocol,
    Resolve,
    Scan,
    Send,
    Store,
)
from convergence.events import Registered


class Machine:
    """Records what it is told; asks for what `answers` says."""

    def __init__(self):
        self.log = []
        self.inside = False
        self.effects = []
        self.wanted = None
        self.on_input = lambda *call: None

    def _told(self, *call):
        assert not self.inside, "entered twice"
        self.inside = True
        self.log.append(call)
        try:
            self.on_input(*call)
        finally:
            self.inside = False

    def link_opened(self, channel, now, *, protocol, binding):
        self._told("opened", channel, now, protocol, binding)

    def link_data(self, channel, data, now):
        self._told("data", channel, data, now)

    def link_described(self, channel, kind, sdp, now):
        self._told("described", channel, now)

    def link_closed(self, channel, now, reason):
        self._told("closed", channel, now, reason)

    def link_congested(self, channel, congested, now):
        self._told("congested", channel, congested, now)

    def done(self, request, result, now):
        self._told("done", request, result, now)

    def woke(self, by, now):
        self._told("woke", by, now)

    def timer(self, now):
        self._told("timer", now)

    def poll(self, now):
        effects, self.effects = self.effects, []
        return effects

    def deadline(self):
        return self.wanted


class Ports:
    """Transport, clock and timer; `replies` collects storage callbacks."""

    def __init__(self):
        self.time = 100.0
        self.up = 1000.0
        self.log = []
        self.armed = []
        self.takes = True
        self.on_call = lambda: None

    def now(self):
        self.time += 1
        return self.time

    def elapsed(self):
        self.up += 1
        return self.up

    def arm(self, deadline):
        self.armed.append(deadline)

    def _called(self, *call):
        self.log.append(call)
        self.on_call()

    def connect(self, channel, protocol, address, source):
        self._called("connect", channel, protocol, address, source)

    def send(self, channel, buffers):
        self._called("send", channel, list(buffers))
        return self.takes

    def describe(self, channel, kind, sdp):
        self._called("describe", channel)

    def close(self, channel, reason):
        self._called("close", channel, reason)

    def pause(self, channel, paused):
        self._called("pause", channel, paused)

    def store(self, items, reply):
        self._called("store", list(items))
        reply(None)

    def load(self, bucket, key, reply):
        self._called("load", bucket, key)
        reply(b"value")

    def scan(self, bucket, prefix, reply):
        self._called("scan", bucket, prefix)
        reply([b"key"])

    def resolve(self, host, reply, source):
        self._called("resolve", host, source)
        reply(["192.0.2.1"])


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def ports():
    return Ports()


@pytest.fixture
def driver(machine, ports):
    return Driver(machine, ports, ports, ports, storage=ports, resolver=ports)


def test_inputs_carry_the_time(driver, machine):
    driver.opened(1, Protocol.LINK, b"binding")
    driver.received(1, b"data")
    driver.drained(1)
    driver.closed(1, "lost")
    driver.tick()
    assert machine.log == [
        ("opened", 1, 101.0, Protocol.LINK, b"binding"),
        ("data", 1, b"data", 102.0),
        ("congested", 1, False, 103.0),
        ("closed", 1, 104.0, "lost"),
        ("timer", 105.0),
    ]


def test_effects_reach_their_ports_in_order(driver, machine, ports):
    machine.effects = [
        Connect(1, Protocol.TCP, "host:80", "source"),
        Send(1, [b"a", b"b"]),
        Pause(1, True),
        Store(1, [("meta", b"k", None)]),
        Load(2, "meta", b"k"),
        Scan(3, "meta", b"p"),
        Resolve(4, "host", "source"),
        CloseLink(1, "done"),
    ]
    driver.received(1, b"")
    assert ports.log == [
        ("connect", 1, Protocol.TCP, "host:80", "source"),
        ("send", 1, [b"a", b"b"]),
        ("pause", 1, True),
        ("store", [("meta", b"k", None)]),
        ("load", "meta", b"k"),
        ("scan", "meta", b"p"),
        ("resolve", "host", "source"),
        ("close", 1, "done"),
    ]
    assert [call[:3] for call in machine.log[1:]] == [
        ("done", 1, None),
        ("done", 2, b"value"),
        ("done", 3, [b"key"]),
        ("done", 4, ["192.0.2.1"]),
    ]


def test_the_machine_is_never_entered_from_within(driver, machine, ports):
    """Ports may call back from within their own calls, and callbacks of the machine's from within it."""
    ports.on_call = lambda: driver.received(1, b"from a port") if len(ports.log) < 5 else None
    machine.effects = [Send(1, [b"x"])]
    machine.on_input = lambda *call: (
        driver.run(lambda now: machine.log.append("later"))
        if call[0] == "opened"
        else machine.effects.append(Send(1, [b"y"]))
    )
    driver.opened(1, Protocol.LINK)
    assert machine.log[1] == "later" and machine.log[2][0] == "data"
    assert len(ports.log) == 5


def test_a_full_transport_is_told_before_the_machine_is_polled_again(driver, machine, ports):
    polls = []
    original = machine.poll

    def poll(now):
        polls.append(list(machine.log))
        return original(now)

    machine.poll = poll
    ports.takes = False
    machine.effects = [Send(7, [b"x"])]
    driver.received(7, b"in")
    assert machine.log[1][:3] == ("congested", 7, True)
    assert len(polls[1]) == 2


def test_the_timer_is_armed_when_the_deadline_changes(driver, machine, ports):
    machine.wanted = 104.0
    driver.received(1, b"")
    driver.received(1, b"")
    machine.wanted = 103.0
    driver.received(1, b"")
    machine.wanted = None
    driver.received(1, b"")
    assert ports.armed == [104.0, 103.0, None]


def test_a_timer_that_is_early_stands(driver, machine, ports):
    machine.wanted = 103.0
    driver.received(1, b"")
    machine.wanted = 104.0
    driver.received(1, b"")
    assert ports.armed == [103.0]
    driver.tick()
    assert ports.armed == [103.0, 104.0]


def test_the_timer_is_never_armed_for_longer_than_a_heartbeat(driver, machine, ports):
    machine.wanted = 10_000.0
    driver.received(1, b"")
    driver.received(1, b"")
    assert ports.armed == [101.0 + HEARTBEAT]
    driver.tick()
    assert ports.armed == [101.0 + HEARTBEAT, 103.0 + HEARTBEAT]


def test_after_it_fired_the_timer_is_armed_again(driver, machine, ports):
    machine.wanted = 105.0
    driver.received(1, b"")
    driver.tick()
    assert ports.armed == [105.0, 105.0]


def test_numbers_of_incoming_channels_are_even(driver):
    assert [driver.accept() for _ in range(3)] == [2, 4, 6]


def test_events_go_to_their_listener_outside_the_machine(machine, ports):
    seen = []
    driver = Driver(machine, ports, ports, ports, on_event=lambda event: seen.append((event, machine.inside)))
    machine.effects = [Registered()]
    driver.received(1, b"")
    assert seen == [(Registered(), False)]


def test_events_without_a_listener_and_missing_ports(machine, ports):
    driver = Driver(machine, ports, ports, ports)
    machine.effects = [Registered(), Store(1, []), Load(2, "meta", b""), Scan(3, "meta"), Resolve(4, "host")]
    driver.received(1, b"")
    results = [call[2] for call in machine.log[1:]]
    assert isinstance(results[0], Failure) and results[1:3] == [None, []] and results[3].kind == "policy"
    assert NoStorage() is not None and NoResolver() is not None


def test_an_error_leaves_the_driver_usable(driver, machine):
    def fail(now):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        driver.run(fail)
    driver.received(1, b"on we go")
    assert machine.log[0][:3] == ("data", 1, b"on we go")


# -- time


class Scripted(Ports):
    """A clock that a test sets; passing time counts on both."""

    def now(self):
        return self.time

    def elapsed(self):
        return self.up

    def pass_time(self, seconds):
        self.time += seconds
        self.up += seconds


@pytest.fixture
def scripted(machine):
    ports = Scripted()
    ports.driver = Driver(machine, ports, ports, ports)
    machine.wanted = 1e9
    ports.driver.received(1, b"first")
    return ports


@pytest.mark.parametrize("by", [26 * 3600.0, 3.0, -3.0, -26 * 3600.0])
def test_a_clock_that_was_set_is_told_before_the_next_input(machine, scripted, by):
    scripted.pass_time(4)
    scripted.time += by
    scripted.driver.received(1, b"next")
    assert machine.log[1:] == [("woke", by, 104.0 + by), ("data", 1, b"next", 104.0 + by)]
    scripted.pass_time(4)
    scripted.driver.tick()
    assert machine.log[3:] == [("timer", 108.0 + by)]


@pytest.mark.parametrize("by", [1e9, -1e9])
def test_the_timer_is_armed_anew_by_the_clock_that_was_set(machine, scripted, by):
    scripted.time += by
    machine.wanted = scripted.time + 3
    scripted.driver.received(1, b"next")
    assert scripted.armed[-1] == scripted.time + 3


def test_corrections_bit_by_bit_are_no_jump_and_time_does_not_go_back(machine, scripted):
    for step in range(100):
        scripted.pass_time(1)
        scripted.time += JUMP * (0.9 if step % 2 else -0.9)
        scripted.driver.tick()
    times = [entry[-1] for entry in machine.log]
    assert {entry[0] for entry in machine.log} == {"data", "timer"} and times == sorted(times)


def test_a_process_that_stood_still_is_told_by_a_timer_that_is_late(machine, scripted):
    scripted.driver.tick()
    scripted.pass_time(HEARTBEAT + LATE - 0.1)
    scripted.driver.tick()
    assert [entry[0] for entry in machine.log] == ["data", "timer", "timer"]
    scripted.pass_time(600 + HEARTBEAT)
    scripted.driver.received(1, b"what waited in the socket")
    scripted.driver.tick()
    assert [entry[:2] for entry in machine.log[3:]] == [
        ("woke", 600.0),
        ("data", 1),
        ("timer", machine.log[-1][1]),
    ]


def test_a_process_without_a_timer_is_never_late(machine, scripted):
    machine.wanted = None
    scripted.driver.tick()
    scripted.pass_time(10_000)
    scripted.driver.received(1, b"at last")
    assert [entry[0] for entry in machine.log] == ["data", "timer", "data"]


# -- faults


class Broken(Exception):
    pass


@pytest.fixture
def bugs():
    return []


@pytest.fixture
def guarded(machine, ports, bugs):
    machine.wanted = 104.0
    return Driver(machine, ports, ports, ports, storage=ports, resolver=ports, on_bug=bugs.append)


def fail_at(kind, error=None):
    def on_input(*call):
        if call[0] == kind:
            raise error or Broken(kind)

    return on_input


@pytest.mark.parametrize(
    ("kind", "feed"),
    [
        ("opened", lambda driver: driver.opened(7, Protocol.LINK)),
        ("described", lambda driver: driver.described(7, DescriptionKind.OFFER, "")),
        ("data", lambda driver: driver.received(7, b"poison")),
        ("congested", lambda driver: driver.drained(7)),
    ],
)
def test_an_input_that_the_machine_cannot_bear_costs_its_channel_only(guarded, machine, ports, bugs, kind, feed):
    machine.on_input = fail_at(kind)
    machine.effects = [Send(9, [b"of another channel"])]
    feed(guarded)
    assert ports.log == [("close", 7, BROKEN), ("send", 9, [b"of another channel"])]
    assert machine.log[-1][:2] == ("closed", 7) and machine.log[-1][3] == BROKEN
    assert [str(bug) for bug in bugs] == [kind]
    assert ports.armed == [104.0]
    machine.on_input = lambda *call: None
    guarded.received(9, b"goes on")
    assert machine.log[-1][:3] == ("data", 9, b"goes on")


def test_a_machine_that_fails_at_everything_does_not_end_the_driver(guarded, machine, ports, bugs):
    def fail(*call):
        raise Broken(call[0])

    machine.on_input = fail
    guarded.received(7, b"")
    guarded.closed(7, "lost")
    guarded.tick()
    assert [str(bug) for bug in bugs] == ["data", "closed", "closed", "timer"]
    assert ports.log == [("close", 7, BROKEN)] and ports.armed == [104.0, 104.0]


def test_a_poll_that_fails_is_tried_again(guarded, machine, ports, bugs):
    polls = iter([Broken("poll"), [Send(1, [b"behind it"])], []])

    def poll(now):
        result = next(polls)
        if isinstance(result, Exception):
            raise result
        return result

    machine.poll = poll
    guarded.received(1, b"")
    assert ports.log == [("send", 1, [b"behind it"])] and len(bugs) == 1 and ports.armed == [104.0]


@pytest.mark.parametrize(
    "effect",
    [Connect(5, Protocol.LINK, "ws://x/"), Send(5, [b"x"]), Describe(5, DescriptionKind.OFFER, ""), Pause(5, True)],
)
def test_a_port_that_fails_costs_the_channel_it_was_asked_for(guarded, machine, ports, bugs, effect):
    def fail():
        if ports.log[-1][:2] == (type(effect).__name__.lower(), 5):
            raise Broken("port")

    ports.on_call = fail
    machine.effects = [effect, Send(9, [b"behind it"])]
    guarded.received(1, b"")
    assert [call[:2] for call in ports.log[1:]] == [("send", 9), ("close", 5)]
    assert machine.log[-1][:2] == ("closed", 5) and machine.log[-1][3] == BROKEN
    assert len(bugs) == 1 and ports.armed == [104.0]


@pytest.mark.parametrize(
    "effect", [Store(3, [("meta", b"k", None)]), Load(3, "meta", b"k"), Scan(3, "meta", b""), Resolve(3, "host")]
)
def test_a_port_that_fails_is_answered_with_a_failure(guarded, machine, ports, bugs, effect):
    def fail():
        if ports.log[-1][0] == type(effect).__name__.lower():
            raise Broken("port")

    ports.on_call = fail
    machine.effects = [effect, Send(9, [b"behind it"])]
    guarded.received(1, b"")
    assert ports.log[-1] == ("send", 9, [b"behind it"])
    assert machine.log[-1][:3] == ("done", 3, Failure("io", BROKEN)) and len(bugs) == 1


def test_a_listener_or_close_that_fails_is_told_and_that_is_all(machine, ports, bugs):
    def listener(event):
        raise Broken("listener")

    driver = Driver(machine, ports, ports, ports, on_event=listener, on_bug=bugs.append)
    machine.effects = [Registered(), CloseLink(1, "done"), Send(9, [b"behind it"])]

    def fail():
        if ports.log[-1][0] == "close":
            raise Broken("close")

    ports.on_call = fail
    driver.received(1, b"")
    assert [str(bug) for bug in bugs] == ["listener", "close"] and ports.log[-1][0] == "send"


def test_a_commands_error_reaches_its_caller_when_all_else_is_done(guarded, machine, ports, bugs):
    machine.effects = [Send(9, [b"x"])]

    def fail(now):
        raise Broken("command")

    with pytest.raises(Broken):
        guarded.run(fail)
    assert ports.log == [("send", 9, [b"x"])] and ports.armed == [104.0] and not bugs
    ports.on_call = lambda: guarded.run(fail) if ports.log[-1][0] == "send" else None
    machine.effects = [Send(9, [b"y"])]
    guarded.received(1, b"")
    assert [str(bug) for bug in bugs] == ["command"]


def test_where_nobody_listens_for_bugs_the_first_is_raised_in_the_end(driver, machine, ports):
    machine.on_input = fail_at("data")
    machine.effects = [Send(9, [b"x"])]
    with pytest.raises(Broken):
        driver.received(7, b"")
    assert ports.log == [("close", 7, BROKEN), ("send", 9, [b"x"])]
    machine.on_input = lambda *call: None
    driver.received(7, b"")


def test_a_late_answer_that_fails_is_a_bug_and_no_error_of_storage(guarded, machine, ports, bugs):
    """Storage calls back from a task of its own, which must not end for it."""
    late = []
    ports.load = lambda bucket, key, reply: late.append(reply)
    machine.effects = [Load(4, "bucket", b"key")]
    guarded.received(1, b"")
    machine.on_input = fail_at("done")
    late.pop()(b"value")
    assert [str(bug) for bug in bugs] == ["done"]


def test_a_machine_that_can_never_be_polled_holds_nobody(guarded, machine, ports, bugs):
    def poll(now):
        raise Broken("poll")

    machine.poll = poll
    guarded.received(1, b"")
    assert len(bugs) == MAX_FAULTS and ports.armed == [104.0]
