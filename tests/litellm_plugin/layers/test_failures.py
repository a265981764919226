"""Failover in LiteLLM's own loops: real Routers against real HTTP servers that fail on order."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time

import litellm
import pytest
from litellm.caching.caching import Cache
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.types.router import RouterRateLimitError

import fast_router
from fast_router import settings
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.request import aside, set_aside
from fast_router.litellm_plugin.rests.store import memory_of, seconds_left
from fast_router.litellm_plugin.switch import switch as _switch
from tests.support.plugin import MESSAGES, entry, failover_of, over, refused, router, until

pytestmark = pytest.mark.usefixtures("plugin")
logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)


async def ask(r, **kwargs):
    return await r.acompletion(model="m", messages=MESSAGES, **kwargs)


def failover(r):
    return failover_of(r).policy


def requests(servers):
    return [s.records.requests for s in servers]


# -- the ledger ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy", "latency-based-routing"])
async def test_a_retry_goes_to_a_deployment_that_has_not_been_tried(servers, strategy):
    for server in servers:
        server.order(error_rate=1.0)
    r = over(servers, routing_strategy=strategy, disable_cooldowns=True)
    for n in range(1, 6):
        with pytest.raises(litellm.InternalServerError):
            await ask(r)
        assert requests(servers) == [n, n, n]


def test_synchronous_retries_too(servers):
    for server in servers:
        server.order(error_rate=1.0)
    r = over(servers, disable_cooldowns=True)
    for n in range(1, 4):
        with pytest.raises(litellm.InternalServerError):
            r.completion(model="m", messages=MESSAGES)
        assert requests(servers) == [n, n, n]


async def test_embeddings_too(servers):
    for server in servers:
        server.order(error_rate=1.0)
    r = over(servers, disable_cooldowns=True)
    with pytest.raises(litellm.InternalServerError):
        await r.aembedding(model="m", input=["hello"])
    # The openai client retries embeddings by itself, on the same server; every server has its turn once.
    assert len(set(requests(servers))) == 1


async def test_when_all_were_tried_the_oldest_failure_is_next(servers):
    for server in servers:
        server.order(error_rate=1.0)
    r = over(servers, disable_cooldowns=True, num_retries=5)
    with pytest.raises(litellm.InternalServerError):
        await ask(r)
    assert requests(servers) == [2, 2, 2]


async def test_the_same_tier_first_then_the_next(servers):
    for server in servers[:2]:
        server.order(error_rate=1.0)
    r = router(
        *(entry(f"d{i}", s.api_base, order=1 if i < 2 else 2) for i, s in enumerate(servers)),
        num_retries=2,
        disable_cooldowns=True,
    )
    await ask(r)
    assert requests(servers) == [1, 1, 1]


async def test_a_fallback_group_knows_what_was_tried(servers):
    servers[0].order(error_rate=1.0)
    r = router(
        entry("d0", servers[0].api_base),
        entry("d1", servers[1].api_base, name="other"),
        fallbacks=[{"m": ["other"]}],
        disable_cooldowns=True,
    )
    await ask(r)
    assert requests(servers) == [1, 1, 0]


# -- who rests -----------------------------------------------------------------------------------------------


async def test_a_dead_host_rests(servers):
    r = router(
        entry("dead", refused()),
        *(entry(f"d{i}", s.api_base) for i, s in enumerate(servers)),
        num_retries=2,
        cooldown_time=3600,
    )
    for _ in range(40):
        await ask(r)
    described = failover(r).describe("dead")
    assert described["state"] == "open"
    assert "in a row" in described["reason"]
    picks = fast_router.advanced_router(r).deployments["dead"].picks
    assert picks == 2
    # LiteLLM's own store, which other processes and its own picks read, knows it too.
    core = r.__dict__.get("_core", r)
    cache = getattr(core, "_core_cooldown_cache", None) or r.cooldown_cache
    assert [id_ for id_, _ in cache.get_active_cooldowns(["dead", "d0"], None)] == ["dead"]


async def test_the_last_one_standing_keeps_serving(servers):
    r = router(entry("dead1", refused()), entry("dead2", refused()), num_retries=2)
    # Six attempts: from five failures of one deployment on, LiteLLM's own error rate would rest it, too.
    for _ in range(2):
        with pytest.raises(Exception, match=r"[Cc]onnect"):
            await ask(r)
    states = [failover(r).describe(i)["state"] for i in ("dead1", "dead2")]
    assert states == ["open", "open"]
    resting = [d.resting_until for d in fast_router.advanced_router(r).deployments.values() if d.held]
    assert len(resting) == 1


async def test_bad_requests_rest_nobody(servers):
    for server in servers:
        server.order(error_rate=1.0, error_status=400)
    r = over(servers)
    for _ in range(20):
        with pytest.raises(litellm.BadRequestError):
            await ask(r)
    assert all(failover(r).describe(f"d{i}")["state"] == "closed" for i in range(3))


async def test_allowed_fails_of_three_means_three(servers):
    servers[0].order(error_rate=1.0, error_status=429)
    r = over(servers, allowed_fails=3, cooldown_time=3600)
    while servers[0].records.requests < 3:
        await ask(r)
    assert failover(r).describe("d0")["state"] == "closed"
    for _ in range(60):
        await ask(r)
    assert servers[0].records.requests == 4
    assert failover(r).describe("d0")["state"] == "open"


async def all_fail(r, kind):
    """Two requests: what one meets at every server may be its own fault."""
    for _ in range(2):
        with pytest.raises(kind):
            await ask(r)


async def test_retry_after_is_honoured_and_never_shortened(servers):
    for server in servers:
        server.order(throttle_rate=1.0, retry_after=3000)
    r = over(servers)
    await all_fail(r, litellm.RateLimitError)
    before = {i: failover(r).describe(f"d{i}")["seconds_left"] for i in range(3)}
    assert all(2000 < seconds <= 3000 for seconds in before.values())
    core, band = _switch.band.core_of(r), _switch.band
    cache, store = band.read(core, "cooldown_cache"), band.keeper.rest_store(core)
    cache.add_deployment_to_cooldown("d0", RuntimeError("again"), 429, 1.0)
    assert failover(r).describe("d0")["seconds_left"] > 2000
    assert dict(cache.get_active_cooldowns(["d0"], None))["d0"]["cooldown_time"] == pytest.approx(3000, abs=600)
    # And a later one counts from when it comes.
    cache.add_deployment_to_cooldown("d0", RuntimeError("again"), 429, 60000.0)
    assert failover(r).describe("d0")["seconds_left"] > 50000
    assert seconds_left(store.read("d0")) > 50000
    if hasattr(cache.cooldown_store if hasattr(cache, "cooldown_store") else cache.cache, "in_memory_cache"):
        assert memory_of(cache).ttl_dict["deployment:d0:cooldown"] > time.time() + 50000


async def test_our_own_rests_are_written_whole_whatever_litellm_may(servers):
    r = over(servers)
    await ask(r)
    ours = fast_router.advanced_router(r)
    core, band = _switch.band.core_of(r), _switch.band
    set_aside(aside()._replace(permits=lambda _id, _seconds: 1.0))  # what a failed attempt of before has left
    failover(r).trip(ours.deployments["d0"], "an outlier", 60.0)
    assert seconds_left(band.keeper.rest_store(core).read("d0")) > 50


def age(cache, store, id_, seconds):
    """Let a cooldown have begun so much earlier."""
    value = store.read(id_)
    value["timestamp"] -= seconds  # the dict itself, where it is LiteLLM's own
    native = getattr(getattr(cache, "cooldown_store", None), "_handle", None)
    if native is not None:
        native.delete_local(id_)
        native.put(id_, value, value["timestamp"] + value["cooldown_time"] - time.time())


async def test_the_error_tells_the_true_remaining_time(servers):
    for server in servers:
        server.order(throttle_rate=1.0, retry_after=3000)
    r = over(servers)
    await all_fail(r, litellm.RateLimitError)
    core, band = _switch.band.core_of(r), _switch.band
    for i in range(3):
        age(band.read(core, "cooldown_cache"), band.keeper.rest_store(core), f"d{i}", 2000)
    with pytest.raises(RouterRateLimitError) as caught:
        await ask(r)
    assert 0 < caught.value.cooldown_time <= 1000.1


async def test_failures_behind_a_shared_logging_object_are_seen(servers):
    """The proxy shares one logging object among all attempts: LiteLLM's callback fires for the first alone."""
    for server in servers:
        server.order(error_rate=1.0, error_status=401)
    r = over(servers)
    shared = Logging(
        model="m",
        messages=MESSAGES,
        stream=False,
        call_type="acompletion",
        start_time=time.time(),
        litellm_call_id="one",
        function_id="one",
    )
    with pytest.raises(litellm.AuthenticationError):
        await ask(r, litellm_logging_obj=shared, litellm_call_id="one")
    assert requests(servers) == [1, 1, 1]
    # All three may be its own fault; that of a second request is not.
    assert [failover(r).describe(f"d{i}")["state"] for i in range(3)] == ["closed"] * 3
    with pytest.raises(litellm.AuthenticationError):
        await ask(r, litellm_logging_obj=shared, litellm_call_id="one")
    assert requests(servers) == [2, 2, 2]
    assert [failover(r).describe(f"d{i}")["state"] for i in range(3)] == ["open"] * 3


async def test_a_callers_own_timeout_blames_nobody(servers):
    for server in servers:
        server.order(latency=1.0)
    r = over(servers, num_retries=0)
    for _ in range(4):
        with pytest.raises(litellm.Timeout):
            await ask(r, timeout=0.05)
    assert all(failover(r).describe(f"d{i}")["state"] == "closed" for i in range(3))


async def test_a_recovered_deployment_comes_back_by_one_probe(servers):
    servers[0].order(throttle_rate=1.0, retry_after=1)
    r = over(servers)
    while failover(r).describe("d0")["state"] == "closed":
        await ask(r)
    servers[0].order(throttle_rate=0.0)
    for server in servers:
        server.reset()

    async def back():
        await ask(r)
        return failover(r).describe("d0")["state"] == "closed"

    await until(back)
    assert servers[0].records.requests == 1


async def test_one_log_line_for_each_change_and_none_with_a_key(servers, caplog):
    caplog.set_level(logging.INFO, logger="fast_router")
    servers[0].order(throttle_rate=1.0, retry_after=60)
    # Names of its own: LiteLLM tells every Router of a process about every failure.
    r = router(*(entry(f"log{i}", s.api_base) for i, s in enumerate(servers)), num_retries=2)
    for _ in range(30):
        await ask(r)
    lines = [record.getMessage() for record in caplog.records if record.name == "fast_router"]
    # The first Router of a process is announced, and this may be it.
    (line,) = (line for line in lines if not line.startswith("fast_router "))
    assert line.startswith("m on ")
    assert "(id log0) rests for 60.0 s: LiteLLM's cooldown after status 429; meanwhile" in line


async def test_the_status_tells_who_rests_why_and_until_when(servers):
    gone = refused()
    names = ["rests", "well"]
    r = router(
        *(entry(name, base) for name, base in zip(names, [gone, servers[1].api_base], strict=True)),
        num_retries=2,
        cooldown_time=600,
    )
    for _ in range(12):
        await ask(r)
    (told,) = [found for found in fast_router.status()["resting"] if found["id"] in names]
    assert 500 < told.pop("seconds_left") <= 600
    assert told.pop("since") <= time.time()
    assert told.pop("server") in gone
    assert told == {
        "model": "m",
        "id": "rests",
        "state": "open",
        "reason": "2 connection errors or timeouts in a row",
    }


# -- servers that hang ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_hangs_rests_long_before_its_timeout_and_its_calls_go_on(servers, stream):
    r = over(servers, timeout=300, stream_timeout=300, cooldown_time=600)

    async def call():
        response = await ask(r, stream=stream)
        if stream:
            assert [chunk async for chunk in response]

    silences = failover(r)._silences
    silences._options = dataclasses.replace(silences._options, min_seconds=0.5)
    for _ in range(30):
        await call()
    servers[0].order(hang_rate=1.0)
    under_way = set()

    async def rests():
        under_way.add(asyncio.create_task(call()))
        await asyncio.wait(under_way, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        return failover(r).describe("d0")["state"] == "open"

    try:
        await until(rests)
        told = failover(r).describe("d0")
        assert "the others answer within" in told["reason"]
        hanging = failover(r).engine.deployments["d0"]
        assert hanging.in_flight >= 2
        picks = hanging.picks
        for _ in range(12):
            await call()
        assert hanging.picks == picks
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


# -- budgets and sleeps --------------------------------------------------------------------------------------


async def test_the_retry_budget_bounds_the_load_of_an_outage(servers):
    settings.configure(retry_budget_ratio=0.0, retry_budget_per_second=0.4)
    for server in servers:
        server.order(error_rate=1.0)
    r = over(servers, disable_cooldowns=True)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(litellm.InternalServerError):
            await ask(r)
    # 0.4 × 10 s of retries in each window of ten seconds, which a slow machine may see several of.
    windows = (time.monotonic() - began) // 9 + 1
    assert 24 <= sum(requests(servers)) <= 20 + 4 * windows


async def test_a_repeat_waits_for_retry_after(servers):
    for server in servers[:2]:
        server.order(throttle_rate=1.0, retry_after=1)
    r = over(servers[:2], disable_cooldowns=True)
    began = time.monotonic()
    with pytest.raises(litellm.RateLimitError):
        await ask(r)
    assert requests(servers[:2]) in ([2, 1], [1, 2])
    assert time.monotonic() - began >= 0.9


# -- waiting -------------------------------------------------------------------------------------------------


async def test_without_max_wait_it_fails_at_once_as_litellm_does(servers):
    r = over(servers)
    for i in range(3):
        await ask(r)
        fast_router.advanced_router(r).rest(f"d{i}", 30)
    core = r.__dict__.get("_core", r)
    cache = getattr(core, "_core_cooldown_cache", None) or r.cooldown_cache
    for i in range(3):
        cache.add_deployment_to_cooldown(f"d{i}", RuntimeError("x"), 429, 30.0)
    with pytest.raises(RouterRateLimitError):
        await ask(r)


async def test_max_wait_waits_for_the_first_to_come_back(servers):
    for server in servers:
        server.order(throttle_rate=1.0, retry_after=1)
    r = over(servers)
    await all_fail(r, litellm.RateLimitError)
    settings.configure(max_wait=10)
    for server in servers:
        server.order(throttle_rate=0.0)
    answers = await asyncio.gather(*(ask(r) for _ in range(12)))
    assert len(answers) == 12


async def test_max_wait_gives_up_with_litellms_error(servers):
    for server in servers:
        server.order(throttle_rate=1.0, retry_after=3000)
    r = over(servers)
    await all_fail(r, litellm.RateLimitError)
    settings.configure(max_wait=0.3)
    began = time.monotonic()
    with pytest.raises(RouterRateLimitError) as caught:
        await ask(r, num_retries=0)
    assert 2000 < caught.value.cooldown_time <= 3000
    assert time.monotonic() - began >= 0.29


async def test_a_cancelled_waiter_leaves_nothing_behind(servers):
    for server in servers:
        server.order(throttle_rate=1.0, retry_after=30)
    r = over(servers)
    await all_fail(r, litellm.RateLimitError)
    settings.configure(max_wait=30)
    waiting = asyncio.ensure_future(ask(r))
    core = r.__dict__.get("_core", r)
    state = await until(lambda: getattr(existing(core), "waiting", None))
    queue = state.queue(fast_router.advanced_router(r).groups["m"])
    await until(lambda: len(queue) == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(queue) == 0
    assert not queue.busy


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_from_the_cache_is_no_proof_that_a_deployment_is_back(servers, monkeypatch, stream):
    monkeypatch.setattr(litellm, "cache", Cache(type="local"))
    r = over(servers)

    async def call():
        response = await ask(r, stream=stream, caching=True)
        if stream:
            assert [chunk async for chunk in response]
        return response._hidden_params.get("cache_hit")

    await until(call)  # it is written in the background
    asked = sum(requests(servers))
    policy = failover(r)
    deployment = policy.engine.deployments["d0"]
    policy.trip(deployment, "a test", 0.01)
    picks = deployment.picks

    async def picked():
        await call()
        return deployment.picks > picks

    await until(picked, every=0.001)
    assert deployment.picks == picks + 1
    assert sum(requests(servers)) == asked
    assert policy.describe("d0")["state"] == "half_open"
