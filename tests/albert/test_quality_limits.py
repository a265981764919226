"""Limits of an Albert file behind `litellm.Router`: the next best provider, then 503 after the configured tries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import litellm
import pytest
from fast_router_albert import load_config

import fast_router
from fast_router.testing import Upstream

MESSAGES = [{"role": "user", "content": "Who answers?"}]


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    fast_router.enable()
    yield
    fast_router.disable()


def router_of(servers: dict[str, Upstream], *, limit: dict[str, Any], **model: Any) -> litellm.Router:
    providers = [
        {"type": kind, "url": servers[kind].url, "model_name": "served-model", **limit} for kind in ("vllm", "openai")
    ]
    entry = {"name": "m", "type": "text-generation", "load_balancing_strategy": "least_busy", **model}
    config = load_config({"models": [{**entry, "providers": providers}]})
    return litellm.Router(**config.router_kwargs())


async def warm(router: litellm.Router) -> None:
    await router.acompletion(model="m", messages=MESSAGES)


async def in_flight(servers: dict[str, Upstream], count: int) -> None:
    for kind in ("vllm", "openai"):
        await asyncio.to_thread(servers[kind].wait_for, lambda seen: seen.in_flight == count, timeout=60.0)


async def test_a_burst_stays_within_the_limits(servers) -> None:
    router = router_of(servers, limit={"qos_metric": "inflight", "qos_limit": 3})
    await warm(router)
    with servers["vllm"].held(), servers["openai"].held():
        tasks = [asyncio.create_task(router.acompletion(model="m", messages=MESSAGES)) for _ in range(20)]
        await in_flight(servers, 3)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 14:
            more, _ = await asyncio.wait(set(tasks) - done, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        errors = [task.exception() for task in done]
        assert all(isinstance(error, litellm.ServiceUnavailableError) for error in errors)
        assert {error.status_code for error in errors} == {503}  # type: ignore[union-attr]
        assert all("Model is too busy, please try again later." in str(error) for error in errors)
    left = await asyncio.gather(*(set(tasks) - done))
    assert len(left) == 6
    assert [servers[kind].records.max_in_flight for kind in ("vllm", "openai")] == [3, 3]
    members = fast_router.advanced_router(router).deployments.values()
    assert [member.in_flight for member in members] == [0, 0]
    await warm(router)


async def test_waits_as_configured(servers) -> None:
    router = router_of(servers, limit={"qos_metric": "inflight", "qos_limit": 1}, qos_retries_before_reject=60)
    await warm(router)
    with servers["vllm"].held(), servers["openai"].held():
        tasks = [asyncio.create_task(router.acompletion(model="m", messages=MESSAGES)) for _ in range(5)]
        await in_flight(servers, 1)
        assert not any(task.done() for task in tasks)
    assert len(await asyncio.gather(*tasks)) == 5
    assert [servers[kind].records.max_in_flight for kind in ("vllm", "openai")] == [1, 1]


async def test_a_fallback_of_litellm_takes_over(servers) -> None:
    router = router_of(servers, limit={"qos_metric": "inflight", "qos_limit": 1})
    router.add_deployment(_deployment(servers["albert"]))
    await warm(router)
    with servers["vllm"].held(), servers["openai"].held():
        tasks = [asyncio.create_task(router.acompletion(model="m", messages=MESSAGES)) for _ in range(2)]
        await in_flight(servers, 1)
        answer = await router.acompletion(model="m", messages=MESSAGES, fallbacks=[{"m": ["other"]}])
        assert answer.choices[0].message.content
        assert servers["albert"].records.requests == 1
    await asyncio.gather(*tasks)


def _deployment(upstream: Upstream) -> Any:
    from litellm.types.router import Deployment, LiteLLM_Params

    params = LiteLLM_Params(model="hosted_vllm/served-model", api_base=upstream.api_base, api_key="none")
    return Deployment(model_name="other", litellm_params=params)


async def test_a_closed_provider_takes_nothing_and_all_closed_is_busy(servers) -> None:
    closed = {"qos_metric": "inflight", "qos_limit": 0}
    router = router_of(servers, limit=closed)
    with pytest.raises((litellm.ServiceUnavailableError, litellm.BadRequestError, ValueError)):
        await warm(router)
    assert [servers[kind].records.requests for kind in ("vllm", "openai")] == [0, 0]
