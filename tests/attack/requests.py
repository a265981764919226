"""Requests at random, with values that fit and values that do not, and the Routers that they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

_WORDS = st.sampled_from(["", "x", "nope", "5"])
_WRONG = st.sampled_from([None, True, -1, 0, 5, 0.5, "", "x", [], ["x"], {}, {"x": 1}, float("nan"), float("inf")])
_OWN = st.just("sk-my-own")

# What a request may carry, and what it may say there; a wrong value of any kind may come instead.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "api_key": _OWN,
    "api_base": st.sampled_from(["http://127.0.0.1:9/v1", "not a url", "OWN"]),
    "base_url": st.sampled_from(["http://127.0.0.1:9/v1", "OWN"]),
    "api_version": _WORDS,
    "organization": st.just("org-of-mine"),
    "timeout": st.sampled_from([0.001, 0.05, 5, "5"]),
    "request_timeout": st.sampled_from([0.001, 0.05, 5]),
    "stream_timeout": st.sampled_from([0.001, 0.05, 5]),
    "num_retries": st.sampled_from([0, 1, 5, 14, "3"]),
    "max_retries": st.sampled_from([0, 1]),
    "headers": st.sampled_from([{"Authorization": "Bearer sk-my-own"}, {"x": 1}, {"Content-Length": "1"}]),
    "extra_headers": st.sampled_from([{"Authorization": "Bearer sk-my-own"}, {"x": 1}, {"Host": "elsewhere"}]),
    "extra_body": st.sampled_from([{"model": "other"}, {"temperature": "hot"}]),
    "extra_query": st.sampled_from([{"a": "b"}]),
    "temperature": st.sampled_from([0.5, float("nan"), "hot"]),
    "top_p": st.sampled_from([0.5, float("-inf")]),
    "max_tokens": st.sampled_from([1, -5, "many"]),
    "n": st.sampled_from([1, 2, "two"]),
    "stop": st.sampled_from(["x", [5]]),
    "seed": st.sampled_from([1, "one"]),
    "tools": st.sampled_from([[], [{"type": "function"}], [5]]),
    "tool_choice": st.sampled_from(["auto", {"type": "x"}]),
    "response_format": st.sampled_from([{"type": "json_object"}, {"type": "x"}]),
    "logit_bias": st.sampled_from([{"1": 1}, {"x": "y"}]),
    "stream_options": st.sampled_from([{"include_usage": True}]),
    "user": st.sampled_from(["an-end-user", "another"]),
    "metadata": st.sampled_from([{"tags": ["x"]}, {"session_id": "s"}, {"model_info": {"id": "x"}}, {"user_id": "u"}]),
    "litellm_metadata": st.sampled_from([{"a": 1}]),
    "tags": st.sampled_from([["x"], "x"]),
    "fallbacks": st.sampled_from([["elsewhere"], [{"elsewhere": ["nowhere"]}], "x"]),
    "context_window_fallbacks": st.sampled_from([[{"x": ["y"]}]]),
    "specific_deployment": st.booleans(),
    "cooldown_time": st.sampled_from([0, 3600, "long"]),
    "custom_llm_provider": st.sampled_from(["openai", "hosted_vllm", "nope"]),
    "model_info": st.sampled_from([{"id": "x"}]),
    "mock_response": st.sampled_from(["hi", "litellm.RateLimitError", "litellm.InternalServerError"]),
    "mock_timeout": st.booleans(),
    "mock_testing_fallbacks": st.booleans(),
    "mock_testing_rate_limit_error": st.booleans(),
    "drop_params": st.booleans(),
    "cache": st.sampled_from([{"no-cache": True}]),
    "priority": st.sampled_from([1]),
    "litellm_call_id": _WORDS,
    "litellm_trace_id": _WORDS,
    "client_side_timeout": st.booleans(),
    "allowed_model_region": _WORDS,
    "routing_strategy": _WORDS,
    "caching": st.booleans(),
    "ttl": _WORDS,
    "disable_fallbacks": st.booleans(),
    "content_policy_fallbacks": st.sampled_from([[{"any": ["elsewhere"]}]]),
    "retry_policy": st.sampled_from([{"InternalServerErrorRetries": 6}, {"BadRequestErrorRetries": 6}]),
    "max_parallel_requests": st.sampled_from([1]),
    "rpm": st.sampled_from([1]),
    "order": st.sampled_from([1, 2]),
    "max_completion_tokens": st.sampled_from([1, "many"]),
    "dimensions": st.sampled_from([8, "x"]),
    "encoding_format": st.sampled_from(["float", "base64", 5]),
    "reasoning_effort": st.sampled_from(["low", "x"]),
    "thinking": st.sampled_from([{"type": "enabled", "budget_tokens": 1}]),
    "system": st.sampled_from(["x", 5]),
    "instructions": st.sampled_from(["x", 5]),
    "previous_response_id": st.sampled_from(["resp_x"]),
    "background": st.booleans(),
    "store": st.booleans(),
    "litellm_session_id": st.sampled_from(["s", "t"]),
    "mock_testing_context_fallbacks": st.booleans(),
    "mock_delay": st.sampled_from([0.01]),
    "mock_tool_calls": st.sampled_from([[]]),
    "service_tier": _WORDS,
    "region_name": _WORDS,
    "azure_ad_token": _OWN,
    "ssl_verify": st.booleans(),
}
# What LiteLLM or we use within: a caller's JSON reaches the Router under these names as well.
INTERNAL = (
    "acompletion", "client", "fallback_depth", "input_cost_per_token", "is_async", "kwargs", "litellm_logging_obj",
    "litellm_params", "logger_fn", "model_group", "original_function", "proxy_server_request", "request_kwargs",
    "request_timeout_overrides", "shared_session", "standard_logging_object", "stream_chunk_size", "_target_order",
    "_excluded_deployment_ids", "_retry_skipped_deployment_ids", "_fast_router_on_a_loop",
)  # fmt: skip
HEADERS = {
    "x-litellm-timeout": st.sampled_from(["0.001", "0.05", "5"]),
    "x-litellm-stream-timeout": st.sampled_from(["0.001", "5"]),
    "x-litellm-num-retries": st.sampled_from(["0", "5", "14"]),
    "x-litellm-session-id": _WORDS,
    "x-litellm-tags": _WORDS,
    "openai-organization": _WORDS,
}
MESSAGES = st.sampled_from(
    ["foo", [5], None, [], {}, [{"role": "user"}], [{"content": "hi"}], [{"role": 5, "content": "hi"}],
     [{"role": "user", "content": 5}], [{"role": "user", "content": [5]}], [None]]
)  # fmt: skip
INPUTS = st.sampled_from(["hi", ["a", "b"], 5, None, {}, [None], [[1, 2]]])
PROMPTS = st.sampled_from(
    ["hi", "takes-100-ms", "takes-1-s", "drips", "end-user-429", "answer-429", "own-401", "own-429", "own-500",
     "answer-reset", "answer-cut", "answer-garbage", "break-400", "break-400-at-once", "break-500",
     *(f"answer-{status}" for status in (400, 401, 403, 408, 413, 422, 500, 502, 503, 504))]
)  # fmt: skip


# Where a prompt goes, and how many of all requests go there.
ENDPOINTS = st.sampled_from(["chat"] * 5 + ["text", "respond", "message", "embed", "embed"])
STRATEGIES = ("simple-shuffle", "least-busy", "latency-based-routing", "usage-based-routing-v2", "peak_ewma")
ROUTERS = st.fixed_dictionaries(
    {},
    optional={
        "routing_strategy": st.sampled_from(STRATEGIES),
        "fallbacks": st.just([{"any": ["elsewhere"]}]),
        "enable_pre_call_checks": st.just(True),
        "allowed_fails": st.sampled_from([0, 2]),
        "num_retries": st.sampled_from([0, 2]),
    },
)
"""Options of the Router that is attacked."""


@dataclass(frozen=True)
class Attack:
    """What one caller does.

    Attributes:
        endpoint: A method of the door.
        times: How often it is called.
        at_once: Whether all these calls are made at the same time.
        request: The arguments of each call.
    """

    endpoint: str
    times: int
    at_once: bool
    request: dict[str, Any]


@st.composite
def attacks(draw: st.DrawFn) -> Attack:
    """An attack: up to four fields and two headers around a prompt, or a body of a wrong shape."""
    names = draw(st.lists(st.sampled_from([*sorted(FIELDS), *INTERNAL]), max_size=4, unique=True))
    request = {
        name: draw(_WRONG if name in INTERNAL or draw(st.integers(0, 3)) == 0 else FIELDS[name]) for name in names
    }
    headers = draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=2, unique=True))
    request["http_headers"] = {name: draw(HEADERS[name]) for name in headers}
    endpoint, times, at_once = draw(ENDPOINTS), draw(st.integers(1, 3)), draw(st.booleans())
    if endpoint == "embed":
        request["input"] = draw(INPUTS)
    elif draw(st.integers(0, 3)) == 0:
        wrong = {"text": "prompt", "respond": "input"}.get(endpoint, "messages")
        request[wrong] = draw(MESSAGES if wrong == "messages" else INPUTS)
    else:
        request["prompt"] = draw(PROMPTS)
    if endpoint != "embed" and draw(st.booleans()):
        request["stream"] = True
    return Attack(endpoint, times, at_once, request)
