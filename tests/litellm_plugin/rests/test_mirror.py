"""Cooldowns of other processes, read from LiteLLM's own keys in Redis when no shared state of ours does it."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from litellm import Router

import fast_router
from tests.support.plugin import core_of, discard, entry, router, sync_id, until

# 1.110 reads its cooldowns through a client of its own.
pytestmark = [pytest.mark.services, pytest.mark.python_core]


# LiteLLM does not ask Redis again for ten seconds about a key that it has not found there. So what cools down is said
# first, and under ids that no other test has asked for.


@pytest.fixture
def ids():
    return uuid.uuid4().hex, uuid.uuid4().hex


@pytest.fixture
def mine(redis_url, ids):
    """Our Router; one deployment of it cools down in another process, which is played by a Router without us."""
    host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
    redis = {"redis_host": host, "redis_port": int(port)}
    fast_router.disable()
    fast_router.configure(shared_state=False)
    other = Router(model_list=[entry(id_) for id_ in ids], num_retries=0, **redis)
    core_of(other).cooldown_cache.add_deployment_to_cooldown(ids[0], Exception("429"), 429, 60.0)
    fast_router.enable()
    yield router(*(entry(id_) for id_ in ids), **redis)
    discard()
    other.discard()
    fast_router.disable()
    fast_router.configure(shared_state=None)
    fast_router.enable()


def rests(made, id_):
    found = fast_router.advanced_router(made).deployments.get(id_)
    return found is not None and not found.eligible


async def test_a_pick_looks_at_redis_in_the_background(mine, ids):
    core = core_of(mine)

    async def pick():
        found = await core.async_get_available_deployment(model="m", request_kwargs={}, messages=[])
        return found["model_info"]["id"]

    assert await pick() in ids
    await until(lambda: rests(mine, ids[0]))
    assert {await pick() for _ in range(10)} == {ids[1]}


def test_a_synchronous_pick_does_so_from_a_thread(mine, ids):
    assert sync_id(mine) in ids
    asyncio.run(until(lambda: rests(mine, ids[0])))
    assert {sync_id(mine) for _ in range(10)} == {ids[1]}
