"""Our own strategies by name wherever LiteLLM takes a `routing_strategy`.

LiteLLM is told simple-shuffle (or its own spelling, for a strategy that it has too), so that a Router works on
without us; which of ours is meant is noted in the core instance. A name that neither of us knows goes through
unchanged and gets LiteLLM's own error.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.engine import canonical
from fast_router.errors import UnknownStrategyError

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install", "of_model", "of_router", "translate"]

_KEY = "_fast_router_strategies"
_SHUFFLE = "simple-shuffle"
# Ours that LiteLLM has too, by the name that LiteLLM knows.
_LITELLM = {
    "simple_shuffle": _SHUFFLE,
    "least_busy": "least-busy",
    "latency_based": "latency-based-routing",
    "cost_based": "cost-based-routing",
    "usage_based": "usage-based-routing-v2",
}


class _Strategies:
    """Which of our strategies one Router was given: for all its models, and by routing group."""

    __slots__ = ("groups", "options", "router")

    def __init__(self) -> None:
        self.router: str | None = None
        self.options: Mapping[str, Any] = {}
        self.groups: dict[str, tuple[str, Mapping[str, Any]]] = {}


_with_groups: weakref.WeakSet[Any] = weakref.WeakSet()


def translate(name: Any, known: frozenset[str]) -> tuple[Any, str | None]:
    """(what LiteLLM is told, our strategy or None) for a `routing_strategy` that a user wrote.

    Args:
        name: What the user wrote.
        known: LiteLLM's own names; they are LiteLLM's affair.
    """
    if not isinstance(name, str) or name in known:
        return name, None
    try:
        own = canonical(name)
    except UnknownStrategyError:
        return name, None
    spelling = _LITELLM.get(own)
    return (spelling, None) if spelling is not None else (_SHUFFLE, own)


def of_model(entries: Sequence[Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]] | None:
    """The strategy that `model_info: {fast_router: {strategy: ...}}` of the first entry with one asks for.

    Raises:
        UnknownStrategyError: It is unknown.
    """
    for entry in entries:
        info = entry.get("model_info")
        ours = info.get("fast_router") if isinstance(info, Mapping) else None
        name = ours.get("strategy") if isinstance(ours, Mapping) else None
        if name is not None:
            options = ours.get("options") if isinstance(ours, Mapping) else None
            return canonical(name), options if isinstance(options, Mapping) else {}
    return None


def of_router(core: Any, band: Band, model: str) -> tuple[str, Mapping[str, Any]] | None:
    """The strategy of ours that the Router was given for `model` (alias resolved), if it was given one."""
    given: _Strategies | None = vars(core).get(_KEY)
    if given is None:
        return None
    groups = band.read(core, "routing_groups", "_routing_groups") or {}
    members = vars(core).get("_model_to_group") or {}
    group = model if model in groups and model not in (band.read(core, "model_names") or ()) else members.get(model)
    if group is not None:
        return given.groups.get(group)
    return None if given.router is None else (given.router, given.options)


def _strategies(core: Any) -> _Strategies:
    state = vars(core)
    found: _Strategies | None = state.get(_KEY)
    if found is None:
        found = state[_KEY] = _Strategies()
    return found


def _known_to_litellm() -> frozenset[str]:
    from litellm.types.router import RoutingStrategy  # noqa: PLC0415 - LiteLLM is imported: its Router asks

    return frozenset({_SHUFFLE, "lar1", "priority", *(member.value for member in RoutingStrategy)})


def _changed(core: Any) -> None:
    from fast_router.litellm_plugin.binding import existing  # noqa: PLC0415 - it imports this module

    binding = existing(core)
    if binding is not None:
        binding.version += 1


def _routing_strategy_init(original: Any, band: Band, known: frozenset[str]) -> Any:
    def routing_strategy_init(self: Any, routing_strategy: Any, routing_strategy_args: Any) -> Any:
        told, own = translate(routing_strategy, known)
        result = original(self, told, routing_strategy_args)
        if told is not routing_strategy:
            attribute = band.attribute(self, "routing_strategy")
            if attribute is not None:
                # Straight into the instance: the constructor has stored what the user wrote there.
                vars(self)[attribute] = told
        if own is not None or _KEY in vars(self):
            given = _strategies(self)
            given.router, given.options = own, dict(routing_strategy_args or {})
        _changed(self)
        return result

    return routing_strategy_init


def _update_settings(original: Any, known: frozenset[str]) -> Any:
    def update_settings(self: Any, **kwargs: Any) -> Any:
        own: str | None = None
        named = "routing_strategy" in kwargs
        if named:
            kwargs["routing_strategy"], own = translate(kwargs["routing_strategy"], known)
        try:
            result = original(self, **kwargs)
            if named and (own is not None or _KEY in vars(self)):
                given = _strategies(self)
                given.router, given.options = own, dict(kwargs.get("routing_strategy_args") or {})
            return result
        finally:
            _changed(self)

    return update_settings


def _init_routing_groups(original: Any, known: frozenset[str]) -> Any:
    def init_routing_groups(self: Any, groups_input: Any) -> Any:
        told, own = _translate_groups(groups_input, known)
        result = original(self, told)
        if own or _KEY in vars(self):
            _strategies(self).groups = own
        if own:
            _with_groups.add(self)
        _changed(self)
        return result

    return init_routing_groups


def _translate_groups(given: Any, known: frozenset[str]) -> tuple[Any, dict[str, tuple[str, Mapping[str, Any]]]]:
    own: dict[str, tuple[str, Mapping[str, Any]]] = {}
    if not isinstance(given, (list, tuple)):
        return given, own
    told = []
    for group in given:
        read = group.get if isinstance(group, Mapping) else lambda key, group=group: getattr(group, key, None)
        spelling, ours = translate(read("routing_strategy"), known)
        if ours is not None:
            own[str(read("group_name"))] = (ours, dict(read("routing_strategy_args") or {}))
        if spelling is read("routing_strategy"):
            told.append(group)
        elif isinstance(group, Mapping):
            told.append({**group, "routing_strategy": spelling})
        else:
            told.append(group.model_copy(update={"routing_strategy": spelling}))
    return told, own


def install(patches: PatchSet, band: Band) -> list[str]:
    """Accept our names in the constructor, in `update_settings` and in routing groups."""
    known = _known_to_litellm()
    core = band.core
    patches.replace(
        core, band.slot("routing_strategy_init"), lambda original: _routing_strategy_init(original, band, known)
    )
    patches.replace(core, band.slot("update_settings"), lambda original: _update_settings(original, known))
    if band.has("_init_routing_groups"):
        name = band.slot("_init_routing_groups")
        patches.replace(core, name, lambda original: _init_routing_groups(original, known))

        def undo() -> None:
            # LiteLLM builds its groups anew from what the user wrote: without us it must find its own names there.
            for router in list(_with_groups):
                state = vars(router)
                state["_routing_groups_input"] = _translate_groups(state.get("_routing_groups_input"), known)[0]

        patches.on_restore(undo)
    return ["strategies"]
