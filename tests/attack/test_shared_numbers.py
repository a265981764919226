"""What one caller's calls leave alone: counts in flight, latencies, limits, the retry budget, memory."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import fast_router
from fast_router.testing import Rule
from tests.attack.doors import EVE, entries
from tests.attack.test_probes import stopped
from tests.attack.upstreams import MEMBERS, OWN, release
from tests.support.plugin import until


def in_flight(door):
    return sum(d.in_flight for d in fast_router.advanced_router(door.router).deployments.values())


@pytest.mark.parametrize("key", ["api_base", "base_url"])
async def test_a_call_to_an_endpoint_of_the_callers_own_is_in_flight_there_alone(upstreams, door_to, key):
    door = door_to(entries(upstreams, "own-flight"))
    await door.chat("own-flight")
    upstreams[OWN].reset()
    call = asyncio.create_task(door.chat("own-flight", "wait-for-me", by=EVE, **{key: door.own_endpoint}))
    try:
        await asyncio.to_thread(upstreams[OWN].wait_for, lambda seen: seen.in_flight == 1)
        assert in_flight(door) == 0
    finally:
        release(upstreams)
    assert (await call).error is None


async def test_a_call_with_a_key_of_the_callers_own_is_in_flight_at_the_shared_server(upstreams, door_to):
    door = door_to(entries(upstreams, "own-key"))
    await door.chat("own-key")
    hold_any_key(upstreams)
    call = asyncio.create_task(door.chat("own-key", "wait-for-me", by=EVE, api_key="sk-my-own"))
    try:
        await until(lambda: sum(upstreams[name].records.in_flight for name in MEMBERS) == 1)
        assert in_flight(door) == 1
    finally:
        release(upstreams)
    assert (await call).error is None
    assert in_flight(door) == 0


def hold_any_key(upstreams):
    """Let held requests be held whatever their key, for once."""
    for name in MEMBERS:
        rules = upstreams[name].behaviour.rules
        upstreams[name].order(rules=[Rule({"hold": True}, contains="wait-for-me"), *rules])


async def test_answers_from_an_endpoint_of_ones_own_teach_nothing(upstreams, door_to):
    limits = {"rpm": 1_000, "tpm": 1_000_000}
    door = door_to(entries(upstreams, "own-answers", limits), routing_strategy="latency-based-routing")
    for _ in range(6):
        await door.chat("own-answers")

    def numbers():
        ours = fast_router.advanced_router(door.router)
        return {
            id_: (d.latency, tuple(d.latencies), d.ewma, d.speed, d.minute_requests, d.minute_tokens)
            for id_, d in ours.deployments.items()
            if id_.startswith("own-answers")
        }

    before = numbers()
    for _ in range(5):
        assert (await door.chat("own-answers", "own-slow", by=EVE, api_base=door.own_endpoint)).error is None
    assert numbers() == before


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_what_a_caller_brings_along_serves_that_caller_alone(upstreams, door_to, sync):
    """Up to 1.99, LiteLLM alone enters it into the group: the others' prompts go there."""
    door = door_to(entries(upstreams, "brought"), sync=sync)
    listed = len(door.router.model_list)
    for request in ({"api_base": door.own_endpoint}, {"base_url": door.own_endpoint}, {"api_key": "sk-my-own"}):
        for _ in range(2):
            await door.chat("brought", by=EVE, **request)
    upstreams[OWN].reset()
    answers = [await door.chat("brought") for _ in range(24)]
    assert {answer.deployment for answer in answers} == {f"brought-{name}" for name in MEMBERS}
    assert upstreams[OWN].records.requests == 0
    assert len(door.router.model_list) == listed


async def test_a_call_to_an_endpoint_of_ones_own_costs_what_the_operator_says(upstreams, door_to):
    price = {"input_cost_per_token": 0.25, "output_cost_per_token": 0.5}
    door = door_to(entries(upstreams, "priced", price))
    question = {"model": "priced", "messages": [{"role": "user", "content": "hi"}]}
    usual = await door.router.acompletion(**question)
    own = await door.router.acompletion(**question, api_base=door.own_endpoint)
    assert own.usage.total_tokens == usual.usage.total_tokens
    assert own._hidden_params["response_cost"] == usual._hidden_params["response_cost"] > 1


async def test_a_caller_who_will_not_wait_leaves_the_others_their_retries(upstreams, door_to):
    """Two connections with `timeout: 0.02, num_retries: 50`, while the upstreams fail a fifth of everything."""
    flaky = Rule({"error_rate": 0.2}, contains="flaky-question")
    for name in MEMBERS:
        upstreams[name].order(rules=[flaky, *upstreams[name].behaviour.rules])
    door = door_to(entries(upstreams, "budget"))
    stop = asyncio.Event()

    async def impatient():
        while not stop.is_set():
            await door.chat("budget", "takes-1-s", by=EVE, timeout=0.02, num_retries=50)

    async def one(number):
        return await door.chat("budget", f"flaky-question {number}")

    for name in MEMBERS:
        upstreams[name].reset()
    attackers = [asyncio.create_task(impatient()) for _ in range(2)]
    try:
        # The budget is 10 a second over ten seconds, and a fifth of the requests.
        await until(lambda: sum(upstreams[name].records.requests for name in MEMBERS) >= 120, 200.0)
        answers = list(itertools.chain(*[await asyncio.gather(one(2 * n), one(2 * n + 1)) for n in range(40)]))
    finally:
        stop.set()
        await asyncio.gather(*attackers)
        for name in MEMBERS:
            upstreams[name].order(rules=upstreams[name].behaviour.rules[1:])
    failed = [answer.error for answer in answers if answer.error]
    # Three attempts that each fail once in five: one in 125, so more than five of 80 once in 20,000 runs.
    assert len(failed) <= 5, f"{len(failed)} of 80 failed, first: {failed[0]}"


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("prompt", ["answer-cut", "break-500"])
async def test_streams_that_break_are_the_word_of_one_caller(upstreams, door_to, prompt, sync):
    door = door_to(entries(upstreams, "breaks"), sync=sync)
    for _ in range(6):
        assert (await door.chat("breaks")).error is None
    # A second in which nobody else is answered would be an outage: on a busy machine these take longer.
    with stopped(fast_router.advanced_router(door.router).engine):
        for _ in range(16):
            await door.chat("breaks", prompt, by=EVE, stream=True)
            assert len(door.resting()) <= 1
    for _ in range(6):
        assert (await door.chat("breaks")).error is None


@pytest.mark.python_core
async def test_long_calls_of_one_caller_are_no_silence(upstreams, door_to):
    """Seven calls that take long, at all three; the others' short ones are answered meanwhile."""
    door = door_to(entries(upstreams, "long", {}, {"fast_router": {"strategy": "least_busy"}}))
    engine = fast_router.advanced_router(door.router).engine
    real = engine.clock
    ahead = 0.0
    engine.clock = lambda: real() + ahead
    for _ in range(30):
        await door.chat("long")
    for upstream in upstreams.values():
        upstream.reset()
    calls = [asyncio.create_task(door.chat("long", "wait-for-me", by=EVE)) for _ in range(7)]
    try:
        await until(lambda: sum(upstreams[name].records.in_flight for name in MEMBERS) == 7)
        rested = []
        for _ in range(40):  # twenty seconds of a short question each half a second
            ahead += 0.5
            assert (await door.chat("long")).error is None
            rested += door.resting()
    finally:
        release(upstreams)
    assert {answer.error for answer in await asyncio.gather(*calls)} == {None}
    assert not rested


async def test_a_caller_whose_calls_wait_everywhere_hides_no_hanging_server_from_others(upstreams, door_to):
    """One of three servers hangs, while one caller's calls have waited at all three for long."""
    door = door_to(entries(upstreams, "hidden", {}, {"fast_router": {"strategy": "least_busy"}}))
    engine = fast_router.advanced_router(door.router).engine
    real, ahead = engine.clock, 0.0
    engine.clock = lambda: real() + ahead
    for _ in range(30):
        assert (await door.chat("hidden")).error is None
    for upstream in upstreams.values():
        upstream.reset()
    long = [asyncio.create_task(door.chat("hidden", "wait-for-me", by=EVE)) for _ in range(9)]
    await until(lambda: [upstreams[name].records.in_flight for name in MEMBERS] == [3, 3, 3])
    rules = upstreams["b"].behaviour.rules
    upstreams["b"].order(rules=[Rule({"hold": True}), *rules])
    try:
        asked = [asyncio.create_task(door.chat("hidden", "a question")) for _ in range(6)]
        await until(lambda: upstreams["b"].records.in_flight > 3)
        for _ in range(400):
            ahead += 0.5
            asked.append(asyncio.create_task(door.chat("hidden", "a question")))
            await asyncio.wait({asked[-1]}, timeout=0.05)
            if len(asked) > 40 and all(call.done() for call in asked):
                break
        assert [call.result().error for call in asked if call.done()] == [None] * len(asked)
        assert not any(call.done() for call in long)
    finally:
        upstreams["b"].order(rules=rules)
        release(upstreams)
    await asyncio.gather(*long)


async def test_a_limit_of_its_own_rests_no_deployment_beyond_its_cooldown(upstreams, door_to):
    """`enforce_model_rate_limits` refuses here, in this process: the Retry-After of its refusal is no provider's."""
    door = door_to(
        entries(upstreams, "own-rpm", {"rpm": 3}),
        optional_pre_call_checks=["enforce_model_rate_limits"],
        cooldown_time=1,
        num_retries=0,
    )
    answers = [await door.chat("own-rpm") for _ in range(16)]
    assert any(answer.error for answer in answers), "the limit was never reached"
    engine = fast_router.advanced_router(door.router).engine
    left = {d.id: d.resting_until - engine.clock() for d in engine.deployments.values() if d.held}
    assert all(seconds <= 1.0 for seconds in left.values()), left


async def test_names_that_nobody_configured_are_not_kept(upstreams, door_to):
    door = door_to(entries(upstreams, "*", {"model": "openai/*"}))
    ours = fast_router.advanced_router(door.router)
    for number in range(20):
        await door.chat(f"unheard-of-{number}")
    kept = len(ours.engine.deployments), len(ours.groups)
    for number in range(20, 320):
        await door.chat(f"unheard-of-{number}")
    more = len(ours.engine.deployments) - kept[0], len(ours.groups) - kept[1]
    assert max(more) <= 100, f"{more} more deployments and groups after 300 more names"
