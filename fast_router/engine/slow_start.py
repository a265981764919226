"""Slow start: the share of a deployment that has just come back grows instead of jumping (Envoy's, linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_router.engine.strategies.base import Ask

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine
    from fast_router.engine.group import ModelGroup

__all__ = ["begin", "instead_of"]

_FLOOR = 0.1


def begin(engine: Engine, deployment: Deployment, seconds: float) -> None:
    """Let the share of `deployment` ramp up over `seconds` from now."""
    with engine.lock:
        deployment.slow_from = engine.clock()
        deployment.slow_until = deployment.slow_from + seconds
        deployment.refresh()


def instead_of(engine: Engine, deployment: Deployment, group: ModelGroup, now: float, ask: Ask | None) -> Deployment:
    """Who takes the turn of `deployment`, which is starting slowly: itself, or a second pick of its group.

    A turn is passed on once; a group in which all are starting serves nobody less by that.
    """
    if now >= deployment.slow_until:
        deployment.slow_until = 0.0
        deployment.refresh()
        return deployment
    share = (now - deployment.slow_from) / (deployment.slow_until - deployment.slow_from)
    if engine.rng.random() < max(_FLOOR, share):
        return deployment
    exclude = {deployment.id, *(ask.exclude if ask is not None else ())}
    second = group.pick(
        now,
        Ask(exclude)
        if ask is None
        else Ask(exclude, ask.tokens, ask.stream, ask.key, ask.weights, ask.order, ask.prompt),
    )
    return deployment if second is None or second.order != deployment.order else second
