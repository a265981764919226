"""What befalls requests is counted alike on every LiteLLM: retries, hedges, refusals."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from litellm import Router

import fast_router
from fast_router import settings
from fast_router.testing import Fleet

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def fleet():
    with Fleet(2) as running:
        yield running


@pytest.fixture
def servers(fleet):
    for server in fleet.values():
        server.order(error_rate=0.0)
        server.reset()
    return list(fleet.values())


@pytest.fixture(autouse=True)
def plugin():
    assert fast_router.enable()
    yield
    settings.reset()


@pytest.fixture
def name(request):
    """A model of this test alone: the counts are the process's."""
    return f"m-{request.node.name}"


def router(name, servers, *, each=None, **options):
    return Router(
        model_list=[
            {
                "model_name": name,
                "litellm_params": {"model": "openai/test-model", "api_base": server.api_base, "api_key": "k"},
                "model_info": {"id": f"{name}-{number}", **(each or {})},
            }
            for number, server in enumerate(servers)
        ],
        disable_cooldowns=True,
        retry_after=0,
        **options,
    )


def counted(name):
    return {each["event"]: each["count"] for each in fast_router.status()["events"] if each["model"] == name}


async def test_each_retry_is_counted_and_no_first_attempt(name, servers):
    r = router(name, servers, num_retries=2)
    await r.acompletion(model=name, messages=MESSAGES)
    assert counted(name) == {}
    for server in servers:
        server.order(error_rate=1.0)
    with pytest.raises(litellm.InternalServerError):
        await r.acompletion(model=name, messages=MESSAGES)
    assert sum(server.records.requests for server in servers) == 1 + 3
    assert counted(name) == {"retry": 2}


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy", "latency-based-routing"])
async def test_a_call_is_one_pick_whether_it_fails_or_not(name, servers, strategy):
    for server in servers:
        server.order(error_rate=0.5)
    r = router(name, servers, num_retries=1, routing_strategy=strategy)
    await asyncio.gather(*(r.acompletion(model=name, messages=MESSAGES) for _ in range(20)), return_exceptions=True)
    members = fast_router.advanced_router(r).deployments.values()
    assert sum(member.picks for member in members) == sum(server.records.requests for server in servers)
    assert counted(name)["retry"] == sum(server.records.requests for server in servers) - 20


async def test_hedges_and_those_that_won_are_counted(name, servers):
    settings.configure(hedge_percent=100, hedge_delay=0.05)
    r = router(name, servers, num_retries=0, routing_strategy="least-busy")
    with servers[0].held():
        tasks = [asyncio.create_task(r.acompletion(model=name, messages=MESSAGES)) for _ in range(2)]
        await asyncio.gather(*tasks)
    found = counted(name)
    assert found["hedge_won"] >= 1
    assert found["hedge"] >= found["hedge_won"]


async def test_a_request_refused_at_a_quality_limit_is_counted_once(name, servers):
    limit = {"fast_router": {"qos_metric": "inflight", "qos_limit": 1, "retries": 0}}
    r = router(name, servers, each=limit, num_retries=0)
    await r.acompletion(model=name, messages=MESSAGES)
    with servers[0].held(), servers[1].held():
        tasks = [asyncio.create_task(r.acompletion(model=name, messages=MESSAGES)) for _ in range(2)]
        for server in servers:
            await asyncio.to_thread(server.wait_for, lambda seen: seen.in_flight == 1)
        with pytest.raises(litellm.ServiceUnavailableError):
            await r.acompletion(model=name, messages=MESSAGES)
        assert counted(name) == {"refused": 1}
    await asyncio.gather(*tasks)
