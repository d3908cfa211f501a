"""Of when a node asks its neighbours for descriptors."""

import pytest

from convergence.introduction.gossip import GOSSIP_OVERLAP, Gossip
from convergence.netdir.bucketview import SILENT
from convergence.netdir.headers import Headers
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox
from tests.unit.facilitator.world import HashRng
from tests.unit.netdir.buckets import CRYPTO, FACILITATOR, NOW
from tests.unit.netdir.test_headers import header_at


class Pipe:
    def __init__(self, answered_at):
        self.answered_at = answered_at
        self.asked = []

    def may_ask(self, now):
        return True

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
