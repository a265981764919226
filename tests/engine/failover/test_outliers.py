"""Outliers of a group, by Envoy's rules and by latency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.failover.outliers import OutlierDetector, OutlierOptions


def run(outcomes, *, now=10.0, **options):
    """Evaluate one interval: {id: (succeeded, failed, mean seconds)}."""
    detector = OutlierDetector(OutlierOptions(**options))
    for id_, (succeeded, failed, seconds) in outcomes.items():
        for _ in range(succeeded):
            detector.record(id_, ok=True, seconds=seconds)
        for _ in range(failed):
            detector.record(id_, ok=False)
    return [o.id for o in detector.evaluate(now)]


def test_success_rate_far_below_the_mean():
    # Envoy's own example: mean 92, four hosts at 100 and one at 60 lies 1.9 deviations below.
    fleet = {f"d{i}": (100, 0, 0.1) for i in range(9)} | {"bad": (60, 40, 0.1)}
    assert run(fleet, failure_percentage=0) == ["bad"]


def test_a_group_that_fails_evenly_has_no_outlier():
    assert run({f"d{i}": (50, 50, 0.1) for i in range(5)}) == []


def test_failure_percentage_works_in_small_groups():
    assert run({"a": (50, 0, 0.1), "b": (50, 0, 0.1), "bad": (5, 45, 0.1)}) == ["bad"]


def test_a_slow_member_is_compared_with_the_others():
    assert run({"a": (30, 0, 0.1), "b": (30, 0, 0.1), "slow": (30, 0, 1.0)}) == ["slow"]
    assert run({"a": (30, 0, 0.001), "b": (30, 0, 0.001), "slow": (30, 0, 0.02)}) == []  # below min_latency


def test_too_few_attempts_or_members_say_nothing():
    assert run({"a": (5, 0, 0.1), "b": (5, 0, 0.1), "bad": (0, 5, 0.1)}) == []
    assert run({"a": (50, 0, 0.1), "bad": (0, 50, 0.1)}) == []


def test_nothing_happens_before_the_interval_is_over_and_the_next_one_starts_empty():
    detector = OutlierDetector(OutlierOptions(interval=10))
    for id_ in ("a", "b", "bad"):
        for _ in range(20):
            detector.record(id_, ok=id_ != "bad")
    assert not detector.due(9.9)
    assert detector.evaluate(9.9) == []
    assert [o.id for o in detector.evaluate(10)] == ["bad"]
    assert detector.evaluate(20) == []


@given(
    st.dictionaries(
        st.text(max_size=3), st.tuples(st.integers(0, 60), st.integers(0, 60), st.floats(0, 10)), max_size=8
    )
)
def test_the_best_member_is_never_an_outlier_by_success(outcomes):
    found = run(outcomes, latency_factor=0, failure_percentage=0)
    judged = {i: s / (s + f) for i, (s, f, _) in outcomes.items() if s + f >= 20}
    if judged:
        best = max(judged.values())
        assert all(judged[i] < best for i in found)


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"min_members": 1}, {"stdev_factor": -1}, {"latency_factor": 0.5}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OutlierOptions(**wrong)
