"""The Router's own cost around a pick, taken down without a change in what it does.

One module an idea, a `Feature` record for each thing that can be switched off by its name in `disabled_features`: what
LiteLLM does, what is done instead, and which of LiteLLM's functions it relies on. It is installed only where each of
them is there and reads as one of the versions that were checked (`bands.fingerprints`). The table in
docs/performance.md is made from the records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_router.litellm_plugin.bands.contract import Seam
from fast_router.litellm_plugin.bands.fingerprints import is_enabled
from fast_router.litellm_plugin.overhead import books
from fast_router.litellm_plugin.overhead.answer import group_usage, headers, hidden_params, success
from fast_router.litellm_plugin.overhead.construction import (
    custom_prices,
    deployments,
    json_values,
    model_lists,
    price_map,
)
from fast_router.litellm_plugin.overhead.parts import Parts
from fast_router.litellm_plugin.overhead.proxy import absent_modules, group_lists, proxy_questions, startup_heap
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
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.overhead.feature import Feature
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURES", "fitting", "install"]

FEATURES: tuple[Feature, ...] = (
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
    group_lists.FEATURE,
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
    json_values.FEATURE,
)


def fitting(band: Band) -> list[str]:
    """The names of the features for which this band has the seam."""
    return [feature.name for feature in FEATURES if feature.seam is None or feature.seam in band.seams]


def install(patches: PatchSet, band: Band) -> list[str]:
    """Install every feature that is switched on and that this LiteLLM has the shape for.

    Returns:
        The names of the features that are on; why the others are not is told by `patches.skipped`. One that fails
        leaves the others alone.
    """
    parts = Parts(band)
    books.new_epoch()
    remembers = Seam.MEMBERS in band.seams and _remember(patches, parts)
    installed: list[str] = []
    for feature in FEATURES:
        if reason := _skipped(feature, patches, parts, remembers=remembers):
            patches.skipped[feature.name] = reason
        else:
            installed.append(feature.name)
    return installed


def _remember(patches: PatchSet, parts: Parts) -> bool:
    mark = patches.mark()
    try:
        if not books.forget_on_change(patches, parts.band):
            return False
        parts.prices.watch(patches, parts.utils)
    except Exception:  # noqa: BLE001 - what remembers stays off
        patches.rewind(mark)
        LOGGER.warning("fast_router: overhead features that remember are off", exc_info=True)
        return False
    return True


def _skipped(feature: Feature, patches: PatchSet, parts: Parts, *, remembers: bool) -> str:
    """Why a feature is not installed, empty if it is now."""
    if not is_enabled(feature.name):
        return "switched off by disabled_features"
    mark = patches.mark()
    try:
        if reason := feature.missing(parts):
            return reason
        if feature.remembers and not remembers:
            return f"LiteLLM {parts.band.version} announces no changes of its deployments"
        if feature.install(patches, parts):
            return ""
    except Exception as error:  # noqa: BLE001 - a feature that cannot be installed leaves LiteLLM as it is
        patches.rewind(mark)
        name = feature.name
        LOGGER.warning("fast_router: overhead feature %s is off, it could not be installed", name, exc_info=True)
        return f"{type(error).__name__} while installing"
    if feature.waits:
        return "waits for LiteLLM's proxy"
    return f"LiteLLM {parts.band.version} has nothing for it to replace"
