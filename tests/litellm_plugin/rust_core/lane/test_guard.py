"""Who may take the lane of LiteLLM 1.110, and what closes it: by configuration, by request, by test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import litellm
import pytest
from litellm import Router
from litellm.integrations.custom_logger import CustomLogger

import fast_router
from fast_router.litellm_plugin.rust_core import standing
from fast_router.litellm_plugin.tally import tally

pytestmark = pytest.mark.skipif(
    not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
)

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _answered(plugin, monkeypatch):
    before = {name: list(getattr(litellm, name)) for name in ("callbacks", "success_callback", "failure_callback")}

    async def answered(**_: Any) -> Any:
        return litellm.ModelResponse(choices=[{"message": {"content": "hi"}, "finish_reason": "stop"}])

    monkeypatch.setattr(litellm, "acompletion", answered)
    yield
    for name, value in before.items():
        getattr(litellm, name)[:] = value


_made = itertools.count()


def router(*infos: dict[str, Any], params: dict[str, Any] | None = None, **options: Any) -> Router:
    # LiteLLM's price list remembers what a model was once registered with.
    serial = next(_made)
    entries = [
        {
            "model_name": "m",
            "litellm_params": {
                "model": f"openai/{serial}-{at}",
                "api_key": "k",
                "api_base": f"http://{at}/v1",
                **(params or {}),
            },
            "model_info": {"id": f"d{at}", **info},
        }
        for at, info in enumerate(infos or ({}, {}))
    ]
    return Router(model_list=entries, **{"num_retries": 0, **options})


def chat(made: Router, **request: Any) -> str | None:
    """Send a request; why it was left to LiteLLM, None if the lane served it."""
    left, lane = dict(tally.left), tally.lane
    model, messages = request.pop("model", "m"), request.pop("messages", MESSAGES)
    with contextlib.suppress(litellm.BadRequestError):
        asyncio.run(made.acompletion(model=model, messages=messages, **request))
    if tally.lane > lane:
        return None
    return next(reason for reason, count in tally.left.items() if count != left.get(reason))


def test_a_stream_as_the_proxy_sends_it_has_a_lane():
    flags = {"_litellm_strip_stream_usage": True, "_litellm_stream_usage_injected": True}
    assert chat(router(), stream=True, stream_options={"include_usage": True}, **flags) is None


def test_an_ordinary_router_has_a_lane():
    assert chat(router()) is None
    for strategy in ("least-busy", "latency-based-routing", "cost-based-routing", "usage-based-routing-v2"):
        assert chat(router(routing_strategy=strategy)) is None, strategy
    for strategy in ("round_robin", "power_of_two", "peak_ewma"):
        assert chat(router(routing_strategy=strategy)) is None, strategy


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"enable_tag_filtering": True}, "tags"),
        ({"enable_pre_call_checks": True}, "pre-call checks"),
        ({"optional_pre_call_checks": ["prompt_caching"]}, "optional pre-call checks"),
        ({"default_priority": 1}, "priorities"),
        ({"routing_strategy": "usage-based-routing"}, "the strategy 'usage-based-routing' is LiteLLM's alone"),
    ],
)
def test_a_feature_of_the_router_closes_it(options, reason):
    assert chat(router(**options)) == reason


def told(made: Router) -> str | None:
    """The line `lane` of `fast-router explain m`, asked of the process as the command does."""
    ours = fast_router.advanced_router(made)
    assert ours.lane is not None
    return ours.lane("m")


@pytest.mark.parametrize(
    ("info", "options", "reason"),
    [
        ({}, {"enable_tag_filtering": True}, "tags"),
        ({}, {"routing_strategy": "usage-based-routing"}, "the strategy 'usage-based-routing' is LiteLLM's alone"),
        ({"mode": "batch"}, {}, "batch deployments"),
    ],
)
def test_explain_says_why_requests_leave_it(info, options, reason):
    made = router(info, {}, **options)
    if "strategy" not in reason:  # that is found out by the first request
        assert told(made) == f"LiteLLM's filters run first: {reason}"
    assert chat(made) == reason
    assert told(made) == f"LiteLLM's filters run first: {reason}"


def test_explain_says_that_requests_take_it_for_as_long_as_it_is_there():
    made = router()
    assert told(made).startswith("the request lane, unless")
    assert chat(made) is None
    assert told(made).startswith("the request lane, unless")
    made.enable_tag_filtering = True
    assert told(made) == "LiteLLM's filters run first: tags"
    standing.keep("a test", "a reason")
    try:
        assert told(router()) == "LiteLLM's filters run first: a reason"
    finally:
        standing.keep("a test", None)
    fast_router.disable()
    try:
        fast_router.configure(disabled_features=("lane",))
        assert fast_router.enable()
        assert told(router()) is None
    finally:
        fast_router.disable()
        fast_router.configure(disabled_features=None)
        fast_router.enable()


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"access_windows": [{"start": "00:00", "end": "23:59", "timezone": "UTC"}]}, "access windows"),
        ({"enable_tag_filtering": False}, "tags"),
        ({"mode": "batch"}, "batch deployments"),
        ({"owner": "somebody"}, None),
        ({"rpm": 5}, None),
    ],
)
def test_a_feature_of_a_deployment_closes_it(info, reason):
    try:
        found = chat(router(info, {}))
    except Exception as error:
        pytest.skip(f"LiteLLM does not take it: {type(error).__name__}")
    assert found == reason


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"num_retries": 1}, "the request's num_retries"),
        ({"fallbacks": []}, "the request's fallbacks"),
        ({"api_key": "mine"}, "the request's api_key"),
        ({"specific_deployment": False}, "the request's specific_deployment"),
        ({"priority": None}, "the request's priority"),
        ({"metadata": {"routing_decision": None}}, "metadata of LiteLLM's routing"),
        ({"tools": [{"type": "web_search"}]}, "web search"),
        ({"model": "nobody"}, "a name that stands for nothing"),
        ({"model": "d0"}, "a name that stands for an id"),
    ],
)
def test_what_a_request_carries_leaves_it_to_litellm(request_, reason):
    made = router()
    assert chat(made, **request_) == reason
    assert chat(made) is None


def test_limits_per_minute_of_usage_based_routing_are_its_own_to_keep():
    assert chat(router({"rpm": 5}, {}, routing_strategy="usage-based-routing-v2")) == (
        "limits that usage-based-routing keeps"
    )


def test_a_deployment_takes_no_more_than_its_slots_at_a_time():
    made = router({}, params={"max_parallel_requests": 2})
    release, calls = asyncio.Event(), []

    async def held(**_: Any) -> Any:
        calls.append(1)
        await release.wait()
        return litellm.ModelResponse(choices=[{"message": {"content": "hi"}, "finish_reason": "stop"}])

    async def run() -> None:
        litellm.acompletion = held
        tasks = [asyncio.create_task(made.acompletion(model="m", messages=MESSAGES)) for _ in range(2)]
        while len(calls) < 2:
            await asyncio.sleep(0)
        with pytest.raises(litellm.RateLimitError):
            await made.acompletion(model="m", messages=MESSAGES)
        release.set()
        await asyncio.gather(*tasks)
        await made.acompletion(model="m", messages=MESSAGES)

    asyncio.run(run())
    assert len(calls) == 3
    assert fast_router.advanced_router(made).deployments["d0"].in_flight == 0


def test_an_alias_and_a_group_of_one_have_a_lane():
    made = router({}, model_group_alias={"other": "m", "hidden": {"model": "m", "hidden": True}})
    assert chat(made) is None
    assert chat(made, model="other") is None
    assert chat(made, model="hidden") is None


def test_a_pick_alone_is_answered_in_the_lane_with_what_litellm_would_give(monkeypatch):
    monkeypatch.undo()
    made = router({}, {"owner": {"name": "x"}}, params={"extra_headers": {"a": "b"}})
    core = vars(made)["_core"]

    async def picked() -> dict[str, Any]:
        return {found["model_info"]["id"]: found for found in [await made.select("m") for _ in range(40)]}

    fast = tally.fast
    ours = asyncio.run(picked())
    assert tally.fast == fast + 40
    synchronous = {
        found["model_info"]["id"]: found for found in [core.get_available_deployment("m") for _ in range(40)]
    }
    assert tally.fast == fast + 80
    fast_router.disable()
    try:
        theirs = asyncio.run(picked())
    finally:
        fast_router.enable()
    assert ours == theirs == synchronous
    ours["d1"]["litellm_params"]["extra_headers"]["a"] = "changed"
    ours["d1"]["model_info"]["owner"]["name"] = "changed"
    assert asyncio.run(picked()) == theirs
    assert all(not d.in_flight for d in fast_router.advanced_router(made).deployments.values())
    with pytest.raises(litellm.BadRequestError):
        asyncio.run(made.select("nobody"))


def test_an_image_is_litellms_to_place():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert chat(router(), messages=[{"role": "user", "content": [image]}]) == "an image"
    assert chat(router(), messages=[{"role": "user", "content": [{"type": "text", "text": "t"}]}]) is None


def test_a_callback_that_filters_or_checks_closes_it():
    class Filters(CustomLogger):
        async def async_filter_deployments(self, model, healthy_deployments, *args, **kwargs):
            return healthy_deployments[:1]

    class Checks(CustomLogger):
        async def async_pre_call_check(self, deployment, parent_otel_span):
            return deployment

    made = router()
    assert chat(made) is None
    for callback, reason in ((Filters(), "a callback that filters"), (Checks(), "a callback that checks deployments")):
        litellm.callbacks.append(callback)
        assert chat(made) == reason
        litellm.callbacks.remove(callback)
        assert chat(made) is None


def test_every_change_is_noticed():
    made = router()
    core = vars(made)["_core"]
    assert chat(made) is None
    made.add_deployment(
        litellm.types.router.Deployment(
            model_name="m",
            litellm_params=litellm.types.router.LiteLLM_Params(model="openai/9", api_key="k"),
            model_info={"id": "d9"},
        )
    )
    served = set()
    for _ in range(60):
        assert chat(made) is None
        served |= {id_ for id_, d in fast_router.advanced_router(made).deployments.items() if d.picks}
    assert served == {"d0", "d1", "d9"}
    made.delete_deployment("d9")
    before = fast_router.advanced_router(made).deployments.get("d9")
    assert before is None
    assert chat(made) is None
    core._hosted._core_model_list[0]["litellm_params"]["api_base"] = "http://elsewhere/v1"
    seen = []

    async def look(**kwargs: Any) -> Any:
        seen.append(kwargs["api_base"])
        return litellm.ModelResponse(choices=[{"message": {"content": "hi"}, "finish_reason": "stop"}])

    litellm.acompletion = look
    for _ in range(20):
        assert chat(made) is None
    assert set(seen) == {"http://elsewhere/v1", "http://1/v1"}
    made.update_settings(num_retries=4)
    assert chat(made) is None
    lane = vars(core)["_fast_router"].lane
    assert lane.groups["acompletion", "m"].step["max_retries"] == 4


def test_a_template_that_differs_from_litellms_shaping_closes_the_lane():
    made = router()
    assert chat(made) is None
    found = vars(vars(made)["_core"])["_fast_router"].lane.groups["acompletion", "m"]
    for template in found.templates.values():
        template.base["timeout"] = 1
        template.seen.clear()
    assert chat(made) in ("another timeout than LiteLLM's", None)
    while found.why is None:
        assert chat(made) in ("another timeout than LiteLLM's", None)
        for template in found.templates.values():
            template.base["timeout"] = 1
            template.seen.clear()
    assert chat(made) == "another timeout than LiteLLM's"


def test_no_request_reaches_a_deployment_that_cools_down():
    made = router({}, {})
    core = vars(made)["_core"]
    assert chat(made) is None
    value = {
        "exception_received": "x",
        "status_code": "500",
        "timestamp": __import__("time").time(),
        "cooldown_time": 60,
    }
    core._cooldowns.cooldown_store.put("d0", value, 60)
    deployments = fast_router.advanced_router(made).deployments
    before = deployments["d0"].picks
    for _ in range(20):
        assert chat(made) is None
    assert deployments["d0"].picks == before


def test_key_sets_are_remembered_within_bounds():
    from fast_router.litellm_plugin.rust_core.lane import template

    made = router({})
    keys = ["temperature", "top_p", "n", "seed", "user", "stop", "max_tokens", "logprobs"]
    for bits in range(2 ** len(keys)):
        request = {key: None for at, key in enumerate(keys) if bits >> at & 1}
        assert chat(made, **request) is None
    found = vars(vars(made)["_core"])["_fast_router"].lane.groups["acompletion", "m"]
    assert all(len(one.seen) <= template._MOST_KEY_SETS for one in found.templates.values())
