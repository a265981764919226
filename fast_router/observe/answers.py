"""What a process answers to each question that the status socket knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from fast_router.observe import process_status
from fast_router.observe.identity import identity

__all__ = ["answer", "tick"]


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one question; a word about what went wrong in `error` where that cannot be done."""
    found: dict[str, Any] = {"pid": os.getpid(), "started": process_status.started()}
    try:
        found.update(identity())
        do = _ANSWERS.get(str(question.get("do", "status")))
        if do is None:
            return {**found, "error": f"this version knows no question {question.get('do')!r}"}
        return {**found, **do(question)}
    except Exception as error:  # noqa: BLE001 - the asker shall see that, and which
        return {**found, "error": type(error).__name__}


def tick() -> None:
    """Do what is to be done now and then while nobody asks."""


def _status(_question: Mapping[str, Any]) -> dict[str, Any]:
    from fast_router.litellm_plugin import hook, report  # noqa: PLC0415
    from fast_router.router import live_routers  # noqa: PLC0415

    hook.bind_all()
    routers = [router.stats() for router in live_routers() if router.deployments]
    return {"status": report.status(), "routers": routers}


def _holds(_question: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing more: the orders were read before the answer."""
    return {"ok": True}


def _wake(question: Mapping[str, Any]) -> dict[str, Any]:
    from fast_router.router import live_routers  # noqa: PLC0415

    ids = [id_ for id_ in question.get("ids") or () if isinstance(id_, str)]
    by = str(question.get("by") or "an operator")[:100]
    woken = sum(router.wake(id_, reason=f"woken by {by}") for router in live_routers() for id_ in ids)
    return {"ok": True, "woken": woken}


_ANSWERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "status": _status,
    "holds": _holds,
    "wake": _wake,
}
