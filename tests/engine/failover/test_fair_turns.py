"""Turns among callers that wait: equal shares whatever each lets wait, nobody starves, a full line stays fair."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.failover.fair_turns import FairTurns
from fast_router.engine.failover.waiting import QueueFullError, TicketState, WaitQueue


class Line:
    """A line served in the order of its places."""

    def __init__(self):
        self.turns = FairTurns()
        self.waiting = []

    def enter(self, caller, priority=0):
        heapq.heappush(self.waiting, (self.turns.place(caller, priority), caller))

    def serve(self):
        place, caller = heapq.heappop(self.waiting)
        self.turns.served(place)
        return caller


def test_a_newcomer_goes_before_the_backlog_of_another():
    line = Line()
    for _ in range(100):
        line.enter("greedy")
    assert [line.serve() for _ in range(5)] == ["greedy"] * 5
    line.enter("modest")
    assert "modest" in [line.serve() for _ in range(2)]


def test_a_backlog_is_not_starved_by_newcomers():
    line = Line()
    for _ in range(20):
        line.enter("backlog")
    served = []
    for number in range(40):
        line.enter(f"newcomer {number}")
        served.append(line.serve())
    assert served.count("backlog") >= 5  # each newcomer is a caller with a turn of its own


def test_those_whom_nobody_knows_are_served_as_they_came():
    turns = FairTurns()
    places = [turns.place(None) for _ in range(9)]
    assert places == sorted(places)


def test_a_priority_goes_before_every_turn():
    line = Line()
    for caller, priority in [("a", 1), ("b", 1), ("a", 0), ("a", 0)]:
        line.enter(caller, priority)
    assert [line.serve() for _ in range(4)] == ["a", "a", "a", "b"]


@given(st.lists(st.sampled_from(["enter a", "enter b", "enter c", "serve"]), max_size=200))
def test_two_callers_who_wait_all_the_time_are_served_alike(steps):
    """The bound of start-time fair queueing, for requests of one length: two more than the other at the most."""
    line = Line()
    waits, served, since = Counter(), Counter(), {}
    for step in steps:
        if step == "serve":
            if not line.waiting:
                continue
            caller = line.serve()
            waits[caller] -= 1
            served[caller] += 1
            for pair in [pair for pair in since if caller in pair and not waits[caller]]:
                del since[pair]
        else:
            waits[step[-1]] += 1
            line.enter(step[-1])
        for pair in ("ab", "ac", "bc"):
            if all(waits[caller] for caller in pair):
                mark = since.setdefault(pair, Counter(served))
                one, two = (served[caller] - mark[caller] for caller in pair)
                assert abs(one - two) <= 2


def test_callers_that_are_gone_take_no_memory():
    line = Line()
    for number in range(5000):
        line.enter(number)
        line.serve()
        line.enter("always")
        line.serve()
    assert len(line.turns._next) <= 200


def test_in_a_full_line_the_one_with_the_most_gives_way():
    queue, told = WaitQueue(clock=lambda: 0.0, max_length=4), []
    greedy = [queue.enter(told.append, deadline=9, caller="greedy") for _ in range(4)]
    with pytest.raises(QueueFullError):
        queue.enter(told.append, deadline=9, caller="greedy")
    modest = queue.enter(told.append, deadline=9, caller="modest")
    assert told == [greedy[3]]
    assert greedy[3].state is TicketState.EXPIRED
    queue.enter(told.append, deadline=9, caller="modest")
    assert told == [greedy[3], greedy[2]]
    with pytest.raises(QueueFullError):  # each has two
        queue.enter(told.append, deadline=9, caller="modest")
    queue.enter(told.append, deadline=9)  # whom nobody knows, is somebody else
    assert len(queue) == 4
    told.clear()
    queue.notify(2)
    assert modest in told


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.integers(1, 6))
def test_whoever_has_less_than_a_share_gets_in(arrivals, length):
    """A line that nobody leaves: a caller that is refused has as many places as the others, or one less."""
    gone = []
    queue, places = WaitQueue(clock=lambda: 0.0, max_length=length), Counter()
    for caller in arrivals:
        try:
            queue.enter(gone.append, deadline=9, caller=caller)
        except QueueFullError:
            assert places[caller] + 1 >= max(places.values())
        else:
            places[caller] += 1
        while gone:
            places[gone.pop().caller] -= 1
        assert sum(places.values()) == len(queue) <= length
