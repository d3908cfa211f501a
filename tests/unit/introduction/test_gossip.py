"""Of when a node asks its neighbours for descriptors."""

import pytest

from convergence.errors import ParseError
from convergence.introduction.gossip import GOSSIP_INTERVAL, GOSSIP_OVERLAP, Gossip
from convergence.netdir.bucketview import SILENT
from convergence.netdir.headers import Headers
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox
from tests.unit.facilitator.world import HashRng
from tests.unit.netdir.buckets import CRYPTO, FACILITATOR, NOW
from tests.unit.netdir.test_headers import header_at


class Pipe:
    def __init__(self, answered_at, free=True):
        self.answered_at = answered_at
        self.free = free
        self.asked = []

    def may_ask(self, now):
        return self.free

    def ask(self, since, now):
        self.asked.append(since)


def asked(now, answered_at, *, header=True, listed=0):
    """From when on, by a node that got a header at NOW."""
    directory = NodeDirectory(CRYPTO, FACILITATOR)
    directory._published = listed
    headers = Headers(CRYPTO, lambda: FACILITATOR)
    if header:
        headers.take(header_at(NOW).encode(), NOW)
    pipe = Pipe(answered_at)
    Gossip(Outbox(), HashRng(), directory, headers, (), lambda now: None).met(pipe, now, ours=True)
    [since] = pipe.asked
    return since


@pytest.mark.parametrize("more", [{"header": False}, {"listed": NOW + 1}], ids=["no header", "a list"])
def test_in_a_small_network_all_news_since_the_last_answer_is_asked_for(more):
    assert asked(NOW + 9, 0.0, **more) == 0
    assert asked(NOW + 9, NOW + 2, **more) == NOW + 2 - GOSSIP_OVERLAP


def test_in_a_large_network_the_facilitator_tells_who_is_there():
    for answered_at in (0.0, NOW):
        assert asked(NOW + SILENT - 1, answered_at) == NOW + SILENT - 1


def test_once_it_is_silent_neighbours_are_asked_for_all_that_came_since():
    late = NOW + SILENT + 100
    for answered_at in (0.0, NOW - 5, NOW + SILENT - 1):
        assert asked(late, answered_at) == NOW - GOSSIP_OVERLAP
    assert asked(late, late - 60) == late - 60 - GOSSIP_OVERLAP


def gossip(pipes=()):
    headers = Headers(CRYPTO, lambda: FACILITATOR)
    outbox = Outbox()
    return outbox, Gossip(outbox, HashRng(), NodeDirectory(CRYPTO, FACILITATOR), headers, pipes, lambda now: None)


def test_whom_others_open_a_pipe_to_asks_unless_it_was_answered_lately_by_whatever_clock():
    for now, asks in ((NOW, False), (NOW + GOSSIP_INTERVAL, True), (NOW - GOSSIP_INTERVAL, True)):
        pipe, (_, heard) = Pipe(0.0), gossip()
        heard.answered(NOW)
        heard.met(pipe, now, ours=False)
        assert bool(pipe.asked) is asks


def test_each_round_asks_one_neighbour_that_may_be_asked():
    pipes = [Pipe(0.0, free=False) for _ in range(20)] + [Pipe(0.0)]
    outbox, heard = gossip(pipes)
    heard.start(NOW)
    for number in range(1, 6):
        outbox.run_timers(NOW + number * 2 * GOSSIP_INTERVAL)
    assert [len(pipe.asked) for pipe in pipes] == [0] * 20 + [5]


def test_a_header_that_cannot_be_read_is_the_fault_of_who_sent_it_and_an_old_one_is_not():
    _, heard = gossip()
    heard.heard_header(header_at(NOW - 10**6).encode(), NOW)
    heard.heard_header(header_at(NOW, seed=b"e" * 32).encode(), NOW)
    with pytest.raises(ParseError):
        heard.heard_header(b"junk", NOW)
