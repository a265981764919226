"""What one caller alone has brought about stays in this process; what two have met is told to all on the same Redis."""

from __future__ import annotations

import pytest
import redis as redis_client

import fast_router
from fast_router.cluster import state_of
from tests.attack.doors import EVE, entries
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
