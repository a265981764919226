"""What needs a look, each in a sentence: which server, since when, why, who serves meanwhile, when the next try is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fast_router.cli.columns import duration

__all__ = ["changes_in", "since", "troubles"]

_ILL = frozenset({"resting", "failing", "held", "draining", "drained", "probing", "due", "closed"})
_AWAY = frozenset({"held", "draining", "drained"})
_SERVING = frozenset({"up", "warming"})
_NAMED = 3


def troubles(groups: Sequence[Mapping[str, Any]], now: float, most: int) -> list[str]:
    """The deployments that are ill or held, the first of each model first.

    Args:
        groups: Those of `summarise`.
        now: Seconds since the epoch.
        most: So many sentences; one more says how many were left out.
    """
    ill = [(group, row) for group in groups for row in group["deployments"] if row["state"] in _ILL]
    found = [_sentence(group, row, now) for group, row in ill[:most]]
    if len(ill) > most:
        found.append(f"… and {len(ill) - most} more")
    return found


def _sentence(group: Mapping[str, Any], row: Mapping[str, Any], now: float) -> str:
    where = "" if row["workers_alike"] == row["workers"] else f" in {row['workers_alike']} of {row['workers']} workers"
    parts = [
        f"{group['model']} on {row['server']} (id {row['short']}): {row['state']}{where}",
        since(row, now),
        changes_in(row),
        row["reason"],
        _meanwhile(group, row),
    ]
    return "; ".join(filter(None, parts))


def since(row: Mapping[str, Any], now: float) -> str:
    """Since when a deployment is away, empty where its reason says it or it is not."""
    if row["since"] is None or row["state"] in _AWAY:
        return ""
    moment = time.strftime("%H:%M:%S", time.localtime(row["since"]))
    return f"since {moment} ({duration(max(0.0, now - row['since']))})"


def changes_in(row: Mapping[str, Any]) -> str:
    """When that changes: the next try, the end of a hold, the full share."""
    if row["state"] == "due":
        return "its next call is the try"
    if not row["seconds_left"]:
        return ""
    what = "full share" if row["state"] == "warming" else "ends" if row["state"] in _AWAY else "next try"
    return f"{what} in {duration(row['seconds_left'])}"


def _meanwhile(group: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    others = [each for each in group["deployments"] if each is not row and each["state"] in _SERVING]
    servers = list(dict.fromkeys(each["server"] for each in others))
    if not servers:
        return "nothing else serves"
    more = f" and {len(servers) - _NAMED} more" if len(servers) > _NAMED else ""
    return f"meanwhile {', '.join(servers[:_NAMED])}{more}"
