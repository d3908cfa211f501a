"""The estimate of path-spec 2.4: its formulae, and what follows from it."""

from collections import deque
from math import log

import pytest

from convergence.errors import ParseError
from convergence.path.buildtimes import KEPT, LEAST, BuildTimeParams, BuildTimes, mode, pareto_alpha, pareto_quantile
from tests.unit.path.tornetwork import usual


def pareto(x_m, alpha, count):
    """Times that lie on the quantiles of a Pareto distribution."""
    return [pareto_quantile(x_m, alpha, (number + 0.5) / count) for number in range(count)]


def learned(milliseconds, **params):
    times = BuildTimes()
    times.update(BuildTimeParams(**params))
    for time in milliseconds:
        times.built(time / 1000)
    return times


def test_xm_is_the_weighted_mean_of_the_fullest_bins():
    assert mode(deque([403, 408, 401, 512, 519, 733]), 2) == pytest.approx((3 * 405 + 2 * 515) / 5)
    assert mode(deque([10, 20, 30, 40]), 2) == pytest.approx((15 + 25) / 2), "ties go to the earlier bins"


def test_alpha_is_the_maximum_likelihood_estimate():
    times = deque([100, 200, 400, 50])  # what is below Xm counts as Xm
    assert pareto_alpha(times, 100.0) == pytest.approx(4 / (log(2) + log(4)))
    assert pareto_alpha(deque([90, 100]), 100.0) == float("inf")


def test_the_quantile_is_the_inverse_of_the_distribution():
    assert pareto_quantile(100.0, 2.0, 0.75) == pytest.approx(200)
    assert pareto_quantile(100.0, float("inf"), 0.8) == 100


@pytest.mark.parametrize(("x_m", "alpha"), [(500, 3.0), (800, 2.0), (1500, 6.0)])
def test_of_a_pareto_distribution_about_four_fifths_are_in_time(x_m, alpha):
    sample = pareto(x_m, alpha, KEPT)
    timeout = learned(sample).timeout(3) * 1000
    assert 0.72 < sum(time <= timeout for time in sample) / KEPT < 0.88


def test_nothing_is_late_before_enough_is_known():
    times = learned(pareto(500, 3.0, 99))
    assert times.timeout(3) is None
    times.built(0.6)
    assert times.timeout(3) is not None


def test_circuits_of_other_lengths_have_time_by_what_is_sent():
    times = learned(pareto(500, 3.0, 200))
    assert times.timeout(4) == pytest.approx(times.timeout(3) * 10 / 6)
    assert times.timeout(2) == pytest.approx(times.timeout(3) * 3 / 6)


def test_the_time_is_no_longer_than_the_longest_seen_and_no_shorter_than_a_busy_machine_may_take():
    assert learned([5000] * 99 + [5001]).timeout(3) <= 5.001
    assert learned([3] * 200).timeout(3) == LEAST / 1000
    assert learned([3] * 200, min_timeout=900).timeout(3) == 0.9


def test_old_times_are_forgotten():
    times = learned([9000] * KEPT + [500] * KEPT)
    assert times.timeout(3) < 1


def test_when_most_are_late_all_is_forgotten():
    times = learned(pareto(500, 3.0, 200))
    for _ in range(17):
        times.outcome(late=True)
    times.outcome(late=False)
    assert times.timeout(3) is not None
    times.outcome(late=True)
    assert times.timeout(3) is None and times.encode() == b""


def test_what_an_earlier_run_kept_counts():
    times = learned(pareto(500, 3.0, 200))
    again = BuildTimes()
    again.restore(times.encode())
    assert again.timeout(3) == times.timeout(3)


@pytest.mark.parametrize("data", [b"x", bytes(2), b"ab" * (KEPT + 1)])
def test_what_cannot_be_read_is_refused(data):
    with pytest.raises(ParseError):
        BuildTimes().restore(data)


def test_the_consensus_has_the_parameters():
    params = (
        "cbtdisabled=1 cbtmaxtimeouts=9 cbtmincircs=10001 cbtmintimeout=1 cbtnummodes=3 cbtquantile=60 cbtrecentcount=9"
    )
    found = BuildTimeParams.of(usual(3, params=params).consensus())
    assert found == BuildTimeParams(1, 3, 9, 9, 10000, 60, 10)
    assert BuildTimeParams.of(usual(3).consensus()) == BuildTimeParams()


def test_a_network_can_switch_it_off():
    times = learned(pareto(500, 3.0, 200))
    times.update(BuildTimeParams(disabled=1))
    times.built(0.5)
    assert times.timeout(3) is None and times.encode() == b""
