"""Cooldowns of other processes, read from LiteLLM's own keys in Redis when no shared state of ours does it."""

from __future__ import annotations

import asyncio

import pytest
from litellm import Router
from plugin_support import core_of, discard, entry, pick_id, router, sync_id, until

import fast_router
from fast_router.litellm_plugin import cooldowns

pytestmark = pytest.mark.services


@pytest.fixture
def fleet(redis_url):
    """Two Routers over one Redis: ours, and one that stands for another process without us."""
    host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
    redis = {"redis_host": host, "redis_port": int(port)}
    fast_router.configure(shared_state=False)
    fast_router.enable()
    mine = router(entry("a"), entry("b"), **redis)
    other = Router(model_list=[entry("a"), entry("b")], num_retries=0, **redis)
    yield mine, core_of(other).cooldown_cache
    discard()
    other.discard()
    fast_router.configure(shared_state=None)


def rests(made, id_):
    return not fast_router.advanced_router(made).deployments[id_].eligible


def cool_elsewhere(cache, id_):
    cache.add_deployment_to_cooldown(id_, Exception("429"), 429, 60.0)


async def test_a_pick_looks_at_redis_in_the_background(fleet):
    mine, cache = fleet
    pick = core_of(mine)
    await pick.async_get_available_deployment(model="m", request_kwargs={}, messages=[])
    cool_elsewhere(cache, "a")
    binding = cooldowns_binding(mine)
    binding.redis_due = 0.0
    await pick.async_get_available_deployment(model="m", request_kwargs={}, messages=[])
    await until(lambda: rests(mine, "a"))
    found = [await pick.async_get_available_deployment(model="m", request_kwargs={}, messages=[]) for _ in range(10)]
    assert {deployment["model_info"]["id"] for deployment in found} == {"b"}


def test_a_synchronous_pick_does_so_from_a_thread(fleet):
    mine, cache = fleet
    sync_id(mine)
    cool_elsewhere(cache, "b")
    cooldowns_binding(mine).redis_due = 0.0
    sync_id(mine)
    asyncio.run(until(lambda: rests(mine, "b")))
    assert {sync_id(mine) for _ in range(10)} == {"a"}


def test_a_router_that_starts_later_knows_what_cools_down(fleet):
    mine, cache = fleet
    cool_elsewhere(cache, "a")
    pick_id(mine)
    cooldowns_binding(mine).redis_due = 0.0
    pick_id(mine)
    sync_id(mine)
    asyncio.run(until(lambda: rests(mine, "a")))


def cooldowns_binding(made):
    """What keeps our side of a Router; its next look at Redis is made due, so that no test waits for the clock."""
    return vars(core_of(made))[cooldowns._KEY]
