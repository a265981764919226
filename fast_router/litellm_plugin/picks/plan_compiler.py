"""From a Router to a plan: which deployments a model name means now, and whether anything special is in use.

LiteLLM's own function says which deployments a name stands for, so aliases, routing groups and its quirks are
followed exactly. A plan has a fast lane if no step of LiteLLM's pipeline between that list and the strategy could
change anything for an ordinary request; what an ordinary request is, `special` and `gated` say: keys whose presence
sends a request through LiteLLM's own filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any

from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.plan import AUTH, LEFT_BEHIND, TEAM, Plan
from fast_router.litellm_plugin.picks.reasons import is_team_name, why_async, why_sync
from fast_router.litellm_plugin.picks.replaced_selectors import replaces
from fast_router.litellm_plugin.picks.request_facts import asks
from fast_router.litellm_plugin.strategy_names import ASYNC, SELECTORS, STRATEGIES, options_of
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.engine import ModelGroup
    from fast_router.litellm_plugin.picks.plan import Picks

__all__ = ["compile_plan"]


class _NotFast(Exception):  # noqa: N818 - not an error: the reason why a plan has no fast lane
    pass


def compile_plan(binding: Picks, core: Any, model: str) -> Plan:
    """Compile the plan of `model`, whatever it is; never raises for what a Router may hold."""
    band = binding.band
    plan = Plan(model, binding.engine)
    # Read before anything else: a change during the compilation then makes this plan outdated.
    plan.version = binding.version
    read = band.read
    plan.model_list = read(core, "model_list")
    plan.size = len(plan.model_list or ())
    plan.strategy = read(core, "routing_strategy")
    plan.alias = read(core, "model_group_alias")
    alias, groups = plan.alias or {}, read(core, "routing_groups", "_routing_groups") or {}
    plan.target = alias.get(model) if isinstance(alias, Mapping) else None
    try:
        if model not in (read(core, "model_names", default=()) or ()) and model not in alias and model not in groups:
            plan.listed = False
            raise _NotFast("the name is not in the model list")  # noqa: TRY301 - control flow, not an error
        _resolve(binding, core, plan)
    except _NotFast as reason:
        plan.why = plan.why or str(reason)
        plan.why_sync = plan.why_sync or str(reason)
    except FastRouterError as error:
        # A pick must not fail for it, so it is said where an operator looks, once per change of the Router.
        LOGGER.warning("fast_router: the model %r is left to LiteLLM: %s", model, error)
        plan.why = plan.why_sync = f"a mistake in the configuration ({type(error).__name__})"
    # Whether the answer is streamed is all that latency-based picks want to know, and the shortest way can tell.
    plan.streams = plan.asks and plan.group is not None and _only_streams(plan.group) and not plan.counts
    plan.short = plan.why is None and plan.group is not None and (plan.streams or not plan.asks)
    plan.short_sync = plan.why_sync is None and plan.group is not None and (plan.streams or not plan.asks)
    return plan


def _only_streams(group: ModelGroup) -> bool:
    return group.reads_streams and not group.reads_sessions and not group.reads_prompts


def _resolve(binding: Picks, core: Any, plan: Plan) -> None:
    band = binding.band
    model = plan.model
    entries = _entries(binding, core, model)
    resolved = _alias_target(plan) or model
    name, options = _strategy(binding, core, plan, resolved, entries)
    plan.options = options
    routable = [e for e in entries if not _blocked(e)] if band.has("_filter_blocked_deployments") else list(entries)
    if not routable:
        raise _NotFast("every deployment is blocked")
    plan.group = binding.group(resolved, name, options, routable)
    tiers = plan.group.tiers.values()
    limits = any(tier.respects_limits for tier in tiers)
    plan.counts = limits and any(d.tpm is not None for d in plan.group.members)
    plan.asks = plan.counts or asks(plan.group)
    plan.services = plan.overlay is None and name != "simple_shuffle"
    if "continuation_deployments" in vars(band.module):
        # A stream that goes on elsewhere (1.109): some deployments cannot take up another's half of an answer.
        plan.special = plan.special | {"_mid_stream_continuation"}
    sync_why = why_sync(binding, core, plan, entries)
    plan.why_sync = plan.why_sync or sync_why
    if plan.strategy not in ASYNC:
        # LiteLLM answers asynchronous requests by its synchronous selection then.
        plan.why = plan.why or plan.why_sync
        return
    plan.why = plan.why or sync_why or why_async(band, core, entries)
    clears = band.has("_stamp_or_clear_metadata_key") or band.has("_record_routing_decision")
    gated = set(LEFT_BEHIND) if clears else set()
    if any((e.get("model_info") or {}).get("access_groups") for e in entries):
        gated |= AUTH
    if is_team_name(binding, core, model, resolved):
        gated |= TEAM
    plan.gated = frozenset(gated)
    if any("supports_web_search" in (e.get("model_info") or {}) for e in entries):
        plan.special = plan.special | {"tools"}


def _entries(binding: Picks, core: Any, model: str) -> Sequence[Mapping[str, Any]]:
    """What LiteLLM says the name stands for: dicts of `router.model_list` themselves."""
    band = binding.band
    ask = getattr(core, band.slot("_common_checks_available_deployment"))
    try:
        # In a context of its own: what the running request has set must not colour a plan for all of them.
        _, found = Context().run(lambda: ask(model=model, request_kwargs={}))
    except Exception as error:
        raise _NotFast("the name resolves to nothing") from error
    if isinstance(found, dict):
        raise _NotFast("the name is a single deployment")
    index = vars(core).get("model_id_to_deployment_index_map") or {}
    model_list = binding.band.read(core, "model_list") or []
    for entry in found:
        at = index.get((entry.get("model_info") or {}).get("id"))
        if not isinstance(at, int) or at >= len(model_list) or model_list[at] is not entry:
            raise _NotFast("deployments that LiteLLM rewrites per request")
    return list(found)


def _alias_target(plan: Plan) -> str | None:
    target = plan.target
    if isinstance(target, Mapping):
        target = target.get("model")
    return target if isinstance(target, str) else None


def _blocked(entry: Mapping[str, Any]) -> bool:
    return (entry.get("model_info") or {}).get("blocked") is True


def _strategy(
    binding: Picks, core: Any, plan: Plan, resolved: str, entries: Sequence[Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any]]:
    """The strategy of the group here, and its options; notes an overlay in the plan."""
    band = binding.band
    own = strategies_by_name.of_model(entries) or strategies_by_name.of_router(core, band, resolved)
    if own is not None:
        plan.overlay = own[0]
        return own
    if band.has("_get_routing_context"):
        name, selector = band.call(core, "_get_routing_context", plan.model)
    else:
        name = plan.strategy if isinstance(plan.strategy, str) else None
        selector = vars(core).get(SELECTORS[name][0]) if name in SELECTORS else None
    if name not in STRATEGIES:
        raise _NotFast(f"the strategy {name!r} is LiteLLM's alone")
    if name != "simple-shuffle":
        expected = SELECTORS[name][1]
        if type(selector).__name__ != expected or not type(selector).__module__.startswith("litellm."):
            raise _NotFast("a strategy object of somebody else")
    options = options_of(selector)
    if options is None:
        raise _NotFast("strategy options that only LiteLLM has")
    if selector is not None:
        replaces(selector, binding)
    return STRATEGIES[name], options
