"""Places kept for callers who were refused: nobody is refused for long, and nothing is kept from a caller alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fast_router.engine.failover.reserve import KEPT, Places, Reserve


class Group:
    """A group of so many places, asked for by callers who never wait."""

    def __init__(self, total):
        self.now = 0.0
        self.total = total
        self.held = Counter()
        self.reserve = Reserve(lambda: self.now)

    @property
    def free(self):
        return self.total - sum(self.held.values())

    def ask(self, caller):
        places = Places(self.total, self.free, +self.held)
        if self.free and self.reserve.admits(caller, places):
            self.held[caller] += 1
            return True
        self.reserve.refused(caller, places)
        return False

    def end(self, caller):
        self.held[caller] -= 1


@pytest.fixture
def full():
    group = Group(6)
    assert all(group.ask("greedy") for _ in range(6))
    return group


def test_one_caller_alone_has_all_places(full):
    assert not full.ask("greedy")
    for _ in range(20):
        full.end("greedy")
        assert full.ask("greedy")


def test_the_next_free_place_is_for_whoever_was_refused(full):
    assert not full.ask("modest")
    full.end("greedy")
    assert not full.ask("greedy")
    assert full.ask("modest")


def test_a_caller_who_goes_on_asking_is_refused_once(full):
    assert not full.ask("modest")
    for _ in range(100):
        full.now += KEPT / 2
        full.end("greedy")
        while full.ask("greedy"):
            pass
        assert full.ask("modest")
        full.end("modest")
        while full.ask("greedy"):
            pass
        assert full.held["greedy"] == 5  # no more is kept than was missed


def test_a_burst_gets_its_share_and_no_more(full):
    assert not any(full.ask("modest") for _ in range(5))
    while full.held["greedy"] > 3:
        full.end("greedy")
        assert not full.ask("greedy")
    assert [full.ask("modest") for _ in range(5)] == [True, True, True, False, False]


def test_places_are_not_kept_for_callers_who_do_not_come_back(full):
    assert not full.ask("modest")
    full.end("greedy")
    assert not full.ask("greedy")
    full.now += KEPT
    assert full.ask("greedy")
    assert not full.reserve.in_use()


def test_nothing_is_kept_any_more_once_there_is_enough(full):
    assert not full.ask("modest")
    for _ in range(6):
        full.end("greedy")
    for _ in range(10):
        full.now += KEPT / 5
        assert full.ask("modest")
        full.end("modest")
    assert not full.reserve.in_use()


def test_a_single_place_is_first_come_first_served():
    group = Group(1)
    assert group.ask("greedy")
    assert not group.ask("modest")
    group.end("greedy")
    assert group.ask("greedy")


def test_strangers_are_told_from_nobody():
    group = Group(2)
    assert [group.ask(None) for _ in range(3)] == [True, True, False]
    assert not group.reserve.in_use()
    assert not group.ask("modest")
    group.end(None)
    assert group.ask(None)


def test_those_who_were_refused_take_no_more_memory_than_there_are_places(full):
    for number in range(1000):
        assert not full.ask(number)
    assert len(full.reserve._refused) == 6


class Callers(RuleBasedStateMachine):
    """Three callers who come and go as they like."""

    def __init__(self):
        super().__init__()
        self.group = Group(4)
        self.refused_at = {}

    @rule(caller=st.sampled_from("abc"))
    def ask(self, caller):
        group, free, held = self.group, self.group.free, self.group.held[caller]
        if group.ask(caller):
            self.refused_at.pop(caller, None)
        elif held < 4 // 3:
            assert not free, "refused below its share beside a free place"
            self.refused_at[caller] = group.now

    @precondition(lambda self: +self.group.held)
    @rule(data=st.data())
    def end(self, data):
        self.group.end(data.draw(st.sampled_from(sorted(+self.group.held))))

    @rule(seconds=st.floats(0, KEPT))
    def time_passes(self, seconds):
        self.group.now += seconds

    @invariant()
    def never_too_many(self):
        assert self.group.free >= 0

    @invariant()
    def whoever_was_refused_gets_the_place_that_is_free(self):
        """It is enough to come back in time: nobody else can have taken it."""
        group = self.group
        waiting = [who for who, at in self.refused_at.items() if at + KEPT > group.now and not group.held[who]]
        if group.free and len(waiting) == 1:
            places = Places(group.total, group.free, +group.held)
            for other in "abc":
                if other != waiting[0] and group.held[other] >= 2 and group.free == 1:
                    assert not Reserve.admits(group.reserve, other, places)


TestCallers = Callers.TestCase
TestCallers.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
