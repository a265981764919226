"""Places that are kept for callers who were refused, in a group that others have filled.

Where nobody waits, the places of a group go to whoever asks most often. So whoever holds its share of them, or more,
leaves as many free as the callers who were refused lately have missed, up to their own shares: max-min fairness
(Bertsekas, Gallager: *Data Networks*, 6.5.2) among those who ask. One caller may have all while no other is refused.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

__all__ = ["KEPT", "Places", "Reserve"]

KEPT = 15.0
"""Seconds after a refusal for which places are kept: refused callers are told to come back after ten."""


class Places(NamedTuple):
    """A group's places at one moment.

    Attributes:
        total: How many there are.
        free: How many nobody holds.
        held: How many each known caller holds.
    """

    total: int
    free: int
    held: Mapping[Hashable, int]


class _Refused:
    """A caller that was refused.

    Attributes:
        needs: The places that it would hold.
        missed: Refusals since it was admitted last.
        until: Clock time in seconds until which they are kept.
    """

    __slots__ = ("missed", "needs", "until")

    def __init__(self) -> None:
        self.needs = 0
        self.missed = 0
        self.until = 0.0


class Reserve:
    """The places of one group that are kept.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # The latest refusal last.
        self._refused: dict[Hashable, _Refused] = {}
        self._held_back = float("-inf")

    def in_use(self) -> bool:
        """Whether places are kept."""
        with self._lock:
            self._forget()
            return bool(self._refused)

    def admits(self, caller: Hashable | None, places: Places) -> bool:
        """Tell whether a caller may have one of the free places.

        Args:
            caller: Who asks; one who is not known holds no place of anybody's.
            places: The group's.
        """
        with self._lock:
            self._forget()
            if caller is None or not self._refused:
                return True
            share = self._share(caller, places)
            if places.held.get(caller, 0) >= share:
                kept = sum(
                    max(0, min(refused.needs, share) - places.held.get(other, 0))
                    for other, refused in self._refused.items()
                    if other != caller
                )
                if places.free <= kept:
                    self._held_back = self._clock()
                    return False
            refused = self._refused.get(caller)
            if refused is not None:
                refused.missed = 0
                if self._held_back > self._clock() - KEPT:
                    # Others still ask for more than there is: the next time, it is not to be refused first.
                    self._keep(caller, refused)
            return True

    def refused(self, caller: Hashable | None, places: Places) -> None:
        """Note that a caller got no place: places are kept for it, unless it holds its share."""
        if caller is None:
            return
        with self._lock:
            self._forget()
            held, share = places.held.get(caller, 0), self._share(caller, places)
            if held >= share:
                return
            refused = self._refused.get(caller) or _Refused()
            refused.missed += 1
            refused.needs = min(share, max(refused.needs, held + refused.missed))
            self._keep(caller, refused)
            while len(self._refused) > places.total:
                del self._refused[next(iter(self._refused))]

    # Inside the lock.

    def _keep(self, caller: Hashable, refused: _Refused) -> None:
        self._refused.pop(caller, None)
        self._refused[caller] = refused
        refused.until = self._clock() + KEPT

    def _forget(self) -> None:
        now = self._clock()
        while self._refused:
            longest_ago = next(iter(self._refused))
            if self._refused[longest_ago].until > now:
                return
            del self._refused[longest_ago]

    def _share(self, caller: Hashable, places: Places) -> int:
        asking = {caller, *self._refused, *places.held}
        return max(1, places.total // len(asking))
