"""`model_info: {fast_router: {…}}`: what a model list says about one deployment, read once into one record.

The names, the kinds of values and their bounds stand here and nowhere else; whoever wants one of them asks
`options_of(entry)` for the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from fast_router.errors import ConfigurationError, UnknownStrategyError, did_you_mean, in_words
from fast_router.settings import table

__all__ = ["KEYS", "METRICS", "DeploymentOptions", "options_of", "unknown_keys"]

_EMPTY: Mapping[str, Any] = MappingProxyType({})

METRICS = ("inflight", "ttft", "latency", "performance")
"""What a quality-of-service limit can be about: requests in flight, else seconds."""


class DeploymentOptions(NamedTuple):
    """What an entry of a model list says to fast_router.

    Attributes:
        strategy: How its model picks, None for the Router's way.
        options: The strategy's own.
        aliases: Other names of its model.
        capacity: Its weight and size beside the others', None for 1.
        max_parallel: The most requests at a time, None for any number.
        qos_metric: What `qos_limit` is about.
        qos_limit: Requests in flight, or seconds; None for no limit.
        retries: How often a request waits for room when all are over their limit.
        retry_countdown: Seconds of each such wait.
        breaker: The settings of its breaker that differ from the process's, by their names.
        kv_events: Where its server tells what it caches.
        kv_replay: Where missed events can be had again.
        kv_topic: The topic of its events.
        tokenizer: The model's folder.
    """

    strategy: str | None = None
    options: Mapping[str, Any] = _EMPTY
    aliases: tuple[str, ...] = ()
    capacity: float | None = None
    max_parallel: float | None = None
    qos_metric: str | None = None
    qos_limit: float | None = None
    retries: int = 0
    retry_countdown: float = 0.0
    breaker: Mapping[str, float] = _EMPTY
    kv_events: str | None = None
    kv_replay: str | None = None
    kv_topic: str | None = None
    tokenizer: str | None = None


_NONE = DeploymentOptions()


class _WrongError(Exception):
    """A value is not what it must be; the message ends the sentence "… must be"."""


def _number(value: Any, least: float = 0.0) -> float:
    try:
        # True is 1 to Python, and a mistake in a configuration.
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise _WrongError("a number") from None
    if not isfinite(number) or number < least:
        raise _WrongError(f"a number, {'zero' if not least else f'{least:g}'} or more")
    return number


def _count(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise _WrongError("a whole number")
    return int(number)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongError("a text")
    return value


def _metric(value: Any) -> str:
    if value in METRICS:
        return str(value)
    question = did_you_mean(value, METRICS)
    raise _WrongError(f"one of {', '.join(METRICS)}{question and f'; {question}'}")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _WrongError("a mapping, such as {load: tokens}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _WrongError("a list of names")
    return tuple(str(one) for one in value)


_Check: TypeAlias = Callable[[Any], Any]
_PLAIN: dict[str, _Check] = {
    "strategy": _text,
    "options": _mapping,
    "aliases": _texts,
    "capacity": _number,
    "max_parallel": _number,
    "qos_metric": _metric,
    "qos_limit": _number,
    "retries": _count,
    "retry_countdown": _number,
    "kv_events": _text,
    "kv_replay": _text,
    "kv_topic": _text,
    "tokenizer": _text,
}
_BREAKER = (
    "breaker_connection_errors",
    "breaker_server_errors",
    "breaker_growth",
    "breaker_max_cooldown",
    "breaker_probe_timeout",
    "breaker_slow_start",
)
KEYS = frozenset({*_PLAIN, *_BREAKER})
"""What `model_info: {fast_router: {...}}` may say, the settings of failover for one deployment included."""


def _breaker(name: str, value: Any) -> float:
    option = table.options()[name]
    number = _count(value) if isinstance(option.default, int) else _number(value, option.bounds.get("ge", 0.0))
    if "gt" in option.bounds and number <= option.bounds["gt"]:
        raise _WrongError(f"a number above {option.bounds['gt']:g}")
    return number


def options_of(entry: Mapping[str, Any], where: str = "") -> DeploymentOptions:
    """Read what an entry says to fast_router; a key without a value, or of another name, says nothing.

    Args:
        entry: An entry of a model list.
        where: How messages name the deployment; empty for its own id.

    Raises:
        ConfigurationError: Values are wrong: the message names the deployment, each such key and what it must be.
    """
    info = entry.get("model_info")
    said = info.get("fast_router") if isinstance(info, Mapping) else None
    if said is None:
        return _NONE
    where = where or f"deployment {(info or {}).get('id')!r}"
    if not isinstance(said, Mapping):
        raise ConfigurationError(
            f"{where}: model_info.fast_router must be a mapping, such as {{strategy: peak_ewma}}, not {in_words(said)}"
        )
    found: dict[str, Any] = {}
    breaker: dict[str, float] = {}
    wrong: list[str] = []
    for key, value in said.items():
        if value is None:
            continue
        try:
            if key in _PLAIN:
                found[key] = _PLAIN[key](value)
            elif key in _BREAKER:
                breaker[key] = _breaker(key, value)
        except _WrongError as error:
            # A value of another kind could be anything, a secret at the wrong place included.
            told = f", not {in_words(value)}" if isinstance(value, (str, bool, int, float)) else ""
            wrong.append(f"'{key}' must be {error}{told}")
    if wrong:
        # Alone those are no error, and they are as likely what is wrong here.
        wrong += [f"{in_words(key)} means nothing; {remedy}" for key, remedy in unknown_keys(entry).items()]
        raise ConfigurationError(f"{where}: model_info.fast_router: {'; '.join(wrong)}")
    return DeploymentOptions(**found, breaker=breaker) if breaker else DeploymentOptions(**found)


def unknown_keys(entry: Mapping[str, Any]) -> dict[str, str]:
    """The keys of `model_info.fast_router` that mean nothing, and what to do about each."""
    info = entry.get("model_info")
    said = info.get("fast_router") if isinstance(info, Mapping) else None
    if not isinstance(said, Mapping):
        return {}
    wrong = [str(key) for key in said if key not in KEYS]
    found = {key: did_you_mean(key, sorted(KEYS), f"known are: {', '.join(sorted(KEYS))}") for key in wrong}
    return found | _unknown_options(said.get("strategy"), said.get("options"))


def _unknown_options(strategy: Any, options: Any) -> dict[str, str]:
    """The same of the options of the entry's strategy; what is wrong otherwise is told elsewhere."""
    if not isinstance(strategy, str) or not isinstance(options, Mapping):
        return {}
    from fast_router.engine.strategies import accepts  # noqa: PLC0415 - few entries have options

    try:
        known = accepts(strategy)
    except UnknownStrategyError:
        return {}
    wrong = [] if known is None else [str(name) for name in options if name not in known]
    there = ", ".join(sorted(known or ())) or "none"
    return {f"options.{name}": did_you_mean(name, known or (), f"{strategy} has {there}") for name in wrong}
