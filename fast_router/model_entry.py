"""One entry of a model list, read into what the engine needs.

Two kinds are understood, mixed as you like: LiteLLM's (`model_name`, `litellm_params`, `model_info`) and plain
dicts (`model_name`, `endpoint`, `capacity` or `weight`, `metadata.priority`, `.capacity`, `.region`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from fast_router.deployment_options import options_of
from fast_router.errors import ConfigurationError, in_words

__all__ = ["Spec", "labels", "read_entry", "read_list"]

_EMPTY: Mapping[str, Any] = {}


class Spec(NamedTuple):
    """What an entry says, in the engine's terms (units as in `engine.Deployment`)."""

    id: str
    name: str
    entry: Mapping[str, Any]
    weight: float | None
    rpm: float | None
    tpm: float | None
    max_parallel: int | None
    order: int | None
    price: float
    capacity: float
    qos_metric: str | None
    qos_limit: float | None
    strategy: str | None
    region: str | None

    def limits(self) -> dict[str, Any]:
        """The keyword arguments that `engine.Deployment` takes."""
        keys = ("weight", "rpm", "tpm", "max_parallel", "order", "price", "capacity", "qos_metric", "qos_limit")
        return {key: getattr(self, key) for key in keys}


def labels(entry: Mapping[str, Any]) -> set[str]:
    """Every word by which `blocked_models` can name this entry: model_name, litellm_params.model, id, name."""
    found = [entry.get("model_name"), entry.get("id"), entry.get("name")]
    params = entry.get("litellm_params")
    if isinstance(params, Mapping):
        found.append(params.get("model"))
    info = entry.get("model_info")
    if isinstance(info, Mapping):
        found.append(info.get("id"))
    return {word for word in found if isinstance(word, str)}


def read_list(model_list: Sequence[Mapping[str, Any]], *, where: str = "model_list") -> list[Spec]:
    """Read a whole list.

    Args:
        model_list: The entries.
        where: How error messages name the list.

    Raises:
        ConfigurationError: An entry is malformed, or two have one id; nothing is half read.
    """
    # Callers without a type checker exist.
    given: object = model_list
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
        msg = f"{where} must be a list of deployments (dicts), not {type(model_list).__name__}"
        raise ConfigurationError(msg)
    specs = [read_entry(entry, f"{where}[{index}]", index) for index, entry in enumerate(model_list)]
    seen: dict[str, int] = {}
    for index, spec in enumerate(specs):
        if spec.id in seen:
            msg = (
                f"{where}[{index}]: the id {spec.id!r} is that of {where}[{seen[spec.id]}] already; "
                "give every deployment an id of its own, or none"
            )
            raise ConfigurationError(msg)
        seen[spec.id] = index
    return specs


def read_entry(entry: Mapping[str, Any], where: str, index: int = 0) -> Spec:
    """Read one entry.

    Raises:
        ConfigurationError: It is malformed; the message names `where`, the key and the remedy, and no value of
            `litellm_params` that could be secret.
    """
    given: object = entry
    if not isinstance(given, Mapping):
        msg = f"{where} must be a mapping with at least 'model_name', not {type(entry).__name__}"
        raise ConfigurationError(msg)
    name = entry.get("model_name")
    if not isinstance(name, str) or not name:
        msg = f"{where}: 'model_name' must be a non-empty string (the name that requests ask for)"
        raise ConfigurationError(msg)
    params = _section(entry, "litellm_params", where)
    info = _section(entry, "model_info", where)
    metadata = _section(entry, "metadata", where)
    ours = options_of(entry, where)

    if any(said is not None for said in (ours.kv_events, ours.kv_replay, ours.kv_topic, ours.tokenizer)):
        from fast_router.kv_events import follow  # noqa: PLC0415 - an extra: only who asks for it pays

        follow.read(ours, f"{where}: model_info.fast_router")

    def number(key: str, *places: Mapping[str, Any]) -> float | None:
        for place in places:
            if place.get(key) is not None:
                return _number(place[key], f"{where}: '{key}'")
        return None

    weight = number("weight", params, entry)
    capacity = ours.capacity if ours.capacity is not None else number("capacity", entry, info, metadata)
    if weight is None and capacity is not None and not params:
        weight = capacity
    parallel = number("max_parallel_requests", params, entry)
    if parallel is None:
        parallel = ours.max_parallel if ours.max_parallel is not None else number("max_parallel", entry)
    if ours.qos_metric == "inflight" and ours.qos_limit is not None:
        parallel = ours.qos_limit
    order = params.get("order", info.get("order"))
    if order is None:
        order = metadata.get("priority")
    if order is not None:
        order = int(_number(order, f"{where}: 'order'", negative=True))
    id_ = info.get("id") or entry.get("id") or entry.get("name") or f"{name}#{index}"
    return Spec(
        id=str(id_),
        name=name,
        entry=entry,
        weight=weight,
        rpm=number("rpm", params, entry, info),
        tpm=number("tpm", params, entry, info),
        max_parallel=None if parallel is None else int(parallel),
        order=order,
        price=_price(entry, params, info, where),
        capacity=capacity or 1.0,
        qos_metric=ours.qos_metric,
        qos_limit=ours.qos_limit,
        strategy=ours.strategy,
        region=metadata.get("region"),
    )


def _price(entry: Mapping[str, Any], params: Mapping[str, Any], info: Mapping[str, Any], where: str) -> float:
    total = 0.0
    for key in ("input_cost_per_token", "output_cost_per_token"):
        for place in (params, info, entry):
            if place.get(key) is not None:
                total += _number(place[key], f"{where}: '{key}'")
                break
    if not total:
        for key in ("price", "cost"):
            if entry.get(key) is not None:
                return _number(entry[key], f"{where}: '{key}'")
    return total


def _section(place: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = place.get(key)
    if value is None:
        return _EMPTY
    if not isinstance(value, Mapping):
        msg = f"{where}: '{key}' must be a mapping, not {type(value).__name__}"
        raise ConfigurationError(msg)
    return value


def _number(value: object, what: str, *, negative: bool = False) -> float:
    try:
        # True is 1 to Python, and a mistake in a configuration.
        number = float("nan" if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        msg = (
            f"{what} must be a number, not {in_words(value)}" if isinstance(value, str) else f"{what} must be a number"
        )
        raise ConfigurationError(msg) from None
    if not isfinite(number) or (number < 0 and not negative):
        msg = f"{what} must be a number, zero or more, not {in_words(value)}"
        raise ConfigurationError(msg)
    return number
