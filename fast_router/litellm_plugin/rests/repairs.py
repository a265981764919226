"""LiteLLM's cooldown bookkeeping without its slips.

* `allowed_fails=3` means 3, although 3 is also LiteLLM's default (a Router keeps only the value, so the fact that
  somebody set it is noted when they do).
* A second cooldown never shortens the first (issue 40130).
* "Try again in … seconds" says how long it really takes until the first deployment is back.
* Each failed attempt is judged once, at its end, and only if it speaks against its deployment. LiteLLM judges from a
  failure callback that fires once per logging object, and the proxy shares one among all attempts of a request (issue
  32574); a Router used by itself judges every attempt, so that one bad request rests a whole group. Here the callback
  of an attempt waits until it is known whom to blame (`engine.failover.blame`), and then the same method is called.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.engine.failover.failures import sent
from fast_router.litellm_plugin.request import aside, set_aside
from fast_router.litellm_plugin.rests.policy import explicit_allowed_fails, note_allowed_fails
from fast_router.litellm_plugin.rests.store import memory_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine.failover.blame import Case
    from fast_router.engine.failover.ledger import Attempted
    from fast_router.engine.failover.policy import FailoverPolicy
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install", "judge"]

_JUDGED = "_fast_router_judged"


def install(patches: PatchSet, band: Band, later: Callable[[Any], bool]) -> None:
    """Patch what is listed above, as far as this LiteLLM has it.

    Args:
        patches: Where to register it.
        band: Where it goes.
        later: Tells of a deployment's id whether its failure is one that `judge` will be called for.
    """
    from litellm.router_utils import cooldown_cache, cooldown_handlers  # noqa: PLC0415

    patches.replace(band.core, "__init__", _init)
    patches.replace(band.core, band.slot("update_settings"), _update_settings)
    if not band.has("explicit_allowed_fails"):
        patches.replace(cooldown_handlers, "_is_allowed_fails_set_on_router", _is_allowed_fails_set)
    cache = cooldown_cache.CooldownCache
    patches.replace(cache, "add_deployment_to_cooldown", _add_deployment_to_cooldown)
    patches.replace(cache, "get_min_cooldown", _get_min_cooldown)
    patches.replace(band.core, band.slot("deployment_callback_on_failure"), partial(_callback_on_failure, later=later))
    fallbacks = sys.modules.get("litellm.router_utils.fallback_event_handlers")
    name = "_trigger_cooldown_for_failed_deployment"
    if fallbacks is not None and inspect.isfunction(getattr(fallbacks, name, None)):
        patches.replace(fallbacks, name, _trigger_for_fallback)


# -- allowed_fails -------------------------------------------------------------------------------------------


def _init(original: Any) -> Any:
    signature = inspect.signature(original)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        try:
            note_allowed_fails(self, signature.bind_partial(self, *args, **kwargs).arguments if args else kwargs)
        except Exception as error:  # noqa: BLE001 - the Router is there
            tally.failed(error, "a Router's constructor")

    # LiteLLM reads its Router's parameters off the signature.
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__doc__ = original.__doc__
    return __init__


def _update_settings(original: Any) -> Any:
    def update_settings(self: Any, **kwargs: Any) -> Any:
        result = original(self, **kwargs)
        note_allowed_fails(self, kwargs)
        return result

    return update_settings


def _is_allowed_fails_set(original: Any) -> Any:
    def _is_allowed_fails_set_on_router(*args: Any, **kwargs: Any) -> bool:
        router = args[0] if args else kwargs.get("litellm_router_instance")
        if router is not None and getattr(router, "allowed_fails", None) is not None and explicit_allowed_fails(router):
            return True
        return bool(original(*args, **kwargs))

    return _is_allowed_fails_set_on_router


# -- deadlines -----------------------------------------------------------------------------------------------


def _add_deployment_to_cooldown(original: Any) -> Any:
    def add_deployment_to_cooldown(
        self: Any, model_id: str, original_exception: Any, exception_status: Any, cooldown_time: float | None
    ) -> Any:
        seconds = self.default_cooldown_time if cooldown_time is None else cooldown_time
        permit = aside().permits
        permitted = seconds if permit is None else permit(str(model_id), seconds)
        if permitted is None:
            return None
        if permitted < seconds:
            seconds = cooldown_time = permitted
        try:
            left = _seconds_left(self, model_id)
            if left is not None and left > 0:
                if left >= seconds:
                    return None
                # A key that is there keeps its expiry when it is written again: only a new one gets the later.
                memory_of(self).delete_cache(type(self).get_cooldown_cache_key(model_id))
        except Exception as error:  # noqa: BLE001 - LiteLLM's own cooldown follows
            tally.failed(error, "a cooldown's deadline")
        return original(self, model_id, original_exception, exception_status, cooldown_time)

    return add_deployment_to_cooldown


def _seconds_left(cache: Any, model_id: str) -> float | None:
    """Give the seconds that a deployment has yet to rest, as far as this process knows."""
    entry = memory_of(cache).get_cache(type(cache).get_cooldown_cache_key(model_id))
    if not isinstance(entry, dict):
        return None
    return float(entry["timestamp"]) + float(entry["cooldown_time"]) - time.time()


def _get_min_cooldown(original: Any) -> Any:
    def get_min_cooldown(self: Any, model_ids: list[str], parent_otel_span: Any) -> float:
        configured = original(self, model_ids, parent_otel_span)
        try:
            left = [seconds for seconds in (_seconds_left(self, id_) for id_ in model_ids) if seconds is not None]
            if left:
                # A tenth is as exact as a message needs to be; 0 would say that nothing rests.
                return max(0.1, round(min(left), 1))
        except Exception as error:  # noqa: BLE001 - LiteLLM's own number stands
            tally.failed(error, "the time until the first deployment is back")
        return float(configured)

    return get_min_cooldown


# -- every failure once, and only those that speak against a deployment ----------------------------------------


def _mark(core: Any, error: Any, deployment_id: Any) -> bool:
    """Note that a Router has judged a failure of a deployment; False if it has before.

    LiteLLM calls the callbacks of every Router of the process for every failure, so each counts by itself.
    """
    state = getattr(error, "__dict__", None)
    if state is None or deployment_id is None:
        return True
    judged: set[tuple[int, str]] = state.setdefault(_JUDGED, set())
    key = (id(core), str(deployment_id))
    if key in judged:
        return False
    judged.add(key)
    return True


def _callback_on_failure(original: Any, later: Callable[[Any], bool]) -> Any:
    def deployment_callback_on_failure(
        self: Any, kwargs: Any, completion_response: Any, start_time: Any, end_time: Any
    ) -> Any:
        if aside().permits is None:
            info = (kwargs.get("litellm_params") or {}).get("model_info") or {}
            id_ = info.get("id") if isinstance(info, dict) else None
            # What is heard in the middle of an attempt is judged at its end, when it is known whom to blame.
            if later(id_) or not _mark(self, kwargs.get("exception"), id_):
                return False
        return original(self, kwargs, completion_response, start_time, end_time)

    return deployment_callback_on_failure


def _trigger_for_fallback(original: Any) -> Any:
    signature = inspect.signature(original)

    def _trigger_cooldown_for_failed_deployment(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        error = next((value for value in given.values() if isinstance(value, BaseException)), None)
        failed = str(getattr(error, "failed_deployment_id", None))
        if any(id_ == failed for _, id_ in getattr(error, _JUDGED, ())):
            return None
        return original(*args, **kwargs)

    return _trigger_cooldown_for_failed_deployment


def judge(
    core: Any,
    band: Band,
    policy: FailoverPolicy,
    case: Case,
    error: BaseException,
    failed: Attempted,
    request: dict[str, Any],
) -> None:
    """Hand a failure that speaks against its deployment to LiteLLM's own judgement, and see what comes of it.

    Args:
        core: The Router's core.
        band: How to call it.
        policy: What is known of the group.
        case: The request that failed.
        error: What the attempt raised.
        failed: The attempt.
        request: The attempt's keyword arguments.
    """
    deployment = policy.engine.deployments.get(failed.id)
    if deployment is None or not _mark(core, error, failed.id):
        return
    info = deployment.entry.get("model_info")
    opted_in = isinstance(info, dict) and info.get("allowed_fails_policy") is not None
    if not case.counted and not (opted_in and not case.foreign and sent(error)):
        return
    details = _details(core, band, error, failed.id, request)
    if details is None:
        return
    before = _counters(core, failed.id)

    def permits(id_: str, seconds: float) -> float | None:
        return seconds if id_ != failed.id else policy.may_rest_for(deployment, case, seconds)

    outer = aside()
    set_aside(outer._replace(permits=permits))
    try:
        band.call(core, "deployment_callback_on_failure", details, None, details["start_time"], details["end_time"])
    finally:
        set_aside(outer)
    charge = case.charge
    if case.counted and charge is not None and charge.deployment is deployment:
        policy.charged(case, deployment)
        counted = {key: value - before[key] for key, value in _counters(core, failed.id).items()}
        charge.on_take_back = partial(_uncount, core, counted)


def _details(
    core: Any, band: Band, error: BaseException, deployment_id: str, request: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Give what LiteLLM's own logging would tell its callback."""
    listed: Callable[..., Any] = getattr(core, band.slot("get_model_info"))
    entry = listed(id=deployment_id)
    if entry is None:
        return None
    params = entry.get("litellm_params") or {}
    told = getattr(request.get("litellm_logging_obj"), "model_call_details", None) or {}
    now = datetime.now()  # naive, as in LiteLLM's logging
    return {
        "exception": error,
        "litellm_params": {
            "model_info": entry.get("model_info") or {},
            "cooldown_time": params.get("cooldown_time"),
            "metadata": {"model_group": request.get("model")},
        },
        "call_type": told.get("call_type"),
        "start_time": told.get("start_time") or now,
        "end_time": now,
    }


# What LiteLLM counts of a deployment's failures, in this process's memory.
_COUNTERS = ("{}:fails", "deployment:{}:allowed_fails")


def _counters(core: Any, deployment_id: str) -> dict[str, float]:
    memory = getattr(core.cache, "in_memory_cache", None)
    values = {}
    for pattern in _COUNTERS:
        key = pattern.format(deployment_id)
        value = None if memory is None else memory.get_cache(key)
        values[key] = float(value) if isinstance(value, (int, float)) else 0.0
    return values


def _uncount(core: Any, counted: Mapping[str, float]) -> None:
    """Take out of LiteLLM's counters what one failure has put in; a cooldown ends with the breaker's rest."""
    memory = core.cache.in_memory_cache
    for key, value in counted.items():
        if value > 0 and memory.get_cache(key):
            memory.increment_cache(key, -value)
