"""The metrics of this process as plain data: what the Prometheus collector yields, here or in whoever asks for all.

Names follow Prometheus' rules (base units, `_total`). Every sample has `worker`, the process id: counters of several
processes must not be added up before Prometheus has seen that one of them began anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fast_router.engine import Deployment
from fast_router.engine.deployment import OPERATOR, RESTING
from fast_router.engine.histogram import BOUNDS, Histogram
from fast_router.naming import names_of
from fast_router.stats import groups_of

__all__ = ["EDGES", "Family", "families"]

EDGES = (0.05, 0.1, 0.25, 0.6, 1.0, 2.5, 4.0, 6.0, 10.0, 15.0, 25.0, 40.0, 60.0, 120.0, 300.0, 600.0)
"""Buckets as Prometheus is told them: a part of the histogram's own."""

Family = dict[str, Any]
"""`name`, `kind` (gauge, counter, histogram), `help`, `labels`, and `samples`: label values with a number, or with
`[cumulative counts, sum]` for a histogram."""

_LABELS = ("model", "server", "id")
# Name, kind, help, value of a deployment (None: no sample), and what two Routers with the same one make together.
_PER_DEPLOYMENT: tuple[
    tuple[str, str, str, Callable[[Deployment], float | None], Callable[[list[float]], float]], ...
] = (
    ("in_flight", "gauge", "Open leases: calls that run now.", lambda d: d.in_flight, sum),
    ("outside_load", "gauge", "Load known from other processes or the server, requests.", lambda d: d.outside, max),
    ("picks", "counter", "Picks.", lambda d: d.picks, sum),
    ("successes", "counter", "Attempts that succeeded.", lambda d: d.successes, sum),
    ("eligible", "gauge", "1 if it may be picked now.", lambda d: 0 if d.held else 1, min),
    ("resting", "gauge", "1 while in cooldown.", lambda d: 1 if d.held & RESTING else 0, max),
    ("held", "gauge", "1 while its operator holds it.", lambda d: 1 if d.held & OPERATOR else 0, max),
    ("latency_seconds_per_token", "gauge", "Mean of the last ten attempts.", lambda d: d.latency, max),
    # Where cache_aware picks: what was sent, and what an answer said of it.
    ("prompt_tokens", "counter", "Prompt tokens sent.", lambda d: d.work and d.work.prompt_tokens, sum),
    (
        "predicted_cached_tokens",
        "counter",
        "Prompt tokens sent where they were expected to be cached.",
        lambda d: d.work and d.work.hit_tokens,
        sum,
    ),
    (
        "reported_prompt_tokens",
        "counter",
        "Prompt tokens of answers that say what was cached.",
        lambda d: d.work and d.work.reported_total,
        sum,
    ),
    (
        "reported_cached_tokens",
        "counter",
        "Prompt tokens that answers say were cached.",
        lambda d: d.work and d.work.reported_tokens,
        sum,
    ),
)


def families() -> Iterator[Family]:
    """Every family of this process, read now."""
    from fast_router.litellm_plugin import hook, report  # noqa: PLC0415
    from fast_router.router import live_routers  # noqa: PLC0415

    hook.bind_all()
    known: dict[tuple[str, str], list[Deployment]] = {}
    changes: dict[tuple[str, str, str], int] = {}
    names: dict[str, Any] = {}
    for router in live_routers():
        if router.complete is not None:
            router.complete()
        router.engine.settle()
        groups = groups_of(router)
        names.update(names_of([d for _, members in groups.values() for d in members]))
        for model, (_, members) in groups.items():
            for deployment in members:
                known.setdefault((model, deployment.id), []).append(deployment)
        for key, count in router.changes.counts.items():
            changes[key] = changes.get(key, 0) + count
    # Two Routers of one process may hold the same deployment: one series, or Prometheus refuses both.
    rows = [((model, names[id_].server, names[id_].id), parts) for (model, id_), parts in known.items()]
    for name, kind, text, value, together in _PER_DEPLOYMENT:
        yield _family(name, kind, text, _LABELS, _together(rows, value, together))
    yield _family("failures", "counter", "Attempts that failed, by kind.", (*_LABELS, "kind"), _failures(rows))
    for name, text, histogram in (
        ("latency_seconds", "Whole attempts that succeeded.", lambda d: d.durations),
        ("first_token_seconds", "Time to the first token of streams.", lambda d: d.first_durations),
    ):
        yield _family(name, "histogram", text, _LABELS, _histograms(rows, histogram))
    yield _family(
        "breaker_changes",
        "counter",
        "Breakers that went into a state.",
        (*_LABELS, "state"),
        [
            ((model, names[id_].server, names[id_].id, state), count)
            for (model, id_, state), count in changes.items()
            if id_ in names
        ],
    )
    status = report.status()
    yield from _plugin(status)
    yield from _arms("rollout", "Share of the requests that fast_router handles.", status.get("rollout"))
    yield from _arms("experiment", "Share of the requests by the strategy that is tried.", status.get("experiment"))


def _family(name: str, kind: str, text: str, labels: Sequence[str], samples: Sequence[Any]) -> Family:
    worker = str(os.getpid())
    return {
        "name": f"fast_router_{name}",
        "kind": kind,
        "help": text,
        "labels": ["worker", *labels],
        "samples": [[[worker, *values], value] for values, value in samples],
    }


def _together(
    rows: Sequence[Any], value: Callable[[Deployment], float | None], together: Callable[[list[float]], float]
) -> list[Any]:
    found = []
    for labels, parts in rows:
        values = [each for each in map(value, parts) if each is not None]
        if values:
            found.append((labels, together(values)))
    return found


def _failures(rows: Sequence[Any]) -> list[Any]:
    found: dict[tuple[str, ...], float] = {}
    for labels, parts in rows:
        for deployment in parts:
            for kind, count in (deployment.failure_kinds or {}).items():
                key = (*labels, kind)
                found[key] = found.get(key, 0) + count
    return list(found.items())


def _histograms(rows: Sequence[Any], of: Callable[[Deployment], Histogram | None]) -> list[Any]:
    found = []
    for labels, parts in rows:
        histograms = [each for each in map(of, parts) if each is not None]
        if histograms:
            found.append((labels, _cumulative(histograms)))
    return found


def _cumulative(histograms: Sequence[Histogram]) -> list[Any]:
    """Counts up to each of `EDGES` and in all, and the sum of seconds."""
    counts = [sum(each) for each in zip(*(histogram.counts for histogram in histograms), strict=True)]
    return _upto(counts, sum(histogram.total for histogram in histograms))


def _upto(counts: Sequence[int], total: float) -> list[Any]:
    running, upto = 0, {}
    for bound, count in zip((*BOUNDS, float("inf")), counts, strict=True):
        running += count
        upto[bound] = running
    return [[*(upto[edge] for edge in EDGES), running], total]


_EVENTS = {
    "retry": ("retries", "Attempts after a failed one of the same request."),
    "hedge": ("hedges", "Second attempts beside a slow first one."),
    "hedge_won": ("hedges_won", "Second attempts that answered first."),
    "rescue": ("rescues", "Second attempts beside one at a silent deployment."),
    "rescue_won": ("rescues_won", "Second attempts beside one at a silent deployment that answered first."),
    "fallback_at_once": ("fallbacks_at_once", "Requests that passed by a model of which nobody is well."),
    "refused": ("refused", "Requests refused at an admission limit."),
    "wait_in_vain": ("waits_in_vain", "Requests that waited and got nobody."),
}


def _plugin(status: dict[str, Any]) -> Iterator[Family]:
    from fast_router.litellm_plugin.tally import tally  # noqa: PLC0415

    picks = status["picks"]
    lanes = [(("fast", ""), picks["fast"]), (("request_lane", ""), status["lane"]["requests"])]
    for lane in ("filtered", "delegated"):
        lanes += [((lane, reason), count) for reason, count in picks[f"{lane}_reasons"].items()]
    yield _family("lane_picks", "counter", "Picks of litellm.Router by lane and reason.", ("lane", "reason"), lanes)
    for event, (name, text) in _EVENTS.items():
        counted = [((each["model"],), each["count"]) for each in status["events"] if each["event"] == event]
        yield _family(name, "counter", text, ("model",), counted)
    waits = [((model,), _cumulative([histogram])) for model, histogram in list(tally.waits.items())]
    yield _family("wait_seconds", "histogram", "How long requests waited for a deployment.", ("model",), waits)
    yield _family(
        "errors", "counter", "Errors of fast_router that LiteLLM answered.", (), [((), status["errors"]["count"])]
    )
    strategies = status["errors"]["of_your_strategies"].items()
    yield _family(
        "strategy_errors",
        "counter",
        "Errors of strategies that users wrote.",
        ("strategy",),
        [((strategy,), count) for strategy, count in strategies],
    )
    fleet = {
        (str(each.get("host", "")), str(each.get("pid", ""))): each["in_flight"]
        for state in status["shared_state"]
        for each in (state.get("instances") or {}).values()
    }
    yield _family(
        "fleet_in_flight",
        "gauge",
        "Calls that run at other workers of the fleet.",
        ("host", "pid"),
        list(fleet.items()),
    )
    connected = [
        (("redis",), int(bool(each.get("connected")))) for each in status["shared_state"] if "connected" in each
    ]
    yield _family("shared_state_up", "gauge", "1 while Redis answers.", ("store",), connected[:1])
    about = (str(status["version"]), str(status["litellm"] or ""))
    yield _family("build_info", "gauge", "Versions.", ("version", "litellm"), [(about, 1)])


_ARM_COUNTERS = (
    ("requests", "Requests that have ended, those that the caller gave up on left out."),
    ("failures", "Requests that ended in an error for the caller."),
    ("cancelled", "Requests that the caller gave up on."),
    ("retries", "Attempts after the first of a request."),
)
_ARM_TIMES = (
    ("latency", "Seconds from a request to the end of its answer, of those that succeeded."),
    ("first_token", "Seconds to the first token of a stream."),
)


def _arms(kind: str, share: str, report: Mapping[str, Any] | None) -> Iterator[Family]:
    """Both arms of a rollout or an experiment side by side; nothing without one."""
    if report is None:
        return
    arms = report["arms"]
    for name, text in _ARM_COUNTERS:
        samples = [((arm["arm"],), arm[name]) for arm in arms]
        yield _family(f"{kind}_{name}", "counter", text, ("arm",), samples)
    for name, text in _ARM_TIMES:
        sums = [((arm["arm"],), _upto(arm["sums"][name], arm["sums"][f"{name}_seconds"])) for arm in arms]
        yield _family(f"{kind}_{name}_seconds", "histogram", text, ("arm",), sums)
    yield _family(f"{kind}_share", "gauge", share, (), [((), report["share"])])
    differs = [((report["measure"],), int(report["differs"]))]
    yield _family(f"{kind}_differs", "gauge", "1 once the arms differ by the measure.", ("measure",), differs)
