"""Instances that die, stop, fork, or have a wrong clock: real processes over a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime, timezone

import pytest
from redis import Redis

from fast_router.cluster.shared_state.message import PROTOCOL
from tests.cluster.shared import entries, member, outside
from tests.support.waiting import until_sync, within_a_minute

pytestmark = [pytest.mark.services, pytest.mark.slow]


@contextmanager
def child(url, *options):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.child", url, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    try:
        line = process.stdout.readline().split()
        while line and line[0] == "parent":
            line = process.stdout.readline().split()
        assert line, "the child ended early"
        assert line[0] == "ready"
        process.instance = line[1]
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


def test_what_a_killed_process_held_is_gone_within_seconds(redis_url):
    with member(redis_url) as (router, state), child(redis_url, "--hold", "7") as other:
        assert until_sync(lambda: outside(router)["d0"] == 7.0)
        other.kill()
        assert until_sync(lambda: outside(router)["d0"] == 0.0)
        assert state.status()["instances"] == {}
        assert all(d.outside >= 0 for d in router.deployments.values())


def test_a_stopped_process_vanishes_and_comes_back(redis_url):
    with member(redis_url) as (router, _), child(redis_url, "--hold", "3") as other:
        assert until_sync(lambda: outside(router)["d0"] == 3.0)
        other.send_signal(signal.SIGSTOP)
        assert until_sync(lambda: outside(router)["d0"] == 0.0)
        other.send_signal(signal.SIGCONT)
        assert until_sync(lambda: outside(router)["d0"] == 3.0)


@pytest.mark.parametrize("skew", ["3600", "-86400"])
@within_a_minute
def test_a_wrong_clock_changes_nothing(redis_url, skew):
    options = ("--hold", "2", "--use", "5", "--rest", "d0:60", "--skew", skew)
    with child(redis_url, *options), member(redis_url, model_list=entries(rpm=1000)) as (router, _):
        # It joined after the fact: everything comes from the keys.
        assert until_sync(lambda: outside(router)["d0"] == 2.0)
        assert until_sync(lambda: not router.deployments["d0"].eligible)
        left = router.deployments["d0"].resting_until - router.engine.clock()
        assert 45 < left <= 61
        until_sync(lambda: router.deployments["d1"].minute_tokens == 50.0, 20)


@pytest.mark.parametrize("skew", ["3600", "-86400"])
def test_a_wrong_clock_writes_litellms_keys_of_the_right_minute(redis_url, skew):
    client = Redis.from_url(redis_url)
    names = [client.time()[0] // 60]
    with child(redis_url, "--use", "5", "--rest", "d0:60", "--skew", skew, "--interop"):
        written = until_sync(lambda: client.keys("global_router:d1:*:tpm:*"))
        assert until_sync(lambda: client.exists("deployment:d0:cooldown"))
        value = json.loads(client.get("deployment:d0:cooldown"))
        now = client.time()[0]
        names.append(now // 60)
        left = value["timestamp"] + value["cooldown_time"] - now
        assert 50 < left <= 61, "by the clock of everybody else"
        minutes = {datetime.fromtimestamp(60 * m, tz=timezone.utc).strftime("%H-%M") for m in names}
        assert {name.decode().rsplit(":", 1)[1] for name in written} <= minutes


def test_a_forked_worker_is_an_instance_of_its_own(redis_url):
    with member(redis_url) as (router, state), child(redis_url, "--fork", "--hold", "4") as other:
        assert until_sync(lambda: outside(router)["d0"] == 4.0)
        assert until_sync(lambda: len(state.status()["instances"]) == 2)
        assert other.instance in state.status()["instances"]


def test_two_protocols_leave_each_others_keys_alone(redis_url):
    client = Redis.from_url(redis_url)
    newer = "fast_router:{default}:2:instances"
    with child(redis_url, "--hold", "3", "--rest", "d1:60", "--protocol", "2") as other:
        assert until_sync(lambda: client.hexists(newer, other.instance))
        with member(redis_url) as (router, state):
            ours = f"fast_router:{{default}}:{PROTOCOL}:instances"
            assert until_sync(lambda: client.hexists(ours, state.exchange.instance))
            # One that speaks our language comes later, and is seen: so anything else would have been, too.
            with child(redis_url, "--hold", "1", "--rest", "d0:60"):
                assert until_sync(lambda: outside(router)["d0"] == 1.0)
            assert router.deployments["d1"].eligible
            assert state.status()["unreadable"] == 0
        assert until_sync(lambda: client.hlen(ours) == 0)
        assert client.hexists(newer, other.instance)
        assert client.hlen("fast_router:{default}:2:rests") == 1


def test_two_versions_of_the_plugin_side_by_side(redis_url):
    client = Redis.from_url(redis_url)
    base = "fast_router:{default}:1"
    newer = {"p": 1, "k": "load", "i": "newer", "l": {"d0": 3, "d9": 1}, "u": {"d0": [1, 2, 3]}, "m": 1, "z": [1]}
    foreign = {"p": 2, "k": "load", "i": "foreign", "n": 1, "l": {"d0": 1000}}
    with member(redis_url) as (router, state):
        client.publish(f"{base}:news:0", json.dumps({**newer, "n": 1}))
        client.publish(f"{base}:news:0", json.dumps(foreign))
        client.publish(f"{base}:news:0", b"\xff\x00 not json")
        client.publish(f"{base}:news:0", json.dumps({"p": 1, "k": "hello", "i": "newer", "n": 2}))
        assert until_sync(lambda: state.status()["unreadable"] == 2)
        assert outside(router)["d0"] == 3.0
        lease = router.acquire("m")
        assert lease.release()
        assert state.connected


def test_garbage_in_the_hash_does_no_harm_and_the_dead_are_cleared_away(redis_url):
    client = Redis.from_url(redis_url)
    key = "fast_router:{default}:1:instances"
    old = {"p": 1, "k": "full", "i": "old", "n": 5, "t": 1000.0, "l": {"d0": 9}}
    client.hset(key, mapping={"old": json.dumps(old), "junk": b"\xff{{", "list": "[1,2]"})
    client.hset("fast_router:{default}:1:rests", mapping={"d0": "tomorrow", "d1": "nan", "unknown": "9999999999"})
    with member(redis_url) as (router, _):
        assert outside(router) == {"d0": 0.0, "d1": 0.0}
        assert all(d.eligible for d in router.deployments.values())
        assert until_sync(lambda: not client.hexists(key, "old"))
