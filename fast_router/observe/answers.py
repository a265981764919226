"""What a process answers to each question that the status socket knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fast_router import operator_holds, settings
from fast_router.observe import exposure
from fast_router.observe.history import history
from fast_router.observe.identity import identity

if TYPE_CHECKING:
    from fast_router.router import AdvancedRouter

__all__ = ["answer", "tick"]


def answer(question: Mapping[str, Any] | None, started: float) -> dict[str, Any]:
    """Answer a question; a word in `error` says what went wrong where that cannot be done.

    Args:
        question: The question, None for what was none.
        started: When this process began to answer, Unix seconds.
    """
    found: dict[str, Any] = {"pid": os.getpid(), "started": started}
    try:
        found.update(identity())
        if question is None:
            return {**found, "error": "a question is one line of JSON, an object"}
        if question.get("problem"):
            return {**found, "error": f"no order ({question['problem']})"}
        do = _ANSWERS.get(str(question.get("do", "status")))
        if do is None:
            return {**found, "error": f"this version knows no question {str(question.get('do'))[:40]!r}"}
        return {**found, **do(question)}
    except Exception as error:  # noqa: BLE001 - the asker shall see that, and which
        return {**found, "error": type(error).__name__}


def tick() -> None:
    """Do what is to be done every ten seconds: sample the last hour, see to the metrics' address."""
    from fast_router.router import live_routers  # noqa: PLC0415

    history.sample(live_routers())
    exposure.see_to_it()


def _completed(router: AdvancedRouter) -> AdvancedRouter:
    """The same, with whatever it has not been asked for yet."""
    if router.complete is not None:
        router.complete()
    return router


def _detail(router: AdvancedRouter) -> dict[str, Any]:
    """The numbers of a router, with the durations of the last minute or two in buckets."""
    stats = router.stats()
    known = router.deployments
    for group in stats["models"].values():
        for row in group["deployments"]:
            deployment = known.get(row["id"])
            row["window"] = None if deployment is None else history.window(router, deployment)
            row["kinds"] = None if deployment is None else deployment.failure_kinds
    stats["changes"] = list(router.changes.recent)
    return stats


def _status(_question: Mapping[str, Any]) -> dict[str, Any]:
    from fast_router.litellm_plugin import hook, report  # noqa: PLC0415
    from fast_router.litellm_plugin.tally import tally  # noqa: PLC0415
    from fast_router.router import live_routers  # noqa: PLC0415

    hook.bind_all()
    routers = [_detail(router) for router in map(_completed, live_routers()) if router.deployments]
    waits = {model: waited.counts for model, waited in list(tally.waits.items())}
    return {"status": report.status(), "routers": routers, "waits": waits}


def _holds(_question: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing more: the orders were read before the answer."""
    return {"ok": True}


def _wake(question: Mapping[str, Any]) -> dict[str, Any]:
    from fast_router.router import live_routers  # noqa: PLC0415

    ids = [id_ for id_ in question.get("ids") or () if isinstance(id_, str)]
    by = operator_holds.printable(str(question.get("by") or "an operator"))
    woken = sum(router.wake(id_, reason=f"woken by {by}") for router in live_routers() for id_ in ids)
    return {"ok": True, "woken": woken}


def _explain(question: Mapping[str, Any]) -> dict[str, Any]:
    from fast_router.litellm_plugin import hook  # noqa: PLC0415
    from fast_router.router import live_routers  # noqa: PLC0415
    from fast_router.stats import groups_of  # noqa: PLC0415

    hook.bind_all()
    model, tokens = str(question.get("model")), question.get("tokens") or 0
    exclude = [id_ for id_ in question.get("exclude") or () if isinstance(id_, str)]
    found: list[dict[str, Any]] = []
    models: set[str] = set()
    for router in live_routers():
        known = groups_of(_completed(router))
        models.update(known)
        if model in known:
            lane = None if router.lane is None else router.lane(model)
            found.append({**router.explain(model, exclude=exclude, tokens=tokens), "lane": lane})
    return {"explained": found, "models": sorted(models)}


def _trace(question: Mapping[str, Any]) -> dict[str, Any]:
    from fast_router.litellm_plugin import hook  # noqa: PLC0415
    from fast_router.observe.trace import trace  # noqa: PLC0415
    from fast_router.router import live_routers  # noqa: PLC0415

    seconds, model = question.get("on"), question.get("model")
    if isinstance(seconds, (int, float)) and seconds > 0:
        hook.bind_all()  # a Router that has had no request yet is bound by its first one, and would not be traced
        trace.on(live_routers(), float(seconds))
    elif question.get("off"):
        trace.off()
    return {"active": trace.active, "trace": trace.read(model if isinstance(model, str) else None)}


def _metrics(_question: Mapping[str, Any]) -> dict[str, Any]:
    from fast_router.observe.families import families  # noqa: PLC0415

    return {"families": list(families())}


def _history(question: Mapping[str, Any]) -> dict[str, Any]:
    if question.get("sum"):
        return {"history": history.total()}
    model, ids = question.get("model"), question.get("ids") or ()
    return {"history": history.read(model if isinstance(model, str) else None, [i for i in ids if isinstance(i, str)])}


def _settings(_question: Mapping[str, Any]) -> dict[str, Any]:
    return {"settings": settings.in_force(), "no_options": settings.unknown_variables()}


_ANSWERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "status": _status,
    "holds": _holds,
    "wake": _wake,
    "metrics": _metrics,
    "explain": _explain,
    "trace": _trace,
    "history": _history,
    "settings": _settings,
}
