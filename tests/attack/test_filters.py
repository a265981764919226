"""Where a filter leaves some callers one deployment of a group, none of them takes it away from the others."""

from __future__ import annotations

import asyncio

import pytest

import fast_router
from tests.attack.doors import EVE, GOOD, entries
from tests.attack.test_real_faults import broken
from tests.attack.upstreams import release
from tests.support.plugin import until

LONG = "word " * 3000
GOLD = {"metadata": {"tags": ["gold"]}}


def tagged(entries_):
    for entry, tag in zip(entries_, ("free", "gold", "free"), strict=True):
        entry["litellm_params"]["tags"] = [tag]
    return entries_


def sized(entries_):
    for entry, tokens in zip(entries_, (100, 100_000, 100), strict=True):
        entry["model_info"]["max_input_tokens"] = tokens
    return entries_


# How the group is made, the Router's settings, what a request for the one in the middle says and asks.
FILTERS = {
    "tags": (tagged, {"enable_tag_filtering": True}, GOLD, ""),
    "context window": (sized, {"enable_pre_call_checks": True}, {}, LONG),
}
# What a prompt makes happen, how often it is asked, and how.
ATTACKS = {
    "a 429": ("answer-429", 1, {}),
    "a 429 for ten minutes": ("end-user-429", 1, {}),
    "a 401": ("answer-401", 1, {}),
    "eight 500": ("answer-500", 8, {"num_retries": 0}),
    "eight 500, retried": ("answer-500", 4, {}),
    "three resets": ("answer-reset", 3, {"num_retries": 0}),
    "three resets, retried": ("answer-reset", 3, {}),
    "three that outlast the deployment's timeout": ("takes-1-s", 3, {"num_retries": 0}),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", FILTERS)
async def test_the_only_one_that_others_can_use_serves_on(upstreams, door_to, kind, attack):
    made, options, request, padding = FILTERS[kind]
    prompt, times, how = ATTACKS[attack]
    door = door_to(made(entries(upstreams, "few", {"timeout": 0.4})), **options)

    async def good():
        return await door.chat("few", f"hi {padding}", **request)

    assert (await good()).deployment == "few-b"
    # The second time, too: the first may have been let off for a rest that nobody else had heard of.
    for _ in range(2):
        for _ in range(times):
            assert (await door.chat("few", f"{prompt} {padding}", by=EVE, **request, **how)).error is not None
        assert {(await good()).deployment for _ in range(3)} == {"few-b"}


@pytest.mark.python_core
@pytest.mark.parametrize("callers", [(GOOD,), (GOOD, "sk-second")], ids=["one caller", "two callers"])
@pytest.mark.parametrize(
    ("orders", "most"),
    [(None, 3), ({"reset_rate": 1.0}, 3), ({"error_rate": 1.0}, 6), ({"throttle_rate": 1.0, "retry_after": 30}, 2)],
    ids=["dead", "resets", "500", "429"],
)
async def test_a_broken_one_is_found_all_the_same(upstreams, door_to, orders, most, callers):
    """Filters are on, but whoever fails there is answered elsewhere."""
    door = door_to(entries(upstreams, "wide", {"timeout": 0.4}), enable_pre_call_checks=True)
    for _ in range(6):
        assert (await door.chat("wide")).error is None
    deployment = fast_router.advanced_router(door.router).deployments["wide-b"]
    before = deployment.picks
    with broken(upstreams["b"], orders):
        for number in range(40):
            assert (await door.chat("wide", by=callers[number % len(callers)])).error is None
    assert deployment.picks - before <= most + 1


@pytest.mark.python_core
async def test_long_calls_that_one_alone_can_take_are_no_silence(upstreams, door_to):
    free = {"metadata": {"tags": ["free"]}}
    door = door_to(tagged(entries(upstreams, "long")), enable_tag_filtering=True)
    engine = fast_router.advanced_router(door.router).engine
    real, ahead = engine.clock, 0.0
    engine.clock = lambda: real() + ahead
    for _ in range(30):
        assert (await door.chat("long", **free)).error is None
    for upstream in upstreams.values():
        upstream.reset()
    asked = [door.chat("long", "wait-for-me", by=by, **GOLD) for by in (EVE, GOOD, "sk-third") for _ in range(2)]
    calls = [asyncio.create_task(each) for each in asked]
    try:
        await until(lambda: upstreams["b"].records.in_flight == len(calls))
        for _ in range(40):  # twenty seconds of a short question each half a second
            ahead += 0.5
            assert (await door.chat("long", **free)).error is None
            assert not door.resting()
    finally:
        release(upstreams)
    assert {answer.deployment for answer in await asyncio.gather(*calls)} == {"long-b"}
