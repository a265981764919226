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

from fast_router.engine import Engine, ModelGroup
from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.replaced_selectors import replaces
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["SPECIAL", "STRATEGIES", "Plan", "compile_plan", "options_of", "price_of", "watched_attributes"]

STRATEGIES = {
    "simple-shuffle": "simple_shuffle",
    "least-busy": "least_busy",
    "latency-based-routing": "latency_based",
    "cost-based-routing": "cost_based",
    "usage-based-routing": "usage_based",
    "usage-based-routing-v2": "usage_based",
}
"""LiteLLM's strategies by their names there, and here."""

# For these LiteLLM selects asynchronously; for any other it runs its synchronous selection.
_ASYNC = frozenset(STRATEGIES) - {"usage-based-routing"}

_SELECTORS = {
    "least-busy": ("leastbusy_logger", "LeastBusyLoggingHandler"),
    "latency-based-routing": ("lowestlatency_logger", "LowestLatencyLoggingHandler"),
    "cost-based-routing": ("lowestcost_logger", "LowestCostLoggingHandler"),
    "usage-based-routing": ("lowesttpm_logger", "LowestTPMLoggingHandler"),
    "usage-based-routing-v2": ("lowesttpm_logger_v2", "LowestTPMLoggingHandler_v2"),
}

# A request with one of these is not ordinary.
SPECIAL = frozenset(
    {
        "routing_strategy",
        "enable_tag_filtering",
        "_router_weights",
        "_target_order",
        "_excluded_deployment_ids",
        "_retry_skipped_deployment_ids",
    }
)
# Metadata that an earlier pass of the same request through LiteLLM's routing left behind: LiteLLM clears it.
_LEFT_BEHIND = frozenset(
    {
        "routing_decision",
        "_autorouter_baseline_route",
        "_session_deployment_affinity_ttl",
        "_consumed_request_tags",
        "_auto_routed_request",
        "_client_output_ceiling",
    }
)
_TEAM = frozenset({"user_api_key_team_id"})
_AUTH = frozenset({"user_api_key_auth"})

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
    names = {*_SETTINGS, *(name for name, _ in _ROUTER_FEATURES), *(names[0] for names in _SELECTORS.values())}
    return frozenset({*names, *(f"_core_{name}" for name in names), *band.stock_names()})


class Plan:
    """How one model name of one Router is picked, until the Router changes.

    Attributes:
        model: The name as requests say it.
        version: The binding's when this was compiled.
        listed: False for names that are not in the Router's lists: such a plan is made for one request.
        group: Who is picked from; None if the name stands for nothing that can be grouped.
        why: Why asynchronous picks cannot take the fast lane, None if they can.
        why_sync: The same for synchronous picks, for which LiteLLM runs fewer filters.
        short: `why` is None, and nothing but streaming matters about the request: the engine can be asked right away.
        short_sync: The same for synchronous picks.
        special: Request keys that send a request through LiteLLM's filters.
        gated: Metadata keys that do.
        asks: True if the pick needs to know about the request: streaming, or its tokens.
        streams: True if only whether it streams matters about the request.
        counts: True if a candidate has a tokens/minute limit that the strategy observes.
        services: True if LiteLLM reports these picks to `litellm.service_callback`.
        overlay: The name of our own strategy that takes the place of LiteLLM's simple-shuffle here.
    """

    __slots__ = (
        "acquire",
        "alias",
        "asks",
        "counts",
        "gated",
        "group",
        "listed",
        "model",
        "model_list",
        "options",
        "overlay",
        "peek",
        "services",
        "short",
        "short_sync",
        "size",
        "special",
        "strategy",
        "streams",
        "target",
        "version",
        "why",
        "why_sync",
    )

    def __init__(self, model: str, engine: Engine) -> None:
        self.model = model
        self.listed = True
        self.group: ModelGroup | None = None
        self.why: str | None = None
        self.why_sync: str | None = None
        self.short = False
        self.short_sync = False
        self.special = SPECIAL
        self.gated: frozenset[str] = frozenset()
        self.asks = False
        self.streams = False
        self.counts = False
        self.services = False
        self.overlay: str | None = None
        self.options: Mapping[str, Any] = {}
        # What every pick compares, see `selection`.
        self.version = -1
        self.model_list: Any = None
        self.size = -1
        self.strategy: Any = None
        self.alias: Any = None
        self.target: Any = None
        # The engine's, at hand.
        self.acquire = engine.acquire
        self.peek = engine.peek


class _NotFast(Exception):  # noqa: N818 - not an error: the reason why a plan has no fast lane
    pass


def compile_plan(binding: Binding, core: Any, model: str) -> Plan:
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
    plan.streams = plan.asks and plan.group is not None and plan.group.strategy == "latency_based" and not plan.counts
    plan.short = plan.why is None and plan.group is not None and (plan.streams or not plan.asks)
    plan.short_sync = plan.why_sync is None and plan.group is not None and (plan.streams or not plan.asks)
    return plan


def _resolve(binding: Binding, core: Any, plan: Plan) -> None:
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
    plan.asks = plan.counts or name == "latency_based" or name.endswith("_affinity")
    plan.services = plan.overlay is None and name != "simple_shuffle"
    if "continuation_deployments" in vars(band.module):
        # A stream that goes on elsewhere (1.109): some deployments cannot take up another's half of an answer.
        plan.special = plan.special | {"_mid_stream_continuation"}
    sync_why = _why_sync(binding, core, plan, entries)
    plan.why_sync = plan.why_sync or sync_why
    if plan.strategy not in _ASYNC:
        # LiteLLM answers asynchronous requests by its synchronous selection then.
        plan.why = plan.why or plan.why_sync
        return
    plan.why = plan.why or sync_why or _why_async(band, core, entries)
    clears = band.has("_stamp_or_clear_metadata_key") or band.has("_record_routing_decision")
    gated = set(_LEFT_BEHIND) if clears else set()
    if any((e.get("model_info") or {}).get("access_groups") for e in entries):
        gated |= _AUTH
    if _is_team_name(binding, core, model, resolved):
        gated |= _TEAM
    plan.gated = frozenset(gated)
    if any("supports_web_search" in (e.get("model_info") or {}) for e in entries):
        plan.special = plan.special | {"tools"}


def _entries(binding: Binding, core: Any, model: str) -> Sequence[Mapping[str, Any]]:
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
    binding: Binding, core: Any, plan: Plan, resolved: str, entries: Sequence[Mapping[str, Any]]
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
        selector = vars(core).get(_SELECTORS[name][0]) if name in _SELECTORS else None
    if name not in STRATEGIES:
        raise _NotFast(f"the strategy {name!r} is LiteLLM's alone")
    if name != "simple-shuffle":
        expected = _SELECTORS[name][1]
        if type(selector).__name__ != expected or not type(selector).__module__.startswith("litellm."):
            raise _NotFast("a strategy object of somebody else")
    options = options_of(selector)
    if options is None:
        raise _NotFast("strategy options that only LiteLLM has")
    if selector is not None:
        replaces(selector, binding)
    return STRATEGIES[name], options


def options_of(selector: Any) -> Mapping[str, Any] | None:
    """The options of a strategy object of LiteLLM's in our terms, None if it has some that we lack."""
    given = getattr(selector, "routing_args", None)
    if given is None or "Latency" not in type(selector).__name__:
        return {}
    if getattr(given, "ttft_percentile", None) is not None or getattr(given, "max_latency_list_size", 10) != 10:
        return None
    buffer = getattr(given, "lowest_latency_buffer", 0) or 0
    return {"lowest_latency_buffer": buffer} if buffer else {}


def _why_sync(binding: Binding, core: Any, plan: Plan, entries: Sequence[Mapping[str, Any]]) -> str | None:
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
        return _why_facade(core, plan, entries)
    return None


def _why_async(band: Band, core: Any, entries: Sequence[Mapping[str, Any]]) -> str | None:
    if band.read(core, "enable_tag_filtering"):
        return "tags"
    if any((entry.get("model_info") or {}).get("enable_tag_filtering") is not None for entry in entries):
        return "tags"
    return None


def _why_facade(core: Any, plan: Plan, entries: Sequence[Mapping[str, Any]]) -> str | None:
    """What the core of 1.109 filters by in addition."""
    discovery = vars(core).get("_core_kubernetes_pod_discovery")
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


def _is_team_name(binding: Binding, core: Any, *models: str) -> bool:
    """True if some team has deployments of its own under that public name: they come first for that team."""
    index = binding.band.read(core, "team_model_to_deployment_indices", default=None) or {}
    names = {key[1] for key in index if isinstance(key, tuple) and len(key) == 2}
    return not names.isdisjoint(models)


def price_of(entry: Mapping[str, Any]) -> float:
    """LiteLLM's price of a deployment for cost-based routing, except that a price of 0 is a price.

    Money per token, input and output added: from litellm_params, else LiteLLM's price list, else 5 for each.
    """
    import litellm  # noqa: PLC0415 - it is imported: its Router asks

    params = entry.get("litellm_params") or {}
    listed: Mapping[str, Any] | None = None
    total = 0.0
    for key in ("input_cost_per_token", "output_cost_per_token"):
        price = params.get(key)
        if price is None:
            if listed is None:
                listed = _listed_price(litellm, entry)
            price = listed.get(key)
        total += float(price) if isinstance(price, (int, float)) and not isinstance(price, bool) else 5.0
    return total


def _listed_price(litellm: Any, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    from litellm.router_strategy import lowest_cost  # noqa: PLC0415

    rates = getattr(lowest_cost, "_deployment_cost_map_rates", None)
    if rates is not None:
        given, taken = rates(entry)
        return {"input_cost_per_token": given, "output_cost_per_token": taken}
    found: Mapping[str, Any] = litellm.model_cost.get((entry.get("litellm_params") or {}).get("model"), {})
    return found
