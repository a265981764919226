"""One process of benchmarks.redis: a litellm.Router with Redis under a steady load, with the plugin or without.

Told what to do by one line of JSON on stdin, it answers with lines of JSON: `ready`, then one `view` every 20 ms if
asked for (monotonic time, own leases, load known from elsewhere), then `done` with what happened to each request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

PLUGIN = os.environ.get("FAST_ROUTER_ENABLED", "1") != "0"
if PLUGIN:
    import fast_router
    import fast_router.cluster

MESSAGES = [{"role": "user", "content": "How busy are you?"}]
log_lines: list[str] = []


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Keep what would have been a line."""
        log_lines.append(record.getMessage())


def say(**message: Any) -> None:
    """Answer one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def make_router(order: dict[str, Any]) -> litellm.Router:
    """The Router that the order describes."""
    limits = {"rpm": 1_000_000, "tpm": 1_000_000_000} if order["limits"] else {}
    return litellm.Router(
        model_list=[
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/test-model", "api_base": base, "api_key": "none", **limits},
                "model_info": {"id": f"d{number}"},
            }
            for number, base in enumerate(order["bases"])
        ],
        routing_strategy=order["strategy"],
        redis_host="127.0.0.1",
        redis_port=order["port"],
        num_retries=order["retries"],
    )


async def direct(order: dict[str, Any]) -> None:
    """The same without LiteLLM: an AdvancedRouter, and sleep in the place of calls."""
    router = fast_router.AdvancedRouter(
        order["strategy"],
        model_list=[{"model_name": "m", "id": f"d{number}"} for number in range(len(order["bases"]))],
    )
    state = fast_router.cluster.attach(router, url=f"redis://127.0.0.1:{order['port']}/0")
    while not state.connected:
        await asyncio.sleep(0.01)
    results: list[tuple[float, float, str]] = []

    async def one(due: float) -> None:
        async with router.lease("m"):
            await asyncio.sleep(0.02)
        results.append((due, time.monotonic() - due, ""))

    say(ready=os.getpid())
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    tasks = []
    for number in range(int(order["rate"] * order["seconds"])):
        await asyncio.sleep(max(0.0, began + number / order["rate"] - time.monotonic()))
        tasks.append(asyncio.create_task(one(time.monotonic())))
    await asyncio.gather(*tasks)
    say(done=len(results), seconds=time.monotonic() - began, results=results, lines=0, sample=[])
    state.close()


async def serve(order: dict[str, Any]) -> None:
    """Send `order["rate"]` requests a second for `order["seconds"]`, each on time whatever the others do."""
    router = make_router(order)
    ours = fast_router.advanced_router(router) if PLUGIN else None
    results: list[tuple[float, float, str]] = []

    async def one(due: float) -> None:
        name = ""
        try:
            await router.acompletion("m", messages=MESSAGES)
        except Exception as error:
            name = type(error).__name__
        results.append((due, time.monotonic() - due, name))

    async def load(seconds: float) -> None:
        tasks = []
        begin = time.monotonic()
        for number in range(int(order["rate"] * seconds)):
            due = begin + number / order["rate"]
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(one(time.monotonic())))
        await asyncio.gather(*tasks)

    # Warm up: clients, connections, and, with the plugin, the shared state's own start.
    await load(2.0)
    end = time.monotonic() + 10.0
    while ours is not None and time.monotonic() < end:
        state = fast_router.cluster.state_of(ours)
        if state is not None and state.connected:
            break
        await load(0.2)
    results.clear()
    log_lines.clear()
    say(ready=os.getpid())
    await asyncio.to_thread(sys.stdin.readline)
    watcher = asyncio.create_task(watch(ours)) if order["watch"] and ours is not None else None
    began = time.monotonic()
    await load(order["seconds"])
    if watcher is not None:
        watcher.cancel()
    state = fast_router.cluster.state_of(ours) if ours is not None else None
    say(
        done=len(results),
        seconds=time.monotonic() - began,
        results=results,
        status=state.status() if state is not None else None,
        lines=len(log_lines),
        sample=log_lines[:5],
    )


async def watch(ours: Any) -> None:
    """Say every 20 ms what this process holds and what it believes the others hold."""
    while True:
        deployments = list(ours.deployments.values())
        say(view=[time.monotonic(), sum(d.in_flight for d in deployments), sum(d.outside for d in deployments)])
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    logging.getLogger().addHandler(_Lines(level=logging.WARNING))
    wanted = json.loads(sys.stdin.readline())
    asyncio.run((direct if wanted["direct"] else serve)(wanted))
