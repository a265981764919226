"""Every name that `disabled_features` knows, whichever LiteLLM is here.

Plain names: settings are read before LiteLLM is there, and must not load what changes it. A test holds them against
what installs.
"""

from __future__ import annotations

__all__ = ["FEATURES", "OVERHEAD"]

FEATURES = (
    "attempts",
    "selection",
    "cooldowns",
    "strategies",
    "failover",
    "lane",
    "admission",
    "bookkeeping",
    "model_list",
    "operator_holds",
    "process_status",
    "shared_state",
    "celery_routing",
    "counters_behind",
    "hedging",
    "stream_failover",
    "waiting",
)
"""The features that `enable` installs, and their parts."""

OVERHEAD = (
    "absent_modules",
    "access_groups",
    "answer_headers",
    "awaitable_answers",
    "clients",
    "cooldown_read",
    "custom_prices",
    "deployment_marks",
    "deployment_objects",
    "fallback_hops",
    "group_lists",
    "hidden_params",
    "json_values",
    "memory_reads",
    "metadata_names",
    "minute_counts",
    "mock_testing",
    "model_lists",
    "pre_call_checks",
    "price_map",
    "print_deployment",
    "proxy_questions",
    "response_headers",
    "service_hooks",
    "startup_heap",
    "strategy_state",
    "success_callback",
    "token_counting",
    "token_reservations",
    "trace_spans",
    "usage_verdict",
    "wildcards",
)
"""What takes the Router's own cost down; see `litellm_plugin.overhead`."""
