"""What a request tries next, and how many retries a group may make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.deployment import Deployment
from fast_router.engine.failover.budgets import BudgetOptions, RetryBudget
from fast_router.engine.failover.failures import FailureKind
from fast_router.engine.failover.hedging import HedgeOptions, HedgePolicy
from fast_router.engine.failover.ledger import AttemptLedger

A, B, C = (Deployment(i, "m") for i in "abc")


def ids(deployments):
    return [d.id for d in deployments]


def test_an_empty_ledger_changes_nothing():
    candidates = [A, B, C]
    assert AttemptLedger().narrow(candidates) is candidates


def test_untried_first_then_the_oldest_retryable_failure():
    ledger = AttemptLedger()
    ledger.failed("b", FailureKind.SERVER, 1.0)
    assert ids(ledger.narrow([A, B, C])) == ["a", "c"]
    ledger.failed("a", FailureKind.AUTH, 0.5)
    assert ids(ledger.narrow([A, B, C])) == ["c"]
    ledger.failed("c", FailureKind.TIMEOUT, 2.0)
    assert ids(ledger.narrow([A, B, C])) == ["b"]  # older than c; a's key will not get better
    ledger.failed("b", FailureKind.SERVER, 3.0)
    assert ids(ledger.narrow([A, B, C])) == ["c"]


def test_with_nothing_retryable_the_oldest_still_gets_a_chance():
    ledger = AttemptLedger()
    ledger.failed("a", FailureKind.AUTH, 2)
    ledger.failed("b", FailureKind.NOT_FOUND, 1)
    assert ids(ledger.narrow([A, B])) == ["b"]
    assert ids(ledger.narrow([A])) == ["a"]


def test_the_next_tier_only_when_this_one_is_exhausted():
    first, second, third = (Deployment(i, "m", order=o) for i, o in [("p", 1), ("q", 1), ("r", 2)])
    ledger = AttemptLedger()
    ledger.failed("p", FailureKind.SERVER, 0)
    assert ids(ledger.narrow([first, second, third])) == ["q"]
    ledger.failed("q", FailureKind.SERVER, 0)
    assert ids(ledger.narrow([first, second, third])) == ["r"]


def test_a_request_that_has_failed_does_not_probe():
    ledger = AttemptLedger(doubtful=lambda id_: id_ in "bc")
    assert ids(ledger.narrow([A, B, C])) == ["a", "b", "c"]
    ledger.failed("c", FailureKind.CONNECTION, 0)
    assert ids(ledger.narrow([A, B, C])) == ["a"]
    ledger.failed("a", FailureKind.SERVER, 1)
    assert ids(ledger.narrow([A, B, C])) == ["b"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(FailureKind)), max_size=10))
def test_never_none_while_there_is_one_and_never_a_repeat_while_one_is_untried(history):
    ledger = AttemptLedger()
    for at, (id_, kind) in enumerate(history):
        ledger.failed(id_, kind, float(at))
    left = ids(ledger.narrow([A, B, C]))
    assert left
    untried = {"a", "b", "c"} - {i for i, _ in history}
    assert set(left) <= untried or not untried


def test_budget_is_a_share_plus_a_floor():
    budget = RetryBudget(BudgetOptions(share=0.2, per_second=0, window=10))
    for _ in range(100):
        budget.request(0)
    assert sum(budget.retry(0) for _ in range(100)) == 20
    assert budget.refused == 80
    assert not budget.retry(8)
    for _ in range(10):
        budget.request(11)
    assert sum(budget.retry(11) for _ in range(10)) == 2


def test_budget_floor_lets_a_quiet_group_retry():
    budget = RetryBudget(BudgetOptions(share=0, per_second=1, window=5))
    assert sum(budget.retry(0) for _ in range(10)) == 5
    assert budget.left(0) == 0
    assert budget.left(20) == 5


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=300),
    st.floats(0, 1),
    st.floats(0, 5),
)
def test_amplification_is_bounded(steps, share, per_second):
    budget = RetryBudget(BudgetOptions(share=share, per_second=per_second, window=10))
    now, requests, retries = 0.0, 0, 0
    for gap, wants in steps:
        now += gap
        budget.request(now)
        requests += 1
        retries += wants and budget.retry(now)
    # Each window of ten seconds obeys its own bound; n windows cover the run.
    windows = now // 9 + 1
    assert retries <= share * requests + per_second * 10 * windows + 1e-6


def test_hedges_wait_for_the_p95_and_for_enough_samples():
    policy = HedgePolicy(HedgeOptions(min_samples=20))
    for i in range(19):
        policy.observe(i / 100, stream=True)
    assert policy.delay(stream=True) is None
    policy.observe(0.19, stream=True)
    assert policy.delay(stream=True) == 0.18
    assert policy.delay(stream=False) is None
    assert HedgePolicy(HedgeOptions(delay=0.3)).delay(stream=False) == 0.3


def test_a_stream_is_expected_to_begin_before_a_whole_answer_ends():
    policy = HedgePolicy(HedgeOptions(min_samples=20))
    for _ in range(20):
        policy.observe(1.0, stream=False)
    assert policy.delay(stream=True) == 1.0
    for _ in range(20):
        policy.observe(0.1, stream=True)
    assert policy.delay(stream=True) == 0.1
    assert policy.delay(stream=False) == 1.0


def test_hedges_stay_within_their_percentage():
    policy = HedgePolicy(HedgeOptions(percent=5, burst=10))
    fired = 0
    for _ in range(1000):
        policy.request()
        fired += policy.take()
    assert fired == 50
    assert policy.fired == 50


def test_a_hedge_with_nobody_to_go_to_is_given_back():
    policy = HedgePolicy(HedgeOptions(percent=100))
    policy.request()
    assert policy.take()
    assert not policy.take()
    policy.give_back()
    assert policy.take()


@pytest.mark.parametrize("wrong", [{"delay": -1}, {"quantile": 0}, {"percent": 101}])
def test_hedge_options_are_checked(wrong):
    with pytest.raises(ValueError, match="hedge"):
        HedgeOptions(**wrong)
