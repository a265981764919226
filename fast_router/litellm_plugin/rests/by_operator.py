"""What an operator holds is out of LiteLLM's own picks, too: left out where LiteLLM leaves out what cools down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fast_router import operator_holds
from fast_router.engine.deployment import OPERATOR
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["install", "without_held"]

_FILTER = "_filter_cooldown_deployments"


def without_held(binding: Binding, ids: list[str]) -> list[str]:
    """Those of `ids` that no operator holds."""
    known = binding.engine.deployments
    return [id_ for id_ in ids if id_ not in known or not known[id_].held & OPERATOR]


def _filter(original: Any) -> Any:
    def _filter_cooldown_deployments(self: Any, *args: Any, **kwargs: Any) -> Any:
        left = original(self, *args, **kwargs)
        try:
            binding = existing(self)
            if binding is None or not isinstance(left, list) or not operator_holds.any_order():
                return left
            binding.engine.settle()
            held = {id_ for id_, each in list(binding.engine.deployments.items()) if each.held & OPERATOR}
            return [entry for entry in left if _id_of(entry) not in held] if held else left
        except Exception as error:  # noqa: BLE001 - LiteLLM's own answer stands
            tally.failed(error, "an operator's hold")
            return left

    return _filter_cooldown_deployments


def _id_of(entry: Any) -> Any:
    info = entry.get("model_info") if isinstance(entry, Mapping) else None
    return info.get("id") if isinstance(info, Mapping) else None


def install(patches: PatchSet, band: Band) -> list[str]:
    """Leave them out."""
    patches.replace(band.core, band.slot(_FILTER), _filter)
    return ["operator_holds"]
