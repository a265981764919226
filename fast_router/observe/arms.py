"""The arms of a rollout over several processes: each counts its own requests, and the sums say as much as one would."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from fast_router.engine.rollout.arms import Arms
from fast_router.engine.rollout.assignment import Assignment

__all__ = ["rollouts"]

_KINDS = ("rollout", "experiment")


def rollouts(statuses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every rollout and experiment that is under way, added up over the processes that have the same setting.

    Args:
        statuses: As `fast_router.status()` gives them.

    Returns:
        As of a status's `rollout` or `experiment`, with `workers`, how many processes it is of.
    """
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for status in statuses:
        told = status.get("rollout") or status.get("experiment")
        if told:
            names = tuple(arm["arm"] for arm in told["arms"])
            alike.setdefault((*(str(told.get(kind)) for kind in _KINDS), told["measure"], *names), []).append(told)
    return [_together(reports) for reports in alike.values()]


def _together(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = reports[0]
    old, new = (arm["arm"] for arm in first["arms"])
    since = first["since"]
    arms = Arms(old, new, Assignment(first["share"], "", random.Random(0)), first["measure"], lambda: since)
    for report in reports:
        arms.join(report)
    kind = next(kind for kind in _KINDS if kind in first)
    found = {kind: first[kind], "workers": len(reports), **arms.report()}
    if kind == "experiment":
        found["configured"] = sorted({name for report in reports for name in report["configured"]})
    observed = [report["observed"] for report in reports if "observed" in report]
    if observed:
        found["observed"] = _observed(observed)
    return found


def _observed(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"lanes": {}}
    for part in parts:
        for lane, count in part["lanes"].items():
            found["lanes"][lane] = found["lanes"].get(lane, 0) + count
        for name, count in part.items():
            if name == "furthest_off":
                found[name] = max(found.get(name, 0.0), count)
            elif name != "lanes":
                found[name] = found.get(name, 0) + count
    return found
