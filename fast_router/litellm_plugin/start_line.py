"""One line when the first Router is there: who routes, on what, how, for which requests, and what is off and why."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin import construction
from fast_router.litellm_plugin.report import status
from fast_router.litellm_plugin.tally import tally
from fast_router.settings.features import OVERHEAD
from fast_router.settings.log_level import announce
from fast_router.settings.rollout import OBSERVE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install", "line", "routers"]

# What people ask about at once; the rest stands in the status.
_TOLD = ("fast_picks", "request_lane", "strategies", "failover", "waiting", "hedging", "shared_state", "celery_routing")
# Off because nobody asked for it: no reason to name it.
_UNASKED = ("max_wait is 0", "hedge_percent is 0", "routing is local")


_routers: weakref.WeakSet[Any] = weakref.WeakSet()


class _Said:
    """Whether this process has said it."""

    yet = False


def routers() -> list[Any]:
    """Every `litellm.Router` that was made since, so that it can be shown before its first pick."""
    return list(_routers)


def install(patches: PatchSet, band: Band) -> None:
    """Have the first Router of this process say it."""
    construction.around(patches, band.router, made=lambda router, arguments: _made(band, router, arguments))


def _made(band: Band, router: Any, arguments: Mapping[str, Any]) -> None:
    _routers.add(router)
    if not _Said.yet:
        _Said.yet = True
        try:
            _say(band, router, arguments)
        except Exception as error:  # noqa: BLE001 - the Router is there
            tally.failed(error, "the line at start")


def _say(band: Band, router: Any, arguments: Mapping[str, Any]) -> None:
    # Not off the Router itself: LiteLLM 1.110 warns of that.
    core = band.core_of(router)
    strategy = arguments.get("routing_strategy") or band.read(core, "routing_strategy")
    count = len(arguments.get("model_list") or band.read(core, "model_list") or ())
    found = status()
    announce(line(found, band.version, getattr(strategy, "value", strategy), count))


def line(said: Mapping[str, Any], litellm: str, strategy: Any, count: int) -> str:
    """The line.

    Args:
        said: `fast_router.status()`.
        litellm: LiteLLM's version.
        strategy: What the Router is set to, as the user wrote it.
        count: How many deployments it has.
    """
    found = said["capabilities"]
    told = [name for name in _TOLD if name in found]
    if "request_lane" in told and found["request_lane"]["on"]:
        told.remove("fast_picks")  # it stands in their place
    on = [name.replace("_", " ") for name in told if found[name]["on"]]
    reasons: dict[str, list[str]] = {}
    for name in told:
        if not found[name]["on"] and found[name]["why"] not in _UNASKED:
            reasons.setdefault(found[name]["why"], []).append(name.replace("_", " "))
    for name, why in said["skipped"].items():
        if name != "fast lane" and name not in _TOLD and name not in OVERHEAD:
            reasons.setdefault(why, []).append(name)
    off = [f"{', '.join(names)} ({why})" for why, names in reasons.items()]
    deployments = f"{count} deployment{'' if count == 1 else 's'}"
    parts = [
        f"fast_router {said['version']} on LiteLLM {litellm}: {deployments} by {strategy or 'simple-shuffle'}",
        *_shares(said),
        f"on: {', '.join(on) or 'nothing'}",
    ]
    if off:
        parts.append(f"off: {', '.join(off)}")
    if found["options_without_effect"]:
        parts.append("without effect: " + ", ".join(found["options_without_effect"]))
    return "; ".join(parts)


def _shares(said: Mapping[str, Any]) -> Iterator[str]:
    """A rollout or an experiment, if there is one."""
    if "rollout" in said:
        setting = said["rollout"]["rollout"]
        yield "rollout: " + ("observing only" if setting == OBSERVE else f"{setting:g} % of the requests")
    if "experiment" in said:
        tried = said["experiment"]["experiment"]
        yield f"experiment: {tried['strategy']}, {tried['share']:g} %"
