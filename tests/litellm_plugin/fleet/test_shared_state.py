"""litellm.Routers of several processes (here: of one) over a real Redis and real upstreams."""

from __future__ import annotations

import asyncio
import logging
import threading

import litellm
import pytest
from litellm import RateLimitError, Router

import fast_router
from fast_router.cluster import state_of
from fast_router.cluster.shared_state import without_redis, write_behind
from fast_router.litellm_plugin.fleet.shared_state import SETTLED_PICKS
from fast_router.testing.upstream import Fleet, Spec
from tests.support.waiting import until

pytestmark = pytest.mark.services
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _enabled():
    assert fast_router.enable()


@pytest.fixture(scope="module")
def upstreams():
    with Fleet([Spec(name="u0"), Spec(name="u1")]) as fleet:
        yield fleet


@pytest.fixture
def make(redis_server, redis_url, upstreams):
    """Makes Routers that share the Redis, and throws them away."""
    upstreams.reset()
    # LiteLLM's handlers of Routers that are gone would count these Routers' calls, too.
    litellm.logging_callback_manager._reset_all_callbacks()
    # And what something still holds on to would write behind these Routers' caches, which have the same Redis.
    for behind in dict.fromkeys(write_behind._caches.registered.values()):
        write_behind.unregister(behind)
    routers = []
    where = redis_url.removeprefix("redis://").split("/")[0].split(":")

    def router(
        redis=True,
        strategy="least-busy",
        prefix="d",
        redis_host=where[0],
        redis_port=int(where[1]),
        cache_kwargs=None,
        **params,
    ):
        model_list = [
            {
                "model_name": "m",
                "litellm_params": {
                    "model": "openai/test-model",
                    "api_base": upstreams[f"u{n}"].api_base,
                    "api_key": "none",
                    **params,
                },
                "model_info": {"id": f"{prefix}{n}"},
            }
            for n in range(2)
        ]
        own = {"redis_host": redis_host, "redis_port": redis_port, "cache_kwargs": cache_kwargs or {}} if redis else {}
        made = Router(model_list=model_list, routing_strategy=strategy, num_retries=0, **own)
        routers.append(made)
        return made

    yield router
    for made in routers:
        state = state_of(fast_router.advanced_router(made))
        if state is not None:
            state.close()
        made.discard()


async def settle(router):
    """Serve what a Router must have served to be attached, and wait for it."""
    for _ in range(SETTLED_PICKS):
        await router.acompletion("m", messages=MESSAGES)
    ours = fast_router.advanced_router(router)

    def connected():
        state = state_of(ours)
        return state if state is not None and state.connected else None

    state = await until(connected)
    assert state, fast_router.status()
    return ours, state


async def test_a_router_with_redis_shares_by_itself(make, upstreams):
    one, two = make(), make()
    ours, _ = await settle(one)
    others, _ = await settle(two)
    with upstreams["u0"].held(), upstreams["u1"].held():
        calls = [asyncio.create_task(one.acompletion("m", messages=MESSAGES)) for _ in range(4)]
        seen = lambda: {d.id: d.outside for d in others.deployments.values()}  # noqa: E731
        assert await until(lambda: seen() == {"d0": 2.0, "d1": 2.0}), seen()
    await asyncio.gather(*calls)
    assert await until(lambda: seen() == {"d0": 0.0, "d1": 0.0}), seen()
    assert all(d.in_flight == 0 for d in ours.deployments.values())


async def test_a_router_without_redis_is_left_alone(make, monkeypatch):
    router = make(redis=False)
    for _ in range(SETTLED_PICKS):
        await router.acompletion("m", messages=MESSAGES)
    await asyncio.sleep(1.6)
    assert state_of(fast_router.advanced_router(router)) is None


async def test_a_url_is_enough(make, monkeypatch, redis_url):
    fast_router.configure(redis_url=redis_url)
    try:
        _, state = await settle(make(redis=False))
        assert state.status()["interop"] is False
    finally:
        fast_router.configure(redis_url=None)


async def test_a_router_for_one_request_brings_no_thread(make):
    before = {t.name for t in threading.enumerate() if t.name == "fast-router-cluster"}
    for _ in range(5):
        router = make()
        await router.acompletion("m", messages=MESSAGES)
    await asyncio.sleep(1.6)
    assert {t.name for t in threading.enumerate() if t.name == "fast-router-cluster"} == before


async def test_a_cooldown_of_one_router_is_the_others(make):
    (ours, _), (others, _) = await settle(make()), await settle(make())
    ours.rest("d0", 20.0)
    assert await until(lambda: not others.deployments["d0"].eligible)


async def test_disable_ends_it(make):
    ours, state = await settle(make())
    fast_router.disable()
    try:
        assert state.closed
        assert state_of(ours) is None
        assert await until(lambda: state.loop is None)
    finally:
        fast_router.enable()


@pytest.mark.parametrize("strategy", ["least-busy", "simple-shuffle"])
async def test_strict_limits_hold_over_routers(make, monkeypatch, strategy):
    fast_router.disable()
    fast_router.configure(limits="strict", limits_timeout=5.0)
    fast_router.enable()
    try:
        assert "strict limits" in fast_router.status()["features"]
        for _ in range(3):  # a burst that a minute's end has cut in two says nothing
            counted = refusals()
            routers = [make(strategy=strategy, rpm=20), make(strategy=strategy, rpm=20)]
            states = [(await settle(router))[1] for router in routers]
            # A slow machine may have attached them before their last settling request.
            before = sum(state.status()["limits"]["admitted"] for state in states)
            begun = states[0].exchange.minute()
            answers = await asyncio.gather(
                *(routers[n % 2].acompletion("m", messages=MESSAGES) for n in range(100)), return_exceptions=True
            )
            if states[0].exchange.minute() == begun:
                break
        else:
            pytest.fail("no burst of a hundred requests fitted into a minute")
        admitted = sum(state.status()["limits"]["admitted"] for state in states)
        assert admitted <= 40
        done = [a for a in answers if not isinstance(a, Exception)]
        assert len(done) == admitted - before
        assert admitted >= 40 - 2 * SETTLED_PICKS
        refused = [a for a in answers if isinstance(a, Exception)]
        assert {getattr(a, "status_code", None) for a in refused} <= {429, None}
        assert refusals() - counted == len(refused)
        assert any(isinstance(a, RateLimitError) or "No deployments available" in str(a) for a in refused)
    finally:
        fast_router.disable()
        fast_router.configure(limits=None, limits_timeout=None)
        fast_router.enable()


def refusals():
    return sum(each["count"] for each in fast_router.status()["events"] if each["event"] == "refused")


def problems():
    return [each for each in fast_router.status()["shared_state"] if "problem" in each]


async def test_strict_limits_without_redis_are_said_once_and_shown_until_there_is_one(
    make, monkeypatch, caplog, redis_url
):
    monkeypatch.setattr(without_redis._alone, "said", False)
    needs = "limits: strict needs Redis: set redis_url (FAST_ROUTER_REDIS_URL) or give the Router its Redis"
    fast_router.disable()
    fast_router.configure(limits="strict", limits_timeout=5.0)
    fast_router.enable()
    try:
        with caplog.at_level(logging.WARNING, "fast_router"):
            make()
            routers = [make(redis=False), make(redis=False)]
            assert not problems()
            for router in routers * 2:
                await router.acompletion("m", messages=MESSAGES)
        told = [each.getMessage() for each in caplog.records if "strict" in each.getMessage()]
        assert told == [f"{needs}; until then each process counts alone"]
        (shown,) = problems()
        assert (shown["problem"], shown["connected"], shown["limits"]) == (told[0], False, "local")
        fast_router.configure(redis_url=redis_url)
        for router in routers:
            await settle(router)
        assert not problems()
    finally:
        fast_router.disable()
        fast_router.configure(limits=None, limits_timeout=None, redis_url=None)
        fast_router.enable()


async def test_strict_limits_of_synchronous_calls_alone_are_said_too(make, monkeypatch, caplog):
    monkeypatch.setattr(without_redis._alone, "said", False)
    fast_router.disable()
    fast_router.configure(limits="strict")
    fast_router.enable()
    try:
        with caplog.at_level(logging.WARNING, "fast_router"):
            router = make(redis=False)
            for _ in range(SETTLED_PICKS):
                await asyncio.to_thread(router.completion, "m", messages=MESSAGES)
            assert await until(lambda: "strict needs Redis" in caplog.text)
    finally:
        fast_router.disable()
        fast_router.configure(limits=None)
        fast_router.enable()


def test_strict_limits_without_shared_state_are_said(caplog):
    fast_router.disable()
    fast_router.configure(limits="strict", shared_state=False)
    try:
        with caplog.at_level(logging.WARNING, "fast_router"):
            fast_router.enable()
        assert "limits: strict needs shared state" in caplog.text
        assert "strict limits" not in fast_router.status()["features"]
    finally:
        fast_router.disable()
        fast_router.configure(limits=None, shared_state=None)
        fast_router.enable()


async def test_the_status_shows_it(make):
    _, state = await settle(make())
    shown = fast_router.status()["shared_state"]
    assert state.exchange.instance in [each["instance"] for each in shown]
    assert all(each["connected"] for each in shown if each["instance"] == state.exchange.instance)
