"""LiteLLM's strategies keep no figures of their own while we choose in their place.

Each is told about every request and writes maps and counters that only its own choices read: strings for the minute,
a map per group, a queue for Redis. While a deployment is in a group whose strategy is ours, the engine knows the same,
and the strategy object is spared. It gets what it would know as soon as it is to choose by itself (`hand_back`).

Left alone is everything that somebody else reads or that does more than to count: strategies of Routers with Redis,
where proxies without us read those keys; the refusal by rpm of usage-based-routing-v2 where a deployment has an rpm
limit; objects with LiteLLM's `test_flag`; usage-based-routing v1.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature
from fast_router.litellm_plugin.overhead.strategies.hand_back import HandBack
from fast_router.litellm_plugin.picks.replaced_selectors import Replaced, all_replaced, before_choice, replaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_STRATEGIES = {
    "LowestLatency": "latency_based",
    "LowestCost": "cost_based",
    "LeastBusy": "least_busy",
    "LowestTPM_v2": "usage_based",
}
# What only counts, and may be skipped; the sign is that of a call in flight.
_COUNTING = {
    "LowestLatency": {"log_success_event": 0, "async_log_success_event": 0, "async_log_failure_event": 0},
    "LowestCost": {"log_success_event": 0, "async_log_success_event": 0},
    "LeastBusy": {
        "log_pre_api_call": 1,
        "log_success_event": -1,
        "log_failure_event": -1,
        "async_log_success_event": -1,
        "async_log_failure_event": -1,
    },
    "LowestTPM_v2": {"log_success_event": 0, "async_log_success_event": 0},
}
_LIMITING = {"LowestTPM_v2": ("pre_call_check", "async_pre_call_check")}


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Spare the strategy objects of the classes whose source is known."""
    kinds: dict[type, str] = {}
    word = "latency"
    for short, strategy in _STRATEGIES.items():
        handler = parts.handlers.get(short)
        names = (*_COUNTING[short], *_LIMITING.get(short, ()))
        if handler is None or not all(parts.knows(f"{short}.{name}") for name in names):
            continue
        kinds[handler] = strategy
        if short == "LowestLatency" and "latency_normalized" in inspect.getsource(handler):
            word = "latency_normalized"
        for name, sign in _COUNTING[short].items():
            first = name == "log_pre_api_call"
            make = _asynchronous if name.startswith("async_") else _before if first else _synchronous
            patches.replace(handler, name, _bound(make, strategy, sign))
        for name in _LIMITING.get(short, ()):
            patches.replace(handler, name, _bound(_check if name.startswith("async_") else _sync_check, strategy, 0))
    if not kinds:
        return False
    hand_back = HandBack(kinds, word)
    before_choice.append(hand_back)

    def undo() -> None:
        before_choice.remove(hand_back)
        for selector in all_replaced():
            hand_back(selector)

    patches.on_restore(undo)
    return True


def _bound(make: Callable[..., Any], strategy: str, sign: int) -> Callable[[Any], Any]:
    return lambda original: make(original, strategy, sign)


def _is_ours(note: Replaced, deployment_id: Any, strategy: str) -> bool:
    binding = note.binding()
    found = None if binding is None else binding.engine.deployments.get(deployment_id)
    if found is not None:
        for one in found.strategies:
            if one.name == strategy:
                return True
    return False


def _spared(selector: Any, kwargs: Any, strategy: str, sign: int) -> bool:
    """Whether what LiteLLM is about to tell `selector` need not reach it; counts a call in flight."""
    try:
        note = replaced(selector)
        if note is None or selector.test_flag or selector.router_cache.redis_cache is not None:
            return False
        params = kwargs["litellm_params"]
        deployment_id = params["model_info"]["id"]
        if not _is_ours(note, deployment_id, strategy):
            return False
        if sign:
            note.count((params["metadata"]["model_group"], deployment_id), sign)
    except Exception:  # noqa: BLE001 - e.g. a call outside any Router: LiteLLM's own function knows what to do
        return False
    return True


def _asynchronous(original: Any, strategy: str, sign: int) -> Any:
    async def event(self: Any, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> Any:
        if _spared(self, kwargs, strategy, sign):
            return None
        return await original(self, kwargs, response_obj, start_time, end_time)

    return event


def _synchronous(original: Any, strategy: str, sign: int) -> Any:
    def event(self: Any, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> Any:
        if _spared(self, kwargs, strategy, sign):
            return None
        return original(self, kwargs, response_obj, start_time, end_time)

    return event


def _before(original: Any, strategy: str, sign: int) -> Any:
    def log_pre_api_call(self: Any, model: Any, messages: Any, kwargs: Any) -> Any:
        if _spared(self, kwargs, strategy, sign):
            return None
        return original(self, model, messages, kwargs)

    return log_pre_api_call


def _unlimited(selector: Any, deployment: Any, strategy: str) -> bool:
    """Whether LiteLLM's check of a deployment could refuse nothing, and its counter is read by nobody."""
    try:
        note = replaced(selector)
        if note is None or selector.test_flag or selector.router_cache.redis_cache is not None:
            return False
        info = deployment["model_info"]
        if (
            deployment.get("rpm") is not None
            or deployment["litellm_params"].get("rpm") is not None
            or info.get("rpm") is not None
        ):
            return False
        return _is_ours(note, info["id"], strategy)
    except Exception:  # noqa: BLE001 - LiteLLM's own check answers
        return False


def _check(original: Any, strategy: str, _: int) -> Any:
    async def async_pre_call_check(self: Any, deployment: Any, parent_otel_span: Any) -> Any:
        if _unlimited(self, deployment, strategy):
            return deployment
        return await original(self, deployment, parent_otel_span)

    return async_pre_call_check


def _sync_check(original: Any, strategy: str, _: int) -> Any:
    def pre_call_check(self: Any, deployment: Any) -> Any:
        if _unlimited(self, deployment, strategy):
            return deployment
        return original(self, deployment)

    return pre_call_check


FEATURE = Feature(
    "strategy_state",
    "its strategies keep maps and counters from callbacks, for their own choices",
    "not while fast_router chooses; see below",
    _install,
    any_of=tuple(f"{short}.{name}" for short in _STRATEGIES for name in (*_COUNTING[short], *_LIMITING.get(short, ()))),
)
