"""What works in this process and what does not, with the reason: the LiteLLM that is here, or a setting.

`status()["capabilities"]` for programs, the line at start for people.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin.bands.contract import Seam

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.settings.table import Settings

__all__ = ["capabilities", "without_effect"]


def _entry(on: bool, why: str) -> dict[str, Any]:
    return {"on": on, "why": why}


def capabilities(
    band: Band | None, features: Collection[str], skipped: Mapping[str, str], problem: str = ""
) -> dict[str, Any]:
    """Each capability by name.

    Args:
        band: The LiteLLM, None if it is unknown or not imported.
        features: Names of what is installed.
        skipped: What is not, and why.
        problem: Why nothing is on, if so.

    Returns:
        Name → `on`, and `why` in words. `options_without_effect` names each option that is set and does nothing.
    """
    options = settings.current()
    here = problem or (f"LiteLLM {band.version} has no place for it" if band is not None else "LiteLLM is unknown")

    def needs(feature: str, ready: str, *, off: str = "") -> dict[str, Any]:
        if feature not in features:
            return _entry(False, skipped.get(feature) or _disabled(options, feature) or here)
        return _entry(not off, off or ready)

    lane = band is not None and band.fast_lane and "selection" in features
    fast = needs("selection", "answered from compiled plans")
    if not lane and "selection" in features:
        lanes = "the request lane stands in their place" if "lane" in features else ""
        fast = _entry(False, lanes or skipped.get("fast lane") or here)
    found = {
        "fast_picks": fast,
        "strategies": needs("strategies", "by name, in the constructor, settings and model_info"),
        "failover": needs(
            "failover",
            "untried deployments first, breakers, retry budget",
            off="" if options.breaker else "breaker is off",
        ),
        "stream_failover": needs(
            "stream_failover", "before the first token", off="" if options.stream_failover else "stream_failover is off"
        ),
        "waiting": needs("waiting", f"up to {options.max_wait:g} s", off="" if options.max_wait else "max_wait is 0"),
        "hedging": needs(
            "hedging",
            f"{options.hedge_percent:g} in a hundred requests",
            off="" if options.hedge_percent else "hedge_percent is 0",
        ),
        "health_probes": needs(
            "failover",
            f"every {options.health_interval:g} s",
            off="" if options.health_interval else "health_interval is 0",
        ),
        "shared_state": _shared(options, needs("shared_state", "")),
        "strict_limits": needs(
            "strict limits" if options.limits == "strict" else "shared_state",
            "counted in Redis for all",
            off="" if options.limits == "strict" else "limits is local",
        ),
        "celery_routing": _celery(options, features, skipped, here),
        "overhead": _overhead(band, features, here),
    }
    if band is not None and Seam.WALK in band.seams:
        found["request_lane"] = needs("lane", "covered requests go without the walk of LiteLLM's core")
    return {**found, "options_without_effect": without_effect(found)}


def _disabled(options: Settings, feature: str) -> str:
    return "switched off by disabled_features" if feature in options.disabled_features else ""


def _shared(options: Settings, base: dict[str, Any]) -> dict[str, Any]:
    if not base["on"]:
        return _entry(False, "shared_state is off") if options.shared_state is False else base
    # Not imported for the sake of a report: who shares state has it loaded.
    cluster = sys.modules.get("fast_router.cluster")
    states = [each for each in (cluster.statuses() if cluster is not None else ()) if "connected" in each]
    if not states:
        if options.redis_url:
            return _entry(False, "no Router has been attached yet: that takes a second and some picks")
        return _entry(False, "no Redis: redis_url is not set, and no Router that has one has been attached")
    well = [each for each in states if each["connected"]]
    return _entry(bool(well), f"Redis at {states[0]['redis']}" + ("" if well else " does not answer"))


def _celery(options: Settings, features: Collection[str], skipped: Mapping[str, str], here: str) -> dict[str, Any]:
    if options.routing != "celery":
        return _entry(False, "routing is local")
    reason = skipped.get("celery_routing")
    if reason or not any("celery" in feature.lower() for feature in features):
        return _entry(False, reason or here)
    process = sys.modules.get("fast_router.celery_routing.process")
    status = process.status() if process is not None else None
    if status is None:
        return _entry(True, "on; nothing was asked yet")
    return _entry(bool(status.get("connected")), "broker and Redis answer" if status.get("connected") else "no answer")


def _overhead(band: Band | None, features: Collection[str], here: str) -> dict[str, Any]:
    # Not cheap, wanted by a report only.
    from fast_router.litellm_plugin import overhead  # noqa: PLC0415

    there = [] if band is None else overhead.fitting(band)
    known = [name for name in there if name in features]
    if not known:
        return _entry(False, here)
    missing = [name for name in there if name not in features]
    rest = f"; not: {', '.join(missing)}" if missing else ""
    return _entry(True, f"{len(known)} of {len(there)} features{rest}")


# Options by the capability that they belong to; by prefix, the longest first.
_BELONGS = (
    ("max_wait", "waiting"),
    ("hedge_", "hedging"),
    ("stream_", "stream_failover"),
    ("health_", "health_probes"),
    ("breaker_", "failover"),
    ("retry_", "failover"),
    ("outlier_", "failover"),
    ("redis_", "shared_state"),
    ("limits_timeout", "strict_limits"),
    ("celery_", "celery_routing"),
)
# These say that the capability is wanted; without it they are the ones to complain about, never the cause.
_SWITCHES = {"max_wait", "hedge_percent", "stream_failover", "health_interval", "breaker", "redis_url", "limits"}
# Their work goes on without the capability's own switch.
_OTHERWISE = {"retry_budget_ratio", "retry_budget_per_second", "health_metrics_interval", "redis_url"}


def without_effect(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each option that is set to something and does nothing.

    Args:
        found: The capabilities.
    """
    given = vars(settings.current())
    sentences = []
    for name, value in given.items():
        owner = next((capability for prefix, capability in _BELONGS if name.startswith(prefix)), None)
        if name == "limits" and value == "strict":
            owner = "strict_limits"
        if owner is None or found[owner]["on"] or not value:
            continue
        why = str(found[owner]["why"])
        if name in _OTHERWISE and (why.endswith((" is 0", " is off")) or owner == "shared_state"):
            continue
        if name in _SWITCHES or not why.startswith(name):
            sentences.append(f"{name}: {owner.replace('_', ' ')} is off ({why})")
    return sentences
