"""The table of attacks through LiteLLM's real proxy: one worker for all rows, a model group for each.

With FAST_ROUTER_TEST_PLAIN=1 the same requests meet a proxy without fast_router, to compare with.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.attack import proxy_keys, table
from tests.attack.doors import ProxyDoor, entries
from tests.attack.upstreams import OWN, fleet
from tests.support.proxy import Proxy, environment, free_port, program

pytestmark = [pytest.mark.proxy, pytest.mark.timeout(400)]

ROWS = [row for row in table.ROWS if "proxy" in row.doors]


@pytest.fixture(scope="module")
def upstreams():
    with fleet() as made:
        yield made


@pytest.fixture(scope="module")
def proxy(upstreams, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    shutil.copy(Path(proxy_keys.__file__), folder)
    config = {
        "model_list": [
            entry
            for row in ROWS
            for group in row.names()
            for entry in entries(upstreams, group, dict(row.params), dict(row.info))
        ],
        "general_settings": {"custom_auth": "proxy_keys.known", "allow_client_side_credentials": True},
        "router_settings": {"num_retries": 2, "retry_after": 0},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    port = free_port()
    started = Proxy(
        [program("fast-router"), "run", "--", program("litellm"), "--config", str(folder / "config.yaml"),
         "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        f"http://127.0.0.1:{port}",
        environment(
            LITELLM_MASTER_KEY="sk-master",
            FAST_ROUTER_RUNTIME_DIR=str(folder),
            FAST_ROUTER_ENABLED="0" if os.environ.get("FAST_ROUTER_TEST_PLAIN") else "1",
        ),
        folder / "proxy.log",
    )  # fmt: skip
    try:
        started.until(started.alive, "it never became alive")
        yield started
    finally:
        started.stop()


@pytest.fixture
async def door(proxy, upstreams):
    made = ProxyDoor(proxy.url)
    made.own_endpoint = upstreams[OWN].api_base
    yield made
    await made.close()


@pytest.mark.parametrize("row", [pytest.param(row, id=row.slug) for row in ROWS])
async def test_others_are_served_as_without_the_caller(door, row):
    await table.run(row, door)
