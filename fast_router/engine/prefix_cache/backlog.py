"""The queue of one server in seconds: prompts that were sent and have not begun to answer.

Prompts are computed in the order of their arrival, so the first token of one says that those after it are all that is
left, and how long it took by itself: from its own arrival, or from the first token before it. An answer that does not
stream tells nothing in between; its prompt counts for as long as it was expected to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.engine.prefix_cache.call import Call

__all__ = ["Backlog"]


class Backlog:
    """What one server has yet to compute.

    Attributes:
        free_at: When it will have computed what it has, engine clock, seconds.
        tokens: Prompt tokens of what it has yet to compute, whether cached or not.
    """

    __slots__ = ("_answered", "_began", "_calls", "_full", "_rest", "_speaks", "_spoke", "free_at", "tokens")

    def __init__(self) -> None:
        self._calls: dict[Any, Call] = {}
        self.free_at = 0.0
        self.tokens = 0.0
        # When the last first token came; when the call at the head began to be computed, the seconds that it takes
        # if nothing of it is cached, and the seconds of those after it.
        self._spoke = 0.0
        # When the latest call whose first token came was sent: whatever was sent before it is computed.
        self._answered = 0.0
        self._began = 0.0
        self._full = 0.0
        self._rest = 0.0
        self._speaks = True

    def __len__(self) -> int:
        return len(self._calls)

    def wait(self, now: float) -> float:
        """Seconds until a new prompt is begun."""
        left = self.free_at - now
        if not self._calls:
            return left if left > 0 else 0.0
        late = self._rest - left
        if late <= 0:
            return left
        if not self._speaks:
            return left if left > 0 else 0.0
        # The head is late, so more of it was computed than expected: it may take as long again, but not longer than
        # if nothing of it had been cached.
        return self._rest + max(0.0, min(late, self._began + self._full - now))

    def add(self, key: Any, call: Call, now: float) -> None:
        """A call joins the queue."""
        if not self._calls:
            self._head(call, now)
        else:
            self._rest += call.work
        self._calls[key] = call
        self.tokens += call.tokens
        self.free_at = max(now, self.free_at) + call.work

    def add_late(self, key: Any, call: Call) -> None:
        """A call joined the queue when it began, which is heard of only now."""
        calls = self._calls
        if call.began <= self._answered:
            return
        later = [other for other, its in calls.items() if its.began > call.began]
        if len(later) == len(calls):
            self._head(call, max(call.began, self._spoke))
        moved = [(other, calls.pop(other)) for other in later]
        calls[key] = call
        calls.update(moved)
        self.tokens += call.tokens
        # Where the others stand with it in line.
        free_at = self._began
        self._rest = -next(iter(calls.values())).work
        for one in calls.values():
            free_at = max(free_at, one.began) + one.work
            self._rest += one.work
        self.free_at = free_at

    def spoke(self, key: Any, now: float) -> float | None:
        """The first token of a call has come.

        Returns:
            Seconds that the server worked on its prompt; None if that cannot be told.
        """
        call = self._calls.pop(key, None)
        if call is None:
            return None
        self.tokens -= call.tokens
        alone = True
        # Those before it that do not stream are done.
        for earlier in list(self._calls):
            other = self._calls[earlier]
            if (other.began, other.number) > (call.began, call.number):
                break
            alone = False
            if not other.stream:
                self._drop(earlier)
        seconds = now - max(call.began, self._spoke)
        # What others tell comes late: a first token since then is newer.
        self._spoke = now = max(now, self._spoke)
        self._answered = max(self._answered, call.began)
        self._recount(now)
        return seconds if alone else None

    def leave(self, key: Any, now: float) -> None:
        """A call has ended without a first token (failed, cancelled, or its answer did not stream)."""
        call = self._calls.get(key)
        if call is None:
            return
        if call.stream:
            self.drop(key, now)
        else:
            self.spoke(key, now)

    def drop(self, key: Any, now: float) -> None:
        """A call is not in the queue any more, whatever became of it."""
        call = self._calls.get(key)
        if call is None:
            return
        first = next(iter(self._calls)) == key
        self._drop(key)
        if first:
            self._spoke = now = max(now, self._spoke)
            self._recount(now)
        else:
            self._rest -= call.work
            self.free_at -= call.work

    def _drop(self, key: Any) -> None:
        self.tokens -= self._calls.pop(key).tokens

    def _recount(self, now: float) -> None:
        calls = self._calls
        if not calls:
            self.free_at, self._rest, self.tokens = now, 0.0, 0.0
            return
        head = next(iter(calls.values()))
        work = 0.0
        for call in calls.values():
            work += call.work
        self._head(head, now)
        self._rest = work - head.work
        self.free_at = now + work

    def _head(self, call: Call, now: float) -> None:
        self._began = now
        self._full = call.full
        self._speaks = call.stream
        self._rest = 0.0
