"""Deployments that fall silent: noticed long before a timeout, back with the first sign of life."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fast_router.engine.failover.breaker import BreakerState
from fast_router.engine.failover.policy import EjectionOptions
from fast_router.engine.failover.silence import OpenCall, SilenceOptions
from tests.engine.failover.test_policy import OPTIONS as OPTIONS_OF_BREAKERS
from tests.engine.failover.test_policy import Failed, Fleet

OPTIONS = SilenceOptions(factor=2, calls=2, min_seconds=1, samples=50, min_samples=10)
SECOND = 1.0


def fleet(size=3, **policy):
    """A group whose answers take a second, and which knows that."""
    found = Fleet(size, silence=OPTIONS, **policy)
    for n in range(12):
        answer(found, n % size)
    return found


def answer(fleet, to, seconds=SECOND):
    lease = fleet.lease(to)
    fleet.now += seconds
    lease.release()


def siblings_answer(fleet, seconds, *, to=1, each=0.5):
    """Let time pass in which one other member answers, twice a second."""
    for _ in range(round(seconds / each)):
        answer(fleet, to, each)


def state(fleet, member=0):
    return fleet.policy.state(f"d{member}")


def test_calls_that_all_wait_too_long_rest_their_deployment():
    f = fleet()
    stuck = [f.lease(0), f.lease(0)]
    siblings_answer(f, 2)
    assert state(f) is BreakerState.CLOSED  # not yet twice as long as the slowest answer
    siblings_answer(f, 2)
    assert f.policy.describe("d0") == {
        "state": "open",
        "reason": "at least 2 calls wait for over 2.0 s, the others answer within 1.0 s",
        "seconds_left": pytest.approx(10, abs=1.5),
    }
    assert f.served() == {"d1", "d2"}
    assert all(lease.open for lease in stuck)
    assert f.members[0].in_flight == 2


def test_one_call_that_takes_long_is_just_long():
    f = fleet()
    f.lease(0)
    siblings_answer(f, 60)
    assert state(f) is BreakerState.CLOSED


def test_calls_that_keep_coming_hide_no_silence():
    f = fleet()
    for _ in range(12):
        f.lease(0)
        siblings_answer(f, 0.5)
    assert state(f) is BreakerState.OPEN


def test_an_answer_in_between_is_a_sign_of_life_even_if_older_calls_go_on_waiting():
    f = fleet()
    for _ in range(9):
        f.lease(0)
    for _ in range(20):
        siblings_answer(f, 1.5)
        answer(f, 0, 0.2)
    assert state(f) is BreakerState.CLOSED


def test_older_calls_than_the_last_answer_are_slow_ones_not_silence():
    f = fleet()
    for _ in range(9):
        f.lease(0)
    answer(f, 0)
    siblings_answer(f, 60)
    assert state(f) is BreakerState.CLOSED


def test_streams_that_have_begun_are_not_silent():
    f = fleet()
    for _ in range(3):
        f.lease(0).first_token()
    siblings_answer(f, 60)
    assert state(f) is BreakerState.CLOSED
    assert f.members[0].talking == 3


def test_first_tokens_are_what_streams_are_measured_by():
    f = Fleet(3, silence=OPTIONS)
    for n in range(12):  # a second to the first token; none of these streams has come to its end
        lease = f.lease(1 + n % 2)
        f.now += SECOND
        lease.first_token()
    f.lease(0), f.lease(0)
    for _ in range(6):
        lease = f.lease(1)
        f.now += SECOND
        lease.first_token()
    assert state(f) is BreakerState.OPEN


def test_where_nobody_answers_nobody_is_blamed():
    f = fleet()
    for n in range(9):
        f.lease(n % 3)
    f.now += 100
    late = f.lease(1)  # one that began after it all; the first to be heard
    f.now += 0.1
    late.release()
    assert {state(f, n) for n in range(3)} == {BreakerState.CLOSED}


def test_answers_to_calls_that_are_as_old_prove_nothing():
    f = fleet()
    old = [f.lease(1) for _ in range(9)]
    f.lease(0), f.lease(0)
    answer(f, 1, 0.1)  # the look from which the silence counts
    for lease in old:  # the whole group is slow, and d0 not slower than the others
        f.now += SECOND
        lease.release()
    assert state(f) is BreakerState.CLOSED


def test_a_process_that_stood_still_has_not_listened():
    f = fleet()
    f.lease(0), f.lease(0)
    siblings_answer(f, 1.5, each=0.25)
    f.now += 3600  # suspended
    answer(f, 1, 0.1)
    assert state(f) is BreakerState.CLOSED


def test_the_first_sign_of_life_brings_it_back():
    for sign in ("answer", "first token"):
        f = fleet()
        stuck = [f.lease(0), f.lease(0)]
        siblings_answer(f, 5)
        assert state(f) is BreakerState.OPEN
        if sign == "answer":
            stuck[1].release()
        else:
            f.policy.first_token(stuck[1])
        assert state(f) is BreakerState.CLOSED
        assert f.served() == {"d0", "d1", "d2"}


def test_a_timeout_of_a_call_under_way_is_no_sign_of_life():
    f = fleet()
    stuck = [f.lease(0), f.lease(0)]
    siblings_answer(f, 5)
    stuck[0].release(TimeoutError())
    assert state(f) is BreakerState.OPEN


def test_after_its_rest_one_probe_goes_and_the_calls_that_are_stuck_count_no_more():
    f = fleet()
    [f.lease(0) for _ in range(5)]
    siblings_answer(f, 5)
    f.now += 10
    probe = f.lease(0)
    assert state(f) is BreakerState.HALF_OPEN
    probe.release()
    siblings_answer(f, 60)
    assert state(f) is BreakerState.CLOSED
    f.lease(0), f.lease(0)
    siblings_answer(f, 5)
    assert state(f) is BreakerState.OPEN


def test_calls_that_their_callers_give_up_one_by_one_are_not_long_ones():
    f = fleet()
    waiting = [f.lease(0), f.lease(0)]
    for _ in range(60):
        waiting.append(f.lease(0))
        waiting.pop(0).release(cancelled=True)
        siblings_answer(f, 0.5)
    assert state(f) is BreakerState.CLOSED


def test_after_a_health_check_has_woken_it_the_calls_that_are_stuck_count_no_more():
    f = fleet()
    f.lease(0), f.lease(0)
    siblings_answer(f, 5)
    f.policy.wake(f.members[0], "its health check succeeded")
    siblings_answer(f, 60)
    assert state(f) is BreakerState.CLOSED


def test_probes_are_judged_by_what_they_say_not_by_their_silence():
    f = fleet()
    f.lease(0), f.lease(0)
    siblings_answer(f, 5)
    f.now += 10
    f.lease(0)
    siblings_answer(f, 5)
    f.lease(0)
    siblings_answer(f, 60)
    assert state(f) is BreakerState.HALF_OPEN


def test_nobody_rests_beyond_the_cap():
    f = fleet(3, ejection=EjectionOptions(max_share=0.3, panic=False))
    f.call(Failed(429), to=2)
    f.lease(0), f.lease(0)
    siblings_answer(f, 9)
    assert state(f) is BreakerState.CLOSED
    f.policy.wake(f.members[2], "well")
    siblings_answer(f, 1)
    assert state(f) is BreakerState.OPEN


def test_it_is_for_others_to_decide_where_they_decide_about_timeouts():
    f = fleet(decides=lambda deployment, error, kind: False)
    f.lease(0), f.lease(0)
    siblings_answer(f, 9)
    assert state(f) is BreakerState.CLOSED


def test_nobody_is_judged_by_too_few_answers():
    f = Fleet(3, silence=OPTIONS)
    f.lease(0), f.lease(0)
    siblings_answer(f, 4)  # eight answers, ten are asked for
    assert state(f) is BreakerState.CLOSED


def test_a_closed_policy_listens_no_longer():
    f = fleet()
    f.policy.close()
    f.lease(0), f.lease(0)
    siblings_answer(f, 9)
    assert state(f) is BreakerState.CLOSED


class Callers:
    """A group that several callers use, whose calls under way are known one by one."""

    def __init__(self, size=3, **policy):
        self.open = []  # (lease, caller)
        self.told = []  # what is to be asked elsewhere: a deployment and which of its calls
        self.asked = Counter()  # how often a deployment's calls are asked for at a moment
        self.f = Fleet(size, silence=OPTIONS, calls=self.calls, on_silent=self.late, **policy)
        for n in range(12):
            answer(self.f, n % size)

    def calls(self, deployment):
        self.asked[deployment.id, self.f.now] += 1
        for lease, caller in self.open:
            if lease.open and lease.deployment is deployment:
                yield OpenCall(lease.started, lease.seconds_to_first_token is not None, caller)

    def late(self, deployment, admits):
        self.told.append({lease for lease, _ in self.open if lease.deployment is deployment and admits(lease)})

    def ask(self, caller, to):
        lease = self.f.lease(to)
        self.open.append((lease, caller))
        return lease

    def disputed(self):
        return self.f.policy.disputes("d0")


def test_the_calls_of_one_caller_among_several_are_enough_for_that_one():
    c = Callers()
    siblings_answer(c.f, 1)
    c.ask("another", 1)  # seen by the next look, and answered at once
    siblings_answer(c.f, 1)
    c.open.pop()[0].release()
    waiting = {c.ask("one", 0), c.ask("one", 0)}
    siblings_answer(c.f, 5)
    assert state(c.f) is BreakerState.OPEN
    assert waiting in c.told
    # Nobody else is told, and the next other caller finds out alone.
    assert c.disputed()
    c.f.policy.appeal("m", "one")
    assert state(c.f) is BreakerState.OPEN
    c.f.policy.appeal("m", "another")
    assert state(c.f) is BreakerState.CLOSED


@pytest.mark.parametrize("callers", [("one", "another"), ("one", "one")])
def test_two_callers_that_wait_and_one_that_is_alone_need_no_other_word(callers):
    c = Callers()
    [c.ask(caller, 0) for caller in callers]
    siblings_answer(c.f, 5)
    assert state(c.f) is BreakerState.OPEN
    assert not c.disputed()


def test_calls_that_wait_as_long_everywhere_are_no_silence():
    c = Callers()
    [c.ask("one", to) for to in (0, 0, 0, 1, 1, 2, 2)]
    siblings_answer(c.f, 60)
    assert state(c.f) is BreakerState.CLOSED
    assert not c.told


@pytest.mark.parametrize("waits_here_too", [False, True])
def test_one_caller_whose_calls_wait_everywhere_hides_no_silence_from_others(waits_here_too):
    c = Callers()
    [c.ask("hostile", to) for to in (1, 1, 2, 2, *[0] * waits_here_too)]
    waiting = {c.ask("one", 0), c.ask("one", 0)}
    siblings_answer(c.f, 5)
    assert state(c.f) is BreakerState.OPEN
    assert any(waiting <= told for told in c.told)
    assert c.disputed() is not waits_here_too  # where both wait it is no single caller's word
    assert [state(c.f, other) for other in (1, 2)] == [BreakerState.CLOSED] * 2


def test_one_caller_whose_calls_wait_everywhere_makes_none_silent():
    c = Callers()
    [c.ask("hostile", to) for to in (0, 0, 0, 1, 1, 2, 2)]
    c.ask("one", 0)  # a single call that takes long
    siblings_answer(c.f, 60)
    assert {state(c.f, to) for to in range(3)} == {BreakerState.CLOSED}
    assert not c.told


def test_a_look_goes_once_through_the_calls_however_many_members_wait():
    c = Callers(size=60)
    siblings_answer(c.f, 1)
    [c.ask("hostile", to) for to in range(60) for _ in range(2)]
    c.asked.clear()
    siblings_answer(c.f, 5)
    looks = len({at for _, at in c.asked})
    assert looks > 5
    # One to see who is around, one to see who waits.
    assert max(c.asked.values()) <= 2
    assert {state(c.f, to) for to in range(60)} == {BreakerState.CLOSED}


def test_calls_that_are_long_for_several_callers_are_no_silence():
    c = Callers()
    [c.ask(caller, to) for caller, to in zip("abcabc", (0, 0, 1, 1, 2, 2), strict=True)]
    siblings_answer(c.f, 60)
    assert {state(c.f, to) for to in range(3)} == {BreakerState.CLOSED}
    assert not c.told


def test_a_second_probe_is_not_left_behind_when_the_first_has_failed():
    c = Callers(options=dataclasses.replace(OPTIONS_OF_BREAKERS, probe_timeout=2))
    [c.ask("one", 0) for _ in range(2)]
    siblings_answer(c.f, 5)
    assert state(c.f) is BreakerState.OPEN
    for lease, _ in c.open:
        lease.release(cancelled=True)
    c.f.now += 10
    first = c.ask("one", 0)
    siblings_answer(c.f, 2.5)
    assert state(c.f) is BreakerState.HALF_OPEN
    second = c.ask("one", 0)  # the first one has had its time
    c.told.clear()
    c.f.policy.overtaken(first)
    assert state(c.f) is BreakerState.OPEN
    assert any(second in told for told in c.told)


def test_a_call_that_came_to_a_silent_one_all_the_same_is_asked_elsewhere_when_it_is_late():
    c = Callers(options=dataclasses.replace(OPTIONS_OF_BREAKERS, cooldown=60))
    [c.ask("one", 0) for _ in range(2)]
    siblings_answer(c.f, 5)
    late = c.ask("one", 0)  # by its id, say
    c.told.clear()
    siblings_answer(c.f, 1)
    assert not any(late in told for told in c.told)
    siblings_answer(c.f, 2)
    assert state(c.f) is BreakerState.OPEN
    assert any(late in told for told in c.told)


@pytest.mark.parametrize("wrong", [{"factor": 0}, {"calls": 0}, {"min_samples": 9, "samples": 8}, {"min_seconds": -1}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SilenceOptions(**wrong)


class SilenceMachine(RuleBasedStateMachine):
    """Random histories: who is rested has truly said nothing for as long as it takes, to as many calls."""

    @initialize(size=st.integers(2, 4))
    def build(self, size):
        self.f = Fleet(size, silence=OPTIONS, ejection=EjectionOptions(panic=False))
        self.heard = dict.fromkeys(range(size), -1.0)
        self.out = []  # (member, lease)
        self.seen = []
        self.rested: set[int] = set()

    @rule(member=st.integers(0, 3), calls=st.integers(1, 3))
    def ask(self, member, calls):
        member %= len(self.f.members)
        for _ in range(calls):
            self.out.append((member, self.f.lease(member)))

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0]))
    def time_passes(self, seconds):
        self.f.now += seconds

    @rule(member=st.integers(0, 3), times=st.integers(1, 12))
    def a_member_answers_at_once(self, member, times):
        member %= len(self.f.members)
        for _ in range(times):
            lease = self.f.lease(member)
            self.f.now += 0.2
            self._tell(member, lease, lease.release)
            self.check()

    @precondition(lambda self: getattr(self, "out", None))
    @rule(data=st.data(), how=st.sampled_from(["answer", "token", "cancel", "timeout"]))
    def end(self, data, how):
        member, lease = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if how == "answer":
            self._tell(member, lease, lease.release)
        elif how == "token":
            if lease.seconds_to_first_token is None:  # later ones are not listened to
                self._tell(member, lease, lease.first_token)
            self.out.append((member, lease))
        elif how == "cancel":
            lease.release(cancelled=True)
        else:
            lease.release(TimeoutError())

    def _tell(self, member, lease, sign):
        if lease.seconds_to_first_token is None:
            self.seen.append(self.f.now - lease.started)
        self.heard[member] = self.f.now
        sign()

    @invariant()
    def check(self):
        if not hasattr(self, "f"):
            return
        for member in range(len(self.f.members)):
            told = self.f.policy.describe(f"d{member}")
            silent = told["state"] == "open" and "wait for over" in told["reason"]
            if silent and member not in self.rested:
                limit = max(1.0, 2 * max(self.seen[-50:]))
                waiting = [
                    lease
                    for m, lease in self.out
                    if m == member and lease.seconds_to_first_token is None and self.f.now - lease.started >= limit
                ]
                assert len(waiting) >= 2
                assert self.f.now - self.heard[member] >= limit
                assert len(self.seen) >= 10
            (self.rested.add if silent else self.rested.discard)(member)

    @invariant()
    def talking_is_open_streams_that_have_begun(self):
        if hasattr(self, "f"):
            for n, member in enumerate(self.f.members):
                begun = [lease for m, lease in self.out if m == n and lease.seconds_to_first_token is not None]
                assert member.talking == len(begun)


TestSilenceMachine = SilenceMachine.TestCase
TestSilenceMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
