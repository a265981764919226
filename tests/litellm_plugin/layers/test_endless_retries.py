"""A caller may ask for any number of retries: the request ends all the same, and so does its share of the processor."""

from __future__ import annotations

import asyncio
import threading

import pytest
from litellm import Router

from fast_router import settings
from fast_router.litellm_plugin.layers import retry_timing
from fast_router.litellm_plugin.request import RequestLedger
from fast_router.testing import Behaviour, Fleet, Rule, Spec
from tests.support.waiting import until

ENDLESS = 10**9
POISON = [{"role": "user", "content": "poison"}]
HARMLESS = [{"role": "user", "content": "hello"}]
EVE = {"user_api_key_hash": "eve"}


@pytest.fixture(scope="module")
def servers():
    """Three that fail on one caller's prompt."""
    fails = Behaviour(rules=(Rule({"error_rate": 1.0}, contains="poison"),))
    with Fleet([Spec(name=name, behaviour=fails) for name in "abc"]) as fleet:
        yield fleet


def entry(group, server, id_):
    return {
        "model_name": group,
        "litellm_params": {"model": "openai/test-model", "api_key": "k", "api_base": server.api_base, "max_retries": 0},
        "model_info": {"id": id_},
    }


@pytest.fixture
def budget():
    """Settings of the retry budget."""
    return {}


@pytest.fixture
def router(plugin, servers, budget):
    settings.configure(**budget)
    made = Router(model_list=[entry("m", servers[name], name) for name in "abc"], num_retries=0, retry_after=0)
    yield made
    made.discard()


@pytest.mark.parametrize(
    "asked",
    [
        {"num_retries": ENDLESS},
        {"num_retries": ENDLESS, "fallbacks": [{"m": ["m"]}]},
        {"retry_policy": {"InternalServerErrorRetries": ENDLESS}},
    ],
    ids=["num_retries", "and fallbacks", "retry_policy"],
)
async def test_a_prompt_that_all_fail_on_ends(router, asked):
    for _ in range(6):
        await router.acompletion("m", messages=HARMLESS, metadata={"user_api_key_hash": "good"})
    request = asyncio.create_task(router.acompletion("m", messages=POISON, metadata=EVE, **asked))
    done, _ = await asyncio.wait([request], timeout=60)
    request.cancel()
    assert done, "the request goes on for ever"
    assert request.exception() is not None
    await router.acompletion("m", messages=HARMLESS, metadata={"user_api_key_hash": "good"})


def test_a_prompt_that_all_fail_on_ends_synchronously(router):
    for _ in range(6):
        router.completion("m", messages=HARMLESS, metadata={"user_api_key_hash": "good"})
    raised = []

    def ask():
        try:
            router.completion("m", messages=POISON, metadata=EVE, num_retries=ENDLESS)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(60)
    assert raised, "the request goes on for ever"


# Few retries per second: however slowly this machine makes them, it makes more.
@pytest.mark.parametrize("budget", [{"retry_budget_per_second": 0.5}])
async def test_under_a_retry_policy_it_waits_ever_longer(router, monkeypatch):
    """There LiteLLM makes all the retries that the policy grants, whatever each is told."""
    pauses = []
    paced = retry_timing.paced

    def noted(ledger, seconds):
        pause = paced(ledger, seconds)
        if ledger is not None and ledger.refusals:
            pauses.append(pause)
        return pause

    monkeypatch.setattr(retry_timing, "paced", noted)
    policy = {"m": {"InternalServerErrorRetries": ENDLESS}}
    for _ in range(6):
        await router.acompletion("m", messages=HARMLESS, metadata={"user_api_key_hash": "good"})
    request = asyncio.create_task(
        router.acompletion("m", messages=POISON, metadata=EVE, model_group_retry_policy=policy)
    )
    try:
        assert await until(lambda: len(pauses) >= 5 or request.done()), "no retry was refused"
        assert request.done() or pauses[4] >= 0.1, pauses
    finally:
        request.cancel()


@pytest.mark.parametrize(("refusals", "least"), [(0, 0.0), (1, 0.01), (5, 0.16), (11, 8.0), (10**9, 8.0)])
def test_pauses_grow_to_eight_seconds(refusals, least):
    ledger = RequestLedger(None)
    ledger.refusals = refusals
    assert retry_timing.paced(ledger, 0.0) == pytest.approx(least)
    assert retry_timing.paced(ledger, 30.0) == 30.0
