"""LiteLLM 1.110: quality-of-service limits before a pick, the fleet's strict limits after it.

Both refuse as LiteLLM's own errors: the Rust core takes them as the try's failure, and its fallbacks follow.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.rust import steps
from fast_router.litellm_plugin.layers.quality_limits import busy, has_room, rule_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.layers.quality_limits import Rule
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]


def _pre_route(original: Any, band: RustBand) -> Any:
    async def _pre_route(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        walking = steps.walk.get()
        if walking is not None:
            if walking.refused is not None:
                # The core asks again, as after any failure; the answer is the same.
                raise walking.refused
            rule = _rule(band, self, step)
            if rule is not None and not await _admitted(rule):
                walking.refused = busy(step.get("model"))
                raise walking.refused
        return await original(self, step, *args, **kwargs)

    return _pre_route


def _rule(band: RustBand, core: Any, step: Mapping[str, Any]) -> Rule | None:
    try:
        binding = band.binding(core)
        group = binding.router.groups.get(str(step.get("model"))) if binding.limited else None
        return None if group is None else rule_of(binding, group)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
        tally.failed(error, "the admission of a request")
        return None


async def _admitted(rule: Rule) -> bool:
    for left in range(rule.retries, -1, -1):
        if has_room(rule):
            return True
        if left:
            await asyncio.sleep(rule.countdown)
    return False


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Keep to the limits of quality of service; they cost nothing where no entry has one."""
    patches.replace(band.core, "_pre_route", partial(_pre_route, band=band))
    return ["admission"]
