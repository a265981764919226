"""The promises of the sequential test, by simulation with a known truth, and its formulas against closed forms.

Both arms' values are drawn from one distribution or from two that differ by a known factor; the test is read after
every fifty requests, as whoever watches a rollout does. `python -m benchmarks rollout` runs all of it, at full length.
"""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.rollout.confidence import ALPHA, ENOUGH, Moments, difference, ratio_of_rates, width


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_moments_are_the_mean_and_variance_of_all_values(values):
    moments = Moments()
    for value in values:
        moments.add(value)
    assert moments.count == len(values)
    assert moments.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert moments.variance == pytest.approx(statistics.variance(values), rel=1e-6, abs=1e-4)


@given(st.integers(1, 10**7))
def test_watching_always_costs_more_than_one_look(count):
    one_look = 1.96 / math.sqrt(count)
    assert one_look < width(count) < 1.2 * width(max(1, count // 2))


def test_a_brownian_motion_leaves_the_band_in_no_more_than_alpha_of_all_runs():
    rng, runs, left = random.Random(11), 1000, 0
    widths = {n: n * width(n) for n in range(50, 2001, 50)}
    for _ in range(runs):
        total = 0.0
        for n in range(50, 2001, 50):
            total += rng.gauss(0.0, math.sqrt(50))
            if abs(total) > widths[n]:
                left += 1
                break
    assert left <= ALPHA * runs


def _found(rng, *, share, ratio, spread, requests):
    """After how many requests a difference is reported, read after every fifty; None if never."""
    new, old, apart = Moments(), Moments(), math.log(ratio)
    for number in range(1, requests + 1):
        value = rng.gauss(0.0, spread)
        if rng.random() < share:
            new.add(value + apart)
        else:
            old.add(value)
        if number % 50 == 0:
            interval = difference(new, old)
            if interval is not None and interval.excludes_zero:
                return number
    return None


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_equal_arms_are_said_to_differ_in_no_more_than_one_of_twenty_runs(share):
    rng = random.Random(1)
    runs = [_found(rng, share=share, ratio=1.0, spread=0.5, requests=2000) for _ in range(200)]
    assert sum(found is not None for found in runs) <= 10


def test_a_fifth_quicker_is_found_within_2000_requests():
    rng = random.Random(2)
    runs = [_found(rng, share=0.5, ratio=0.8, spread=0.5, requests=2000) for _ in range(50)]
    assert sum(found is not None for found in runs) >= 45


def test_a_fifth_quicker_is_found_within_10000_requests_that_vary_twice_as_much():
    rng = random.Random(3)
    runs = [_found(rng, share=0.5, ratio=0.8, spread=1.0, requests=10_000) for _ in range(20)]
    assert sum(found is not None for found in runs) >= 18


def test_too_few_values_say_nothing():
    few, many = Moments(), Moments()
    for number in range(100):
        many.add(number)
    for number in range(ENOUGH - 1):
        few.add(1e9 + number)
    assert difference(few, many) is None
    few.add(1e9)
    assert difference(few, many).excludes_zero


@pytest.mark.parametrize(("share", "rate"), [(0.5, 0.05), (0.1, 0.01), (0.1, 0.3)])
def test_equal_failures_are_said_to_differ_in_no_more_than_one_of_twenty_runs(share, rate):
    rng, wrong = random.Random(4), 0
    for _ in range(100):
        counts = {True: [0, 0], False: [0, 0]}
        for number in range(1, 2001):
            arm = counts[rng.random() < share]
            arm[0] += rng.random() < rate
            arm[1] += 1
            if number % 50 == 0:
                interval = ratio_of_rates(tuple(counts[True]), tuple(counts[False]))
                if interval is not None and interval.excludes_zero:
                    wrong += 1
                    break
    assert wrong <= 5


@given(st.integers(0, 30), st.integers(0, 30), st.integers(50, 500), st.integers(50, 500))
def test_the_interval_of_two_rates_mirrors_when_the_arms_change_places(a, b, n, m):
    one, other = ratio_of_rates((a, n), (b, m)), ratio_of_rates((b, m), (a, n))
    if not a + b:
        assert one is other is None
        return
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    assert one.low <= one.estimate <= one.high


def test_the_ends_of_the_interval_of_two_rates_solve_the_mixtures_equation():
    interval = ratio_of_rates((30, 500), (10, 500))

    def log_likelihood_ratio(log_ratio):
        theta = 1 / (1 + math.exp(-log_ratio))  # with equally many requests
        mixture = math.lgamma(40) + math.lgamma(20) - math.lgamma(60) - (2 * math.lgamma(10) - math.lgamma(20))
        return mixture - 30 * math.log(theta) - 10 * math.log(1 - theta)

    for end in (interval.low, interval.high):
        assert log_likelihood_ratio(end) == pytest.approx(math.log(1 / ALPHA))
    assert interval.estimate == pytest.approx(math.log(3))
