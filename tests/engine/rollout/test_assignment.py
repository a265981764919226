import random

from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.rollout.assignment import Assignment, point

names = st.text(min_size=1)
shares = st.floats(0, 1)


@given(names, shares, shares)
def test_who_was_in_a_small_share_stays_in_as_it_grows(name, a, b):
    small, large = sorted((a, b))
    rng = random.Random(1)
    if Assignment(small, "rollout", rng).is_new(name):
        assert Assignment(large, "rollout", rng).is_new(name)


@given(names, st.integers(0, 2**32))
def test_chance_has_no_say_in_a_named_session(name, seed):
    assert Assignment(0.5, "r", random.Random(seed)).is_new(name) is Assignment(0.5, "r", random.Random(1)).is_new(name)


def test_a_point_is_the_same_in_every_process_and_release():
    assert point("rollout", "session-1") == 0.9081158530560921


@given(st.sampled_from([None, "a", "b"]))
def test_nobody_at_nought_everybody_at_one(name):
    assert not Assignment(0.0, "r", random.Random(1)).is_new(name)
    assert Assignment(1.0, "r", random.Random(1)).is_new(name)


def test_named_and_unnamed_requests_meet_the_share():
    assignment = Assignment(0.1, "rollout", random.Random(7))
    # Binomial(10,000, 0.1): five standard deviations are 150.
    assert abs(sum(assignment.is_new(f"session-{n}") for n in range(10_000)) - 1000) < 150
    assert abs(sum(assignment.is_new(None) for _ in range(10_000)) - 1000) < 150


def test_the_first_of_one_experiment_are_not_the_first_of_the_next():
    rng = random.Random(1)
    one, next_ = Assignment(0.1, "experiment cache_aware", rng), Assignment(0.1, "experiment least_busy", rng)
    both = sum(one.is_new(f"{n}") and next_.is_new(f"{n}") for n in range(10_000))
    assert abs(both - 100) < 50
