"""Which key says what, in every dialect at once: our word → the spellings that files use.

The Albert API (later OpenGateLLM) renamed its keys several times. A file may be of one dialect or a mixture; each
value is found by whichever spelling the file has. The names D0 to D6 only label a model in reports and choose what
its time's API answered:

D0 flat ``models: [{url, type, key}]`` · D1 ``clients[].args.base_url`` · D2 ``clients[].args.api_url`` ·
D3 ``providers`` with ``routing_strategy`` or ``model_cost_*`` · D3b ``providers[].args`` · D4 ``qos_policy`` ·
D5 ``qos_metric``, costs on the model · D6 ``basic_auth``, null limits, ``qos_retries_before_reject``
"""

from __future__ import annotations

from types import MappingProxyType

__all__ = [
    "FLAT",
    "FORMER_TYPES",
    "MODEL",
    "MODEL_IGNORED",
    "PROVIDER",
    "PROVIDER_IGNORED",
    "SECTIONS",
    "SETTINGS",
    "Spelling",
]

Spelling = tuple[str, ...]
"""A key, or a key inside a mapping: ``("args", "api_url")``."""


def _table(**rows: str) -> MappingProxyType[str, tuple[Spelling, ...]]:
    return MappingProxyType({name: tuple(tuple(key.split(".")) for key in keys.split()) for name, keys in rows.items()})


MODEL = _table(
    id="id name",
    type="type",
    aliases="aliases",
    owned_by="owned_by",
    strategy="load_balancing_strategy routing_strategy",
    cost_prompt_tokens="cost_prompt_tokens costs.prompt_tokens",
    cost_completion_tokens="cost_completion_tokens costs.completion_tokens",
    max_context_length="max_context_length",
    vector_size="vector_size",
    created="created",
    qos_retries="qos_retries_before_reject",
)

PROVIDER = _table(
    type="type",
    url="url args.api_url args.base_url args.url api_url base_url api_base",
    key="key args.api_key args.key api_key",
    timeout="timeout args.timeout",
    model_name="model_name model",
    cost_prompt_tokens="model_cost_prompt_tokens costs.prompt_tokens cost_prompt_tokens",
    cost_completion_tokens="model_cost_completion_tokens costs.completion_tokens cost_completion_tokens",
    hosting_zone=(
        "model_hosting_zone model_carbon_footprint_zone carbon.model_zone params.zone carbon.params.zone carbon.zone"
    ),
    total_params=(
        "model_total_params model_carbon_footprint_total_params carbon.total_params"
        " params.total carbon.params.total carbon.total"
    ),
    active_params=(
        "model_active_params model_carbon_footprint_active_params carbon.active_params"
        " params.active carbon.params.active carbon.active"
    ),
    qos_metric="qos_metric",
    qos_limit="qos_limit qos_value",
    qos_policy="qos_policy",
    performance_threshold="performance_threshold",
    max_parallel_requests="max_parallel_requests",
    basic_auth="basic_auth",
    max_context_length="max_context_length",
    vector_size="vector_size",
)

FLAT = ("url", "base_url", "api_url", "key", "api_key", "timeout", "model", "model_name")
"""The provider's keys that D0 writes on the model itself."""

MODEL_IGNORED = frozenset({"default_internet", "default", "providers", "clients"})
"""Keys of a model that mean something there and nothing for routing; no warning."""

PROVIDER_IGNORED = frozenset({"args", "costs", "carbon", "params"})
"""Mappings that hold known keys; what is unknown inside them is reported by its own path."""

SECTIONS = frozenset(
    {
        "models", "dependencies", "settings", "databases", "internet", "auth", "general", "playground", "monitoring",
        "mcp", "clients", "web_search", "multi_agents_search", "usages", "rate_limit", "log_level", "cache",
        "caches", "parsers", "x-common",
    }
)  # fmt: skip
"""Top-level sections of any dialect."""

SETTINGS = MappingProxyType(
    {
        "retries": ("routing_max_retries", "celery_task_max_retries"),
        "countdown": ("routing_retry_countdown", "celery_task_retry_countdown"),
    }
)
"""What the adapter reads in ``settings``; the rest is kept as it is."""

FORMER_TYPES = MappingProxyType(
    {
        "text-image-to-text": "image-text-to-text",
        "feature-extraction": "text-embeddings-inference",
        "sentence-similarity": "text-embeddings-inference",
        "rerank": "text-classification",
    }
)
"""Model types that shipped examples wrongly gave, and the ones that were meant."""
