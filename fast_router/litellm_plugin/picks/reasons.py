"""Why a pick cannot take the fast lane: what LiteLLM would look at between the list and the strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.picks.callback_filters import why_filters
from fast_router.litellm_plugin.picks.plan import Plan
from fast_router.litellm_plugin.strategy_names import SELECTORS

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.picks.plan import Picks

__all__ = ["is_team_name", "may_leave_one", "watched_attributes", "why_async", "why_sync"]


# What a deployment's model_info can ask of LiteLLM's filters, with the word for the status.
_INFO_FEATURES = (
    ("team_id", "teams"),
    ("access_windows", "access windows"),
    ("enable_tag_filtering", "tags"),
    ("ptu_shares", "PTU shares"),
    ("enforce_supported_endpoints", "enforced endpoints"),
    ("max_embedding_batch_size", "embedding batch size"),
)


_SETTINGS = (
    "model_list",
    "model_names",
    "model_group_alias",
    "routing_strategy",
    "routing_groups",
    "_routing_groups",
    "default_deployment",
    "cooldown_cache",
    "cache",
)


_ROUTER_FEATURES = (
    ("enable_pre_call_checks", "pre-call checks"),
    ("enable_tag_filtering", "tags"),
    ("enable_health_check_routing", "health-check routing"),
    ("routing_plugins", "routing plugins"),
    ("auto_routers", "auto routers"),
    ("complexity_routers", "auto routers"),
    ("adaptive_routers", "auto routers"),
    ("quality_routers", "auto routers"),
    ("_request_scoped_selectors", "request-scoped callbacks"),
    ("_request_scoped_policies", "request-scoped callbacks"),
)


def watched_attributes(band: Band) -> frozenset[str]:
    """What makes plans outdated when it is assigned to a Router: settings, and methods of the pipeline."""
    names = {*_SETTINGS, *(name for name, _ in _ROUTER_FEATURES), *(names[0] for names in SELECTORS.values())}
    return frozenset({*(spelled for name in names for spelled in band.spellings(name)), *band.stock_names()})


def why_sync(binding: Picks, core: Any, plan: Plan, entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Reasons that hold for LiteLLM's synchronous selection, which has the fewer filters."""
    band = binding.band
    if not band.fast_lane:
        return "a routing code of LiteLLM's that was not checked against"
    state = vars(core)
    cls = type(core)
    for name in band.stock_names():
        if name in state:
            return "a method replaced on the Router"
        if cls is not band.core and any(name in vars(c) for c in cls.__mro__[: cls.__mro__.index(band.core)]):
            return "a Router subclass with a pipeline of its own"
    for name, word in _ROUTER_FEATURES:
        if name != "enable_tag_filtering" and band.read(core, name):
            return word
    for entry in entries:
        info = entry.get("model_info") or {}
        for key, word in _INFO_FEATURES:
            if key != "enable_tag_filtering" and info.get(key) is not None:
                return word
    if band.facade:
        return _why_facade(band, core, plan, entries)
    return None


def why_async(band: Band, core: Any, entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Reasons that hold for LiteLLM's asynchronous selection only."""
    if band.read(core, "enable_tag_filtering"):
        return "tags"
    if any((entry.get("model_info") or {}).get("enable_tag_filtering") is not None for entry in entries):
        return "tags"
    return None


_FILTERS = ("enable_pre_call_checks", "enable_tag_filtering", "routing_plugins")


def may_leave_one(band: Band, core: Any, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether LiteLLM's filters may leave a request a single one of these deployments.

    Args:
        band: This LiteLLM.
        core: The Router's core.
        entries: A group's entries of the model list.
    """
    import litellm  # noqa: PLC0415 - it is there when a Router is

    if any(band.read(core, name) for name in _FILTERS):
        return True
    for entry in entries:
        info, params = entry.get("model_info") or {}, entry.get("litellm_params") or {}
        # Tags count without the Router's setting, too: a request may ask for it.
        if params.get("tags") or any(info.get(key) is not None for key, _ in _INFO_FEATURES):
            return True
    return any(why_filters(callback) is not None for callback in litellm.callbacks)


def _why_facade(band: Band, core: Any, plan: Plan, entries: Sequence[Mapping[str, Any]]) -> str | None:
    """What the core of 1.109 filters by in addition."""
    discovery = band.read(core, "kubernetes_pod_discovery")
    eligible = getattr(discovery, "_eligible", None)
    if eligible is not None and any(eligible(entry) is not None for entry in entries):
        return "Kubernetes pod discovery"
    if any((entry.get("model_info") or {}).get("mode") == "batch" for entry in entries):
        return "batch deployments"
    blind = getattr(type(core), "_deployment_declares_no_vision", None)
    if blind is not None and len(entries) > 1:
        verdicts = {bool(blind(entry, plan.model)) for entry in entries}
        if len(verdicts) > 1:
            return "deployments without vision"
    return None


def is_team_name(binding: Picks, core: Any, *models: str) -> bool:
    """True if some team has deployments of its own under that public name: they come first for that team."""
    index = binding.band.read(core, "team_model_to_deployment_indices", default=None) or {}
    names = {key[1] for key in index if isinstance(key, tuple) and len(key) == 2}
    return not names.isdisjoint(models)
