"""Breakers of a whole engine: the cap, panic, probes, rests ordered by others; real engine, hand-driven clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fast_router.engine import Deployment, Engine
from fast_router.engine.deployment import PROBING, RESTING
from fast_router.engine.failover.breaker import BreakerOptions, BreakerState
from fast_router.engine.failover.failures import FailureKind
from fast_router.engine.failover.ledger import AttemptLedger
from fast_router.engine.failover.outliers import OutlierOptions
from fast_router.engine.failover.policy import EjectionOptions, FailoverPolicy

OPTIONS = BreakerOptions(cooldown=10, growth=1, jitter=0, slow_start=0, consecutive=2)


class Failed(Exception):
    def __init__(self, status, retry_after=None):
        super().__init__(status)
        self.status_code = status
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}


class Fleet:
    """An engine with one group on a clock that only the test moves."""

    def __init__(self, size=3, strategy="round_robin", **policy):
        self.now = 0.0
        self.engine = Engine(clock=lambda: self.now, wall=lambda: self.now, rng=random.Random(3))
        self.members = [Deployment(f"d{i}", "m") for i in range(size)]
        self.engine.deployments.update({d.id: d for d in self.members})
        self.group = self.engine.compile_group("m", self.members, strategy)
        self.log = []
        policy.setdefault("options", OPTIONS)
        self.policy = FailoverPolicy(
            self.engine,
            lambda d: self.members,
            on_change=lambda d, change: self.log.append((d.id, change.new)),
            wall_clock=lambda: self.now,
            rng=random.Random(1),
            **policy,
        )

    def call(self, error=None, *, to=None, cancelled=False):
        lease = self.lease(to)
        lease.release(error, cancelled=cancelled)
        return lease.deployment

    def lease(self, to=None):
        if to is not None:
            return self.engine.acquire_deployment(self.members[to])
        lease = self.engine.acquire(self.group)
        assert lease is not None
        return lease

    def served(self, calls=60):
        return {self.call().id for _ in range(calls)}


def test_a_rate_limited_deployment_leaves_at_once_and_returns_when_asked_to():
    fleet = Fleet()
    fleet.call(Failed(429, retry_after=7), to=0)
    assert fleet.served() == {"d1", "d2"}
    fleet.now = 6.99
    assert fleet.served() == {"d1", "d2"}
    fleet.now = 7
    assert fleet.served() == {"d0", "d1", "d2"}
    assert [state.value for _, state in fleet.log] == ["open", "half_open", "closed"]


def test_only_one_probe_leaves_while_its_outcome_is_unknown():
    fleet = Fleet()
    fleet.call(Failed(429), to=0)
    fleet.now = 10
    probe = next(lease for lease in (fleet.lease() for _ in range(9)) if lease.id == "d0")
    assert fleet.served() == {"d1", "d2"}
    assert fleet.members[0].held & PROBING
    probe.release()
    assert fleet.served() == {"d0", "d1", "d2"}


def test_a_probe_without_outcome_makes_room_for_another():
    fleet = Fleet()
    fleet.call(Failed(429), to=0)
    fleet.now = 10
    stuck = [fleet.lease() for _ in range(3)]
    assert sum(lease.id == "d0" for lease in stuck) == 1
    fleet.now = 10 + OPTIONS.probe_timeout
    assert "d0" in fleet.served()


def test_a_cancelled_probe_makes_room_for_another():
    fleet = Fleet()
    fleet.call(Failed(429), to=0)
    fleet.now = 10
    probe = next(lease for lease in (fleet.lease() for _ in range(9)) if lease.id == "d0")
    probe.release(cancelled=True)
    assert "d0" in fleet.served()


def test_a_probe_that_is_dropped_makes_room_for_another():
    fleet = Fleet()
    fleet.call(Failed(429), to=0)
    fleet.now = 10
    probe = next(lease for lease in (fleet.lease() for _ in range(9)) if lease.id == "d0")
    told = []
    fleet.engine.on_release.append(lambda *how: told.append(how))
    probe.abandon()
    fleet.engine.settle()
    assert told == [(probe, None, True)]
    assert "d0" in fleet.served()


def test_the_end_of_an_earlier_probes_time_lets_nobody_past_the_present_one():
    fleet = Fleet()
    fleet.call(Failed(429), to=0)
    fleet.now = 10
    first = next(lease for lease in (fleet.lease() for _ in range(9)) if lease.id == "d0")
    fleet.now = 14
    first.release(cancelled=True)
    second = next(lease for lease in (fleet.lease() for _ in range(9)) if lease.id == "d0")
    fleet.now = 10 + OPTIONS.probe_timeout
    assert fleet.served() == {"d1", "d2"}
    fleet.now = 14 + OPTIONS.probe_timeout
    assert second.open
    assert "d0" in fleet.served()


def test_the_first_token_of_a_stream_is_enough_for_a_probe():
    fleet = Fleet()
    fleet.call(Failed(429), to=0)
    fleet.now = 10
    probe = next(lease for lease in (fleet.lease() for _ in range(9)) if lease.id == "d0")
    fleet.policy.first_token(probe)
    assert fleet.policy.state("d0") is BreakerState.CLOSED


def test_a_late_success_of_an_old_attempt_does_not_bring_it_back():
    fleet = Fleet()
    old = fleet.lease(0)
    fleet.call(Failed(429), to=0)
    old.release()
    assert fleet.policy.state("d0") is BreakerState.OPEN
    assert fleet.served() == {"d1", "d2"}


def test_a_group_of_one_is_never_emptied():
    fleet = Fleet(1)
    for _ in range(20):
        fleet.call(Failed(500))
    assert fleet.served() == {"d0"}


def test_all_but_one_may_rest_and_beyond_that_everybody_serves():
    fleet = Fleet(3)
    fleet.call(Failed(429, retry_after=100), to=0)
    fleet.call(Failed(429, retry_after=100), to=1)
    assert fleet.served() == {"d2"}
    fleet.call(Failed(429, retry_after=100), to=2)
    assert fleet.policy.in_panic("m")
    # Failing, all of them: spread over everybody.
    assert {fleet.call(Failed(429)).id for _ in range(30)} == {"d0", "d1", "d2"}


def test_panic_ends_with_the_first_that_is_back():
    fleet = Fleet(3)
    for i in range(3):
        fleet.call(Failed(429, retry_after=100), to=i)
    fleet.call(to=1)
    assert not fleet.policy.in_panic("m")
    assert fleet.served() == {"d1"}
    assert fleet.members[0].resting_until == 100


def test_without_panic_the_last_one_goes_on():
    fleet = Fleet(3, ejection=EjectionOptions(panic=False))
    for i in range(3):
        fleet.call(Failed(429), to=i)
    assert fleet.served() == {"d2"}


@pytest.mark.parametrize(
    ("share", "size", "most"), [(1, 5, 4), (0.5, 4, 2), (0.1, 5, 1), (0.6, 5, 3), (0, 5, 0), (1, 1, 0), (1, 2, 1)]
)
def test_cap(share, size, most):
    assert EjectionOptions(share).most(size) == most


def test_client_faults_never_rest_anybody():
    fleet = Fleet()
    for _ in range(100):
        fleet.call(Failed(400))
    assert fleet.served() == {"d0", "d1", "d2"}
    assert fleet.log == []


def test_a_rest_ordered_by_others_is_taken_over_whatever_the_cap():
    fleet = Fleet(2)
    for member in fleet.members:
        fleet.engine.rest(member, 30)
    assert fleet.engine.acquire(fleet.group) is None
    assert fleet.policy.describe("d0") == {"state": "open", "reason": "cooldown", "seconds_left": 30}
    fleet.now = 30
    assert fleet.served() == {"d0", "d1"}


def test_ordered_rests_say_why():
    fleet = Fleet(2)
    fleet.policy.ordered(fleet.members[0], 12, "LiteLLM: 401")
    assert fleet.policy.describe("d0")["reason"] == "LiteLLM: 401"
    assert fleet.served() == {"d1"}
    fleet.policy.wake(fleet.members[0], "healthy again")
    assert fleet.served() == {"d0", "d1"}


def test_somebody_elses_decision_is_respected():
    fleet = Fleet(decides=lambda deployment, error, kind: False)
    for _ in range(10):
        fleet.call(Failed(429), to=0)
    assert fleet.served() == {"d0", "d1", "d2"}


def test_slow_start_gives_a_share_at_first():
    options = BreakerOptions(cooldown=10, growth=1, jitter=0, slow_start=10)
    fleet = Fleet(2, options=options)
    fleet.call(Failed(429), to=0)
    fleet.now = 10
    while fleet.policy.state("d0") is not BreakerState.CLOSED:
        fleet.call()
    early = sum(fleet.call().id == "d0" for _ in range(1000))
    fleet.now = 15
    half = sum(fleet.call().id == "d0" for _ in range(1000))
    fleet.now = 20
    full = sum(fleet.call().id == "d0" for _ in range(1000))
    assert early < half < full
    assert full == pytest.approx(500, abs=5)


# -- overtaken by a hedge ------------------------------------------------------------------------------------


def overtake(fleet, to):
    """An attempt that a second one overtakes: held against its deployment, then cancelled."""
    lease = fleet.lease(to=to)
    fleet.policy.overtaken(lease)
    lease.release(cancelled=True)


def test_attempts_overtaken_in_a_row_rest_a_deployment_that_hangs():
    fleet = Fleet(3)
    overtake(fleet, 0)
    assert fleet.log == []
    overtake(fleet, 0)
    assert fleet.log == [("d0", BreakerState.OPEN)]
    assert fleet.served() == {"d1", "d2"}


def test_an_answer_between_two_overtaken_attempts_clears_the_deployment():
    fleet = Fleet(3)
    for _ in range(5):
        overtake(fleet, 0)
        fleet.call(to=0)
        fleet.call(to=0)
    assert fleet.log == []


def test_an_overtaken_probe_has_failed():
    fleet = Fleet(3)
    overtake(fleet, 0)
    overtake(fleet, 0)
    fleet.now = 10.0
    fleet.log.clear()
    probe = next(lease for lease in (fleet.lease() for _ in range(3)) if lease.id == "d0")
    fleet.policy.overtaken(probe)
    probe.release(cancelled=True)
    assert fleet.log == [("d0", BreakerState.HALF_OPEN), ("d0", BreakerState.OPEN)]
    assert fleet.served() == {"d1", "d2"}


def test_an_overtaken_attempt_is_nothing_where_somebody_else_decides():
    fleet = Fleet(3, decides=lambda deployment, error, kind: False)
    for _ in range(5):
        overtake(fleet, 0)
    assert fleet.log == []


def test_a_failing_health_check_prolongs_a_rest_but_empties_no_group():
    fleet = Fleet(2)
    assert not fleet.policy.prolong(fleet.members[0], 30)
    fleet.call(Failed(429), to=0)
    fleet.now = 10.0
    assert fleet.policy.prolong(fleet.members[0], 30)
    fleet.now = 39.0
    assert fleet.served() == {"d1"}
    fleet.now = 40.0
    assert fleet.served() == {"d0", "d1"}
    fleet.call(Failed(429), to=0)
    fleet.engine.rest(fleet.members[1], 600)
    assert not fleet.policy.prolong(fleet.members[0], 300)


def test_a_failing_health_check_rests_nobody_beyond_the_cap():
    fleet = Fleet(2, ejection=EjectionOptions(0.0, panic=False))
    fleet.call(Failed(429), to=0)
    assert not fleet.policy.prolong(fleet.members[0], 30)
    assert fleet.served() == {"d0", "d1"}


def test_a_panic_ends_the_wait_for_a_probe():
    fleet = Fleet(2, ejection=EjectionOptions(0.3, panic=True))
    fleet.call(Failed(401), to=1)
    fleet.now = 60.0
    probe = fleet.lease(to=1)
    fleet.engine.settle()
    assert fleet.served() == {"d0"}
    fleet.call(Failed(401), to=0)
    assert fleet.policy.in_panic("m")
    assert {fleet.lease().id for _ in range(4)} == {"d0", "d1"}  # none of them ends: an answer would end the panic
    probe.release()
    assert fleet.policy.state("d1") is BreakerState.CLOSED


def test_outliers_rest_within_the_cap():
    options = BreakerOptions(cooldown=10, growth=1, jitter=0, consecutive_server=0, error_rate=1, slow_start=0)
    fleet = Fleet(4, options=options, outliers=OutlierOptions(interval=5, min_requests=10))
    for i in range(120):
        fleet.now += 0.05
        deployment = fleet.engine.peek(fleet.group)
        fleet.call(Failed(500) if deployment is not None and i % 4 == 0 else None, to=i % 4)
    assert fleet.policy.state("d0") is BreakerState.OPEN
    assert fleet.served() == {"d1", "d2", "d3"}


def test_closing_the_policy_leaves_the_engine_alone():
    fleet = Fleet()
    fleet.policy.close()
    fleet.call(Failed(429), to=0)
    assert fleet.served() == {"d0", "d1", "d2"}


class FleetMachine(RuleBasedStateMachine):
    """Random failures: the cap holds, somebody always serves, one probe at a time, deadlines never shorten."""

    @initialize(size=st.integers(1, 5), share=st.sampled_from([0.0, 0.3, 0.5, 1.0]), panic=st.booleans())
    def start(self, size, share, panic):
        self.fleet = Fleet(
            size,
            strategy="least_busy",
            ejection=EjectionOptions(share, panic),
            options=BreakerOptions(cooldown=5, consecutive=2, min_requests=3, slow_start=1),
        )
        self.open = []
        self.deadlines = {}

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds):
        self.fleet.now += seconds

    @rule()
    def call(self):
        lease = self.fleet.engine.acquire(self.fleet.group)
        assert lease is not None, "no pick although the cap leaves somebody"
        if self.fleet.policy.state(lease.id) is BreakerState.HALF_OPEN:
            others = [d for d in self.fleet.members if d is not lease.deployment and not d.held]
            # In a panic everybody serves, whoever was about to prove itself included.
            single = lease.deployment.held & PROBING or self.fleet.policy.in_panic("m")
            assert single or not others, "a second probe could leave beside the first"
        self.open.append(lease)

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        status=st.sampled_from([200, 400, 401, 429, 500, 503]),
        retry_after=st.none() | st.integers(0, 60),
        cancelled=st.booleans(),
    )
    def finish(self, data, status, retry_after, cancelled):
        lease = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        lease.release(None if status == 200 else Failed(status, retry_after), cancelled=cancelled)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def overtaken(self, data):
        lease = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.fleet.policy.overtaken(lease)
        lease.release(cancelled=True)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def first_token(self, data):
        self.fleet.policy.first_token(data.draw(st.sampled_from(self.open)))

    @rule(place=st.integers(0, 4), healthy=st.booleans(), seconds=st.floats(0, 30))
    def health_check(self, place, healthy, seconds):
        member = self.fleet.members[place % len(self.fleet.members)]
        if healthy:
            self.fleet.policy.wake(member, "its health check succeeded")
        else:
            self.fleet.policy.prolong(member, seconds)

    @rule(spent=st.integers(0, 3))
    def a_retry_leaves_what_it_has_tried(self, spent):
        """The ledger of one request over the same breakers: it never names nobody, nor one twice before all."""
        self.fleet.engine.settle()
        ledger = AttemptLedger(self.fleet.policy.doubtful)
        for _ in range(spent):
            left = [d for d in self.fleet.members if not d.held]
            narrowed = ledger.narrow(left)
            assert narrowed
            untried = [d for d in left if d.id not in ledger.tried]
            assert set(narrowed) <= set(untried or left)
            ledger.failed(narrowed[0].id, FailureKind.SERVER, self.fleet.now)

    @invariant()
    def cap_holds(self):
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        fleet.engine.settle()
        resting = [d for d in fleet.members if d.held & RESTING]
        assert len(resting) <= fleet.policy._ejection.options.most(len(fleet.members))
        assert any(not d.held for d in fleet.members)

    @invariant()
    def deadlines_never_shorten(self):
        if not hasattr(self, "fleet"):
            return
        for d in self.fleet.members:
            b = self.fleet.policy.breaker(d)
            if b.state is BreakerState.OPEN:
                assert b.until >= self.deadlines.get((d.id, b.generation), 0.0)
                self.deadlines[d.id, b.generation] = b.until

    @invariant()
    def in_flight_is_exact(self):
        if not hasattr(self, "fleet"):
            return
        for d in self.fleet.members:
            assert d.in_flight == sum(lease.deployment is d for lease in self.open)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
