"""What `rollout` and `experiment` may be: a share of the traffic or `observe`; a strategy and its share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fast_router.errors import ConfigurationError, did_you_mean, in_words

__all__ = ["EVERYTHING", "LITELLMS_ALONE", "OBSERVE", "check_experiment", "check_rollout", "clash"]

OBSERVE: Final = "observe"
EVERYTHING: Final = 100.0
"""Percent, and the default: nothing of a rollout is there."""
LITELLMS_ALONE: Final = frozenset({"provider-budget-routing", "lar1", "lar1-routing"})
"""Strategies that only LiteLLM has; everything else must be in our registry."""

_SHARE = "a share in percent from 0 to 100"
_KEYS = ("strategy", "share", "options")
_LIKE = "an experiment is written as {strategy: cache_aware, share: 20}"


def check_rollout(value: object) -> float | str:
    """The share in percent, or `observe`.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str) and value.strip().lower() == OBSERVE:
        return OBSERVE
    share = _percent(value)
    if share is None:
        msg = f"expected {_SHARE}, or observe"
        raise ValueError(msg)
    return share


def check_experiment(value: object) -> dict[str, Any]:
    """The strategy that is tried by its canonical name, its `share` in percent, and its `options`; empty for none.

    Raises:
        ConfigurationError: A key is missing or unknown, or has a wrong value; the message says which.
    """
    if isinstance(value, Mapping) and not value:
        return {}
    if not isinstance(value, Mapping):
        msg = f"expected a mapping, not {type(value).__name__}; {_LIKE}"
        raise ConfigurationError(msg)
    for key in value:
        if key not in _KEYS:
            msg = f"there is no key {in_words(key)}; {did_you_mean(key, _KEYS, _LIKE)}"
            raise ConfigurationError(msg)
    missing = [key for key in ("strategy", "share") if value.get(key) is None]
    if missing:
        msg = f"{' and '.join(missing)} must be given; {_LIKE}"
        raise ConfigurationError(msg)
    share = _percent(value["share"])
    if share is None:
        msg = f"share: {in_words(value['share'])}: expected {_SHARE}"
        raise ConfigurationError(msg)
    name, options = value["strategy"], value.get("options") or {}
    if isinstance(name, str) and name in LITELLMS_ALONE:
        msg = f"strategy: {name!r} is LiteLLM's alone; an experiment takes one that fast_router picks by"
        raise ConfigurationError(msg)
    if not isinstance(options, Mapping):
        msg = f"options: expected a mapping, not {type(options).__name__}"
        raise ConfigurationError(msg)
    from fast_router.engine.strategies import canonical, check_options  # noqa: PLC0415 - only for an experiment

    strategy = canonical(name)
    check_options(strategy, options)
    return {"strategy": strategy, "share": share, **({"options": dict(options)} if options else {})}


def clash(rollout: float | str, source: str) -> str:
    """Why an experiment cannot run beside this `rollout`, which comes from `source`; empty if it can."""
    if rollout == EVERYTHING:
        return ""
    share = rollout if isinstance(rollout, str) else f"{rollout:g}"
    return (
        f"an experiment needs every request to be picked by fast_router, and rollout is {share} ({source}); "
        "set rollout to 100, or leave out experiment"
    )


def _percent(value: object) -> float | None:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            share = float(value)
        except (ValueError, OverflowError):
            return None
        if 0.0 <= share <= EVERYTHING:
            return share
    return None
