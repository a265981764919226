"""Questions that LiteLLM asks about every request and that hardly any request says yes to.

Whether it is a test (`mock_testing_…`), whether it brings a reservation of tokens, whether it is a fallback's hop,
whether a trace is running, whether an answer is something to await: each is a look at two or three keys, made by way
of generators, pydantic validators or exceptions. Here the keys are looked at, and only where one is there LiteLLM's
own function is asked.
"""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = [
    "AWAITABLE",
    "HOPS",
    "MARKS",
    "METADATA",
    "MOCKS",
    "RESERVATIONS",
    "TRACES",
]

_SPAN = "litellm_parent_otel_span"


def _mocks(patches: PatchSet, parts: Parts) -> bool:
    """Read the three `mock_testing_…` flags only where a request has one."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _handle_mock_testing_fallbacks(self: Any, kwargs: Any, *args: Any, **more: Any) -> Any:
            if (
                "mock_testing_fallbacks" in kwargs
                or "mock_testing_context_fallbacks" in kwargs
                or "mock_testing_content_policy_fallbacks" in kwargs
            ):
                return original(self, kwargs, *args, **more)
            return None

        return _handle_mock_testing_fallbacks

    patches.replace(parts.core, parts.at("_handle_mock_testing_fallbacks").name, make)
    return True


def _traces(patches: PatchSet, parts: Parts) -> bool:
    """Find a request's trace, which the Router's module asks for eight times a request."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_parent_otel_span_from_kwargs(kwargs: Any = None) -> Any:
            if type(kwargs) is dict:
                metadata = kwargs.get("metadata")
                if metadata is None or type(metadata) is dict:
                    if metadata and _SPAN in metadata:
                        return metadata[_SPAN]  # a proxy puts it there, None included
                    if _SPAN not in kwargs and kwargs.get("litellm_params") is None:
                        return None
            return original(kwargs)

        return get_parent_otel_span_from_kwargs

    patches.replace(parts.module, parts.at("get_parent_otel_span_from_kwargs").name, make)
    return True


def _marks(patches: PatchSet, parts: Parts) -> bool:
    """Find what a pick has written into a request's metadata without a generator inside a generator."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def find_deployment_metadata(kwargs: Any) -> Any:
            if type(kwargs) is dict and kwargs.get("litellm_metadata") is None:
                bucket = kwargs.get("metadata")
                if type(bucket) is dict:
                    return bucket if "model_info" in bucket else None
            return original(kwargs)

        return find_deployment_metadata

    patches.replace(parts.module, "find_deployment_metadata", make)
    return True


def _metadata(patches: PatchSet, parts: Parts) -> bool:
    """Remember under which name a function's metadata travels, instead of looking for five words in the function's."""
    answers: dict[str | None, str] = {}

    def make(original: Callable[..., str]) -> Callable[..., str]:
        def get_router_metadata_variable_name(function_name: Any) -> str:
            answer = answers.get(function_name)
            if answer is None:
                answer = original(function_name)
                if len(answers) < 256:
                    answers[function_name] = answer
            return answer

        return get_router_metadata_variable_name

    patches.replace(parts.module, parts.at("get_router_metadata_variable_name").name, make)
    return True


def _reservations(patches: PatchSet, parts: Parts) -> bool:
    """Look for reserved tokens in the two places in which a request on its way to a deployment can have them."""
    checks = parts.at("_reservation_channels").owner
    keys = (checks.ITPM_RESERVED_KEY, checks.OTPM_RESERVED_KEY, checks.ITPM_CACHE_KEY, checks.OTPM_CACHE_KEY)
    first, second, third, fourth = keys
    running = checks._io_token_rate_limit_request_kwargs

    def clean(bucket: Any) -> bool:
        return bucket is None or (
            type(bucket) is dict
            and first not in bucket
            and second not in bucket
            and third not in bucket
            and fourth not in bucket
        )

    def reserves_nothing(kwargs: Any) -> bool:
        return (
            type(kwargs) is dict
            and clean(kwargs.get("metadata"))
            and clean(kwargs.get("litellm_metadata"))
            and "litellm_params" not in kwargs
            and "standard_logging_object" not in kwargs
        )

    def make_refund(original: Callable[..., None]) -> Callable[..., None]:
        def refund_stale_reservation_before_retry(dual_cache: Any, kwargs: Any) -> None:
            if not reserves_nothing(kwargs):
                original(dual_cache, kwargs)

        return refund_stale_reservation_before_retry

    def make_note(original: Callable[..., None]) -> Callable[..., None]:
        def set_io_token_rate_limit_request_kwargs(kwargs: Any, store_in_context: Any = True) -> None:
            if reserves_nothing(kwargs):
                running.set(kwargs if store_in_context else None)
            else:
                original(kwargs, store_in_context)

        return set_io_token_rate_limit_request_kwargs

    patches.replace(parts.module, "refund_stale_reservation_before_retry", make_refund)
    patches.replace(parts.module, "set_io_token_rate_limit_request_kwargs", make_note)
    return True


class _Mappings:
    """In the place of a pydantic adapter for mappings: what is one already is handed back instead of copied."""

    __slots__ = ("_adapter",)

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def validate_python(self, value: Any, /, **options: Any) -> Any:
        """As of the adapter; its callers only read what they get."""
        if type(value) is dict and not options:
            try:
                "".join(value)
            except TypeError:  # a key that is no text, which the adapter refuses
                pass
            else:
                return value
        return self._adapter.validate_python(value, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


def _hops(patches: PatchSet, parts: Parts) -> bool:
    """Tell a fallback's hop without copying all of a request's arguments twice."""
    module, adapter = parts.module, "_FALLBACK_HOP_ADAPTER"
    if type(vars(module).get(adapter)).__name__ != "TypeAdapter":
        return False

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _deployment_that_just_failed(request_metadata: Any) -> Any:
            # Without that there is nobody to name; LiteLLM learns it from a pydantic error.
            if type(request_metadata) is dict and request_metadata.get("model_info") is None:
                return None
            return original(request_metadata)

        return _deployment_that_just_failed

    patches.replace(module, adapter, _Mappings)
    patches.replace(module, "_deployment_that_just_failed", make)
    return True


def _awaitable(patches: PatchSet, parts: Parts) -> bool:
    """Tell coroutine functions by their code, and that an answer is none without three exceptions."""
    place = parts.at("is_async_callable")
    from pydantic import BaseModel  # noqa: PLC0415 - LiteLLM has it loaded

    answers: dict[type, bool] = {}
    function, method, coroutine = types.FunctionType, types.MethodType, inspect.CO_COROUTINE

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def is_async_callable(self: Any, callback: Any) -> Any:
            kind = type(callback)
            if kind is method or kind is function:
                code = getattr(callback, "__code__", None)
                if code is not None and code.co_flags & coroutine:
                    return True
            known = answers.get(kind)
            if known is None:
                hashing: Any = kind.__hash__
                # Unhashable, so LiteLLM cannot remember it, and not callable, so it cannot be one.
                known = (
                    issubclass(kind, BaseModel)
                    and hashing is None
                    and not any("__call__" in vars(base) for base in kind.__mro__)
                    and "<locals>" not in kind.__qualname__
                )
                # A class that is made for one stream would keep that stream here for good.
                if len(answers) < 1024 and "<locals>" not in kind.__qualname__:
                    answers[kind] = known
            return False if known else original(self, callback)

        return is_async_callable

    patches.replace(place.owner, place.name, make)
    return True


_LOOKS = "looks at the two or three keys that can say yes"

AWAITABLE = Feature(
    "awaitable_answers",
    "asks by way of three exceptions whether an answer is a coroutine",
    "remembered per class of answers",
    _awaitable,
    needs=("is_async_callable",),
)
HOPS = Feature(
    "fallback_hops",
    "copies all of a request's arguments twice to see whether it is a fallback's hop",
    _LOOKS,
    _hops,
    needs=("_deployment_that_just_failed", "_update_kwargs_with_deployment"),
)
MARKS = Feature(
    "deployment_marks",
    "asks by way of two generators where a pick has left its marks in a request",
    _LOOKS,
    _marks,
    needs=("find_deployment_metadata",),
)
METADATA = Feature(
    "metadata_names",
    "looks for five words in a function's name to tell under which name its metadata travels",
    "remembered per function",
    _metadata,
    needs=("get_router_metadata_variable_name",),
)
MOCKS = Feature(
    "mock_testing",
    "validates the test flags of a request that has none",
    _LOOKS,
    _mocks,
    needs=("_handle_mock_testing_fallbacks",),
)
RESERVATIONS = Feature(
    "token_reservations",
    "looks for reserved tokens through every part of a request",
    _LOOKS,
    _reservations,
    needs=(
        "refund_stale_reservation_before_retry",
        "set_io_token_rate_limit_request_kwargs",
        "_clear_reservation_from_kwargs",
        "_reservation_channels",
    ),
)
TRACES = Feature(
    "trace_spans",
    "looks eight times a request for the trace that it belongs to",
    _LOOKS,
    _traces,
    needs=("get_parent_otel_span_from_kwargs",),
)
