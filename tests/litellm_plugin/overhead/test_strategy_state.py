"""LiteLLM's strategies note nothing while we choose for them, and choose by what we know as soon as they have to."""

from __future__ import annotations

import asyncio
import time

import litellm
import pytest

import fast_router
from tests.litellm_plugin.overhead.differential import World, same_start

LATENCY, COST, USAGE, BUSY = (
    *("latency-based-routing", "cost-based-routing", "usage-based-routing-v2"),
    "least-busy",
)
SELECTORS = {
    LATENCY: "lowestlatency_logger",
    COST: "lowestcost_logger",
    USAGE: "lowesttpm_logger_v2",
    BUSY: "leastbusy_logger",
}


@pytest.fixture
def world(upstreams, cost):
    made = World(upstreams)
    for upstream in upstreams:
        upstream.reset()
        upstream.order(script=(), error_rate=0, throttle_rate=0, hold=False)
    with same_start(cost):
        fast_router.enable()
        try:
            yield made
        finally:
            fast_router.disable()
            fast_router.configure()
            for router in made.routers:
                router.discard()


@pytest.fixture(autouse=True)
def known_version(world):
    if "strategy_state" not in fast_router.status()["features"]:
        pytest.skip("the strategies of this LiteLLM keep their figures themselves")


def memory(router):
    """What lies in the Router's cache, without what others than strategies keep there."""
    core = vars(router).get("_core", router)
    cache = getattr(core, "_core_cache", None) or core.cache
    return {
        key: value
        for key, value in cache.in_memory_cache.cache_dict.items()
        if "_map" in key or "_request_count" in key or ":tpm:" in key or ":rpm:" in key
    }


def selector(router, strategy):
    core = vars(router).get("_core", router)
    return getattr(core, f"_core_{SELECTORS[strategy]}", None) or getattr(core, SELECTORS[strategy])


async def choice(router, strategy):
    """The id that LiteLLM's own strategy object chooses among all deployments."""
    options = {"model_group": "m", "healthy_deployments": list(router.get_model_list("m"))}
    if strategy != BUSY:
        options |= {"messages": [{"role": "user", "content": "hello"}]}
    picked = await selector(router, strategy).async_get_available_deployments(**options)
    return picked["model_info"]["id"]


async def beginning_of_a_minute():
    """Counters are a minute's: one that ends between a request and the look at them would empty them."""
    while time.gmtime().tm_sec > 55:
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("strategy", SELECTORS)
async def test_nothing_is_noted_per_request(world, strategy):
    # What an earlier test's loop left to LiteLLM's logging is told with the first request here, to whoever listens.
    await world.call(world.router([world.deployment("m", 0)]))
    world.seen.clear()
    router = world.router([world.deployment("m", place) for place in range(3)], routing_strategy=strategy)
    for _ in range(5):
        await world.call(router)
    assert [seen[0] for seen in world.seen] == ["answer"] * 5
    assert memory(router) == {}
    assert getattr(selector(router, strategy), "redis_increment_operation_queue", []) == []


@pytest.mark.parametrize("strategy", SELECTORS)
async def test_without_the_feature_it_is(world, strategy, monkeypatch):
    """The control: there is something that could be noted."""
    fast_router.disable()
    monkeypatch.setenv("FAST_ROUTER_DISABLED_FEATURES", "strategy_state")
    fast_router.configure()
    fast_router.enable()
    router = world.router([world.deployment("m", place) for place in range(3)], routing_strategy=strategy)
    for _ in range(5):
        await world.call(router)
    assert memory(router) != {}


async def test_latencies_are_handed_back(world):
    router = world.router([world.deployment("m", place) for place in range(3)], routing_strategy=LATENCY)
    await world.call(router)
    engine = fast_router.advanced_router(router).engine
    for place, seconds in enumerate((0.5, 0.01, 0.2)):
        for _ in range(12):
            engine.observe(engine.deployments[f"m-{place}"], seconds, completion_tokens=1)
    fast_router.disable()
    assert {await choice(router, LATENCY) for _ in range(10)} == {"m-1"}
    known = memory(router)["m_map"]
    samples = [next(iter(entry.values())) for entry in known.values()]
    assert sorted(samples) == [[0.01] * 10, [0.2] * 10, [0.5] * 10]
    # From here on it notes for itself.
    await world.call(router)
    minutes = [value for key, value in memory(router)["m_map"]["m-1"].items() if isinstance(value, dict)]
    assert sum(minute["rpm"] for minute in minutes) == 1


async def test_minutes_of_cost_based_routing_are_handed_back(world):
    await beginning_of_a_minute()
    router = world.router(
        [
            world.deployment("m", 0, input_cost_per_token=1e-9, output_cost_per_token=1e-9, rpm=2),
            world.deployment("m", 1, input_cost_per_token=1e-8, output_cost_per_token=1e-8),
        ],
        routing_strategy=COST,
    )
    await world.call(router)
    await world.call(router)
    assert [upstream.records.requests for upstream in world.upstreams] == [2, 0, 0]
    fast_router.disable()
    assert await choice(router, COST) == "m-1"


async def test_tokens_of_usage_based_routing_are_handed_back(world):
    await beginning_of_a_minute()
    router = world.router([world.deployment("m", place) for place in range(3)], routing_strategy=USAGE)
    for _ in range(3):
        await world.call(router)
    assert [upstream.records.requests for upstream in world.upstreams] == [1, 1, 1]
    fast_router.disable()
    # The third upstream answers with the fewest tokens.
    assert {await choice(router, USAGE) for _ in range(10)} == {"m-2"}


async def test_limits_of_usage_based_routing_are_counted_as_before(world):
    await beginning_of_a_minute()
    router = world.router([world.deployment("m", place, rpm=50) for place in range(2)], routing_strategy=USAGE)
    await world.call(router)
    assert [value for key, value in memory(router).items() if ":rpm:" in key and "global" not in key] == [1]


async def in_flight(world, count):
    while sum(upstream.records.in_flight for upstream in world.upstreams) < count:
        await asyncio.sleep(0.005)


async def test_calls_in_flight_are_handed_back(world):
    router = world.router([world.deployment("m", place) for place in range(3)], routing_strategy=BUSY)
    for upstream in world.upstreams:
        upstream.order(hold=True)
    running = [
        asyncio.create_task(router.acompletion(model="m", messages=[{"role": "user", "content": "x"}]))
        for _ in range(2)
    ]
    await in_flight(world, 2)
    cancelled = asyncio.create_task(router.acompletion(model="m", messages=[{"role": "user", "content": "x"}]))
    await in_flight(world, 3)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    engine = fast_router.advanced_router(router).engine
    free = [id_ for id_, deployment in engine.deployments.items() if deployment.in_flight == 0]
    assert len(free) == 1
    fast_router.disable()
    assert await choice(router, BUSY) == free[0]
    assert sorted(memory(router).values()) == [1, 1]
    for upstream in world.upstreams:
        upstream.order(hold=False)
    await asyncio.gather(*running)
    await world.settle()
    assert set(memory(router).values()) == {0}


async def test_a_strategy_that_chooses_by_itself_knows_what_we_know(world):
    router = world.router([world.deployment("m", place) for place in range(3)], routing_strategy=LATENCY)
    await world.call(router)
    advanced = fast_router.advanced_router(router)
    for place, seconds in enumerate((0.5, 0.2, 0.01)):
        for _ in range(10):
            advanced.engine.observe(advanced.engine.deployments[f"m-{place}"], seconds, completion_tokens=1)
    for place in range(3):
        advanced.rest(f"m-{place}", 60)  # our word alone: LiteLLM knows nothing of it, and chooses
    before = world.upstreams[2].records.requests
    delegated = fast_router.status()["picks"]["delegated"]
    await world.call(router)
    assert world.upstreams[2].records.requests == before + 1
    assert fast_router.status()["picks"]["delegated"] == delegated + 1


async def test_other_proxies_read_what_lies_in_redis(world, redis_url):
    host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
    router = world.router(
        [world.deployment("m", place) for place in range(2)],
        routing_strategy=LATENCY,
        redis_host=host,
        redis_port=int(port),
    )
    await world.call(router)
    assert "m_map" in memory(router)


async def test_a_call_past_the_router_is_nobodys(world):
    router = world.router([world.deployment("m", 0)], routing_strategy=LATENCY)
    await world.call(router)
    answer = await litellm.acompletion(
        model="openai/gpt-4o",
        api_key="sk-test",
        api_base=world.upstreams[0].api_base,
        messages=[{"role": "user", "content": "x"}],
    )
    await world.settle()
    assert answer.choices
    assert memory(router) == {}
