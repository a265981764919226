"""LiteLLM's walk, rehearsed: what its Rust core asks its host for an ordinary request of a group.

A walk is a dialogue: the core says what it wants next, the host answers. Up to the attempt nothing in it is a deed, so
it can be held with the real core, answered by a host for whom nothing special is in use, and then be dropped. If the
core asks for anything beyond what an ordinary pick needs (tags, plugins, checks), the group has a feature that the lane
does not know, whatever its configuration looks like; and if not everybody is a candidate, a filter is at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint

__all__ = ["Unknown", "rehearse"]

_MOST_STEPS = 24


class Unknown(Exception):  # noqa: N818 - not an error: the reason why a group has no lane
    """What LiteLLM's walk does that the lane does not know."""


def rehearse(core: Any, endpoint: Endpoint, model: str) -> tuple[Mapping[str, Any], list[str]]:
    """The first attempt of an ordinary request, and who was a candidate for it.

    Raises:
        Unknown: The core wants something that an ordinary pick does not need.
    """
    request = {"model": model, **endpoint.asked}
    prepared = core._endpoints.prepare(endpoint.plan, request, model)
    inputs = core._routing_inputs(endpoint.plan, request, prepared, model, None)
    call = core._handle.start(endpoint.op, inputs)
    outcome: Any = None
    candidates: list[str] = []
    for _ in range(_MOST_STEPS):
        step = call.next(outcome)
        kind = step["kind"]
        if kind == "attempt":
            return step, candidates
        if kind == "pre_route" and not endpoint.sync:
            outcome = None
        elif kind == "cache" and step["op"] == "batch_get":
            if not all(str(key).endswith(":cooldown") for key in step["keys"]):
                raise Unknown("a read of LiteLLM's")
            outcome = [None] * len(step["keys"])
        elif kind == "select" and step["stage"] == "callback_filters":
            candidates = [str(id_) for id_ in step["candidates"]]
            if step["excluded_ids"] or step["skipped_ids"] or step["target_order"] is not None:
                raise Unknown("a narrowed choice")
            outcome = candidates if endpoint.sync else (candidates, None)
        elif kind == "select" and step["stage"] == "embedding_batch":
            # Who sets a limit has no lane: LiteLLM asks without looking.
            outcome = list(step["candidates"])
        elif kind == "select" and step["stage"] == "strategy" and step.get("records") is None:
            outcome = [step["candidates"][0]]
        else:
            raise Unknown(_word(step))
    raise Unknown("a walk without an end")


def _word(step: Mapping[str, Any]) -> str:
    found = step.get("stage") or step.get("op") or step["kind"]
    return f"LiteLLM's step {str(found).replace('_', ' ')}"
