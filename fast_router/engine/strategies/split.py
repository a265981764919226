"""Two strategies over the same deployments, for an experiment: each request goes by that of its arm.

Both are told all that the engine tells a strategy, so each is at any moment what it would be alone; they differ in whom
they pick and in nothing else. Not in the registry: it has no name to be asked for by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_router.engine.ask import Ask
from fast_router.engine.strategies.base import Strategy

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["Contender", "Split"]


class Contender(NamedTuple):
    """The strategy that is tried beside the one that a group has.

    Attributes:
        strategy: Its canonical name.
        options: Its options.
        is_new: Tells whether the request that is picked for goes by it; called under the engine's lock.
    """

    strategy: str
    options: Mapping[str, Any]
    is_new: Callable[[], bool]


class Split(Strategy):
    """One of two strategies at each pick.

    Args:
        old: The one that is compared with.
        new: The one that is tried, over the same members.
        is_new: As in `Contender`.
    """

    def __init__(self, old: Strategy, new: Strategy, is_new: Callable[[], bool]) -> None:
        super().__init__(old.members, old.rng, old.options)
        self.old, self.new = old, new
        self._both = (old, new)
        self._is_new = is_new
        self.follows_load = old.follows_load or new.follows_load
        self.follows_latency = old.follows_latency or new.follows_latency
        self.reads_prompts = old.reads_prompts or new.reads_prompts
        # Whose limit is used up is held for all: that is kept per deployment.
        self.respects_limits = old.respects_limits or new.respects_limits

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """The pick of the arm's strategy."""
        return (self.new if self._is_new() else self.old).pick(now, ask)

    def pick_from(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment | None:
        """The same among candidates that somebody else filtered."""
        return (self.new if self._is_new() else self.old).pick_from(candidates, now, ask)

    def added(self, deployment: Deployment) -> None:
        """Tell both."""
        for strategy in self._both:
            strategy.add(deployment)

    def removed(self, deployment: Deployment) -> None:
        """Tell both."""
        for strategy in self._both:
            strategy.remove(deployment)

    def moved(self, deployment: Deployment) -> None:
        """Tell who follows that."""
        for strategy in self._both:
            if strategy.follows_load:
                strategy.moved(deployment)

    def observed(self, deployment: Deployment) -> None:
        """Tell who follows that."""
        for strategy in self._both:
            if strategy.follows_latency:
                strategy.observed(deployment)

    def resume(self, previous: Strategy) -> None:
        """Each goes on where its like was."""
        for strategy in self._both:
            strategy.resume(previous)

    def parts(self) -> Sequence[Strategy]:
        """Both."""
        return self._both
