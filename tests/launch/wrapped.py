"""LiteLLM's real proxy wrapped in each of the ways."""

from __future__ import annotations

import inspect
import json
import os
import secrets
import subprocess
import sys

import httpx
import uvicorn

from tests.support.proxy import Proxy, program

UPSTREAM_KEY = "sk-upstream-of-the-test"
MASTER_KEY = "sk-" + secrets.token_hex(32)
WORKERS = 2
CALLBACK = """
litellm_settings:
  callbacks: ["fast_router.handler"]
"""


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


ONE = {way: command[: -2 - 2 * len(PATIENT)] for way, (command, _, _) in WAYS.items()}
"""Each way with one worker."""


def chat(proxy, **more):
    return httpx.post(
        f"{proxy.url}/v1/chat/completions",
        json={"model": "group", "messages": [{"role": "user", "content": "hello"}], **more},
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        timeout=60,
    )
