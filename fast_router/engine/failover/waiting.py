"""A place to wait for capacity: callers take turns within a priority, bounded in length and time.

The queue knows no event loop and no thread: a waiter brings a callback, and whoever frees capacity calls
`notify`. Three rules keep it honest:

* **No lost wake-up.** Freed capacity between a failed pick and `enter` would go unnoticed. So a waiter reads
  `epoch` before its pick and hands it to `enter`: if something was freed since, it is woken at once.
* **A wake-up is passed on.** A woken waiter that is done, or leaves (cancelled, timed out), wakes the next one, or
  whoever is about to queue up behind it; the chain ends at the first that finds no room.
* **No overtaking.** While somebody waits, newcomers queue up (`busy`); a woken waiter that finds the capacity
  gone returns to its old place (`again`).

One caller cannot fill it: callers take turns (`fair_turns`), and where no place is left, the latest request of whoever
has the most gives way to a caller that has fewer (`shares`). No step looks at everybody in line.

Callbacks are called outside the lock, so that they may call back into the queue.
"""

from __future__ import annotations

import enum
import threading
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from fast_router.engine.failover.fair_turns import FairTurns, Place
from fast_router.engine.failover.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["QueueFullError", "Ticket", "TicketState", "WaitQueue"]


class QueueFullError(Exception):
    """The queue is at its longest; the caller fails as if there were no queue."""


class TicketState(enum.Enum):
    """Where a waiter stands."""

    WAITING = "waiting"
    WOKEN = "woken"
    EXPIRED = "expired"
    LEFT = "left"


class Ticket:
    """One waiter's place.

    Attributes:
        place: Where it stands in line.
        caller: Who waits, None if that is not known.
        deadline: Clock time in seconds at which it gives up.
        state: Whether it still waits.
    """

    __slots__ = ("_tell", "caller", "deadline", "place", "state")

    def __init__(self, place: Place, caller: Hashable | None, deadline: float, tell: Callable[[Ticket], None]) -> None:
        self._tell = tell
        self.place = place
        self.caller = caller
        self.deadline = deadline
        self.state = TicketState.WAITING

    def __lt__(self, other: Ticket) -> bool:
        return self.place < other.place


class WaitQueue:
    """Waiters for one model group.

    Args:
        clock: Monotonic seconds.
        max_length: Most waiters at a time.
    """

    def __init__(self, *, clock: Callable[[], float], max_length: int = 1000) -> None:
        if max_length < 0:
            raise ValueError("max_length is a number of waiters ≥ 0")
        self._clock = clock
        self._max_length = max_length
        self._lock = threading.Lock()
        # Those who leave stay in both until they are first, or too many (`_compact`).
        self._heap: list[Ticket] = []
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._shares: Shares[Ticket] = Shares()
        self._waiting = 0
        self._woken = 0
        self._turns = FairTurns()
        self._epoch = 0

    def __len__(self) -> int:
        """Give the number of waiters that nobody has woken yet."""
        return self._waiting

    @property
    def epoch(self) -> int:
        """A number that grows when capacity is freed or left over; read it before the pick that may fail."""
        return self._epoch

    @property
    def busy(self) -> bool:
        """Whether a newcomer has to queue up behind somebody."""
        return self._waiting > 0 or self._woken > 0

    def enter(
        self,
        tell: Callable[[Ticket], None],
        *,
        deadline: float,
        priority: int = 0,
        caller: Hashable | None = None,
        epoch: int | None = None,
    ) -> Ticket:
        """Queue up.

        Args:
            tell: Called once per wake-up and once on expiry, with the ticket; it must not block.
            deadline: Clock time in seconds at which to give up.
            priority: Lower goes first.
            caller: Who waits; None if that is not known: then each request is a caller of its own.
            epoch: The queue's `epoch` from before the failed pick; if it has moved on, the waiter is woken
                at once, unless others wait before it.

        Returns:
            The ticket. Whoever got one calls `done`, `again` or `leave` for it.

        Raises:
            QueueFullError: No place is left, and its caller has as many as anybody.
        """
        with self._lock:
            told = self._make_room(caller) if self._waiting >= self._max_length else []
            ticket = Ticket(self._turns.place(caller, priority), caller, deadline, tell)
            missed = epoch is not None and epoch != self._epoch
            self._push(ticket)
            heappush(self._deadlines, (deadline, ticket.place.order, ticket))
            if missed:
                told += self._wake(1)
        self._tell(told)
        return ticket

    def notify(self, count: int = 1) -> int:
        """Tell the first ``count`` waiters that capacity is free.

        Args:
            count: How many attempts could start now.

        Returns:
            How many were woken.
        """
        with self._lock:
            self._epoch += 1
            told = self._wake(count)
        self._tell(told)
        return len(told)

    def done(self, ticket: Ticket) -> None:
        """Say that a woken waiter got what it waited for; the next one may try too.

        While it was on its way, a newcomer may have queued up behind it although there was room for both.
        """
        with self._lock:
            told = self._pass_on() if self._leave(ticket) else []
        self._tell(told)

    def again(self, ticket: Ticket, *, epoch: int | None = None) -> bool:
        """Return a woken waiter to its old place: the capacity was gone when it came.

        Args:
            ticket: The waiter's ticket.
            epoch: As for `enter`, read before the pick that just failed.

        Returns:
            False if its deadline is over, and it has left.
        """
        with self._lock:
            if ticket.state is not TicketState.WOKEN:
                return ticket.state is TicketState.WAITING
            self._woken -= 1
            if self._clock() >= ticket.deadline:
                ticket.state = TicketState.EXPIRED
                # What woke it may be of use to the next one, which it kept out of the way.
                told = self._pass_on()
                alive = False
            else:
                ticket.state = TicketState.WAITING
                self._push(ticket)
                told = self._wake(1) if epoch is not None and epoch != self._epoch else []
                alive = True
        self._tell(told)
        return alive

    def leave(self, ticket: Ticket) -> None:
        """Give the place up (cancelled); a wake-up that it had got goes to the next waiter."""
        with self._lock:
            told = self._pass_on() if self._leave(ticket) else []
        self._tell(told)

    def expire(self) -> int:
        """Turn away everybody whose deadline is over; each is told. Returns how many."""
        now = self._clock()
        late: list[Ticket] = []
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now:
                ticket = heappop(self._deadlines)[2]
                if ticket.state is TicketState.WAITING:
                    self._take_out(ticket, TicketState.EXPIRED)
                    late.append(ticket)
            self._compact()
        self._tell(late)
        return len(late)

    # Inside the lock.

    def _make_room(self, caller: Hashable | None) -> list[Ticket]:
        """Turn the latest request of whoever has the most places away, for a caller that has fewer."""
        latest = self._shares.gives_way(caller)
        if latest is None:
            raise QueueFullError(f"{self._waiting} requests wait already")
        self._take_out(latest, TicketState.EXPIRED)
        self._compact()
        return [latest]

    def _push(self, ticket: Ticket) -> None:
        heappush(self._heap, ticket)
        self._shares.add(ticket)
        self._waiting += 1

    def _take_out(self, ticket: Ticket, state: TicketState) -> None:
        """Let a waiter wait no longer."""
        ticket.state = state
        self._shares.discard(ticket)
        self._waiting -= 1

    def _leave(self, ticket: Ticket) -> bool:
        """Take a ticket out; True if it had been woken."""
        if ticket.state is TicketState.WAITING:
            self._take_out(ticket, TicketState.LEFT)
            self._compact()
            return False
        woken = ticket.state is TicketState.WOKEN
        self._woken -= woken
        ticket.state = TicketState.LEFT
        return woken

    def _wake(self, count: int) -> list[Ticket]:
        told: list[Ticket] = []
        now = self._clock()
        while self._heap and len(told) < count:
            ticket = heappop(self._heap)
            if ticket.state is not TicketState.WAITING:
                continue
            if ticket.deadline <= now:
                self._take_out(ticket, TicketState.EXPIRED)
                count += 1
            else:
                self._take_out(ticket, TicketState.WOKEN)
                self._woken += 1
                self._turns.served(ticket.place)
            told.append(ticket)
        return told

    def _pass_on(self) -> list[Ticket]:
        """Wake the next one in place of a woken waiter that needs its wake-up no longer.

        With nobody there yet, whoever has seen that somebody was on the way and is about to queue up behind it has
        to be told: the epoch does that.
        """
        told = self._wake(1)
        if not any(ticket.state is TicketState.WOKEN for ticket in told):
            self._epoch += 1
        return told

    def _compact(self) -> None:
        """Keep the heaps of the order of the number of waiters: those who left stay in them until popped."""
        if len(self._heap) > 32 and len(self._heap) > 2 * self._waiting:
            self._heap = [t for t in self._heap if t.state is TicketState.WAITING]
            heapify(self._heap)
        if len(self._deadlines) > 32 and len(self._deadlines) > 2 * (self._waiting + self._woken):
            alive = (TicketState.WAITING, TicketState.WOKEN)
            self._deadlines = [due for due in self._deadlines if due[2].state in alive]
            heapify(self._deadlines)

    @staticmethod
    def _tell(tickets: list[Ticket]) -> None:
        for ticket in tickets:
            ticket._tell(ticket)
