"""The pump: one entry at a time, effects in order, one timer."""

import pytest

from convergence.driver import Driver, NoResolver, NoStorage
from convergence.effects import CloseLink, Connect, Failure, Load, Pause, Protocol, Resolve, Scan, Send, Store
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
        self.on_input(*call)
        self.inside = False

    def link_opened(self, channel, now, *, protocol, binding):
        self._told("opened", channel, now, protocol, binding)

    def link_data(self, channel, data, now):
        self._told("data", channel, data, now)

    def link_closed(self, channel, now, reason):
        self._told("closed", channel, now, reason)

    def link_congested(self, channel, congested, now):
        self._told("congested", channel, congested, now)

    def done(self, request, result, now):
        self._told("done", request, result, now)

    def timer(self, now):
        self._told("timer", now)

    def poll(self):
        effects, self.effects = self.effects, []
        return effects

    def deadline(self):
        return self.wanted


class Ports:
    """Transport, clock and timer; `replies` collects storage callbacks."""

    def __init__(self):
        self.time = 100.0
        self.log = []
        self.armed = []
        self.takes = True
        self.on_call = lambda: None

    def now(self):
        self.time += 1
        return self.time

    def arm(self, deadline):
        self.armed.append(deadline)

    def _called(self, *call):
        self.log.append(call)
        self.on_call()

    def connect(self, channel, protocol, address):
        self._called("connect", channel, protocol, address)

    def send(self, channel, buffers):
        self._called("send", channel, list(buffers))
        return self.takes

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

    def resolve(self, host, reply):
        self._called("resolve", host)
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
        Connect(1, Protocol.TCP, "host:80"),
        Send(1, [b"a", b"b"]),
        Pause(1, True),
        Store(1, [("meta", b"k", None)]),
        Load(2, "meta", b"k"),
        Scan(3, "meta", b"p"),
        Resolve(4, "host"),
        CloseLink(1, "done"),
    ]
    driver.received(1, b"")
    assert ports.log == [
        ("connect", 1, Protocol.TCP, "host:80"),
        ("send", 1, [b"a", b"b"]),
        ("pause", 1, True),
        ("store", [("meta", b"k", None)]),
        ("load", "meta", b"k"),
        ("scan", "meta", b"p"),
        ("resolve", "host"),
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

    def poll():
        polls.append(list(machine.log))
        return original()

    machine.poll = poll
    ports.takes = False
    machine.effects = [Send(7, [b"x"])]
    driver.received(7, b"in")
    assert machine.log[1][:3] == ("congested", 7, True)
    assert len(polls[1]) == 2


def test_the_timer_is_armed_when_the_deadline_changes(driver, machine, ports):
    machine.wanted = 200.0
    driver.received(1, b"")
    driver.received(1, b"")
    machine.wanted = None
    driver.received(1, b"")
    assert ports.armed == [200.0, None]


def test_after_it_fired_the_timer_is_armed_again(driver, machine, ports):
    machine.wanted = 200.0
    driver.received(1, b"")
    driver.tick()
    assert ports.armed == [200.0, 200.0]


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
