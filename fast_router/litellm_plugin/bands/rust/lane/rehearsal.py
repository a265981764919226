"""LiteLLM's walk, rehearsed: what its Rust core asks its host for an ordinary request of a group.

A walk is a dialogue: the core says what it wants next, the host answers. Up to the attempt nothing in it is a deed, so
it can be held with the real core, answered by a host for whom nothing special is in use, and then be dropped. If the
core asks for anything beyond what an ordinary pick needs (tags, plugins, checks), the group has a feature that the lane
does not know, whatever its configuration looks like; and if not everybody is a candidate, a filter is at work.

The core's text cannot be read, so once per process a whole walk is held with a core that is thrown away: a success, and
a failure with its retry. It must come by step by step as it was written down.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.bands.rust.lane.parts import Parts

__all__ = ["SelfTest", "Unknown", "rehearse"]

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


# -- the whole walk, once per process ----------------------------------------------------------------------

_MEMBERS = ("fast-router-a", "fast-router-b")
_OK = {"ok": True, "total_tokens": 3, "blocked": None, "deferred": False, "tracks_usage": False}
_PICK = ("cache batch_get", "select callback_filters", "attempt")
# As LiteLLM 1.110.2 does it.
_SUCCESS = (*_PICK, "cache increment", "done")
_ATTEMPT_KEYS = frozenset(
    {"deployment", "deployment_id", "fallback_depth", "fallback_level", "max_retries", "model", "model_group",
     "model_group_size", "retry", "scope"}
)  # fmt: skip


class SelfTest:
    """Whether LiteLLM's core does what it did when the lane was written; worked out once per process.

    Args:
        parts: LiteLLM's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._process = -1
        self._why: str | None = None

    def why(self, core: Any) -> str | None:
        """What differs, None if nothing does. `core` lends its settings; it is not touched."""
        process = os.getpid()
        if self._process == process:
            return self._why
        with self._lock:
            if self._process != process:
                try:
                    self._why = self._walk(core)
                except Exception as error:  # noqa: BLE001 - a core that cannot be driven is another one
                    self._why = f"a self-test that ended in {type(error).__name__}"
                self._process = process
        return self._why

    def _walk(self, core: Any) -> str | None:
        handle = self._throw_away(core)
        if _kinds(_drive(handle, [_OK])) != _SUCCESS:
            return "a self-test: another order of a success"
        failure = {**self._parts.core.attempt_failure(ConnectionError("rehearsed")), "detail": "", "recorded": False}
        failure |= {"uncounted_request": False}
        steps = _drive(handle, [failure, _OK])
        kinds = _kinds(steps)
        attempts = [step for step in steps if step["kind"] == "attempt"]
        if len(attempts) != 2 or [step["retry"] for step in attempts] != [0, 1]:
            return "a self-test: another retry"
        if any(not step.keys() >= _ATTEMPT_KEYS for step in attempts):
            return "a self-test: another attempt"
        if not any(step.get("key") == f"{attempts[0]['deployment_id']}:fails" for step in steps):
            return "a self-test: another record of a failure"
        if kinds[-2:] != ("cache increment", "done") or steps[-1]["attempted_retries"] != 1:
            return "a self-test: another end"
        opened = [event for step in steps for event in step.get("events") or () if event["kind"] == "retries_opened"]
        if not opened or opened[0]["max_retries"] != 1 or opened[0]["model_group_size"] != len(_MEMBERS):
            return "a self-test: another budget of retries"
        return None

    def _throw_away(self, core: Any) -> Any:
        plain = dataclasses.replace(
            core._resolved,
            routing_strategy="simple-shuffle",
            routing_strategy_args={},
            num_retries=1,
            fallbacks=None,
            context_window_fallbacks=None,
            content_policy_fallbacks=None,
            model_group_alias={},
            routing_groups=(),
            routing_plugins=(),
            enable_tag_filtering=False,
            enable_pre_call_checks=False,
            retry_policy=None,
            model_group_retry_policy=None,
            allowed_fails_policy=None,
            default_deployment=None,
        )
        members: Sequence[Mapping[str, Any]] = [
            {"model_name": "m", "litellm_params": {"model": "openai/m", "api_key": "-"}, "model_info": {"id": id_}}
            for id_ in _MEMBERS
        ]
        handle = type(core._handle)(plain.static_document(members), plain.dynamic_document(1, ["m"]))
        if not handle.has_model_name("m"):
            handle.apply({"replace": list(members)})
        return handle


def _drive(handle: Any, outcomes: list[Any]) -> list[Mapping[str, Any]]:
    call = handle.start("acompletion", {"model": "m"})
    outcomes = list(outcomes)
    steps: list[Mapping[str, Any]] = []
    answer: Any = None
    counts: dict[str, int] = {}
    while len(steps) < _MOST_STEPS:
        step = call.next(answer)
        steps.append(step)
        kind = step["kind"]
        if kind in ("done", "failed"):
            break
        if kind == "attempt":
            answer = outcomes.pop(0)
        elif kind == "cache":
            answer = _cached(step, counts)
        elif kind == "select":
            answer = (list(step["candidates"]), None)
        else:
            answer = None
    return steps


def _cached(step: Mapping[str, Any], counts: dict[str, int]) -> Any:
    if step["op"] == "batch_get":
        return [None] * len(step["keys"])
    if step["op"] == "increment":
        counts[step["key"]] = counts.get(step["key"], 0) + 1
        return counts[step["key"]]
    return counts.get(step["key"]) if step["op"] == "get" else None


def _kinds(steps: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(
        f"{step['kind']} {step.get('op') or step.get('stage')}" if step["kind"] in ("cache", "select") else step["kind"]
        for step in steps
    )
