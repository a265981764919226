"""One line when the first Router is there: who routes, on what, how, and what is off and why."""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.report import status
from fast_router.litellm_plugin.tally import tally
from fast_router.settings.features import OVERHEAD
from fast_router.settings.log_level import announce

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    patches.replace(band.router, "__init__", lambda original: _init(original, band))
    if "from_config" in vars(band.router):
        # How the proxy of LiteLLM 1.109 and later makes its Router: without `__init__`.
        patches.replace(band.router, "from_config", lambda original: _from_config(original, band))


def _init(original: Any, band: Band) -> Any:
    signature = inspect.signature(original)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it stands in for that method
        original(self, *args, **kwargs)
        _made(band, self, kwargs)

    # LiteLLM reads its Router's parameters off the signature.
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__doc__ = original.__doc__
    return __init__


def _from_config(original: Any, band: Band) -> Any:
    def from_config(cls: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
        router = original.__get__(None, cls)(config, *args, **kwargs)
        _made(band, router, getattr(config, "arguments", None) or {})
        return router

    return classmethod(from_config)


def _made(band: Band, router: Any, arguments: Mapping[str, Any]) -> None:
    _routers.add(router)
    if not _Said.yet:
        _Said.yet = True
        try:
            _say(band, router, arguments)
        except Exception as error:  # noqa: BLE001 - the Router is there
            tally.failed(error, "the line at start")


def _say(band: Band, router: Any, arguments: Mapping[str, Any]) -> None:
    strategy = arguments.get("routing_strategy") or getattr(router, "routing_strategy", None)
    count = len(arguments.get("model_list") or getattr(router, "model_list", None) or ())
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
        f"on: {', '.join(on) or 'nothing'}",
    ]
    if off:
        parts.append(f"off: {', '.join(off)}")
    if found["options_without_effect"]:
        parts.append("without effect: " + ", ".join(found["options_without_effect"]))
    return "; ".join(parts)
