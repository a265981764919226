"""cost_based: the cheapest deployment with room under its limits (LiteLLM's cost-based-routing).

The price is input plus output per token. A price of 0 is a price; equally cheap ones are equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.ranking import Ranking

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["CostBased"]


class CostBased(Strategy):
    """Cheapest first. O(1) to pick, O(log n) when one comes or goes."""

    name = "cost_based"
    aliases = ("cost", "lowest_cost", "cost-based-routing")
    accepts: ClassVar[frozenset[str] | None] = frozenset()
    respects_limits = True

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._ranking = Ranking(rng)

    def added(self, deployment: Deployment) -> None:
        """Rank it by price."""
        self._ranking.set(deployment, deployment.price)

    def removed(self, deployment: Deployment) -> None:
        """Drop it."""
        self._ranking.discard(deployment)

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """One of the cheapest."""
        best = self._ranking.lowest()
        if best is None or ask is None:
            return best
        if ask.exclude or (ask.tokens and best.tpm is not None and best.minute_tokens + ask.tokens > best.tpm):
            return self.pick_from(self.ready, now, ask)
        return best

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """One of the cheapest candidates."""
        low = min(d.price for d in candidates)
        return self.any_of([d for d in candidates if d.price == low])
