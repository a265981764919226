"""Through LiteLLM's real proxy: one key fills a model's waiting line, or an operator's limit; another key is served."""

from __future__ import annotations

import asyncio

import pytest

from tests.attack.attacked_proxy import attacked_proxy
from tests.attack.doors import EVE, ProxyDoor, entries
from tests.attack.upstreams import MEMBERS
from tests.support.plugin import until

pytestmark = [pytest.mark.proxy, pytest.mark.slow, pytest.mark.timeout(400)]
PLACES, LIMIT, GREEDY = 6, 2, 24


@pytest.fixture(scope="module")
def proxy(upstreams, tmp_path_factory):
    limited = {"fast_router": {"qos_metric": "inflight", "qos_limit": LIMIT}}
    model_list = [
        *entries(upstreams, "line", {"max_parallel_requests": 1}),
        *entries(upstreams, "limit", {}, limited),
    ]
    with attacked_proxy(
        tmp_path_factory.mktemp("fair"), model_list, fast_router={"max_wait": 240, "max_waiting": PLACES}
    ) as started:
        yield started


@pytest.fixture
async def door(proxy, upstreams):
    made = ProxyDoor(proxy.url)
    rules = {name: upstreams[name].behaviour.rules for name in MEMBERS}
    for upstream in upstreams.values():
        upstream.reset()
    yield made
    await made.close()
    for name in MEMBERS:
        upstreams[name].order(rules=rules[name])


async def test_a_line_full_of_one_keys_requests_has_room_for_another_key(door, upstreams):
    assert (await door.chat("line")).error is None
    greedy = [asyncio.create_task(door.chat("line", "wait-for-me", by=EVE)) for _ in range(GREEDY)]
    await until(lambda: sum(upstreams[name].records.in_flight for name in MEMBERS) == 3)
    modest = [asyncio.create_task(door.chat("line")) for _ in range(2)]
    await asyncio.sleep(1)  # the proxy tells nobody who stands in line
    for name in MEMBERS:
        upstreams[name].order(rules=[], latency=0.2)
    assert [answer.error for answer in await asyncio.gather(*modest)] == [None, None]
    # Callers take turns: those with the servers, one for each of the other's, and what came in at the same time.
    assert sum(task.done() and not task.result().error for task in greedy) <= 3 + 2 + 3
    await asyncio.gather(*greedy)


async def test_a_key_that_fills_every_place_of_a_limit_is_served_beside_another_key(door, upstreams):
    assert (await door.chat("limit")).error is None
    for name in MEMBERS:
        upstreams[name].order(rules=[], latency=0.3)
    over, refused = False, 0

    async def greedily():
        nonlocal refused
        while not over:
            refused += (await door.chat("limit", by=EVE)).error is not None

    greedy = [asyncio.create_task(greedily()) for _ in range(2 * LIMIT * len(MEMBERS))]
    try:
        await until(lambda: refused > 0)
        while (await door.chat("limit")).error:
            pass  # unavoidable: nothing is free
        assert [(await door.chat("limit")).error for _ in range(8)] == [None] * 8
    finally:
        over = True
        await asyncio.gather(*greedy)
