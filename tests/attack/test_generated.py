"""Requests made at random by one caller: whatever they are, the others are served as without them.

FAST_ROUTER_ATTACKS sets how many are tried; the suite tries the first of those that `make test-slow` does.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import HealthCheck, given, settings

from tests.attack.doors import EVE, entries
from tests.attack.requests import attacks

ATTACKS = int(os.environ.get("FAST_ROUTER_ATTACKS") or 100)
MANY = 2000
# Seconds until the caller hangs up, which is an attack, too; many requests ask for long waits and many retries.
IMPATIENT, PATIENT = 1.0, 15.0
# From here on a group of three is nearly empty.
MOST_AT_REST = 1


async def others_are_served(door, group, times=6):
    answers = await asyncio.gather(*(door.chat(group) for _ in range(times)))
    refused = [answer.error for answer in answers if answer.error]
    assert not refused, f"{len(refused)} of {len(answers)} of the others were refused: {refused[0]}"


async def attack(door, group, endpoint, times, request, patience):
    """Call so often, one after the other, until the caller has lost patience with one of them."""
    request = {key: door.own_endpoint if value == "OWN" else value for key, value in request.items()}
    for _ in range(times):
        try:
            await asyncio.wait_for(getattr(door, endpoint)(group, by=EVE, **request), patience)
        except asyncio.TimeoutError:
            return


def tries(examples):
    """The same requests in every run, so that one that finds something finds it again."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=slow)


@tries(ATTACKS)
@given(attacks())
def test_no_request_takes_a_model_away_from_others(upstreams, door_to, made):
    try_one(upstreams, door_to, *made, IMPATIENT)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@tries(MANY)
@given(attacks())
def test_none_of_many_requests_takes_a_model_away_from_others(upstreams, door_to, made):
    try_one(upstreams, door_to, *made, PATIENT)


def try_one(upstreams, door_to, endpoint, times, request, patience):
    """Attack one fresh group, and look after it and the one that it may fall back to."""

    async def example():
        door = door_to([*entries(upstreams, "any"), *entries(upstreams, "elsewhere")])
        try:
            await others_are_served(door, "any", times=3)
            await attack(door, "any", endpoint, times, request, patience)
            for group in ("any", "elsewhere"):
                await others_are_served(door, group)
            resting = door.resting()
            assert len(resting) <= MOST_AT_REST, resting
        finally:
            door.close()

    asyncio.run(example())
