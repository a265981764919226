"""Agents through litellm.Router over real HTTP: cache_aware beside least-busy, ours and LiteLLM's own.

Four vLLM-shaped servers with real prefix caches in a process of their own (`fast_router.testing`). What was cached is
read from the servers' own counters. Runs are interleaved, each with servers that have just started. Where there are two
Routers each gets half of the calls; they share state over a real Redis, or nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from dataclasses import replace

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm

import fast_router
from benchmarks.report import Report
from fast_router import cluster
from fast_router.testing import Behaviour, Fleet, Spec
from fast_router.testing.agents import Agents, Turns, work
from fast_router.testing.load import percentile
from fast_router.testing.servers import RedisServer

TWO = "two, over Redis"
ALONE = "two, without"
SIDES = ("LiteLLM least-busy", "least-busy", "cache_aware", TWO, ALONE)
# Slow enough that what is measured is the servers' work, not the client's.
SERVER = Behaviour(prefill_rate=1500, prefill_latency=0.02, per_token=0.02, tokens=24, cache_blocks=6000)


def router(fleet: Fleet, strategy: str) -> litellm.Router:
    """A Router over the fleet."""
    return litellm.Router(
        model_list=[
            {
                "model_name": "agents",
                "litellm_params": {"model": "hosted_vllm/test-model", "api_base": one.api_base, "api_key": "none"},
                "model_info": {"id": name},
            }
            for name, one in fleet.items()
        ],
        routing_strategy=strategy,
        num_retries=0,
    )


async def run(fleet: Fleet, side: str, agents: Agents, redis: str) -> Turns:
    """Let the agents work through a new Router, or two."""
    two = side in (TWO, ALONE)
    strategy = "cache_aware" if two else side.removeprefix("LiteLLM ")
    routers = [router(fleet, strategy) for _ in range(2 if two else 1)]
    states = []
    if side == TWO:
        for one in routers:
            advanced = fast_router.advanced_router(one)
            assert advanced is not None
            states.append(cluster.attach(advanced, url=redis))
        while not all(state.status()["instances"] for state in states):
            await asyncio.sleep(0.05)
    chance = random.Random(agents.seed)

    async def call(**body):
        one = chance.choice(routers)
        return await one.acompletion(model="agents", stream=True, stream_options={"include_usage": True}, **body)

    try:
        return await work(call, agents)
    finally:
        for state in states:
            state.close()


def measured(side: str, agents: Agents, servers: int, redis: str) -> tuple[Turns, float]:
    """One run of one side: what its callers saw, and the share of prompt tokens that the servers had cached."""
    litellms = side.startswith("LiteLLM ")
    (fast_router.disable if litellms else fast_router.enable)()
    specs = [Spec("vllm", name=f"gpu-{number}", behaviour=SERVER) for number in range(servers)]
    with Fleet(specs, subprocess=True) as fleet:
        turns = asyncio.run(run(fleet, side, agents, redis))
        seen = [one.records for one in fleet.values()]
    return turns, sum(one.cached_tokens for one in seen) / max(1, sum(one.prompt_tokens for one in seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=8)
    arguments = parser.parse_args()
    agents = Agents(sessions=arguments.sessions, turns=8, pause=1.0)
    waits: dict[str, list[float]] = {side: [] for side in SIDES}
    hits: dict[str, list[float]] = {side: [] for side in SIDES}
    failures = dict.fromkeys(SIDES, 0)
    best = 0.0
    # LiteLLM's first calls load what the later ones find; nobody's figures should hold that.
    measured(SIDES[0], Agents(sessions=2, turns=1, system=100), 1, "")
    with RedisServer() as redis:
        for number in range(arguments.rounds):
            for side in SIDES:
                turns, hit = measured(side, replace(agents, seed=agents.seed + number), arguments.servers, redis.url)
                waits[side] += turns.first_tokens
                hits[side].append(hit)
                failures[side] += len(turns.failures)
                best = turns.best
    report = Report(
        "cache_http",
        f"{agents.sessions} agents of {agents.turns} turns over HTTP, {arguments.servers} servers",
        [
            "strategy",
            "hit share",
            "of the best",
            "first token p50 s",
            "p90 s",
            "p99 s",
            "p50 × cache_aware's",
            "failed",
        ],
        [f"The best hit share is {best:.2f}: what one server with an endless cache would find."],
    )
    ours = percentile(waits["cache_aware"], 50) or 1.0
    for side in SIDES:
        share = sum(hits[side]) / len(hits[side])
        p50, p90, p99 = (percentile(waits[side], rank) or 0.0 for rank in (50, 90, 99))
        report.add(side, share, share / best, p50, p90, p99, p50 / ours, failures[side])
    report.finish()


if __name__ == "__main__":
    main()
