"""A failure handed over without a look at the whole group: the walk is told whom to take.

The core's filters, its read of cooldowns and its shuffle go through every member, several times per retry. For a group
that has a lane they say nothing that our engine does not know. Before each pick the core asks its host whether
somebody was chosen already: for the attempt that the lane has made that is the deployment that it called, and for the
retries that follow, with failover on, whom our engine picks. What the walk makes of it all stays LiteLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.rust_core import steps
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.rust_core.lane.beside import acquire_other
from fast_router.litellm_plugin.rust_core.lane.replay import Replay, replaying
from fast_router.litellm_plugin.rust_core.lane.retry import Walked
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Lease
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.lane.lane import Lane

__all__ = ["install"]


def _replay(core: Any, step: Mapping[str, Any]) -> Replay | None:
    """What is handed over to the walk that picks now, if this is the pick of a group with a lane."""
    replay = replaying()
    if replay is None or step.get("model") != replay.model or step.get("fallback_depth"):
        return None
    return replay if replay.found.holds(core) else None


def _chosen(lane: Lane, core: Any, step: Mapping[str, Any]) -> Any:
    """The deployment to take, as the core keeps it; None if the core is to choose."""
    try:
        replay, walking = _replay(core, step), steps.current_walk()
        if replay is None or walking is None:
            return None
        if replay.walk is None and not replay.done:
            replay.walk = walking
            walking.drop()
            walking.attempt, walking.counted, walking.kept = replay.attempt, replay.attempt, None
            replay.attempt.ledger = walking.ledger
            id_ = replay.id
        else:
            lease = _again(lane, core, replay, walking)
            if lease is None:
                return None
            id_ = lease.id
        walking.preferred, walking.picking, walking.picks_for = True, None, None
        return replay.found.handle.deployment(id_)
    except Exception as error:  # noqa: BLE001 - the core chooses
        tally.failed(error, "a retry's pick")
        return None


def _again(lane: Lane, core: Any, replay: Replay, walking: steps.Walk) -> Lease | None:
    """A lease for a retry, None where more than our engine has a say in it."""
    ledger, group = walking.ledger, replay.found.group
    failover = ledger.failover
    if walking is not replay.walk or not replay.done or failover is None or group is None or group.only is None:
        return None
    if failover.policy.dead or failover.policy.disputed:
        return None
    binding = binding_of(lane.band, core)
    if replay.found.seen != binding.version:
        return None
    lease = acquire_other(binding.engine, group, ledger, lane.asked(binding, core, replay.found, ledger.request or {}))
    if lease is not None:
        walking.next_attempt(replay.model).take(lease)
        walking.kept = replay.found.ids
    return lease


def _pre_route(original: Any, lane: Lane) -> Any:
    async def _pre_route(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = _chosen(lane, self, step)
        return chosen if chosen is not None else await original(self, step, *args, **kwargs)

    return _pre_route


def _custom_pick_sync(original: Any, lane: Lane) -> Any:
    def _custom_pick_sync(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = _chosen(lane, self, step)
        return chosen if chosen is not None else original(self, step, *args, **kwargs)

    return _custom_pick_sync


def _routing_inputs(original: Any) -> Any:
    def _routing_inputs(self: Any, plan: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, plan, *args, **kwargs)
        replay = replaying()
        if replay is None:
            return found
        if plan.sync:
            # Otherwise a synchronous walk does not ask.
            found = {**found, "pre_routes": True}
        replay.inputs = None if replay.done else found
        return found

    return _routing_inputs


def _walked(core: Any, plan: Any, call: Any) -> Any:
    """The core's call, or one that knows how the core retries."""
    replay = replaying()
    if replay is None or replay.inputs is None:
        return call
    inputs, replay.inputs = replay.inputs, None
    if replay.done or inputs.get("model") != replay.model or not replay.found.holds(core):
        return call
    return Walked(call, core, replay.found, plan.endpoint, inputs, replay.id)


def _run(original: Any) -> Any:
    async def _run(self: Any, plan: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
        return await original(self, plan, _walked(self, plan, call), *args, **kwargs)

    return _run


def _run_sync(original: Any) -> Any:
    def _run_sync(self: Any, plan: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, plan, _walked(self, plan, call), *args, **kwargs)

    return _run_sync


def _usage_read_scope(original: Any) -> Any:
    def _usage_read_scope(self: Any, *args: Any, **kwargs: Any) -> Any:
        # It is for a read of the whole group's counters, which no pick here makes.
        return nullcontext() if replaying() is not None else original(self, *args, **kwargs)

    return _usage_read_scope


def _is_prompt_management_model(original: Any) -> Any:
    def is_prompt_management_model(core: Any, model: Any) -> Any:
        replay = replaying()
        # The guard has asked, of the whole group.
        return False if replay is not None and model == replay.model else original(core, model)

    return is_prompt_management_model


def _deployment_tracks_usage(original: Any) -> Any:
    def deployment_tracks_usage(self: Any, deployment_id: Any, model_group: Any) -> Any:
        replay = replaying()
        if replay is not None and replay.found.holds(self):
            # LiteLLM remembers its verdict for a few deployments only.
            for stream in (False, True):
                template = replay.found.templates.get((deployment_id, stream))
                if template is not None and template.model == model_group:
                    return template.tracks
        return original(self, deployment_id, model_group)

    return deployment_tracks_usage


def install(patches: PatchSet, lane: Lane) -> None:
    """Tell walks that take over a failure of the lane whom to take."""
    core = lane.band.core
    prompts = import_module("litellm.router_rust.invoke.prompt_management")
    patches.replace(core, "_pre_route", lambda original: _pre_route(original, lane))
    patches.replace(core, "_custom_pick_sync", lambda original: _custom_pick_sync(original, lane))
    patches.replace(core, "_routing_inputs", _routing_inputs)
    patches.replace(core, "_run", _run)
    patches.replace(core, "_run_sync", _run_sync)
    patches.replace(core, "_usage_read_scope", _usage_read_scope)
    patches.replace(core, "deployment_tracks_usage", _deployment_tracks_usage)
    patches.replace(prompts, "is_prompt_management_model", _is_prompt_management_model)
