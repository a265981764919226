"""Our own strategies by name wherever LiteLLM takes a `routing_strategy`.

LiteLLM is told simple-shuffle (or its own spelling, for a strategy that it has too), so that a Router works on
without us; which of ours is meant is noted in the core instance. A name that neither of us knows goes through
unchanged and gets LiteLLM's own error, with our names added to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fast_router.deployment_options import options_of
from fast_router.engine import canonical, known_strategies
from fast_router.engine.strategies import check_arguments
from fast_router.errors import ConfigurationError, UnknownStrategyError, did_you_mean, in_words
from fast_router.litellm_plugin.router_state import KEY, given_now, given_to
from fast_router.litellm_plugin.strategy_names import LITELLM

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = [
    "check_groups",
    "install",
    "known_to_litellm",
    "of_groups",
    "of_model",
    "of_router",
    "teaching",
    "translate",
    "translate_groups",
]

_SHUFFLE = "simple-shuffle"


_with_groups: weakref.WeakSet[Any] = weakref.WeakSet()


def translate(name: Any, known: frozenset[str], stand_in: str = _SHUFFLE) -> tuple[Any, str | None]:
    """(what LiteLLM is told, our strategy or None) for a `routing_strategy` that a user wrote.

    Args:
        name: What the user wrote.
        known: LiteLLM's own names; they are LiteLLM's affair.
        stand_in: What LiteLLM is told for a strategy that it lacks.
    """
    if not isinstance(name, str) or name in known:
        return name, None
    try:
        own = canonical(name)
    except UnknownStrategyError:
        return name, None
    spelling = LITELLM.get(own)
    return (spelling, None) if spelling is not None else (stand_in, own)


@contextmanager
def teaching(known: frozenset[str], *names: Any) -> Iterator[None]:
    """Add our names to LiteLLM's error about one of `names`, for LiteLLM lists only its own.

    The exception itself stays: its type, its traceback, and its text up to what is added.
    """
    try:
        yield
    except Exception as error:
        said = error.args[0] if error.args else None
        wrong = next((name for name in names if isinstance(name, str) and f"'{name}'" in str(said)), None)
        if isinstance(said, str) and wrong is not None and "strategy" in said and _ALSO not in said:
            error.args = (f"{said} {_also(wrong, known)}", *error.args[1:])
        raise


_ALSO = "fast_router also knows: "


def _also(wrong: str, known: frozenset[str]) -> str:
    ours = [name for name in known_strategies() if name not in LITELLM]
    question = did_you_mean(wrong, (*known_strategies(), *sorted(known)))
    return f"{_ALSO}{', '.join(ours)}{f'; {question}' if question else '.'}"


def of_model(entries: Sequence[Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]] | None:
    """The strategy that `model_info: {fast_router: {strategy: ...}}` of the first entry with one asks for.

    Raises:
        ConfigurationError: It is unknown, or what the entry says has a wrong value.
    """
    for entry in entries:
        said = options_of(entry)
        if said.strategy is not None:
            return canonical(said.strategy), said.options
    return None


def of_router(core: Any, band: Band, model: str) -> tuple[str, Mapping[str, Any]] | None:
    """The strategy of ours that the Router was given for `model` (alias resolved), if it was given one."""
    given = given_now(core)
    if given is None:
        return None
    groups = band.read(core, "routing_groups", "_routing_groups") or {}
    members = vars(core).get("_model_to_group") or {}
    group = model if model in groups and model not in (band.read(core, "model_names") or ()) else members.get(model)
    if group is not None:
        return given.groups.get(group)
    return None if given.router is None else (given.router, given.options)


def known_to_litellm() -> frozenset[str]:
    """LiteLLM's own names for strategies."""
    from litellm.types.router import RoutingStrategy  # noqa: PLC0415 - LiteLLM is imported: its Router asks

    return frozenset({_SHUFFLE, "lar1", "priority", *(member.value for member in RoutingStrategy)})


def _changed(core: Any) -> None:
    state = vars(core).get(KEY)
    if state is not None and state.binding is not None:
        state.binding.version += 1


def _routing_strategy_init(original: Any, band: Band, known: frozenset[str]) -> Any:
    def routing_strategy_init(self: Any, routing_strategy: Any, routing_strategy_args: Any) -> Any:
        told, own = translate(routing_strategy, known)
        options = {} if own is None else check_arguments(own, routing_strategy_args)
        with teaching(known, routing_strategy):
            result = original(self, told, routing_strategy_args)
        if told is not routing_strategy:
            attribute = band.attribute(self, "routing_strategy")
            if attribute is not None:
                # Straight into the instance: the constructor has stored what the user wrote there.
                vars(self)[attribute] = told
        if own is not None or given_now(self) is not None:
            given = given_to(self)
            given.router, given.options = own, options
        _changed(self)
        return result

    return routing_strategy_init


def _update_settings(original: Any, known: frozenset[str]) -> Any:
    def update_settings(self: Any, **kwargs: Any) -> Any:
        own: str | None = None
        options: Mapping[str, Any] = {}
        named = "routing_strategy" in kwargs
        if named:
            kwargs["routing_strategy"], own = translate(kwargs["routing_strategy"], known)
        if own is not None:
            options = check_arguments(own, kwargs.get("routing_strategy_args"))
        check_groups(translate_groups(kwargs.get("routing_groups"), known)[1])
        try:
            with teaching(known, kwargs.get("routing_strategy"), *of_groups(kwargs.get("routing_groups"))):
                result = original(self, **kwargs)
            if named and (own is not None or given_now(self) is not None):
                given = given_to(self)
                given.router, given.options = own, options
            return result
        finally:
            _changed(self)

    return update_settings


def _init_routing_groups(original: Any, known: frozenset[str]) -> Any:
    def init_routing_groups(self: Any, groups_input: Any) -> Any:
        told, own = translate_groups(groups_input, known)
        check_groups(own)
        with teaching(known, *of_groups(groups_input)):
            result = original(self, told)
        if own or given_now(self) is not None:
            given_to(self).groups = own
        if own:
            _with_groups.add(self)
        _changed(self)
        return result

    return init_routing_groups


def of_groups(given: Any) -> list[Any]:
    """The strategies that routing groups name."""
    return [_reader(group)("routing_strategy") for group in given] if isinstance(given, (list, tuple)) else []


def check_groups(own: Mapping[str, tuple[str, Any]]) -> None:
    """Refuse what a routing group says to its strategy, where that is one of ours.

    Args:
        own: As `translate_groups` gives it.

    Raises:
        ConfigurationError: It has no such option, or not with this value; the message names the group.
    """
    for group, (strategy, options) in own.items():
        try:
            check_arguments(strategy, options)
        except ConfigurationError as error:
            msg = f"routing group {in_words(group)}: {error}"
            raise ConfigurationError(msg) from None


def _reader(group: Any) -> Callable[[str], Any]:
    return group.get if isinstance(group, Mapping) else lambda key: getattr(group, key, None)


def translate_groups(
    given: Any, known: frozenset[str], stand_in: str = _SHUFFLE
) -> tuple[Any, dict[str, tuple[str, Mapping[str, Any]]]]:
    """As `translate`, for routing groups: (what LiteLLM is told, our strategies and their options by group)."""
    own: dict[str, tuple[str, Mapping[str, Any]]] = {}
    if not isinstance(given, (list, tuple)):
        return given, own
    told = []
    for group in given:
        read = _reader(group)
        spelling, ours = translate(read("routing_strategy"), known, stand_in)
        if ours is not None:
            options = read("routing_strategy_args") or {}
            own[str(read("group_name"))] = (ours, dict(options) if isinstance(options, Mapping) else options)
        if spelling is read("routing_strategy"):
            told.append(group)
        elif isinstance(group, Mapping):
            told.append({**group, "routing_strategy": spelling})
        else:
            told.append(group.model_copy(update={"routing_strategy": spelling}))
    return told, own


def install(patches: PatchSet, band: Band) -> list[str]:
    """Accept our names in the constructor, in `update_settings` and in routing groups."""
    known = known_to_litellm()
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
                state["_routing_groups_input"] = translate_groups(state.get("_routing_groups_input"), known)[0]

        patches.on_restore(undo)
    return ["strategies"]
