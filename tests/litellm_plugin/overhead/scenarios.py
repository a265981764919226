"""The scenarios of the differential test: each one a way in which a Router is used."""

from __future__ import annotations

import asyncio
import copy
import time
from typing import Any

import litellm
from litellm import Router

SCENARIOS: dict[str, Any] = {}
LONG = "word " * 3000


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def three(world, **params):
    return [world.deployment("m", place, **params) for place in range(3)]


@scenario
async def plain(world):
    router = world.router(three(world))
    for _ in range(4):
        await world.call(router)


@scenario
async def streaming(world):
    router = world.router(three(world))
    for _ in range(3):
        await world.call(router, stream=True)


@scenario
async def several_endpoints(world):
    router = world.router([world.deployment("m", 0, model="openai/text-embedding-3-small", rpm=50)])
    answer = await router.aembedding(model="m", input=["one", "two"])
    world.note(answer, answer._hidden_params)
    await world.settle()


@scenario
async def limits(world):
    router = world.router(
        [
            world.deployment("m", 0, rpm=100, tpm=5000),
            world.deployment("m", 1, rpm=50),
            world.deployment("m", 2),
        ]
    )
    for _ in range(4):
        await world.call(router)
    world.note(await usage_of(router, "m"))


@scenario
async def limits_of_the_price_map(world):
    litellm.register_model({"gpt-own": {"litellm_provider": "openai", "mode": "chat", "rpm": 70, "tpm": 900}})
    router = world.router([world.deployment("m", 0, model="openai/gpt-own")])
    for _ in range(2):
        await world.call(router)


@scenario
async def unmapped_model(world):
    router = world.router([world.deployment("m", place, model="openai/my-own-vllm") for place in range(2)])
    for _ in range(3):
        await world.call(router)


@scenario
async def input_and_output_token_limits(world):
    router = world.router([world.deployment("m", 0, itpm=1000, otpm=2000)])
    for _ in range(2):
        await world.call(router)


@scenario
async def aliases(world):
    router = world.router(
        three(world, rpm=10), model_group_alias={"other": "m", "also": {"model": "m", "hidden": True}}
    )
    await world.call(router, "other")
    await world.call(router, "also")
    router.model_group_alias["late"] = "m"
    await world.call(router, "late")
    world.note([len(router.get_model_list(name) or []) for name in ("m", "other", "also", "late", "none")])


@scenario
async def wildcards(world):
    router = world.router(
        [world.deployment("openai/*", place, model="openai/*", rpm=30) for place in range(2)]
        + [world.deployment("m", 2)]
    )
    await world.call(router, "openai/gpt-4o-mini")
    await world.call(router, "openai/gpt-4o")
    world.note(router.get_model_list("openai/gpt-4o"))


@scenario
async def retries(world):
    world.upstreams[0].order(script=("error", "error"))
    world.upstreams[1].order(script=("error",))
    router = world.router(three(world), num_retries=3)
    for _ in range(3):
        await world.call(router)


@scenario
async def fallbacks(world):
    world.upstreams[0].order(error_rate=1.0)
    router = world.router(
        [world.deployment("m", 0), world.deployment("b", 1, rpm=9)], fallbacks=[{"m": ["b"]}], num_retries=0
    )
    for _ in range(2):
        await world.call(router)


@scenario
async def every_failure(world):
    for upstream in world.upstreams:
        upstream.order(error_rate=1.0, error_status=503)
    router = world.router(three(world), num_retries=1, disable_cooldowns=True)
    await world.call(router)


@scenario
async def resting(world):
    world.upstreams[0].order(throttle_rate=1.0, retry_after=30)
    router = world.router(three(world), num_retries=0, cooldown_time=30)
    for _ in range(9):
        await world.call(router)


@scenario
async def unknown_model(world):
    await world.call(world.router(three(world)), "nobody")


@scenario
async def ordered_failure(world):
    router = world.router(three(world, num_retries=0))
    await world.call(router, mock_testing_rate_limit_error=True)
    await world.call(router, mock_testing_rate_limit_error=False)
    single = world.router([world.deployment("one", 1, num_retries=0)])
    await world.call(single, "one", mock_testing_rate_limit_error=True)


@scenario
async def custom_prices(world):
    router = world.router(
        [
            world.deployment("m", 0, input_cost_per_token=0.001, output_cost_per_token=0.002),
            world.deployment("m", 1, input_cost_per_token=0.003, output_cost_per_token=0.0, rpm=8),
            world.deployment("m", 2),
        ]
    )
    for _ in range(8):
        await world.call(router)
    world.note([row_of(f"m-{place}") for place in range(3)], row_of("gpt-4o"), row_of("openai/gpt-4o"))


@scenario
async def custom_prices_that_change(world):
    router = world.router([world.deployment("m", 0, input_cost_per_token=0.001, output_cost_per_token=0.002)])
    for price in (0.001, 0.001, 0.001, 0.5, 0.5, 0.5, 0.001):
        router.model_list[0]["litellm_params"]["input_cost_per_token"] = price
        await world.call(router)
    litellm.register_model({"m-0": {"input_cost_per_token": 7.0, "litellm_provider": "openai"}})
    await world.call(router)
    world.note(row_of("m-0"))


@scenario
async def prices_reloaded(world):
    router = world.router(three(world))
    await world.call(router)
    await world.call(router)
    fresh = {key: dict(row) for key, row in litellm.model_cost.items()}
    fresh["gpt-4o"] |= {"rpm": 40, "input_cost_per_token": 1.0}
    litellm.model_cost = fresh
    litellm.utils._invalidate_model_cost_lowercase_map()
    await world.call(router)
    litellm.register_model({"gpt-4o": {"tpm": 400, "litellm_provider": "openai"}})
    await world.call(router)
    await world.call(router)


@scenario
async def edits_in_place(world):
    router = world.router(three(world))
    await world.call(router)
    for entry in entries(router):
        entry["litellm_params"]["rpm"] = 12
    await world.call(router)
    for entry in entries(router):
        del entry["litellm_params"]["rpm"]
        entry["model_info"]["tpm"] = 90
    await world.call(router)


@scenario
async def edits_while_requests_run(world):
    router = world.router(three(world, rpm=20))
    for upstream in world.upstreams:
        upstream.order(hold=True)
    running = asyncio.create_task(router.acompletion(model="m", messages=[{"role": "user", "content": "x"}]))
    while not any(upstream.records.in_flight for upstream in world.upstreams):
        await asyncio.sleep(0.005)
    router.delete_deployment(id="m-0")
    router.upsert_deployment(litellm.types.router.Deployment(**world.deployment("m", 1, rpm=5, tpm=77)))
    router.add_deployment(litellm.types.router.Deployment(**world.deployment("m", 5, rpm=3)))
    for upstream in world.upstreams:
        upstream.order(hold=False)
    answer = await running
    world.note(answer, answer._hidden_params)
    await world.settle()
    await world.call(router)
    world.note([entry["model_info"]["id"] for entry in router.get_model_list("m")])
    router.set_model_list([world.deployment("m", 2), world.deployment("n", 1)])
    await world.call(router)
    await world.call(router, "n")
    world.note([entry["model_info"]["id"] for entry in router.get_model_list("m")])


@scenario
async def budgets(world):
    router = world.router(three(world), provider_budget_config={"openai": {"budget_limit": 1e-9, "time_period": "1d"}})
    for _ in range(3):
        await world.call(router)


@scenario
async def tags(world):
    router = world.router(
        [world.deployment("m", 0, tags=["free"]), world.deployment("m", 1, tags=["paid"])], enable_tag_filtering=True
    )
    await world.call(router, metadata={"tags": ["paid"]})
    await world.call(router, metadata={"tags": ["free"]})
    await world.call(router, metadata={"tags": ["none"]})


@scenario
async def teams(world):
    router = world.router(
        [
            world.deployment("m", 0, info={"team_id": "t1", "team_public_model_name": "pub"}, rpm=9),
            world.deployment("m", 1),
        ]
    )
    await world.call(router, metadata={"user_api_key_team_id": "t1"})
    await world.call(router, "pub", metadata={"user_api_key_team_id": "t1"})
    world.note(
        [entry["model_info"]["id"] for entry in router.get_model_list("pub", team_id="t1") or []],
        [entry["model_info"]["id"] for entry in router.get_model_list("m", team_id="t2") or []],
    )


@scenario
async def pre_call_checks(world):
    router = world.router(
        [
            world.deployment("m", 0, info={"max_input_tokens": 20}),
            world.deployment("m", 1, rpm=3),
            world.deployment("m", 2, model="openai/gpt-4o", info={"base_model": "gpt-4"}),
        ],
        enable_pre_call_checks=True,
    )
    for text in ("short", LONG, "short", "word " * 30):
        await world.call(router, text=text)
    await world.call(router, response_format={"type": "json_object"})
    router.model_list[0]["model_info"]["max_input_tokens"] = 100_000
    await world.call(router, text="word " * 30)


@scenario
async def context_window_exceeded(world):
    router = world.router([world.deployment("m", 0, info={"max_input_tokens": 5})], enable_pre_call_checks=True)
    await world.call(router, text=LONG)


@scenario
async def azure_without_base_model(world):
    router = world.router([world.deployment("m", 0, model="azure/my-deployment", api_version="2024-02-01")])
    await world.call(router, mock_response="hello")


async def strategy(world, name, **params):
    router = world.router(three(world, **params), routing_strategy=name)
    for text in ("hello", LONG, "hello"):
        await world.call(router, text=text)


@scenario
async def latency_strategy(world):
    await strategy(world, "latency-based-routing", tpm=100_000, rpm=100)


@scenario
async def latency_strategy_without_limits(world):
    await strategy(world, "latency-based-routing")


@scenario
async def latency_strategy_with_a_limit_that_is_too_small(world):
    router = world.router(
        [world.deployment("m", 0, tpm=50), world.deployment("m", 1)], routing_strategy="latency-based-routing"
    )
    for _ in range(4):
        await world.call(router, text=LONG)


@scenario
async def cost_strategy(world):
    await strategy(world, "cost-based-routing")


@scenario
async def cost_strategy_with_limits(world):
    await strategy(world, "cost-based-routing", tpm=2000)


@scenario
async def usage_strategy(world):
    await strategy(world, "usage-based-routing-v2", tpm=5000, rpm=50)


@scenario
async def usage_strategy_without_limits(world):
    await strategy(world, "usage-based-routing-v2")


@scenario
async def first_usage_strategy(world):
    await strategy(world, "usage-based-routing")


@scenario
async def least_busy_strategy(world):
    await strategy(world, "least-busy")


@scenario
async def synchronous(world):
    router = world.router(three(world, rpm=44))

    def call():
        answer = router.completion(model="m", messages=[{"role": "user", "content": "hi"}])
        world.note(answer, answer._hidden_params)

    for _ in range(2):
        await asyncio.to_thread(call)
    # The success handlers of synchronous calls run on threads of LiteLLM.
    deadline = time.monotonic() + 10
    while counted_successes(router) < 2:
        assert time.monotonic() < deadline, "LiteLLM did not count both successes"
        await asyncio.sleep(0.01)
    world.listener.events.clear()


@scenario
async def a_subclass(world):
    class Own(Router):
        def get_model_list(self, model_name=None, team_id=None):
            found = super().get_model_list(model_name=model_name, team_id=team_id)
            return found[:1] if found else found

    router = Own(model_list=three(world, rpm=6), num_retries=0)
    world.routers.append(router)
    await world.call(router)
    world.note(len(router.get_model_list("m")))


@scenario
async def a_copied_router(world):
    router = world.router(three(world, rpm=6))
    await world.call(router)
    twin = copy.copy(router)
    await world.call(twin)


@scenario
async def many_groups(world):
    router = world.router(
        [world.deployment(f"g{place}", place, **({"rpm": place + 1} if place % 2 else {})) for place in range(70)]
    )
    for place in (*range(0, 70, 7), 0, 7, 14):
        await world.call(router, f"g{place}")


def counted_successes(router):
    core = vars(router).get("_core", router)
    cache = getattr(core, "_core_cache", None) or core.cache
    return sum(count for key, count in cache.in_memory_cache.cache_dict.items() if key.endswith(":successes"))


def row_of(name):
    return litellm.model_cost.get(name)


def entries(router):
    return router.model_list


async def usage_of(router, group):
    core = vars(router).get("_core", router)
    read = getattr(core, "_core_get_model_group_usage", None) or core.get_model_group_usage
    return await read(group)
