"""Two or more instances in one process over a real Redis."""

from __future__ import annotations

import json
import time

import pytest
from redis import Redis

import fast_router.cluster
from fast_router.cluster.shared_state.options import ClusterOptions
from fast_router.errors import ConfigurationError
from fast_router.router import AdvancedRouter
from tests.cluster.shared import entries, member, outside
from tests.support.waiting import until_sync

pytestmark = pytest.mark.services


def test_open_leases_are_seen_elsewhere_and_end_there(redis_url):
    with member(redis_url) as (one, _), member(redis_url) as (two, _):
        leases = [one.acquire("m") for _ in range(4)]
        assert until_sync(lambda: outside(two) == {"d0": 2.0, "d1": 2.0}), outside(two)
        assert outside(one) == {"d0": 0.0, "d1": 0.0}
        for lease in leases:
            lease.release()
        assert until_sync(lambda: outside(two) == {"d0": 0.0, "d1": 0.0}), outside(two)


def test_least_busy_avoids_what_another_process_keeps_busy(redis_url):
    with member(redis_url) as (one, _), member(redis_url) as (two, _):
        busy = [one.acquire("m", exclude={"d1"}) for _ in range(5)]
        assert until_sync(lambda: outside(two)["d0"] == 5.0)
        picked = [two.acquire("m") for _ in range(5)]
        assert {lease.id for lease in picked} == {"d1"}
        for lease in busy + picked:
            lease.release()


def test_a_clean_goodbye_takes_the_load_along(redis_url):
    with member(redis_url) as (one, _):
        with member(redis_url) as (two, _):
            two.acquire("m")
            assert until_sync(lambda: sum(outside(one).values()) == 1)
        assert until_sync(lambda: sum(outside(one).values()) == 0)


def test_rests_and_wakes_travel(redis_url):
    with member(redis_url) as (one, _), member(redis_url) as (two, _):
        one.rest("d0", 30.0)
        assert until_sync(lambda: not two.deployments["d0"].eligible)
        left = two.deployments["d0"].resting_until - two.engine.clock()
        assert 25.0 < left <= 30.0
        one.wake("d0")
        assert until_sync(lambda: two.deployments["d0"].eligible)
        assert one.deployments["d0"].eligible


def test_a_panic_wakes_only_here(redis_url):
    with member(redis_url) as (one, state), member(redis_url) as (two, _):
        one.rest("d0", 30.0)
        assert until_sync(lambda: not two.deployments["d0"].eligible)
        one.engine.wake(one.deployments["d0"], quiet=True)
        said = state.status()["messages"]
        assert until_sync(lambda: state.status()["messages"] >= said + 2)
        assert one.deployments["d0"].eligible
        assert not two.deployments["d0"].eligible


def test_a_longer_rest_is_not_shortened_by_a_shorter_one(redis_url):
    with member(redis_url) as (one, _), member(redis_url) as (two, _):
        one.rest("d0", 60.0)
        assert until_sync(lambda: not two.deployments["d0"].eligible)
        two.rest("d0", 1.0)
        two.rest("d1", 1.0)
        assert until_sync(lambda: not one.deployments["d1"].eligible)
        assert one.deployments["d0"].resting_until - one.engine.clock() > 50


def test_who_joins_late_learns_load_rests_usage_and_latency(redis_url):
    model_list = entries(rpm=100)
    with member(redis_url, model_list=model_list, strategy="usage_based") as (one, _):
        one.rest("d0", 60.0)
        lease = one.acquire("m")
        assert lease.id == "d1"
        one.acquire("m").release(completion_tokens=10, total_tokens=50)
        key = "fast_router:{default}:1:instances"
        client = Redis.from_url(redis_url)
        assert until_sync(lambda: any(b'"d":' in raw and b'"l":' in raw for raw in client.hvals(key)))
        with member(redis_url, model_list=model_list, strategy="usage_based") as (two, _):
            deployment = two.deployments["d1"]
            assert until_sync(lambda: deployment.outside == 1.0)
            assert until_sync(lambda: deployment.minute_tokens == 50.0)
            assert deployment.minute_requests == 2.0
            assert deployment.latency == pytest.approx(one.deployments["d1"].latency, rel=1e-4)
            assert not two.deployments["d0"].eligible


def test_usage_of_others_counts_against_the_limit_once(redis_url):
    model_list = entries(1, rpm=10)
    with (
        member(redis_url, model_list=model_list, strategy="usage_based") as (one, _),
        member(redis_url, model_list=model_list, strategy="usage_based") as (two, _),
    ):
        minute = one.engine.wall() // 60
        for _ in range(4):
            one.acquire("m").release(total_tokens=5)
        for _ in range(3):
            two.acquire("m").release(total_tokens=5)
        seven = until_sync(lambda: [r.deployments["d0"].minute_requests for r in (one, two)] == [7.0, 7.0])
        if one.engine.wall() // 60 == minute:
            assert seven
            time.sleep(0.5)  # several more intervals must not count anything again
            assert [r.deployments["d0"].minute_tokens for r in (one, two)] == [35.0, 35.0]


def test_latency_is_averaged_over_processes(redis_url):
    with (
        member(redis_url, strategy="latency_based") as (one, _),
        member(redis_url, strategy="latency_based") as (two, _),
    ):
        for _ in range(10):
            one.engine.observe(one.deployments["d0"], 1.0)
        for _ in range(5):
            two.engine.observe(two.deployments["d0"], 4.0)
        assert until_sync(lambda: one.deployments["d0"].latency == pytest.approx(2.0))
        assert until_sync(lambda: two.deployments["d0"].latency == pytest.approx(2.0))
        # What was learnt from others is not told as if it were ours.
        time.sleep(1.5)
        assert one.deployments["d0"].latency == pytest.approx(2.0)


def test_fleets_and_databases_stay_apart(redis_url):
    other_database = redis_url.rsplit("/", 1)[0] + "/1"
    with (
        member(redis_url) as (one, _),
        member(redis_url, fleet="other") as (two, _),
        member(other_database) as (three, _),
        member(redis_url) as (four, _),
    ):
        one.acquire("m")
        assert until_sync(lambda: sum(outside(four).values()) == 1)
        assert sum(outside(two).values()) == sum(outside(three).values()) == 0


def test_long_ids_are_matched(redis_url):
    long = [{"model_name": "m", "litellm_params": {"model": "x"}, "model_info": {"id": "a" * 64}}]
    with member(redis_url, model_list=long) as (one, _), member(redis_url, model_list=long) as (two, _):
        one.acquire("m")
        assert until_sync(lambda: two.deployments["a" * 64].outside == 1.0)


def test_every_key_expires_and_one_hash_holds_them_all(redis_url):
    client = Redis.from_url(redis_url)
    with member(redis_url, count=200) as (one, _), member(redis_url, count=200):
        leases = [one.acquire("m") for _ in range(400)]
        one.rest("d3", 5.0)
        assert until_sync(lambda: client.exists("fast_router:{default}:1:rests"))
        assert until_sync(lambda: client.hlen("fast_router:{default}:1:instances") == 2)
        keys = client.keys("*")
        assert len(keys) == 2
        assert all(0 < client.ttl(key) <= 70 for key in keys)
        size = sum(client.memory_usage(key) for key in keys)
        assert size < 200 * 200, f"{size} bytes for 200 deployments"
        for lease in leases:
            lease.release()


def test_an_idle_process_is_quiet(redis_url):
    with member(redis_url) as (_, state):
        before = state.status()["commands"]
        time.sleep(2.0)
        # A heartbeat (publish and hash) each second, and at most one reading of four commands.
        assert state.status()["commands"] - before <= 2 * 3 + 5


def test_twice_attached_is_once_attached(redis_url):
    with member(redis_url) as (router, state):
        assert fast_router.cluster.attach(router, url=redis_url) is state
        assert fast_router.cluster.state_of(router) is state
    assert fast_router.cluster.state_of(router) is None


def test_status_is_json_without_secrets(redis_url):
    url = redis_url.replace("redis://", "redis://user:hunter2@")
    router = AdvancedRouter("least_busy", model_list=entries())
    state = fast_router.cluster.attach(router, url=url)
    try:
        text = json.dumps(state.status())
        assert "hunter2" not in text
        assert "hunter2" not in repr(state)
        assert "hunter2" not in repr(state.target)
    finally:
        state.close()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"limits": "exact"}, "limits"),
        ({"interval": 0}, "interval"),
        ({"interval": "fast"}, "interval"),
        ({"expiry": 0.5}, "heartbeat"),
        ({"fleet": "a{b}"}, "fleet"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_option_is_named(settings, word):
    with pytest.raises(ConfigurationError, match=word):
        ClusterOptions.read(settings)


@pytest.mark.parametrize("url", ["http://redis:6379", "redis+sentinel://x", "redis://h:port/0", "redis://h:1/db"])
def test_a_wrong_url_is_refused_without_its_password(url):
    router = AdvancedRouter("least_busy", model_list=entries())
    with pytest.raises(ConfigurationError) as caught:
        fast_router.cluster.attach(router, url=url.replace("//", "//u:hunter2@"))
    assert "hunter2" not in str(caught.value)


def test_no_redis_at_all_is_one_clear_error():
    with pytest.raises(ConfigurationError, match="FAST_ROUTER_REDIS_URL"):
        fast_router.cluster.attach(AdvancedRouter("least_busy", model_list=entries()), settings={})
