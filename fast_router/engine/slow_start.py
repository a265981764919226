"""Slow start: the share of a deployment that has just come back grows instead of jumping (Envoy's, linear)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine.ask import Ask, Rng

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.group import ModelGroup

__all__ = ["begin", "instead_of"]

_FLOOR = 0.1


class Ramps(Protocol):
    """The part of the engine that slow start needs."""

    clock: Callable[[], float]
    rng: Rng

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards every change."""
        ...


def begin(engine: Ramps, deployment: Deployment, seconds: float) -> None:
    """Let the share of `deployment` ramp up over `seconds` from now."""
    with engine.lock:
        deployment.slow_from = engine.clock()
        deployment.slow_until = deployment.slow_from + seconds
        deployment.refresh()


def instead_of(
    engine: Ramps,
    deployment: Deployment,
    group: ModelGroup,
    now: float,
    ask: Ask | None,
    candidates: Sequence[Deployment] | None = None,
) -> Deployment:
    """Who takes the turn of `deployment`, which is starting slowly: itself, or a second pick of its group.

    With `candidates` that second pick is made among them. A turn is passed on once; a group in which all are starting
    serves nobody less by that.
    """
    if now >= deployment.slow_until:
        deployment.slow_until = 0.0
        deployment.refresh()
        return deployment
    share = (now - deployment.slow_from) / (deployment.slow_until - deployment.slow_from)
    if engine.rng.random() < max(_FLOOR, share):
        return deployment
    exclude = {deployment.id, *(ask.exclude if ask is not None else ())}
    again = (
        Ask(exclude)
        if ask is None
        else Ask(exclude, ask.tokens, ask.stream, ask.key, ask.weights, ask.order, ask.prompt)
    )
    second = group.pick(now, again) if candidates is None else group.pick_from(candidates, now, again)
    return deployment if second is None or second.order != deployment.order else second
