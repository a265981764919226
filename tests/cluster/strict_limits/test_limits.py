"""`limits: strict`: the fleet together keeps a limit, whoever dies or stalls."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

import fast_router.cluster
from fast_router.cluster.strict_limits.limits import caps_of
from fast_router.errors import NoDeploymentError
from tests.cluster.shared import entries, member
from tests.support.waiting import until_sync

pytestmark = pytest.mark.services

KEY = "fast_router:{default}:1"


def strict(url, **settings):
    return {"url": url, "limits": "strict", "admission_timeout": 2.0, **settings}


async def test_two_processes_together_keep_the_parallel_limit(redis_url):
    model_list = entries(2, max_parallel_requests=3)
    with (
        member(**strict(redis_url), model_list=model_list) as (one, _),
        member(**strict(redis_url), model_list=model_list) as (two, _),
    ):

        async def ask(router):
            try:
                return await fast_router.cluster.acquire(router, "m")
            except NoDeploymentError:
                return None

        leases = await asyncio.gather(*(ask(one if n % 2 else two) for n in range(20)))
        taken = [lease for lease in leases if lease is not None]
        assert len(taken) == 6
        assert sorted(lease.id for lease in taken) == ["d0"] * 3 + ["d1"] * 3
        for lease in taken:
            lease.release()
        client = Redis.from_url(redis_url)
        assert until_sync(lambda: not client.zcard(f"{KEY}:slots:d0") and not client.zcard(f"{KEY}:slots:d1"))
        assert await ask(one) is not None


async def test_two_processes_together_keep_the_requests_per_minute(redis_url):
    model_list = entries(1, rpm=10)
    with (
        member(**strict(redis_url), model_list=model_list) as (one, _),
        member(**strict(redis_url), model_list=model_list) as (two, _),
    ):
        minute = one.engine.wall() // 60
        admitted = refused = 0
        waits = []
        for n in range(16):
            try:
                lease = await fast_router.cluster.acquire(one if n % 2 else two, "m")
            except NoDeploymentError as error:
                refused += 1
                waits.append(error.retry_after)
            else:
                admitted += 1
                lease.release()
        if one.engine.wall() // 60 == minute:
            assert (admitted, refused) == (10, 6)
            assert all(0 < wait <= 60 for wait in waits)


async def test_tokens_are_reserved_then_counted(redis_url):
    client = Redis.from_url(redis_url)
    model_list = entries(1, tpm=100)
    with member(**strict(redis_url), model_list=model_list) as (one, _):
        minute = one.engine.wall() // 60
        lease = await fast_router.cluster.acquire(one, "m", tokens=60)
        assert float(client.hget(f"{KEY}:usage:d0", "t")) == 60
        with pytest.raises(NoDeploymentError):
            await fast_router.cluster.acquire(one, "m", tokens=60)
        lease.release(total_tokens=75)
        counted = until_sync(lambda: float(client.hget(f"{KEY}:usage:d0", "t")) == 75)
        assert counted or one.engine.wall() // 60 != minute


async def test_a_deployment_without_limits_needs_no_admission(redis_url):
    with member(**strict(redis_url)) as (one, state):
        assert not caps_of(one.deployments["d0"]).any
        lease = await fast_router.cluster.acquire(one, "m")
        assert state.status()["limits"]["admitted"] == 0
        lease.release()


async def test_slots_of_living_leases_are_renewed(redis_url):
    client = Redis.from_url(redis_url)
    model_list = entries(1, max_parallel_requests=1)
    with member(**strict(redis_url, reservation_ttl=1.0), model_list=model_list) as (one, _):
        lease = await fast_router.cluster.acquire(one, "m")
        first = client.zrange(f"{KEY}:slots:d0", 0, 0, withscores=True)[0]
        assert until_sync(lambda: client.zrange(f"{KEY}:slots:d0", 0, 0, withscores=True)[0][1] > first[1] + 1000)
        with pytest.raises(NoDeploymentError):
            await fast_router.cluster.acquire(one, "m")
        lease.release()


async def test_a_dropped_lease_gives_its_slot_back(redis_url):
    client = Redis.from_url(redis_url)
    model_list = entries(1, max_parallel_requests=1)
    with member(**strict(redis_url), model_list=model_list) as (one, _):
        lease = await fast_router.cluster.acquire(one, "m")
        lease.abandon()
        del lease
        assert until_sync(lambda: client.zcard(f"{KEY}:slots:d0") == 0)


async def test_without_redis_each_process_decides_alone(own_redis):
    model_list = entries(1, max_parallel_requests=2)
    settings = strict(own_redis.url, admission_timeout=0.05, timeout=0.3)
    with member(**settings, model_list=model_list) as (one, state):
        first = await fast_router.cluster.acquire(one, "m")
        with own_redis.paused():
            second = await fast_router.cluster.acquire(one, "m")
            # Its own count still holds.
            with pytest.raises(NoDeploymentError):
                await fast_router.cluster.acquire(one, "m")
            assert state.status()["limits"]["alone"] >= 1
        second.release()
        first.release()
        assert until_sync(lambda: state.connected)
        assert until_sync(lambda: one.deployments["d0"].in_flight == 0)


async def test_a_script_that_the_server_forgot_is_sent_again(redis_url):
    client = Redis.from_url(redis_url)
    model_list = entries(1, max_parallel_requests=5)
    with member(**strict(redis_url), model_list=model_list) as (one, state):
        for _ in range(3):
            client.script_flush()
            (await fast_router.cluster.acquire(one, "m")).release()
        assert state.status()["limits"]["admitted"] == 3


def test_many_event_loops_and_threads(redis_url):
    model_list = entries(1, max_parallel_requests=7)
    with member(**strict(redis_url), model_list=model_list) as (one, _):

        async def ask():
            try:
                return await fast_router.cluster.acquire(one, "m")
            except NoDeploymentError:
                return None

        with ThreadPoolExecutor(8) as pool:
            leases = list(pool.map(lambda _: asyncio.run(ask()), range(24)))
        assert sum(lease is not None for lease in leases) == 7
