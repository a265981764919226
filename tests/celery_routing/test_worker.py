"""The worker's processes, its pools under a backlog, and tasks that are none."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
from dataclasses import replace

import pytest
import redis
from amqp import Message
from kombu import Connection

from fast_router.celery_routing.envelope import Keys, amqp_headers, queue_name
from tests.celery_routing.help import THREE, Worker, answers, publish_many, queue_depth, routing_for, settings_for
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.mark.parametrize("pool", ["inline", "prefork", "threads"])
async def test_the_backlog_drains(amqp_url, redis_url, pool):
    """The guard against pools that stall: tasks first, then the worker; a stall means 0 to 14 a second."""
    settings = settings_for(amqp_url, redis_url)
    client = redis.Redis.from_url(redis_url)
    publish_many(settings, "m", 500, answers(settings))
    with Worker(settings, "--models", "m", "--pool", pool):
        await until(lambda: client.llen(answers(settings)) > 0)
        begun, already = time.monotonic(), client.llen(answers(settings))
        await until(lambda: client.llen(answers(settings)) == 500, seconds=60)
        rate = (500 - already) / (time.monotonic() - begun)
    # A stalled pool waits on timers, an overloaded machine does not: no more than the figure is asked,
    # and a tenth of it where other work fills every core.
    crowded = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    assert rate > (20 if crowded else 200)
    assert queue_depth(settings, "m") == 0


async def test_several_processes_are_kept_and_stopped_together(amqp_url, redis_url):
    settings = settings_for(amqp_url, redis_url)
    with Worker(settings, "--models", "m", "--concurrency", "2") as worker:
        async with routing_for(settings) as routing:
            assert await routing.decide("m", THREE)
            await until(lambda: len(worker.children()) == 2)
            killed = worker.children()[0]
            os.kill(killed, signal.SIGKILL)
            await until(lambda: len(set(worker.children()) - {killed}) == 2)
            assert await routing.decide("m", THREE)
        children = worker.children()
        assert worker.stop() == 0
        assert not any(_alive(pid) for pid in children)


async def test_processes_end_with_their_parent(amqp_url, redis_url):
    settings = settings_for(amqp_url, redis_url)
    with Worker(settings, "--models", "m", "--concurrency", "2") as worker:
        async with routing_for(settings) as routing:
            assert await routing.decide("m", THREE)
            children = await until(lambda: len(worker.children()) == 2 and worker.children())
        worker.process.kill()
        worker.process.wait()
        await until(lambda: not any(_alive(pid) for pid in children), every=0.05)


async def test_tasks_that_are_not_ours_stop_nobody(amqp_url, redis_url):
    settings = settings_for(amqp_url, redis_url)
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing:
            assert await routing.decide("m", THREE)
            connection = Connection(settings.broker_url).connect()
            for payload, kind in (
                (pickle.dumps(([os.getcwd], {}, {})), "application/x-python-serialize"),
                (b"not json", "application/json"),
                (b"[[], {}, {}]", "application/json"),
                (b'[[["text"]], {}, {}]', "application/json"),
                (b'[[[{"id": "x"}]], {}, {}]', "application/json"),
                (b"7", "application/json"),
            ):
                message = Message(
                    payload,
                    application_headers=amqp_headers("foreign"),
                    content_type=kind,
                    content_encoding="binary" if "python" in kind else "utf-8",
                )
                connection.channel().basic_publish(message, exchange="", routing_key=queue_name(settings, "m"))
            connection.close()
            assert await routing.decide("m", THREE)
            await until(lambda: queue_depth(settings, "m") == 0)


async def test_a_process_with_other_keys_gets_no_reservation(amqp_url, redis_url):
    """Another version of the layout with the same queues: nothing may be reserved where it does not look."""
    settings = settings_for(amqp_url, redis_url)
    other = replace(settings, key_prefix=f"{settings.key_prefix}:2")
    client = redis.Redis.from_url(redis_url)
    with Worker(settings, "--models", "m"):
        async with routing_for(settings) as routing, routing_for(other) as stranger:
            assert await routing.decide("m", THREE)
            before = {key: client.type(key) for key in client.keys(f"{other.key_prefix}:*")}
            assert await stranger.decide("m", THREE, deadline=0.3) is None
            assert await routing.decide("m", THREE)
            loads = [Keys(one).load(candidate.id) for one in (settings, other) for candidate in THREE]
            await until(lambda: sum(client.zcard(key) for key in loads) == 0)
            assert not [key for key in client.keys(f"{other.key_prefix}:load:*") if key not in before]


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        # One that has ended, but was not asked for its exit code, still has an entry.
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    return False
