"""Padding of links between a client and its guard. Source: padding-spec, "Connection-level padding"."""

from dataclasses import replace

import pytest

from convergence.link.padding import HIGH, LOW, Padding
from convergence.outbox import Outbox
from convergence.ports import DtlsBinding, TlsBinding
from convergence.wire.cells import CELL_LEN, Command, cut, encode_cell
from convergence.wire.padding import PaddingCommand, PaddingNegotiate
from pynode.torkeys import RsaSecret
from tests.unit.circuit.rig import START, Net, SeededRng

BINDING = TlsBinding(b"certificate", lambda context: bytes(32))
RSA = RsaSecret.generate()


class Side:
    """Padding, and the times at which it sent."""

    def __init__(self, seed="padding"):
        self.outbox = Outbox()
        self.sent = []
        self.padding = Padding(self.outbox, SeededRng(seed), self.sent.append, START)

    def until(self, ends):
        while (due := self.outbox.deadline()) is not None and due <= ends:
            self.outbox.run_timers(due)


def gaps(times):
    return [after - before for before, after in zip([START, *times], times, strict=False)]


def test_a_silent_link_is_padded_before_its_flow_would_end():
    side = Side()
    side.until(START + 3600)
    waited = gaps(side.sent)
    assert len(waited) > 300 and all(LOW <= gap <= HIGH for gap in waited)
    assert max(waited) - min(waited) > (HIGH - LOW) / 2
    mean = LOW + (HIGH - LOW) * 2 / 3  # of the longer of two (padding-spec section 2.3)
    assert sum(waited) / len(waited) == pytest.approx(mean, abs=0.5)


def test_a_busy_link_is_not_padded():
    side = Side()
    for second in range(600):
        side.until(START + second)
        side.padding.sent(START + second)
    assert side.sent == []
    side.until(START + 600 + HIGH)
    assert len(side.sent) >= 1


def test_a_client_may_stop_it_and_start_it_again():
    side = Side()
    side.padding.negotiate(PaddingNegotiate(PaddingCommand.STOP), START)
    side.until(START + 3600)
    assert side.sent == []
    side.padding.negotiate(PaddingNegotiate(PaddingCommand.START), START + 3600)
    side.until(START + 3700)
    assert len(side.sent) >= 10


@pytest.mark.parametrize(
    ("low", "high", "shortest", "longest"),
    [(9000, 14000, 9, 14), (0, 0, LOW, HIGH), (100, 3000, LOW, 3), (5000, 2000, 5, 5), (60000, 0, 60, 60)],
)
def test_times_are_those_asked_for_as_far_as_they_are_in_range(low, high, shortest, longest):
    side = Side()
    side.padding.negotiate(PaddingNegotiate(PaddingCommand.START, low, high), START)
    side.until(START + 3600)
    waited = gaps(side.sent)
    assert waited and all(shortest - 1e-6 <= gap <= longest + 1e-6 for gap in waited)


def test_a_clock_that_jumps_brings_no_padding():
    side = Side()
    side.outbox.shift(-3600)
    side.until(START - 3600 + HIGH)
    assert len(side.sent) >= 1 and side.sent[0] <= START - 3600 + HIGH


# -- on a link


def linked(binding=BINDING, *, relays=False):
    """A link of a client, or of a relay, to a relay; and both machines' ends of it."""
    net = Net("padding")
    a, b = net.add("a", relays=relays), net.add("b")
    for machine in (a, b):
        if machine.keys is not None:
            machine.keys = replace(machine.keys, rsa=RSA)
    net.padding = []

    def tap(sender, receiver, data):
        net.padding += [sender for _, command, _ in cells_of(data) if command == Command.PADDING]
        return data

    left, right = net.connect(a, b, binding=binding, expected=b.keys.identity)
    net.pump()
    assert left.open and right.open
    net.tap = tap
    return net, a, b, left, right


def cells_of(data):
    return [(0, header[4], payload) for header, payload in cut(data, len(data) // CELL_LEN)]


def test_both_ends_of_a_clients_link_pad_it():
    net, a, b, _, right = linked()
    for _ in range(60):
        net.tick(1)
    assert {machine.name for machine in net.padding} == {"a", "b"}
    net.deliver(b, right, encode_cell(0, Command.PADDING_NEGOTIATE, PaddingNegotiate(PaddingCommand.STOP).encode()))
    net.padding.clear()
    for _ in range(60):
        net.tick(1)
    assert {machine.name for machine in net.padding} == {"a"}, "the client asked only the relay to stop"


@pytest.mark.parametrize(("binding", "relays"), [(BINDING, True), (None, False), (DtlsBinding(b"rtc"), False)])
def test_links_between_relays_and_of_other_transports_are_not_padded(binding, relays):
    net, *_ = linked(binding, relays=relays)
    for _ in range(60):
        net.tick(1)
    assert net.padding == []


def test_a_link_that_is_gone_is_not_padded():
    net, a, b, left, _ = linked()
    left.close("enough", net.now)
    net.pump()
    assert a.outbox.deadline() is None and b.outbox.deadline() is None


def test_a_relay_may_not_negotiate():
    net, a, _, left, _ = linked()
    net.deliver(a, left, encode_cell(0, Command.PADDING_NEGOTIATE, PaddingNegotiate(PaddingCommand.STOP).encode()))
    assert not left.open and a.closed_links == [(left, "PADDING_NEGOTIATE from a relay")]


@pytest.mark.parametrize("payload", [b"\1\1", b"\0\0", b"\0\3"], ids=["version", "no command", "unknown command"])
def test_what_is_no_negotiation_closes_the_link(payload):
    net, _, b, _, right = linked()
    net.deliver(b, right, encode_cell(0, Command.PADDING_NEGOTIATE, payload))
    assert not right.open


def test_a_congested_link_is_not_padded():
    net, a, b, left, right = linked()
    left.set_congested(True, net.now)
    for _ in range(60):
        net.tick(1)
    assert {machine.name for machine in net.padding} == {"b"}
