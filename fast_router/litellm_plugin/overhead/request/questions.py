"""Questions that LiteLLM asks about every request and that hardly any request says yes to.

Whether it is a test (`mock_testing_…`), whether it brings a reservation of tokens, whether it is a fallback's hop,
whether a trace is running, whether an answer is something to await: each is a look at two or three keys, made by way
of generators, pydantic validators or exceptions. Here the keys are looked at, and only where one is there LiteLLM's
own function is asked.
"""

from __future__ import annotations

import importlib
import inspect
import types
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_known, member

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from fast_router.litellm_plugin.patching import PatchSet

__all__ = [
    "AWAITABLE",
    "HOPS",
    "MARKS",
    "METADATA",
    "MOCKS",
    "RESERVATIONS",
    "TRACES",
    "install_awaitable",
    "install_hops",
    "install_marks",
    "install_metadata",
    "install_mocks",
    "install_reservations",
    "install_traces",
]

AWAITABLE = "awaitable_answers"
HOPS = "fallback_hops"
MARKS = "deployment_marks"
METADATA = "metadata_names"
MOCKS = "mock_testing"
RESERVATIONS = "token_reservations"
TRACES = "trace_spans"

_SPAN = "litellm_parent_otel_span"


def _known_global(module: ModuleType, name: str) -> bool:
    return is_known(name, vars(module).get(name))


def _spelled(module: ModuleType, name: str) -> str | None:
    """The spelling under which `module` has a function that is known; up to 1.105 some began with an underscore."""
    for spelling in (name, f"_{name}"):
        if is_known(name, vars(module).get(spelling)):
            return spelling
    return None


def install_mocks(patches: PatchSet, core: type) -> list[str]:
    """Read the three `mock_testing_…` flags only where a request has one."""
    found = member(core, "_handle_mock_testing_fallbacks")
    if found is None or not is_known(*found):
        return []

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

    patches.replace(core, found[0], make)
    return [MOCKS]


def install_traces(patches: PatchSet, module: ModuleType) -> list[str]:
    """Find a request's trace, which the Router's module asks for eight times a request."""
    name = _spelled(module, "get_parent_otel_span_from_kwargs")
    if name is None:
        return []

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

    patches.replace(module, name, make)
    return [TRACES]


def install_marks(patches: PatchSet, module: ModuleType) -> list[str]:
    """Find what a pick has written into a request's metadata without a generator inside a generator."""
    name = "find_deployment_metadata"
    if not _known_global(module, name):
        return []

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def find_deployment_metadata(kwargs: Any) -> Any:
            if type(kwargs) is dict and kwargs.get("litellm_metadata") is None:
                bucket = kwargs.get("metadata")
                if type(bucket) is dict:
                    return bucket if "model_info" in bucket else None
            return original(kwargs)

        return find_deployment_metadata

    patches.replace(module, name, make)
    return [MARKS]


def install_metadata(patches: PatchSet, module: ModuleType) -> list[str]:
    """Remember under which name a function's metadata travels, instead of looking for five words in the function's."""
    name = _spelled(module, "get_router_metadata_variable_name")
    if name is None:
        return []
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

    patches.replace(module, name, make)
    return [METADATA]


def install_reservations(patches: PatchSet, module: ModuleType) -> list[str]:
    """Look for reserved tokens in the two places in which a request on its way to a deployment can have them."""
    refund, note = "refund_stale_reservation_before_retry", "set_io_token_rate_limit_request_kwargs"
    try:
        checks = importlib.import_module("litellm.router_utils.pre_call_checks.io_token_rate_limit_check")
    except ImportError:
        return []
    if not (
        _known_global(module, refund)
        and _known_global(module, note)
        and is_known("_clear_reservation_from_kwargs", vars(checks).get("_clear_reservation_from_kwargs"))
        and is_known("_reservation_channels", vars(checks).get("_reservation_channels"))
    ):
        return []
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

    patches.replace(module, refund, make_refund)
    patches.replace(module, note, make_note)
    return [RESERVATIONS]


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


def install_hops(patches: PatchSet, module: ModuleType, core: type) -> list[str]:
    """Tell a fallback's hop without copying all of a request's arguments twice."""
    adapter, failed = "_FALLBACK_HOP_ADAPTER", "_deployment_that_just_failed"
    found = member(core, "_update_kwargs_with_deployment")
    if (
        found is None
        or not is_known(*found)
        or not _known_global(module, failed)
        or type(vars(module).get(adapter)).__name__ != "TypeAdapter"
    ):
        return []

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _deployment_that_just_failed(request_metadata: Any) -> Any:
            # Without that there is nobody to name; LiteLLM learns it from a pydantic error.
            if type(request_metadata) is dict and request_metadata.get("model_info") is None:
                return None
            return original(request_metadata)

        return _deployment_that_just_failed

    patches.replace(module, adapter, _Mappings)
    patches.replace(module, failed, make)
    return [HOPS]


def install_awaitable(patches: PatchSet) -> list[str]:
    """Tell coroutine functions by their code, and that an answer is none without three exceptions."""
    checker = importlib.import_module("litellm.litellm_core_utils.coroutine_checker").CoroutineChecker
    found = member(checker, "is_async_callable")
    if found is None or not is_known(*found):
        return []
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
                if len(answers) < 1024:
                    answers[kind] = known
            return False if known else original(self, callback)

        return is_async_callable

    patches.replace(checker, found[0], make)
    return [AWAITABLE]
