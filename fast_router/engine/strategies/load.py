"""What a deployment has in flight: calls, or with the option `load: tokens` the prompt tokens it has yet to compute.

Prompts differ a hundredfold in length: a server with three long ones is not as free as one with three short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.engine.prefix_cache.fleet import Fleet
from fast_router.engine.prefix_cache.work import Work
from fast_router.errors import ConfigurationError, in_words

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["Load", "calls", "load_of"]

Load = Callable[["Deployment"], float]


def load_of(members: Sequence[Deployment], options: Mapping[str, Any]) -> Load:
    """How load is counted, by the option `load`.

    Args:
        members: Every deployment of the tier; from now on they keep what that needs.
        options: Of the strategy.

    Raises:
        ConfigurationError: It is neither `calls` nor `tokens`.
    """
    wanted = options.get("load") or "calls"
    if wanted not in ("calls", "tokens"):
        msg = f"load is {in_words(wanted)}: give tokens to weigh servers by prompt tokens, or calls"
        raise ConfigurationError(msg)
    if wanted == "calls":
        return calls
    new = [d for d in members if d.work is None]
    if new:
        fleet = Fleet({})
        for deployment in new:
            deployment.work = Work(deployment, fleet)
        fleet.members([d.work for d in new])
    return _prompts


def calls(deployment: Deployment) -> float:
    """Calls in flight, here and elsewhere."""
    return deployment.in_flight + deployment.outside


def _prompts(deployment: Deployment) -> float:
    """Tokens of prompts whose first token has not come yet, and among equals the calls in flight."""
    tokens: float = deployment.work.backlog.tokens
    return tokens + deployment.in_flight + deployment.outside
