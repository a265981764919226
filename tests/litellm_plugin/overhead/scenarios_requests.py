"""More scenarios: requests that say yes to one of the questions that are usually answered by no."""

from __future__ import annotations

import asyncio

import litellm

from tests.litellm_plugin.overhead.scenarios import entries, scenario, three


@scenario
async def flags_for_testing(world):
    router = world.router(
        [*three(world), world.deployment("b", 1)],
        fallbacks=[{"m": ["b"]}],
        context_window_fallbacks=[{"m": ["b"]}],
        content_policy_fallbacks=[{"m": ["b"]}],
    )
    for flag in (
        "mock_testing_fallbacks",
        "mock_testing_context_fallbacks",
        "mock_testing_content_policy_fallbacks",
    ):
        for value in (True, False, "true", None):
            await world.call(router, **{flag: value})
    await world.call(world.router(three(world)), mock_testing_fallbacks=True)


@scenario
async def reserved_tokens(world):
    world.upstreams[0].order(script=("error", "error"))
    router = world.router(
        [world.deployment("m", place, itpm=100_000, otpm=200_000) for place in range(2)],
        num_retries=2,
        disable_cooldowns=True,
        optional_pre_call_checks=["enforce_model_rate_limits"],
    )
    for _ in range(3):
        await world.call(router)


@scenario
async def forged_reservations(world):
    from litellm.router_utils import pre_call_checks

    checks = getattr(pre_call_checks, "io_token_rate_limit_check", None)
    keys = [getattr(checks, name, name) for name in ("ITPM_RESERVED_KEY", "OTPM_CACHE_KEY")]
    router = world.router(three(world))
    await world.call(router, metadata=dict.fromkeys(keys, 5))
    await world.call(router, litellm_metadata=dict.fromkeys(keys, 5))
    await world.call(router, metadata={})


@scenario
async def a_trace(world):
    router = world.router(three(world))
    span = object()
    await world.call(router, metadata={"litellm_parent_otel_span": span})
    await world.call(router, metadata={"litellm_parent_otel_span": None})
    await world.call(router, litellm_parent_otel_span=None)


@scenario
async def odd_metadata(world):
    router = world.router(three(world))
    await world.call(router, metadata={1: "a number", "tags": ["x"]})
    await world.call(router, metadata={"model_info": {"id": "mine"}, "routing_decision": {"router_type": "complexity"}})
    await world.call(router, metadata={"quality_router_decision": {"routed_model": "x"}})
    await world.call(router, metadata=None)


async def two_at_once(world, router):
    for upstream in world.upstreams:
        upstream.order(hold=True)
    messages = [{"role": "user", "content": "x"}]
    first = asyncio.create_task(router.acompletion(model="m", messages=messages))
    while not any(upstream.records.in_flight for upstream in world.upstreams):
        await asyncio.sleep(0.005)
    second = asyncio.create_task(router.acompletion(model="m", messages=messages))
    # Refused at once, or in flight beside the first; up to 1.99 it waits for the first to end.
    for _ in range(100):
        if second.done() or sum(upstream.records.in_flight for upstream in world.upstreams) == 2:
            break
        await asyncio.sleep(0.005)
    for upstream in world.upstreams:
        upstream.order(hold=False)
    for one in await asyncio.gather(first, second, return_exceptions=True):
        world.note(type(one).__name__, str(one) if isinstance(one, Exception) else one._hidden_params)
    await world.settle()


@scenario
async def slots(world):
    router = world.router([world.deployment("m", 0, max_parallel_requests=1)], disable_cooldowns=True)
    await two_at_once(world, router)
    await world.call(router)


@scenario
async def slots_of_the_router(world):
    await two_at_once(
        world, world.router([world.deployment("m", 0)], default_max_parallel_requests=1, disable_cooldowns=True)
    )


@scenario
async def slots_from_an_edit_in_place(world):
    router = world.router([world.deployment("m", 0)], disable_cooldowns=True)
    await two_at_once(world, router)
    entries(router)[0]["litellm_params"]["max_parallel_requests"] = 1
    await two_at_once(world, router)


@scenario
async def a_client_of_its_own(world):
    router = world.router(three(world))
    core = vars(router).get("_core", router)
    cache = getattr(core, "_core_cache", None) or core.cache
    for place in range(3):
        client = litellm.AsyncOpenAI(api_key="sk-other", base_url=world.upstreams[place].api_base)
        cache.set_cache(key=f"m-{place}_async_client", value=client, local_only=True)
    await world.call(router)


@scenario
async def answers_of_other_kinds(world):
    router = world.router(three(world))
    for call in (
        lambda: router.aresponses(model="m", input="hello"),
        lambda: router.atext_completion(model="m", prompt="hello"),
        lambda: router.amoderation(model="m", input="hello"),
    ):
        try:
            answer = await call()
            world.note(answer, getattr(answer, "_hidden_params", None))
        except Exception as error:
            world.note(type(error).__name__, str(error)[:200])
        await world.settle()
