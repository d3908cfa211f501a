"""What a node knows of the network, and of its own place in it."""

import pytest

from convergence.netdir.bucketview import SILENT
from convergence.netdir.headers import EPOCH
from convergence.netdir.knowledge import Knowledge
from convergence.netdir.rings import ABSENCE, STABLE_AGE
from convergence.outbox import Outbox
from convergence.wire.target import Role
from tests.unit.facilitator.world import HashRng
from tests.unit.netdir.buckets import CRYPTO, FACILITATOR, NOW
from tests.unit.netdir.test_headers import header_at

AFTER = int(STABLE_AGE // EPOCH)


class Rig:
    """A node that is `listed` since then."""

    def __init__(self):
        self.outbox = Outbox()
        self.now = NOW
        self.listed = self.outbox.steady(NOW)
        self.knowledge = Knowledge(
            self.outbox,
            CRYPTO,
            HashRng(),
            b"i" * 32,
            "network",
            FACILITATOR,
            fetch=lambda request, key, attempt, then, now: then(b"", now),
            draw=lambda day, then, now: then(None, now),
            on_change=lambda now: None,
            on_found=lambda now: None,
            offers=lambda: Role(0),
            listed_since=lambda: self.listed,
        )

    def epochs(self, count):
        """Pass, with a header each. Returns after how many of them the node was stable."""
        stable = []
        for number in range(count):
            self.knowledge.headers.take(header_at(self.now).encode(), self.now)
            if self.knowledge.stable(self.now):
                stable.append(number)
            self.now += EPOCH
        return stable


def test_a_node_that_has_been_listed_for_hours_in_a_large_network_is_stable():
    assert Rig().epochs(AFTER + 2) == [AFTER, AFTER + 1]


def test_while_there_is_a_list_or_no_news_of_the_facilitator_no_node_is_stable():
    rig = Rig()
    rig.epochs(AFTER + 1)
    rig.now -= EPOCH
    assert rig.knowledge.stable(rig.now) and rig.knowledge.stable(rig.now + SILENT - 1)
    assert not rig.knowledge.stable(rig.now + SILENT)
    rig.knowledge.directory._published = rig.now + 1  # a list came
    assert not rig.knowledge.stable(rig.now)


def test_a_node_tells_how_old_its_header_is_and_what_is_known_of_the_draw():
    rig = Rig()
    assert rig.knowledge.snapshot(rig.now) is None
    rig.epochs(1)
    unseen = {"announced": False, "committed": 0, "counted": 0}
    number = rig.knowledge.headers.newest.epoch
    assert rig.knowledge.snapshot(rig.now) == {"number": number, "age": EPOCH, "drawn": unseen}
    rig.knowledge.directory._published = rig.now + 1  # a list came
    assert rig.knowledge.snapshot(rig.now) is None


@pytest.mark.parametrize("seconds", [ABSENCE - 2 * EPOCH, ABSENCE])
def test_a_node_that_was_gone_is_as_old_as_the_facilitator_remembers(seconds):
    rig = Rig()
    rig.epochs(AFTER + 1)
    rig.listed = None
    rig.epochs(int(seconds // EPOCH))
    rig.listed = rig.outbox.steady(rig.now)
    assert rig.epochs(AFTER + 1) == ([AFTER] if seconds == ABSENCE else [*range(AFTER + 1)])
