"""Whether LiteLLM's Rust core does what it did when this was written: its text cannot be read, so it is tried.

At the first request of each process, again after a fork, never at import or when a Router is made, two whole walks are
held with a core that is thrown away: a success, and a failure with its retry, each answered from a script, without I/O.
They must come by step by step as they were written down. What differs in the order or the shape of its steps cannot be
steered; what differs in what it records and counts cannot be stood in for, so that alone closes the lane.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["SelfTest"]

_MOST_STEPS = 24
_MEMBERS = ("fast-router-a", "fast-router-b")
_OK = {"ok": True, "total_tokens": 3, "blocked": None, "deferred": False, "tracks_usage": False}
# What LiteLLM's driver tells its core of a connection that breaks: written down, for to ask it loads all of FastAPI.
_FAILED = {
    "ok": False,
    "kind": "APIError",
    "status": None,
    "status_absent": True,
    "retry_after": None,
    "num_retries": None,
    "failed_deployment_id": None,
    "detail": "",
    "classes": ["ConnectionError", "OSError", "Exception", "BaseException", "object"],
    "llm_provider": False,
    "agentic_followup": False,
    "recorded": False,
    "uncounted_request": False,
}
_PICK = ("cache batch_get", "select callback_filters", "attempt")
# As LiteLLM 1.110.2 does it.
_SUCCESS = (*_PICK, "cache increment", "done")
_STEERED_BY = frozenset({"deployment", "deployment_id", "fallback_depth", "model", "retry"})
_ATTEMPT_KEYS = _STEERED_BY | {"fallback_level", "max_retries", "model_group", "model_group_size", "scope"}


class SelfTest:
    """What the core of this process has shown.

    Attributes:
        passed: True once everything came by as it was written down; False before, and where something differs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.passed = False
        self._walk: str | None = None
        self._lane: str | None = None
        self._due = True
        os.register_at_fork(after_in_child=_again(weakref.ref(self)))

    def why(self, core: Any) -> str | None:
        """What keeps requests out of the lane, None if nothing does. `core` lends its settings; it is not touched."""
        if not self.passed:
            self._settle(core)
        return self._walk or self._lane

    @property
    def known(self) -> str | None:
        """What keeps requests out of the lane as far as it has been found out, None if nothing does."""
        return self._walk or self._lane

    def why_not_steered(self, core: Any) -> str | None:
        """What keeps the walk from being steered, None if nothing does."""
        if not self.passed:
            self._settle(core)
        return self._walk

    def _settle(self, core: Any) -> None:
        with self._lock:
            if not self._due:
                return
            try:
                self._walk, self._lane = self._compare(core)
            except Exception as error:  # noqa: BLE001 - a core that cannot be driven is another one
                self._walk, self._lane = f"a self-test that ended in {type(error).__name__}", None
            self._due = False
            self.passed = self._walk is None and self._lane is None

    def _begin_anew(self) -> None:
        # The lock may have been held by a thread that is not in this process.
        self._lock = threading.Lock()
        self._due, self.passed = True, False

    def _compare(self, core: Any) -> tuple[str | None, str | None]:
        """What differs in the walk, and what in its records."""
        handle = self._throw_away(core)
        success = _drive(handle, [_OK])
        steps = _drive(handle, [_FAILED, _OK])
        attempts = [step for step in steps if step["kind"] == "attempt"]
        if tuple(kind for kind in _kinds(success) if kind in _PICK) != _PICK or success[-1]["kind"] != "done":
            return "a self-test: another order of a pick", None
        if len(attempts) != 2 or [step["retry"] for step in attempts] != [0, 1]:
            return "a self-test: another retry", None
        if any(not step.keys() >= _STEERED_BY for step in attempts):
            return "a self-test: another attempt", None
        return None, self._records(success, steps, attempts)

    def _records(
        self,
        success: Sequence[Mapping[str, Any]],
        steps: Sequence[Mapping[str, Any]],
        attempts: Sequence[Mapping[str, Any]],
    ) -> str | None:
        if _kinds(success) != _SUCCESS:
            return "a self-test: another order of a success"
        if any(not step.keys() >= _ATTEMPT_KEYS for step in attempts):
            return "a self-test: another attempt"
        if not any(step.get("key") == f"{attempts[0]['deployment_id']}:fails" for step in steps):
            return "a self-test: another record of a failure"
        if _kinds(steps)[-2:] != ("cache increment", "done") or steps[-1]["attempted_retries"] != 1:
            return "a self-test: another end"
        opened = [event for step in steps for event in step.get("events") or () if event["kind"] == "retries_opened"]
        if not opened or opened[0]["max_retries"] != 1 or opened[0]["model_group_size"] != len(_MEMBERS):
            return "a self-test: another budget of retries"
        return None

    @staticmethod
    def _throw_away(core: Any) -> Any:
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


def _again(test: weakref.ref[SelfTest]) -> Callable[[], None]:
    def again() -> None:
        found = test()
        if found is not None:
            found._begin_anew()

    return again


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
