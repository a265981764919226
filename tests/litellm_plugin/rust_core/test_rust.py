"""LiteLLM 1.110, whose core is written in Rust: our choice at its select step, leases around its attempts."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from typing import Any

import litellm
import pytest
from litellm import Router

import fast_router
from fast_router.litellm_plugin import hook
from fast_router.litellm_plugin.rust_core import attempts, steps
from fast_router.litellm_plugin.tally import tally
from fast_router.testing import Fleet, Spec
from tests.support.plugin import MESSAGES, deployments, entry, in_flight, picks, router, until

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


def over(fleet: Any, **options: Any) -> Router:
    entries = [entry(name, fleet[name].api_base, **options.pop(f"of_{name}", {})) for name in "abc"]
    return router(*entries, **{"disable_cooldowns": True, **options})


async def chat(made: Router, **request: Any) -> Any:
    return await made.acompletion(model="m", messages=MESSAGES, **request)


def served(fleet: Any) -> dict[str, int]:
    return {name: fleet[name].records.requests for name in "abc"}


async def test_calls_at_once_are_spread_evenly(fleet):
    made = over(fleet, routing_strategy="least-busy")
    with fleet["a"].held(), fleet["b"].held(), fleet["c"].held():
        calls = [asyncio.create_task(chat(made)) for _ in range(12)]
        await until(lambda: sum(d.in_flight for d in deployments(made).values()) == 12)
        assert {d.in_flight for d in deployments(made).values()} == {4}
    await asyncio.gather(*calls)
    assert in_flight(made) == 0
    assert served(fleet) == {"a": 4, "b": 4, "c": 4}


async def test_retries_go_to_those_that_were_not_tried(fleet):
    for strategy in ("least-busy", "simple-shuffle", "round_robin"):
        made = over(fleet, routing_strategy=strategy, num_retries=2)
        for broken in ("ab", "bc", "ac"):
            for name in "abc":
                fleet[name].order(error_rate=1.0 if name in broken else 0.0)
            for _ in range(4):
                await chat(made)
            for name in "abc":
                fleet[name].order(error_rate=0.0)
        assert in_flight(made) == 0, strategy


def test_synchronous_retries_go_to_those_that_were_not_tried(fleet):
    for strategy in ("least-busy", "simple-shuffle"):
        made = over(fleet, routing_strategy=strategy, num_retries=2)
        fleet["a"].order(error_rate=1.0)
        fleet["b"].order(error_rate=1.0)
        for _ in range(6):
            made.completion(model="m", messages=MESSAGES)
        assert in_flight(made) == 0, strategy


async def test_a_retry_is_only_preferred_so_that_filters_still_decide(fleet):
    """Where the core's later filters leave only the one that failed, it is tried again."""
    made = over(
        fleet, of_a={"tags": ["free"]}, of_b={"tags": ["paid"]}, of_c={"tags": ["paid"]},
        enable_tag_filtering=True, num_retries=2,
    )  # fmt: skip
    fleet["a"].order(script=["error", "error", "ok"])
    await chat(made, metadata={"tags": ["free"]})
    assert served(fleet) == {"a": 3, "b": 0, "c": 0}


async def test_every_way_out_ends_the_lease(fleet):
    made = over(fleet, routing_strategy="least-busy", num_retries=0)

    # Cancelled while it waits.
    with fleet["a"].held(), fleet["b"].held(), fleet["c"].held():
        call = asyncio.create_task(chat(made))
        await until(lambda: in_flight(made) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert in_flight(made) == 0

    # Failed.
    for name in "abc":
        fleet[name].order(error_rate=1.0)
    with pytest.raises(litellm.InternalServerError):
        await chat(made)
    assert in_flight(made) == 0
    for name in "abc":
        fleet[name].order(error_rate=0.0)

    # Streams: read to the end, closed, dropped.
    stream = await chat(made, stream=True)
    assert in_flight(made) == 1
    lease = stream._async_generator.watch.attempt.lease
    assert lease.seconds_to_first_token is not None, "LiteLLM has read the first chunk; nobody waits for the reader"
    async for _ in stream:
        pass
    assert in_flight(made) == 0
    stream = await chat(made, stream=True)
    await stream.__anext__()
    assert in_flight(made) == 1
    await stream.aclose()
    assert in_flight(made) == 0
    stream = await chat(made, stream=True)
    await stream.__anext__()
    del stream
    gc.collect()
    await until(lambda: in_flight(made) == 0)


async def test_a_stream_that_breaks_is_not_in_flight_while_another_goes_on(fleet):
    fleet["a"].order(cut_rate=1.0, cut_after=2, tokens=6)
    fleet["b"].order(tokens=6)
    made = router(
        entry("a", fleet["a"].api_base, info_supports_assistant_prefill=True),
        entry("b", fleet["b"].api_base, name="n", info_supports_assistant_prefill=True),
        routing_strategy="least-busy",
        fallbacks=[{"m": ["n"]}],
        enable_mid_stream_fallback_continuation=True,
        disable_cooldowns=True,
    )
    counted = deployments(made)
    seen = [tuple(counted[name].in_flight for name in "ab") async for _ in await chat(made, stream=True)]
    assert seen[0] == (1, 0)
    assert seen[-1] in {(0, 1), (0, 0)}, "the other one has taken over"
    assert fleet["b"].records.requests == 1
    assert in_flight(made) == 0


def test_synchronous_streams_end_the_lease(fleet):
    made = over(fleet, routing_strategy="least-busy")
    stream = made.completion(model="m", messages=MESSAGES, stream=True)
    assert in_flight(made) == 1
    for _ in stream:
        pass
    assert in_flight(made) == 0


async def test_other_endpoints_are_counted(fleet):
    made = over(fleet, routing_strategy="least-busy")
    before = picks()["filtered"]
    await made.aembedding(model="m", input=["x"])
    await made.aresponses(model="m", input="x")
    await made.atext_completion(model="m", prompt="x")
    assert picks()["filtered"] == before + 3
    assert in_flight(made) == 0


async def test_our_strategies_choose_by_name():
    entries = [entry(name, mock_response="yes", weight=weight) for name, weight in (("a", 3), ("b", 1))]
    made = router(*entries, routing_strategy="round-robin")
    seen = Counter([(await chat(made))._hidden_params["model_id"] for _ in range(8)])
    assert seen == {"a": 6, "b": 2}
    assert fast_router.advanced_router(made).groups["m"].members

    grouped = router(
        *(entry(name, mock_response="yes") for name in "ab"),
        routing_groups=[{"group_name": "g", "models": ["m"], "routing_strategy": "round_robin"}],
    )
    seen = Counter([(await chat(grouped))._hidden_params["model_id"] for _ in range(8)])
    assert seen == {"a": 4, "b": 4}


async def test_affinity_knows_the_session():
    made = router(*(entry(name, mock_response="yes") for name in "abcdef"), routing_strategy="session_affinity")
    for session in ("s1", "s2", "s3"):
        seen = {(await chat(made, metadata={"session_id": session}))._hidden_params["model_id"] for _ in range(5)}
        assert len(seen) == 1


def test_an_unknown_strategy_is_litellms_own_error():
    with pytest.raises(ValueError, match="nonsense"):
        router(entry("a"), routing_strategy="nonsense")


def test_a_mistyped_strategy_of_ours_is_named_in_it():
    made = router(entry("a", mock_response="yes"), routing_strategy="least-busy")
    groups = [{"group_name": "g", "models": ["m"], "routing_strategy": "peak_ewm"}]
    for call in (
        lambda: router(entry("a"), routing_strategy="peak_ewm"),
        lambda: router(entry("a"), routing_groups=groups),
        lambda: made.update_settings(routing_strategy="peak_ewm"),
    ):
        with pytest.raises(ValueError, match=r"Invalid routing_strategy: 'peak_ewm'.*; did you mean 'peak_ewma'\?$"):
            call()


async def test_settings_and_deployments_change_while_running():
    made = router(entry("a", mock_response="yes"), routing_strategy="least-busy")
    await chat(made)
    assert set(deployments(made)) == {"a"}
    made._core.apply(
        litellm.router_api.ChangeSet(upsert=[litellm.router.Deployment(**entry("b", mock_response="yes"))])
    )
    seen = {(await chat(made))._hidden_params["model_id"] for _ in range(30)}
    assert seen == {"a", "b"}
    made._core.apply(litellm.router_api.ChangeSet(settings={"routing_strategy": "round_robin"}, delete=["a"]))
    assert (await chat(made))._hidden_params["model_id"] == "b"
    assert set(deployments(made)) == {"b"}
    assert fast_router.advanced_router(made).stats()["strategy"] == "round_robin"
    read = deployments(made)["b"].entry
    await chat(made)
    assert deployments(made)["b"].entry is read
    fast_router.invalidate(made)
    await chat(made)
    assert deployments(made)["b"].entry is not read
    before = picks()["filtered"]
    made._core.apply(litellm.router_api.ChangeSet(settings={"routing_strategy": "simple-shuffle"}))
    await chat(made)
    assert picks()["filtered"] == before + 1


async def test_the_status_tells_who_picked(fleet):
    made = over(fleet, routing_strategy="least-busy")
    before, lane = picks(), fast_router.status()["lane"]["requests"]
    await chat(made)
    shuffled = over(fleet)
    await chat(shuffled)
    after, status = picks(), fast_router.status()
    assert after["filtered"] + status["lane"]["requests"] == before["filtered"] + lane + 2
    assert after["delegated"] == before["delegated"]
    assert status["band"] == "1.110"
    assert "fast lane" not in status["skipped"], "the request lane stands in its place"
    assert status["capabilities"]["request_lane"]["on"]
    assert status["capabilities"]["overhead"]["why"] == "3 of 3 features"
    json.dumps(status)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("failover", [True, False])
@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy", "round_robin"])
def test_an_attempt_is_one_pick_whoever_ends_it(fleet, monkeypatch, strategy, failover, sync):
    """What the request lane hands over was picked once, not again by the walk that takes it over."""
    # A filter that LiteLLM keeps of an earlier test's Router would be a reason to leave all to the walk.
    monkeypatch.setattr(litellm, "callbacks", [])
    fast_router.disable()
    fast_router.configure(disabled_features=() if failover else ("failover",))
    fast_router.enable()
    made = over(fleet, routing_strategy=strategy, num_retries=2)
    fleet["a"].order(error_rate=1.0)
    before, lane = picks(), fast_router.status()["lane"]
    for _ in range(12):
        if sync:
            made.completion(model="m", messages=MESSAGES)
        else:
            asyncio.run(chat(made))
    after, status = picks(), fast_router.status()["lane"]
    assert status["handed_over"] > lane["handed_over"]
    told = status["requests"] - lane["requests"]
    told += sum(after[way] - before[way] for way in ("fast", "filtered", "delegated"))
    assert told == sum(served(fleet).values()) == sum(d.picks for d in deployments(made).values())


async def test_an_error_of_ours_fails_no_request(fleet, monkeypatch):
    made = over(fleet, routing_strategy="least-busy")
    errors = fast_router.status()["errors"]["count"]

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(steps.Walk, "next_attempt", broken)
        patch.setattr(attempts, "answered", broken)
        await chat(made)
    assert fast_router.status()["errors"]["count"] > errors
    tally.errors = errors
    assert in_flight(made) == 0


async def test_off_gives_back_the_identical_objects():
    import litellm.router_rust.core as module
    from litellm.router_rust.steps import selection

    owners = (
        module.RustCore,
        module._Driver,
        *(v for k, v in vars(selection).items() if k.endswith(("Handler", "_v2"))),
    )

    def members() -> dict[tuple[str, str], object]:
        return {(owner.__name__, name): value for owner in owners for name, value in vars(owner).items()}

    on = members()
    made = router(*(entry(name, mock_response="yes") for name in "ab"), routing_strategy="peak_ewma")
    assert hook.disable() == []
    off = members()
    assert [key for key in on if on[key] is not off.get(key)], "nothing was patched"
    before = picks()
    await chat(made)
    assert picks() == before
    hook.enable()
    hook.disable()
    assert all(value is members().get(key) for key, value in off.items())
    assert off.keys() == members().keys()
    hook.enable()


async def test_a_deployment_that_cannot_be_read_is_litellms(caplog):
    made = router(
        entry("a", mock_response="yes", weight=-1), entry("b", mock_response="yes"), routing_strategy="least-busy"
    )
    before = picks()
    answer = await chat(made)
    assert answer._hidden_params["model_id"] in {"a", "b"}
    assert picks()["delegated"] == before["delegated"] + 1
    assert "is left to LiteLLM" in caplog.text
