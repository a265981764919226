"""The pick itself, in three lanes.

Fast: a compiled plan says that nothing special is in use, and the engine answers. Filtered: LiteLLM's own method
runs, with all its filters, errors and side effects, and only its last step, the strategy's choice among the
candidates that are left, is ours (see `choosing`). Delegated: LiteLLM decides everything.

What stands in the place of LiteLLM's selection methods is a plain function each; the fast lane in it makes no
closure, copies nothing and logs nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.engine import Ask
from fast_router.litellm_plugin.picks.binding import bind
from fast_router.litellm_plugin.picks.filtered import Filtered, filtered_pick, install_choice
from fast_router.litellm_plugin.picks.guard import COMPACTION, Guard
from fast_router.litellm_plugin.picks.reasons import watched_attributes
from fast_router.litellm_plugin.picks.watch import announced, watched_delete, watched_write
from fast_router.litellm_plugin.request import here
from fast_router.litellm_plugin.router_state import KEY
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_NEVER = float("inf")
_PASS_THROUGH = "pass-through"
_STREAMED = Ask((), 0.0, True)


# -- the replacements --------------------------------------------------------------------------------------


# Both hold the shortest way written out: a call saved here is a tenth of the pick.


def _asynchronous(selection: Guard, original: Any) -> Any:
    verdict = selection.verdict
    litellm = selection.litellm
    marked = selection.marked
    context = here.get

    async def longer(
        self: Any, model: Any, request_kwargs: Any, messages: Any, text: Any, specific_deployment: Any
    ) -> Any:
        decided = selection.decided(
            self, model, request_kwargs, (messages, text), specific=specific_deployment, synchronous=False
        )
        if decided is not None and not isinstance(decided, Filtered):
            return decided
        with filtered_pick(decided, self) as pick:
            return pick.settled(
                await original(
                    self,
                    model=model,
                    request_kwargs=request_kwargs,
                    messages=messages,
                    input=text,
                    specific_deployment=specific_deployment,
                )
            )

    async def async_get_available_deployment(
        self: Any,
        model: Any,
        request_kwargs: Any,
        messages: Any = None,
        input: Any = None,  # noqa: A002
        specific_deployment: Any = False,
    ) -> Any:
        try:
            state = self.__dict__.get(KEY)
            binding: Any = None if state is None else state.binding
            plan = None if binding is None else binding.plans.get(model)
            attempt = context().attempt
            if (
                plan is not None
                and plan.short
                and (attempt is None or attempt.fresh)
                and plan.version == binding.version
                and len(plan.model_list) == plan.size
                and (not plan.alias or plan.alias.get(model) is plan.target)
                and verdict.seen == litellm.callbacks
                and (verdict.clear or (verdict.why is None and request_kwargs.keys().isdisjoint(verdict.keys)))
                and not specific_deployment
                and not binding.detour
                and (binding.redis_due == _NEVER or binding.redis_due > binding.engine.clock())
                and not (plan.services and litellm.service_callback)
                and (marked is None or not marked())
                and request_kwargs.keys().isdisjoint(plan.special)
            ):
                gated = plan.gated
                compaction = request_kwargs.get(COMPACTION)
                metadata = request_kwargs.get("metadata")
                internal = request_kwargs.get("litellm_metadata")
                if (
                    (compaction is None or compaction.config is None)
                    and (not metadata or (type(metadata) is dict and metadata.keys().isdisjoint(gated)))
                    and (not internal or (type(internal) is dict and internal.keys().isdisjoint(gated)))
                ):
                    ask = _STREAMED if plan.streams and request_kwargs.get("stream") is True else None
                    if attempt is None:
                        deployment = plan.peek(plan.group, ask)
                        if deployment is not None:
                            tally.fast += 1
                            return deployment.entry
                    else:
                        lease = plan.acquire(plan.group, ask)
                        if lease is not None:
                            attempt.lease = lease
                            lease.deployment.attempts.add(attempt)
                            attempt.fresh = False
                            tally.fast += 1
                            return lease.deployment.entry
        except Exception as error:  # noqa: BLE001 - the longer way begins anew
            tally.failed(error, "a pick")
        binding = selection.layers(self)
        if binding is not None and binding.around is not None:
            return await binding.around(longer, self, model, request_kwargs, messages, input, specific_deployment)
        return await longer(self, model, request_kwargs, messages, input, specific_deployment)

    return async_get_available_deployment


def _synchronous(selection: Guard, original: Any) -> Any:
    marked = selection.marked
    context = here.get

    def longer(self: Any, model: Any, messages: Any, text: Any, specific_deployment: Any, request_kwargs: Any) -> Any:
        decided = selection.decided(
            self, model, request_kwargs, (messages, text), specific=specific_deployment, synchronous=True
        )
        if decided is not None and not isinstance(decided, Filtered):
            return decided
        with filtered_pick(decided, self) as pick:
            return pick.settled(
                original(
                    self,
                    model=model,
                    messages=messages,
                    input=text,
                    specific_deployment=specific_deployment,
                    request_kwargs=request_kwargs,
                )
            )

    def get_available_deployment(
        self: Any,
        model: Any,
        messages: Any = None,
        input: Any = None,  # noqa: A002
        specific_deployment: Any = False,
        request_kwargs: Any = None,
    ) -> Any:
        try:
            state = self.__dict__.get(KEY)
            binding: Any = None if state is None else state.binding
            plan = None if binding is None else binding.plans.get(model)
            attempt = context().attempt
            if (
                plan is not None
                and plan.short_sync
                and (attempt is None or attempt.fresh)
                and plan.version == binding.version
                and len(plan.model_list) == plan.size
                and (not plan.alias or plan.alias.get(model) is plan.target)
                and not specific_deployment
                and not binding.detour
                and (binding.redis_due == _NEVER or binding.redis_due > binding.engine.clock())
                and (marked is None or not marked())
                # What its metadata may hold that matters, `decide` looks at.
                and (
                    request_kwargs is None
                    or (
                        request_kwargs.keys().isdisjoint(plan.special)
                        and not (plan.gated and ("metadata" in request_kwargs or "litellm_metadata" in request_kwargs))
                    )
                )
            ):
                ask = _STREAMED if plan.streams and request_kwargs and request_kwargs.get("stream") is True else None
                if attempt is None:
                    deployment = plan.peek(plan.group, ask)
                    if deployment is not None:
                        tally.fast += 1
                        return deployment.entry
                else:
                    lease = plan.acquire(plan.group, ask)
                    if lease is not None:
                        attempt.lease = lease
                        lease.deployment.attempts.add(attempt)
                        attempt.fresh = False
                        tally.fast += 1
                        return lease.deployment.entry
        except Exception as error:  # noqa: BLE001 - the longer way begins anew
            tally.failed(error, "a pick")
        binding = selection.layers(self)
        if binding is not None and binding.around_sync is not None:
            return binding.around_sync(longer, self, model, messages, input, specific_deployment, request_kwargs)
        return longer(self, model, messages, input, specific_deployment, request_kwargs)

    return get_available_deployment


def _async_pass_through(selection: Guard, original: Any) -> Any:
    async def async_get_available_deployment_for_pass_through(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        with filtered_pick(_pass_through(selection, self, model), self) as pick:
            return pick.settled(await original(self, model, *args, **kwargs))

    return async_get_available_deployment_for_pass_through


def _sync_pass_through(selection: Guard, original: Any) -> Any:
    def get_available_deployment_for_pass_through(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        with filtered_pick(_pass_through(selection, self, model), self) as pick:
            return pick.settled(original(self, model, *args, **kwargs))

    return get_available_deployment_for_pass_through


def _pass_through(selection: Guard, core: Any, model: Any) -> Filtered | None:
    """Pass-through picks always run LiteLLM's pipeline: it alone knows who may pass through."""
    try:
        if not selection.patches.active or not isinstance(model, str):
            return None
        binding = bind(core, selection.band)
        plan = binding.plan_for(core, model)
        return Filtered(binding, plan, here.get().attempt, _PASS_THROUGH)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own pick answers
        tally.failed(error, "a pass-through pick")
        return None


def install(patches: PatchSet, band: Band) -> list[str]:
    """Pick for every Router."""
    selection = Guard(patches, band)
    for name, make in (
        ("async_get_available_deployment", _asynchronous),
        ("get_available_deployment", _synchronous),
        ("async_get_available_deployment_for_pass_through", _async_pass_through),
        ("get_available_deployment_for_pass_through", _sync_pass_through),
    ):
        if band.has(name):
            patches.replace(band.core, band.slot(name), partial(make, selection))
    for name in ("_invalidate_access_groups_cache", "_invalidate_model_group_info_cache"):
        if band.has(name):
            patches.replace(band.core, band.slot(name), announced)
    watched = watched_attributes(band)
    patches.replace(band.core, "__setattr__", lambda original: watched_write(original, watched))
    patches.replace(band.core, "__delattr__", lambda original: watched_delete(original, watched))
    install_choice(patches, band)
    return ["selection"]
