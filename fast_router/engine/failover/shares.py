"""Who has how many places in a line, so that a full one stays fair without a look at everybody in it.

Callers are kept by their number of places (Shah, Mitra, Matani: *An O(1) algorithm for implementing the LFU cache
eviction scheme*, 2010): one place more or less moves a caller to the next number.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from fast_router.engine.failover.fair_turns import Place

__all__ = ["Shares"]

_FEW = 8


class _Standing(Protocol):
    @property
    def caller(self) -> Hashable | None: ...

    @property
    def place(self) -> Place: ...


Standing = TypeVar("Standing", bound=_Standing)


class _Last(Generic[Standing]):
    """A request that goes first in a heap if it is the last in line."""

    __slots__ = ("standing",)

    def __init__(self, standing: Standing) -> None:
        self.standing = standing

    def __lt__(self, other: _Last[Standing]) -> bool:
        return other.standing.place < self.standing.place


class _Share(Generic[Standing]):
    """One caller's requests."""

    __slots__ = ("_last_first", "standing")

    def __init__(self) -> None:
        self.standing: set[Standing] = set()
        # Those who left stay in it until they are first, or too many.
        self._last_first: list[_Last[Standing]] = []

    def add(self, standing: Standing) -> None:
        self.standing.add(standing)
        heappush(self._last_first, _Last(standing))
        if len(self._last_first) > _FEW + 2 * len(self.standing):
            self._last_first = [_Last(one) for one in self.standing]
            heapify(self._last_first)

    def last(self) -> Standing:
        while self._last_first[0].standing not in self.standing:
            heappop(self._last_first)
        return self._last_first[0].standing


class Shares(Generic[Standing]):
    """The places of each known caller in one line; each step takes O(log n). Not for several threads at a time."""

    __slots__ = ("_having", "_most", "_shares")

    def __init__(self) -> None:
        self._shares: dict[Hashable, _Share[Standing]] = {}
        # Callers by their number of places; a dict, for the order in which they got there.
        self._having: dict[int, dict[Hashable, None]] = {}
        self._most = 0

    def add(self, standing: Standing) -> None:
        """Count a request that stands in line from now on; one that is in it already counts once."""
        caller = standing.caller
        if caller is None:
            return
        share = self._shares.get(caller)
        if share is None:
            share = self._shares[caller] = _Share()
        before = len(share.standing)
        share.add(standing)
        self._move(caller, before, len(share.standing))

    def discard(self, standing: Standing) -> None:
        """Count it no longer."""
        caller = standing.caller
        share = None if caller is None else self._shares.get(caller)
        if share is None or standing not in share.standing:
            return
        share.standing.discard(standing)
        left = len(share.standing)
        self._move(caller, left + 1, left)
        if not left:
            del self._shares[caller]

    def gives_way(self, caller: Hashable | None) -> Standing | None:
        """Give who has to leave a full line for a newcomer.

        Args:
            caller: The newcomer's, None if that is not known.

        Returns:
            The last request of whoever has the most in line; None if the newcomer's caller would then have as many.
        """
        share = None if caller is None else self._shares.get(caller)
        if self._most <= (0 if share is None else len(share.standing)) + 1:
            return None
        greediest = next(iter(self._having[self._most]))
        return self._shares[greediest].last()

    def _move(self, caller: Hashable, before: int, now: int) -> None:
        if before == now:
            return
        if now:
            self._having.setdefault(now, {})[caller] = None
        if before:
            there = self._having[before]
            del there[caller]
            if not there:
                del self._having[before]
        if now > self._most or self._most not in self._having:
            self._most = now
