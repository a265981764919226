"""Settings that every test shares: no network for prices, no plugin by accident, nothing of another run's."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# LiteLLM fetches its price map at import unless told to use the copy it ships.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
# And waits half a second and more before a retry, and after the last one as well. Nothing is asserted of how long;
# a provider's Retry-After and a Router's `retry_after` are waited for in full.
os.environ.setdefault("INITIAL_RETRY_DELAY", "0.01")
os.environ.setdefault("JITTER", "0.01")

# A busy machine is no failure. CI tries the same examples each time: chance is for runs that are looked at.
hypothesis.settings.register_profile(
    "fast_router",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("fast_router")


# -- each run, and each of its workers, by itself -----------------------------------------------------------

_own_directory = pytest.StashKey[str]()


def pytest_configure(config):
    """Have this process, and those it starts, keep status sockets and operators' holds apart from all others'."""
    # Short: the name of a socket has to fit behind it.
    config.stash[_own_directory] = os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="fr-")


def pytest_unconfigure(config):
    """Leave nothing behind."""
    shutil.rmtree(config.stash[_own_directory], ignore_errors=True)


# -- which tests come first ------------------------------------------------------------------------------------

_STARTERS = ("proxy", "browser", "services", "slow")
# Each may run out of patience on a crowded machine, whatever we do. All other tests have one try, in CI as well.
_MAY_TRY_AGAIN = ("proxy", "browser", "services")


def _skip_what_needs_a_core_in_python(items):
    """Skip what looks into one where LiteLLM's is not; LiteLLM is not imported for that."""
    found = importlib.util.find_spec("litellm")
    if found is None or not any((Path(place) / "router_rust").is_dir() for place in found.submodule_search_locations):
        return
    for item in items:
        if item.get_closest_marker("python_core"):
            item.add_marker(pytest.mark.skip(reason="looks into a core written in Python; this LiteLLM's is not"))


def _let_starters_try_again(items):
    """Let what starts a proxy, a browser, Redis or RabbitMQ try again in CI."""
    for item in items:
        if any(item.get_closest_marker(name) for name in _MAY_TRY_AGAIN):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


def pytest_collection_modifyitems(config, items):
    """Put what takes long first, so that no worker is left alone with it.

    Behind the proxies, browsers and services come the files that start programs: most of these load LiteLLM.
    """

    def first_marker(item):
        marked = next((place for place, name in enumerate(_STARTERS) if item.get_closest_marker(name)), None)
        if marked is not None:
            return marked
        return len(_STARTERS) + (not any(hasattr(item.module, name) for name in ("run_python", "subprocess")))

    _skip_what_needs_a_core_in_python(items)
    if os.environ.get("CI") and config.pluginmanager.hasplugin("rerunfailures"):
        _let_starters_try_again(items)
    rank: dict[str, int] = {}
    for item in items:
        found = first_marker(item)
        rank[item.path] = min(rank.get(item.path, found), found)
    items.sort(key=lambda item: rank[item.path])


# -- each file begins as if it were alone -----------------------------------------------------------------


def _callbacks():
    """LiteLLM's lists of callbacks by name: each list, and what is in it."""
    litellm = sys.modules.get("litellm")
    known = vars(litellm) if litellm is not None else {}
    return {name: (known[name], list(known[name])) for name in _CALLBACKS if name in known}


_CALLBACKS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


def _set_aside():
    """Leave what is loaded by now out of collections: many tests ask for one, which took longer than what they test.

    Not while there is a Router: once set aside it would never be freed, and shown by every later test.
    """
    if gc.get_freeze_count():
        return
    gc.collect()
    start_line = sys.modules.get("fast_router.litellm_plugin.start_line")
    if start_line is None or not start_line.routers():
        gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _as_if_alone():
    """Leave the plugin switched on and no Router behind: the page, `top` and explanations show every one there is.

    And none of LiteLLM's callbacks: a strategy's handler that checks each call closes the lanes of every other Router.
    """
    _set_aside()
    before = _callbacks()
    yield
    for name, after in _callbacks().items():
        after[0][:] = before[name][1] if name in before else []
    hook = sys.modules.get("fast_router.litellm_plugin.hook")
    if hook is not None and os.environ.get("FAST_ROUTER_ENABLED") != "0":
        hook.enable()
        from fast_router.litellm_plugin.start_line import routers

        for router in routers():
            router.discard()
    if (holds := sys.modules.get("fast_router.operator_holds")) is not None:
        for source in list(holds._by_source):
            holds.replace(source, [])
    if (direct := sys.modules.get("fast_router.router")) is not None:
        # A stream or a task that was never ended may hold on to one: nobody shall find it all the same.
        gc.collect()
        direct._live.clear()


@pytest.fixture(scope="module")
def _module_browser():
    from tests.support.browser import chromium

    with chromium() as driver:
        yield driver


@pytest.fixture
def browser(_module_browser):
    """A real browser, to look at the dashboard; one for all tests of a file, as if new for each."""
    from tests.support.browser import as_new

    as_new(_module_browser)
    return _module_browser


@pytest.fixture
def runtime(monkeypatch):
    """A private directory of the status sockets, in which this process alone will listen."""
    from fast_router import operator_holds, settings
    from fast_router.observe import process_status

    # Short: a socket's path must fit into its address.
    path = Path(tempfile.mkdtemp(prefix="fr-"))
    monkeypatch.setenv("FAST_ROUTER_RUNTIME_DIR", str(path))
    settings.reset()
    gc.collect()  # other tests' Routers would answer as well
    yield path
    process_status.stop()
    operator_holds.replace("file", [])
    settings.reset()
    shutil.rmtree(path, ignore_errors=True)


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
