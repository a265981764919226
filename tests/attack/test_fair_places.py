"""One caller fills an operator's `qos_limit`: the next place that is free is for whoever was refused meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from fast_router.litellm_plugin.layers.kept_places import kept_places_of
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.switch import switch
from tests.attack.doors import EVE, GOOD, entries
from tests.attack.upstreams import MEMBERS, release
from tests.support.plugin import until

LIMIT = 2
PLACES = LIMIT * len(MEMBERS)
SECOND = "sk-second"


def limited(upstreams, group, **more):
    return entries(upstreams, group, {}, {"fast_router": {"qos_metric": "inflight", "qos_limit": LIMIT, **more}})


@pytest.fixture
def full(upstreams, door_to):
    """Fill a group with the calls of one caller, and let them go one by one."""

    class Full:
        def __init__(self):
            self.calls = []

        async def fill(self, **more):
            self.door = door_to(limited(upstreams, "limit", **more), num_retries=0)
            assert (await self.door.chat("limit")).error is None
            for upstream in upstreams.values():
                upstream.reset()
            self.calls = [asyncio.create_task(self.door.chat("limit", "wait-for-me", by=EVE)) for _ in range(PLACES)]
            await until(lambda: sum(upstreams[name].records.in_flight for name in MEMBERS) == PLACES)
            return self.door

        async def end_one(self):
            call = self.calls.pop()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    made = Full()
    yield made
    release(upstreams)


async def test_a_caller_that_fills_every_place_leaves_the_next_one_to_others(full):
    door = await full.fill()
    try:
        assert "too busy" in (await door.chat("limit")).error  # unavoidable: nothing is free
        await full.end_one()
        for _ in range(4):
            for _ in range(3):
                assert "too busy" in (await door.chat("limit", by=EVE)).error
            assert (await door.chat("limit")).error is None
        await full.end_one()
        assert (await door.chat("limit", by=EVE)).error is None  # one place is kept, no more
    finally:
        for _ in range(len(full.calls)):
            await full.end_one()


async def test_whoever_is_refused_after_pauses_gets_its_place_in_a_pause(full):
    door = await full.fill(retries=400, retry_countdown=0.05)
    modest = asyncio.create_task(door.chat("limit"))
    hasty = []
    try:
        kept = kept_places_of(existing(switch.band.core_of(door.router)))
        await until(lambda: kept._reserves)
        hasty = [asyncio.create_task(door.chat("limit", "wait-for-me", by=EVE)) for _ in range(5)]
        await full.end_one()
        assert (await modest).error is None
        assert not any(call.done() for call in hasty)
    finally:
        for call in hasty:
            call.cancel()
        await asyncio.gather(*hasty, return_exceptions=True)
        for _ in range(len(full.calls)):
            await full.end_one()


async def test_a_caller_alone_fills_every_place_again_and_again(full):
    door = await full.fill()
    assert "too busy" in (await door.chat("limit", by=EVE)).error
    while full.calls:
        await full.end_one()
        assert (await door.chat("limit", by=EVE)).error is None
    answers = await asyncio.gather(*(door.chat("limit", "takes-300-ms", by=EVE) for _ in range(PLACES)))
    assert {answer.error for answer in answers} == {None}


async def test_two_modest_callers_are_served_beside_a_greedy_one(full):
    door = await full.fill()
    try:
        for by in (GOOD, SECOND):
            assert "too busy" in (await door.chat("limit", by=by)).error
        for _ in range(2):
            await full.end_one()
            assert "too busy" in (await door.chat("limit", by=EVE)).error
        for _ in range(3):
            answers = await asyncio.gather(*(door.chat("limit", by=by) for by in (GOOD, SECOND)))
            assert [answer.error for answer in answers] == [None, None]
    finally:
        for _ in range(len(full.calls)):
            await full.end_one()
