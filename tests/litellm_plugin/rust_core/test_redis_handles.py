"""LiteLLM 1.110: its native counters and cooldowns over a real Redis, written behind the request."""

from __future__ import annotations

import json
import time

import pytest
from litellm import Router
from redis import Redis

import fast_router
from tests.litellm_plugin.fleet.test_redis_cache import sums
from tests.litellm_plugin.fleet.test_shared_state import MESSAGES, _enabled, make, settle, upstreams  # noqa: F401 - fixtures
from tests.support.waiting import until

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
    from litellm.redis.stores.router_usage import UsageCounter

    counter = UsageCounter("f0", "openai/test-model", minute, "rpm")
    name = f"global_router:f0:openai/test-model:rpm:{minute}"
    client.incrbyfloat(name, 1000)
    assert await until(lambda: (behind.total(name) or 0) >= 1000), client.keys("global_router:f0*")
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
