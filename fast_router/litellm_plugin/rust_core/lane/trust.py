"""Trust by test: the call is built both ways the first time, LiteLLM's and ours, and must come out the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.rust_core.lane.template import shaped_by_litellm

if TYPE_CHECKING:
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.rust_core.lane.guard import Open
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts
    from fast_router.litellm_plugin.rust_core.lane.template import Template

__all__ = ["difference"]

_TRACE = "litellm_trace_id"
_STATE = "_context_compaction_state"


def difference(
    parts: Parts, core: Any, endpoint: Endpoint, found: Open, template: Template, id_: str, request: Mapping[str, Any]
) -> str | None:
    """The name of an argument in which the two ways differ, None if they agree.

    Nothing is called, counted or written: both ways work on copies of the request and of its metadata.
    """
    deployment = found.handle.deployment(id_)
    if deployment is None:
        return "the deployment"
    step = {**found.step, "deployment_id": id_, "deployment": deployment, "candidate_ids": [id_]}
    theirs = shaped_by_litellm(parts, core, endpoint, step, request)
    given = dict(request)
    if isinstance(given.get(endpoint.field), dict):
        given[endpoint.field] = dict(given[endpoint.field])
    ours = template.build(parts, endpoint, given)
    if ours.keys() != theirs.keys():
        return min(ours.keys() ^ theirs.keys())
    for key, value in theirs.items():
        if key == _TRACE and key not in request:
            same = type(ours[key]) is type(value)
        elif key == _STATE:
            same = type(ours[key]) is type(value) and _state(ours[key]) == _state(value)
        else:
            same = _same(ours[key], value)
        if not same:
            return key
    if ours[endpoint.field].get("model_info") is not ours["model_info"]:
        return "model_info"
    return None


def _state(state: Any) -> Any:
    return {name: getattr(state, name, None) for name in ("surface", "config", "candidates", "parent_model")}


def _same(ours: Any, theirs: Any) -> bool:
    if ours is theirs:
        return True
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    try:
        return bool(ours == theirs)
    except Exception:  # noqa: BLE001 - whatever a request holds: what cannot be compared is not the same
        return False
