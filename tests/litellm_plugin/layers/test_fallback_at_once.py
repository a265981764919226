"""One deployment a name, and a fallback name: while the first is dead, requests go to the second at once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import litellm
import pytest

import fast_router
from fast_router import settings
from fast_router.testing import Fleet, Spec
from tests.support.plugin import MESSAGES, discard, entry, router

logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
CALM = {"error_rate": 0.0, "error_status": 500, "script": (), "retry_after": None}


@pytest.fixture(scope="module")
def fleet():
    with Fleet([Spec(name=name) for name in "pqr"]) as running:
        yield running


@pytest.fixture(autouse=True)
def plugin(fleet):
    assert fast_router.enable()
    for name in "pqr":
        fleet[name].order(**CALM)
        fleet[name].reset()
    errors = fast_router.status()["errors"]["count"]
    yield
    settings.reset()
    discard()
    assert fast_router.status()["errors"]["count"] == errors, fast_router.status()["errors"]


def over(fleet, models=(("main", "p"), ("spare", "q")), **options):
    options.setdefault("fallbacks", [{"main": ["spare"]}])
    given = {"num_retries": 1, "retry_after": 0, "cooldown_time": 300, **options}
    return router(*(entry(s, fleet[s].api_base, name) for name, s in models), **given)


class Clock:
    """A Router's engine clock that can be moved on."""

    def __init__(self, made):
        self.engine = fast_router.advanced_router(made).engine
        self.real, self.ahead = self.engine.clock, 0.0
        self.engine.clock = lambda: self.real() + self.ahead


async def chat(made, model="main", **request):
    return await made.acompletion(model=model, messages=MESSAGES, **request)


def asked(fleet):
    found = tuple(fleet[name].records.requests for name in "pqr")
    for name in "pqr":
        fleet[name].reset()
    return found


async def killed(fleet, made, user="someone", **request):
    """Have our breaker find the primary dead: five failures in a row."""
    fleet["p"].order(error_rate=1.0)
    for n in range(5):
        await chat(made, user=f"{user} {n}", **request)
    fleet["p"].reset()
    fleet["q"].reset()
    fleet["r"].reset()


async def test_the_primary_is_asked_until_its_breaker_opens_and_then_the_fallback_at_once(fleet):
    made = over(fleet)
    fleet["p"].order(error_rate=1.0)
    ways = []
    for _ in range(8):
        await chat(made)
        ways.append(asked(fleet)[:2])
    # The fifth failure in a row opens it: the request that meets it does not retry there any more.
    assert ways == [(2, 1)] * 4 + [(1, 1)] + [(0, 1)] * 3


@pytest.mark.parametrize("retries", [1, 3])
def test_nobody_waits_before_the_fallback(fleet, monkeypatch, retries):
    made = over(fleet, num_retries=retries)
    asyncio.run(killed(fleet, made))
    waits = []
    mine = threading.get_ident()
    wait, block = asyncio.sleep, time.sleep

    async def sleep(seconds, *result):
        if asyncio.current_task() is asking:
            waits.append(seconds)
            seconds = 0
        return await wait(seconds, *result)

    def blocking(seconds):
        if threading.get_ident() == mine:
            waits.append(seconds)
            seconds = 0
        block(seconds)

    async def ask():
        nonlocal asking
        asking = asyncio.current_task()
        await chat(made)

    asking = None
    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(ask())
    monkeypatch.setattr(time, "sleep", blocking)
    made.completion(model="main", messages=MESSAGES)
    monkeypatch.undo()
    assert asked(fleet) == (0, 2, 0)
    assert sum(waits) == 0


async def test_a_control_without_the_setting(fleet):
    settings.configure(fallback_at_once=False)
    made = over(fleet)
    await killed(fleet, made)
    await chat(made)
    assert asked(fleet) == (2, 1, 0)


def test_synchronous_calls_and_streams_too(fleet):
    made = over(fleet)
    asyncio.run(killed(fleet, made))
    made.completion(model="main", messages=MESSAGES)
    assert asked(fleet) == (0, 1, 0)

    async def stream():
        return [chunk async for chunk in await chat(made, stream=True)]

    assert asyncio.run(stream())
    assert asked(fleet) == (0, 1, 0)


async def test_embeddings_and_responses_too(fleet):
    made = over(fleet)
    await killed(fleet, made)
    await made.aembedding(model="main", input=["x"])
    await made.aresponses(model="main", input="x")
    assert asked(fleet) == (0, 2, 0)


async def test_a_probe_per_rest_finds_out_and_its_success_brings_everybody_back(fleet):
    made = over(fleet)
    clock = Clock(made)
    await killed(fleet, made)
    clock.ahead += 301
    await asyncio.gather(*(chat(made) for _ in range(10)))
    # One is the probe: it fails, does not try again, and is answered by the fallback like the others.
    assert asked(fleet) == (1, 10, 0)
    # That one request failed there may be its own fault. Another one confirms it, and then the rest begins anew.
    await chat(made)
    assert asked(fleet) == (1, 1, 0)
    for _ in range(3):
        await chat(made)
    assert asked(fleet) == (0, 3, 0)
    fleet["p"].order(error_rate=0.0)
    clock.ahead += 301
    for _ in range(4):
        await chat(made)
    assert asked(fleet) == (4, 0, 0)


async def test_where_every_fallback_fails_the_primary_is_tried_as_ever(fleet):
    made = over(fleet)
    await killed(fleet, made)
    fleet["q"].order(error_rate=1.0)
    with pytest.raises(litellm.InternalServerError):
        await chat(made)
    assert asked(fleet) == (2, 2, 0)
    # It answers again, which nobody could know: the request that had nobody else finds out.
    fleet["p"].order(error_rate=0.0)
    await chat(made)
    assert asked(fleet) == (1, 2, 0)
    await chat(made)
    assert asked(fleet) == (1, 0, 0)


def test_where_every_fallback_fails_synchronously(fleet):
    made = over(fleet)
    asyncio.run(killed(fleet, made))
    fleet["q"].order(error_rate=1.0)
    fleet["p"].order(error_rate=0.0)
    made.completion(model="main", messages=MESSAGES)
    assert asked(fleet)[0] == 1


async def test_where_every_fallback_is_dead_too_nothing_is_passed_by(fleet):
    made = over(fleet)
    fleet["q"].order(error_rate=1.0)
    fleet["p"].order(error_rate=1.0)
    for _ in range(6):
        with pytest.raises(litellm.InternalServerError):
            await chat(made)
    asked(fleet)
    with pytest.raises(litellm.InternalServerError):
        await chat(made)
    assert asked(fleet) == (2, 2, 0)


async def test_a_dead_fallback_is_passed_by_for_the_next_one(fleet):
    models = (("main", "p"), ("spare", "q"), ("last", "r"))
    made = over(fleet, models, fallbacks=[{"main": ["spare", "last"]}])
    fleet["q"].order(error_rate=1.0)
    # What fails at two deployments speaks against neither until a second caller has met the same.
    await killed(fleet, made)
    await killed(fleet, made, "another")
    for _ in range(3):
        await chat(made)
    assert asked(fleet) == (0, 0, 3)


@pytest.mark.parametrize("model", ["main", "also-main"])
@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ({"fallbacks": [], "default_fallbacks": ["spare"]}, {}),
        ({"fallbacks": []}, {"fallbacks": ["spare"]}),
        ({"fallbacks": []}, {"fallbacks": [{"model": "spare"}]}),
        ({"fallbacks": []}, {"fallbacks": [{"main": ["spare"]}, {"also-main": ["spare"]}]}),
    ],
)
async def test_every_way_to_name_a_fallback(fleet, options, request_, model):
    made = over(fleet, model_group_alias={"also-main": "main"}, **options)
    await killed(fleet, made, fallbacks=["spare"])
    await chat(made, model, **request_)
    assert asked(fleet) == (0, 1, 0)


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ({}, {"disable_fallbacks": True}),
        ({}, {"fallbacks": []}),
        ({"fallbacks": [], "context_window_fallbacks": [{"main": ["spare"]}]}, {}),
        ({"fallbacks": [], "content_policy_fallbacks": [{"main": ["spare"]}]}, {}),
        ({"fallbacks": [{"main": ["nobody"]}]}, {}),
        ({}, {"api_key": "the caller's own"}),
    ],
)
async def test_who_has_no_such_fallback_is_served_by_the_primary(fleet, options, request_):
    made = over(fleet, **options)
    await killed(fleet, made, fallbacks=["spare"])
    fleet["p"].order(error_rate=0.0)
    await chat(made, **request_)
    assert asked(fleet) == (1, 0, 0)


async def test_a_retry_policy_does_not_keep_it_there(fleet):
    policy = {"retry_policy": litellm.router.RetryPolicy(InternalServerErrorRetries=3)}
    fleet["p"].order(error_rate=1.0)
    fast_router.disable()
    await chat(over(fleet, **policy))
    whole = asked(fleet)[0]  # LiteLLM up to 1.99 does not ask its policy here, but `num_retries`
    assert whole in {2, 4}
    fast_router.enable()
    made = over(fleet, **policy)
    for n in range(5):
        await chat(made, user=f"{n}")
    # Four requests with all their retries, and one that finds it dead after its first attempt.
    assert asked(fleet)[0] == 4 * whole + 1
    await chat(made)
    assert asked(fleet) == (0, 1, 0)


async def test_one_callers_word_sends_nobody_else_to_the_fallback(fleet):
    made = over(fleet)
    fleet["p"].order(error_rate=1.0)
    one = {"metadata": {"user_api_key_hash": "one", "user_api_key": "one"}}
    for _ in range(6):
        await chat(made, metadata=dict(one["metadata"]))
    asked(fleet)
    await chat(made, metadata=dict(one["metadata"]))
    assert asked(fleet) == (0, 1, 0)
    fleet["p"].order(error_rate=0.0)
    await chat(made, metadata={"user_api_key_hash": "other", "user_api_key": "other"})
    assert asked(fleet) == (1, 0, 0)


async def test_a_group_of_two_with_a_fallback_rests_whole(fleet):
    made = over(fleet, (("main", "p"), ("main", "r"), ("spare", "q")), cooldown_time=300)
    for name in "pr":
        fleet[name].order(error_rate=1.0)
    for n in range(30):
        await chat(made, user=str(n))
    asked(fleet)
    for n in range(5):
        await chat(made, user=f"later {n}")
    assert asked(fleet) == (0, 5, 0)
