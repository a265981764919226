"""With `max_wait`, one caller's requests fill no line: the others wait for their turn alone."""

from __future__ import annotations

import asyncio

import pytest

import fast_router
from fast_router import settings
from fast_router.engine.failover.waiting import TicketState
from fast_router.litellm_plugin.layers.wait import waiting_of
from fast_router.litellm_plugin.switch import switch
from tests.attack.doors import EVE, GOOD, entries
from tests.attack.upstreams import MEMBERS
from tests.support.plugin import until

PLACES = 6


@pytest.fixture
def patient():
    settings.configure(max_wait=120, max_waiting=PLACES)
    yield
    settings.configure(max_wait=None, max_waiting=None)


def line_of(door, group):
    """Give the requests that wait for room, and those that wait for the end of an outage."""
    waiting = waiting_of(switch.band.core_of(door.router))
    members = fast_router.advanced_router(door.router).groups[group]
    return waiting.queue(members), waiting.outage(members)


async def test_a_line_full_of_one_callers_requests_has_room_for_others(upstreams, door_to, patient):
    door = door_to(entries(upstreams, "line", {"max_parallel_requests": 1}), num_retries=0)
    assert (await door.chat("line")).error is None
    for upstream in upstreams.values():
        upstream.reset()
    greedy = [asyncio.create_task(door.chat("line", "wait-for-me", by=EVE)) for _ in range(3 + PLACES + 5)]
    modest = []
    rules = {name: upstreams[name].behaviour.rules for name in MEMBERS}
    try:
        await until(lambda: sum(upstreams[name].records.in_flight for name in MEMBERS) == 3)
        queue, _ = line_of(door, "line")
        await until(lambda: len(queue) == PLACES)
        modest += [asyncio.create_task(door.chat("line")) for _ in range(2)]

        def callers():
            return [ticket.caller for ticket in queue._heap if ticket.state is TicketState.WAITING]

        await until(lambda: callers().count(("key", GOOD)) == 2)
        assert len(queue) == PLACES
    finally:
        for name in MEMBERS:
            upstreams[name].order(rules=[])
        answers = await asyncio.gather(*modest)
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)
        for name in MEMBERS:
            upstreams[name].order(rules=rules[name])
    assert [answer.error for answer in answers] == [None, None]


@pytest.mark.python_core
async def test_an_outage_is_outlasted_by_others_though_one_caller_fills_its_line(upstreams, door_to, patient):
    door = door_to(entries(upstreams, "outage"), num_retries=2)
    assert (await door.chat("outage")).error is None
    rules = {name: upstreams[name].behaviour.rules for name in MEMBERS}
    for name in MEMBERS:
        upstreams[name].order(rules=[], error_rate=1.0, error_status=503)
    greedy, modest = [], []
    try:
        greedy = [asyncio.create_task(door.chat("outage", by=EVE)) for _ in range(PLACES + 4)]
        _, outage = line_of(door, "outage")
        await until(lambda: sum(task.done() for task in greedy) >= 3)
        modest = [asyncio.create_task(door.chat("outage")) for _ in range(2)]
        await until(lambda: sum(standing.caller == ("key", EVE) for standing in outage._line) <= PLACES - 2)
        assert not any(task.done() for task in modest)
    finally:
        for name in MEMBERS:
            upstreams[name].order(error_rate=0.0, rules=rules[name])
    assert [answer.error for answer in await asyncio.gather(*modest)] == [None, None]
    await asyncio.gather(*greedy)
