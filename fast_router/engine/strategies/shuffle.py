"""simple_shuffle: a random deployment, by weight.

LiteLLM's rule: the first of weight, rpm, tpm that any candidate has above zero gives the weights (a
candidate without it gets nothing); if none has any, all are equally likely.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import floor
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.base import Strategy

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["SimpleShuffle"]

_KINDS = ("weight", "rpm", "tpm")
# A draw that hits a resting member is repeated. After this many misses the eligible weight is so small
# a part of the whole that building the exact table is cheaper.
_DRAWS = 12


class SimpleShuffle(Strategy):
    """Random by weight, O(1) without weights, one bisection with them.

    The table of cumulative weights is built once over all members; a draw that lands on a member which
    is not eligible is simply repeated, which leaves the proportions of the others as they are. So
    members that rest and return cost the table nothing.
    """

    name = "simple_shuffle"
    aliases = ("shuffle", "simple-shuffle")
    accepts: ClassVar[frozenset[str] | None] = frozenset()

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._tables: dict[str, list[float]] = {}
        self._exact: tuple[list[float], list[Deployment]] | None = None
        for kind in _KINDS:
            weights = [float(getattr(d, kind) or 0) for d in self.members]
            if any(weights):
                self._tables[kind] = list(accumulate(weights))
        # How many eligible members have each kind above zero.
        self._carriers = dict.fromkeys(self._tables, 0)
        self._table: list[float] | None = None

    def added(self, deployment: Deployment) -> None:
        """Count what weights it carries."""
        if self._tables:
            self._count(deployment, 1)

    def removed(self, deployment: Deployment) -> None:
        """Count what weights are gone with it."""
        if self._tables:
            self._count(deployment, -1)

    def _count(self, deployment: Deployment, step: int) -> None:
        self._exact = None
        self._table = None
        for kind in self._tables:
            if getattr(deployment, kind):
                self._carriers[kind] += step
        for kind, table in self._tables.items():
            if self._carriers[kind]:
                self._table = table
                return

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """One draw; O(1), or one bisection."""
        if ask is not None and (ask.exclude or ask.weights):
            return self.pick_from(self.ready, now, ask)
        ready = self.ready
        if not ready:
            return None
        table = self._table
        if table is None:
            return ready[floor(self.random() * len(ready))]
        total = table[-1]
        members = self.members
        for _ in range(_DRAWS):
            deployment = members[bisect_right(table, self.random() * total)]
            if not deployment.held:
                return deployment
        if self._exact is None:
            kind = next(kind for kind in self._tables if self._carriers[kind])
            self._exact = (list(accumulate(float(getattr(d, kind) or 0) for d in ready)), list(ready))
        sums, owners = self._exact
        return owners[bisect_right(sums, self.random() * sums[-1])]

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """The same rule over any candidates."""
        if ask is not None and ask.weights:
            given = ask.weights
            sums = list(accumulate(float(given.get(d.id) or 0) for d in candidates))
            if sums[-1] > 0:
                return candidates[bisect_right(sums, self.random() * sums[-1])]
        for kind in _KINDS:
            sums = list(accumulate(float(getattr(d, kind) or 0) for d in candidates))
            if sums[-1] > 0:
                return candidates[bisect_right(sums, self.random() * sums[-1])]
        return self.any_of(candidates)
