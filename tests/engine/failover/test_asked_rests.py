"""How long a deployment rests that asks for it: one caller's word is not everybody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.failover.breaker import BreakerState
from tests.engine.failover.test_evidence import BrokenError, Fleet

COOLDOWN = 5.0
LONG = 600.0


def asking(seconds):
    """A refusal that asks to stay away for so long."""

    class AskingError(Exception):
        status_code = 429
        retry_after = seconds

    return AskingError


def fleet(**options):
    return Fleet(size=4, **{"consecutive_server": 3, "growth": 1.0, "cooldown": COOLDOWN, **options})


def left(f, member=0):
    """Seconds until a probe may leave."""
    return f.policy.describe(f"d{member}").get("seconds_left", 0.0)


def test_one_caller_alone_is_believed_until_another_asks():
    f = fleet()
    f.request(0, caller="hostile", error=asking(LONG))
    assert left(f) == pytest.approx(LONG, abs=1)
    assert f.engine.untold("d0")
    f.policy.appeal("m", "hostile")
    assert f.resting == {"d0"}
    f.policy.appeal("m", "other")
    assert not f.resting


def test_a_short_rest_is_not_worth_an_appeal():
    f = fleet()
    f.request(0, caller="one", error=asking(3))
    assert left(f) == pytest.approx(3, abs=1)
    assert not f.policy.disputed


@pytest.mark.parametrize("callers", [("a", "b"), (None, None)])
def test_two_that_are_asked_alike_are_believed(callers):
    f = fleet(immediate=frozenset(), consecutive_server=2)
    for caller, seconds in zip(callers, (60, 58), strict=True):
        f.request(0, caller=caller, error=asking(seconds))
    assert left(f) == pytest.approx(58, abs=1)
    assert not f.policy.disputed


@pytest.mark.parametrize("first", [BrokenError, asking(2)])
@pytest.mark.parametrize("caller", ["hostile", None])
def test_that_it_is_ill_says_nothing_of_how_long_one_was_asked_to_stay_away(first, caller):
    f = fleet()
    f.request(0, caller="good", error=first)
    f.now += 6
    f.request(0, caller=caller, error=asking(LONG))
    assert f.resting == {"d0"}
    assert left(f) <= COOLDOWN
    # Until somebody else is asked the same.
    assert f.policy.may_rest_for(f.members[0], f.request(caller="third"), LONG) == pytest.approx(LONG, abs=1)


def test_one_whose_request_was_answered_elsewhere_is_believed():
    f = fleet()
    f.request(0, caller="good", error=asking(LONG), succeeds_at=1)
    assert left(f) == pytest.approx(LONG, abs=1)
    assert not f.engine.untold("d0")
    f.policy.appeal("m", "other")
    assert f.resting == {"d0"}


def test_a_second_failure_of_another_kind_lets_a_probe_find_out():
    f = fleet()
    stale = f.engine.acquire_deployment(f.members[0])
    f.request(0, caller="hostile", error=asking(LONG))
    case = f.request(caller="good")
    stale.case = case
    error = BrokenError()
    error.litellm_response_headers = {}
    stale.release(error)
    assert f.policy.state("d0") is BreakerState.HALF_OPEN
    assert not f.resting


def test_however_many_were_asked_before_the_next_two_are_believed():
    f = fleet(consecutive_server=1)
    for _ in range(20):
        f.request(0, error=asking(6))
        f.now += 7  # over, and nobody has been answered
    for _ in range(2):
        f.request(0, error=asking(LONG))
    assert left(f) == pytest.approx(LONG, abs=1)
    assert len(f.policy.breaker(f.members[0]).testimony._asked) <= 8


def test_an_answer_makes_it_forget_what_was_asked():
    f = fleet()
    f.request(0, caller="hostile", error=asking(LONG))
    f.policy.appeal("m", "good")
    f.request(succeeds_at=0, caller="good")
    f.request(0, caller="other", error=asking(LONG))
    assert f.policy.disputed


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("hostile"), st.lists(st.integers(0, 3), min_size=1, max_size=4)),
            st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True)),
        ),
        max_size=30,
    ),
    st.floats(0, 20),
)
def test_nobody_is_kept_away_for_long_by_one_caller(steps, pause):
    """Others' failures, which ask for nothing, lend no weight to how long one caller was asked to stay away."""
    f = fleet()
    for caller, fails_at in steps:
        f.policy.appeal("m", caller)
        f.request(*fails_at, caller=caller, error=asking(LONG) if caller == "hostile" else BrokenError)
        f.now += pause
        f.policy.appeal("m", "somebody else")
        assert all(left(f, n) <= COOLDOWN for n in range(4))
