"""The one thing that stays while fast_router is off: strategy names that LiteLLM lacks.

A configuration that says `routing_strategy: peak_ewma` must start without us, or the kill switch would kill the proxy.
Such a name becomes simple-shuffle where a Router is made and where its settings are changed; nothing stands around a
pick, an attempt or an answer. `FAST_ROUTER_ENABLED=never` and `disable(names=True)` leave out this as well.
"""

from __future__ import annotations

import dataclasses
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.tally import LOGGER, tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_STAND_IN = "simple-shuffle"


class _Said:
    """The names that were translated; each is told once per process."""

    names: frozenset[str] = frozenset()


def install(patches: PatchSet, module: ModuleType) -> None:
    """Translate in `litellm.Router`'s constructor and `update_settings`, all that exist in this LiteLLM.

    Args:
        patches: What is to be taken back when fast_router is switched on.
        module: `litellm.router`.
    """
    router = module.Router
    patches.replace(router, "__init__", _init)
    if hasattr(router, "update_settings"):
        patches.replace(router, "update_settings", _update_settings)
    if "from_config" in vars(router):
        # How the proxy of LiteLLM 1.109 and later makes its Router: without `__init__`.
        patches.replace(router, "from_config", _from_config)


def _init(original: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it stands in for that method
        original(self, *args, **_translated(kwargs))

    # LiteLLM reads its Router's parameters off the signature.
    __init__.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    __init__.__doc__ = original.__doc__
    return __init__


def _update_settings(original: Any) -> Any:
    def update_settings(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **_translated(kwargs))

    return update_settings


def _from_config(original: Any) -> Any:
    def from_config(cls: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
        given = getattr(config, "arguments", None) or {}
        told = _translated(given)
        if told is not given:
            config = dataclasses.replace(config, arguments=told)
        return original.__get__(None, cls)(config, *args, **kwargs)

    return classmethod(from_config)


def _translated(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same settings, with LiteLLM's name for a strategy of ours; the same object if there is none."""
    if not settings.get("routing_strategy") and not settings.get("routing_groups"):
        return settings
    try:
        return _with_known_names(settings)
    except Exception as error:  # noqa: BLE001 - LiteLLM says what is wrong with its settings
        tally.failed(error, "translating strategy names")
        return settings


def _with_known_names(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    # Imported at the first name: a process that is off loads no engine for nothing.
    from fast_router.litellm_plugin.picks.strategies_by_name import (  # noqa: PLC0415
        known_to_litellm,
        translate,
        translate_groups,
    )

    known = known_to_litellm()
    changed: dict[str, Any] = {}
    told, own = translate(settings.get("routing_strategy"), known, _STAND_IN)
    if told is not settings.get("routing_strategy"):
        changed["routing_strategy"] = told
    if own is not None:
        changed["routing_strategy_args"] = {}
        _say(own)
    groups, of_groups = translate_groups(settings.get("routing_groups"), known, _STAND_IN)
    if groups is not settings.get("routing_groups"):
        changed["routing_groups"] = groups
    for own, _options in of_groups.values():
        _say(own)
    return {**settings, **changed} if changed else settings


def _say(own: str) -> None:
    if own not in _Said.names:
        _Said.names |= {own}
        LOGGER.warning(
            "fast_router is off: routing_strategy %r, which LiteLLM lacks, is %s meanwhile; nothing else is touched",
            own,
            _STAND_IN,
        )
