"""LiteLLM's strategies and ours: the one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ASYNC", "HANDLERS", "LITELLM", "SELECTORS", "STRATEGIES", "options_of"]


STRATEGIES = {
    "simple-shuffle": "simple_shuffle",
    "least-busy": "least_busy",
    "latency-based-routing": "latency_based",
    "cost-based-routing": "cost_based",
    "usage-based-routing": "usage_based",
    "usage-based-routing-v2": "usage_based",
}
"""LiteLLM's strategies by their names there, and here."""


LITELLM = {ours: theirs for theirs, ours in STRATEGIES.items() if theirs != "usage-based-routing"}
"""Ours that LiteLLM has too, by the name that LiteLLM knows: its newest, where it has two."""


# For these LiteLLM selects asynchronously; for any other it runs its synchronous selection.
ASYNC = frozenset(STRATEGIES) - {"usage-based-routing"}


SELECTORS = {
    "least-busy": ("leastbusy_logger", "LeastBusyLoggingHandler"),
    "latency-based-routing": ("lowestlatency_logger", "LowestLatencyLoggingHandler"),
    "cost-based-routing": ("lowestcost_logger", "LowestCostLoggingHandler"),
    "usage-based-routing": ("lowesttpm_logger", "LowestTPMLoggingHandler"),
    "usage-based-routing-v2": ("lowesttpm_logger_v2", "LowestTPMLoggingHandler_v2"),
}


HANDLERS = {
    "LeastBusyLoggingHandler": "litellm.router_strategy.least_busy",
    "LowestLatencyLoggingHandler": "litellm.router_strategy.lowest_latency",
    "LowestCostLoggingHandler": "litellm.router_strategy.lowest_cost",
    "LowestTPMLoggingHandler": "litellm.router_strategy.lowest_tpm_rpm",
    "LowestTPMLoggingHandler_v2": "litellm.router_strategy.lowest_tpm_rpm_v2",
}
"""The modules of the classes of LiteLLM's strategy objects."""


def options_of(selector: Any) -> Mapping[str, Any] | None:
    """The options of a strategy object of LiteLLM's in our terms, None if it has some that we lack."""
    given = getattr(selector, "routing_args", None)
    if given is None or "Latency" not in type(selector).__name__:
        return {}
    if getattr(given, "ttft_percentile", None) is not None or getattr(given, "max_latency_list_size", 10) != 10:
        return None
    buffer = getattr(given, "lowest_latency_buffer", 0) or 0
    return {"lowest_latency_buffer": buffer} if buffer else {}
