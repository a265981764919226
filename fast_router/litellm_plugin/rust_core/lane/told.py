"""What `fast-router explain` says of the lane: which way requests go, as far as that is known without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.router_state import state_of
from fast_router.litellm_plugin.rust_core import standing
from fast_router.litellm_plugin.rust_core.lane.ordinary import QUALITY, why_entry, why_router

if TYPE_CHECKING:
    from fast_router.litellm_plugin.rust_core.binding import RustBinding
    from fast_router.litellm_plugin.rust_core.lane.guard import CoreLane
    from fast_router.litellm_plugin.rust_core.lane.lane import Lane

__all__ = ["told"]


def told(lane: Lane, core: Any, binding: RustBinding, model: str) -> str:
    """Say which way requests for a model go; nothing is compiled for it, and no self-test begins."""
    why = _why(lane, core, binding, model)
    if why is not None:
        return f"LiteLLM's filters run first: {why}"
    return "the request lane, unless a callback filters or the request has something out of the ordinary"


def _why(lane: Lane, core: Any, binding: RustBinding, model: str) -> str | None:
    why = lane.test.known or next(iter(standing.reasons.values()), None) or why_router(core)
    if why is not None:
        return why
    group = binding.router.groups.get(model)
    for member in () if group is None else group.members:
        why = why_entry(member.entry, lane.parts.declared)
        if why is not None:
            return why
    open_: CoreLane | None = state_of(core).lane
    compiled = [] if open_ is None else [each for (_, name), each in list(open_.groups.items()) if name == model]
    found = [each.why for each in compiled if each.seen == binding.version and each.holds(core)]
    if found and None not in found:
        return found[0]
    return QUALITY if binding.limited else None
