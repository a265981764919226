"""What others know of the same deployments: other processes, a server's own metrics.

It arrives in the background, as a whole or as a sum since the last time, and is kept apart from what this process has
seen itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fast_router.engine.learning import average

if TYPE_CHECKING:
    from fast_router.engine.engine import Engine

__all__ = ["add_usage", "set_latencies", "set_loads"]


def set_loads(engine: Engine, loads: Mapping[str, float]) -> None:
    """Take over the load known from elsewhere, by deployment id, in requests; unnamed ones stay."""
    with engine.lock:
        for id_, load in loads.items():
            deployment = engine.deployments.get(id_)
            if deployment is not None and deployment.outside != load:
                deployment.outside = max(0.0, load)
                for strategy in deployment.counters:
                    strategy.moved(deployment)


def add_usage(engine: Engine, usage: Mapping[str, tuple[float, float]]) -> None:
    """Count requests and tokens that other processes used since the last call, by deployment id."""
    now = engine.clock()
    with engine.lock:
        engine._settle(now)
        for id_, (requests, tokens) in usage.items():
            deployment = engine.deployments.get(id_)
            if deployment is not None:
                deployment.outside_requests += requests
                deployment.outside_tokens += tokens
                engine._count(deployment, requests, tokens)


def set_latencies(engine: Engine, digests: Mapping[str, tuple[float, float, float, float]]) -> None:
    """Take over what other processes know of latencies, by deployment id.

    Args:
        engine: Whose deployments.
        digests: Seconds (a token) and its number of samples, seconds to the first token and its number of
            samples. They are averaged with this process's own samples.
    """
    with engine.lock:
        for id_, digest in digests.items():
            deployment = engine.deployments.get(id_)
            if deployment is not None and deployment.outside_latency != digest:
                deployment.outside_latency = digest if digest[1] or digest[3] else None
                average(deployment)
                for strategy in deployment.strategies:
                    if strategy.follows_latency:
                        strategy.observed(deployment)
