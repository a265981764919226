"""Four real proxy workers in two process groups act as one; an upstream and a routing worker die, nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
import yaml
from redis import Redis

from fast_router.testing import Upstream
from fast_router.testing.servers import free_port
from tests.celery_routing.help import Worker, settings_for
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.proxy, pytest.mark.slow, pytest.mark.timeout(500)]

SCRIPTS = Path(sys.executable).parent
KEY = "sk-master-of-this-test"
CHAT = {"model": "small", "messages": [{"role": "user", "content": "Who answers?"}]}
REQUESTS = 240
AT_ONCE = 8


@pytest.fixture
def upstreams():
    started = [Upstream(models=("small",), name=f"u{number}", latency=0.02).start() for number in range(3)]
    yield started
    for upstream in started:
        upstream.stop()


@contextlib.contextmanager
def proxies(folder: Path, upstreams, **environment: str):
    """Two proxies of two workers each, as users start them; gives their addresses."""
    config = folder / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": [
                    {
                        "model_name": "small",
                        "litellm_params": {"model": "openai/small", "api_base": upstream.api_base, "api_key": "none"},
                        "model_info": {"id": upstream.name},
                    }
                    for upstream in upstreams
                ],
                "router_settings": {"num_retries": 3, "routing_strategy": "least-busy"},
            }
        )
    )
    started, urls = [], []
    try:
        for number in range(2):
            port = str(free_port())
            command = (SCRIPTS / "fast-router", "run", "--", SCRIPTS / "litellm", "--config", config, "--port", port)
            with (folder / f"proxy-{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [*map(str, command), "--host", "127.0.0.1", "--num_workers", "2", "--run_gunicorn"],
                        env={
                            **os.environ,
                            "XDG_RUNTIME_DIR": str(folder),
                            "LITELLM_MASTER_KEY": KEY,
                            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                            **environment,
                        },
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
            urls.append(f"http://127.0.0.1:{port}")
        yield urls, started
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


async def ask(url: str) -> httpx.Response:
    # A connection of its own: whichever worker accepts it answers.
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
        return await client.post(f"{url}/v1/chat/completions", json=CHAT)


async def four_are_up(urls, started, redis: Redis) -> None:
    """Wait until every worker has routed something and shares what it knows."""

    async def well() -> bool:
        assert all(process.poll() is None for process in started), "a proxy ended"
        with contextlib.suppress(httpx.TransportError):
            await asyncio.gather(*(ask(url) for url in urls for _ in range(4)))
            keys = redis.keys("fast_router:{*}:1:instances")
            return sum(redis.hlen(key) for key in keys) == 4
        return False

    await until(well, 300, every=0.3)


async def load(urls, kill) -> Counter[int]:
    """Requests to both proxies, and a murder when a third of them is answered."""
    answers: Counter[int] = Counter()
    limit = asyncio.Semaphore(AT_ONCE)
    third = asyncio.Event()

    async def one(number: int) -> None:
        async with limit:
            response = await ask(urls[number % len(urls)])
        answers[response.status_code] += 1
        if answers.total() == REQUESTS // 3:
            third.set()

    async def murder() -> None:
        await third.wait()
        await asyncio.to_thread(kill)

    await asyncio.gather(murder(), *(one(number) for number in range(REQUESTS)))
    return answers


def test_with_redis(redis_url, upstreams, tmp_path):
    async def main(urls, started) -> Counter[int]:
        with Redis.from_url(redis_url) as redis:
            await four_are_up(urls, started, redis)
            return await load(urls, upstreams[2].stop)

    with proxies(tmp_path, upstreams, FAST_ROUTER_REDIS_URL=redis_url) as (urls, started):
        answers = asyncio.run(main(urls, started))
    assert answers == {200: REQUESTS}
    assert all(upstream.records.served for upstream in upstreams)


def test_with_celery(redis_url, amqp_url, upstreams, tmp_path):
    settings = settings_for(amqp_url, redis_url, deadline=2.0)

    async def main(urls, started, victim: Worker) -> tuple[Counter[int], float]:
        def kill() -> None:
            victim.kill()
            upstreams[2].stop()

        with Redis.from_url(redis_url) as redis:
            await four_are_up(urls, started, redis)
            answers = await load(urls, kill)
            keys = redis.keys(f"{settings.key_prefix}:stat:*")
            return answers, sum(float(redis.hget(key, "g") or 0) for key in keys)

    environment = {
        "FAST_ROUTER_ROUTING": "celery",
        "FAST_ROUTER_REDIS_URL": redis_url,
        "FAST_ROUTER_CELERY_BROKER_URL": amqp_url,
        "FAST_ROUTER_CELERY_QUEUE_PREFIX": settings.queue_prefix,
        "FAST_ROUTER_CELERY_KEY_PREFIX": settings.key_prefix,
        "FAST_ROUTER_CELERY_DEADLINE": str(settings.deadline),
    }
    with (
        Worker(settings, "--models", "small") as victim,
        Worker(settings, "--models", "small"),
        proxies(tmp_path, upstreams, **environment) as (urls, started),
    ):
        answers, granted = asyncio.run(main(urls, started, victim))
    assert answers == {200: REQUESTS}
    assert granted > 10, "workers chose"
    assert all(upstream.records.served for upstream in upstreams)
