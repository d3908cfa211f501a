"""A pipe of real processes over a long way: the machine's CPU limits it, not the distance."""

import pytest

from tests.bench.distance import pipe_rate

NEAR, FAR = 48 << 20, 192 << 20  # bytes
WANTED = 6.4  # MB/s: eight times what fixed windows give


@pytest.mark.long
def test_a_pipe_over_300_ms_is_eight_times_as_fast_as_fixed_windows() -> None:
    """Where five relays, five forwarders and both ends have too little CPU, it is some part of what they do without a
    delay: a process that gets no CPU looks like a queue."""
    at_best = pipe_rate(0.0, NEAR)
    assert pipe_rate(0.3, FAR) >= min(WANTED, at_best / 3)
