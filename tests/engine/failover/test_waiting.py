"""Waiting for capacity: order, bounds, and no wake-up lost whatever the interleaving."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fast_router.engine.failover.waiting import QueueFullError, TicketState, WaitQueue


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_first_come_first_served_within_a_priority(clock):
    queue, told = WaitQueue(clock=clock), []
    names = {}
    for name, priority in [("a", 1), ("b", 0), ("c", 1), ("d", 0)]:
        names[queue.enter(told.append, deadline=9, priority=priority)] = name
    assert queue.notify(4) == 4
    assert [names[t] for t in told] == ["b", "d", "a", "c"]


def test_length_is_bounded(clock):
    queue = WaitQueue(clock=clock, max_length=1)
    queue.enter(lambda _: None, deadline=9)
    with pytest.raises(QueueFullError, match="1 requests wait"):
        queue.enter(lambda _: None, deadline=9)


def test_capacity_freed_between_the_pick_and_the_queue_is_not_missed(clock):
    queue, told = WaitQueue(clock=clock), []
    epoch = queue.epoch
    assert queue.notify() == 0  # somebody frees a place while we have not queued yet
    ticket = queue.enter(told.append, deadline=9, epoch=epoch)
    assert told == [ticket]


def test_a_woken_waiter_that_leaves_passes_its_turn_on(clock):
    queue, told = WaitQueue(clock=clock), []
    first = queue.enter(told.append, deadline=9)
    second = queue.enter(told.append, deadline=9)
    queue.notify()
    queue.leave(first)
    assert told == [first, second]


def test_a_waiter_that_found_nothing_keeps_its_place(clock):
    queue, told = WaitQueue(clock=clock), []
    first = queue.enter(told.append, deadline=9)
    queue.enter(told.append, deadline=9)
    queue.notify()
    assert queue.again(first)
    queue.notify()
    assert told == [first, first]


def test_newcomers_queue_behind_those_who_wait_or_are_on_their_way(clock):
    queue = WaitQueue(clock=clock)
    assert not queue.busy
    ticket = queue.enter(lambda _: None, deadline=9)
    assert queue.busy
    queue.notify()
    assert queue.busy
    queue.done(ticket)
    assert not queue.busy


def test_deadlines(clock):
    queue, told = WaitQueue(clock=clock), []
    late = queue.enter(told.append, deadline=1)
    alive = queue.enter(told.append, deadline=9)
    clock.now = 2
    assert queue.expire() == 1
    assert told == [late]
    assert late.state is TicketState.EXPIRED
    queue.notify()
    assert told == [late, alive]
    clock.now = 10
    assert not queue.again(alive)
    assert alive.state is TicketState.EXPIRED


def test_a_wake_up_skips_those_who_are_late_and_tells_them(clock):
    queue, told = WaitQueue(clock=clock), []
    late = queue.enter(told.append, deadline=1)
    alive = queue.enter(told.append, deadline=9)
    clock.now = 2
    queue.notify()
    assert told == [late, alive]
    assert (late.state, alive.state) == (TicketState.EXPIRED, TicketState.WOKEN)


def test_those_who_left_take_no_memory(clock):
    queue = WaitQueue(clock=clock, max_length=10)
    for _ in range(1000):
        queue.leave(queue.enter(lambda _: None, deadline=9))
    assert len(queue) == 0
    assert max(len(queue._heap), len(queue._deadlines)) <= 64


@pytest.mark.parametrize("end", ["leave", "done"])
def test_who_came_while_somebody_was_on_the_way_is_woken_when_that_one_needs_no_more(end):
    queue = WaitQueue(clock=Clock())
    told = []
    early = queue.epoch
    queue.notify()  # freed between a failed pick and `enter`
    first = queue.enter(told.append, deadline=10, epoch=early)
    assert first.state is TicketState.WOKEN
    seen = queue.epoch
    assert queue.busy  # a newcomer has to queue up, and is about to
    getattr(queue, end)(first)
    second = queue.enter(told.append, deadline=10, epoch=seen)
    assert second.state is TicketState.WOKEN
    assert told == [first, second]


class PoolMachine(RuleBasedStateMachine):
    """A pool of slots with waiters, at every interleaving that the protocol allows.

    A waiter reads the epoch, fails its pick, queues up; the steps of others may come between any two of these.
    At rest no slot is free while somebody waits, which is what a lost wake-up would look like.
    """

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.queue = WaitQueue(clock=self.clock, max_length=8)
        self.free = 2
        self.busy = 0
        self.about_to_queue: list[int] = []  # epochs read before the failed pick
        self.waiting: list = []
        self.woken: list = []
        self.served: list[int] = []

    def _told(self, ticket):
        if ticket.state is TicketState.WOKEN:
            self.woken.append(ticket)
        if ticket in self.waiting:
            self.waiting.remove(ticket)

    def _take(self):
        if self.free:
            self.free -= 1
            self.busy += 1
            return True
        return False

    @rule()
    def arrive(self):
        epoch = self.queue.epoch
        if self.queue.busy or not self._take():
            self.about_to_queue.append(epoch)

    @precondition(lambda self: self.about_to_queue)
    @rule(priority=st.integers(0, 1), patience=st.floats(0.1, 20))
    def queue_up(self, priority, patience):
        epoch = self.about_to_queue.pop(0)
        try:
            ticket = self.queue.enter(self._told, deadline=self.clock() + patience, priority=priority, epoch=epoch)
        except QueueFullError:
            return
        if ticket.state is TicketState.WAITING:
            self.waiting.append(ticket)

    @precondition(lambda self: self.busy)
    @rule()
    def finish(self):
        self.busy -= 1
        self.free += 1
        self.queue.notify()

    @precondition(lambda self: self.woken)
    @rule()
    def woken_tries(self):
        ticket = self.woken.pop(0)
        if ticket.state is not TicketState.WOKEN:
            return
        epoch = self.queue.epoch
        if self._take():
            self.queue.done(ticket)
        elif self.queue.again(ticket, epoch=epoch) and ticket.state is TicketState.WAITING:
            self.waiting.append(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel_waiting(self, data):
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.queue.leave(ticket)

    @precondition(lambda self: self.woken)
    @rule()
    def cancel_woken(self):
        self.queue.leave(self.woken.pop(0))

    @rule(seconds=st.floats(0.1, 5))
    def time_passes(self, seconds):
        self.clock.now += seconds
        self.queue.expire()

    @invariant()
    def nobody_waits_while_a_slot_is_free_and_nobody_is_on_the_way(self):
        if self.free and not self.woken and not self.about_to_queue:
            assert len(self.queue) == 0

    @invariant()
    def bounded(self):
        assert len(self.queue) <= 8
        assert len(self.queue) == len([t for t in self.waiting if t.state is TicketState.WAITING])


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
