"""How long a deployment takes: a few real requests to each, one after the other, through LiteLLM."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from fast_router.errors import ConfigurationError

__all__ = ["latencies"]

_PROMPT = "Reply with one short sentence."
_TOKENS = 32


def latencies(
    entries: list[dict[str, Any]], ids: list[str], requests: int, progress: Callable[[], None]
) -> dict[str, tuple[float, float]]:
    """Time a few requests to each deployment.

    Args:
        entries: The deployments, as LiteLLM's YAML has them.
        ids: Their names.
        requests: So many each; the first is a warm-up that is not counted, if there are others.
        progress: Called after each.

    Returns:
        By name: the median in seconds, and the standard deviation of the logarithm.

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
        found = {}
        for name, entry in zip(ids, entries, strict=True):
            alone = {"model_name": "measured", "litellm_params": entry.get("litellm_params") or {}}
            taken = []
            try:
                router = litellm.Router(model_list=[alone], num_retries=0)
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
            counted = taken[1:] or taken
            logs = [math.log(max(seconds, 1e-6)) for seconds in counted]
            found[name] = (statistics.median(counted), round(statistics.pstdev(logs), 3))
        return found

    return asyncio.run(every())
