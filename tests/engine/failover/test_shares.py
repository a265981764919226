"""Places per caller, kept as requests come and go, against a count of everybody in line."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fast_router.engine.failover.fair_turns import Place
from fast_router.engine.failover.shares import Shares
from fast_router.engine.failover.waiting import QueueFullError, TicketState, WaitQueue

CALLERS = st.sampled_from(["a", "b", "c", None])


class Standing(SimpleNamespace):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def may_give_way(line, caller):
    """The naive model: those of whom one has to leave for the newcomer; none if the newcomer has to."""
    places = Counter(standing.caller for standing in line if standing.caller is not None)
    most = max(places.values(), default=0)
    if most <= places[caller] + 1:
        return []
    greedy = [who for who, count in places.items() if count == most]
    return [max((s for s in line if s.caller == who), key=lambda s: s.place) for who in greedy]


class SharesMachine(RuleBasedStateMachine):
    """Requests come, go from anywhere, and return to their old place."""

    def __init__(self):
        super().__init__()
        self.shares = Shares()
        self.line = []
        self.woken = []
        self.order = 0

    @rule(caller=CALLERS, priority=st.integers(0, 2), turn=st.integers(0, 5))
    def come(self, caller, priority, turn):
        self.order += 1
        self.line.append(Standing(caller=caller, place=Place(priority, turn, self.order)))
        self.shares.add(self.line[-1])

    @precondition(lambda self: self.line)
    @rule(data=st.data(), again=st.booleans())
    def go(self, data, again):
        gone = self.line.pop(data.draw(st.integers(0, len(self.line) - 1)))
        self.shares.discard(gone)
        if again:
            self.woken.append(gone)
        else:
            self.shares.discard(gone)  # who has gone may be said to go

    @precondition(lambda self: self.woken)
    @rule(data=st.data())
    def come_again(self, data):
        self.line.append(self.woken.pop(data.draw(st.integers(0, len(self.woken) - 1))))
        self.shares.add(self.line[-1])
        self.shares.add(self.line[-1])

    @precondition(lambda self: self.line)
    @rule(caller=CALLERS)
    def make_room(self, caller):
        gone = self.shares.gives_way(caller)
        if gone is not None:
            self.line.remove(gone)
            self.shares.discard(gone)

    @invariant()
    def as_counted(self):
        for caller in ("a", "b", "c", "stranger", None):
            expected = may_give_way(self.line, caller)
            found = self.shares.gives_way(caller)
            assert found in expected if expected else found is None

    @invariant()
    def callers_who_are_gone_are_forgotten(self):
        assert set(self.shares._shares) == {s.caller for s in self.line if s.caller is not None}


class LineMachine(RuleBasedStateMachine):
    """The queue that uses them: whoever is turned away is one whom the model would turn away."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.told = []
        self.queue = WaitQueue(clock=lambda: self.now, max_length=6)
        self.tickets = []

    def line(self):
        return [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]

    @rule(caller=CALLERS, priority=st.integers(0, 1), patience=st.integers(1, 9))
    def enter(self, caller, priority, patience):
        line = self.line()
        expected = may_give_way(line, caller) if len(line) >= 6 else None
        self.told.clear()
        try:
            ticket = self.queue.enter(self.told.append, deadline=self.now + patience, priority=priority, caller=caller)
        except QueueFullError:
            assert expected == []
            return
        self.tickets.append(ticket)
        if expected is None:
            assert not self.told
        else:
            (gone,) = self.told
            assert gone in expected
            assert gone.state is TicketState.EXPIRED

    @rule(count=st.integers(1, 3))
    def notify(self, count):
        first = sorted(self.line())[:count]
        self.told.clear()
        assert self.queue.notify(count) == len(first)
        assert self.told == first

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), how=st.sampled_from(["done", "again", "leave"]))
    def end(self, data, how):
        ticket = data.draw(st.sampled_from(self.tickets))
        if how == "leave" or ticket.state is TicketState.WOKEN:
            getattr(self.queue, how)(ticket)
        self.tickets = [t for t in self.tickets if t.state in (TicketState.WAITING, TicketState.WOKEN)]

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds):
        self.now += seconds
        late = {ticket for ticket in self.line() if ticket.deadline <= self.now}
        self.told.clear()
        assert self.queue.expire() == len(late)
        assert set(self.told) == late

    @invariant()
    def counted(self):
        assert len(self.queue) == len(self.line()) <= 6


TestShares = SharesMachine.TestCase
TestShares.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLine = LineMachine.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("length", [100, 1000])
def test_a_newcomer_to_a_full_line_looks_at_few_of_those_in_it(length):
    looked = 0

    class Counted(int):
        def __lt__(self, other):
            nonlocal looked
            looked += 1
            return int(self) < int(other)

    shares = Shares()
    greedy = [Standing(caller="greedy", place=Counted(number)) for number in range(length)]
    for standing in greedy:
        shares.add(standing)
    looked = 0
    for number in range(length // 2):
        last = shares.gives_way(f"newcomer {number}")
        assert last is greedy.pop()
        shares.discard(last)
        shares.add(Standing(caller=f"newcomer {number}", place=Counted(length + number)))
    assert looked <= length // 2 * 2 * length.bit_length()


def test_requests_that_left_take_no_memory():
    shares = Shares()
    shares.add(Standing(caller="a", place=0))
    for number in range(1, 1000):
        brief = Standing(caller="a", place=number)
        shares.add(brief)
        shares.discard(brief)
    assert len(shares._shares["a"]._last_first) <= 12
