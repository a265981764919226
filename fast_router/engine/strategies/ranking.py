"""Members in order of a score: the lowest in O(1), a change in O(log n) comparisons.

A sorted list of (score, serial) pairs. Insertion moves memory, but that is one C call: at 10,000
members it costs about what a heap's Python-level sift costs at 100, and unlike a heap it answers
"all within 10 % of the best" without a scan.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from math import floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_router.engine.ask import Rng
    from fast_router.engine.deployment import Deployment

__all__ = ["Ranking"]

_INFINITY = float("inf")


class Ranking:
    """A set of deployments sorted by score.

    Args:
        rng: Breaks ties, so that equal candidates are equally likely.
    """

    __slots__ = ("_best", "_entries", "_keys", "_members", "_random", "_serial", "_slack")

    def __init__(self, rng: Rng) -> None:
        self._entries: list[tuple[float, int]] = []
        self._keys: dict[Deployment, tuple[float, int]] = {}
        self._members: dict[int, Deployment] = {}
        self._random = rng.random
        self._serial = 0
        # How many were among the best at the last look, and with how much slack; 0 once somebody has moved.
        self._best = 0
        self._slack = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, deployment: Deployment) -> bool:
        return deployment in self._keys

    def set(self, deployment: Deployment, score: float) -> None:
        """Put `deployment` at `score`, wherever it was before."""
        key = self._keys.get(deployment)
        if key is None:
            self._serial += 1
            serial = self._serial
            self._members[serial] = deployment
        elif key[0] == score:
            return
        else:
            serial = key[1]
            del self._entries[bisect_left(self._entries, key)]
        self._best = 0
        key = (score, serial)
        self._keys[deployment] = key
        insort(self._entries, key)

    def discard(self, deployment: Deployment) -> None:
        """Take `deployment` out, if it is in."""
        key = self._keys.pop(deployment, None)
        if key is not None:
            self._best = 0
            del self._entries[bisect_left(self._entries, key)]
            del self._members[key[1]]

    def lowest(self, slack: float = 0.0) -> Deployment | None:
        """A random one of those whose score is at most the lowest plus `slack` times the lowest."""
        entries = self._entries
        count = self._best
        if not count or slack != self._slack:
            if not entries:
                return None
            low = entries[0][0]
            bound = low + slack * low if slack else low
            # Most often the best has no equal: look at its neighbour before searching.
            count = 1 if len(entries) == 1 or entries[1][0] > bound else bisect_right(entries, (bound, _INFINITY))
            self._best, self._slack = count, slack
        index = 0 if count == 1 else floor(self._random() * count)
        return self._members[entries[index][1]]

    def first(self, count: int) -> list[Deployment]:
        """So many with the lowest scores, in order."""
        members = self._members
        return [members[serial] for _, serial in self._entries[:count]]

    def score(self, deployment: Deployment) -> float | None:
        """The score of `deployment`, None if it is not in."""
        key = self._keys.get(deployment)
        return None if key is None else key[0]
