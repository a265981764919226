"""Calls of other processes at one server, and what they leave of what our own calls seem to teach.

How long a server worked on a prompt can be told only when everything before it in its queue is known. Others' calls
become known a moment late, so what an answer teaches is put off by as long, and left out where another's call in
question was not known of when ours was sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fast_router.engine.prefix_cache.event import What

if TYPE_CHECKING:
    from fast_router.engine.prefix_cache.call import Call

__all__ = ["Others"]

Key = tuple[str, int]

_KEPT = 256
"""Calls that are remembered."""
_LONGEST = 60.0
"""Seconds after which a call is forgotten."""
_MISSED = 10.0
"""Seconds after which a call of which nothing more was heard says nothing about ours: its end was lost on the way."""
_CLOSE = 0.02
"""Seconds within which it cannot be told which of two processes' calls was there first."""


class _Theirs:
    __slots__ = ("call", "ended", "heard", "spoke")

    def __init__(self, call: Call, heard: float) -> None:
        self.call = call
        self.heard = heard
        # When its first token came, and when it ended without one that was told; None as long as that is unknown.
        self.spoke: float | None = None
        self.ended: float | None = None


class Others:
    """What was heard of other processes' calls.

    Args:
        delay: Seconds that news of them take, at the most.
    """

    __slots__ = ("_delay", "_theirs", "_waiting")

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._theirs: OrderedDict[Key, _Theirs] = OrderedDict()
        # Our own calls whose first token came lately, and when.
        self._waiting: deque[tuple[Call, float]] = deque()

    def __contains__(self, key: Key) -> bool:
        return key in self._theirs

    def __len__(self) -> int:
        return len(self._theirs)

    # -- theirs ----------------------------------------------------------------------------------

    def sent(self, key: Key, call: Call, now: float) -> list[Key]:
        """A call was sent; returns those that are forgotten in its place."""
        theirs = self._theirs
        theirs[key] = _Theirs(call, now)
        old = []
        while len(theirs) > _KEPT or now - next(iter(theirs.values())).heard > _LONGEST:
            old.append(theirs.popitem(last=False)[0])
        return old

    def over(self, key: Key, at: float, what: What) -> Call | None:
        """Its first token came, or it ended without any."""
        known = self._theirs.get(key)
        if known is None:
            return None
        if what is What.SPOKE:
            known.spoke = at
        else:
            known.ended = at
        return known.call

    def forget(self, source: str | None) -> list[Key]:
        """A process is no more, or all of them (None); returns its calls."""
        old = [key for key in self._theirs if source is None or key[0] == source]
        for key in old:
            del self._theirs[key]
        return old

    # -- ours ------------------------------------------------------------------------------------

    def spoke(self, call: Call, at: float) -> None:
        """The first token of one of our own calls has come."""
        self._waiting.append((call, at))

    def settled(self, call: Call) -> bool:
        """Whether others have had their say about one of our own calls."""
        return all(call is not waiting for waiting, _ in self._waiting)

    def due(self, now: float) -> Iterator[tuple[Call, float]]:
        """Our own calls about which others have had their say, with the time that each took."""
        waiting = self._waiting
        while waiting and waiting[0][1] + self._delay <= now:
            call, at = waiting.popleft()
            if call.seconds is not None:
                call.seconds = self._seconds(call, at, at - call.seconds)
            yield call, at

    def _seconds(self, call: Call, at: float, since: float) -> float | None:
        """How long the server worked on a call: from its arrival or the first token before its own."""
        for theirs in self._theirs.values():
            ahead = call.began - theirs.call.began
            if ahead <= -_CLOSE:
                continue
            if theirs.heard > call.began:
                return None  # what it brought into the cache was not known of
            if theirs.spoke is not None:
                if theirs.spoke <= at:
                    since = max(since, theirs.spoke)
                elif ahead > _CLOSE:
                    return None  # the server does not go by the order of arrival
            elif ahead < _MISSED and (theirs.ended is None or theirs.ended > call.began):
                return None
        return at - since
