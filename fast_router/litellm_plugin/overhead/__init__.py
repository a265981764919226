"""The Router's own cost around a pick, taken down without a change in what it does.

One module an idea. Each has `install`, relies only on functions whose source it knows (`shapes`) and
can be switched off by its name in ``FAST_ROUTER_DISABLED_FEATURES``:

==================  ===============================================================================
usage_verdict       "no limit, nothing to count", remembered per deployment
success_callback    the success callback's lookups remembered
response_headers    the group's remaining limits without a key per deployment and response
model_lists         `get_model_list` for a length or a flag
custom_prices       prices that are registered already are not registered again
token_counting      no tokens counted where no candidate has a token limit
pre_call_checks     the deployments' static facts remembered
cooldown_read       only deployments that may rest are looked up
memory_reads        the in-memory cache decodes text only
wildcards           quick copies of a wildcard group's deployments
print_deployment    quick copies for log lines
service_hooks       no task for a service hook that nobody listens to
answer_headers      an answer's headers written without pydantic's detours
hidden_params       an answer's hidden parameters found without pydantic's detours
clients             no search for clients and slots that nobody made
deployment_objects  a deployment's pydantic objects copied instead of validated anew
access_groups       a model's access groups asked for only where a deployment is in one
proxy_questions     the proxy's questions to its whole fleet, where nobody has what it asks for
absent_modules      packages that are not there, not looked for with every request
minute_counts       requests and successes of the minute counted where they lie
awaitable_answers   an answer of pydantic's is nothing to await
deployment_marks    what a pick has written into a request is found directly
fallback_hops       a request's arguments are not copied to see whether it is a fallback's hop
metadata_names      under which name a function's metadata travels, remembered
mock_testing        test flags read only where a request has one
token_reservations  reserved tokens looked for only where they can be
trace_spans         the same for a running trace
startup_heap        full garbage collections of the proxy without its start-up objects
strategy_state      LiteLLM's strategies note nothing while we choose in their place
price_map           the price map's index extended, not rebuilt (Router construction)
==================  ===============================================================================
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_enabled
from fast_router.litellm_plugin.bands.member_names import Names
from fast_router.litellm_plugin.overhead import books
from fast_router.litellm_plugin.overhead.answer import group_usage, headers, hidden_params, success
from fast_router.litellm_plugin.overhead.construction import custom_prices, deployments, model_lists, price_map
from fast_router.litellm_plugin.overhead.construction.prices import PriceClock
from fast_router.litellm_plugin.overhead.lookups import LookupService
from fast_router.litellm_plugin.overhead.proxy import absent_modules, proxy_questions, startup_heap
from fast_router.litellm_plugin.overhead.request import (
    clients,
    cooldown_read,
    copies,
    counts,
    memory,
    precall,
    questions,
    service_hooks,
    tokens,
    usage,
)
from fast_router.litellm_plugin.overhead.strategies import strategy_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURES", "install"]

FEATURES = (
    usage.FEATURE,
    success.FEATURE,
    group_usage.FEATURE,
    model_lists.FEATURE,
    custom_prices.FEATURE,
    tokens.FEATURE,
    precall.FEATURE,
    cooldown_read.FEATURE,
    memory.FEATURE,
    copies.WILDCARDS,
    copies.PRINT,
    service_hooks.FEATURE,
    headers.FEATURE,
    hidden_params.FEATURE,
    clients.FEATURE,
    counts.FEATURE,
    deployments.FEATURE,
    proxy_questions.ACCESS_GROUPS,
    proxy_questions.FEATURE,
    absent_modules.FEATURE,
    startup_heap.FEATURE,
    questions.AWAITABLE,
    questions.HOPS,
    questions.MARKS,
    questions.METADATA,
    questions.MOCKS,
    questions.RESERVATIONS,
    questions.TRACES,
    strategy_state.FEATURE,
    price_map.FEATURE,
)

_log = logging.getLogger("fast_router")


def install(patches: PatchSet, band: Band) -> list[str]:
    """Install every feature that is switched on and that this LiteLLM has the shape for.

    Returns:
        The names of the features that are on. One that fails leaves the others alone.
    """
    core = band.core
    litellm = importlib.import_module("litellm")
    utils = importlib.import_module("litellm.utils")
    names = Names.of(core)
    prices = PriceClock(utils)
    service = LookupService(litellm, names, prices)
    books.new_epoch()
    remembers = _safely(books.FEATURE, patches, lambda: _foundation(patches, band, prices, utils))
    parts = _parts()
    module = sys.modules[core.__module__]
    steps: dict[str, Callable[[], list[str]]] = {
        custom_prices.FEATURE: partial(custom_prices.install, patches, litellm, prices, core),
        tokens.FEATURE: partial(tokens.install, patches, _handlers()),
        cooldown_read.FEATURE: partial(cooldown_read.install, patches, module, parts.InMemoryCache),
        memory.FEATURE: partial(memory.install, patches, parts.InMemoryCache),
        copies.WILDCARDS: lambda: copies.install_wildcards(patches, _pattern_router()),
        copies.PRINT: partial(copies.install_print, patches, core),
        service_hooks.FEATURE: lambda: service_hooks.install(
            patches,
            litellm,
            importlib.import_module("litellm._service_logger").ServiceLogging,
            module,
        ),
        headers.FEATURE: partial(headers.install, patches, module),
        hidden_params.FEATURE: partial(hidden_params.install, patches),
        clients.FEATURE: lambda: clients.install(patches, names, parts.InMemoryCache, _initialiser()),
        counts.FEATURE: partial(counts.install, patches, names, module, parts.InMemoryCache),
        questions.MARKS: partial(questions.install_marks, patches, module),
        questions.AWAITABLE: partial(questions.install_awaitable, patches),
        questions.HOPS: partial(questions.install_hops, patches, module, core),
        questions.METADATA: partial(questions.install_metadata, patches, module),
        questions.MOCKS: partial(questions.install_mocks, patches, core),
        questions.RESERVATIONS: partial(questions.install_reservations, patches, module),
        questions.TRACES: partial(questions.install_traces, patches, module),
        strategy_state.FEATURE: partial(strategy_state.install, patches, _handlers()),
        price_map.FEATURE: partial(price_map.install, patches, litellm, utils),
        absent_modules.FEATURE: partial(absent_modules.install, patches),
        startup_heap.FEATURE: partial(startup_heap.install, patches),
    }
    if remembers:
        steps |= {
            usage.FEATURE: partial(usage.install, patches, names, service, module),
            success.FEATURE: partial(success.install, patches, litellm, names, service, module),
            group_usage.FEATURE: partial(group_usage.install, patches, names, prices, parts),
            model_lists.FEATURE: partial(model_lists.install, patches, names),
            precall.FEATURE: partial(precall.install, patches, names, service),
            deployments.FEATURE: partial(deployments.install, patches, names, service),
            proxy_questions.ACCESS_GROUPS: partial(proxy_questions.install_access_groups, patches, names),
            proxy_questions.FEATURE: partial(proxy_questions.install, patches, names),
        }
    installed: list[str] = []
    for feature, step in steps.items():
        if is_enabled(feature):
            installed += _safely(feature, patches, step)
    return installed


def _foundation(patches: PatchSet, band: Band, prices: PriceClock, utils: Any) -> list[str]:
    if not books.forget_on_change(patches, band):
        return []
    prices.watch(patches, utils)
    return [books.FEATURE]


def _safely(feature: str, patches: PatchSet, step: Callable[[], list[str]]) -> list[str]:
    mark = patches.mark()
    try:
        return step()
    except Exception:  # noqa: BLE001  # a feature that cannot be installed leaves LiteLLM as it is
        patches.rewind(mark)
        _log.warning("fast_router: bookkeeping feature %s is off, it could not be installed", feature, exc_info=True)
        return []


def _parts() -> Any:
    utils = importlib.import_module("litellm.utils")
    return SimpleNamespace(
        InMemoryCache=importlib.import_module("litellm.caching.in_memory_cache").InMemoryCache,
        RouterCacheEnum=importlib.import_module("litellm.types.router").RouterCacheEnum,
        get_utc_datetime=utils.get_utc_datetime,
        time=time.time,
    )


def _initialiser() -> Any:
    clients_module = importlib.import_module("litellm.router_utils.client_initalization_utils")
    return getattr(clients_module, "InitalizeCachedClient", None)


def _handlers() -> dict[str, type]:
    places = {
        "LeastBusy": ("least_busy", "LeastBusyLoggingHandler"),
        "LowestLatency": ("lowest_latency", "LowestLatencyLoggingHandler"),
        "LowestCost": ("lowest_cost", "LowestCostLoggingHandler"),
        "LowestTPM": ("lowest_tpm_rpm", "LowestTPMLoggingHandler"),
        "LowestTPM_v2": ("lowest_tpm_rpm_v2", "LowestTPMLoggingHandler_v2"),
    }
    found: dict[str, type] = {}
    for short, (module, name) in places.items():
        handler = getattr(importlib.import_module(f"litellm.router_strategy.{module}"), name, None)
        if handler is not None:
            found[short] = handler
    return found


def _pattern_router() -> type:
    for place in ("litellm.router_utils", "litellm.litellm_core_utils"):
        try:
            module = importlib.import_module(f"{place}.pattern_match_deployments")
        except ImportError:
            continue
        found: type = module.PatternMatchRouter
        return found
    raise ImportError("PatternMatchRouter")
