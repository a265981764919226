"""LiteLLM's counters keep their values; only the number of commands changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time

import litellm
import pytest
from litellm.caching.redis_cache import RedisCache
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

import fast_router
from fast_router.cluster import state_of
from fast_router.cluster.shared_state.write_behind import WriteBehind, behind_of
from fast_router.litellm_plugin.fleet.shared_state import SETTLED_PICKS
from tests.litellm_plugin.fleet.test_shared_state import MESSAGES, _enabled, make, settle, upstreams  # noqa: F401 - fixtures
from tests.support.waiting import until

pytestmark = pytest.mark.services


def sums(client, pattern):
    return sum(float(client.get(key) or 0) for key in client.keys(pattern))


@pytest.mark.skipif(not hasattr(RedisCache, "increment_with_floor"), reason="every Router of the process counts before")
async def test_usage_reaches_litellms_counters_in_a_fraction_of_the_commands(make, redis_url):  # noqa: F811
    client = Redis.from_url(redis_url)
    router = make(rpm=100_000, tpm=100_000_000, strategy="simple-shuffle")
    _, state = await settle(router)
    before = sums(client, "global_router:*:rpm:*")
    minute = state.exchange.minute()
    client.config_resetstat()
    await asyncio.gather(*(router.acompletion("m", messages=MESSAGES) for _ in range(60)))
    counted = await until(
        lambda: sums(client, "global_router:*:rpm:*") - before >= 60 or state.exchange.minute() != minute
    )
    assert counted, (before, sums(client, "global_router:*:rpm:*"))
    assert all(0 < client.ttl(key) <= 60 for key in client.keys("global_router:*"))
    commands = client.info("commandstats")
    # LiteLLM by itself: four commands a request.
    assert commands["cmdstat_incrbyfloat"]["calls"] < 60


@pytest.mark.skipif(not hasattr(RedisCache, "increment_with_floor"), reason="least-busy keeps a dict before 1.106")
async def test_calls_in_flight_reach_litellms_counters_and_leave_again(make, redis_url, upstreams):  # noqa: F811
    client = Redis.from_url(redis_url)
    router = make(strategy="least-busy")
    await settle(router)
    with upstreams["u0"].held(), upstreams["u1"].held():
        calls = [asyncio.create_task(router.acompletion("m", messages=MESSAGES)) for _ in range(6)]
        seen = await until(lambda: sums(client, "m_request_count:*") == 6)
        assert seen, {key: client.get(key) for key in client.keys("m_request_count:*")}
        client.config_resetstat()
    await asyncio.gather(*calls)
    assert await until(lambda: sums(client, "m_request_count:*") == 0)
    assert "cmdstat_eval" not in client.info("commandstats")


async def test_other_keys_are_left_alone(make):  # noqa: F811
    router = make()
    _, state = await settle(router)
    behind = state.exchange.behind
    assert behind.takes("global_router:d0:openai/x:rpm:09-05")
    assert behind.takes("d0:openai/x:tpm:09-05")
    assert behind.takes("m_request_count:d0")
    assert not behind.takes("sk-key:gpt-4:rpm:09-05")
    assert not behind.takes("provider_spend:openai:1d")
    assert not behind.takes("m_request_count:unknown")
    assert SETTLED_PICKS
    assert "counters_behind" in fast_router.status()["features"]


def test_totals_are_the_fleets_and_old_minutes_are_dropped():
    now = [0.0]
    behind = WriteBehind(lambda id_: id_ == "d0", clock=lambda: now[0])
    key = "d0:x:rpm:09-05"
    assert behind.add(key, key, 1, 60) == 1
    commands, take = behind.commands()
    assert commands == [("INCRBYFLOAT", key, 1.0), ("EXPIRE", key, 60)]
    take(["41", 1])
    assert behind.add(key, key, 1, 60) == 42
    commands, take = behind.commands()
    assert commands == [("INCRBYFLOAT", key, 1.0)]
    take(["50"])
    assert behind.commands()[0] == []
    behind.add(key, key, 5, 60)
    now[0] = 61.0
    assert behind.commands()[0] == []


def test_a_counter_that_is_still_used_does_not_end_before_its_minute():
    # Sent in the first second of the minute, and again in the second after its end: without a new term in between
    # Redis would have let go of it, and the last increment would have made a key without an end.
    now = [0.5]
    behind = WriteBehind(lambda id_: id_ == "d0", clock=lambda: now[0])
    key = "d0:x:rpm:09-05"
    ends = None
    for second in (0.5, 20.0, 40.0, 60.9):
        now[0] = second
        behind.add(key, key, 1, 60)
        commands, take = behind.commands()
        assert ends is None or second < ends
        if ("EXPIRE", key, 60) in commands:
            ends = second + 60
        take([str(second)] * len(commands))
    assert ends > 61


def test_a_counter_that_redis_lost_gets_its_end_again(redis_url):
    client = Redis.from_url(redis_url)
    behind = WriteBehind(lambda id_: id_ == "d0")
    key = "d0:x:rpm:09-05"

    def turn():
        commands, take = behind.commands()
        take([client.execute_command(*command) for command in commands])

    for _ in range(2):
        behind.add(key, key, 1, 60)
        turn()
    client.delete(key)
    behind.add(key, key, 1, 60)
    turn()
    turn()
    assert 0 < client.ttl(key) <= 60


def test_calls_that_outlast_a_restart_of_redis_leave_no_negative_count(redis_url):
    client = Redis.from_url(redis_url)
    key = "m_request_count:d0"
    behinds = [WriteBehind(lambda id_: id_ == "d0") for _ in range(2)]

    def turn(behind):
        commands, take = behind.commands()
        take([client.execute_command(*command) for command in commands])

    for behind in behinds:
        behind.add(key, key, 3, 60)
        turn(behind)
    client.delete(key)
    for behind in behinds:
        behind.add(key, key, -3, 60)
        turn(behind)
    assert int(client.get(key)) < 0
    for behind in behinds:
        turn(behind)
    assert int(client.get(key)) == 0
    assert client.ttl(key) > 0


def test_of_a_map_the_last_of_each_second_is_written():
    behind = WriteBehind(lambda id_: id_ == "d0")
    group = {"d0": {"latency": [1.0]}}
    assert behind.takes_map("m_map", group)
    assert behind.takes_map("cost_map:m", group)
    assert behind.takes_map("m:tpm:09-05", {"d0": 12})
    assert not behind.takes_map("m_map", {"another": {}})
    assert not behind.takes_map("m_map", "d0")
    assert not behind.takes_map("somebody's cache", group)
    for _ in range(3):
        behind.put("ns:m_map", group, 3600)
        group["d0"]["latency"].append(2.0)
    behind.put("ns:other_map", {"d0": {1, 2}}, None)
    assert behind.commands()[0] == [
        ("SET", "ns:m_map", '{"d0": {"latency": [1.0, 2.0, 2.0, 2.0]}}', "EX", 3600),
        ("SET", "ns:other_map", "{'d0': {1, 2}}"),
    ]
    assert behind.commands()[0] == []


@pytest.mark.parametrize(
    ("strategy", "pattern"),
    [("latency-based-routing", "m_map"), ("cost-based-routing", "*_map*"), ("usage-based-routing", "m:rpm:*")],
)
async def test_maps_reach_redis_in_a_fraction_of_the_commands(make, redis_url, strategy, pattern):  # noqa: F811
    client = Redis.from_url(redis_url)
    router = make(strategy=strategy)
    await settle(router)
    client.delete(*(client.keys(pattern) or ["none"]))
    client.config_resetstat()
    await asyncio.gather(*(router.acompletion("m", messages=MESSAGES) for _ in range(40)))
    assert await until(lambda: client.keys(pattern))
    name = client.keys(pattern)[0].decode()
    assert {"d0", "d1"} >= set(await RedisCache.async_get_cache(router.cache.redis_cache, name)) > set()
    assert client.info("commandstats")["cmdstat_set"]["calls"] < 20


def test_cooldowns_are_sent_at_once_and_known_until_they_end():
    behind = WriteBehind(lambda id_: id_ in {"d0", "d1"})
    value = {"timestamp": 1.0, "cooldown_time": 5.0}
    assert behind.takes_cooldown("deployment:d0:cooldown", value)
    assert not behind.takes_cooldown("deployment:another:cooldown", value)
    behind.cool("ns:deployment:d0:cooldown", value, 5)
    behind.cool("ns:deployment:d1:cooldown", value, 0)
    assert behind.urgent() == [("SET", "ns:deployment:d0:cooldown", json.dumps(value), "EX", 5)]
    assert behind.urgent() == []
    keys = ["deployment:d0:cooldown", "deployment:d1:cooldown"]
    assert behind.cooldowns(keys) is None, "Redis was not asked yet"
    behind.saw(["d0", "d1"], [value, None])
    assert behind.cooldowns(keys) == {keys[0]: value, keys[1]: None}
    assert behind.cooldowns([*keys, "deployment:another:cooldown"]) is None
    assert behind.cooldowns([None]) is None
    behind.ended("d0")
    assert behind.cooldowns(keys) == {keys[0]: None, keys[1]: None}


@pytest.mark.slow
async def test_a_failure_while_redis_is_away_waits_for_nobody(make, own_redis):  # noqa: F811
    host, _, port = own_redis.url.removeprefix("redis://").split("/")[0].partition(":")
    router = make(redis_host=host, redis_port=int(port))
    _, state = await settle(router)
    client = Redis.from_url(own_redis.url)
    cache = router.cache.redis_cache
    both = ["deployment:d0:cooldown", "deployment:d1:cooldown"]
    assert await until(lambda: state.exchange.behind.cooldowns(both) is not None)
    await asyncio.to_thread(own_redis.kill)
    assert await until(lambda: not state.connected)
    # Each of these went to Redis, and waited for it, by itself.
    cooldown = {"exception_received": "x", "status_code": "429", "timestamp": time.time(), "cooldown_time": 60.0}
    cache.set_cache(both[0], cooldown, ttl=60)
    assert cache.increment_cache("d0:openai/test-model:rpm:09-05", 1, ttl=60) == 1
    assert cache.batch_get_cache(both) == await cache.async_batch_get_cache(both) == dict.fromkeys(both)
    with pytest.raises(ConnectionError):
        cache.increment_cache("deployment:d0:allowed_fails", 1, ttl=5)
    if hasattr(cache, "async_increment"):
        assert await cache.async_increment("d0:openai/test-model:rpm:09-05", 1, ttl=60) == 2
    await asyncio.to_thread(own_redis.start)
    assert await until(lambda: client.exists(both[0]))
    assert await until(lambda: client.get("d0:openai/test-model:rpm:09-05") == b"2")
    assert await until(lambda: not state.exchange.behind.away)
    assert cache.increment_cache("deployment:d0:allowed_fails", 1, ttl=5) == 1


@pytest.fixture
def asked(monkeypatch):
    """The commands that this process sends to Redis from any thread but ours, where a request may wait for them."""
    found: list[str] = []

    def note(command):
        if "fast" not in threading.current_thread().name:
            found.append(str(command))

    def counting(kind, name, of):
        original = getattr(kind, name)

        def method(self, *args, **kwargs):
            note(of(args))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, method)

    for kind, pipeline in ((Redis, Pipeline), (AsyncRedis, AsyncPipeline)):
        counting(kind, "execute_command", lambda args: args[0])
        counting(pipeline, "execute", lambda _args: "pipeline")
    return found


@pytest.mark.python_core  # 1.110 sends its commands through a client that this does not count
@pytest.mark.skipif(not hasattr(RedisCache, "increment_with_floor"), reason="every Router of the process counts before")
@pytest.mark.parametrize("strategy", ["least-busy", "usage-based-routing-v2", "simple-shuffle"])
async def test_no_request_of_several_routers_waits_for_redis(make, asked, strategy):  # noqa: F811
    one = make(strategy=strategy, rpm=100_000)
    two = make(strategy=strategy, rpm=100_000, prefix="e")
    for router in (one, two):
        await settle(router)
    asked.clear()
    for _ in range(10):
        await asyncio.gather(*(router.acompletion("m", messages=MESSAGES) for router in (one, two)))

    def synchronous():
        for _ in range(10):
            for router in (one, two):
                router.completion("m", messages=MESSAGES)

    thread = threading.Thread(target=synchronous)
    thread.start()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0.2)  # LiteLLM tells its strategies of the last answers on a thread of its own
    # 40 requests: what is left is LiteLLM's look at the group's usage, once in a while.
    assert len(asked) <= 4, asked


@pytest.mark.skipif(not hasattr(RedisCache, "increment_with_floor"), reason="every Router of the process counts before")
@pytest.mark.parametrize("strategy", ["least-busy", "usage-based-routing-v2", "simple-shuffle"])
async def test_no_request_waits_for_a_redis_that_hangs(make, own_redis, upstreams, strategy):  # noqa: F811
    """It takes commands and answers none, for as long as the requests last, those that fail among them."""
    host, _, port = own_redis.url.removeprefix("redis://").split("/")[0].partition(":")
    patient = {"socket_timeout": 100.0}
    router = make(
        strategy=strategy, redis_host=host, redis_port=int(port), cache_kwargs=patient, rpm=100_000, tpm=10**8
    )
    _, state = await settle(router)
    # LiteLLM's counters of this minute, too, must have been read once.
    assert await until(lambda: state.exchange.behind.seen is not None)

    def synchronous():
        for _ in range(3):
            router.completion("m", messages=MESSAGES)

    async def requests():
        for _ in range(3):
            await asyncio.gather(*(router.acompletion("m", messages=MESSAGES) for _ in range(5)))
        await asyncio.to_thread(synchronous)
        upstreams["u0"].order(error_rate=1.0)
        await asyncio.gather(*(router.acompletion("m", messages=MESSAGES) for _ in range(5)), return_exceptions=True)
        with contextlib.suppress(litellm.InternalServerError):
            await asyncio.to_thread(synchronous)

    try:
        with own_redis.paused():
            await asyncio.wait_for(requests(), 60)
    finally:
        upstreams["u0"].order(error_rate=0.0)


async def test_a_router_that_is_gone_writes_behind_another(make):  # noqa: F811
    one, two = make(), make(prefix="e")
    for router in (one, two):
        await settle(router)
    cache = one.cache.redis_cache
    state_of(fast_router.advanced_router(one)).close()
    assert behind_of(cache) is state_of(fast_router.advanced_router(two)).exchange.behind
    state_of(fast_router.advanced_router(two)).close()
    assert behind_of(cache) is None
