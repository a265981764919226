"""One Albert file for workers, `ModelRegistry` and proxy: it enables Celery, and routing workers choose."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
import yaml
from fast_router_albert import ModelBusyError, ModelRegistry, load_config
from redis import Redis

import fast_router
from fast_router.celery_routing.envelope import Keys
from fast_router.testing import Upstream
from fast_router.testing.servers import free_port
from tests.celery_routing.help import Worker, settings_for
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.slow]

CHAT = {"messages": [{"role": "user", "content": "Who answers?"}]}
MASTER = "sk-master-of-this-test"


@pytest.fixture
def upstreams():
    started = [Upstream("vllm", models=("served-model",), name=name).start() for name in ("one", "two")]
    yield started
    for upstream in started:
        upstream.stop()


@pytest.fixture
def settings(amqp_url, redis_url, monkeypatch):
    found = settings_for(amqp_url, redis_url)
    # A key prefix has no word in Albert's files; a deadline neither, and a busy machine needs a long one.
    monkeypatch.setenv("FAST_ROUTER_CELERY_KEY_PREFIX", found.key_prefix)
    monkeypatch.setenv("FAST_ROUTER_CELERY_DEADLINE", "20")
    fast_router.configure()
    yield found
    monkeypatch.undo()
    fast_router.configure()


def document(dialect, settings, upstreams, **provider):
    providers = [
        {"type": "vllm", "url": upstream.url, "key": "k", "model_name": "served-model", **provider}
        for upstream in upstreams
    ]
    queue = {"celery_default_queue_prefix": settings.queue_prefix}
    if dialect == "D4":
        more = {
            "settings": {
                **queue,
                "celery_broker_url": settings.broker_url,
                "celery_result_backend": settings.redis_url,
                "celery_task_max_retries": 0,
            }
        }
    else:
        more = {
            "dependencies": {"celery": {"broker_url": settings.broker_url, "result_backend": settings.redis_url}},
            "settings": {**queue, "routing_max_retries": 0},
        }
    model = {"name": "m", "type": "text-generation", "aliases": ["chat"], "load_balancing_strategy": "round_robin"}
    return {"models": [{**model, "providers": providers}], **more}


def written(path: Path, content) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def grants(settings) -> dict[str, float]:
    with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        keys = client.keys(Keys(settings).stat("*"))
        return {key: float(client.hget(key, "g") or 0) for key in keys}


def seconds_per_token(settings) -> list[float]:
    with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        rows = [client.hmget(key, "tok", "tokw") for key in client.keys(Keys(settings).stat("*"))]
    return [float(total) / float(weight) for total, weight in rows if weight and float(weight)]


@pytest.mark.parametrize("dialect", ["D4", "D5"])
async def test_the_registry_asks_workers(dialect, settings, upstreams, tmp_path):
    path = written(tmp_path / "config.yml", document(dialect, settings, upstreams))
    with Worker(settings, "--config", path):
        registry = ModelRegistry.from_config(load_config(path))
        try:
            assert await registry.routing.start(20)
            model = registry["chat"]
            for _ in range(6):
                assert (await model.forward("chat/completions", json=CHAT)).status_code == 200
            client = await model.acquire_client()
            await client.chat.completions.create(model="served-model", **CHAT)
            stream = await model.forward("chat/completions", json={**CHAT, "stream": True}, stream=True)
            assert [line async for line in stream.aiter_lines()]
            client = await asyncio.to_thread(model.get_client)
            client.release()
            stats = registry.routing.stats()
            assert (stats["granted"], stats["local"]) == (9, {})
            await until(lambda: registry.routing.stats()["held"] == 0)
            await until(lambda: len(seconds_per_token(settings)) == 2)
        finally:
            await registry.aclose()
    assert sum(grants(settings).values()) > 8
    assert all(upstream.records.served for upstream in upstreams)


async def test_a_growing_queue_of_a_server_reroutes_by_itself(settings, upstreams, tmp_path, monkeypatch):
    monkeypatch.setenv("FAST_ROUTER_CELERY_QUEUE_INTERVAL", "0.05")
    fast_router.configure()
    content = document("D5", settings, upstreams)
    content["models"][0]["load_balancing_strategy"] = "least_busy"
    path = written(tmp_path / "config.yml", content)
    full, empty = upstreams
    full.order(background_waiting=40)
    with Worker(settings, "--config", path), Redis.from_url(settings.redis_url, decode_responses=True) as client:
        # Two processes of the fleet share the reading.
        registries = [ModelRegistry.from_config(load_config(path)) for _ in range(2)]
        try:
            for registry in registries:
                assert (await registry["m"].forward("chat/completions", json=CHAT)).status_code == 200
            keys = [Keys(settings).stat(id_) for id_ in registries[0].router.deployments]
            await until(lambda: {client.hget(key, "q") for key in keys} == {"40", "0"})
            full.reset()
            empty.reset()
            for registry in registries * 3:
                assert (await registry["m"].forward("chat/completions", json=CHAT)).status_code == 200
            assert (full.records.requests, empty.records.requests) == (0, 6)
        finally:
            for registry in registries:
                await registry.aclose()


async def test_a_limit_holds_over_two_registries(settings, upstreams, tmp_path):
    content = document("D5", settings, upstreams, qos_metric="inflight", qos_limit=1)
    path = written(tmp_path / "config.yml", content)
    with Worker(settings, "--config", path):
        registries = [ModelRegistry.from_config(load_config(path)) for _ in range(2)]
        try:
            first = await registries[0]["m"].acquire_client()
            second = await registries[1]["m"].acquire_client()
            assert {first.api_url, second.api_url} == {upstream.url for upstream in upstreams}
            with pytest.raises(ModelBusyError) as caught:
                await registries[0]["m"].acquire_client()
            assert caught.value.status_code == 503
            first.release()
            await until(lambda: registries[0].routing.stats()["held"] == 0)
            second.release()
        finally:
            for registry in registries:
                await registry.aclose()


async def test_without_a_worker_the_registry_picks(settings, upstreams, monkeypatch):
    monkeypatch.setenv("FAST_ROUTER_CELERY_DEADLINE", "0.05")
    fast_router.configure()
    registry = ModelRegistry.from_config(document("D4", settings, upstreams))
    try:
        answers = [(await registry["m"].forward("chat/completions", json=CHAT)).status_code for _ in range(6)]
        assert answers == [200] * 6
        assert sum(registry.routing.stats()["local"].values()) == 6
    finally:
        await registry.aclose()


def test_the_proxy_asks_workers(settings, upstreams, tmp_path):
    path = written(tmp_path / "config.yml", document("D4", settings, upstreams))
    port = free_port()
    scripts = Path(sys.executable).parent
    log = tmp_path / "proxy.log"
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(tmp_path),
        "LITELLM_MASTER_KEY": MASTER,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    command = [scripts / "fast-router", "run", "--albert", path, "--", scripts / "litellm"]
    with Worker(settings, "--config", path), log.open("wb") as output:
        proxy = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            asyncio.run(_answers(proxy, port, log, settings))
        finally:
            proxy.send_signal(signal.SIGTERM)
            try:
                proxy.wait(30)
            except subprocess.TimeoutExpired:
                proxy.kill()
                proxy.wait()
    assert all(upstream.records.served for upstream in upstreams)


async def _answers(proxy, port, log, settings):
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {MASTER}"}, timeout=60) as client:

        async def well():
            assert proxy.poll() is None, log.read_text(errors="replace")[-3000:]
            try:
                return (await client.get("/health/liveliness")).is_success
            except httpx.TransportError:
                return False

        await until(well, 240, every=0.2)
        got = [await client.post("/v1/chat/completions", json={"model": "m", **CHAT}) for _ in range(10)]
    assert Counter(answer.status_code for answer in got) == {200: 10}
    assert sum(grants(settings).values()) > 8, log.read_text(errors="replace")[-3000:]
