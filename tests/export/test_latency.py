import pytest

from kprune.export.latency import spread, summarise


def test_ratios_are_taken_within_rounds():
    # The second half of the rounds ran on a machine of half the speed.
    found = summarise("r", "b", [2, 2, 2, 4, 4], [1, 1, 1, 2, 2])
    assert (found.ratio, found.low, found.high, found.rounds) == (2, 2, 2, 5)
    assert (found.baseline_ms, found.file_ms) == (2000, 1000)


def test_a_clock_that_did_not_tick_gives_no_infinity():
    assert summarise("r", "b", [1e-6], [0.0]).ratio == pytest.approx(1000)


def test_the_spread_is_that_of_the_quartiles():
    timing = spread([0.004, 0.001, 0.002, 0.003, 0.1])
    assert timing.rounds == 5
    assert (timing.low, timing.milliseconds, timing.high) == pytest.approx((2, 3, 4))
