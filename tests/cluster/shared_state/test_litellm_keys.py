"""Mixed fleets: a litellm.Router without us and an instance with us see each other's cooldowns and usage."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone

import pytest
from litellm import Router
from redis import Redis

import fast_router
import fast_router.cluster
from fast_router.cluster.shared_state.litellm_keys import LiteLLMKeys
from fast_router.cluster.shared_state.options import ClusterOptions
from fast_router.router import AdvancedRouter
from tests.cluster.shared import entries
from tests.support.waiting import until, until_sync

pytestmark = pytest.mark.services


@pytest.fixture(autouse=True)
def _without_the_plugin():
    """LiteLLM as it is: these Routers stand for proxies without us."""
    fast_router.disable()
    yield
    fast_router.enable()


@pytest.fixture
def plain(redis_server, redis_url):
    """A litellm.Router with Redis."""
    host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
    return Router(model_list=entries(rpm=100, api_key="none"), redis_host=host, redis_port=int(port), num_retries=0)


@pytest.fixture
def ours(plain):
    router = AdvancedRouter("usage_based", model_list=entries(rpm=100))
    state = fast_router.cluster.attach(router, litellm_router=plain, settings={})
    try:
        assert until_sync(lambda: state.connected)
        yield router
    finally:
        state.close()


def litellm_sees(plain):
    found = plain.cooldown_cache.get_active_cooldowns(["d0", "d1"], parent_otel_span=None)
    return {id_: value["cooldown_time"] for id_, value in found}


def test_the_routers_own_redis_is_used(plain, ours):
    state = fast_router.cluster.state_of(ours)
    assert state.target.litellm
    assert state.status()["interop"] is True


def test_litellms_cooldown_rests_our_deployment(plain, ours):
    plain.cooldown_cache.add_deployment_to_cooldown("d0", Exception("429"), 429, 20.0)
    assert until_sync(lambda: not ours.deployments["d0"].eligible)
    assert ours.deployments["d0"].resting_until - ours.engine.clock() <= 20.0
    assert ours.deployments["d1"].eligible


@pytest.mark.parametrize("wrong", [3600, -3600])
def test_a_cooldown_of_a_proxy_with_a_wrong_clock_lasts_as_long_as_its_key(plain, ours, redis_url, wrong):
    client = Redis.from_url(redis_url)
    value = {"exception_received": "x", "status_code": "429", "timestamp": time.time() + wrong, "cooldown_time": 30.0}
    client.set("deployment:d0:cooldown", json.dumps(value), px=20_000)
    deployment = ours.deployments["d0"]
    assert until_sync(lambda: not deployment.eligible)
    assert 0 < deployment.resting_until - ours.engine.clock() <= 20.0


def test_our_rest_is_litellms_cooldown(plain, ours, redis_url):
    ours.rest("d1", 20.0)
    client = Redis.from_url(redis_url)
    # LiteLLM looks for a key that was not there only some seconds later again.
    assert until_sync(lambda: client.exists("deployment:d1:cooldown"))
    assert litellm_sees(plain).get("d1") == pytest.approx(20.0, abs=1.0)
    assert 0 < client.pttl("deployment:d1:cooldown") <= 20_000
    ours.wake("d1")
    assert until_sync(lambda: not client.exists("deployment:d1:cooldown"))


async def test_litellms_usage_counts_against_our_limits(plain, ours):
    minute = ours.engine.wall() // 60
    for _ in range(3):
        await plain.acompletion("m", messages=[{"role": "user", "content": "x"}], mock_response="y")
    # Old LiteLLMs count in a callback of every Router of the process, so it may be more.
    counted = lambda: sum(d.minute_requests for d in ours.deployments.values()) >= 3  # noqa: E731
    await until(lambda: counted() or ours.engine.wall() // 60 != minute)
    assert sum(d.minute_tokens for d in ours.deployments.values()) > 0


def test_without_litellm_our_usage_goes_into_its_counters(redis_url):
    client = Redis.from_url(redis_url)
    router = AdvancedRouter("usage_based", model_list=entries(1, rpm=100))
    state = fast_router.cluster.attach(router, url=redis_url, settings={"interop": True})
    try:
        assert until_sync(lambda: state.connected)
        for _ in range(4):
            router.acquire("m").release(total_tokens=25)

        def total(kind):
            keys = client.keys(f"global_router:d0:openai/m-0:{kind}:*")
            assert all(0 < client.ttl(key) <= 60 for key in keys)
            return sum(float(client.get(key)) for key in keys)

        assert until_sync(lambda: total("rpm") == 4)
        assert until_sync(lambda: total("tpm") == 100)
        # What comes back from the key is our own: it is not counted a second time.
        assert router.deployments["d0"].minute_requests in (4.0, 0.0)
    finally:
        state.close()


def test_the_keys_are_litellms():
    keys = LiteLLMKeys(namespace="prod")
    router = AdvancedRouter("usage_based", model_list=[*entries(1, rpm=1)])
    minute = int(datetime(2026, 11, 21, 9, 5, tzinfo=timezone.utc).timestamp() // 60)
    deployment = router.deployments["d0"]
    assert keys.usage_keys(deployment, minute) == (
        "prod:global_router:d0:openai/m-0:rpm:09-05",
        "prod:global_router:d0:openai/m-0:tpm:09-05",
    )
    assert keys.cooldown_key("d0") == "prod:deployment:d0:cooldown"


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b'{"timestamp": 100.0, "cooldown_time": 5}', 3.0),
        (b"{'timestamp': 100.0, 'cooldown_time': 5, 'exception_received': \"it's\"}", 3.0),
        (b'{"timestamp": 90.0, "cooldown_time": 5}', None),
        (b'{"timestamp": "x", "cooldown_time": 5}', None),
        (b'{"timestamp": NaN, "cooldown_time": 5}', None),
        (b"__import__('os')", None),
        (b"\xff", None),
        (b"[]", None),
        (None, None),
    ],
)
def test_what_a_cooldown_key_may_hold(raw, left):
    found, doubtful = LiteLLMKeys().cooldowns(["d"], [[raw]], 102.0)
    assert found == ({} if left is None else {"d": left})
    assert doubtful == (["d"] if raw is not None and b"90.0" in raw else [])


def test_clusters_read_one_key_at_a_time():
    assert LiteLLMKeys(scattered=True).read_cooldowns(["a", "b"]) == [
        ("GET", "deployment:a:cooldown"),
        ("GET", "deployment:b:cooldown"),
    ]
    many = LiteLLMKeys().read_cooldowns([str(n) for n in range(1001)])
    assert [len(command) for command in many] == [501, 501, 2]
    assert ClusterOptions().interop is None
