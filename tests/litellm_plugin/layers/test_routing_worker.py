"""A real litellm.Router whose deployments are chosen by a routing worker, in front of real upstreams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from redis import Redis

from fast_router.celery_routing.envelope import Keys
from tests.celery_routing.help import Worker, settings_for

pytestmark = [pytest.mark.services, pytest.mark.slow]

PROGRAM = """
import asyncio, json, os, sys
import fast_router
fast_router.configure(routing="celery")
import litellm
from aiohttp import web
from redis import Redis
from fast_router.litellm_plugin.layers.routing_worker import process_routing
from fast_router.celery_routing.envelope import Keys

def answer(name):
    async def chat(request):
        asked = await request.json()
        if asked["messages"][0]["content"] == "fail":
            return web.json_response({"error": {"message": "broken"}}, status=500)
        return web.json_response({
            "id": "x", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": name}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        })
    return chat

waiting = {}

def metrics(name):
    async def page(request):
        return web.Response(text=f'vllm:num_requests_waiting{{model_name="m"}} {waiting.get(name, 0)}.0\\n')
    return page

async def main():
    runners, entries = [], []
    for name in ("one", "two"):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer(name))
        app.router.add_get("/metrics", metrics(name))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        runners.append(runner)
        entries.append({
            "model_name": "m",
            "litellm_params": {"model": "openai/m", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "k",
                               "tags": ["free" if name == "two" else "paid"],
                               **json.loads(os.environ.get("PARAMS", "{}"))},
            "model_info": {"id": name},
        })
    router = litellm.Router(model_list=entries, num_retries=0, **json.loads(os.environ.get("ROUTER", "{}")))
    routing = process_routing()
    redis = Redis.from_url(os.environ["FAST_ROUTER_REDIS_URL"], decode_responses=True)
    def shown(name):
        return redis.hget(Keys(routing.settings).stat(name), "q")
    assert await routing.start(20)
    out = {"answers": [], "errors": []}
    async def ask(content="hello", **more):
        try:
            found = await router.acompletion("m", [{"role": "user", "content": content}], **more)
            out["answers"].append(found.choices[0].message.content)
        except Exception as error:
            out["errors"].append([type(error).__name__, getattr(error, "status_code", None), str(error)[:200]])
    BODY
    await asyncio.sleep(0.1)
    out["stats"] = routing.stats()
    out["features"] = fast_router.status()["features"]
    out["shown"] = fast_router.status()["celery"]
    await routing.close()
    for runner in runners:
        await runner.cleanup()
    print(json.dumps(out))

asyncio.run(main())
"""


def run(settings, body, **environment):
    program = PROGRAM.replace("    BODY\n", textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n")
    own = {
        "FAST_ROUTER_CELERY_BROKER_URL": settings.broker_url,
        "FAST_ROUTER_REDIS_URL": settings.redis_url,
        "FAST_ROUTER_CELERY_QUEUE_PREFIX": settings.queue_prefix,
        "FAST_ROUTER_CELERY_KEY_PREFIX": settings.key_prefix,
        "FAST_ROUTER_CELERY_DEADLINE": "20",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "FAST_ROUTER_DISABLED_FEATURES": "shared_state",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def settings(amqp_url, redis_url):
    return settings_for(amqp_url, redis_url)


def test_the_worker_chooses_for_the_router(settings):
    with Worker(settings, "--models", "m"):
        out = run(
            settings,
            """
            for _ in range(10):
                await ask()
            await ask("fail")
            await asyncio.gather(*(ask() for _ in range(10)))
            await asyncio.to_thread(router.completion, "m", [{"role": "user", "content": "x"}])
            """,
        )
    assert "celery_routing" in out["features"]
    assert len(out["answers"]) == 20
    assert set(out["answers"]) == {"one", "two"}
    assert [name for name, *_ in out["errors"]] == ["InternalServerError"]
    assert out["stats"]["granted"] >= 22
    assert out["stats"]["local"] == {}
    assert out["stats"]["held"] == 0, "every slot came back"
    assert out["shown"] == {
        "connected": True,
        "picks": out["stats"]["granted"],
        "local_picks": {},
        **{name: out["stats"][name] for name in ("retries", "busy", "timeouts", "late", "held")},
    }


def test_workers_learn_the_seconds_of_a_token(settings):
    with Worker(settings, "--models", "m"):
        out = run(
            settings,
            """
            for _ in range(6):
                await ask()
            """,
        )
    assert len(out["answers"]) == 6
    with Redis.from_url(settings.redis_url, decode_responses=True) as client:
        rows = [client.hmget(key, "lat", "latw", "tok", "tokw") for key in client.keys(Keys(settings).stat("*"))]
    assert rows, "of one server or both: chance decides"
    for latency, samples, token, counted in (map(float, row) for row in rows):
        assert counted == samples > 0
        # Every answer of the test has two tokens, so the sums differ by just that, whatever has faded of them.
        assert latency == pytest.approx(2 * token)


def test_a_growing_queue_of_a_server_reroutes_by_itself(settings):
    with Worker(settings, "--models", "m"):
        out = run(
            settings,
            """
            from tests.support.waiting import until
            await ask()
            waiting["one"] = 40
            await until(lambda: shown("one") == "40")
            out["answers"].clear()
            for _ in range(6):
                await ask()
            out["full"], out["answers"] = out["answers"], []
            waiting["one"], waiting["two"] = 0, 40
            await until(lambda: (shown("one"), shown("two")) == ("0", "40"))
            for _ in range(6):
                await ask()
            """,
            PARAMS='{"model": "hosted_vllm/m"}',
            ROUTER='{"routing_strategy": "least-busy"}',
            FAST_ROUTER_CELERY_QUEUE_INTERVAL="0.05",
        )
    assert out["errors"] == []
    assert out["full"] == ["two"] * 6
    assert out["answers"] == ["one"] * 6


def test_filters_of_litellm_still_count(settings):
    # The worker may choose either; LiteLLM's tags allow one only.
    with Worker(settings, "--models", "m"):
        out = run(
            settings,
            """
            for _ in range(8):
                await ask(metadata={"tags": ["free"]})
            """,
            ROUTER='{"enable_tag_filtering": true}',
        )
    assert out["errors"] == []
    assert set(out["answers"]) == {"two"}
    assert out["stats"]["granted"] == 8
    assert out["stats"]["held"] == 0


def test_without_a_worker_the_router_picks_by_itself(settings):
    out = run(
        settings,
        """
        for _ in range(20):
            await ask()
        """,
        FAST_ROUTER_CELERY_DEADLINE="0.05",
    )
    assert out["errors"] == []
    assert len(out["answers"]) == 20
    local = out["stats"]["local"]
    assert local == out["shown"]["local_picks"]
    assert sum(local.values()) == 20, "each pick is counted once"
    # Three in a row, and then one a second; a slow machine takes some.
    assert local.keys() <= {"deadline", "paused"}
    assert local["deadline"] >= 3


def test_busy_is_a_503_of_litellm(settings):
    with Worker(settings, "--models", "m"):
        out = run(
            settings,
            """
            from fast_router.celery_routing.settings import Candidate
            taken = [await routing.decide("m", [Candidate(name)]) for name in ("one", "two")]
            await ask()
            for grant in taken:
                grant.release()
            await asyncio.sleep(0.2)
            await ask()
            """,
            FAST_ROUTER_CELERY_MAX_RETRIES="1",
            FAST_ROUTER_CELERY_RETRY_COUNTDOWN="0.01",
            PARAMS='{"max_parallel_requests": 1}',
        )
    assert len(out["answers"]) == 1
    ((name, status, text),) = out["errors"]
    assert (name, status) == ("ServiceUnavailableError", 503)
    assert "Model is too busy" in text


def test_off_by_default():
    program = (
        "import fast_router, litellm, sys; assert 'celery' not in sys.modules; status = fast_router.status(); "
        "assert 'celery' not in status; print(status['features'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "celery_routing" not in done.stdout
