"""Celery routing from end to end: two workers, two LiteLLM proxies, three upstreams.

    python examples/celery/run.py

Half-way through, one upstream and one worker are killed. Every request must be answered. RabbitMQ and Redis are
private servers of this run, or the ones that FAST_ROUTER_CELERY_BROKER_URL and FAST_ROUTER_REDIS_URL name.
"""

# example: timeout 300

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from redis import Redis

from fast_router.testing import Upstream
from fast_router.testing.servers import RabbitServer, RedisServer, free_port

HERE = Path(__file__).parent
SCRIPTS = Path(sys.executable).parent
KEY = "sk-example"


def servers(undo: contextlib.ExitStack) -> dict[str, str]:
    broker = os.environ.get("FAST_ROUTER_CELERY_BROKER_URL") or undo.enter_context(RabbitServer()).url
    redis = os.environ.get("FAST_ROUTER_REDIS_URL") or undo.enter_context(RedisServer()).url
    return {"FAST_ROUTER_CELERY_BROKER_URL": broker, "FAST_ROUTER_REDIS_URL": redis}


def start(undo: contextlib.ExitStack, log: Path, environment: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
    )

    def stop() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    undo.callback(stop)
    return process


def until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/liveliness", timeout=5).is_success:
                return
        time.sleep(0.2)
    sys.exit(f"a proxy did not start:\n{log.read_text(errors='replace')[-2000:]}")


async def ask(client: httpx.AsyncClient, url: str, answers: Counter[str]) -> None:
    response = await client.post(
        f"{url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {KEY}"},
        json={"model": "small", "messages": [{"role": "user", "content": "Who are you?"}]},
    )
    # LiteLLM says in a header which deployment answered.
    answers[response.headers.get("x-litellm-model-id", "?") if response.is_success else str(response.status_code)] += 1


async def load(urls: list[str], requests: int) -> Counter[str]:
    answers: Counter[str] = Counter()
    limit = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with limit:
            await ask(client, urls[number % len(urls)], answers)

    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(one(number) for number in range(requests)))
    return answers


def chosen_by_workers(url: str) -> dict[str, int]:
    """Recent grants as the workers count them (older ones weigh less)."""
    client = Redis.from_url(url, decode_responses=True)
    stats = client.keys("fast_router:celery:*:stat:*")
    grants = {key.rsplit(":", 1)[1]: round(float(client.hget(key, "g") or 0)) for key in sorted(stats)}
    if not any(grants.values()):
        sys.exit("no worker was asked")
    return grants


def main() -> None:
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        upstreams = [undo.enter_context(Upstream(models=("small",))) for _ in range(3)]
        environment = {
            **servers(undo),
            **{f"UPSTREAM_{number}": upstream.api_base for number, upstream in enumerate(upstreams, 1)},
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        config = str(HERE / "config.yaml")
        fast_router = str(SCRIPTS / "fast-router")
        workers = [
            start(undo, folder / f"worker-{n}.log", environment, fast_router, "worker", "--config", config)
            for n in (1, 2)
        ]
        urls = []
        proxies = []
        for n in (1, 2):
            port = str(free_port())
            log = folder / f"proxy-{n}.log"
            command = (fast_router, "run", "--", str(SCRIPTS / "litellm"), "--config", config, "--port", port)
            proxies.append((start(undo, log, environment, *command, "--host", "127.0.0.1"), log))
            urls.append(f"http://127.0.0.1:{port}")
        for url, (process, log) in zip(urls, proxies, strict=True):
            until_ready(url, process, log)

        before = asyncio.run(load(urls, 60))
        print("all well:                       ", dict(before))
        upstreams[2].stop()
        workers[1].kill()
        after = asyncio.run(load(urls, 60))
        print("without upstream 3 and worker 2:", dict(after))
        seen = [upstream.records.served for upstream in upstreams]
        print("requests served by upstream:    ", seen)
        print("chosen by a routing worker:     ", chosen_by_workers(environment["FAST_ROUTER_REDIS_URL"]))
        if sum(after.values()) != 60 or any(not name.startswith("upstream-") for name in before + after):
            sys.exit("a request went unanswered")


if __name__ == "__main__":
    main()
