"""How long the parts of the suite may take, and in which order they are begun.

Does: keep the one table of budgets; say of a test which part it belongs to; put a run's times beside the budgets.
Does not: fail anything: a part over its budget is a line in the summary, for somebody to look at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

# Seconds of all its tests together on an idle machine with two cores, without those marked long: what one lane would
# need. Lanes take the parts in this order. What mostly waits comes first, and small pieces last, so that the lanes end
# together.
BUDGETS = {
    "tests/browser": 1000,
    "tests/e2e/test_benches.py": 180,
    "tests/e2e": 120,
    "tests/unit/test_build.py": 120,
    "tests/unit/pynode": 120,
    "tests/ports": 40,
    "tests/sim": 300,
    "tests/fuzz": 120,
    "tests/property": 40,
    "tests/unit": 120,
}


def part_of(test: str) -> str:
    """The part that a test (its node id) belongs to: the longest name in BUDGETS that it begins with; "" if none."""
    return max((part for part in BUDGETS if test.startswith((f"{part}/", f"{part}::"))), key=len, default="")


def rank(test: str) -> int:
    """Where the part of a test stands in the order."""
    part = part_of(test)
    return list(BUDGETS).index(part) if part else len(BUDGETS)


def spent(durations: Iterable[tuple[str, float]]) -> Iterator[str]:
    """A line for each part that tests ran of.

    Args:
        durations: node id and seconds of each phase of each test.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    for test, duration in durations:
        seconds[part_of(test)] += duration
    for part in sorted(seconds, key=seconds.__getitem__, reverse=True):
        budget, used = BUDGETS.get(part, 0), round(seconds[part])
        over = f"   OVER ITS BUDGET by {used - budget} s" if used > budget else ""
        yield f"{part or 'elsewhere':25} {used:5} s of {budget:5} s{over}"
