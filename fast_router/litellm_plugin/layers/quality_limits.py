"""Admission by quality-of-service limits: over the limit, the next best; all over it, 503 with Retry-After.

The engine holds a deployment that is at its limit, so a pick goes elsewhere by itself. What is left is the moment in
which nobody has room: LiteLLM would then send the request to a deployment that refuses it. Here it waits as often as
the entry says (`model_info.fast_router.retries`, `retry_countdown` seconds apart) and is then refused as busy. Places
are kept for callers who were refused (`kept_places`), so that none has all of them while others get none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_router.deployment_options import DeploymentOptions, options_of
from fast_router.engine.deployment import CLOSED, FULL, QOS
from fast_router.errors import ConfigurationError
from fast_router.litellm_plugin.layers.kept_places import kept_places_of
from fast_router.litellm_plugin.layers.stack import Around, Installed, Pick, plug
from fast_router.litellm_plugin.litellm_errors import busy
from fast_router.litellm_plugin.request import caller_here, here
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Hashable

    from fast_router.engine import Deployment, ModelGroup
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["RETRY_AFTER", "Rule", "has_room", "install", "limited", "rule_of"]

RETRY_AFTER = 10
"""Seconds that the answer's Retry-After names."""
_OVER = FULL | QOS | CLOSED


class Rule(NamedTuple):
    """What one group's limits ask for: `retries` pauses of `countdown` seconds before a request is refused."""

    binding: Binding
    group: ModelGroup
    retries: int
    countdown: float


def limited(entry: Mapping[str, Any]) -> DeploymentOptions | None:
    """What a model-list entry says about its limit, None if it has none."""
    try:
        said = options_of(entry)
    except ConfigurationError:
        return None  # LiteLLM has it then, which is said when it is compiled
    return said if said.qos_limit is not None else None


def install(patches: PatchSet, band: Band) -> list[str]:
    """Let asynchronous picks keep to the limits, in Routers with an entry that has one."""
    plug(patches, band, Around.PICK, "admission", Installed(_wanted, _around))
    return ["admission"]


def _wanted(binding: Binding, core: Any) -> bool:
    entries = binding.band.read(core, "model_list") or ()
    if any(isinstance(entry, Mapping) and limited(entry) is not None for entry in entries):
        return True
    if binding.kept is not None:
        binding.kept.clear()
    return False


def _around(inner: Pick, binding: Binding) -> Pick:
    rules: dict[str, tuple[ModelGroup, Rule | None]] = {}

    def current_rule(core: Any, model: Any) -> Rule | None:
        group = binding.plan_for(core, model).group if isinstance(model, str) else None
        if group is None:
            return None
        known = rules.get(model)
        if known is None or known[0] is not group:
            known = rules[model] = (group, rule_of(binding, group))
        return known[1]

    async def admitted(lane: Any, core: Any, model: Any, *rest: Any) -> Any:
        rule = None
        try:
            rule = current_rule(core, model)
        except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
            tally.failed(error, "the admission of a request")
        if rule is None:
            return await inner(lane, core, model, *rest)
        request = rest[0] if rest and isinstance(rest[0], dict) else {}
        for left in range(rule.retries, -1, -1):
            if has_room(rule, caller_here(request)):
                picked = await inner(lane, core, model, *rest)
                if not _handed_back(rule, picked):
                    return picked
            if left:
                await asyncio.sleep(rule.countdown)
                # The Router may have changed meanwhile: whoever was added has room.
                rule = current_rule(core, model) or rule
        tally.event("refused", model)
        raise busy(model, retry_after=RETRY_AFTER, final=True)

    return admitted


def rule_of(binding: Binding, group: ModelGroup) -> Rule | None:
    """What a group's entries say about its limits, None if none has one."""
    said = [found for found in map(limited, (member.entry for member in group.members)) if found is not None]
    if not said:
        return None
    return Rule(binding, group, max(one.retries for one in said), max(one.retry_countdown for one in said))


def has_room(rule: Rule, caller: Hashable | None) -> bool:
    """Tell whether a caller may have a place, or nobody may for a reason of LiteLLM's, which LiteLLM tells."""
    rule.binding.engine.settle()
    held = [member.held for member in rule.group.members]
    full = all(held) and any(bits & _OVER for bits in held)
    try:
        kept = kept_places_of(rule.binding)
        if not full and kept.admits(rule.group, caller):
            return True
        kept.refused(rule.group, caller)
    except Exception as error:  # noqa: BLE001 - the limit itself is kept all the same
        tally.failed(error, "the places kept for others")
        return not full
    return False


def _handed_back(rule: Rule, picked: Any) -> bool:
    """Give up a pick over the limit: made by LiteLLM because the last place had just gone."""
    deployment: Deployment | None = rule.binding.known(picked)
    attempt = here.get().attempt
    lease = attempt.lease if attempt is not None else None
    if deployment is None or attempt is None or lease is None or lease.deployment is not deployment:
        return False
    limit = deployment.max_parallel
    if not (deployment.held & (QOS | CLOSED) or (limit is not None and deployment.in_flight > limit)):
        return False
    lease.release(cancelled=True)
    deployment.attempts.discard(attempt)
    attempt.lease = None
    return True
