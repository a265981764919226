"""Celery routing from end to end: real broker, real Redis, real workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time

import pytest
import redis

from fast_router.celery_routing.envelope import Keys, queue_name
from fast_router.celery_routing.settings import Candidate
from fast_router.errors import ModelBusyError, RoutingTimeoutError
from tests.celery_routing.help import THREE, Worker, answers, publish_many, queue_depth, routing_for, settings_for
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.slow]

ONE_SLOT = [Candidate("only", qos_metric="inflight", qos_limit=1)]


@pytest.fixture(params=["rabbitmq", "redis"])
def settings(request, redis_url):
    broker = request.getfixturevalue("amqp_url") if request.param == "rabbitmq" else redis_url
    return settings_for(broker, redis_url)


@pytest.fixture
def rabbit_settings(amqp_url, redis_url):
    return settings_for(amqp_url, redis_url)


async def test_a_worker_grants_and_the_slot_comes_back(settings):
    client = redis.Redis.from_url(settings.redis_url)
    keys = Keys(settings)
    with Worker(settings):
        async with routing_for(settings) as routing:
            # Nobody told the worker about the model: its queue is picked up while it runs.
            grant = await routing.decide("new-model", THREE)
            assert grant in {"one", "two", "three"}
            assert client.zcard(keys.load(grant)) == 1
            grant.first_token()
            assert grant.release(completion_tokens=10)
            assert not grant.release(), "exactly once"
            await until(lambda: client.zcard(keys.load(grant)) == 0)
            measured = client.hgetall(keys.stat(grant))
            assert float(measured[b"n"]) == 1
            assert float(measured[b"ttftw"]) == float(measured[b"tokw"]) == 1
            assert routing.stats()["granted"] == 1


async def test_synchronous_callers_and_threads(settings):
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing:
            grants = await asyncio.gather(*(asyncio.to_thread(routing.decide_sync, "m", THREE) for _ in range(6)))
            assert all(grants)
            assert len({grant.rid for grant in grants}) == 6
            other: list[object] = []

            def loop_of_its_own() -> None:
                other.append(asyncio.run(routing.decide("m", THREE)))

            thread = threading.Thread(target=loop_of_its_own)
            thread.start()
            await asyncio.to_thread(thread.join, 30)
            assert other[0] in {"one", "two", "three"}


async def test_many_at_once_share_fairly(settings):
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing:
            grants = await asyncio.gather(*(routing.decide("m", THREE) for _ in range(60)))
            assert sorted(grants.count(candidate.id) for candidate in THREE) == [20, 20, 20]


async def test_busy_waits_for_a_slot_and_goes_on_at_once(settings):
    with Worker(settings, "--models", "m"):
        async with routing_for(settings, retry_countdown=15.0, retry_countdown_max=15.0) as routing:
            first = await routing.decide("m", ONE_SLOT)
            second = asyncio.create_task(routing.decide("m", ONE_SLOT))
            await until(lambda: routing._resting.get("m"))
            begun = time.monotonic()
            first.release()
            grant = await second
            assert grant == "only"
            assert routing.stats()["retries"] == 1
            assert time.monotonic() - begun < 11, "woken by the release, not by its countdown"


async def test_busy_at_every_retry_is_503_with_retry_after(settings):
    with Worker(settings, "--models", "m"):
        async with routing_for(settings, retry_countdown=0.01, max_retries=3) as routing:
            grant = await routing.decide("m", ONE_SLOT)
            with pytest.raises(ModelBusyError, match="Model is too busy") as caught:
                await routing.decide("m", ONE_SLOT)
            assert caught.value.status_code == 503
            assert caught.value.retry_after >= 1
            assert routing.stats()["retries"] == 3
            assert grant.release()


async def test_waiting_too_long_is_504(settings):
    with Worker(settings, "--models", "m"):
        async with routing_for(settings, retry_countdown=0.05, max_retries=1000, soft_time_limit=0.5) as routing:
            grant = await routing.decide("m", ONE_SLOT)
            with pytest.raises(RoutingTimeoutError) as caught:
                await routing.decide("m", ONE_SLOT)
            assert caught.value.status_code == 504
            assert grant.release()


async def test_each_retry_is_scored_anew(settings):
    slots = [Candidate("a", qos_metric="inflight", qos_limit=1), Candidate("b", qos_metric="inflight", qos_limit=1)]
    with Worker(settings, "--models", "m"):
        async with routing_for(settings, retry_countdown=0.2, max_retries=100) as routing:
            held = {str(grant): grant for grant in [await routing.decide("m", slots), await routing.decide("m", slots)]}
            waiting = asyncio.create_task(routing.decide("m", slots))
            await until(lambda: routing.stats()["retries"] >= 1)
            held["b"].release()
            assert await waiting == "b"


async def test_a_late_answer_gives_its_slot_back(rabbit_settings):
    client = redis.Redis.from_url(rabbit_settings.redis_url)
    keys = Keys(rabbit_settings)
    async with routing_for(rabbit_settings) as routing:
        link = routing._main
        # An answer to a request that nobody waits for, written as the worker's script does.
        client.zadd(keys.load("one"), {f"{link.process}:999.0": time.time() * 1000 + 60_000})
        client.set(keys.request(f"{link.process}:999.0"), "=one", px=60_000)
        client.rpush(link.reply_key, f"{link.process}:999.0 G one")
        await until(lambda: client.zcard(keys.load("one")) == 0)
        assert routing.stats()["late"] == 1


async def test_a_request_that_gave_up_reserves_nothing_later(rabbit_settings):
    client = redis.Redis.from_url(rabbit_settings.redis_url)
    keys = Keys(rabbit_settings)
    settings = rabbit_settings
    async with routing_for(settings) as routing:
        # The task waits in the queue, without a worker, beyond the deadline. A long-lived copy is put beside it.
        assert await routing.decide("m", THREE, deadline=0.05) is None
        assert routing.stats()["local"] == {"deadline": 1}
        (marker,) = await until(lambda: client.keys(f"{settings.key_prefix}:req:*"))
        rid = marker.decode().rsplit(":req:")[1]
        assert client.get(marker) == b"-"
        publish_many(settings, "m", 1, routing._main.reply_key, prefix=rid[:-1])
        with Worker(settings, "--models", "m"):
            grant = await routing.decide("m", THREE)
            assert grant
            assert sum(client.zcard(keys.load(candidate.id)) for candidate in THREE) == 1


async def test_a_cancelled_caller_leaves_no_reservation(rabbit_settings):
    client = redis.Redis.from_url(rabbit_settings.redis_url)
    keys = Keys(rabbit_settings)
    with Worker(rabbit_settings, "--models", "m"):
        async with routing_for(rabbit_settings) as routing:
            (await routing.decide("m", THREE)).release()
            for _ in range(20):
                task = asyncio.create_task(routing.decide("m", THREE))
                await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            grant = await routing.decide("m", THREE)
            assert grant is not None
            del grant  # dropped without a release: counts as cancelled
            await until(lambda: sum(client.zcard(keys.load(candidate.id)) for candidate in THREE) == 0)


async def test_a_dead_api_process_leaks_nothing(amqp_url, redis_url):
    settings = settings_for(amqp_url, redis_url, reservation_ttl=1.5)
    client = redis.Redis.from_url(redis_url)
    keys = Keys(settings)
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing:
            mine = await routing.decide("m", [Candidate("mine")])
            child = os.fork()
            if not child:
                code = 1
                try:
                    # The child has links of its own: the parent's sockets stay the parent's.
                    asyncio.set_event_loop(None)
                    grant = routing.decide_sync("m", [Candidate("theirs")])
                    code = 0 if grant == "theirs" else 2
                finally:
                    os.kill(os.getpid(), 9) if code == 0 else os._exit(code)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert os.WIFSIGNALED(status), "the child got its grant and died with it"
            await until(
                lambda: client.zcount(keys.load("theirs"), time.time() * 1000, "+inf") == 0, seconds=10, every=0.1
            )
            # The parent's own request lives on: it has a heartbeat.
            assert client.zcount(keys.load("mine"), time.time() * 1000, "+inf") == 1
            assert await routing.decide("m", THREE), "and its connections still work"
            mine.release()


async def test_a_picked_provider_is_visible_to_the_workers(rabbit_settings):
    with Worker(rabbit_settings, "--models", "m"):
        async with routing_for(rabbit_settings, max_retries=0) as routing:
            local = await routing.note_local("m", "only")
            with pytest.raises(ModelBusyError):
                await routing.decide("m", ONE_SLOT)
            local.release()
            await until(lambda: routing.stats()["held"] == 0)


async def test_priority_overtakes(rabbit_settings):
    settings = rabbit_settings
    client = redis.Redis.from_url(settings.redis_url)
    async with routing_for(settings) as routing:
        publish_many(settings, "m", 300, answers(settings))
        low = asyncio.create_task(routing.decide("m", THREE, priority=0))
        high = asyncio.create_task(routing.decide("m", THREE, priority=9))
        await until(lambda: queue_depth(settings, "m") == 302)
        with Worker(settings, "--models", "m"):
            assert await high
            # A worker that had taken turns would have answered about three hundred others first.
            assert client.llen(answers(settings)) < 150
            assert not low.done()
            assert await low


async def test_a_full_queue_is_picked_locally(settings):
    settings = type(settings)(**{**settings.__dict__, "max_queue_length": 5})
    async with routing_for(settings) as routing:
        # Each with a priority of its own: requests of one priority would travel in one task.
        asked = [routing.decide("m", THREE, deadline=1.0, priority=number % 11) for number in range(11)]
        assert await asyncio.gather(*asked) == [None] * 11
        assert routing.stats()["local"] == {"deadline": 5, "full": 6}


async def test_requests_of_one_moment_travel_together(rabbit_settings):
    async with routing_for(rabbit_settings) as routing:
        asked = [asyncio.create_task(routing.decide("m", THREE)) for _ in range(20)]
        await until(lambda: len(routing._main.waiting) == 20)
        await until(lambda: queue_depth(rabbit_settings, "m") == 3)
        with Worker(rabbit_settings, "--models", "m"):
            grants = await asyncio.gather(*asked)
        assert len({grant.rid for grant in grants}) == 20


async def test_requests_wait_for_company_while_tasks_are_under_way(rabbit_settings):
    async with routing_for(rabbit_settings) as routing:
        asked = []
        for _ in range(30):
            asked.append(asyncio.create_task(routing.decide("m", THREE)))
            await until(lambda: len(routing._main.waiting) == len(asked), every=0)
        await until(lambda: len(routing._main._flights) == 30)
        assert len(set(routing._main._flights.values())) < 20, "tasks"
        with Worker(rabbit_settings, "--models", "m"):
            assert all(await asyncio.gather(*asked))
        assert routing._main._lanes == {}, "nothing is remembered of a model without requests"
        assert routing._main._flights == {}


async def test_a_request_given_up_before_it_left_is_not_asked_for(rabbit_settings):
    async with routing_for(rabbit_settings) as routing:
        stay = [asyncio.create_task(routing.decide("m", THREE)) for _ in range(2)]
        leave = asyncio.create_task(routing.decide("m", THREE))
        await until(lambda: len(routing._main.waiting) == 3, every=0)
        leave.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leave
        with Worker(rabbit_settings, "--models", "m"):
            assert all(await asyncio.gather(*stay))
        assert routing._main._flights == {}


async def test_silence_is_probed_by_one_request_a_second(rabbit_settings):
    async with routing_for(rabbit_settings) as routing:
        for _ in range(3):
            assert await routing.decide("m", THREE, deadline=0.02) is None
        assert await routing.decide("m", THREE) is None, "not even a long deadline is waited for"
        assert routing.stats()["local"] == {"deadline": 3, "paused": 1}
        with Worker(rabbit_settings, "--models", "m"):
            # Comes back by itself.
            assert await until(lambda: routing.decide("m", THREE, deadline=5))


async def test_isolation_from_a_flood(amqp_url, redis_url):
    settings = settings_for(amqp_url, redis_url)
    publish_many(settings, "crowd", 10_000, answers(settings))
    with Worker(settings, "--models", "calm"), Worker(settings, "--models", "crowd"):
        async with routing_for(settings) as routing:
            await until(lambda: redis.Redis.from_url(redis_url).llen(answers(settings)) > 0)
            grants = [await routing.decide("calm", THREE) for _ in range(20)]
            assert all(grants)
            assert queue_depth(settings, "crowd") > 1000, "the flood was still there while the others were answered"


async def test_models_of_a_file_come_and_go(amqp_url, redis_url, tmp_path):
    settings = settings_for(amqp_url, redis_url)
    client = redis.Redis.from_url(redis_url)
    config = tmp_path / "config.yaml"

    def write(*models):
        entries = [{"model_name": name, "litellm_params": {"model": f"openai/{name}"}} for name in models]
        config.write_text(json.dumps({"model_list": entries}))

    write("first")
    with Worker(settings, "--config", str(config)):
        publish_many(settings, "first", 1, answers(settings), prefix="a")
        await until(lambda: client.llen(answers(settings)) == 1)
        config.write_text("model_list: {not: [a, list")
        write("first", "second")
        publish_many(settings, "second", 1, answers(settings), prefix="b")
        await until(lambda: client.llen(answers(settings)) == 2)


async def test_another_release_declared_the_queue(amqp_url, redis_url):
    old = settings_for(amqp_url, redis_url, max_priority=5)
    publish_many(old, "m", 1, answers(old))
    new = settings_for(amqp_url, redis_url, queue_prefix=old.queue_prefix, max_priority=10)
    assert queue_name(old, "m") == queue_name(new, "m")
    with Worker(new, "--models", "m"):
        async with routing_for(new) as routing:
            assert await routing.decide("m", THREE)
