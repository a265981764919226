"""Celery routing when something dies, stops or misbehaves: every request is answered, nothing stays reserved."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest
import redis

from fast_router.celery_routing.envelope import Keys
from tests.celery_routing.help import THREE, Worker, queue_depth, routing_for, settings_for
from tests.support.forwarder import Forwarder
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.slow]


def in_flight(settings):
    client = redis.Redis.from_url(settings.redis_url)
    return sum(client.zcard(Keys(settings).load(candidate.id)) for candidate in THREE)


class Load:
    """Callers that ask all the time; every answer is a grant or None, anything else is an error."""

    def __init__(self, routing, callers=6):
        self.routing = routing
        self.granted = self.local = 0
        self.errors = []
        self._stop = False
        self._callers = callers

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._callers)]
        return self

    async def __aexit__(self, *_):
        self._stop = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)

    async def _call(self):
        while not self._stop:
            try:
                grant = await self.routing.decide("m", THREE)
            except Exception as error:
                self.errors.append(error)
                return
            if grant is None:
                self.local += 1
            else:
                self.granted += 1
                grant.release()
            await asyncio.sleep(0.005)

    async def more_grants(self):
        before = self.granted
        await until(lambda: self.granted > before + 10 or self.errors, seconds=60)


@pytest.mark.parametrize("victim", ["the whole worker", "its pool process"])
async def test_a_worker_killed_in_a_task_leaves_no_request_unanswered(amqp_url, redis_url, victim):
    settings = settings_for(amqp_url, redis_url, deadline=40.0)
    client = redis.Redis.from_url(redis_url)
    pool = "inline" if victim == "the whole worker" else "prefork"
    with Worker(settings, "--models", "m", "--pool", pool) as worker:
        async with routing_for(settings) as routing:
            (await routing.decide("m", THREE)).release()
            await until(lambda: in_flight(settings) == 0)
            # Redis answers nobody for a while, so the worker is in the middle of its task.
            client.execute_command("CLIENT", "PAUSE", "900", "ALL")
            asked = asyncio.create_task(routing.decide("m", THREE))
            await until(lambda: queue_depth(settings, "m") == 0)
            if victim == "the whole worker":
                worker.kill()
                with Worker(settings, "--models", "m"):
                    grant = await asked
            else:
                for child in worker.children():
                    os.kill(child, signal.SIGKILL)
                grant = await asked
            assert grant is not None
            # The dead worker's call may have reached Redis as well: one reservation all the same.
            assert in_flight(settings) == 1
            grant.release()
            await until(lambda: in_flight(settings) == 0)


async def test_rabbitmq_restarts_under_load(own_rabbit, redis_url):
    settings = settings_for(own_rabbit.url, redis_url, deadline=1.0)
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing, Load(routing) as load:
            await load.more_grants()
            await asyncio.to_thread(own_rabbit.kill)
            await until(lambda: load.local > 0 or load.errors)
            await asyncio.to_thread(own_rabbit.start)
            await load.more_grants()
        assert load.errors == []
        await until(lambda: in_flight(settings) == 0)


async def test_redis_dies_under_load_and_comes_back(amqp_url, own_redis):
    settings = settings_for(amqp_url, own_redis.url, deadline=1.0)
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing, Load(routing) as load:
            await load.more_grants()
            await asyncio.to_thread(own_redis.kill)
            await until(lambda: routing.stats()["local"].get("redis") or load.errors)
            await asyncio.to_thread(own_redis.start)
            await load.more_grants()
        assert load.errors == []
        await until(lambda: in_flight(settings) == 0)


async def test_a_frozen_redis_costs_no_more_than_the_deadline(amqp_url, own_redis):
    settings = settings_for(amqp_url, own_redis.url)
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing:
            (await routing.decide("m", THREE)).release()
            with own_redis.paused():
                answers = [await routing.decide("m", THREE, deadline=0.2) for _ in range(5)]
                assert answers == [None] * 5
                # Found out without anybody asking.
                await until(lambda: not routing.stats()["up"], seconds=20)
            assert await until(lambda: routing.decide("m", THREE, deadline=2))


async def test_a_frozen_worker_answers_late_and_reserves_nothing(amqp_url, redis_url):
    settings = settings_for(amqp_url, redis_url)
    with Worker(settings, "--models", "m") as worker:
        async with routing_for(settings) as routing:
            (await routing.decide("m", THREE)).release()
            await until(lambda: in_flight(settings) == 0)
            everybody = [worker.process.pid, *worker.children()]
            for pid in everybody:
                os.kill(pid, signal.SIGSTOP)
            try:
                answers = await asyncio.gather(*(routing.decide("m", THREE, deadline=0.1) for _ in range(5)))
            finally:
                for pid in reversed(everybody):
                    os.kill(pid, signal.SIGCONT)
            assert answers == [None] * 5
            grant = await until(lambda: routing.decide("m", THREE))
            await until(lambda: queue_depth(settings, "m") == 0 and in_flight(settings) == 1)
            grant.release()


@pytest.mark.parametrize("between", ["process and broker", "process and Redis", "worker and Redis"])
async def test_a_partition(amqp_url, redis_url, between):
    """Nothing gets through and nobody closes a connection: picked locally, and back by itself."""
    settings = settings_for(amqp_url, redis_url, deadline=0.2)
    with Forwarder(amqp_url if between.endswith("broker") else redis_url) as wire:
        there = replace(settings, **{"broker_url" if between.endswith("broker") else "redis_url": wire.url})
        mine, workers = (settings, there) if between.startswith("worker") else (there, settings)
        with Worker(workers, "--models", "m"):
            async with routing_for(mine) as routing:
                assert await until(lambda: routing.decide("m", THREE, deadline=5))
                async with Load(routing) as load:
                    await load.more_grants()
                    wire.cut()
                    await until(lambda: load.local > 20 or load.errors)
                    wire.mend()
                    await load.more_grants()
                assert load.errors == []
            # What was reserved for answers that nobody waited for is given back or lapses.
            await until(lambda: in_flight(settings) == 0)


@pytest.mark.parametrize("trouble", ["full", "read-only", "wrong type"])
async def test_a_redis_that_refuses(amqp_url, own_redis, trouble):
    settings = settings_for(amqp_url, own_redis.url)
    client = redis.Redis.from_url(own_redis.url)
    keys = Keys(settings)
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing:
            (await routing.decide("m", THREE)).release()
            await until(lambda: in_flight(settings) == 0)
            if trouble == "full":
                client.config_set("maxmemory-policy", "noeviction")
                client.config_set("maxmemory", 1)
            elif trouble == "read-only":
                client.execute_command("REPLICAOF", "127.0.0.1", "1")
            else:
                client.set(keys.load("one"), "no reservations here")
            answer = await routing.decide("m", THREE, deadline=0.5)
            # A full Redis still lets a script finish that has begun to write: there may be a grant.
            assert answer is None or trouble == "full"
            if trouble == "full":
                client.config_set("maxmemory", 0)
            elif trouble == "read-only":
                client.execute_command("REPLICAOF", "NO", "ONE")
            else:
                client.delete(keys.load("one"))
            assert await until(lambda: routing.decide("m", THREE, deadline=5))


async def test_nothing_there_at_all(amqp_url, redis_url):
    settings = replace(
        settings_for(amqp_url, redis_url),
        # Port 1 is nobody's on loopback.
        broker_url="amqp://guest:guest@127.0.0.1:1//",
        redis_url="redis://127.0.0.1:1/0",
        deadline=0.1,
    )
    from fast_router.celery_routing.routing import CeleryRouting

    routing = CeleryRouting(settings)
    try:
        assert [await routing.decide("m", THREE) for _ in range(50)] == [None] * 50
        assert routing.stats()["local"] == {"redis": 50}
    finally:
        await asyncio.wait_for(routing.close(), 20)
