"""What all processes say, added up: one row a deployment, one group a model, whoever the workers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fast_router.engine.histogram import percentile
from fast_router.observe.arms import rollouts

__all__ = ["SEVERITY", "idle_parents", "summarise"]

SEVERITY = (
    "resting",
    "failing",
    "held",
    "draining",
    "drained",
    "probing",
    "due",
    "closed",
    "spent",
    "slow",
    "full",
    "warming",
    "up",
)
"""States, the ones to look at first first."""
_RANK = {state: rank for rank, state in enumerate(SEVERITY)}
_SUMS = ("in_flight", "picks", "successes", "failures")


def idle_parents(documents: Iterable[Mapping[str, Any]]) -> set[int]:
    """Processes that only look after others: no pick of their own, and children that answer as well."""
    documents = list(documents)
    parents = {each.get("parent") for each in documents}
    return {each["pid"] for each in documents if each.get("pid") in parents and not _picks(each)}


def _picks(document: Mapping[str, Any]) -> int:
    picks = (document.get("status") or {}).get("picks") or {}
    served = ((document.get("status") or {}).get("lane") or {}).get("requests") or 0
    return served + sum(picks.get(lane) or 0 for lane in ("fast", "filtered", "delegated"))


def summarise(documents: Sequence[Mapping[str, Any]], *, everybody: bool = False) -> dict[str, Any]:
    """Add up.

    Args:
        documents: The answers to `status`.
        everybody: Count idle parents, too.

    Returns:
        `processes` (who they are and what they picked), `groups` (model, strategy, sums, and `deployments`: the ones to
        look at first first), `lanes`, `waits` (per model), `errors`, `shared_state` and
        `capabilities`, the last of the newest process.
    """
    idle = set() if everybody else idle_parents(documents)
    documents = [each for each in documents if each.get("pid") not in idle]
    groups: dict[str, dict[str, Any]] = {}
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for document in documents:
        for router in document.get("routers") or ():
            for model, group in router["models"].items():
                found = groups.setdefault(model, {"model": model, "strategies": Counter()})
                found["strategies"][group["strategy"]] += 1
                for row in group["deployments"]:
                    rows.setdefault((model, row["id"]), []).append(row)
    for (model, _), parts in rows.items():
        groups[model].setdefault("deployments", []).append(_add(parts))
        groups[model].setdefault("parts", []).extend(parts)
    return {
        "processes": [_process(each) for each in documents],
        "groups": [_group(group) for _, group in sorted(groups.items())],
        "lanes": _lanes(documents),
        "waits": _waits(documents),
        "errors": _errors(documents),
        "shared_state": [state for each in documents for state in (each.get("status") or {}).get("shared_state") or ()],
        "rollouts": rollouts([each.get("status") or {} for each in documents]),
        "celery": [each["status"]["celery"] for each in documents if "celery" in (each.get("status") or {})],
        "capabilities": next(
            (
                each["status"]["capabilities"]
                for each in reversed(documents)
                if "capabilities" in each.get("status", {})
            ),
            {},
        ),
    }


def _process(document: Mapping[str, Any]) -> dict[str, Any]:
    says = document.get("status") or {}
    keys = ("pid", "program", "host", "config", "ports", "started", "error")
    return {
        **{key: document[key] for key in keys if key in document},
        "enabled": bool(says.get("enabled")),
        "litellm": says.get("litellm"),
        "version": says.get("version"),
        "picks": _picks(document),
        "skipped": says.get("skipped") or {},
        "in_flight": sum(
            row["in_flight"]
            for router in document.get("routers") or ()
            for group in router["models"].values()
            for row in group["deployments"]
        ),
    }


def _add(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One deployment over all workers: sums, means by successes, and the state to look at first."""
    worst = min(parts, key=lambda row: _RANK.get(row["state"], 0))
    alike = sum(1 for row in parts if row["state"] == worst["state"])
    sinces = [row["since"] for row in parts if row["since"] is not None]
    lefts = [row["seconds_left"] for row in parts if row["state"] == worst["state"] and row["seconds_left"] is not None]
    failures = [row["last_failure"] for row in parts if row["last_failure"]]
    return {
        **{key: worst[key] for key in ("id", "short", "server", "weight", "order", "state", "reason")},
        **{key: sum(row[key] for row in parts) for key in _SUMS},
        "latency": _mean(parts, "latency"),
        "latency_of": "token" if any(row["latency_of"] == "token" for row in parts) else "call",
        "first_token": _mean(parts, "first_token"),
        "last_failure": failures[-1] if failures else None,
        "cache": _cache(parts),
        "since": min(sinces, default=None),
        "seconds_left": max(lefts, default=None),
        "workers": len(parts),
        "workers_alike": alike,
        **_percentiles(parts),
        "kinds": dict(_kinds(parts)),
        "held": sorted({reason for row in parts for reason in row["held"]}),
    }


def _percentiles(parts: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of the last minute or two, over all workers: their buckets add up."""
    windows = [row["window"] for row in parts if row.get("window")]
    counts, first = [[sum(each) for each in zip(*(window[k] for window in windows), strict=True)] for k in (0, 1)]
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        **{name: percentile(counts, share) for name, share in shares.items()},
        **{f"first_{name}": percentile(first, share) for name, share in shares.items()},
    }


def _cache(parts: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """Hit shares over all workers, by the tokens of each; None where no strategy looks at caches."""
    known = [row["cache"] for row in parts if row.get("cache")]
    if not known:
        return None
    found: dict[str, float | None] = {}
    for share, of in (("predicted_hit_share", "prompt_tokens"), ("reported_hit_share", "reported_prompt_tokens")):
        total = found[of] = sum(each.get(of) or 0.0 for each in known)
        hits = sum((each.get(share) or 0.0) * (each.get(of) or 0.0) for each in known)
        found[share] = hits / total if total else None
    return found


def _kinds(parts: Sequence[Mapping[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in parts:
        found.update(row.get("kinds") or {})
    return found


def _mean(parts: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [(row[key], max(1, row["successes"])) for row in parts if row[key] is not None]
    total = sum(count for _, count in known)
    return sum(value * count for value, count in known) / total if total else None


def _group(group: dict[str, Any]) -> dict[str, Any]:
    deployments = group.get("deployments", [])
    picks = sum(row["picks"] for row in deployments)
    for row in deployments:
        row["share"] = row["picks"] / picks if picks else None
    deployments.sort(
        # By name within a state: a row stays where the eye has found it.
        key=lambda row: (_RANK.get(row["state"], 0), row["server"], row["id"])
    )
    return {
        "model": group["model"],
        "strategy": " and ".join(group["strategies"]),
        "size": len(deployments),
        "up": sum(1 for row in deployments if row["state"] in {"up", "warming"}),
        **{key: sum(row[key] for row in deployments) for key in _SUMS},
        **_percentiles(group["parts"]),
        "deployments": deployments,
    }


def _lanes(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    for document in documents:
        picks = (document.get("status") or {}).get("picks") or {}
        served = (document.get("status") or {}).get("lane") or {}
        totals["request_lane"] += served.get("requests") or 0
        for why in ("handed_over", "left"):
            for reason, count in (served.get(f"{why}_reasons") or {}).items():
                reasons["not in the request lane" if why == "left" else "handed over by it", reason] += count
        for lane in ("fast", "filtered", "delegated"):
            totals[lane] += picks.get(lane) or 0
            for reason, count in (picks.get(f"{lane}_reasons") or {}).items():
                reasons[lane, reason] += count
    return {
        **{lane: totals[lane] for lane in ("fast", "request_lane", "filtered", "delegated")},
        "reasons": [
            {"lane": lane, "reason": reason, "picks": count} for (lane, reason), count in reasons.most_common()
        ],
    }


def _waits(documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How long requests waited for a deployment, the models with most waits first."""
    counts: dict[str, list[int]] = {}
    for document in documents:
        for model, more in (document.get("waits") or {}).items():
            known = counts.setdefault(model, [0] * len(more))
            counts[model] = [a + b for a, b in zip(known, more, strict=True)]
    return [
        {"model": model, "count": sum(found), "p50": percentile(found, 0.5), "p95": percentile(found, 0.95)}
        for model, found in sorted(counts.items(), key=lambda each: -sum(each[1]))
    ]


def _errors(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    count, last = 0, None
    strategies: Counter[str] = Counter()
    for document in documents:
        errors = (document.get("status") or {}).get("errors") or {}
        count += errors.get("count") or 0
        last = errors.get("last") or last
        strategies.update(errors.get("of_your_strategies") or {})
    return {"count": count, "last": last, "of_your_strategies": dict(strategies)}
