"""Requests made at random by one caller: whatever they are, the others are served as without them.

FAST_ROUTER_ATTACKS sets how many are tried; the suite tries the first of those that `make test-slow` does, which are
FAST_ROUTER_MANY_ATTACKS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.attack.doors import EVE, RouterDoor, entries
from tests.attack.requests import ROUTERS, attacks

# Requests that are tried.
ATTACKS = int(os.environ.get("FAST_ROUTER_ATTACKS") or 128)
MANY = int(os.environ.get("FAST_ROUTER_MANY_ATTACKS") or 4000)
# Attacks on one Router at the same time, each on a group of its own; on an average each is two requests.
SIDE_BY_SIDE, EACH = 8, 2
# Seconds until the caller hangs up, which is an attack, too; many requests ask for long waits and many retries.
IMPATIENT, PATIENT = 1.0, 15.0
# From here on a group of three is nearly empty.
MOST_AT_REST = 1


@pytest.fixture(scope="module", autouse=True)
def _loaded(upstreams):
    """What LiteLLM loads at the first request of an endpoint, it must not load for two at the same time."""

    async def one_of_each():
        door = RouterDoor(entries(upstreams, "first"))
        for endpoint in ("chat", "text", "respond", "message", "embed"):
            for more in ({}, {"stream": True}):
                answer = await getattr(door, endpoint)("first", **(more if endpoint != "embed" else {}))
                assert answer.error is None, (endpoint, answer)
        door.close()

    asyncio.run(one_of_each())


async def others_are_served(door, group, times=6):
    answers = await asyncio.gather(*(door.chat(group) for _ in range(times)))
    refused = [answer.error for answer in answers if answer.error]
    assert not refused, f"{len(refused)} of {len(answers)} of the others were refused in {group}: {refused[0]}"


async def attack(door, group, made, patience):
    """Call so often, until the caller has lost patience with one of the calls."""
    request = {key: door.own_endpoint if value == "OWN" else value for key, value in made.request.items()}

    async def call():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(getattr(door, made.endpoint)(group, by=EVE, **request), patience)
            return True
        return False

    if made.at_once:
        await asyncio.gather(*(call() for _ in range(made.times)))
        return
    for _ in range(made.times):
        if not await call():
            return


def tries(requests):
    """The same requests in every run, so that one that finds something finds it again."""
    examples = max(1, requests // (SIDE_BY_SIDE * EACH))
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=slow)


several = st.lists(attacks(), min_size=SIDE_BY_SIDE, max_size=SIDE_BY_SIDE)


@tries(ATTACKS)
@given(ROUTERS, several)
def test_no_request_takes_a_model_away_from_others(upstreams, door_to, options, made):
    try_some(upstreams, door_to, options, made, IMPATIENT)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@tries(MANY)
@given(ROUTERS, several)
def test_none_of_many_requests_takes_a_model_away_from_others(upstreams, door_to, options, made):
    try_some(upstreams, door_to, options, made, PATIENT)


def try_some(upstreams, door_to, options, made, patience):
    """Attack fresh groups, one with each attack, and look after them and the one that they may fall back to."""
    groups = ["any", *(f"any-{number}" for number in range(1, len(made)))]

    async def example():
        door = door_to([entry for group in [*groups, "elsewhere"] for entry in entries(upstreams, group)], **options)
        try:
            await asyncio.gather(*(others_are_served(door, group, times=3) for group in groups))
            pairs = zip(groups, made, strict=True)
            await asyncio.gather(*(attack(door, group, each, patience) for group, each in pairs))
            await asyncio.gather(*(others_are_served(door, group) for group in [*groups, "elsewhere"]))
            for group in [*groups, "elsewhere"]:
                resting = [found for found in door.resting() if found.split(":")[0].rpartition("-")[0] == group]
                assert len(resting) <= MOST_AT_REST, resting
        finally:
            door.close()

    asyncio.run(example())
