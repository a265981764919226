"""Failover for LiteLLM 1.110: its Rust core walks through retries and fallbacks, we steer it.

The core asks its host at every step, and believes the answers: who cools down (`rests`), how an attempt ended,
how long to sleep. So retries avoid whom the request has tried, our breakers decide who rests, a spent retry budget
ends the retries, and the time before a retry is what the provider asks for. What LiteLLM retries, how often and in
which order stays its own affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.failover.retry_after import retry_after_from_error
from fast_router.litellm_plugin.layers import not_given, request_ledger, retry_timing
from fast_router.litellm_plugin.layers.fallback_at_once import as_ever, members_of, passes_by
from fast_router.litellm_plugin.request import RequestLedger, aside
from fast_router.litellm_plugin.rust_core import (
    cooldown_reads,
    first_chunk,
    hedge,
    rests,
    single_attempts,
    steps,
    waiting,
)
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.rust_core.judgement import judged
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.steps import Walk

__all__ = ["install"]

_RETRIED_BY_NOBODY = 404


# -- who cools down ------------------------------------------------------------------------------------------


def _answer_cache(original: Any, band: RustBand) -> Any:
    async def _answer_cache(self: Any, step: Any) -> Any:
        answer = await original(self, step)
        ids = cooldown_reads.ids_of(step)
        return answer if ids is None else _cooling(band, self, ids, rests.as_answered(self, ids, answer))

    return _answer_cache


def _answer_cache_sync(original: Any, band: RustBand) -> Any:
    def _answer_cache_sync(self: Any, step: Any) -> Any:
        answer = original(self, step)
        ids = cooldown_reads.ids_of(step)
        return answer if ids is None else _cooling(band, self, ids, rests.as_answered(self, ids, answer))

    return _answer_cache_sync


def _cooling(band: RustBand, core: Any, ids: list[str], answer: Any) -> Any:
    try:
        walking = steps.current_walk()
        ledger = None if walking is None else walking.ledger
        tiers = walking is not None and not walking.targeted and not steps.filters(core)
        answer = rests.cooling(binding_of(band, core), ids, answer, ledger, tiers=tiers)
        return answer if walking is None else _passed_by(band, walking, ids, answer)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer stands
        tally.failed(error, "who cools down")
        return answer


def _take_events(original: Any) -> Any:
    def take_events(self: Any, events: Any) -> Any:
        walking = _walking()
        if walking is not None and events and walking.ledger.failover.policy.dead:  # type: ignore[union-attr]
            for event in events:
                if event.get("kind") == "pick_started":
                    walking.picking = event.get("model")
        return original(self, events)

    return take_events


def _passed_by(band: RustBand, walking: Walk, ids: Sequence[str], answers: Sequence[Any]) -> Sequence[Any]:
    """Say that everybody cools down of a model that the request is to leave alone."""
    model, walking.picking = walking.picking, None
    if model is None:
        return answers
    walking.passed = passes_by(walking.core, band, walking.ledger, model)
    if not walking.passed:
        return answers
    left_alone = {member.id for member in members_of(walking.core, band, model)}
    return rests.all_cooling(binding_of(band, walking.core), ids, answers, left_alone)


def _dead(band: RustBand, walking: Walk) -> bool:
    """Tell whether the model of the latest attempt was found dead meanwhile: its fallback is asked instead."""
    step = walking.step or {}
    return passes_by(walking.core, band, walking.ledger, step.get("model"))


# -- how an attempt ended ------------------------------------------------------------------------------------


def _attempt(original: Any, band: RustBand) -> Any:
    async def attempt(self: Any, step: Any) -> Any:
        refused = _refused(band, self, step)
        return refused if refused is not None else _outcome(band, await original(self, step))

    return attempt


def _attempt_sync(original: Any, band: RustBand) -> Any:
    def attempt_sync(self: Any, step: Any) -> Any:
        refused = _refused(band, self, step)
        return refused if refused is not None else _outcome(band, original(self, step))

    return attempt_sync


def _walking() -> Walk | None:
    walking = steps.current_walk()
    return walking if walking is not None and walking.ledger.failover is not None else None


def _refused(band: RustBand, driver: Any, step: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The failed outcome of a retry for which there is no budget, as of the failure that it would have followed.

    The core lets a first failure end the retries (see `_outcome`), but not a later one: those are ended here.
    """
    walking = _walking()
    if walking is None or not step.get("retry") or walking.ledger.raised is None:
        return None
    try:
        if not _dead(band, walking) and retry_timing.spend(walking.ledger):
            tally.event("retry", step.get("model"))
            return None
        from litellm.router_rust.core import attempt_failure  # noqa: PLC0415 - LiteLLM is imported

        walking.drop()
        walking.ledger.refusals += 1
        raised = walking.ledger.raised
        level = step.get("fallback_level")
        driver._last_error = raised
        driver._level_errors[level if isinstance(level, int) else 0] = raised
    except Exception as error:  # noqa: BLE001 - the retry is made
        tally.failed(error, "a retry's budget")
        return None
    # With this status the core retries nothing (but under a retry policy, see `retry_timing.paced`) and goes on to the
    # fallbacks; what the caller gets is `raised`. Otherwise it would walk through all the retries that are left.
    return {**attempt_failure(raised), "status": _RETRIED_BY_NOBODY, "recorded": True, "uncounted_request": True}


def _outcome(band: RustBand, outcome: Any) -> Any:
    """What the core is told about an attempt that failed: no retries without a budget, the rest that was asked for."""
    walking = _walking()
    if walking is None or outcome.get("ok") is True:
        return outcome
    walking.passed = False
    try:
        changed = dict(outcome)
        running = walking.running
        lease = None if running is None else running.lease
        judged(walking.core, walking.ledger, None if lease is None else lease.deployment, changed)
        if _dead(band, walking) or not retry_timing.within_budget():
            changed["num_retries"] = 0
        if changed.get("retry_after") is None and walking.ledger.raised is not None:
            # Header names that LiteLLM does not know; a deployment's own cooldown_time goes before, with the core.
            changed["retry_after"] = retry_after_from_error(walking.ledger.raised)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own outcome stands
        tally.failed(error, "the outcome of an attempt")
        return outcome
    return changed


# -- the time before a retry ---------------------------------------------------------------------------------


def _sleep(original: Any, band: RustBand) -> Any:
    async def sleep(self: Any, seconds: float) -> Any:
        return await original(self, _seconds(band, seconds))

    return sleep


def _sleep_sync(original: Any, band: RustBand) -> Any:
    def sleep_sync(self: Any, seconds: float) -> Any:
        return original(self, _seconds(band, seconds))

    return sleep_sync


def _seconds(band: RustBand, seconds: float) -> float:
    walking = _walking()
    if walking is None:
        return seconds
    if walking.refused is not None or walking.passed or _dead(band, walking):
        # The core waits before each pick that finds nobody, too.
        return retry_timing.paced(walking.ledger, 0.0)
    step = walking.step or {}
    retry, most = step.get("retry"), step.get("max_retries")
    if isinstance(retry, int) and isinstance(most, int) and retry >= most:
        return 0.0  # the core sleeps after the last attempt, too: nobody is left to wait for
    return retry_timing.paced(walking.ledger, retry_timing.longer(walking.core, seconds))


# -- a whole request -----------------------------------------------------------------------------------------


def _drive(original: Any) -> Any:
    async def _drive(self: Any, plan: Any, request: Any, overrides: Any = None, **kwargs: Any) -> Any:
        ledger = aside().carried or steps.new_ledger(self, request)
        plan, overrides = single_attempts.retried(plan, overrides)
        try:
            with steps.carrying(ledger):
                return await original(self, plan, request, overrides, **kwargs)
        except Exception:
            again = as_ever(ledger, request)
            if again is None:
                raise
        with steps.carrying(ledger):
            return await original(self, plan, again, overrides, **kwargs)

    return _drive


def _call_sync(original: Any) -> Any:
    def _call_sync(self: Any, plan: Any, request: Any, overrides: Any = None, **kwargs: Any) -> Any:
        ledger = aside().carried or steps.new_ledger(self, request)
        plan, overrides = single_attempts.retried(plan, overrides)
        try:
            with steps.carrying(ledger):
                return original(self, plan, request, overrides, **kwargs)
        except Exception:
            again = as_ever(ledger, request)
            if again is None:
                raise
        with steps.carrying(ledger):
            return original(self, plan, again, overrides, **kwargs)

    return _call_sync


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Steer every Router's walks.

    Returns:
        The features that are on, for `status()`.
    """
    from litellm.router_python_host import PythonHost  # noqa: PLC0415 - LiteLLM is imported
    from litellm.router_rust.invoke import endpoints, prompt_management  # noqa: PLC0415 - the same

    def make_ledger(core: Any, request: Mapping[str, Any]) -> RequestLedger:
        return request_ledger.new_ledger(core, band, request)

    steps.make_ledger.append(make_ledger)
    patches.on_restore(lambda: steps.make_ledger.remove(make_ledger))
    for owner, name, make in (
        (band.core, "_answer_cache", partial(_answer_cache, band=band)),
        (band.core, "_answer_cache_sync", partial(_answer_cache_sync, band=band)),
        (band.driver, "take_events", _take_events),
        (PythonHost, "sleep", partial(_sleep, band=band)),
        (PythonHost, "sleep_sync", partial(_sleep_sync, band=band)),
        (band.core, "_drive", _drive),
        (band.core, "_call_sync", _call_sync),
    ):
        patches.replace(owner, name, make)
    band.around_attempt(patches, partial(_attempt, band=band), partial(_attempt_sync, band=band))
    for module in (endpoints, prompt_management):
        patches.replace(module, "update_kwargs_with_deployment", not_given.without_none)
    off = settings.current().disabled_features
    done = ["failover"]
    if "stream_failover" not in off:
        done += first_chunk.install(patches, band)
    if "hedging" not in off:
        done += hedge.install(patches, band)
    if "waiting" not in off:
        done += waiting.install(patches, band)
    return done
