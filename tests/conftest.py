"""Settings that every test shares: no network for prices, no plugin by accident."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest

# LiteLLM fetches its price map at import unless told to use the copy it ships.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def pytest_collection_modifyitems(items):
    """Skip what looks into a core written in Python where LiteLLM's is not; LiteLLM is not imported for that."""
    found = importlib.util.find_spec("litellm")
    if found is None or not any((Path(place) / "router_rust").is_dir() for place in found.submodule_search_locations):
        return
    for item in items:
        if item.get_closest_marker("python_core"):
            item.add_marker(pytest.mark.skip(reason="looks into a core written in Python; this LiteLLM's is not"))


# -- each file begins as if it were alone -----------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _as_if_alone():
    """Leave the plugin switched on and no Router behind: the page, `top` and explanations show every one there is."""
    yield
    hook = sys.modules.get("fast_router.litellm_plugin.hook")
    if hook is None or os.environ.get("FAST_ROUTER_ENABLED") == "0":
        return
    hook.enable()
    from fast_router.litellm_plugin.start_line import routers

    if left := routers():
        for router in left:
            router.discard()
        del left, router
        gc.collect()


# -- private servers: started by the first test that asks, gone with the run ------------------------------


def _servers():
    # Not at the top: a run without servers does not load us here.
    from fast_router.testing import servers

    return servers


def _or_skip(server):
    """Start a server; without its program fail in CI, where a silent skip would lie, and skip elsewhere."""
    try:
        return server.start()
    except _servers().ServerMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def redis_server():
    """A private redis-server for the whole run. Don't break it: `own_redis` is for that."""
    server = _servers().RedisServer()
    try:
        yield _or_skip(server)
    finally:
        server.close()


@pytest.fixture
def redis_url(request):
    """Address of an empty Redis database (FAST_ROUTER_TEST_REDIS_URL, if set, is used as it is)."""
    if given := os.environ.get("FAST_ROUTER_TEST_REDIS_URL"):
        return given
    server = request.getfixturevalue("redis_server")
    server.command("FLUSHALL")
    return server.url


@pytest.fixture
def own_redis():
    """A redis-server that the test may kill, pause and restart."""
    server = _servers().RedisServer()
    try:
        yield _or_skip(server)
    finally:
        server.close()


@pytest.fixture(scope="session")
def rabbit_server():
    """A private RabbitMQ node for the whole run. Don't break it: `own_rabbit` is for that."""
    server = _servers().RabbitServer()
    try:
        yield _or_skip(server)
    finally:
        server.close()


@pytest.fixture
def amqp_url(request):
    """Address of a RabbitMQ (FAST_ROUTER_TEST_AMQP_URL, if set). Shared: name your queues apart."""
    return os.environ.get("FAST_ROUTER_TEST_AMQP_URL") or request.getfixturevalue("rabbit_server").url


@pytest.fixture(scope="module")
def _module_rabbit():
    server = _servers().RabbitServer()
    try:
        yield _or_skip(server)
    finally:
        server.close()


@pytest.fixture
def own_rabbit(_module_rabbit):
    """A RabbitMQ node that tests may kill, pause and restart; running again for each test of the module."""
    return _module_rabbit.start()
