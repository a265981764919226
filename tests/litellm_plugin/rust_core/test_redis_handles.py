"""LiteLLM 1.110: its native counters and cooldowns over a real Redis, written behind the request."""

from __future__ import annotations

import json
import time
from urllib.parse import urlsplit

import pytest
from litellm import Router
from redis import Redis

import fast_router
from fast_router.cluster import state_of
from fast_router.litellm_plugin.fleet.shared_state import SETTLED_PICKS
from tests.litellm_plugin.fleet.test_redis_cache import sums
from tests.litellm_plugin.fleet.test_shared_state import MESSAGES, _enabled, make, settle, upstreams  # noqa: F401 - fixtures
from tests.support.waiting import until

if hasattr(Router, "from_config") and fast_router.status()["band"] == "1.110":
    from litellm.redis.stores.router_usage import UsageCounter

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
    ),
]


async def test_native_counters_are_the_fleets(make, redis_url):  # noqa: F811
    """What another proxy has counted is in LiteLLM's own reading, and what waits to be sent as well."""
    client = Redis.from_url(redis_url)
    router = make(strategy="simple-shuffle", prefix="f", rpm=100_000, tpm=10**8)
    _, state = await settle(router)
    core = router._core
    behind = state.exchange.behind
    minute = time.strftime("%H-%M", time.gmtime(state.exchange.minute() * 60))
    counter = UsageCounter("f0", "openai/test-model", minute, "rpm")
    name = f"global_router:f0:openai/test-model:rpm:{minute}"
    client.incrbyfloat(name, 1000)
    assert await until(lambda: (behind.totals([name])[0] or 0) >= 1000), client.keys("global_router:f0*")
    core._usage.increment_deployment_sync("f0", "openai/test-model", minute, 7, 1)
    (known,) = await core._usage.get_many([counter])
    assert known >= 1001
    assert isinstance(known, int), "LiteLLM's sums leave out what is not whole"
    answer = await router.acompletion("m", messages=MESSAGES)
    left = answer._hidden_params["additional_headers"]["x-ratelimit-remaining-requests"]
    assert 0 < left < 2 * 100_000 - 1000
    assert await until(lambda: float(client.get(name)) >= 1001)


async def test_native_cooldowns_come_and_go_by_way_of_shared_state(make, redis_url):  # noqa: F811
    """Another proxy's cooldown is read without waiting; this process's own reaches Redis, and ends there if cleared."""
    client = Redis.from_url(redis_url)
    router = make(prefix="g")
    ours, _ = await settle(router)
    store = router._core._cooldowns.cooldown_store
    now = {"exception_received": "x", "status_code": "429", "timestamp": time.time(), "cooldown_time": 60.0}
    client.set("deployment:g0:cooldown", json.dumps(now), ex=60)
    client.set("deployment:g1:cooldown", json.dumps({"exception_received": "no times"}), ex=60)
    assert await until(lambda: [id_ for id_, _ in store.active_sync(["g0", "g1"])] == ["g0"])
    assert ours.deployments["g0"].held
    assert not store.has_redis
    client.delete("deployment:g1:cooldown")
    await store.async_put("g1", now, 60)
    assert {id_ for id_, _ in store.active_sync(["g0", "g1"])} == {"g0", "g1"}
    assert await until(lambda: client.exists("deployment:g1:cooldown"))
    assert ours.wake("g1")
    assert [id_ for id_, _ in store.active_sync(["g1"])] == []
    assert await until(lambda: not client.exists("deployment:g1:cooldown"))


async def test_switched_off_the_native_stores_write_themselves_again(make, redis_url):  # noqa: F811
    client = Redis.from_url(redis_url)
    router = make(prefix="h", strategy="simple-shuffle", rpm=100_000)
    await settle(router)
    store = router._core._cooldowns.cooldown_store
    now = {"exception_received": "x", "status_code": "429", "timestamp": time.time(), "cooldown_time": 60.0}
    store.put("h0", now, 60)
    assert not store.has_redis
    fast_router.disable()
    try:
        assert store.has_redis
        assert [id_ for id_, _ in store.active_sync(["h0", "h1"])] == ["h0"]
        client.delete(*client.keys("global_router:h*"))
        await router.acompletion("m", messages=MESSAGES)
        assert sums(client, "global_router:h*:rpm:*") == 1
    finally:
        fast_router.enable()


async def test_a_router_that_shares_no_more_keeps_its_books_itself(make, redis_url):  # noqa: F811
    """Not by way of another Router's shared state, which knows nothing of its deployments."""
    client = Redis.from_url(redis_url)
    one, two = make(prefix="i"), make(prefix="j")
    for router in (one, two):
        await settle(router)
    store = one._core._cooldowns.cooldown_store
    assert not store.has_redis
    state_of(fast_router.advanced_router(one)).close()
    assert store.has_redis
    assert not two._core._cooldowns.cooldown_store.has_redis
    now = {"exception_received": "x", "status_code": "429", "timestamp": time.time(), "cooldown_time": 60.0}
    await store.async_put("i0", now, 60)
    assert client.exists("deployment:i0:cooldown")


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(False, id="no request before it is back", marks=pytest.mark.slow),
        pytest.param(True, id="requests while it is away"),
    ],
)
async def test_a_redis_that_is_away_from_the_start_holds_up_nobody_and_is_used_once_it_is_there(
    make,  # noqa: F811
    own_redis,
    served,
):
    """A connection refused when the Router is made and at the first request; what happened meanwhile is told later."""
    own_redis.kill()
    where = urlsplit(own_redis.url)
    router = make(strategy="simple-shuffle", prefix="n", redis_host=where.hostname, redis_port=where.port, rpm=100_000)
    now = {"exception_received": "x", "status_code": "429", "timestamp": time.time(), "cooldown_time": 600.0}
    store = router._core._cooldowns.cooldown_store
    if served:
        for _ in range(SETTLED_PICKS):
            assert (await router.acompletion("m", messages=MESSAGES)).choices
        state = await until(lambda: state_of(fast_router.advanced_router(router)))
        await until(lambda: state.exchange.behind is not None and state.exchange.behind.away)
        assert not store.has_redis, "the store would wait for Redis at each question"
        await store.async_put("n0", now, 600)
        assert store.increment_allowed_fails("n1", None, 60) == 1
        assert [id_ for id_, _ in store.active_sync(["n0", "n1"])] == ["n0"]
        answers = [await router.acompletion("m", messages=MESSAGES) for _ in range(4)]
        assert {answer._hidden_params["model_id"] for answer in answers} == {"n1"}
    own_redis.start()
    client = Redis.from_url(own_redis.url)
    _, state = await settle(router)
    await until(lambda: not state.exchange.behind.away and state.exchange.behind.seen is not None)
    for _ in range(4):
        await router.acompletion("m", messages=MESSAGES)
    assert await until(lambda: sums(client, "global_router:n*:rpm:*") >= 4)
    if served:
        assert await until(lambda: client.exists("deployment:n0:cooldown"))
    else:
        await store.async_put("n0", now, 600)
    client.set("deployment:n1:cooldown", json.dumps(now), ex=600)
    assert await until(lambda: {id_ for id_, _ in store.active_sync(["n0", "n1"])} == {"n0", "n1"})


async def test_counters_of_several_groups_are_told_apart(make):  # noqa: F811
    router = make(strategy="simple-shuffle", prefix="k", rpm=100_000)
    _, state = await settle(router)
    usage = router._core._usage
    minute = time.strftime("%H-%M", time.gmtime(state.exchange.minute() * 60))
    one, two = ([UsageCounter(id_, "x", minute, "rpm")] for id_ in ("one", "two"))
    both = [*one, *two]
    for _ in range(2):
        usage.increment_deployment_sync("one", "x", minute, 0, 1)
    usage.increment_deployment_sync("two", "x", minute, 0, 1)
    for _ in range(2):
        assert [usage.get_many_sync(asked) for asked in (one, two, both, [two[0], one[0]])] == [
            [2],
            [1],
            [2, 1],
            [1, 2],
        ]
