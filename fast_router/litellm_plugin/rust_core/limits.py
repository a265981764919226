"""LiteLLM 1.110: quality-of-service limits before a pick, the fleet's strict limits after it.

Both refuse as LiteLLM's own errors: the Rust core takes them as the try's failure, and its fallbacks follow.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.cluster import state_of
from fast_router.litellm_plugin.layers.fleet_limits import is_spent, note_alone, too_many
from fast_router.litellm_plugin.layers.quality_limits import RETRY_AFTER, has_room, rule_of
from fast_router.litellm_plugin.litellm_errors import busy
from fast_router.litellm_plugin.rust_core import standing, steps
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping

    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.layers.quality_limits import Rule
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.steps import Walk

__all__ = ["install", "install_strict"]


def _pre_route(original: Any, band: RustBand) -> Any:
    async def _pre_route(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        walking = steps.current_walk()
        if walking is not None:
            if walking.refused is not None:
                # The core asks again, as after any failure; the answer is the same.
                walking.ledger.refusals += 1
                raise walking.refused
            rule = _rule(band, self, step)
            if rule is not None and not await _admitted(rule, walking.ledger.caller()):
                walking.refused = busy(step.get("model"), retry_after=RETRY_AFTER, final=True)
                _count_refusal(walking, step.get("model"))
                raise walking.refused
        return await original(self, step, *args, **kwargs)

    return _pre_route


def _rule(band: RustBand, core: Any, step: Mapping[str, Any]) -> Rule | None:
    try:
        binding = binding_of(band, core)
        group = binding.router.groups.get(str(step.get("model"))) if binding.limited else None
        return None if group is None else rule_of(binding, group)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
        tally.failed(error, "the admission of a request")
        return None


def _count_refusal(walking: Walk, model: Any) -> None:
    """Count a request that a limit refused, once however often the core tries again."""
    if not walking.refusal_counted:
        walking.refusal_counted = True
        tally.event("refused", model)


async def _admitted(rule: Rule, caller: Hashable | None) -> bool:
    for left in range(rule.retries, -1, -1):
        if has_room(rule, caller):
            return True
        if left:
            await asyncio.sleep(rule.countdown)
    return False


# -- strict limits -------------------------------------------------------------------------------------------


def _answer_callback_filters(original: Any, band: RustBand) -> Any:
    async def _answer_callback_filters(self: Any, step: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        answer, error = await original(self, step, request, *args, **kwargs)
        walking = steps.current_walk()
        if error is not None or walking is None or walking.attempt is None or not isinstance(answer, tuple):
            return answer, error
        kept = answer[0]

        async def again() -> None:
            steps.preferred(band, self, step, request, kept)

        refused = await _fleet_admits(band, walking, step, again)
        if refused is not None:
            return steps.failure(refused), refused
        lease = None if walking.attempt is None else walking.attempt.lease
        return (kept, None if lease is None else lease.id), None

    return _answer_callback_filters


def _answer_select(original: Any, band: RustBand) -> Any:
    async def _answer_select(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        picked = await original(self, step, *args, **kwargs)
        walking = steps.current_walk()
        if step.get("stage") != "strategy" or walking is None or walking.attempt is None:
            return picked

        async def again() -> None:
            nonlocal picked
            picked = await original(self, step, *args, **kwargs)

        refused = await _fleet_admits(band, walking, step, again)
        if refused is not None:
            raise refused
        return picked

    return _answer_select


async def _fleet_admits(
    band: RustBand, walking: Walk, step: Mapping[str, Any], again: Callable[[], Awaitable[None]]
) -> Exception | None:
    """Admit the walk's pick in Redis, or another one; the error for the caller if the whole fleet is at its limits."""
    binding = binding_of(band, walking.core)
    state = state_of(binding.router)
    if state is None or state.limits is None:
        note_alone(binding, walking.core)
        return None
    refusals = 0
    while True:
        lease = None if walking.attempt is None else walking.attempt.lease
        if lease is None:
            return None
        admission = await state.limits.admit([lease.deployment])
        if admission is None:
            return None
        if admission.deployment is not None:
            state.limits.bind(admission, lease)
            return None
        deployment = lease.deployment
        walking.drop()
        walking.assign(None)
        state.limits.refused(deployment, admission.retry_after)
        refusals += 1
        others = [binding.engine.deployments.get(id_) for id_ in step.get("candidates") or ()]
        if refusals > 10 or not any(other is not None and not other.held for other in others):
            _count_refusal(walking, step.get("model"))
            return too_many(step.get("model"), admission.retry_after)
        await again()


def _failure_error(original: Any, band: RustBand) -> Any:
    def _failure_error(self: Any, step: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        error = original(self, step, model, *args, **kwargs)
        try:
            walking = steps.current_walk()
            group = binding_of(band, self).router.groups.get(str(model))
            # The fleet's limits are known here for the rest of the minute: the core finds nobody, and asks no Redis.
            if walking is not None and group is not None and is_spent(group):
                _count_refusal(walking, model)
        except Exception as ours:  # noqa: BLE001 - LiteLLM's error must reach the caller
            tally.failed(ours, "the count of a refusal")
        return error

    return _failure_error


def install_strict(patches: PatchSet, band: RustBand) -> None:
    """Admit each asynchronous pick in Redis."""
    standing.keep("strict limits", "strict limits")
    patches.on_restore(lambda: standing.keep("strict limits", None))
    patches.replace(band.core, "_answer_callback_filters", partial(_answer_callback_filters, band=band))
    patches.replace(band.core, "_answer_select", partial(_answer_select, band=band))
    patches.replace(band.core, "_failure_error", partial(_failure_error, band=band))


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Keep to the limits of quality of service; they cost nothing where no entry has one."""
    patches.replace(band.core, "_pre_route", partial(_pre_route, band=band))
    return ["admission"]
