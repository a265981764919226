"""latency_based: the lowest mean latency, random within the buffer (LiteLLM's latency-based-routing).

The mean of the last ten samples, in seconds per completion token; for a streamed request the time to the
first token where it is known. An unknown deployment is probed by one call, and not again until it answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.ranking import Ranking

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["LatencyBased"]


class LatencyBased(Strategy):
    """Lowest average. O(log n).

    Options:
        lowest_latency_buffer: Share above the lowest that still counts as lowest (0.1 = 10 %), default 0.
    """

    name = "latency_based"
    aliases = ("latency", "lowest_latency", "latency-based-routing")
    accepts: ClassVar[frozenset[str] | None] = frozenset({"lowest_latency_buffer"})
    follows_load = True
    follows_latency = True
    respects_limits = True

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._buffer = float(options.get("lowest_latency_buffer") or 0.0)
        self._whole = Ranking(rng)
        self._first = Ranking(rng)
        # Members nobody has heard from: those not called yet (to be probed), and those whose probe is out.
        self._fresh = Ranking(rng)
        self._probed = Ranking(rng)

    def added(self, deployment: Deployment) -> None:
        """Rank it, or have it probed."""
        self.observed(deployment)

    def removed(self, deployment: Deployment) -> None:
        """Drop it from every ranking."""
        for ranking in (self._whole, self._first, self._fresh, self._probed):
            ranking.discard(deployment)

    def moved(self, deployment: Deployment) -> None:
        """An unknown member was called, or its probe came to nothing."""
        if deployment.latency is None and deployment in self._at:
            self._seat_unknown(deployment)

    def observed(self, deployment: Deployment) -> None:
        """Rank it anew."""
        if deployment not in self._at:
            return
        latency = deployment.latency
        if latency is None:
            self._whole.discard(deployment)
            self._first.discard(deployment)
            self._seat_unknown(deployment)
            return
        self._fresh.discard(deployment)
        self._probed.discard(deployment)
        self._whole.set(deployment, latency)
        first = deployment.first_token
        self._first.set(deployment, latency if first is None else first)

    def _seat_unknown(self, deployment: Deployment) -> None:
        if deployment.in_flight:
            self._fresh.discard(deployment)
            self._probed.set(deployment, deployment.in_flight)
        else:
            self._probed.discard(deployment)
            # A member whose probes fail falls behind the others that are still unknown.
            self._fresh.set(deployment, deployment.failures)

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """A probe if one is due, else one of the fastest."""
        ranking = self._whole
        if ask is not None:
            if ask.exclude:
                return self.pick_from(self.ready, now, ask)
            if ask.stream:
                ranking = self._first
        best = self._fresh.lowest() or ranking.lowest(self._buffer) or self._probed.lowest()
        if (
            best is not None
            and ask is not None
            and ask.tokens
            and best.tpm is not None
            and best.minute_tokens + ask.tokens > best.tpm
        ):
            return self.pick_from(self.ready, now, ask)
        return best

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """The same rule over any candidates."""
        stream = ask is not None and ask.stream
        fresh = [d for d in candidates if d.latency is None and not d.in_flight]
        if fresh:
            fewest = min(d.failures for d in fresh)
            return self.any_of([d for d in fresh if d.failures == fewest])
        known = [(_score(d, stream=stream), d) for d in candidates if d.latency is not None]
        if not known:
            fewest = min(d.in_flight for d in candidates)
            return self.any_of([d for d in candidates if d.in_flight == fewest])
        low = min(score for score, _ in known)
        bound = low + self._buffer * low
        return self.any_of([d for score, d in known if score <= bound])


def _score(deployment: Deployment, *, stream: bool) -> float:
    if stream and deployment.first_token is not None:
        return deployment.first_token
    return deployment.latency or 0.0
