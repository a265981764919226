"""LiteLLM 1.110: what its Rust core is told about failures, limits and rests, against real servers."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from litellm import Router

import fast_router
from fast_router import settings
from fast_router.litellm_plugin.rests.policy import policy_of
from fast_router.litellm_plugin.switch import switch
from fast_router.testing import Fleet, Spec
from tests.support.plugin import MESSAGES, core_of, deployments, entry, in_flight, router, until

pytestmark = [
    pytest.mark.skipif(
        not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
    ),
    pytest.mark.usefixtures("plugin"),
]


@pytest.fixture
def fleet():
    with Fleet([Spec("openai", name=name) for name in "abc"]) as servers:
        yield servers


def over(fleet, **options):
    return router(*(entry(name, fleet[name].api_base) for name in "abc"), **options)


async def chat(made, **request):
    return await made.acompletion(model="m", messages=MESSAGES, **request)


async def fails(made, times, **request):
    for _ in range(times):
        with pytest.raises(Exception, match=r"."):
            await chat(made, **request)


def cooling(made):
    return set(core_of(made)._cooldowns.cooldown_store.snapshot())


def counted(made):
    # By its own reading: what has run out lies about until it is looked at.
    memory = core_of(made)._cache.in_memory_cache
    return sum(memory.get_cache(key) or 0 for key in list(memory.cache_dict) if key.endswith(":fails"))


async def test_a_callers_own_key_cools_nobody_down(fleet):
    for name in "abc":
        fleet[name].order(error_rate=1.0, error_status=401)
    made = over(fleet, num_retries=2)
    await fails(made, 3, api_key="the caller's own")
    assert cooling(made) == set()
    assert counted(made) == 0
    # A control: the same answer to the deployment's own key does.
    await fails(made, 3)
    assert cooling(made)


async def test_a_request_that_fails_everywhere_is_counted_against_nobody(fleet):
    for name in "abc":
        fleet[name].order(error_rate=1.0)
    made = over(fleet, num_retries=2)
    await fails(made, 8, user="one")
    assert cooling(made) == set()
    assert counted(made) == 0
    assert not any(d.held for d in deployments(made).values())


async def test_our_rests_are_litellms_and_litellms_are_ours(fleet):
    made = over(fleet)
    await chat(made)
    core = core_of(made)
    core._cooldowns.add_deployment_to_cooldown("a", RuntimeError("x"), 429, 60.0)
    assert deployments(made)["a"].held
    policy = policy_of(core, switch.band).policy
    policy.trip(deployments(made)["b"], "a test", 60.0)
    assert cooling(made) == {"deployment:a:cooldown", "deployment:b:cooldown"}
    for name in "abc":
        fleet[name].reset()
    for _ in range(6):
        await chat(made, stream=False, timeout=30)
    assert [fleet[name].records.requests for name in "abc"] == [0, 0, 6]
    policy.wake(deployments(made)["b"], "a test")
    assert cooling(made) == {"deployment:a:cooldown"}


async def test_everybody_at_their_limit_is_busy_and_room_is_waited_for(fleet):
    said = {"qos_metric": "ttft", "qos_limit": 60, "max_parallel": 1, "retries": 40, "retry_countdown": 0.05}
    made = router(entry("a", fleet["a"].api_base, info_fast_router={**said}), num_retries=0)
    if deployments(made)["a"].qos_limit is None:
        pytest.skip("this entry has no limit")
    with fleet["a"].held():
        first = asyncio.create_task(chat(made))
        await until(lambda: in_flight(made) == 1)
        second = asyncio.create_task(chat(made))
        await asyncio.sleep(0.1)
        assert not second.done()
    await asyncio.gather(first, second)
    assert in_flight(made) == 0


async def test_a_hedge_is_counted_where_the_answer_came_from(fleet):
    settings.configure(hedge_percent=100, hedge_delay=0.1)
    made = router(*(entry(name, fleet[name].api_base, tags=["x"]) for name in "ab"))
    fleet["a"].order(hang_rate=1.0)
    seen = set()
    for _ in range(8):
        answer = await asyncio.wait_for(chat(made, metadata={"of": "the caller"}), 20)
        seen.add(answer._hidden_params["model_id"])
    assert seen == {"b"}
    await until(lambda: in_flight(made) == 0)
    memory = core_of(made)._cache.in_memory_cache
    assert memory.get_cache("b:successes") == 8
    assert not memory.get_cache("a:successes")


async def test_a_spent_retry_budget_ends_the_retries(fleet):
    settings.configure(retry_budget_ratio=0.0, retry_budget_per_second=0.0)
    for name in "abc":
        fleet[name].order(error_rate=1.0)
    made = over(fleet, num_retries=2, disable_cooldowns=True)
    with pytest.raises(litellm.InternalServerError):
        await chat(made)
    assert sum(fleet[name].records.requests for name in "abc") == 1


def test_the_state_of_a_router_with_redis_is_shared(redis_url):
    made = router(entry("a", mock_response="yes"), redis_url=redis_url)
    core = core_of(made)
    for _ in range(5):
        made.completion(model="m", messages=MESSAGES)
    binding = switch.band.keeper.binding(core)

    async def attached():
        from fast_router.cluster import state_of

        await until(lambda: state_of(binding.router) is not None, 30)

    asyncio.run(attached())
    assert fast_router.status()["shared_state"]
