"""What Envoy's and gRPC's outlier suites check (gRFC A50), against our breakers and detectors on a hand-driven clock.

Their words: ejecting is resting, a host is a deployment, un-ejecting is coming back. Where we differ on purpose, the
test says so: rests grow by a factor, not by a multiple, and a host comes back by one probe, not at once.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, pstdev

import pytest

from fast_router.engine.failover.breaker import BreakerOptions, BreakerState
from fast_router.engine.failover.failures import FailureKind
from fast_router.engine.failover.outliers import OutlierOptions
from fast_router.engine.failover.policy import EjectionOptions
from tests.engine.failover.test_policy import Failed, Fleet

INTERVAL = 10.0
# The breaker's own rules off: only the group's rules rest anybody.
NO_RULES = BreakerOptions(
    cooldown=30,
    growth=1,
    jitter=0,
    slow_start=0,
    consecutive=0,
    consecutive_server=0,
    error_rate=1,
    immediate=frozenset(),
)
CONSECUTIVE = replace(NO_RULES, consecutive_server=5)
NO_PANIC = EjectionOptions(panic=False)


def group(size=5, *, options=NO_RULES, ejection=NO_PANIC, **rules):
    rules = {"interval": INTERVAL, "min_members": 5, "min_requests": 100, "latency_factor": 0, **rules}
    return Fleet(size, options=options, ejection=ejection, outliers=OutlierOptions(**rules))


def interval(fleet, rates, requests=100):
    """Let one interval pass in which each member has this share of successes; who rests after it."""
    for member, rate in enumerate(rates):
        good = round(requests * rate)
        for number in range(requests):
            fleet.call(None if number < good else Failed(500), to=member)
    fleet.now += INTERVAL
    fleet.call(to=0)  # evaluation waits for the next outcome: no timer runs
    return resting(fleet)


def resting(fleet):
    return {n for n in range(len(fleet.members)) if fleet.policy.state(f"d{n}") is BreakerState.OPEN}


# -- consecutive 5xx, gateway and local-origin failures --------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_consecutive_5xx_eject_at_the_fifth(status):
    fleet = Fleet(3, options=CONSECUTIVE)
    for _ in range(4):
        fleet.call(Failed(status), to=0)
    assert resting(fleet) == set()
    fleet.call(Failed(status), to=0)
    assert resting(fleet) == {0}
    assert fleet.served() == {"d1", "d2"}


def test_one_success_resets_the_count():
    fleet = Fleet(3, options=CONSECUTIVE)
    for _ in range(3):
        for _ in range(4):
            fleet.call(Failed(500), to=0)
        fleet.call(to=0)
    assert resting(fleet) == set()


def test_4xx_answers_are_the_callers():
    fleet = Fleet(3, options=CONSECUTIVE)
    for status in (400, 405, 409, 413, 422) * 10:
        fleet.call(Failed(status), to=0)
    assert resting(fleet) == set()


@pytest.mark.parametrize("error", [ConnectionRefusedError(), ConnectionResetError(), TimeoutError(), Failed(504)])
def test_local_origin_failures_have_a_count_of_their_own(error):
    """Split external and local errors: a dead host must not need as many as one that answers 5xx."""
    fleet = Fleet(3, options=replace(CONSECUTIVE, consecutive=2))
    fleet.call(error, to=0)
    assert resting(fleet) == set()
    fleet.call(error, to=0)
    assert resting(fleet) == {0}


def test_mixed_failures_count_together_for_the_longer_row():
    fleet = Fleet(3, options=replace(CONSECUTIVE, consecutive=3))
    for error in (Failed(500), TimeoutError(), Failed(503), TimeoutError()):
        fleet.call(error, to=0)
    assert resting(fleet) == set()
    fleet.call(Failed(500), to=0)
    assert resting(fleet) == {0}


def test_failures_of_one_that_is_ejected_already_change_nothing():
    fleet = Fleet(3, options=CONSECUTIVE)
    late = [fleet.lease(0) for _ in range(20)]
    for _ in range(5):
        fleet.call(Failed(500), to=0)
    until = fleet.policy.breaker(fleet.members[0]).until
    for lease in late:
        fleet.now += 0.1
        lease.release(Failed(500))
    assert fleet.policy.breaker(fleet.members[0]).until == until
    assert [state.value for _, state in fleet.log] == ["open"]


def test_not_enforcing_ejects_nobody():
    fleet = Fleet(3, options=CONSECUTIVE, ejection=EjectionOptions(max_share=0, panic=False))
    for _ in range(50):
        fleet.call(Failed(500), to=0)
    assert fleet.served() == {"d0", "d1", "d2"}


def test_each_change_is_told_once():
    fleet = Fleet(3, options=CONSECUTIVE)
    for _ in range(5):
        fleet.call(Failed(500), to=0)
    fleet.now += 30
    while resting(fleet):
        fleet.call()
    assert fleet.log == [("d0", BreakerState.OPEN), ("d0", BreakerState.HALF_OPEN), ("d0", BreakerState.CLOSED)]


# -- success rate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "ejected"),
    [
        ([1.0, 1.0, 1.0, 1.0, 0.5], {4}),  # mean 90, deviation 20: the bar is at 52
        ([1.0, 1.0, 1.0, 1.0, 1.0], set()),
        ([0.5, 0.5, 0.5, 0.5, 0.5], set()),  # all the same: nobody stands out
        ([0.99, 0.98, 0.97, 0.99, 0.98], set()),
        ([1.0, 1.0, 0.5, 1.0, 0.5], set()),  # mean 80, deviation 24.5: the bar is at 33
    ],
)
def test_success_rates_below_the_mean_by_so_many_deviations_eject(rates, ejected):
    percent = [100 * rate for rate in rates]
    bar = fmean(percent) - 1.9 * pstdev(percent)
    assert {n for n, rate in enumerate(percent) if rate < bar} == ejected  # the closed form
    assert interval(group(failure_percentage=0), rates) == ejected


def test_the_factor_is_configurable():
    rates = [1.0, 1.0, 0.5, 1.0, 0.5]
    assert interval(group(failure_percentage=0, stdev_factor=1.0), rates) == {2, 4}
    assert interval(group(failure_percentage=0, stdev_factor=0), [1.0, 1.0, 1.0, 1.0, 0.0]) == set()


def test_too_few_hosts_say_nothing():
    assert interval(group(4), [1.0, 1.0, 1.0, 0.0]) == set()


def test_hosts_below_the_request_volume_neither_count_nor_are_judged():
    fleet = group(6, failure_percentage=0)
    for member, requests in enumerate([100, 100, 100, 100, 100, 99]):
        for _ in range(requests):
            fleet.call(Failed(500) if member == 5 else None, to=member)
    fleet.now += INTERVAL
    fleet.call(to=0)
    assert resting(fleet) == set()
    # With the last one below the volume, only four of five are left: too few.
    fleet = group(5, failure_percentage=0)
    for member, requests in enumerate([100, 100, 100, 100, 99]):
        for number in range(requests):
            fleet.call(Failed(500) if member == 3 and number < 50 else None, to=member)
    fleet.now += INTERVAL
    fleet.call(to=0)
    assert resting(fleet) == set()


def test_an_interval_is_judged_once_and_by_its_own_requests():
    fleet = group(failure_percentage=0)
    assert interval(fleet, [1.0] * 4 + [0.5], requests=60) == set()  # below the volume
    assert interval(fleet, [1.0] * 4 + [0.5], requests=60) == set()  # and not added to the next interval's
    assert interval(fleet, [1.0] * 4 + [0.5]) == {4}


def test_only_the_callers_faults_do_not_count_as_failures():
    fleet = group(failure_percentage=50)
    for member in range(5):
        for _ in range(100):
            fleet.call(Failed(400) if member == 4 else None, to=member)
    fleet.now += INTERVAL
    fleet.call(to=0)
    assert resting(fleet) == set()


# -- failure percentage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failed", "ejected"), [(0.84, set()), (0.85, {4}), (1.0, {4})])
def test_the_failure_percentage_is_a_threshold_that_counts_itself(failed, ejected):
    fleet = group(stdev_factor=0, failure_percentage=85, min_requests=50)
    assert interval(fleet, [1.0] * 4 + [1 - failed]) == ejected


def test_it_ejects_where_the_success_rate_cannot():
    """Two of five at 10 %: the deviation is so large that the bar is below nought."""
    rates = [1.0, 1.0, 1.0, 0.1, 0.1]
    assert interval(group(failure_percentage=0), rates) == set()
    assert interval(group(failure_percentage=85), rates) == {3, 4}


# -- the cap ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "share", "ejected"),
    [
        (10, 0.1, 1),  # gRPC's and Envoy's default of 10 %
        (10, 0.5, 5),
        (10, 1.0, 9),  # somebody is always left
        (5, 0.1, 1),  # one may always rest (Envoy: always_eject_one_host)
        (5, 0.0, 0),
        (1, 1.0, 0),
    ],
)
def test_no_more_than_the_share_is_ejected(size, share, ejected):
    fleet = Fleet(size, options=CONSECUTIVE, ejection=EjectionOptions(max_share=share, panic=False))
    for member in range(size):
        for _ in range(5):
            fleet.call(Failed(500), to=member)
    assert len({f"d{n}" for n in range(size)} - fleet.served(20 * size)) == ejected


def test_beyond_the_share_the_worst_go_first():
    fleet = group(6, failure_percentage=60, stdev_factor=0, ejection=EjectionOptions(max_share=0.34, panic=False))
    assert interval(fleet, [1.0, 0.3, 1.0, 0.1, 0.2, 1.0]) == {3, 4}


def test_one_that_is_back_makes_room_for_the_next():
    fleet = Fleet(4, options=CONSECUTIVE, ejection=EjectionOptions(max_share=0.25, panic=False))
    for member in (0, 1):
        for _ in range(5):
            fleet.call(Failed(500), to=member)
    assert fleet.served() == {"d1", "d2", "d3"}
    fleet.policy.wake(fleet.members[0], "well")
    # d1 is judged by what it does from here on.
    fleet.call(to=1)
    for _ in range(5):
        fleet.call(Failed(500), to=1)
    assert fleet.served() == {"d0", "d2", "d3"}


# -- ejection time ---------------------------------------------------------------------------------------------


def eject(fleet):
    """Fail until it rests; the seconds for which it does."""
    while fleet.policy.state("d0") is not BreakerState.OPEN:
        fleet.call(Failed(500), to=0)
    return fleet.policy.breaker(fleet.members[0]).until - fleet.now


def recover(fleet):
    fleet.now = fleet.policy.breaker(fleet.members[0]).until
    fleet.call(to=0)
    assert fleet.policy.state("d0") is BreakerState.CLOSED


def test_ejections_in_a_row_grow_up_to_the_longest():
    """Envoy multiplies the base by their number; we by a factor each time, up to the same kind of cap."""
    fleet = Fleet(3, options=replace(CONSECUTIVE, growth=2, max_cooldown=200, decay=1e9))
    times = []
    for _ in range(5):
        times.append(eject(fleet))
        recover(fleet)
    assert times == [30, 60, 120, 200, 200]


def test_the_multiplier_decays_by_one_for_each_healthy_interval_and_not_below_nought():
    fleet = Fleet(3, options=replace(CONSECUTIVE, growth=2, max_cooldown=1000, decay=INTERVAL))
    for expected in (30, 60, 120, 240):
        assert eject(fleet) == expected
        recover(fleet)
    fleet.now += 2 * INTERVAL  # two steps off 4
    assert eject(fleet) == 120
    recover(fleet)
    fleet.now += 1000 * INTERVAL
    assert eject(fleet) == 30


def test_the_base_wins_over_a_longest_time_that_is_shorter():
    """gRFC A50 caps at max(base, longest), but a base alone is never cut: with constant rests there is no cap."""
    fleet = Fleet(3, options=replace(CONSECUTIVE, growth=1, max_cooldown=10))
    assert eject(fleet) == 30


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_jitter_never_shortens_and_stays_within_its_share(jitter):
    fleet = Fleet(3, options=replace(CONSECUTIVE, jitter=jitter))
    for _ in range(20):
        seconds = eject(fleet)
        assert 30 <= seconds <= 30 * (1 + jitter)
        recover(fleet)


# -- un-ejection -----------------------------------------------------------------------------------------------


def test_it_comes_back_when_its_time_is_over_and_not_before():
    fleet = Fleet(3, options=CONSECUTIVE)
    seconds = eject(fleet)
    fleet.now += math.nextafter(seconds, 0)
    assert fleet.served() == {"d1", "d2"}
    fleet.now += 0.001
    assert fleet.served() == {"d0", "d1", "d2"}


def test_a_healthy_check_brings_it_back_at_once():
    fleet = Fleet(3, options=CONSECUTIVE)
    eject(fleet)
    fleet.policy.wake(fleet.members[0], "its health check succeeded")
    assert fleet.served() == {"d0", "d1", "d2"}


def test_the_row_begins_anew_after_an_ejection():
    fleet = Fleet(3, options=CONSECUTIVE)
    eject(fleet)
    recover(fleet)
    for _ in range(4):
        fleet.call(Failed(500), to=0)
    assert resting(fleet) == set()


def test_a_probe_that_fails_ejects_again_at_once():
    """Envoy gives a host that is back five failures more; here one probe tells."""
    fleet = Fleet(3, options=CONSECUTIVE)
    eject(fleet)
    fleet.now += 30
    fleet.call(Failed(500), to=0)
    assert resting(fleet) == {0}
    assert fleet.policy.describe("d0")["reason"] == f"the probe failed ({FailureKind.SERVER.value})"


def test_one_that_is_removed_while_ejected_is_forgotten():
    fleet = Fleet(3, options=CONSECUTIVE)
    eject(fleet)
    fleet.policy.forget("d0")
    assert fleet.policy.describe("d0") == {"state": "closed"}
    fleet.now += 30
    assert fleet.served() == {"d0", "d1", "d2"}
