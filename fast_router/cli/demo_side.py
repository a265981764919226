"""One side of `fast-router demo`, in a process of its own: LiteLLM's Router under one strategy, with or without us.

A process each, because Routers leave callbacks and caches behind in LiteLLM's global lists; the second run of one
process would pay for the first. Reads one line of JSON (what to do), says `{"ready": true}` when LiteLLM is loaded
and warm, waits for a line, then prints `{"over": n}` as requests end and finally `{"result": {...}}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

import fast_router
from fast_router.testing.load import Arrival, arrivals, drive

GROUP = "demo-chat"
_PICKS = 400
_WARM_UP = 12


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _router(urls: dict[str, str], strategy: str) -> litellm.Router:
    model_list = [
        {
            "model_name": GROUP,
            "litellm_params": {"model": "openai/demo", "api_base": url, "api_key": "unused"},
            "model_info": {"id": name},
        }
        for name, url in urls.items()
    ]
    return litellm.Router(model_list=model_list, routing_strategy=strategy, num_retries=2, timeout=10)


async def _ask(router: litellm.Router, arrival: Arrival) -> Any:
    return await router.acompletion(
        model=GROUP,
        messages=[{"role": "user", "content": f"Where does request {arrival.number} go?"}],
        stream=arrival.stream,
    )


async def _pick_cost(router: litellm.Router) -> float:
    """Median seconds of one pick, through the method that LiteLLM itself calls for every attempt."""
    messages = [{"role": "user", "content": "Where does this go?"}]
    costs = []
    for _ in range(_PICKS):
        began = time.perf_counter()
        await router.async_get_available_deployment(model=GROUP, request_kwargs={}, messages=messages)
        costs.append(time.perf_counter() - began)
    return statistics.median(costs)


async def _side(orders: dict[str, Any]) -> None:
    random.seed(orders["seed"])  # LiteLLM's own random picks
    warm = _router({"warm-up": orders["warm_up"]}, orders["strategy"])
    await drive(lambda one: _ask(warm, one), arrivals(_WARM_UP, 100, stream_share=0.5))
    warm.discard()
    _say({"ready": True})
    await asyncio.to_thread(sys.stdin.readline)

    router = _router(orders["urls"], orders["strategy"])
    coming = arrivals(orders["requests"], orders["rate"], stream_share=orders["stream"], seed=orders["seed"])
    outcome = await drive(lambda one: _ask(router, one), coming, lambda over: _say({"over": over}))
    # A fresh Router for the stop-watch: cooldowns of the run must not make its picks easier or harder.
    result = outcome.as_dict() | {"pick_seconds": await _pick_cost(_router(orders["urls"], orders["strategy"]))}
    if orders["plugin"]:
        status = fast_router.status()
        result["picks"] = status.get("picks", {})
        result["litellm"] = status.get("litellm")
    _say({"result": result})


def main() -> None:
    """Read the orders and carry them out."""
    orders = json.loads(sys.stdin.readline())
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # FAST_ROUTER_ENABLED in the environment has decided before LiteLLM was imported; a table that compares LiteLLM
    # with itself would be worse than none.
    enabled = fast_router.status()["enabled"]
    if enabled is not orders["plugin"]:
        raise SystemExit(f"fast_router is {'on' if enabled else 'off'}, against orders: {fast_router.status()}")
    asyncio.run(_side(orders))


if __name__ == "__main__":
    main()
