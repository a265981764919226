"""LiteLLM's counters keep their values; only the number of commands changes."""

from __future__ import annotations

import asyncio

import pytest
from litellm.caching.redis_cache import RedisCache
from redis import Redis

import fast_router
from fast_router.cluster.behind import WriteBehind
from fast_router.cluster.plugin import SETTLED_PICKS
from tests.cluster.shared import until
from tests.cluster.test_plugin import MESSAGES, _enabled, make, settle, upstreams  # noqa: F401 - fixtures

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
    counted = await asyncio.to_thread(
        until, lambda: sums(client, "global_router:*:rpm:*") - before >= 60 or state.exchange.minute() != minute
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
        seen = await asyncio.to_thread(until, lambda: sums(client, "m_request_count:*") == 6)
        assert seen, {key: client.get(key) for key in client.keys("m_request_count:*")}
        client.config_resetstat()
    await asyncio.gather(*calls)
    assert await asyncio.to_thread(until, lambda: sums(client, "m_request_count:*") == 0)
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
