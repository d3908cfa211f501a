"""How long the parts of the suite may take, and in which order they are begun.

Does: keep the one table of budgets; say of a test which part it belongs to; put a run's times beside the budgets.
Does not: fail anything: a part over its budget is a line in the summary, for somebody to look at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

# Seconds of all its tests together, without those marked long, in a run of three lanes on an idle machine with two
# cores. A third of the sum is the length of a run. Lanes take the parts in this order: what mostly waits comes first,
# small pieces last, so that the lanes end together.
BUDGETS = {
    "tests/browser": 1630,
    "tests/e2e": 400,
    "tests/interop": 460,
    "tests/unit/test_build.py": 60,
    "tests/sim": 340,
    "tests/unit/pynode": 140,
    "tests/ports": 60,
    "tests/fuzz": 30,
    "tests/property": 40,
    "tests/unit": 250,
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
