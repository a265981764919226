"""Redis that is killed, stopped, full, read-only, of the wrong type, or has lost everything."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from redis import Redis

import fast_router.cluster
from fast_router.cluster.shared_state.rate_limited_log import EVERY, QuietLog
from fast_router.router import AdvancedRouter
from tests.cluster.shared import entries, member, outside
from tests.support.forwarder import Forwarder
from tests.support.waiting import until_sync

pytestmark = [pytest.mark.services, pytest.mark.slow]


class Load:
    """Requests on several threads while something happens; the slowest pick and every error are kept."""

    def __init__(self, router):
        self.router = router
        self.picks = 0
        self.errors = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self):
        while not self._stop.is_set():
            try:
                lease = self.router.acquire("m")
                time.sleep(0.001)
                lease.release(total_tokens=3)
                self.picks += 1
            except Exception as error:
                self.errors.append(error)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def grows(load):
    before = load.picks
    return until_sync(lambda: load.picks > before + 50)


def whole(one, two):
    """Both see what the other holds: a lease of each becomes visible at the other."""
    leases = [one.acquire("m"), two.acquire("m")]
    seen = until_sync(lambda: sum(outside(one).values()) >= 1 and sum(outside(two).values()) >= 1)
    for lease in leases:
        lease.release()
    return seen


def test_killed_under_load_and_back(own_redis, caplog):
    caplog.set_level(logging.INFO, "fast_router.cluster")
    with member(own_redis.url) as (one, state), member(own_redis.url) as (two, _), Load(one) as load:
        assert whole(one, two)
        own_redis.kill()
        assert until_sync(lambda: not state.connected)
        assert grows(load)
        two.rest("d0", 60.0)
        # Knowledge about processes that nobody hears of any more is dropped.
        assert until_sync(lambda: sum(outside(two).values()) == 0)
        own_redis.start()
        assert until_sync(lambda: state.connected)
        assert whole(one, two)
        # A rest that began in the meantime is told when it can be.
        assert until_sync(lambda: not one.deployments["d0"].eligible)
        assert not load.errors
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2, "one line a minute and state, whatever the number of failed attempts"
    assert state.status()["errors"] > 2


def test_stopped_and_resumed(own_redis):
    with member(own_redis.url, timeout=0.3) as (one, state), member(own_redis.url, timeout=0.3) as (two, _):
        with Load(one) as load:
            with own_redis.paused():
                assert until_sync(lambda: not state.connected)
                assert grows(load)
            assert until_sync(lambda: state.connected)
            assert whole(one, two)
        assert not load.errors


def test_a_partition_of_one_process(own_redis):
    with (
        Forwarder(own_redis.url) as wire,
        member(wire.url, timeout=0.3) as (one, state),
        member(own_redis.url) as (two, other),
    ):
        assert whole(one, two)
        held = one.acquire("m")
        assert until_sync(lambda: sum(outside(two).values()) >= 1)
        with Load(one) as load:
            wire.cut()
            assert until_sync(lambda: not state.connected), "nobody closed the connection"
            # Each side goes on with what it knows itself, and forgets the other.
            assert until_sync(lambda: sum(outside(two).values()) == 0)
            assert until_sync(lambda: other.status()["instances"] == {})
            assert other.connected
            assert grows(load)
            two.rest("d0", 60.0)
            wire.mend()
            assert until_sync(lambda: state.connected)
            # What was said meanwhile is heard now.
            assert until_sync(lambda: not one.deployments["d0"].eligible)
        assert not load.errors
        held.release()
        assert whole(one, two)
        assert until_sync(lambda: sum(outside(two).values()) == 0)


def test_a_slow_server(own_redis):
    with (
        Forwarder(own_redis.url) as wire,
        member(wire.url, timeout=0.6) as (one, state),
        member(own_redis.url) as (two, _),
        Load(one) as load,
    ):
        wire.delay = 0.1
        assert whole(one, two), "late, but right"
        assert state.connected
        wire.delay = 1.0
        assert until_sync(lambda: not state.connected), "slower than the timeout counts as away"
        assert grows(load)
        wire.delay = 0.0
        assert until_sync(lambda: state.connected)
        assert whole(one, two)
    assert not load.errors


def test_a_server_that_is_not_there_yet(own_redis):
    own_redis.stop()
    router = AdvancedRouter("least_busy", model_list=entries())
    state = fast_router.cluster.attach(router, url=own_redis.url)
    try:
        router.acquire("m").release()
        assert not state.connected
        own_redis.start()
        assert until_sync(lambda: state.connected)
    finally:
        state.close()


def test_full(own_redis):
    client = Redis.from_url(own_redis.url)
    with member(own_redis.url) as (one, state), member(own_redis.url) as (two, _):
        client.config_set("maxmemory", "1")
        client.config_set("maxmemory-policy", "noeviction")
        lease = one.acquire("m")
        # Publishing needs no memory: load and rests go on travelling.
        assert until_sync(lambda: sum(outside(two).values()) == 1)
        one.rest("d0", 30.0)
        assert until_sync(lambda: not two.deployments["d0"].eligible)
        assert until_sync(lambda: state.status()["errors"] > 0)
        lease.release()
        client.config_set("maxmemory", "0")
        assert until_sync(lambda: client.exists("fast_router:{default}:1:instances"))


def test_read_only(own_redis):
    client = Redis.from_url(own_redis.url)
    with member(own_redis.url) as (one, state), member(own_redis.url) as (two, _):
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        lease = one.acquire("m")
        assert until_sync(lambda: sum(outside(two).values()) == 1)
        assert until_sync(lambda: state.status()["connects"] > 1), "it looks for a new primary"
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert until_sync(lambda: client.hlen("fast_router:{default}:1:instances") == 2)
        lease.release()


def test_wrong_type(redis_url):
    client = Redis.from_url(redis_url)
    for key in ("instances", "rests"):
        client.set(f"fast_router:{{default}}:1:{key}", "somebody else's")
    with member(redis_url) as (one, state), member(redis_url) as (two, _):
        assert whole(one, two)
        one.rest("d0", 30.0)
        assert until_sync(lambda: not two.deployments["d0"].eligible)
        assert state.status()["errors"] > 0
        assert client.get("fast_router:{default}:1:instances") == b"somebody else's"


def test_everything_lost(redis_url):
    client = Redis.from_url(redis_url)
    with member(redis_url) as (one, _), member(redis_url) as (two, _):
        lease = one.acquire("m")
        assert until_sync(lambda: sum(outside(two).values()) == 1)
        client.flushall()
        assert until_sync(lambda: client.hlen("fast_router:{default}:1:instances") == 2)
        assert sum(outside(two).values()) == 1
        lease.release()


def test_a_cut_subscription_is_made_anew(redis_url):
    client = Redis.from_url(redis_url)
    with member(redis_url) as (one, state), member(redis_url) as (two, _):
        assert whole(one, two)
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert until_sync(lambda: state.status()["connects"] == 2)
        assert whole(one, two)


def test_no_rights(redis_url):
    client = Redis.from_url(redis_url)
    client.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~nothing*", "&*", "+@all")
    router = AdvancedRouter("least_busy", model_list=entries())
    state = fast_router.cluster.attach(router, url=redis_url.replace("redis://", "redis://poor:pw@"))
    try:
        assert until_sync(lambda: state.status()["errors"] > 0)
        router.acquire("m").release()
    finally:
        state.close()
        client.execute_command("ACL", "DELUSER", "poor")


def test_one_line_a_minute(caplog):
    now = [0.0]
    log = QuietLog(logging.getLogger("fast_router.cluster"), clock=lambda: now[0])
    assert log.trouble("away")
    assert not any(log.trouble("away") for _ in range(500))
    now[0] = EVERY
    assert log.trouble("away", ConnectionError("redis://u:hunter2@h"))
    assert "500 more" in caplog.text
    assert "hunter2" not in caplog.text
