"""Servers behind a proxy, and a proxy over them started in whatever way."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from fast_router.testing import Upstream
from tests.launch.wrapped import MASTER_KEY, UPSTREAM_KEY, WrappedProxy
from tests.support.proxy import environment as proxy_environment
from tests.support.proxy import free_port


@pytest.fixture(scope="module")
def upstreams():
    with Upstream(name="one") as one, Upstream(name="two") as two:
        yield one, two


@pytest.fixture
def start(upstreams, tmp_path):
    runtime = Path(tempfile.mkdtemp(prefix="fr-"))
    started = []

    def _start(command, *, extra="", **environment):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        config = folder / "config.yaml"
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
            folder / "proxy.log",
        )
        started.append(proxy)
        return proxy

    yield _start
    for proxy in started:
        proxy.stop()
    shutil.rmtree(runtime, ignore_errors=True)
