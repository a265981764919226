"""What the lane uses of LiteLLM 1.110, found once: its classes and functions by the names that they have there."""

from __future__ import annotations

from importlib import import_module
from time import time
from typing import Any

from fast_router.litellm_plugin.rust_core.lane.ordinary import GATED, TIMEOUTS
from fast_router.litellm_plugin.rust_core.lane.usage import Books

__all__ = ["Parts"]


class _Uncounted:
    """A core as LiteLLM's driver sees it, but for its counters: what is shaped for comparison counts nowhere."""

    def __init__(self, core: Any, counters: Any) -> None:
        self.__dict__["_core"] = core
        self.__dict__["_endpoints"] = _Endpoints(core._endpoints, counters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_core"], name)


class _Endpoints:
    def __init__(self, endpoints: Any, counters: Any) -> None:
        self.__dict__.update(_endpoints=endpoints, counters=counters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_endpoints"], name)


class Parts:
    """LiteLLM's own parts.

    Attributes:
        litellm: The package.
        core: The module of the Router's core.
        endpoints: The module of its endpoints.
        gated: Metadata keys that LiteLLM's walk goes by.
        declared: The keys of `model_info` that this LiteLLM declares.
        books: What LiteLLM counts of deployments with limits.
        timeouts: Request keys that LiteLLM's timeouts are worked out from.
    """

    def __init__(self) -> None:
        self.litellm = import_module("litellm")
        self.core = import_module("litellm.router_rust.core")
        self.endpoints = import_module("litellm.router_rust.invoke.endpoints")
        self.shaping = import_module("litellm.router_rust.invoke.shaping")
        self.streaming = import_module("litellm.router_rust.invoke.streaming")
        self.hosts = import_module("litellm.router_python_host")
        compaction = import_module("litellm.router_strategy.complexity_router.context_compaction")
        settlement = import_module("litellm.litellm_core_utils.attempt_settlement")
        headers = import_module("litellm.litellm_core_utils.add_retry_fallback_headers")
        constants = import_module("litellm.constants")
        deadline = import_module("litellm.litellm_core_utils.total_deadline")
        internal = import_module("litellm.litellm_core_utils.internal_call_metadata")
        reservations = import_module("litellm.router_utils.pre_call_checks.io_token_rate_limit_check")
        types = import_module("litellm.types.router")
        self.driver = self.core._Driver
        self.rust_core = self.core.RustCore
        self.host = self.hosts.PythonHost
        self.compaction_state = compaction.CompactionState
        self.native_child = compaction._native_child.get
        self.arm_compaction = self.endpoints.arm_compaction_state
        self.tags = import_module("litellm.router_strategy.tag_based_routing").get_tags_from_request_kwargs
        self.attempt = settlement._ATTEMPT
        self.routed_attempt = settlement.RoutedAttempt
        self.released = settlement.released
        self.grace = settlement.ATTEMPT_SETTLEMENT_GRACE_SECONDS
        self.release_started = import_module("litellm.router_strategy.least_busy").release_started_attempt
        self.deadline = deadline._CURRENT.get
        self.reserved = reservations._io_token_rate_limit_request
        self.headers = headers
        refusals = import_module("litellm.llms.anthropic.messages.native.utils")
        self.refusal = refusals.get_safeguard_refusal_stop_details
        self.enter_slot = import_module("litellm.router_rust.invoke.slots").enter_deployment_slot
        self.most_parallel = import_module("litellm.utils").calculate_max_parallel_requests
        self.memory = import_module("litellm.caching.in_memory_cache").InMemoryCache
        self.books = Books(self.minute, self.memory)
        self.request_from_call = import_module("litellm.router_attempt").request_from_call
        self.verbose = import_module("litellm._logging").verbose_router_logger
        self.model_response = import_module("litellm.types.utils").ModelResponse
        self.stream_wrapper = import_module("litellm.litellm_core_utils.streaming_handler").CustomStreamWrapper
        self.prompt_managed = import_module("litellm.router_rust.invoke.prompt_management").is_prompt_management_model
        self.web_search = import_module("litellm.litellm_core_utils.routing_common_utils").is_web_search_request
        self.carries_image = import_module("litellm.router_rust.steps.precall").request_carries_image
        self.gated = (
            GATED | frozenset(internal.IO_TOKEN_RESERVATION_KEYS) | {constants.BAGGAGE_MAPPED_TAGS_METADATA_KEY}
        )
        self.declared = frozenset(types.ModelInfo.model_fields)
        self.timeouts = TIMEOUTS
        self.set_timeouts = self.shaping._set_timeouts

    @staticmethod
    def minute() -> str:
        """The minute of the day in UTC, as LiteLLM's counters are named by it."""
        minutes = int(time() // 60)
        return f"{minutes // 60 % 24:02}-{minutes % 60:02}"

    def uncounted(self, core: Any) -> Any:
        """`core`, with counters that nobody reads."""
        return _Uncounted(core, self.endpoints.Counters())
