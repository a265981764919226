"""A rollout on real Routers and real HTTP servers: LiteLLM's arm is LiteLLM, ours is ours, and each counts its own."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import random
import re
import threading
import time

import litellm
import pytest
from click.testing import CliRunner

import fast_router
from fast_router import operator_holds
from fast_router.cli import main
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.switch import switch
from fast_router.observe import process_status
from fast_router.observe.dashboard.live import Live
from fast_router.observe.families import families
from tests.support.plugin import (
    MESSAGES,
    calm,
    core_of,
    deployments,
    entry,
    in_flight,
    over,
    pick_id,
    refused,
    router,
    until,
)

pytestmark = pytest.mark.usefixtures("plugin")
logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)


def arms():
    old, new = fast_router.status()["rollout"]["arms"]
    assert (old["arm"], new["arm"]) == ("litellm", "fast_router")
    return old, new


async def ask(r, **kwargs):
    return await r.acompletion(model="m", messages=MESSAGES, **kwargs)


def ask_sync(r, **kwargs):
    return r.completion(model="m", messages=MESSAGES, **kwargs)


async def read(r, **kwargs):
    return [chunk async for chunk in await ask(r, stream=True, **kwargs)]


def picked(response):
    return response._hidden_params["model_id"]


def cooling(r):
    core = core_of(r)
    store = switch.band.keeper.rest_store(core)
    return {f"d{n}" for n in range(3) if store is not None and store.read(f"d{n}")}


# -- LiteLLM's arm is LiteLLM --------------------------------------------------------------------------------


HAS_GROUPS = "routing_groups" in inspect.signature(litellm.Router.__init__).parameters
GROUP = {"group_name": "g", "models": ["m"], "routing_strategy": "peak_ewma"}


@pytest.mark.parametrize("way", ["acompletion", "completion", "stream", "select"])
@pytest.mark.parametrize("groups", [[], [GROUP]] if HAS_GROUPS else [[]])
@pytest.mark.parametrize("rollout", [0, "observe"])
def test_where_only_we_have_the_strategy_litellms_arm_shuffles(servers, rollout, groups, way):
    """By weights, which its least-busy does not know: 1.110 is told that one so that its core asks for a choice."""
    weights = zip(servers, (1, 0, 0), strict=True)
    entries = [entry(f"d{n}", server.api_base, weight=weight) for n, (server, weight) in enumerate(weights)]
    r = router(*entries, routing_strategy="peak_ewma", **({"routing_groups": groups} if groups else {}))
    fast_router.configure(rollout=rollout)
    if way == "select":
        assert [pick_id(r) for _ in range(9)] == ["d0"] * 9
    else:
        ways = {"acompletion": ask, "stream": read, "completion": lambda r: asyncio.to_thread(ask_sync, r)}
        for _ in range(9):
            asyncio.run(ways[way](r))
        assert [server.records.requests for server in servers] == [9, 0, 0]
    fast_router.configure(rollout=100)
    asyncio.run(ask(r))
    assert fast_router.advanced_router(r).stats()["strategy"] == "peak_ewma"


@pytest.mark.skipif(not HAS_GROUPS, reason="this LiteLLM has no routing groups")
def test_a_strategy_of_litellms_own_stays_in_its_arm(servers, caplog):
    """One that a routing group names, beside ours for the rest."""
    prices = [{"input_cost_per_token": n + 1.0, "output_cost_per_token": n + 1.0} for n in (2, 1, 0)]
    entries = [entry(f"d{n}", server.api_base, **prices[n]) for n, server in enumerate(servers)]
    group = {**GROUP, "routing_strategy": "cost-based-routing"}
    r = router(*entries, routing_strategy="peak_ewma", routing_groups=[group])
    fast_router.configure(rollout=0)
    for _ in range(6):
        asyncio.run(ask(r))
    assert [server.records.requests for server in servers] == [0, 0, 6]
    told = [record.getMessage() for record in caplog.records if "arm picks by least-busy" in record.getMessage()]
    # Other models would be picked by simple-shuffle up to 1.109.
    assert len(told) == int("lane" in fast_router.status()["features"])
    assert all("the configuration says peak_ewma" in each for each in told)


def play(servers, arrangement):
    """What a Router does with a fleet of which one fails for a while: picks, errors, cooldowns, who was asked."""
    calm(servers)
    random.seed(7)
    r = arrangement([server.api_base for server in servers])
    seen = []

    async def run():
        for number in range(18):
            servers[0].order(error_rate=1.0 if number in range(6, 12) else 0.0)
            try:
                if number % 3 == 1:
                    seen.append(picked(await asyncio.to_thread(ask_sync, r)))
                elif number % 3 == 2 and number < 6:
                    seen.append(("stream", len(await read(r)) > 0))
                else:
                    seen.append(picked(await ask(r)))
            except Exception as error:
                seen.append(type(error).__name__)

    asyncio.run(run())
    return seen, [server.records.requests for server in servers], cooling(r)


def tiers(bases):
    """Retries, cooldowns and order tiers."""
    entries = [entry(f"d{n}", base, order=n + 1) for n, base in enumerate(bases)]
    return router(*entries, num_retries=2, allowed_fails=1, cooldown_time=60)


def cheapest(bases):
    """A strategy object of LiteLLM's, and no cooldowns: each request tries the same one until it gives up."""
    prices = [{"input_cost_per_token": n + 1.0, "output_cost_per_token": n + 1.0} for n in range(len(bases))]
    entries = [entry(f"d{n}", base, **prices[n]) for n, base in enumerate(bases)]
    return router(*entries, routing_strategy="cost-based-routing", num_retries=1, disable_cooldowns=True)


def another_model(bases):
    """A fallback to another model once a deployment cools down."""
    return router(
        entry("d0", bases[0]),
        entry("d1", bases[1], name="n"),
        fallbacks=[{"m": ["n"]}],
        allowed_fails=2,
        cooldown_time=60,
    )


def shuffled(bases):
    """LiteLLM's own draw, which is the same from the same seed."""
    return router(
        *[entry(f"d{n}", base) for n, base in enumerate(bases)], num_retries=2, allowed_fails=1, cooldown_time=60
    )


@pytest.mark.parametrize("setting", [0, "observe"])
@pytest.mark.parametrize("arrangement", [tiers, cheapest, another_model, shuffled])
def test_litellms_arm_does_what_litellm_alone_does(servers, setting, arrangement):
    if arrangement is shuffled and switch.band.core_walks:
        pytest.skip("the shuffle of LiteLLM's Rust core has a source of chance of its own")
    fast_router.disable()
    alone = play(servers, arrangement)
    assert alone == play(servers, arrangement), "the control: LiteLLM alone does not repeat itself"
    fast_router.enable()
    fast_router.configure(rollout=setting)
    assert play(servers, arrangement) == alone
    fast_router.configure(rollout=100)
    assert "rollout" not in fast_router.status()


# -- where no rollout is set nothing of it is there ------------------------------------------------------------


def test_nothing_stands_in_front_of_anything_before_and_after(servers):
    owners = [
        (owner, name, vars(owner)[name]) for owner, name, _, _ in switch.patches.replaced() if name in vars(owner)
    ]
    fast_router.configure(rollout=10)
    assert any(vars(owner)[name] is not before for owner, name, before in owners)
    fast_router.configure(rollout=100)
    assert [name for owner, name, before in owners if vars(owner)[name] is not before] == []


def test_disable_takes_the_gates_away_as_well(servers):
    fast_router.disable()
    before = {name: vars(litellm.Router).get(name) for name in dir(litellm.Router)}
    fast_router.enable()
    fast_router.configure(rollout=10)
    assert fast_router.disable() == []
    assert {name: vars(litellm.Router).get(name) for name in dir(litellm.Router)} == before or switch.names
    assert "rollout" not in fast_router.status()


# -- counting ------------------------------------------------------------------------------------------------


async def test_each_arm_counts_requests_streams_and_failures(servers):
    r = over(servers, num_retries=0)
    for setting, place in ((0, 0), (99.999999, 1)):
        fast_router.configure(rollout=setting)
        await ask(r)
        await asyncio.to_thread(ask_sync, r)
        assert await read(r)
        await asyncio.to_thread(lambda: list(ask_sync(r, stream=True)))
        for server in servers:
            server.order(error_rate=1.0)
        with pytest.raises(litellm.InternalServerError):
            await ask(r)
        calm(servers)
        fast_router.advanced_router(r)
        arm = arms()[place]
        assert (arm["requests"], arm["failures"]) == (5, 1)
        assert arms()[1 - place]["requests"] == 0
        assert arm["first_token"]["p50"] is not None
        assert in_flight(r) == 0


async def test_a_retry_is_a_retry_in_either_arm(servers):
    r = over(servers, disable_cooldowns=True)
    for setting, place in ((0, 0), (99.999999, 1)):
        for server in servers:
            server.order(error_rate=1.0)
        fast_router.configure(rollout=setting)
        with pytest.raises(litellm.InternalServerError):
            await ask(r)
        assert (arms()[place]["failures"], arms()[place]["retries"]) == (1, 2)
        calm(servers)
        for deployment in deployments(r).values():
            fast_router.advanced_router(r).engine.wake(deployment)


async def test_a_caller_that_gives_up_is_neither_an_answer_nor_a_failure(servers):
    for server in servers:
        server.order(hold=True)
    r = over(servers)
    fast_router.configure(rollout=0)
    task = asyncio.create_task(ask(r))
    await until(lambda: in_flight(r))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    calm(servers)
    old, _ = arms()
    assert (old["requests"], old["cancelled"]) == (0, 1)
    assert in_flight(r) == 0


async def test_calls_of_litellms_own_count_as_in_flight_until_their_streams_end(servers):
    r = over(servers)
    fast_router.configure(rollout=0)
    stream = await ask(r, stream=True)
    assert in_flight(r) == 1
    assert [chunk async for chunk in stream]
    assert in_flight(r) == 0
    dropped = await ask(r, stream=True)
    assert in_flight(r) == 1
    del dropped
    gc.collect()
    await until(lambda: not in_flight(r))
    old, _ = arms()
    assert (old["requests"], old["cancelled"]) == (1, 1), "a stream that is dropped was given up on"


async def test_a_session_stays_in_its_arm(servers):
    r = over(servers)
    fast_router.configure(rollout=50)
    for session in range(12):
        before = [arm["requests"] for arm in arms()]
        for _ in range(3):
            await ask(r, metadata={"session_id": f"s{session}"})
        grown = [arm["requests"] - count for arm, count in zip(arms(), before, strict=True)]
        assert sorted(grown) == [0, 3]


# -- two arms, two sets of rests -------------------------------------------------------------------------------


async def test_who_rests_in_one_arm_does_not_rest_in_the_other(servers):
    r = over(servers, num_retries=0, allowed_fails=0, cooldown_time=60)
    fast_router.configure(rollout=0)
    for server in servers:
        server.order(error_rate=1.0)
    for _ in range(2):
        with pytest.raises(litellm.InternalServerError):
            await ask(r)
    calm(servers)
    await until(lambda: cooling(r))
    assert [d.id for d in deployments(r).values() if d.held] == []
    fast_router.configure(rollout=99.999999)
    cold = cooling(r)
    for server in servers:
        server.order(error_rate=1.0)
    for _ in range(8):
        with pytest.raises(Exception):  # noqa: B017, PT011 - LiteLLM's own, by version
            await ask(r)
    calm(servers)
    assert [d.id for d in deployments(r).values() if d.held]
    assert cooling(r) <= cold


async def test_strategies_of_litellms_know_of_all_requests(servers):
    if switch.band.core_walks:
        pytest.skip("nothing is spared there")
    r = router(*[entry(f"d{n}", s.api_base) for n, s in enumerate(servers)], routing_strategy="latency-based-routing")
    await ask(r)
    fast_router.configure(rollout=99.999999)
    for _ in range(6):
        await ask(r)
    core = core_of(r)
    cache = switch.band.read(core, "cache")
    await until(lambda: len(cache.get_cache(key="m_map", local_only=True) or {}) >= 1)
    known = cache.get_cache(key="m_map", local_only=True)
    assert sum(len(each.get("latency", each.get("latency_normalized", ()))) for each in known.values()) >= 6


# -- watching ------------------------------------------------------------------------------------------------


async def test_observing_says_what_we_would_have_done_and_touches_nothing(servers):
    # LiteLLM never rests whom it cannot reach.
    dead = entry("dead", refused())
    r = router(dead, *[entry(f"d{n}", server.api_base) for n, server in enumerate(servers)])
    fast_router.configure(rollout="observe")
    failed = 0
    for _ in range(60):
        try:
            await ask(r)
        except litellm.InternalServerError:
            failed += 1
    seen = fast_router.status()["rollout"]["observed"]
    assert seen["picks"] == seen["compared"] == 60
    assert 0 < seen["same_pick"] < 60
    assert seen["to_just_failed"] > 0
    assert seen["to_resting"] > 0
    assert failed > 2, "what we would have rested is asked all the same"
    assert cooling(r) == set()
    assert sum(server.records.requests for server in servers) == 60 - failed


async def test_observing_reads_the_counter_that_litellms_least_busy_goes_by(servers):
    r = over(servers, routing_strategy="least-busy")
    fast_router.configure(rollout="observe")
    for server in servers:
        server.order(hold=True)
    tasks = [asyncio.create_task(ask(r)) for _ in range(4)]
    await until(lambda: sum(server.records.requests for server in servers) == 4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    calm(servers)
    await until(lambda: in_flight(r) == 0)
    for _ in range(4):
        await ask(r)
    seen = fast_router.status()["rollout"]["observed"]
    assert seen["counters_read"] == seen["picks"] == 8
    assert seen["to_just_failed"] == 0, "a caller that gives up is no failure"
    assert sum(d.successes for d in deployments(r).values()) == 4, "nor an answer"
    if switch.band.core_walks:
        assert seen["furthest_off"] <= 1, "the core counts its picks, and hears of calls that are cancelled"
    else:
        # A burst goes by counters that nobody has raised yet; calls that are cancelled are never counted down.
        assert (seen["counters_off"], seen["furthest_off"]) == (7, 4)


async def test_what_is_picked_in_the_same_instant_counts_as_litellms_least_busy_counts_it(servers):
    """Its Rust core reserves a place at each pick; before that a burst goes by counters that nobody has raised."""
    r = over(servers, routing_strategy="least-busy")
    fast_router.configure(rollout="observe")
    for server in servers:
        server.order(hold=True)
    tasks = [asyncio.create_task(ask(r)) for _ in range(24)]
    await until(lambda: sum(server.records.requests for server in servers) == 24)
    seen = fast_router.status()["rollout"]["observed"]
    calm(servers)
    await asyncio.gather(*tasks)
    assert seen["counters_read"] == seen["picks"] == 24
    if switch.band.core_walks:
        assert (seen["counters_off"], seen["furthest_off"]) == (0, 0)
    else:
        assert seen["counters_off"] > 0


async def test_where_litellm_does_not_go_by_least_busy_its_counters_are_not_looked_at(servers):
    """1.110 is told that one for a strategy that it lacks."""
    r = over(servers, routing_strategy="peak_ewma")
    fast_router.configure(rollout="observe")
    await ask(r)
    seen = fast_router.status()["rollout"]["observed"]
    assert (seen["picks"], seen["counters_read"]) == (1, 0)


async def test_two_routers_with_the_same_ids_are_in_one_rollout(servers):
    first, second = over(servers), over(servers)
    for setting, place in ((0, 0), (99.999999, 1)):
        fast_router.configure(rollout=setting)
        stream = await ask(first, stream=True)
        await asyncio.to_thread(ask_sync, second)
        assert (in_flight(first), in_flight(second)) == (1, 0)
        assert [chunk async for chunk in stream]
        assert arms()[place]["requests"] == 2
        assert arms()[1 - place]["requests"] == 0
        assert in_flight(first) == in_flight(second) == 0


# -- seen from outside ---------------------------------------------------------------------------------------


async def test_status_metrics_and_dashboard_show_both_arms(servers, runtime):
    assert process_status.start()
    try:
        r = over(servers)
        fast_router.configure(rollout=50)
        for _ in range(8):
            await ask(r)
        shown = CliRunner().invoke(main, ["status"]).output
        assert re.search(r"rollout: 50 % of the requests \(1 process\)", shown)
        assert "by latency: too few requests to compare latency; look as often as you like" in shown
        assert "both arms share the servers" in shown
        requests = {arm["arm"]: arm["requests"] for arm in arms()}
        told = {family["name"]: family["samples"] for family in families()}
        assert {labels[1]: value for labels, value in told["fast_router_rollout_requests"]} == requests
        counts = {labels[1]: value[0][-1] for labels, value in told["fast_router_rollout_latency_seconds"]}
        assert counts == requests
        (state,) = Live().state()["rollouts"]
        assert [arm["requests"] for arm in state["arms"]] == list(requests.values())
        fast_router.configure(rollout="observe")
        await ask(r)
        assert "LiteLLM picked 1 times; our lanes: 1 " in CliRunner().invoke(main, ["status"]).output
        fast_router.configure(rollout=100)
        assert "rollout" not in CliRunner().invoke(main, ["status"]).output
        assert not [family for family in families() if "rollout" in family["name"]]
    finally:
        process_status.stop()


async def test_whom_an_operator_holds_neither_arm_asks(servers):
    r = over(servers)
    fast_router.advanced_router(r)
    operator_holds.replace("file", [operator_holds.Hold("rest", id="d1", by="me", at=time.time())])
    try:
        for setting in (0, 99.999999):
            fast_router.configure(rollout=setting)
            for _ in range(12):
                assert picked(await ask(r)) != "d1"
                assert picked(await asyncio.to_thread(ask_sync, r)) != "d1"
    finally:
        operator_holds.replace("file", [])


# -- from one setting to the next ------------------------------------------------------------------------------


async def test_every_step_while_requests_run_costs_no_caller_an_answer(servers):
    r = over(servers)
    stop, answered = asyncio.Event(), []

    async def caller():
        while not stop.is_set():
            answered.append(await read(r) if len(answered) % 3 else await ask(r))

    def caller_sync():
        while not stopped.is_set():
            answered.append(ask_sync(r))

    stopped = threading.Event()
    thread = threading.Thread(target=caller_sync)
    thread.start()
    tasks = [asyncio.create_task(caller()) for _ in range(4)]
    for setting in ("observe", 10, 50, 100, 0, 100):
        before = len(answered)
        fast_router.configure(rollout=setting)
        await until(lambda before=before: len(answered) > before + 8)
    fast_router.disable()
    before = len(answered)
    await until(lambda: len(answered) > before + 8)
    fast_router.enable()
    stop.set()
    stopped.set()
    await asyncio.gather(*tasks)
    await asyncio.to_thread(thread.join)
    binding = existing(core_of(r))
    await until(lambda: binding is None or not any(d.in_flight for d in binding.engine.deployments.values()))
