"""Outages of a whole group and waiting, through real Routers against real HTTP servers; synchronous calls, too."""

from __future__ import annotations

import asyncio
import logging
import time

import litellm
import pytest
from litellm.types.router import RouterRateLimitError

import fast_router
from fast_router import settings
from fast_router.engine.failover.failures import classify
from fast_router.litellm_plugin.layers.outage import Outage, outlast
from fast_router.litellm_plugin.layers.wait import waiting_of
from fast_router.litellm_plugin.request import RequestLedger
from fast_router.litellm_plugin.switch import switch as _switch
from tests.support.plugin import MESSAGES, failover_of, over, until

pytestmark = pytest.mark.usefixtures("plugin")
logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)


def vllm(servers, **options):
    return over(servers, model="hosted_vllm/test-model", **options)


async def ask(r, **kwargs):
    return await r.acompletion(model="m", messages=MESSAGES, **kwargs)


def outage_of(r):
    return waiting_of(_switch.band.core_of(r)).outage(fast_router.advanced_router(r).groups["m"])


def requests(servers):
    return sum(s.records.requests for s in servers)


# -- outages -------------------------------------------------------------------------------------------------


async def test_an_outage_of_everybody_is_outlasted_without_everybodys_retries(servers):
    settings.configure(max_wait=60)
    r = vllm(servers)
    await ask(r)
    for server in servers:
        server.order(error_rate=1.0, error_status=503)
        server.reset()
    first = asyncio.ensure_future(ask(r))
    await until(lambda: len(outage_of(r)) == 1)
    assert requests(servers) == 3  # LiteLLM's retries
    others = [asyncio.ensure_future(ask(r)) for _ in range(20)]
    await until(lambda: outage_of(r).active == 21)
    # LiteLLM would have made sixty: now some have tried once, others wait for their turn.
    assert requests(servers) < 3 + 20 * 2
    before = requests(servers)
    late = [asyncio.ensure_future(ask(r)) for _ in range(20)]
    await until(lambda: outage_of(r).active == 41)
    assert requests(servers) < before + 20 * 2
    others += late
    for server in servers:
        server.order(error_rate=0.0)
    answers = await asyncio.wait_for(asyncio.gather(first, *others), 60)
    assert all(answer.choices[0].message.content for answer in answers)
    await until(lambda: not outage_of(r).active)
    assert not len(outage_of(r))


async def test_it_gives_up_with_litellms_error(servers):
    settings.configure(max_wait=0.5)
    for server in servers:
        server.order(error_rate=1.0, error_status=503)
    began = time.monotonic()
    with pytest.raises(litellm.ServiceUnavailableError):
        await ask(vllm(servers))
    assert time.monotonic() - began >= 0.5


async def test_a_request_that_one_server_fails_is_not_in_an_outage(servers):
    settings.configure(max_wait=60)
    servers[0].order(error_rate=1.0)
    r = vllm(servers, num_retries=0, disable_cooldowns=True)
    failed = 0
    for _ in range(200):
        try:
            await ask(r)
        except litellm.InternalServerError:
            failed += 1
            break
    assert failed == 1


async def test_errors_of_the_callers_own_making_come_at_once(servers):
    settings.configure(max_wait=60)
    for server in servers:
        server.order(error_rate=1.0, error_status=400)
    with pytest.raises(litellm.BadRequestError):
        await asyncio.wait_for(ask(vllm(servers)), 30)


async def test_a_cancelled_waiter_leaves_the_line(servers):
    settings.configure(max_wait=60)
    for server in servers:
        server.order(error_rate=1.0, error_status=503)
    r = vllm(servers)
    waiting = asyncio.ensure_future(ask(r))
    # Before its first pick, nothing is known of a Router.
    await until(lambda: waiting_of(_switch.band.core_of(r)) is not None and len(outage_of(r)) == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not outage_of(r).active
    assert not len(outage_of(r))


async def test_a_request_that_fails_while_others_are_answered_gets_its_error(servers):
    r = vllm(servers)
    await ask(r)
    group = fast_router.advanced_router(r).groups["m"]

    ledger = RequestLedger(failover_of(r))
    outage = Outage(time.monotonic)
    calls = []

    async def poisoned(request):
        calls.append(request["num_retries"])
        outage.succeeded(time.monotonic())  # others are answered meanwhile
        raise fail()

    def fail():
        error = litellm.InternalServerError("boom", "openai", "m")
        for member in group.members:
            ledger.failed(member.id, classify(error), time.monotonic())
        return error

    forever = time.monotonic() + 600
    with pytest.raises(litellm.InternalServerError):
        await asyncio.wait_for(outlast(fail(), poisoned, {}, ledger, group, outage, forever, time.monotonic()), 60)
    assert calls == [0, 0, 0]


# -- parallel limits -----------------------------------------------------------------------------------------


async def test_max_wait_waits_for_room_under_max_parallel_requests(servers):
    settings.configure(max_wait=60)
    for server in servers:
        server.order(hold=True)
    r = vllm(servers, each={"max_parallel_requests": 2}, num_retries=0)
    asked = [asyncio.ensure_future(ask(r)) for _ in range(15)]
    await until(lambda: sum(s.records.in_flight for s in servers) == 6)
    core = _switch.band.core_of(r)
    queue = waiting_of(core).queue(fast_router.advanced_router(r).groups["m"])
    await until(lambda: len(queue) == 9)
    for server in servers:
        server.order(hold=False)
    assert len(await asyncio.wait_for(asyncio.gather(*asked), 60)) == 15
    assert [s.records.max_in_flight for s in servers] == [2, 2, 2]
    assert not queue.busy


async def test_a_stream_holds_its_place_until_its_end(servers):
    settings.configure(max_wait=60)
    r = vllm(servers[:1], each={"max_parallel_requests": 1}, num_retries=0)
    stream = await ask(r, stream=True)
    second = asyncio.ensure_future(ask(r))
    core = _switch.band.core_of(r)
    queue = waiting_of(core).queue(fast_router.advanced_router(r).groups["m"])
    await until(lambda: len(queue) == 1)
    assert [chunk async for chunk in stream]
    await asyncio.wait_for(second, 60)
    assert servers[0].records.max_in_flight == 1


# -- synchronous calls ---------------------------------------------------------------------------------------


def rest_all(r, seconds):
    cache = getattr(_switch.band.core_of(r), "_core_cooldown_cache", None) or r.cooldown_cache
    for id_ in fast_router.advanced_router(r).deployments:
        fast_router.advanced_router(r).rest(id_, seconds)
        cache.add_deployment_to_cooldown(id_, RuntimeError("x"), 429, seconds)


def test_a_synchronous_call_waits_in_its_thread(servers):
    settings.configure(max_wait=60)
    r = vllm(servers)
    r.completion(model="m", messages=MESSAGES)
    rest_all(r, 1.0)
    assert r.completion(model="m", messages=MESSAGES).choices


async def test_a_synchronous_call_in_a_worker_thread_of_a_program_with_a_loop_waits(servers):
    settings.configure(max_wait=60)
    r = vllm(servers)
    await asyncio.to_thread(r.completion, model="m", messages=MESSAGES)
    rest_all(r, 1.0)
    answers = await asyncio.gather(*(asyncio.to_thread(r.completion, model="m", messages=MESSAGES) for _ in range(4)))
    assert len(answers) == 4


async def test_a_synchronous_call_that_blocks_an_event_loop_does_not_wait(servers):
    settings.configure(max_wait=60)
    r = vllm(servers)
    r.completion(model="m", messages=MESSAGES)
    rest_all(r, 600)
    with pytest.raises(RouterRateLimitError):
        r.completion(model="m", messages=MESSAGES)


def test_a_synchronous_call_outlasts_an_outage(servers):
    settings.configure(max_wait=60)
    servers[0].order(script=("error",) * 3)
    servers[1].order(script=("error",) * 3)
    r = vllm(servers[:2], disable_cooldowns=True)
    assert r.completion(model="m", messages=MESSAGES).choices
