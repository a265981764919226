"""What an ordinary request, deployment and Router look like: all that the lane serves by itself.

Requests are known by the keys that they carry, and a key that is not listed here sends its request through LiteLLM's
own walk. Of a deployment's `model_info`, the keys that LiteLLM itself declares must be ones that mean nothing to its
routing; what it does not declare is the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["GATED", "QUALITY", "TAKEN_OUT", "TIMEOUTS", "keys_of", "why_entry", "why_router"]

# What the proxy sends along with every request, and with every stream whose usage its client did not ask for.
_PROXY = frozenset(
    {
        "_litellm_stream_usage_injected",
        "_litellm_strip_stream_usage",
        "litellm_call_id",
        "litellm_logging_obj",
        "litellm_session_id",
        "litellm_trace_id",
        "no-log",
        "proxy_server_request",
        "secret_fields",
        "shared_session",
    }
)
TIMEOUTS = frozenset({"request_timeout", "service_tier", "stream_timeout", "timeout"})
"""Keys from which LiteLLM works out a call's timeouts."""
_EVERYWHERE = _PROXY | TIMEOUTS | {"extra_body", "extra_headers", "headers", "mock_response", "model"}
_CHAT = frozenset(
    {
        "audio",
        "drop_params",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
_TEXT = frozenset(
    {
        "best_of",
        "echo",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "metadata",
        "n",
        "presence_penalty",
        "prompt",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "top_p",
        "user",
    }
)
_EMBEDDING = frozenset({"dimensions", "encoding_format", "input", "metadata", "user"})
_RESPONSES = frozenset(
    {
        "include",
        "input",
        "instructions",
        "litellm_metadata",
        "max_output_tokens",
        "metadata",
        "parallel_tool_calls",
        "reasoning",
        "store",
        "stream",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_p",
        "truncation",
        "user",
    }
)
_MESSAGES = frozenset(
    {
        "litellm_metadata",
        "max_tokens",
        "messages",
        "metadata",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
_KEYS = {
    "acompletion": _CHAT,
    "completion": _CHAT,
    "atext_completion": _TEXT,
    "aembedding": _EMBEDDING,
    "embedding": _EMBEDDING,
    "aresponses": _RESPONSES,
    "aanthropic_messages": _MESSAGES,
    "anthropic_messages": _MESSAGES,
}

GATED = frozenset(
    {
        # What an earlier pass through LiteLLM's routing has left behind, which it clears or goes by.
        "_auto_routed_request",
        "_autorouter_baseline_route",
        "_client_output_ceiling",
        "_consumed_request_tags",
        "_session_deployment_affinity_ttl",
        "pre_routing_selected_model",
        "quality_router_decision",
        "routing_decision",
        # Whatever LiteLLM's limits by token reserve, and who called whom.
        "internal_call_origin",
    }
)
"""Metadata of a request that LiteLLM's walk goes by or takes out."""
TAKEN_OUT = frozenset({"attempted_fallbacks", "original_model_group", "previous_models", "request_retry_count"})
"""What LiteLLM takes out of metadata that goes to the provider."""

# Parameters that have LiteLLM do something per request that no template holds.
_PARAMS = {
    "tags": "tags",
    "tag_regex": "tags",
    "silent_model": "a silent model",
    "litellm_credential_name": "named credentials",
    "github_copilot_auth_type": "credentials per user",
    "kubernetes_pod_discovery": "Kubernetes pod discovery",
    "configurable_clientside_auth_params": "credentials in requests",
    "itpm": "limits by input and output tokens",
    "otpm": "limits by input and output tokens",
    "max_budget": "budgets",
    "budget_duration": "budgets",
    "tools": "tools of a deployment",
    "tool_choice": "tools of a deployment",
    "mock_timeout": "a mocked timeout",
    "timeout_by_service_tier": "timeouts by service tier",
    "stream_timeout_by_service_tier": "timeouts by service tier",
    "daily_reset_time": "limits by day",
    "rpd": "limits by day",
    "tpd": "limits by day",
}
_INFO = {
    "team_id": "teams",
    "team_public_model_name": "teams",
    "access_windows": "access windows",
    "enable_tag_filtering": "tags",
    "ptu_shares": "PTU shares",
    "ptu_count": "PTU shares",
    "enforce_supported_endpoints": "enforced endpoints",
    "max_embedding_batch_size": "an embedding batch size",
    "internal_router_model": "internal models",
    "itpm": "limits by input and output tokens",
    "otpm": "limits by input and output tokens",
}
# Declared by LiteLLM, and without meaning for its routing.
_HARMLESS = frozenset(
    {
        "allow_fail_open",
        "base_model",
        "blocked",
        "cost_per_ptu_per_hour",
        "created_at",
        "created_by",
        "db_model",
        "discoverable",
        "id",
        "member_auto_router",
        "pricing_provider",
        "ptu_effective_from",
        "ptu_effective_to",
        "tier",
        "tiered_pricing",
        "updated_at",
        "updated_by",
    }
)


QUALITY = "quality-of-service limits"
"""Why requests of a Router with a `qos_limit` are left to the walk."""


def keys_of(op: str) -> frozenset[str]:
    """The keys that an ordinary request of an endpoint may carry."""
    return _KEYS[op] | _EVERYWHERE


def why_entry(entry: Mapping[str, Any], declared: frozenset[str]) -> str | None:
    """What keeps a deployment's requests out of the lane, None if nothing does.

    Args:
        entry: Its entry in LiteLLM's model list.
        declared: The keys of `model_info` that this LiteLLM declares.
    """
    params, info = entry.get("litellm_params") or {}, entry.get("model_info") or {}
    for key, word in _PARAMS.items():
        if params.get(key) not in (None, False):
            return word
    for key, word in _INFO.items():
        if info.get(key) is not None:
            return word
    if info.get("mode") == "batch":
        return "batch deployments"
    for key in declared.intersection(info):
        if key not in _HARMLESS and "cost" not in key and info[key] is not None:
            return f"model_info.{key}"
    return None


_CALLABLE = ("acompletion", "_drive", "_run", "_start", "select")


def why_router(core: Any) -> str | None:
    """What keeps all requests of a Router out of the lane, None if nothing does: what no registry version tells."""
    state = vars(core)
    resolved = core._resolved
    checks = core._checks
    if core._custom_strategy is not None or "_core_async_get_available_deployment" in state:
        return "a custom strategy"
    if any(name in state for name in _CALLABLE):
        return "a method replaced on the Router"
    if core._deleted or core._index_written:
        return "a setting written past the Router"
    if resolved.enable_tag_filtering:
        return "tags"
    if resolved.enable_pre_call_checks:
        return "pre-call checks"
    if resolved.routing_plugins or core._hosted._core_routing_plugins:
        return "routing plugins"
    if resolved.routing_groups:
        return "routing groups"
    if resolved.default_deployment is not None:
        return "a default deployment"
    if resolved.health_routing.enable_health_check_routing:
        return "health-check routing"
    if checks._request_scoped_selectors or checks._request_scoped_policies or not checks._outcome_callbacks_listed:
        return "request-scoped callbacks"
    if checks.optional_callbacks:
        return "optional pre-call checks"
    if core._endpoints._default_priority is not None:
        return "priorities"
    strategies = core._hosted.strategies
    if strategies is not None and strategies.any_registered():
        return "auto routers"
    return None
