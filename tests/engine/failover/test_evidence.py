"""What failures prove, driven by the engine with a clock of its own: one request, one caller, an outage."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fast_router.engine.deployment import RESTING, Deployment
from fast_router.engine.engine import Engine
from fast_router.engine.failover.blame import Case, Terms
from fast_router.engine.failover.breaker import BreakerOptions, BreakerState
from fast_router.engine.failover.budgets import BudgetOptions, RetryBudgets
from fast_router.engine.failover.policy import FailoverPolicy


class BrokenError(Exception):
    status_code = 500


class ThrottledError(Exception):
    status_code = 429


class Fleet:
    """A group behind a policy, and requests that go through it attempt by attempt."""

    def __init__(self, size=3, *, filtered=None, **options):
        self.now = 100.0
        self.engine = Engine(clock=lambda: self.now, wall=lambda: self.now, rng=random.Random(1))
        self.members = tuple(Deployment(f"d{i}", "m") for i in range(size))
        for member in self.members:
            self.engine.deployments[member.id] = member
        self.group = self.engine.compile_group("m", self.members, "peak_ewma")
        self.policy = FailoverPolicy(
            self.engine,
            lambda _: self.members,
            options=BreakerOptions(**{"jitter": 0.0, "consecutive_server": 2, "error_rate": 1.0, **options}),
            filtered=filtered,
        )

    def attempt(self, case, to, error=None):
        lease = self.engine.acquire_deployment(self.members[to])
        self.now += 0.1
        if error is not None:
            # As an attempt that LiteLLM made: it got as far as a server.
            error.litellm_response_headers = {}
            lease.case = case
        lease.release(error)
        return case

    def request(self, *fails_at, succeeds_at=None, caller=None, error=BrokenError, terms=0):
        case = Case(caller, terms)
        for to in fails_at:
            self.attempt(case, to, error())
        if succeeds_at is not None:
            lease = self.engine.acquire_deployment(self.members[succeeds_at])
            lease.release()
            self.policy.vindicated(case, self.members[succeeds_at])
        return case

    @property
    def resting(self):
        return {m.id for m in self.members if m.held & RESTING}


def test_one_request_that_fails_everywhere_leaves_no_trace():
    fleet = Fleet()
    before = [(m.ewma, m.latency, m.held) for m in fleet.members]
    for _ in range(3):
        fleet.request(0, 1, 2, 0, 1, 2, 0, 1, 2, caller="hostile", error=ThrottledError)
    assert not fleet.resting
    assert [(m.ewma, m.latency, m.held) for m in fleet.members] == before


def test_its_first_failure_counts_at_once_and_is_taken_back():
    fleet = Fleet(consecutive_server=1)
    case = fleet.attempt(Case("a"), 0, BrokenError())
    assert fleet.resting == {"d0"}
    fleet.attempt(case, 1, BrokenError())
    assert not fleet.resting
    assert fleet.policy.state("d0") is BreakerState.CLOSED
    assert fleet.members[0].slow_until == 0.0


@pytest.mark.parametrize("fails_at", [(0,), (0, 1, 2)], ids=["one", "all"])
def test_what_another_group_answers_proves_nothing(fails_at):
    fleet = Fleet(consecutive_server=1)
    other = Deployment("other", "other-group")
    for turn in range(20):
        case = fleet.request(*((to + turn) % 3 for to in fails_at), caller="hostile")
        fleet.policy.vindicated(case, other)
        assert fleet.policy.breaker(fleet.members[turn % 3]).testimony.confirmed == 0
        assert len(fleet.resting) <= 1


def test_what_is_answered_to_another_question_proves_nothing():
    fleet = Fleet(consecutive_server=1)
    for turn in range(20):
        fleet.request(turn % 3, succeeds_at=(turn + 1) % 3, caller="hostile", terms=Terms.OTHERWISE)
        assert len(fleet.resting) <= 1


def test_a_request_that_succeeds_elsewhere_confirms_its_charge():
    fleet = Fleet()
    for _ in range(2):
        fleet.request(0, succeeds_at=1, caller="only")
    assert fleet.resting == {"d0"}


def test_after_a_success_the_first_of_several_is_blamed_after_all():
    fleet = Fleet(consecutive_server=1)
    fleet.request(0, 1, succeeds_at=2, caller="only")
    assert fleet.resting == {"d0"}


def test_two_requests_of_one_caller_that_fail_in_different_places_are_one_voice():
    fleet = Fleet(consecutive_server=1)
    fleet.request(0, caller="hostile")
    assert fleet.resting == {"d0"}
    fleet.request(1, caller="hostile")
    assert not fleet.resting


def test_one_caller_alone_never_leaves_less_than_half():
    fleet = Fleet(consecutive_server=1)
    fleet.request(0, caller="hostile")
    fleet.now += 11  # not in a row any more
    fleet.request(1, caller="hostile")
    fleet.request(2, caller="hostile")
    assert len(fleet.resting) <= 1


@pytest.mark.parametrize("callers", [("a", "b"), (None, None)])
def test_in_an_outage_two_voices_rest_what_they_meet(callers):
    fleet = Fleet(consecutive_server=1)
    for caller in callers:
        fleet.request(0, 1, caller=caller)
    # The third one answers everybody.
    assert fleet.resting == {"d0", "d1"}


def outage_of_one(fleet):
    for _ in range(12):
        fleet.request(0, 1, 2, caller="only")


def test_a_caller_that_nobody_answers_for_a_second_has_seen_an_outage():
    fleet = Fleet()
    outage_of_one(fleet)
    # All but one rest, and beyond that a panic lets all serve: as in any outage.
    assert fleet.policy.in_panic("m")
    assert all(fleet.policy.state(m.id) is not BreakerState.CLOSED for m in fleet.members)


def test_another_caller_finds_out_for_itself():
    fleet = Fleet()
    outage_of_one(fleet)
    assert fleet.policy.disputed
    fleet.policy.appeal("m", "only")
    fleet.policy.appeal("other", "second")
    assert fleet.policy.disputed
    fleet.policy.appeal("m", "second")
    assert not fleet.resting
    assert not fleet.policy.disputed
    assert all(fleet.policy.state(m.id) is BreakerState.CLOSED for m in fleet.members)


def test_a_single_rest_on_one_callers_word_is_disputed_as_well():
    """More than a second of retries lets one of three rest, even though that leaves two."""
    fleet = Fleet(consecutive_server=1)
    case = Case("only", 0)
    for turn in range(15):
        fleet.attempt(case, turn % 3, BrokenError())
    assert fleet.resting
    assert all(fleet.engine.untold(id_) for id_ in fleet.resting)
    fleet.policy.appeal("m", "second")
    assert not fleet.resting
    assert not any(fleet.engine.untold(member.id) for member in fleet.members)


def test_another_caller_finds_out_about_the_only_one_of_a_group():
    fleet = Fleet(size=1)
    for _ in range(3):
        fleet.request(0, caller="only")
    assert fleet.policy.state("d0") is BreakerState.OPEN
    fleet.policy.appeal("m", "only")
    assert fleet.policy.state("d0") is BreakerState.OPEN
    fleet.policy.appeal("m", "second")
    assert fleet.policy.state("d0") is BreakerState.CLOSED


def test_an_appeal_leaves_those_at_rest_that_others_have_met_as_well():
    fleet = Fleet(consecutive_server=1, consecutive=1)
    fleet.request(0, caller="other", error=ConnectionRefusedError)
    case = Case("only", 0)
    for turn in range(15):
        fleet.attempt(case, 1 + turn % 2, BrokenError())
    fleet.policy.appeal("m", "second")
    assert fleet.resting == {"d0"}


def test_what_two_callers_say_is_told_to_all():
    fleet = Fleet(consecutive_server=1)
    for caller in ("a", "b"):
        fleet.request(0, 1, caller=caller)
    assert fleet.resting == {"d0", "d1"}
    assert not any(fleet.engine.untold(member.id) for member in fleet.members)


def test_an_answer_to_anybody_ends_what_looked_like_an_outage():
    fleet = Fleet()
    for n in range(40):
        fleet.request(0, 1, 2, caller="hostile")
        fleet.request(succeeds_at=n % 3, caller="other")
        assert len(fleet.resting) <= 1


def test_a_single_caller_finds_two_dead_of_three_by_requests_that_succeed_elsewhere():
    fleet = Fleet()
    for _ in range(4):
        fleet.request(0, succeeds_at=2, caller="only")
    for _ in range(6):
        fleet.request(1, succeeds_at=2, caller="only")
    assert fleet.resting == {"d0", "d1"}


def test_an_answer_clears_what_was_suspected():
    fleet = Fleet(consecutive_server=1)
    fleet.request(0, 1, caller="a")
    fleet.request(succeeds_at=0, caller="c")
    fleet.request(succeeds_at=1, caller="c")
    fleet.request(0, 1, caller="b")
    assert not fleet.resting


def test_refused_connections_need_no_second_voice():
    fleet = Fleet(consecutive=2)
    for _ in range(2):
        fleet.request(0, 1, caller="only", error=ConnectionRefusedError)
    assert fleet.resting == {"d0", "d1"}


@pytest.mark.parametrize("terms", [Terms.CREDENTIALS, Terms.ENDPOINT, Terms.ANSWER])
def test_a_callers_own_terms_move_nothing(terms):
    fleet = Fleet(consecutive_server=1, consecutive=1)
    for to in range(3):
        fleet.request(to, terms=terms)
    assert not fleet.resting
    assert [(m.ewma, m.latency, m.failures) for m in fleet.members] == [(None, None, 0)] * 3


STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=5),
        st.sampled_from([BrokenError, ThrottledError, TimeoutError]),
    ),
    max_size=40,
)


@given(STEPS, st.floats(0.0, 30.0))
@example(
    [([0], BrokenError)] * 3 + [([0, 1, 2, 3], BrokenError)] + [([0], BrokenError)] * 4 + [([1, 2], BrokenError)], 10.0
)
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_one_caller_takes_no_group_away_whatever_it_does(steps, pause):
    """Failures of any kind, anywhere, at any pace: half of the group serves, or does as soon as another caller asks.

    Nobody rests any more then because this caller was believed for want of another.
    """
    fleet = Fleet(size=4, consecutive_server=2, consecutive=2)
    for fails_at, error in steps:
        fleet.request(*fails_at, caller="hostile", error=error)
        fleet.now += pause
        if fleet.policy.disputed:
            fleet.policy.appeal("m", "other")
            assert not [
                m.id for m in fleet.members if m.id in fleet.resting and fleet.policy.breaker(m).testimony.disputed
            ]
        assert len(fleet.resting) <= 2
        assert all(m.in_flight == 0 for m in fleet.members)


def test_a_caller_that_always_retries_leaves_the_others_their_retries():
    fleet = Fleet()
    fleet.policy.budgets = RetryBudgets(BudgetOptions())
    refused = {"hostile": 0, "good": 0}
    for turn in range(2000):
        fleet.now += 0.01
        fleet.policy.budgets.of("m").request(fleet.now)
        caller = "good" if turn % 100 == 0 else "hostile"
        refused[caller] += not fleet.policy.budgets.spent_by("m", caller).retry(fleet.now)
    assert refused["good"] == 0
    # Ten per second and a fifth of the requests, of a hundred per second.
    assert refused["hostile"] > 1300


def test_callers_that_have_had_little_share_one_reserve():
    fleet = Fleet()
    fleet.policy.budgets = RetryBudgets(BudgetOptions())
    granted = sum(fleet.policy.budgets.spent_by("m", f"caller-{n}").retry(fleet.now) for n in range(900))
    assert granted == 200


# Where filters may leave a request one deployment.


def filtered_fleet():
    return Fleet(filtered=lambda _: True)


def test_our_rules_rest_one_that_may_be_all_that_a_request_has_only_if_others_answered_such_requests():
    fleet = filtered_fleet()
    for caller in ("eve", "good", "eve", "good"):
        fleet.request(0, caller=caller)
    assert fleet.policy.state("d0") is BreakerState.CLOSED
    fleet.request(0, succeeds_at=1, caller="good")
    fleet.request(0, caller="good")
    assert fleet.policy.state("d0") is BreakerState.OPEN


def test_one_caller_alone_is_enough_for_a_rule_of_litellms_until_another_one_appeals():
    fleet = filtered_fleet()
    deployment = fleet.members[0]
    fleet.request(0, caller="eve")
    assert fleet.policy.may_rest(deployment)
    assert fleet.policy.disputed
    assert fleet.policy.disputes("d0")
    fleet.policy.appeal("m", "good")
    assert not fleet.policy.may_rest(deployment)
    fleet.now += 601
    assert fleet.policy.may_rest(deployment)


def test_a_second_caller_is_enough_for_a_rule_of_litellms():
    fleet = filtered_fleet()
    fleet.request(0, caller="eve")
    assert fleet.policy.may_rest(fleet.members[0])
    fleet.policy.appeal("m", "good")
    fleet.request(0, caller="good")
    assert fleet.policy.may_rest(fleet.members[0])
    assert not fleet.policy.disputes("d0")


def test_a_refused_connection_needs_no_second_voice():
    fleet = filtered_fleet()
    fleet.request(0, 0, caller="eve", error=lambda: ConnectionRefusedError("nobody listens"))
    fleet.request(0, caller="eve", error=lambda: ConnectionRefusedError("nobody listens"))
    assert fleet.policy.state("d0") is BreakerState.OPEN


# A probe that fails.


def resting_for_two(**options):
    fleet = Fleet(**options)
    for caller in ("one", "two"):
        fleet.request(0, succeeds_at=1, caller=caller)
    assert fleet.policy.state("d0") is BreakerState.OPEN
    fleet.now = fleet.members[0].resting_until + 0.1
    fleet.engine.settle()
    return fleet


def test_a_failed_probe_of_one_caller_lets_the_next_caller_probe_at_once():
    fleet = resting_for_two()
    fleet.request(0, caller="eve", error=ThrottledError)
    assert fleet.resting == {"d0"}
    fleet.policy.appeal("m", "eve")
    assert fleet.resting == {"d0"}
    fleet.policy.appeal("m", "good")
    assert fleet.resting == set()
    assert fleet.policy.state("d0") is BreakerState.HALF_OPEN
    fleet.request(succeeds_at=0, caller="good")
    assert fleet.policy.state("d0") is BreakerState.CLOSED


def test_failed_probes_of_two_callers_rest_it_for_everybody():
    fleet = resting_for_two()
    for caller in ("eve", "good"):
        fleet.request(0, caller=caller)
        fleet.policy.appeal("m", f"after {caller}")
    assert fleet.resting == {"d0"}
    assert not fleet.policy.disputes("d0")


def test_each_rest_asks_for_two_probes_anew():
    fleet = resting_for_two()
    fleet.request(0, caller="eve")
    fleet.now = fleet.members[0].resting_until + 0.1
    fleet.engine.settle()
    fleet.request(0, caller="other")
    fleet.policy.appeal("m", "good")
    assert fleet.resting == set()


def test_after_a_rest_that_two_callers_probes_asked_for_one_probe_is_enough_once():
    fleet = resting_for_two()
    for caller in ("one", "two"):
        fleet.request(0, caller=caller)
        fleet.policy.appeal("m", f"after {caller}")
    rests = []
    for _ in range(3):
        fleet.now = fleet.members[0].resting_until + 0.1
        fleet.engine.settle()
        fleet.request(0, caller="eve")
        rests.append((not fleet.policy.disputes("d0"), fleet.resting))
    assert rests == [(True, {"d0"}), (False, {"d0"}), (False, {"d0"})]
    fleet.policy.appeal("m", "good")
    assert fleet.resting == set()


def test_a_probe_that_is_refused_needs_no_other_one():
    fleet = resting_for_two()
    fleet.request(0, caller="eve", error=lambda: ConnectionRefusedError("nobody listens"))
    fleet.policy.appeal("m", "good")
    assert fleet.resting == {"d0"}
