"""What a relay may carry in a period: counted over restarts, used up once, given anew."""

import pytest

from convergence.effects import Load, Store
from convergence.outbox import Outbox
from convergence.tor.accounting import LOOK, Accounting, Allowance

PERIOD = 86400
START = 20_000 * PERIOD + 1000
LIMIT = 1000


class Scene:
    """One run of a relay. `kept` is what the run before kept."""

    def __init__(self, kept=None, now=START, allowance=Allowance(LIMIT, PERIOD)):  # noqa: B008
        self.now = now
        self.outbox = Outbox()
        self.relayed = 0
        self.changes = []
        self.ready = []
        self.kept = kept
        self.accounting = Accounting(
            self.outbox, allowance, lambda: self.relayed, lambda over, now: self.changes.append(over)
        )
        self.accounting.start(now, self.ready.append)
        self.poll()

    def poll(self):
        for effect in self.outbox.poll(self.now):
            if isinstance(effect, Load):
                self.outbox.done(effect.request, self.kept, self.now)
            elif isinstance(effect, Store):
                [(_, _, self.kept)] = effect.items

    def carry(self, size, seconds=LOOK):
        self.relayed += size
        self.now += seconds
        self.outbox.run_timers(self.now)
        self.poll()

    def stop(self):
        self.accounting.stop(self.now)
        self.poll()
        return self.kept


def test_what_is_used_up_is_said_once_until_the_next_period():
    scene = Scene()
    assert len(scene.ready) == 1
    scene.carry(LIMIT - 1)
    assert scene.changes == []
    scene.carry(1)
    scene.carry(500)
    assert scene.changes == [True]
    scene.carry(0, PERIOD)
    assert scene.changes == [True, False]
    scene.carry(LIMIT)
    assert scene.changes == [True, False, True]


@pytest.mark.parametrize(("used", "more"), [(600, 400), (LIMIT, 0)])
def test_it_is_counted_over_restarts(used, more):
    first = Scene()
    first.carry(used, 1)
    second = Scene(first.stop(), first.now)
    assert len(second.ready) == (used < LIMIT)
    second.carry(more)
    assert second.changes == [True]


def test_what_was_used_in_another_period_does_not_count():
    first = Scene()
    first.carry(LIMIT)
    second = Scene(first.stop(), START + PERIOD)
    assert second.changes == [] and len(second.ready) == 1


@pytest.mark.parametrize("kept", [b"", b"x", b"\xff" * 17, None])
def test_what_was_not_kept_by_us_is_nothing(kept):
    scene = Scene(kept)
    assert scene.changes == [] and len(scene.ready) == 1


def test_without_a_limit_nothing_is_kept():
    scene = Scene(allowance=None)
    scene.carry(1 << 40)
    assert scene.changes == [] and len(scene.ready) == 1 and scene.stop() is None
