"""Outlasting an outage: with `max_wait`, a request that everybody in its group has failed waits and tries again.

LiteLLM's retries are over in milliseconds, an outage is not. While one goes on, requests stand in line and one of them
tries every now and then; newcomers try once instead of with all their retries, and as soon as several requests agree
that nobody answers, they join the line at once. The first answer lets two more in, each of theirs two more. So the
servers that come back get neither everybody's retries nor everybody at once.

A request that fails while others are answered is not in an outage, it is the trouble itself: it gets its error.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.failover.failures import FailureKind, classify
from fast_router.engine.failover.fair_turns import FairTurns, Place
from fast_router.engine.failover.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping

    from fast_router.engine import ModelGroup
    from fast_router.engine.failover.ledger import AttemptLedger

__all__ = ["Outage", "blocking_turn", "outlast"]

_PASSES = frozenset({FailureKind.SERVER, FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.RATE_LIMIT})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 1.0
_ADMITTED_BY_AN_ANSWER = 2
# So many requests in line are no coincidence: one that breaks every server by itself must not hold up the others.
_AGREED = 3
# A group that comes back does so one by one: a request may meet some that are not back yet.
_FAILURES_AMONG_ANSWERS = 3


class _Standing:
    """A request in line."""

    __slots__ = ("caller", "place", "tell", "turned_away")

    def __init__(self, place: Place, caller: Hashable | None, tell: Callable[[], None]) -> None:
        self.place = place
        self.caller = caller
        self.tell = tell
        self.turned_away = False

    def __lt__(self, other: _Standing) -> bool:
        return self.place < other.place


class Outage:
    """The line of one group's requests that nobody could answer.

    Args:
        clock: Monotonic seconds.

    Attributes:
        clock: Monotonic seconds.
        active: Requests that wait or try again.
        answered: Clock time at which the latest attempt that was answered had begun.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._line: list[_Standing] = []
        self._shares: Shares[_Standing] = Shares()
        self._turns = FairTurns()
        self._next_try = 0.0
        self._pause = _FIRST_PAUSE
        self.active = 0
        self.answered = float("-inf")

    def __len__(self) -> int:
        """Give the number of requests that stand in line."""
        return len(self._line)

    @property
    def agreed(self) -> bool:
        """Whether several requests have found out already that nobody answers."""
        return len(self._line) >= _AGREED

    def enter(self) -> None:
        """Count a request; the first one begins the outage."""
        with self._lock:
            if not self.active:
                self._pause = _FIRST_PAUSE
                self._next_try = self.clock() + self._pause
            self.active += 1

    def leave(self) -> None:
        """Count it no longer."""
        with self._lock:
            self.active -= 1

    def succeeded(self, began: float) -> None:
        """Note that an attempt was answered: let the next ones in."""
        with self._lock:
            self.answered = max(self.answered, began)
            self._wake(_ADMITTED_BY_AN_ANSWER)

    async def turn(self, deadline: float, priority: int = 0, caller: Hashable | None = None) -> bool:
        """Wait until it is this request's turn to try again.

        Args:
            deadline: Clock time in seconds at which it gives up.
            priority: Lower goes first.
            caller: Who asks; callers take turns.

        Returns:
            False if the time is over, or the line is full of others who have no more in it than this caller.
        """
        loop = asyncio.get_running_loop()
        mine = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # its loop is closed: it waits no longer
                loop.call_soon_threadsafe(mine.set)

        with self._lock:
            if len(self._line) >= settings.current().max_waiting and not self._make_room(caller):
                return False
            standing = _Standing(self._turns.place(caller, priority), caller, tell)
            insort(self._line, standing)
            self._shares.add(standing)
        try:
            while not mine.is_set():
                now = self.clock()
                if now >= deadline:
                    return False
                with self._lock:
                    if now >= self._next_try:
                        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                        self._next_try = now + self._pause
                        self._wake(1)
                    seconds = min(self._next_try, deadline) - now
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(mine.wait(), max(0.001, seconds))
            return not standing.turned_away
        finally:
            with self._lock:
                self._take_out(standing)

    # Inside the lock.

    def _make_room(self, caller: Hashable | None) -> bool:
        latest = self._shares.gives_way(caller)
        if latest is None:
            return False
        self._take_out(latest)
        latest.turned_away = True
        latest.tell()
        return True

    def _take_out(self, standing: _Standing) -> None:
        at = bisect_left(self._line, standing)
        if at < len(self._line) and self._line[at] is standing:
            del self._line[at]
            self._shares.discard(standing)

    def _wake(self, count: int) -> None:
        for standing in self._line[:count]:
            self._shares.discard(standing)
            self._turns.served(standing.place)
            standing.tell()
        del self._line[:count]


async def blocking_turn(outage: Outage, deadline: float, priority: int, caller: Hashable | None) -> bool:
    """As `Outage.turn`, for a thread without an event loop; it never suspends, it blocks."""
    return asyncio.run(outage.turn(deadline, priority, caller))


async def outlast(
    error: Exception | None,
    call: Callable[[dict[str, Any]], Awaitable[Any]],
    request: Mapping[str, Any],
    ledger: AttemptLedger,
    group: ModelGroup,
    outage: Outage,
    deadline: float,
    began: float,
    turn: Callable[[Outage, float, int, Hashable | None], Awaitable[bool]] = Outage.turn,
) -> Any:
    """Repeat a request that has failed while its group's outage lasts.

    Args:
        error: How it failed, None if it was not made yet.
        call: Makes it once, with LiteLLM's fallbacks.
        request: Its keyword arguments. Nested metadata stays the proxy's own, as in LiteLLM's retries.
        ledger: What it has tried.
        group: Who may serve it.
        outage: The group's.
        deadline: Clock time in seconds at which it gives up.
        began: Clock time in seconds at which the attempts that failed had begun.
        turn: How it waits for its turn.

    Raises:
        Exception: The latest error.
    """
    if error is not None and not _passes(error, ledger, group, known=outage.active > 0):
        raise error
    priority = request.get("priority")
    strikes = 0
    outage.enter()
    try:
        while await turn(outage, deadline, priority if isinstance(priority, int) else 0, ledger.caller()):
            again = outage.clock()
            try:
                response = await call({**request, "num_retries": 0})
            except Exception as latest:
                strikes += outage.answered >= began
                if not _passes(latest, ledger, group, known=True) or strikes >= _FAILURES_AMONG_ANSWERS:
                    raise
                error, began = latest, again
            else:
                outage.succeeded(again)
                return response
    finally:
        outage.leave()
    if error is None:
        return await call({**request, "num_retries": 0})
    raise error


def _passes(error: Exception, ledger: AttemptLedger, group: ModelGroup, *, known: bool) -> bool:
    """Tell whether this failure is an outage of the whole group, which may pass."""
    latest = ledger.last()
    if latest is None or latest.kind not in _PASSES or classify(error) not in _PASSES:
        return False
    return known or all(member.held or ledger.knows(member.id) for member in group.members)
