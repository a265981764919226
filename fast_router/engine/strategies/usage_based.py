"""usage_based: the deployment with the fewest tokens this minute, under its rpm and tpm limits.

LiteLLM's usage-based-routing (v1 and v2). Minutes are those of the wall clock, as its counters are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.ranking import Ranking

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["UsageBased"]


class UsageBased(Strategy):
    """Least used first. O(log n); the engine's change of minute reaches it through `observed`."""

    name = "usage_based"
    aliases = ("usage", "usage-based-routing", "usage-based-routing-v2", "usage_based_routing_v2")
    accepts: ClassVar[frozenset[str] | None] = frozenset()
    follows_latency = True
    respects_limits = True

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._ranking = Ranking(rng)

    def added(self, deployment: Deployment) -> None:
        """Rank it by its tokens this minute."""
        self._ranking.set(deployment, deployment.minute_tokens)

    def removed(self, deployment: Deployment) -> None:
        """Drop it."""
        self._ranking.discard(deployment)

    def observed(self, deployment: Deployment) -> None:
        """Its tokens changed."""
        if deployment in self._ranking:
            self._ranking.set(deployment, deployment.minute_tokens)

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """One of the least used."""
        best = self._ranking.lowest()
        if best is None or ask is None:
            return best
        if ask.exclude or (ask.tokens and best.tpm is not None and best.minute_tokens + ask.tokens > best.tpm):
            return self.pick_from(self.ready, now, ask)
        return best

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """One of the least used candidates."""
        low = min(d.minute_tokens for d in candidates)
        return self.any_of([d for d in candidates if d.minute_tokens == low])
