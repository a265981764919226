"""`load: tokens` through litellm.Router over real HTTP: a server that computes a long prompt gets no others."""

from __future__ import annotations

import asyncio

import litellm
import pytest

import fast_router
from fast_router.testing import Behaviour, Fleet, Spec

# The long prompt takes half a minute to compute, the short ones no time.
SERVER = Behaviour(prefill_rate=100, prefill_latency=0.0, per_token=0.001, tokens=2)


@pytest.mark.parametrize(
    ("given", "info", "most"),
    [
        # Drawn twice, it takes the busy one: Binomial(8, 1/4) is above 6 four times in ten thousand.
        ({"routing_strategy": "power_of_two", "routing_strategy_args": {"load": "tokens"}}, {}, 6),
        ({"routing_strategy": "peak_ewma", "routing_strategy_args": {"load": "tokens"}}, {}, 1),
        ({}, {"fast_router": {"strategy": "least_busy", "options": {"load": "tokens"}}}, 0),
    ],
    ids=["power_of_two", "peak_ewma", "least_busy"],
)
async def test_short_prompts_keep_away_from_a_long_one(given, info, most) -> None:
    fast_router.enable()
    with Fleet([Spec("vllm", name=f"gpu-{number}", behaviour=SERVER) for number in range(2)]) as fleet:
        router = litellm.Router(
            model_list=[
                {
                    "model_name": "m",
                    "litellm_params": {"model": "hosted_vllm/test-model", "api_base": one.api_base, "api_key": "none"},
                    "model_info": {"id": name, **info},
                }
                for name, one in fleet.items()
            ],
            num_retries=0,
            **given,
        )

        async def call(content: str) -> None:
            stream = await router.acompletion("m", [{"role": "user", "content": content}], stream=True)
            async for _ in stream:
                pass

        calls = [asyncio.create_task(call("word " * 2400))]
        try:
            known = fast_router.advanced_router(router).deployments
            while not any(d.work is not None and d.work.backlog.tokens > 1000 for d in known.values()):
                await asyncio.sleep(0.01)
                assert not calls[0].done()
            busy = next(d for d in known.values() if d.work.backlog.tokens > 1000)
            calls += [asyncio.create_task(call("hi")) for _ in range(8)]
            while sum(d.picks for d in known.values()) < 9:
                await asyncio.sleep(0.01)
            assert busy.picks - 1 <= most
        finally:
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
