"""LiteLLM 1.110: our own strategies by name, in the constructor, `apply` and routing groups.

The Rust core is told least-busy for a strategy that it lacks: it then asks its host to choose, and the choice is
ours. Told simple-shuffle it would pick by itself. Without us such a Router goes by least-busy; LiteLLM's arm of a
rollout by simple-shuffle, as it would have from the start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fast_router.engine.strategies import check_arguments
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.router_state import given_now, given_to
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install", "shuffle_alone"]

_STAND_IN = "least-busy"
_SHUFFLE = "simple-shuffle"


class _Told:
    """Settings as LiteLLM is told them, and what they mean here."""

    def __init__(self, settings: Mapping[str, Any], known: frozenset[str]) -> None:
        changed: dict[str, Any] = {}
        self.names_strategy = "routing_strategy" in settings
        self.names_groups = "routing_groups" in settings
        self.own: str | None = None
        self.options: Mapping[str, Any] = {}
        self.groups: dict[str, tuple[str, Mapping[str, Any]]] = {}
        if self.names_strategy:
            changed["routing_strategy"], self.own = strategies_by_name.translate(
                settings["routing_strategy"], known, _STAND_IN
            )
            if self.own is not None:
                self.options = check_arguments(self.own, settings.get("routing_strategy_args"))
                changed["routing_strategy_args"] = {}
        if self.names_groups:
            changed["routing_groups"], self.groups = strategies_by_name.translate_groups(
                settings["routing_groups"], known, _STAND_IN
            )
            strategies_by_name.check_groups(self.groups)
        self.settings: Mapping[str, Any] = MappingProxyType({**settings, **changed})
        self.names = (settings.get("routing_strategy"), *strategies_by_name.of_groups(settings.get("routing_groups")))

    def note(self, core: Any) -> None:
        """Remember in `core` what was meant."""
        if self.own is None and not self.groups and given_now(core) is None:
            return
        given = given_to(core)
        if self.names_strategy:
            given.router, given.options = self.own, self.options
        if self.names_groups:
            given.groups = self.groups


def _build(original: Any, known: frozenset[str]) -> Any:
    def build(cls: Any, config: Any, host: Any) -> Any:
        told = _Told(config.arguments, known)
        with strategies_by_name.teaching(known, *told.names):
            core = original.__get__(None, cls)(dataclasses.replace(config, arguments=told.settings), host)
        told.note(core)
        return core

    return classmethod(build)


def _apply(original: Any, known: frozenset[str]) -> Any:
    def apply(self: Any, changes: Any) -> Any:
        told = _Told(changes.settings, known)
        with strategies_by_name.teaching(known, *told.names):
            result = original(self, dataclasses.replace(changes, settings=dict(told.settings)))
        told.note(self)
        return result

    return apply


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Accept our names."""
    known = strategies_by_name.known_to_litellm()
    patches.replace(band.core, "build", lambda original: _build(original, known))
    patches.replace(band.core, "apply", lambda original: _apply(original, known))
    return ["strategies"]


def shuffle_alone(patches: PatchSet, band: RustBand, alone: Callable[[], bool]) -> None:
    """Have LiteLLM's arm of a rollout go by LiteLLM's shuffle where only we have the strategy: if `alone()`.

    The core is told so with each request, as if that had named its strategy itself. That holds for the fallbacks as
    well: where some models go by a strategy of LiteLLM's own, the stand-in is left to pick for the others.
    """

    def routing_fields(original: Any) -> Any:
        def _routing_fields(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            fields = original(self, request, *args, **kwargs)
            if "routing_strategy" in fields or not alone():
                return fields
            if _all_ours(self):
                return {**fields, "routing_strategy": _SHUFFLE}
            _warn_of_stand_in(self)
            return fields

        return _routing_fields

    patches.replace(band.core, "_routing_fields", routing_fields)


def _warn_of_stand_in(core: Any) -> None:
    """Say once per Router with whom a rollout compares us where only some models have a strategy of LiteLLM's."""
    given = given_now(core)
    if given is None or given.stand_in_told:
        return
    ours = sorted({own for own in (given.router, *(own for own, _ in given.groups.values())) if own is not None})
    if not ours:
        return
    given.stand_in_told = True
    LOGGER.warning(
        "rollout: LiteLLM's arm picks by %s where the configuration says %s: beside strategies of LiteLLM's own its "
        "core can be told nothing else. To compare with what you run today leave routing_strategy and routing_groups "
        "as they were, and name ours for each model: model_info: {fast_router: {strategy: …}}",
        _STAND_IN,
        ", ".join(ours),
    )


def _all_ours(core: Any) -> bool:
    given = given_now(core)
    if given is None or given.router is None:
        return False
    return all(group.group_name in given.groups for group in core._resolved.routing_groups or ())
