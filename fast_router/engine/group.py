"""A model group: the deployments that share a name, in tiers by order, each tier with its own strategy object.

Eligibility is kept when something changes (see `Engine`), so a pick looks at one tier only: the first that
has anybody eligible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.engine.strategies import strategy_class
from fast_router.engine.strategies.split import Split

if TYPE_CHECKING:
    from fast_router.engine.ask import Ask, Rng
    from fast_router.engine.deployment import Deployment
    from fast_router.engine.strategies.base import Strategy
    from fast_router.engine.strategies.split import Contender

__all__ = ["ModelGroup"]


class ModelGroup:
    """Deployments among which a model name is picked.

    Args:
        name: The model name as requests say it.
        members: Every deployment of the group, in model-list order.
        strategy: A strategy's name.
        rng: The source of chance.
        options: The strategy's options.
        contender: What is tried beside it, None for nothing; one that is the same is nothing.

    Attributes:
        reads_prompts: Whether a pick looks at the prompt.
        reads_sessions: Whether it looks at the session.
        reads_streams: Whether it looks at whether the answer is streamed.

    Raises:
        UnknownStrategyError: Nobody registered `strategy`, or the contender's.
    """

    __slots__ = (
        "contender", "members", "name", "names", "only", "options", "reads_prompts", "reads_sessions", "reads_streams",
        "strategy", "tiers",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        members: Sequence[Deployment],
        strategy: str,
        rng: Rng,
        options: Mapping[str, Any] | None = None,
        contender: Contender | None = None,
    ) -> None:
        cls = strategy_class(strategy)
        self.name = name
        self.members = tuple(members)
        # More than one, where a wildcard or an alias of several models is asked for.
        self.names = frozenset(member.name for member in self.members)
        self.strategy = cls.name
        self.options = dict(options or {})
        # Lower order first; those without one come last, as in LiteLLM's order filter.
        orders = sorted({d.order for d in self.members if d.order is not None})
        tiers: list[int | None] = [*orders]
        if not orders or any(d.order is None for d in self.members):
            tiers.append(None)
        self.tiers: dict[int | None, Strategy] = {
            order: cls([d for d in self.members if d.order == order], rng, self.options) for order in tiers
        }
        self.contender = contender
        picking = [self.strategy]
        if contender is not None and (contender.strategy, contender.options) != (self.strategy, self.options):
            other = strategy_class(contender.strategy)
            picking.append(other.name)
            self.tiers = {
                order: Split(tier, other(tier.members, rng, contender.options), contender.is_new)
                for order, tier in self.tiers.items()
            }
        self.reads_sessions = any(name.endswith("_affinity") for name in picking)
        self.reads_streams = "latency_based" in picking
        self.reads_prompts = any(tier.reads_prompts for tier in self.tiers.values())
        # The one strategy of a group without order tiers, for the shortest way through a pick.
        self.only: Strategy | None = next(iter(self.tiers.values())) if tiers == [None] else None

    def pick(self, now: float, ask: Ask | None = None) -> Deployment | None:
        """The deployment for the next attempt, None if none is eligible; the engine's lock is held."""
        if ask is not None and ask.order is not None:
            tier = self.tiers.get(ask.order)
            return None if tier is None else tier.pick(now, ask)
        for tier in self.tiers.values():
            if tier.ready:
                deployment = tier.pick(now, ask)
                if deployment is not None:
                    return deployment
        return None

    def pick_from(self, candidates: Sequence[Deployment], now: float, ask: Ask | None = None) -> Deployment | None:
        """The same choice among candidates filtered by somebody else, O(k); tiers are the caller's affair."""
        if not candidates:
            return None
        tier = self.tiers.get(candidates[0].order)
        return (tier or next(iter(self.tiers.values()))).pick_from(candidates, now, ask)

    def eligible(self) -> list[Deployment]:
        """Everybody who may be picked now, in model-list order."""
        return [d for d in self.members if not d.held]

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"<ModelGroup {self.name!r}: {len(self.eligible())} of {len(self.members)} eligible, {self.strategy}>"
