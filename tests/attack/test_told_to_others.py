"""What one caller alone has brought about stays in this process; what two have met is told to all on the same Redis."""

from __future__ import annotations

import pytest
import redis as redis_client

import fast_router
from fast_router.cluster import state_of
from tests.attack.doors import EVE, entries
from tests.attack.test_real_faults import broken
from tests.support.plugin import until

pytestmark = pytest.mark.services


@pytest.fixture
def redis(redis_url):
    with redis_client.Redis.from_url(redis_url) as client:
        yield client


async def test_a_rest_on_one_callers_word_is_told_to_nobody(upstreams, door_to, redis_url, redis):
    host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
    groups = [*entries(upstreams, "by-one"), *entries(upstreams, "by-two")]
    door = door_to(groups, redis_host=host, redis_port=int(port))
    ours = fast_router.advanced_router(door.router)
    real, ahead = ours.engine.clock, 0.0
    ours.engine.clock = lambda: real() + ahead
    assert (await door.chat("by-two")).error is None
    await until(lambda: state_of(ours) is not None and state_of(ours).connected)
    state = state_of(ours)
    key = state.exchange.rests_key

    def told(group):
        ids = [f"{group}-{name}" for name in "abc"]
        written = [id_ for id_ in ids if redis.exists(f"deployment:{id_}:cooldown")]
        return written, [field for field in redis.hkeys(key) if field.decode() in map(state.exchange.port.short, ids)]

    def at_rest(group):
        return [d.id for d in ours.deployments.values() if d.name == group and d.held]

    for _ in range(12):
        await door.chat("by-one", "answer-500", by=EVE)
        ahead += 0.5
    assert at_rest("by-one")
    for turn in range(24):
        await door.chat("by-two", "answer-500", by=(EVE, "sk-second")[turn % 2])
        if at_rest("by-two"):
            break
    assert at_rest("by-two")
    await until(lambda: all(told("by-two")))
    assert told("by-one") == ([], [])
    assert (await door.chat("by-one")).error is None


@pytest.mark.parametrize("prompt", ["end-user-429", "answer-401"])
async def test_a_rest_is_told_once_its_request_was_answered_elsewhere(upstreams, door_to, redis_url, redis, prompt):
    """Each of many processes may believe one caller about one deployment: together that were the whole group."""
    host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
    door = door_to(entries(upstreams, "first"), redis_host=host, redis_port=int(port))
    ours = fast_router.advanced_router(door.router)
    assert (await door.chat("first")).error is None
    await until(lambda: state_of(ours) is not None and state_of(ours).connected)
    state = state_of(ours)

    def told():
        ids = [f"first-{name}" for name in "abc"]
        written = [id_ for id_ in ids if redis.exists(f"deployment:{id_}:cooldown")]
        short = {state.exchange.port.short(id_) for id_ in ids}
        return written, [field for field in redis.hkeys(state.exchange.rests_key) if field.decode() in short]

    assert (await door.chat("first", prompt, by=EVE, num_retries=0)).error is not None
    assert len(door.resting()) == 1
    # Once a rest that all may know of is there, so is whatever was told before it.
    witness = ours.deployments[next(id_ for id_ in ours.deployments if not ours.deployments[id_].held)]
    ours.engine.rest(witness, 60.0)
    await until(lambda: told()[1] == [state.exchange.port.short(witness.id).encode()])
    ours.engine.wake(witness)
    resting = next(d for d in ours.deployments.values() if d.held)
    ours.engine.wake(resting)
    await until(lambda: told()[1] == [])
    with broken(upstreams["b"], {"throttle_rate": 1.0, "retry_after": 600}):
        while not any(id_.startswith("first-b") for id_ in door.resting()):
            assert (await door.chat("first", by=EVE)).error is None
        await until(lambda: told() == (["first-b"], [state.exchange.port.short("first-b").encode()]))


async def test_those_at_rest_on_one_callers_word_are_asked_anew_though_others_would_do(upstreams, door_to):
    """Those that are left could answer the others; but why should they alone?"""
    door = door_to(entries(upstreams, "two-of-three"))
    ours = fast_router.advanced_router(door.router)
    for _ in range(6):
        assert (await door.chat("two-of-three")).error is None
    failover, word = ours.failover, ("key", EVE)
    for deployment in list(ours.deployments.values())[:2]:
        failover.breaker(deployment).testimony.word = word
        assert failover.trip(deployment, "one caller says so", 600.0)
    failover._evidence.alone["two-of-three"] = word
    assert (await door.chat("two-of-three", by=EVE)).error is None
    assert len(door.resting()) == 2
    assert (await door.chat("two-of-three")).error is None
    assert door.resting() == []
