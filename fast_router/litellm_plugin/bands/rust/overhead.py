"""The Router's own cost on LiteLLM 1.110, around its core: the parts of `overhead` that this LiteLLM has the shape for.

==================  ===============================================================================
price_map           the price map's index extended, not rebuilt (Router construction)
json_values         plain values not sent through JSON (Router construction)
group_lists         a group's deployments listed once per state of the registry (the proxy's questions)
==================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from fast_router.litellm_plugin.bands.fingerprints import is_enabled
from fast_router.litellm_plugin.overhead.construction import json_values, price_map
from fast_router.litellm_plugin.overhead.proxy import group_lists
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURES", "install"]

FEATURES = (price_map.FEATURE, json_values.FEATURE, group_lists.FEATURE)


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Install every part that is switched on; one that fails leaves the others alone."""
    litellm, utils = import_module("litellm"), import_module("litellm.utils")
    registry = import_module("litellm.router_rust.surface.registry")
    steps: dict[str, Callable[[], list[str]]] = {
        price_map.FEATURE: partial(price_map.install, patches, litellm, utils),
        json_values.FEATURE: partial(json_values.install, patches, registry, band.module),
        group_lists.FEATURE: partial(group_lists.install, patches, registry.HostRegistry),
    }
    installed: list[str] = []
    for feature, step in steps.items():
        if not is_enabled(feature):
            continue
        mark = patches.mark()
        try:
            installed += step()
        except Exception:  # noqa: BLE001 - a part that cannot be installed leaves LiteLLM as it is
            patches.rewind(mark)
            LOGGER.warning("fast_router: %s is off, it could not be installed", feature, exc_info=True)
    return installed
