"""The one thing that stays while our strategies are off: their names, where LiteLLM lacks them.

A configuration that says `routing_strategy: peak_ewma` must start without us, or the kill switch would kill the proxy.
Such a name becomes simple-shuffle where a Router is made and where its settings are changed; nothing stands around a
pick, an attempt or an answer. The same holds where fast_router is on without its strategies: on a LiteLLM that it does
not know, or with that feature switched off. `FAST_ROUTER_ENABLED=never` and `disable(names=True)` leave out this, too.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin import construction
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
    """Translate where a `litellm.Router` is made, and in its `update_settings`.

    Args:
        patches: What is to be taken back when fast_router is switched on.
        module: `litellm.router`.
    """
    construction.around(patches, module.Router, told=_translated)
    patches.replace(module.Router, "update_settings", _update_settings)


def _update_settings(original: Any) -> Any:
    def update_settings(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **_translated(kwargs))

    return update_settings


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
            "fast_router's strategies are off, and LiteLLM has no routing_strategy %r: until fast_router is on again, "
            "%s is used instead",
            own,
            _STAND_IN,
        )
