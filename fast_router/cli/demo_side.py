"""One side of `fast-router demo`, in a process of its own: LiteLLM's Router under one strategy, with or without us.

A process each, because Routers leave callbacks and caches behind in LiteLLM's global lists; the second run of one
process would pay for the first. Reads one line of JSON (whom to ask), says `{"ready": true}` when LiteLLM is loaded
and warm; then answers lines: `{"calibrate": n}` with `{"throughput": requests a second}`, `{"go": load}`, once for
each turn, with `{"over": n}` as requests end and `{"turn": "over"}`, and `{"finish": true}` with `{"result": {...}}`.
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
from collections import Counter
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

import fast_router
from fast_router.testing.load import Arrival, Outcome, arrivals, drive

GROUP = "demo-chat"
_PICKS = 400
_BURST = 40
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
    """Median seconds of one pick, through the method that LiteLLM has for it."""
    # From 1.110 on the older name warns of its end at every call, which takes longer than a pick.
    pick = getattr(router, "select", None) or router.async_get_available_deployment
    messages = [{"role": "user", "content": "Where does this go?"}]
    costs = []
    for _ in range(_PICKS):
        began = time.perf_counter()
        await pick(model=GROUP, request_kwargs={}, messages=messages)
        costs.append(time.perf_counter() - began)
    return statistics.median(costs)


async def _burst(url: str, names: Sequence[str], strategy: str) -> list[int]:
    """How many of 40 calls at once go to each of four idle deployments (all of them at the server `url`)."""
    router = _router(dict.fromkeys(names, url), strategy)
    answers = await asyncio.gather(*(_ask(router, Arrival(number, 0.0, False)) for number in range(_BURST)))
    went = Counter(answer._hidden_params["model_id"] for answer in answers)
    return sorted((went[name] for name in names), reverse=True)


async def _side(orders: dict[str, Any]) -> None:
    warm = _router({"warm-up": orders["warm_up"]}, orders["strategy"])
    run = _Run(orders)
    await drive(lambda one: _ask(warm, one), arrivals(_WARM_UP, 100, stream_share=0.5))
    _say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        wish = json.loads(line)
        if "calibrate" in wish:
            _say({"throughput": await _throughput(warm, wish["calibrate"], wish["stream"])})
        elif "go" in wish:
            await run.turn(wish["go"])
            _say({"turn": "over"})
        else:
            _say({"result": await run.finish()})


async def _throughput(router: litellm.Router, requests: int, stream: float) -> float:
    """Requests a second that this process manages, ten at a time, of a server that answers at once."""
    coming = iter(arrivals(requests, 1, stream_share=stream))

    async def one_after_the_other() -> None:
        for arrival in coming:
            answer = await _ask(router, arrival)
            if arrival.stream:
                async for _ in answer:
                    pass

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(10)))
    return requests / (time.perf_counter() - began)


class _Run:
    """The turns of this side: one Router, one outcome."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders
        self.router = _router(orders["urls"], orders["strategy"])
        self.outcome = Outcome()
        self.requests = 0
        self.busy = 0.0

    async def turn(self, load: dict[str, Any]) -> None:
        """Send one turn's requests."""
        random.seed(load["seed"])  # LiteLLM's own random picks
        coming = arrivals(load["requests"], load["rate"], stream_share=load["stream"], seed=load["seed"])
        before = self.requests
        busy = time.process_time()
        self.outcome.add(
            await drive(lambda one: _ask(self.router, one), coming, lambda over: _say({"over": before + over}))
        )
        self.busy += time.process_time() - busy
        self.requests += len(coming)

    async def finish(self) -> dict[str, Any]:
        """Time picks, and give what was measured in all turns."""
        # A fresh Router for the stop-watch: cooldowns of the run must not make its picks easier or harder.
        pick = await _pick_cost(_router(self.orders["urls"], self.orders["strategy"]))
        burst = await _burst(self.orders["warm_up"], list(self.orders["urls"]), self.orders["strategy"])
        cost = {"pick_seconds": pick, "cpu_seconds": self.busy / max(1, self.requests), "burst": burst}
        result = self.outcome.as_dict() | cost
        status = fast_router.status()
        shown = ("picks", "lane", "litellm") if self.orders["plugin"] else ()
        return result | {key: status[key] for key in shown}


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
