"""How benchmarks take time: CPU time, candidates interleaved round by round, medians over everything.

On a shared machine a slow minute then hits every candidate alike, and the ratio survives what the absolute figures
do not. What is measured here does not wait for anything, so the thread's own CPU time is its cost; the clock on the
wall would count other programs, too.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

_SLICES = 5


def per_call(function: Callable[[], Any], calls: int) -> float:
    """Return the CPU seconds of one call: the median of five slices of `calls`, without garbage collection."""
    gc.collect()
    gc.disable()
    try:
        return statistics.median(_slice(function, max(1, calls // _SLICES)) for _ in range(_SLICES))
    finally:
        gc.enable()


def _slice(function: Callable[[], Any], calls: int) -> float:
    began = time.thread_time()
    for _ in range(calls):
        function()
    return (time.thread_time() - began) / calls


async def per_await(function: Callable[[], Awaitable[Any]], calls: int) -> float:
    """Return the CPU seconds of one awaited call, as `per_call` does."""
    gc.collect()
    gc.disable()
    try:
        return statistics.median([await _slice_async(function, max(1, calls // _SLICES)) for _ in range(_SLICES)])
    finally:
        gc.enable()


async def _slice_async(function: Callable[[], Awaitable[Any]], calls: int) -> float:
    began = time.thread_time()
    for _ in range(calls):
        await function()
    return (time.thread_time() - began) / calls


def interleaved(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Take every candidate's time once a round and return each one's median.

    Args:
        candidates: By name, what takes the time of one call and returns it in seconds.
        rounds: Rounds; an odd number gives a median that was measured.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            taken[name].append(measure())
    return {name: statistics.median(times) for name, times in taken.items()}


def model_list(groups: int, size: int) -> list[dict[str, Any]]:
    """Return LiteLLM deployments: `groups` model groups named group-0 … of `size` deployments each.

    Prices and limits are there, so that cost-based and usage-based strategies have something to look at.
    """
    return [
        {
            "model_name": f"group-{group}",
            "litellm_params": {
                "model": "openai/gpt-4o-mini",
                "api_key": "unused",
                "api_base": f"http://127.0.0.1:9/{group}/{number}",
                "input_cost_per_token": 1e-7 * (1 + number % 7),
                "output_cost_per_token": 4e-7 * (1 + number % 7),
            },
            "model_info": {"id": f"{group}-{number}"},
        }
        for group in range(groups)
        for number in range(size)
    ]
