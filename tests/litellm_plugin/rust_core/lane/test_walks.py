"""The lane against LiteLLM 1.110's own walk: outcomes, calls, metadata, counters, cooldowns, events, all the same."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import litellm
import pytest
from litellm import Router

import fast_router

pytestmark = pytest.mark.skipif(
    not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
)

from tests.litellm_plugin.rust_core.lane.walks import ERRORS, SETTINGS, answer, differences, lane_counts, run  # noqa: E402

PROMPTS: dict[str, dict[str, Any]] = {
    "acompletion": {},
    "completion": {},
    "atext_completion": {"prompt": "hello"},
    "aembedding": {"input": "hello"},
    "embedding": {"input": ["hello", "again"]},
    "aresponses": {"input": "hello", "metadata": {"k": "v"}},
    "aanthropic_messages": {"max_tokens": 5, "metadata": {"user_id": "u"}},
    "anthropic_messages": {"max_tokens": 5},
}


@pytest.fixture(autouse=True)
def no_errors_of_ours():
    assert fast_router.enable()
    before = fast_router.status()["errors"]["count"]
    yield
    assert fast_router.status()["errors"]["count"] == before, fast_router.status()["errors"]


def same(settings: Any, does: Any, *, chance: bool = False, **how: Any) -> None:
    """LiteLLM alone, LiteLLM with us, and LiteLLM alone again, which shows what is chance.

    Args:
        settings: Of the Router.
        does: What the deployments do.
        chance: Whether LiteLLM may differ from itself (what a stream records in the background).
        how: The request.
    """
    theirs = run(settings, does, lane=False, **how)
    before = lane_counts()["requests"]
    ours = run(settings, does, lane=True, **how)
    assert lane_counts()["requests"] > before, fast_router.status()["lane"]
    found = differences(theirs, ours)
    if found:
        control = differences(theirs, run(settings, does, lane=False, **how))
        if control and chance:
            return
        assert not control, f"LiteLLM differs from itself: {control}"
    assert not found, "\n".join(found)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("op", ["acompletion", "completion"])
def test_a_chat_ends_as_in_litellms_walk(op, settings):
    for error in (None, *ERRORS):
        for failing in ("a", "ab") if error else ("",):
            same(SETTINGS[settings], dict.fromkeys(failing, error), op=op)


@pytest.mark.parametrize(
    "op", ["atext_completion", "aembedding", "embedding", "aresponses", "aanthropic_messages", "anthropic_messages"]
)
def test_other_endpoints_end_as_in_litellms_walk(op):
    for settings in ("no retries", "retries", "fallbacks", "allowed fails"):
        for error in (None, "too many, retry after", "server", "context window", "any"):
            for failing in ("a", "ab") if error else ("",):
                same(SETTINGS[settings], dict.fromkeys(failing, error), op=op, **PROMPTS[op])


@pytest.mark.parametrize("settings", ["no retries", "special fallbacks", "default fallbacks"])
@pytest.mark.parametrize("op", ["acompletion", "completion"])
def test_an_answer_that_a_filter_stopped_may_be_replaced(op, settings):
    for failing in ("a", "ab"):
        same(SETTINGS[settings], dict.fromkeys(failing, lambda _: answer("", "content_filter")), op=op)


REQUESTS: dict[str, dict[str, Any]] = {
    "parameters": {"temperature": 0.3, "max_tokens": 5, "stop": ["x"], "user": "u"},
    "a timeout": {"timeout": 12.5},
    "no timeout": {"timeout": None},
    "another timeout": {"request_timeout": 7},
    "retries of the provider": {"extra_headers": {"x": "1"}, "extra_body": {"y": [1]}},
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "auto"},
    "no tools": {"tools": []},
    "a trace": {"litellm_trace_id": "t"},
    "an effort": {"reasoning_effort": "low"},
}


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("op", ["acompletion", "completion"])
def test_requests_of_many_kinds(op, request_):
    for failing in ("", "a"):
        same(SETTINGS["retries"], dict.fromkeys(failing, "server"), op=op, **REQUESTS[request_])


DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "timeouts": {"timeout": 9, "stream_timeout": 4},
    "parameters": {"temperature": 0.9, "extra_headers": {"h": "1"}, "max_retries": 4, "num_retries": 1},
    "prices": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
    "a cooldown": {"cooldown_time": 11},
}


@pytest.mark.parametrize("params", DEPLOYMENTS)
@pytest.mark.parametrize("op", ["acompletion", "completion", "aresponses"])
def test_deployments_of_many_kinds(op, params):
    from tests.litellm_plugin.rust_core.lane.walks import entries

    for request in ({}, {"timeout": 3}, {"temperature": 0.1}):
        for failing in ("", "a", "ab"):
            does = dict.fromkeys(failing, "server")
            asked = {**PROMPTS[op], **request}
            same(SETTINGS["retries"], does, op=op, model_list=entries(**DEPLOYMENTS[params]), **asked)


ROUTERS: dict[str, dict[str, Any]] = {
    "a timeout": {"timeout": 33, "stream_timeout": 22},
    "defaults": {"default_litellm_params": {"metadata": {"k": [1]}, "temperature": 0.5}},
    "caching": {"cache_responses": False, "retry_after": 2},
    "verbose": {"set_verbose": False, "max_fallbacks": 1},
}


@pytest.mark.parametrize("settings", ROUTERS)
def test_routers_of_many_kinds(settings):
    for request in ({}, {"temperature": 0.1}, {"timeout": 2}):
        for failing in ("", "a"):
            same({"num_retries": 1, **ROUTERS[settings]}, dict.fromkeys(failing, "unavailable"), **request)


@pytest.mark.parametrize("settings", ["no retries", "retries", "fallbacks"])
@pytest.mark.parametrize("op", ["acompletion", "completion"])
def test_streams(op, settings):
    for after in (None, 0, 1):
        for error in ("server", "too many", "context window") if after is not None else ("server",):
            for failing in ("a", "ab") if after is not None else ("",):
                does = dict.fromkeys(failing, (after, error))
                same(SETTINGS[settings], does, op=op, stream=True, chance=True)


def test_an_alias_ends_as_in_litellms_walk():
    for op in ("acompletion", "completion", "aembedding"):
        for failing in ("", "a", "ab"):
            does = dict.fromkeys(failing, "server")
            settings = {**SETTINGS["retries"], "model_group_alias": {"m": "g"}}
            from tests.litellm_plugin.rust_core.lane.walks import entries

            listed = [{**entry, "model_name": "g"} if entry["model_name"] == "m" else entry for entry in entries()]
            same(settings, does, op=op, model_list=listed, **PROMPTS[op])


def test_limits_are_recorded_in_litellms_books():
    from tests.litellm_plugin.rust_core.lane.walks import entries

    for limits in ({"rpm": 100}, {"tpm": 10_000}, {"rpm": 100, "tpm": 10_000}, {"max_parallel_requests": 3}):
        for op in ("acompletion", "completion", "aembedding"):
            for failing in ("", "a"):
                does = dict.fromkeys(failing, "server")
                same(SETTINGS["retries"], does, op=op, model_list=entries(**limits), **PROMPTS[op])
        same(SETTINGS["retries"], {}, stream=True, model_list=entries(**limits))


def test_the_minute_is_named_as_litellm_names_it():
    from litellm.utils import get_utc_datetime

    from fast_router.litellm_plugin.rust_core.lane.parts import Parts

    names = set()
    while len(names) != 1:
        # The minute may end in between.
        names = {get_utc_datetime().strftime("%H-%M"), Parts.minute()}


def test_metadata_that_the_caller_did_not_give():
    for op in ("acompletion", "completion"):
        same(SETTINGS["retries"], {}, op=op, metadata=False)
        same(SETTINGS["retries"], {"a": "server"}, op=op, metadata=False)


async def test_a_cancelled_call_gives_everything_back():
    made = Router(model_list=[
        {"model_name": "m", "litellm_params": {"model": "openai/x", "api_key": "k"}, "model_info": {"id": "only"}}
    ])  # fmt: skip
    begun = asyncio.Event()
    real = litellm.acompletion

    async def hang(**_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    litellm.acompletion = hang
    try:
        call = asyncio.create_task(made.acompletion(model="m", messages=[{"role": "user", "content": "?"}]))
        await begun.wait()
        found = fast_router.advanced_router(made).deployments["only"]
        assert found.in_flight == 1
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert found.in_flight == 0
    finally:
        litellm.acompletion = real
        made.discard()
