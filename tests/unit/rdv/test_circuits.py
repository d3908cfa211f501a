from convergence.rdv.circuits import Backoff
from tests.unit.ordb.memory import CountingRng


def test_delays_double_to_their_limit_and_start_again_after_a_reset() -> None:
    backoff = Backoff(CountingRng(), 0.5, 30.0)
    for number in range(40):
        whole = min(0.5 * 2**number, 30.0)
        assert whole / 2 <= backoff.next() <= whole
    assert backoff.failures == 40
    backoff.reset()
    assert backoff.next() <= 0.5


def test_two_nodes_do_not_come_at_once() -> None:
    rng = CountingRng()
    assert Backoff(rng, 10.0, 30.0).next() != Backoff(rng, 10.0, 30.0).next()
