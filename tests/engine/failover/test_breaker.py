"""Every transition of one breaker, on a clock that only the test moves (Envoy's and gRPC's suites as models)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fast_router.engine.failover.breaker import Breaker, BreakerOptions, BreakerState
from fast_router.engine.failover.failures import FailureKind

CLOSED, OPEN, HALF = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
F = FailureKind
PLAIN = BreakerOptions(cooldown=10, growth=2, jitter=0, max_cooldown=60, slow_start=4, decay=1000)


def breaker(**changes):
    return Breaker(replace(PLAIN, **changes), rng=random.Random(1))


def test_a_rate_limit_opens_at_once_and_rests_as_long_as_asked():
    b = breaker()
    change = b.failure(100, F.RATE_LIMIT, b.generation, retry_after=7)
    assert (change.old, change.new, change.until) == (CLOSED, OPEN, 107)
    assert change.reason == "rate limit"


@pytest.mark.parametrize("kind", [F.AUTH, F.NOT_FOUND])
def test_a_refused_key_or_missing_model_opens_at_once(kind):
    b = breaker()
    assert b.failure(0, kind, b.generation).new is OPEN
    assert b.until == 10


@pytest.mark.parametrize("kind", [F.CONNECTION, F.TIMEOUT])
def test_connection_errors_open_in_a_row_and_a_success_breaks_the_row(kind):
    b = breaker(consecutive=3, consecutive_server=0, error_rate=1)
    for _ in range(2):
        assert b.failure(0, kind, b.generation) is None
    b.success(0, b.generation)
    for _ in range(2):
        assert b.failure(0, kind, b.generation) is None
    assert b.failure(0, kind, b.generation).new is OPEN


def test_server_errors_open_in_a_row():
    b = breaker(consecutive_server=5, min_requests=100)
    for _ in range(4):
        assert b.failure(0, F.SERVER, b.generation) is None
    assert b.failure(0, F.SERVER, b.generation).reason == "5 failures in a row"


def test_the_evidence_is_asked_about_only_when_it_would_open_and_a_no_leaves_it_one_failure_away():
    b, asked = breaker(consecutive_server=3, min_requests=100), []

    def evidence(enough):
        return lambda: asked.append(enough) or enough

    for _ in range(2):
        assert b.failure(0, F.SERVER, b.generation, may_open=evidence(False)) is None
    assert asked == []
    assert b.failure(0, F.SERVER, b.generation, may_open=evidence(False)) is None
    assert (asked, b.state) == ([False], CLOSED)
    assert b.failure(0, F.SERVER, b.generation, may_open=evidence(True)).new is OPEN


def test_the_error_rate_needs_a_minimum_of_requests_and_more_than_its_share():
    b = breaker(consecutive_server=0, error_rate=0.5, min_requests=6)
    for _ in range(3):
        b.success(0, b.generation)
        assert b.failure(0, F.SERVER, b.generation) is None  # half is not more than half
    assert b.failure(0, F.SERVER, b.generation).new is OPEN


def test_old_outcomes_leave_the_window():
    b = breaker(consecutive_server=0, error_rate=0.5, min_requests=4, window=30)
    for _ in range(3):
        b.failure(0, F.SERVER, b.generation)
    assert b.failure(31, F.SERVER, b.generation) is None


@pytest.mark.parametrize("kind", [F.CLIENT, F.CANCELLED])
def test_the_callers_faults_never_open_it(kind):
    b = breaker()
    for _ in range(1000):
        assert b.failure(0, kind, b.generation) is None
    assert b.state is CLOSED


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_allowed_fails_means_that_many_and_nothing_else_opens(allowed):
    b = breaker(allowed_fails=allowed, cooldown=10)
    for _ in range(allowed):
        assert b.failure(0, F.RATE_LIMIT, b.generation) is None
    assert b.failure(0, F.RATE_LIMIT, b.generation).new is OPEN


def test_allowed_fails_of_one_kind_counts_that_kind_alone():
    b = breaker(allowed_fails=5, allowed_fails_by_kind={F.RATE_LIMIT: 1})
    for _ in range(4):
        assert b.failure(0, F.SERVER, b.generation) is None
    assert b.failure(0, F.RATE_LIMIT, b.generation) is None
    assert b.failure(0, F.RATE_LIMIT, b.generation).new is OPEN


def test_the_deadline_never_gets_earlier():
    b = breaker()
    b.failure(0, F.RATE_LIMIT, b.generation, retry_after=60)
    b.failure(1, F.RATE_LIMIT, 0, retry_after=1)
    assert b.until == 60
    b.failure(1, F.RATE_LIMIT, 0, retry_after=100)
    assert b.until == 101
    b.trip(2, "again", seconds=5)
    assert b.until == 101


def test_rests_grow_up_to_the_cap_and_a_healthy_time_shrinks_them_again():
    b = breaker(decay=100)
    now, rests = 0.0, []
    for _ in range(5):
        b.failure(now, F.RATE_LIMIT, b.generation)
        rests.append(b.until - now)
        now = b.until
        assert b.admit(now)[0]
    assert rests == [10, 20, 40, 60, 60]
    assert b.success(now, b.generation).new is CLOSED
    now += 500  # five steps off
    b.failure(now, F.RATE_LIMIT, b.generation)
    assert b.until - now == 10


def test_jitter_only_adds_and_stays_within_its_share():
    for seed in range(50):
        b = Breaker(BreakerOptions(cooldown=10, jitter=0.2), rng=random.Random(seed))
        b.failure(0, F.AUTH, 0)
        assert 10 <= b.until <= 12


def test_constant_cooldowns_are_not_capped():
    b = breaker(growth=1, cooldown=600, max_cooldown=60)
    b.failure(0, F.AUTH, 0)
    assert b.until == 600


def test_one_probe_at_a_time():
    b = breaker(probe_timeout=5)
    b.failure(0, F.AUTH, b.generation)
    assert b.admit(9.9) == (False, None)
    admitted, change = b.admit(10)
    assert admitted
    assert change.new is HALF
    assert b.admit(10) == (False, None)
    assert b.admit(14.9) == (False, None)
    assert b.admit(15) == (True, None)  # the first probe said nothing in time


def test_a_probes_success_closes_with_a_slow_start():
    b = breaker()
    b.failure(0, F.AUTH, b.generation)
    b.admit(10)
    assert b.share(10) == 0
    assert b.success(11, b.generation).new is CLOSED
    assert b.share(11) == 0.1
    assert b.share(13) == 0.5
    assert b.share(15) == 1


def test_a_probes_failure_opens_again_for_longer():
    b = breaker()
    b.failure(0, F.AUTH, b.generation)
    b.admit(10)
    change = b.failure(11, F.SERVER, b.generation)
    assert (change.new, change.until) == (OPEN, 31)


def test_a_late_success_of_an_old_attempt_closes_nothing():
    b = breaker()
    old = b.generation
    b.failure(0, F.AUTH, old)
    b.admit(10)
    assert b.success(10, old) is None
    assert b.state is HALF
    assert b.failure(10, F.SERVER, old) is None
    assert b.state is HALF


def test_a_cancelled_probe_makes_room_for_the_next():
    b = breaker()
    b.failure(0, F.AUTH, b.generation)
    b.admit(10)
    b.cancelled(b.generation)
    assert b.admit(10.1)[0]


def test_waking_it_closes_it():
    b = breaker()
    assert b.wake(0, "healthy") is None
    b.failure(0, F.AUTH, b.generation)
    assert b.wake(1, "healthy").reason == "healthy"
    assert b.admit(1) == (True, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cooldown": -1},
        {"growth": 0.5},
        {"jitter": 2},
        {"error_rate": 1.1},
        {"window": 0},
        {"probe_timeout": 0},
        {"slow_start_floor": 0},
    ],
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        BreakerOptions(**wrong)


class BreakerMachine(RuleBasedStateMachine):
    """Random histories: the deadline is monotone while open, one probe at a time, stale news closes nothing."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.b = Breaker(
            BreakerOptions(cooldown=5, growth=2, jitter=0.5, consecutive=2, min_requests=3), rng=random.Random(0)
        )
        self.out: list[tuple[int, bool]] = []  # (generation, is a probe)
        self.deadline = 0.0
        self.probe_sent: float | None = None

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def ask(self):
        before = self.b.state
        admitted, change = self.b.admit(self.now)
        assert admitted == (change is not None) or before is not OPEN
        if admitted:
            probe = before is not CLOSED
            if probe:
                assert self.now >= self.deadline
                assert self.probe_sent is None or self.now >= self.probe_sent + self.b.options.probe_timeout
                self.probe_sent = self.now
            self.out.append((self.b.generation, probe))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def succeed(self, data):
        generation, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.b.state
        change = self.b.success(self.now, generation)
        if change is not None:
            assert before is HALF
            assert change.new is CLOSED
            self.probe_sent = None
            self.deadline = 0.0

    @precondition(lambda self: self.out)
    @rule(data=st.data(), kind=st.sampled_from(FailureKind), retry_after=st.none() | st.floats(0, 100))
    def fail(self, data, kind, retry_after):
        generation, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        current = generation == self.b.generation
        change = self.b.failure(self.now, kind, generation, retry_after)
        if change is not None:
            assert kind.blames_deployment
            assert change.new is OPEN
            self.probe_sent = None
        elif not kind.blames_deployment and current:
            self.probe_sent = None

    @invariant()
    def deadline_is_monotone(self):
        if self.b.state is OPEN:
            assert self.b.until >= self.deadline
            self.deadline = self.b.until

    @invariant()
    def share_fits_the_state(self):
        share = self.b.share(self.now)
        assert (share == 0) == (self.b.state is not CLOSED)
        assert 0 <= share <= 1


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
