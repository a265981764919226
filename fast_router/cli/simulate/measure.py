"""How long a deployment takes: a few real requests to each, one after the other, through LiteLLM."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from fast_router.errors import ConfigurationError

__all__ = ["SPREAD", "latencies"]

_PROMPT = "Reply with one short sentence."
_TOKENS = 32
SPREAD = 0.3
"""Standard deviation of the logarithm of a latency where it is not known."""
_WARM_UP = 2  # LiteLLM's first two calls load what the others find: seconds, on a busy machine
_ENOUGH = 9  # requests that tell a spread
_NORMAL = 1.4826  # standard deviation of a normal distribution, in median absolute deviations


def latencies(
    entries: list[dict[str, Any]], ids: list[str], requests: int, progress: Callable[[], None]
) -> dict[str, tuple[float, float]]:
    """Time a few requests to each deployment.

    Args:
        entries: The deployments, as LiteLLM's YAML has them.
        ids: Their names.
        requests: So many each; the first is a warm-up that is not counted, if there are others. The first deployment
            gets two more before, for what LiteLLM loads at its first calls.
        progress: Called after each.

    Returns:
        By name: the median in seconds, and the standard deviation of the logarithm (0.3 where the requests are too
        few to tell).

    Raises:
        ConfigurationError: A deployment does not answer, or is none for chat or embeddings; the message names it.
    """
    import litellm  # noqa: PLC0415

    async def one(router: Any, entry: dict[str, Any]) -> float:
        began = time.perf_counter()
        if (entry.get("model_info") or {}).get("mode") == "embedding":
            await router.aembedding(model="measured", input=[_PROMPT])
        else:
            messages = [{"role": "user", "content": _PROMPT}]
            await router.acompletion(model="measured", messages=messages, max_tokens=_TOKENS)
        return time.perf_counter() - began

    async def every() -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        for name, entry in zip(ids, entries, strict=True):
            alone = {"model_name": "measured", "litellm_params": entry.get("litellm_params") or {}}
            taken = []
            try:
                router = litellm.Router(model_list=[alone], num_retries=0)
                for _ in range(0 if found else _WARM_UP):
                    await one(router, entry)
                for _ in range(requests):
                    taken.append(await one(router, entry))
                    progress()
            except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises, it cannot be measured
                # The type alone: a provider's message may quote the key.
                msg = (
                    f"{name} cannot be measured ({type(error).__name__}); give its model_info.simulate.latency, or "
                    "--latency for all that have none"
                )
                raise ConfigurationError(msg) from None
            found[name] = _typical(taken[1:] or taken)
        return found

    return asyncio.run(every())


def _typical(taken: list[float]) -> tuple[float, float]:
    median = statistics.median(taken)
    if len(taken) < _ENOUGH:
        return median, SPREAD
    # From the median deviation: one slow answer (a connection that is made, a model that is loaded) is no spread.
    deviation = statistics.median(abs(math.log(max(seconds, 1e-6) / max(median, 1e-6))) for seconds in taken)
    return median, round(_NORMAL * deviation, 3)
