"""The registry of strategies: one file a strategy, one name each, LiteLLM's spellings as aliases.

Underscore and hyphen are the same. Add your own with `register_strategy`, or by an entry point in the group
`fast_router.strategies` whose value is the class.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from fast_router.engine.strategies.affinity import SessionAffinity
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.cache_aware import CacheAware
from fast_router.engine.strategies.cost_based import CostBased
from fast_router.engine.strategies.latency_based import LatencyBased
from fast_router.engine.strategies.least_busy import LeastBusy
from fast_router.engine.strategies.peak_ewma import PeakEwma
from fast_router.engine.strategies.power_of_two import PowerOfTwo
from fast_router.engine.strategies.round_robin import RoundRobin
from fast_router.engine.strategies.shuffle import SimpleShuffle
from fast_router.engine.strategies.usage_based import UsageBased
from fast_router.errors import (
    ConfigurationError,
    FastRouterError,
    UnknownStrategyError,
    did_you_mean,
    in_words,
    without_quotes,
)

__all__ = [
    "accepts",
    "canonical",
    "check_arguments",
    "check_options",
    "known_strategies",
    "register_strategy",
    "strategy_class",
]

ENTRY_POINT_GROUP = "fast_router.strategies"

_classes: dict[str, type[Strategy]] = {}
_names: dict[str, str] = {}
_discovered = False


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def register_strategy(cls: type[Strategy]) -> type[Strategy]:
    """Add a strategy class to the registry (usable as a class decorator).

    Raises:
        ValueError: The class has no name, or a name of another strategy.
    """
    if not (isinstance(cls, type) and issubclass(cls, Strategy)) or not cls.name:
        msg = f"register_strategy takes a Strategy subclass with a `name`, not {cls!r}"
        raise ValueError(msg)
    canonical_name = _plain(cls.name)
    for spelling in (cls.name, *cls.aliases):
        owner = _names.get(_plain(spelling))
        if owner is not None and owner != canonical_name:
            msg = f"the strategy name {spelling!r} belongs to {owner!r} already; choose another for {cls.__name__}"
            raise ValueError(msg)
    for spelling in (cls.name, *cls.aliases):
        _names[_plain(spelling)] = canonical_name
    _classes[canonical_name] = cls
    return cls


for _cls in (
    SimpleShuffle,
    RoundRobin,
    LeastBusy,
    LatencyBased,
    CostBased,
    UsageBased,
    PowerOfTwo,
    PeakEwma,
    SessionAffinity,
    CacheAware,
):
    register_strategy(_cls)


def _discover() -> None:
    # Looked up at the first name that is not ours: reading entry points costs milliseconds.
    global _discovered  # noqa: PLW0603
    if not _discovered:
        _discovered = True
        from importlib.metadata import entry_points  # noqa: PLC0415

        for point in entry_points(group=ENTRY_POINT_GROUP):
            register_strategy(point.load())


def canonical(name: str) -> str:
    """The one name of a strategy, whatever the spelling.

    Raises:
        UnknownStrategyError: Nobody registered it; the message lists the known ones.
    """
    if isinstance(name, str):
        plain = _plain(name)
        if plain not in _names:
            _discover()
        found = _names.get(plain)
        if found is not None:
            return found
    known = f"known strategies: {', '.join(known_strategies())}"
    question = did_you_mean(name, _classes) or did_you_mean(name, _names)
    msg = (
        f"unknown strategy {in_words(name)}; {question} {known}"
        if question
        else f"unknown strategy {in_words(name)}; {known}"
    )
    raise UnknownStrategyError(msg)


def strategy_class(name: str) -> type[Strategy]:
    """The class behind a name or alias.

    Raises:
        UnknownStrategyError: Nobody registered it.
    """
    return _classes[canonical(name)]


def accepts(strategy: str) -> frozenset[str] | None:
    """The names of a strategy's options; None for one that may take any.

    Raises:
        UnknownStrategyError: Nobody registered it.
    """
    # Its own word alone: what a subclass of the user's takes besides, nobody has said.
    found: frozenset[str] | None = vars(strategy_class(strategy)).get("accepts")
    return found


def check_options(strategy: str, options: Mapping[str, Any], *others: str) -> None:
    """Refuse options that the strategy does not have.

    Args:
        strategy: Its name.
        options: By name.
        others: Further words that would have meant something in the same place, for the question.

    Raises:
        ConfigurationError: There is no such option (the message asks for the nearest, or lists those there are), or
            its value is wrong.
        UnknownStrategyError: Nobody registered the strategy.
    """
    cls, accepted = strategy_class(strategy), accepts(strategy)
    for name in options:
        if accepted is not None and name not in accepted:
            known = ", ".join(sorted(accepted))
            remedy = did_you_mean(name, (*accepted, *others), f"it has {known}" if known else "it has none")
            msg = f"{cls.name} has no option {in_words(name)}; {remedy}"
            raise ConfigurationError(msg)
    try:
        cls((), random.Random(0), options)  # the strategy itself knows which values are wrong
    except FastRouterError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{cls.name}: an option has a wrong value: {without_quotes(str(error))}"
        raise ConfigurationError(msg) from None


def check_arguments(strategy: str, arguments: Any) -> Mapping[str, Any]:
    """What LiteLLM's `routing_strategy_args` say to one of our strategies.

    Args:
        strategy: Its canonical name.
        arguments: Options by name, or nothing.

    Raises:
        ConfigurationError: They are no mapping, or the strategy has no such option or not with this value.
    """
    if not arguments:
        return {}
    if not isinstance(arguments, Mapping):
        msg = f"routing_strategy_args: expected a mapping, not {type(arguments).__name__}"
        raise ConfigurationError(msg)
    if accepts(strategy) is not None:  # what others take is said by nobody before they pick
        try:
            check_options(strategy, arguments)
        except ConfigurationError as error:
            msg = f"routing_strategy_args: {error}"
            raise ConfigurationError(msg) from None
    return dict(arguments)


def known_strategies() -> list[str]:
    """All names, sorted."""
    _discover()
    return sorted(_classes)
