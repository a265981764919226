"""An experiment on real Routers and real HTTP servers: two strategies of ours, everything else the same."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
from collections import Counter

import litellm
import pytest
from click.testing import CliRunner

import fast_router
from fast_router.cli import main
from fast_router.errors import ConfigurationError
from fast_router.litellm_plugin.switch import switch
from fast_router.litellm_plugin.tally import tally
from fast_router.observe import process_status
from fast_router.observe.dashboard.live import Live
from fast_router.observe.families import families
from tests.support.plugin import MESSAGES, deployments, entry, in_flight, over, picks, refused, router, until

pytestmark = pytest.mark.usefixtures("plugin")
logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)

# The one always takes the cheapest, the other goes round: who picked is seen from whom.
CHEAPEST, ROUND = "cost-based-routing", "round_robin"


def priced(servers, **options):
    prices = [{"input_cost_per_token": n + 1.0, "output_cost_per_token": n + 1.0} for n in range(len(servers))]
    entries = [entry(f"d{n}", server.api_base, **prices[n]) for n, server in enumerate(servers)]
    return router(*entries, **{"routing_strategy": CHEAPEST, **options})


def try_out(share, strategy=ROUND, **more):
    fast_router.configure(experiment={"strategy": strategy, "share": share, **more})


def arms():
    old, new = fast_router.status()["experiment"]["arms"]
    assert old["arm"] == "configured"
    return old, new


async def ask(r, **kwargs):
    return (await r.acompletion(model="m", messages=MESSAGES, **kwargs))._hidden_params["model_id"]


def ask_sync(r, **kwargs):
    return r.completion(model="m", messages=MESSAGES, **kwargs)._hidden_params["model_id"]


async def read(r, **kwargs):
    stream = await r.acompletion(model="m", messages=MESSAGES, stream=True, **kwargs)
    assert [chunk async for chunk in stream]
    return stream._hidden_params["model_id"]


def read_sync(r, **kwargs):
    stream = r.completion(model="m", messages=MESSAGES, stream=True, **kwargs)
    assert list(stream)
    return stream._hidden_params["model_id"]


WAYS = {
    "async": ask,
    "sync": lambda r, **kwargs: asyncio.to_thread(ask_sync, r, **kwargs),
    "stream": read,
    "sync_stream": lambda r, **kwargs: asyncio.to_thread(read_sync, r, **kwargs),
}


def taken():
    """Requests that went the shortest way: a fast pick, or the request lane."""
    return tally.lane if switch.band.core_walks else picks()["fast"]


# -- whose strategy picks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_each_arm_is_picked_by_its_strategy(servers, way):
    r = priced(servers)
    for share, place, wanted in ((0, 0, {"d0"}), (100, 1, {"d0", "d1", "d2"})):
        try_out(share)
        assert {await WAYS[way](r) for _ in range(6)} == wanted
        found = arms()
        assert (found[place]["requests"], found[1 - place]["requests"]) == (6, 0)
        assert (found[place]["failures"], found[place]["cancelled"], found[place]["retries"]) == (0, 0, 0)
        assert found[place]["deployments"] == len(wanted)
        assert (found[place]["first_token"]["p50"] is not None) == ("stream" in way)
    assert in_flight(r) == 0
    fast_router.configure(experiment=None)
    assert {await WAYS[way](r) for _ in range(6)} == {"d0"}
    assert "experiment" not in fast_router.status()


async def test_sessions_stay_in_their_arm_and_see_its_strategy_alone(servers):
    r = priced(servers)
    try_out(50)
    by = Counter()
    for session in range(16):
        before = arms()[1]["requests"]
        seen = {await ask(r, metadata={"session_id": f"s{session}"}) for _ in range(6)}
        new = arms()[1]["requests"] - before
        assert new in (0, 6)
        assert seen == ({"d0", "d1", "d2"} if new else {"d0"})
        by[new] += 1
    assert len(by) == 2


async def test_every_router_takes_part_old_and_new(servers):
    before = priced(servers)
    await ask(before)
    try_out(100)
    after = priced(servers)
    for r in (before, after):
        assert {await ask(r) for _ in range(3)} == {"d0", "d1", "d2"}


async def test_litellms_name_for_a_strategy_is_as_good_and_lanes_stay(servers):
    r = priced(servers, routing_strategy="least-busy")
    try_out(100, CHEAPEST)
    before = taken()
    assert {await ask(r) for _ in range(6)} == {"d0"}
    assert taken() == before + 6
    assert arms()[1]["arm"] == "cost_based"


async def test_a_request_that_names_its_strategy_keeps_it_and_is_not_counted(servers):
    r = priced(servers)
    try_out(100)
    assert {await ask(r, routing_strategy=CHEAPEST) for _ in range(3)} == {"d0"}
    assert [arm["requests"] for arm in arms()] == [0, 0]


async def test_the_strategy_that_is_configured_already_changes_nothing(servers):
    r = priced(servers)
    try_out(100, "cost_based")
    assert {await ask(r) for _ in range(4)} == {"d0"}
    assert arms()[1]["requests"] == 4


# -- all but the strategy is the same --------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 100])
async def test_either_arm_retries_elsewhere_and_counts_it(servers, share):
    r = priced(servers, num_retries=2)
    servers[0].order(error_rate=1.0)
    try_out(share)
    for _ in range(3):
        assert await ask(r) in ("d1", "d2")
    arm = arms()[share // 100]
    assert (arm["requests"], arm["failures"]) == (3, 0)
    assert 1 <= arm["retries"] <= 3


async def test_who_rests_rests_for_both(servers):
    r = router(
        entry("d0", refused(), input_cost_per_token=1.0, output_cost_per_token=1.0),
        *[
            entry(f"d{n + 1}", server.api_base, input_cost_per_token=n + 2.0, output_cost_per_token=n + 2.0)
            for n, server in enumerate(servers)
        ],
        routing_strategy=CHEAPEST,
        num_retries=2,
    )
    try_out(100)
    for _ in range(12):
        await ask(r)
    try_out(0)
    before = deployments(r)["d0"].picks
    assert {await ask(r) for _ in range(6)} == {"d1"}
    assert deployments(r)["d0"].picks == before


async def test_failures_and_callers_that_give_up_are_counted_in_their_arm(servers):
    r = priced(servers)
    for server in servers:
        server.order(hold=True)
    try_out(100)
    task = asyncio.create_task(ask(r))
    await until(lambda: in_flight(r))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for server in servers:
        server.order(hold=False, error_rate=1.0)
    with pytest.raises(litellm.InternalServerError):
        await ask(r)
    new = arms()[1]
    assert (new["requests"], new["failures"], new["cancelled"]) == (1, 1, 1)
    await until(lambda: in_flight(r) == 0)


async def test_a_strategy_that_reads_prompts_reads_them_and_leaves_nothing_behind(servers):
    r = priced(servers)
    try_out(50, "cache_aware")
    for number in range(12):
        await ask(r, metadata={"session_id": f"s{number}"})
    assert all(d.work is not None for d in deployments(r).values())
    assert sum(d.work.prompt_tokens for d in deployments(r).values()) > 0
    fast_router.configure(experiment=None)
    await ask(r)
    assert all(d.work is None for d in deployments(r).values())


# -- while it runs ---------------------------------------------------------------------------------------------


def test_nothing_stands_in_front_of_anything_before_and_after(servers):
    owners = [
        (owner, name, vars(owner)[name]) for owner, name, _, _ in switch.patches.replaced() if name in vars(owner)
    ]
    r = priced(servers)
    ask_sync(r)
    try_out(20)
    ask_sync(r)
    assert any(vars(owner)[name] is not before for owner, name, before in owners)
    fast_router.configure(experiment=None)
    assert [name for owner, name, before in owners if vars(owner)[name] is not before] == []
    ask_sync(r)
    groups = fast_router.advanced_router(r).groups.values()
    assert groups
    assert {type(tier).__name__ for group in groups for tier in group.tiers.values()} == {"CostBased"}


async def test_every_change_while_requests_run_costs_no_caller_an_answer(servers):
    r = over(servers)  # LiteLLM by itself has no synchronous way by price
    stop, stopped, answered = asyncio.Event(), threading.Event(), []

    async def caller():
        while not stop.is_set():
            answered.append(await read(r) if len(answered) % 3 else await ask(r))

    def caller_sync():
        while not stopped.is_set():
            answered.append(ask_sync(r))

    thread = threading.Thread(target=caller_sync)
    thread.start()
    tasks = [asyncio.create_task(caller()) for _ in range(4)]
    changes = [
        {"experiment": {"strategy": ROUND, "share": 20}},
        {"experiment": {"strategy": ROUND, "share": 50}},
        {"experiment": {"strategy": "cache_aware", "share": 50}},
        {"experiment": None, "rollout": 50},
        {"experiment": {"strategy": "peak_ewma", "share": 100}, "rollout": None},
        {"experiment": None},
        {"experiment": {"strategy": ROUND, "share": 20}},
    ]
    try:
        for change in changes:
            fast_router.configure(**change)
            before = len(answered)
            await until(lambda before=before: len(answered) > before + 8)
        for edit in (
            lambda: r.add_deployment(litellm.types.router.Deployment(**entry("d3", servers[0].api_base))),
            lambda: r.delete_deployment("d3"),
            fast_router.disable,
            fast_router.enable,
        ):
            edit()
            before = len(answered)  # the thread goes on meanwhile
            await until(lambda before=before: len(answered) > before + 8)
        await until(lambda: sum(arm["requests"] for arm in arms()))
    finally:
        stop.set()
        stopped.set()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(thread.join)
    await until(lambda: in_flight(r) == 0)


async def test_from_an_experiment_to_a_rollout_and_back(servers):
    r = priced(servers)
    try_out(100)
    await ask(r)
    fast_router.configure(experiment=None, rollout=0)
    assert "experiment" not in fast_router.status()
    assert {await ask(r) for _ in range(3)} == {"d0"}
    assert fast_router.status()["rollout"]["arms"][0]["requests"] == 3
    fast_router.configure(rollout=None, experiment={"strategy": ROUND, "share": 100})
    assert "rollout" not in fast_router.status()
    assert {await ask(r) for _ in range(3)} == {"d0", "d1", "d2"}
    with pytest.raises(ConfigurationError, match=r"rollout is 10 \(configure\(rollout=…\)\); set rollout to 100"):
        fast_router.configure(rollout=10)
    assert "experiment" in fast_router.status(), "nothing has changed"


# -- seen from outside -----------------------------------------------------------------------------------------


async def test_status_metrics_and_dashboard_show_both_arms(servers, runtime):
    assert process_status.start()
    try:
        r = priced(servers)
        try_out(50)
        random.seed(3)
        for number in range(12):
            await ask(r, metadata={"session_id": f"s{number}"})
        shown = CliRunner().invoke(main, ["status"]).output
        assert re.search(r"experiment: 50 % of the requests by round_robin \(1 process\)", shown)
        assert "configured: cost_based" in shown
        assert "by latency: too few requests to compare latency; look as often as you like" in shown
        requests = {arm["arm"]: arm["requests"] for arm in arms()}
        assert sum(requests.values()) == 12
        assert min(requests.values()) > 0
        told = {family["name"]: family["samples"] for family in families()}
        assert {labels[1]: value for labels, value in told["fast_router_experiment_requests"]} == requests
        assert [value for _, value in told["fast_router_experiment_share"]] == [0.5]
        (state,) = Live().state()["rollouts"]
        assert [arm["requests"] for arm in state["arms"]] == list(requests.values())
        assert state["experiment"] == {"strategy": "round_robin", "share": 50.0}
        fast_router.configure(experiment=None)
        assert "experiment" not in CliRunner().invoke(main, ["status"]).output
    finally:
        process_status.stop()
