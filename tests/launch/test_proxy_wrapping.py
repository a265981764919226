"""An existing proxy under fast_router, without touching it: LiteLLM's real proxy with two workers, four ways."""

from __future__ import annotations

import inspect
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
import uvicorn

from fast_router.testing import Upstream
from tests.support.proxy import PATIENCE, Proxy, free_port, program
from tests.support.proxy import environment as proxy_environment

pytestmark = [pytest.mark.proxy, pytest.mark.timeout(500)]

REQUESTS = 12
UPSTREAM_KEY = "sk-upstream-of-the-test"
MASTER_KEY = "sk-" + secrets.token_hex(32)
WORKERS = 2
SECTION = """
fast_router: {max_wait: 3}
"""
CALLBACK = """
litellm_settings:
  callbacks: ["fast_router.handler"]
"""


@pytest.fixture(scope="module")
def upstreams():
    with Upstream(name="one") as one, Upstream(name="two") as two:
        yield one, two


class WrappedProxy(Proxy):
    """A proxy and the directory where its workers answer."""

    def __init__(self, command, url, runtime, environment, log):
        super().__init__(command, url, environment, log)
        self.runtime = runtime

    def statuses(self):
        """What `fast-router status` says, as an operator would ask."""
        done = subprocess.run(
            [sys.executable, "-m", "fast_router.cli", "status", "--json"],
            env={**self.environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            capture_output=True,
            text=True,
            check=False,
        )
        return [each for each in json.loads(done.stdout or "[]") if each.get("status", {}).get("enabled")]


@pytest.fixture
def start(upstreams, tmp_path):
    runtime = Path(tempfile.mkdtemp(prefix="fr-"))
    started = []

    def _start(command, *, extra="", **environment):
        config = tmp_path / "config.yaml"
        deployments = [
            {
                "model_name": "group",
                "litellm_params": {"model": "openai/m", "api_base": each.api_base, "api_key": UPSTREAM_KEY},
            }
            for each in upstreams
        ]
        config.write_text("model_list: " + json.dumps(deployments) + "\n" + extra)
        port = free_port()
        words = {"config": str(config), "port": str(port)}
        for each in upstreams:
            each.reset()
        env = proxy_environment(LITELLM_MASTER_KEY=MASTER_KEY, FAST_ROUTER_RUNTIME_DIR=str(runtime))
        env |= {key: value.format(**words) for key, value in environment.items()}
        proxy = WrappedProxy(
            [word.format(**words) for word in command],
            f"http://127.0.0.1:{port}",
            runtime,
            env,
            tmp_path / "proxy.log",
        )
        started.append(proxy)
        return proxy

    yield _start
    for proxy in started:
        proxy.stop()
    shutil.rmtree(runtime, ignore_errors=True)


# On a busy machine importing LiteLLM's proxy takes a worker longer than the 5 s after which uvicorn replaces it.
PATIENT = ["120"] if "timeout_worker_healthcheck" in inspect.signature(uvicorn.Config).parameters else []
LITELLM = ["--config", "{config}", "--host", "127.0.0.1", "--port", "{port}", "--num_workers", str(WORKERS)]
LITELLM += [word for seconds in PATIENT for word in ("--timeout_worker_healthcheck", seconds)]
UVICORN = ["--host", "127.0.0.1", "--port", "{port}", "--workers", str(WORKERS)]
UVICORN += [word for seconds in PATIENT for word in ("--timeout-worker-healthcheck", seconds)]
GUNICORN = ["-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:{port}", "-w", str(WORKERS)]
RUN = [sys.executable, "-m", "fast_router.cli", "run", "--"]

WAYS = {
    "launcher": ([*RUN, program("litellm"), *LITELLM], "", {}),
    "launcher and gunicorn": (
        [*RUN, program("gunicorn"), "litellm.proxy.proxy_server:app", *GUNICORN],
        "",
        {"CONFIG_FILE_PATH": "{config}"},
    ),
    "startup hook": (
        [program("litellm"), *LITELLM],
        "",
        {"LITELLM_WORKER_STARTUP_HOOKS": "fast_router.auto:install"},
    ),
    "callback in the YAML": ([program("litellm"), *LITELLM], CALLBACK, {}),
    "asgi under uvicorn": (
        [program("uvicorn"), "fast_router.asgi:app", *UVICORN],
        "",
        {"CONFIG_FILE_PATH": "{config}"},
    ),
    "asgi under gunicorn": (
        [program("gunicorn"), "fast_router.asgi:app", *GUNICORN],
        "",
        {"CONFIG_FILE_PATH": "{config}"},
    ),
}


def chat(proxy, **more):
    return httpx.post(
        f"{proxy.url}/v1/chat/completions",
        json={"model": "group", "messages": [{"role": "user", "content": "hello"}], **more},
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        timeout=60,
    )


@pytest.mark.parametrize("way", WAYS)
def test_requests_through_a_wrapped_proxy_are_fast_picks(start, upstreams, way):
    command, extra, environment = WAYS[way]
    proxy = start(command, extra=extra + SECTION, **environment)
    proxy.until(proxy.alive, "it never became alive")
    for number in range(REQUESTS):
        answer = chat(proxy, stream=number % 3 == 0)
        assert answer.status_code == 200, answer.text
    assert sum(each.records.served for each in upstreams) == REQUESTS
    statuses = proxy.until(
        lambda: (found := proxy.statuses()) and len(found) >= WORKERS and found, "its workers do not answer"
    )
    # A pick from a compiled plan; or, where LiteLLM's core is not written in Python, a request in the lane.
    told = [(each["status"]["picks"], each["status"]["lane"]) for each in statuses]
    assert sum(picks["fast"] + lane["requests"] for picks, lane in told) == REQUESTS, told
    assert all(each["status"]["errors"]["count"] == 0 for each in statuses)
    assert {each["status"]["capabilities"]["waiting"]["why"] for each in statuses} == {"up to 3 s"}
    shown = json.dumps(statuses)
    assert MASTER_KEY not in shown
    assert UPSTREAM_KEY not in shown


MISTAKES = {
    "launcher": ("fast_router: {rollout: some}\n", "'some'"),
    "launcher and gunicorn": ("fast_router: {strategi: shuffle}\n", "did you mean 'strategy'?"),
    "startup hook": ("router_settings: {routing_strategy: peak_ewmaa}\n", "did you mean 'peak_ewma'?"),
    "callback in the YAML": ("fast_router: {max_weit: 2}\n", "did you mean 'max_wait'?"),
    "asgi under uvicorn": (
        "fast_router: {experiment: {strategy: cach_aware, share: 20}}\n",
        "did you mean 'cache_aware'?",
    ),
    "asgi under gunicorn": ("fast_router: {max_wait: soon}\n", "'soon'"),
}
ONE = {way: command[: -2 - 2 * len(PATIENT)] for way, (command, _, _) in WAYS.items()}
"""Each way with one worker."""
ENDS = {
    ("startup hook", "one"): 2,
    ("callback in the YAML", "one"): 2,
    ("asgi under uvicorn", "one"): 2,
    # What uvicorn itself says when a worker cannot start; the launcher looks before there are workers.
    ("asgi under uvicorn", "several"): 0,
    ("launcher", "several"): 2,
    ("launcher and gunicorn", "several"): 2,
    ("asgi under gunicorn", "several"): 3,
}


@pytest.mark.parametrize(("way", "workers"), ENDS)
def test_a_mistake_ends_a_proxy_by_one_line_however_it_starts(start, way, workers):
    _, extra, environment = WAYS[way]
    command = ONE[way] if workers == "one" else WAYS[way][0]
    mistake, said = MISTAKES[way]
    proxy = start(command, extra=extra + mistake, **environment)
    assert proxy.process.wait(PATIENCE) == ENDS[way, workers]
    told = proxy.log.read_text()
    assert "Traceback" not in told
    errors = {line for line in told.splitlines() if line.startswith("Error: ")}
    assert len(errors) == 1, told
    assert said in errors.pop()


OURS = """
router_settings:
  routing_strategy: peak_ewma
fast_router: {max_wait: soon}
"""


@pytest.mark.parametrize("way", ["launcher", "callback in the YAML"])
def test_off_by_environment_leaves_the_proxy_alone(start, way):
    """It starts with a strategy that LiteLLM lacks, and with an option of ours that is wrong."""
    command, extra, environment = WAYS[way]
    proxy = start(command, extra=extra + OURS, **environment, FAST_ROUTER_ENABLED="0")
    proxy.until(proxy.alive, "it never became alive")
    assert chat(proxy).status_code == 200
    assert proxy.statuses() == []
    assert list(proxy.runtime.glob("*")) == []


def answers(proxy):
    """What a proxy says to all sorts of requests, without what differs between any two answers."""

    def told(answer):
        names = {name for name in answer.headers if not name.startswith(("x-ratelimit", "llm_provider"))}
        try:
            body = json.loads(re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", answer.text))
        except ValueError:
            body = [line for line in answer.text.splitlines() if line in ("data: [DONE]", "")]
        for changing in ("id", "created", "system_fingerprint"):
            if isinstance(body, dict):
                body.pop(changing, None)
        return answer.status_code, body, sorted(names)

    def get(path):
        return httpx.get(f"{proxy.url}{path}", headers={"Authorization": f"Bearer {MASTER_KEY}"}, timeout=60)

    wrong_key = httpx.post(
        f"{proxy.url}/v1/chat/completions",
        json={"model": "group", "messages": []},
        headers={"Authorization": "Bearer sk-wrong"},
        timeout=60,
    )
    said = [told(chat(proxy)) for _ in range(3)]
    said += [told(chat(proxy, stream=True)), told(chat(proxy, model="limited")), told(chat(proxy, model="limited"))]
    said += [told(chat(proxy, model="limited")), told(chat(proxy, model="in-a-group")), told(chat(proxy, model="gone"))]
    said += [told(chat(proxy, messages=None)), told(chat(proxy, model=5)), (wrong_key.status_code,)]
    return [*said, told(get("/v1/models")), told(get("/model_group/info"))]


def test_the_proxy_says_what_it_says_without_fast_router(start, upstreams):
    """Its questions to the fleet are answered from what is known, some deployments having what it asks for."""
    params = {"model": "openai/m", "api_base": upstreams[0].api_base, "api_key": UPSTREAM_KEY}
    entries = [
        {"model_name": "group", "litellm_params": params, "model_info": {"id": "first"}},
        {
            "model_name": "limited",
            "litellm_params": {**params, "default_api_key_rpm_limit": 2},
            "model_info": {"id": "second"},
        },
        {
            "model_name": "in-a-group",
            "litellm_params": params,
            "model_info": {"id": "third", "access_groups": ["beta"]},
        },
    ]
    runs = []
    for enabled in ("0", "1"):
        command, _, environment = WAYS["launcher"]
        single = [word if word != str(WORKERS) else "1" for word in command]
        proxy = start(single, extra=f"model_list: {json.dumps(entries)}\n", **environment, FAST_ROUTER_ENABLED=enabled)
        proxy.until(proxy.alive, "it never became alive")
        runs.append(answers(proxy))
        statuses = proxy.statuses()
        proxy.stop()
    (status,) = [each["status"] for each in statuses]
    assert {"proxy_questions", "absent_modules", "startup_heap"} <= set(status["features"])
    assert [run[0][0] for run in runs] == [200, 200]
    for without, ours in zip(*runs, strict=True):
        assert ours == without
