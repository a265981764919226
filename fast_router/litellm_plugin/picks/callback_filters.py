"""Whether any of `litellm.callbacks` filters deployments.

LiteLLM asks every custom logger to filter before it picks, and nearly none has anything to say. The answer is
worked out once per state of the list, and the state is compared per pick: element by element, by identity.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CallbackVerdict", "why_filters"]

# Filters of LiteLLM's own that only act on requests with a certain key.
_BY_REQUEST_KEY = {
    "_PROXY_LiteLLMManagedFiles": "model_file_id_mapping",
    "_PROXY_LiteLLMManagedVectorStores": "model_resource_id_mapping",
    "ResponsesApiDeploymentCheck": "previous_response_id",
}


async def _returns_its_argument(
    self: Any,  # noqa: ARG001 - the signature is the base class's
    model: Any,  # noqa: ARG001
    healthy_deployments: Any,
    messages: Any,  # noqa: ARG001
    request_kwargs: Any = None,  # noqa: ARG001
    parent_otel_span: Any = None,  # noqa: ARG001
) -> Any:
    return healthy_deployments


class CallbackVerdict:
    """What the callbacks mean for picks.

    Attributes:
        seen: The list as it was when this was worked out.
        why: Why picks must go through LiteLLM's pipeline, None if they need not.
        keys: Request keys with which they must all the same.
        clear: True if there are neither.
    """

    __slots__ = ("clear", "keys", "seen", "why")

    def __init__(self) -> None:
        self.clear = True
        self.keys: frozenset[str] = frozenset()
        self.seen: list[Any] = []
        self.why: str | None = None

    def update(self, callbacks: list[Any]) -> None:
        """Work it out for the list as it is now."""
        seen = list(callbacks)
        why = None
        for callback in seen:
            why = why_filters(callback)
            if why is not None:
                break
        named = {cls.__name__ for callback in seen for cls in type(callback).__mro__}
        keys = frozenset(key for name, key in _BY_REQUEST_KEY.items() if name in named)
        # In this order: a pick on another thread may read between the two, and should rather be too careful.
        self.clear = False
        self.keys = keys
        self.why = why if why is not None else self.why
        self.seen = seen
        self.why = why
        self.clear = why is None and not keys


def why_filters(callback: Any) -> str | None:
    """Give why picks must go through LiteLLM's pipeline for one callback, None if they need not."""
    from litellm.integrations.custom_logger import CustomLogger  # noqa: PLC0415 - LiteLLM is imported

    if not isinstance(callback, CustomLogger):
        return None
    cls = type(callback)
    if cls.__name__ == "OpenTelemetryV2":
        return "tracing"
    if "async_filter_deployments" in getattr(callback, "__dict__", ()):
        return "a callback that filters"
    function = getattr(cls, "async_filter_deployments", None)
    if function is None or function is CustomLogger.async_filter_deployments or cls.__name__ in _BY_REQUEST_KEY:
        return None
    if any(base.__name__ in _BY_REQUEST_KEY for base in cls.__mro__):
        return None
    # LiteLLM's own decorators (one that says which Redis calls belong to whom) add nothing to a filter that awaits
    # nothing.
    while getattr(function, "__globals__", {}).get("__name__") == "litellm._internal_context" and hasattr(
        function, "__wrapped__"
    ):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    if code is not None and code.co_code == _returns_its_argument.__code__.co_code and code.co_argcount == 6:
        return None
    return f"the filter of {cls.__name__}" if cls.__module__.startswith("litellm.") else "a callback that filters"
