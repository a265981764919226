"""Response headers: the group's remaining tokens and requests without a key per deployment.

`get_model_group_usage` builds two keys for every deployment of the group and reads each of them, on
every response of a group with limits. The keys are built once a minute here. In memory the cache
holds at most a few hundred items, so the sum goes over whichever is smaller, the keys or the cache's
own items: the very numbers that LiteLLM would read. With Redis, LiteLLM's own method reads.

`get_remaining_model_group_usage` is answered at once for a group without limits. LiteLLM keeps that
knowledge for 64 groups; with more, each miss merges the model info of all deployments again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.books import books_of, remember_name
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.bands.member_names import Names
    from fast_router.litellm_plugin.overhead.construction.prices import PriceClock
    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]


class _Keys:
    """The usage keys of a group in one minute."""

    __slots__ = ("minute", "rows", "rpm", "tpm")

    def __init__(self, minute: str, rows: list[Any], tpm: dict[str, int], rpm: dict[str, int]) -> None:
        self.minute = minute
        #: The group's entries; each is the live dict, so `is` tells whether the group changed.
        self.rows = rows
        #: Key → how many deployments share it (same id and model twice: LiteLLM reads it twice).
        self.tpm = tpm
        self.rpm = rpm


def _build_keys(enum: Any, rows: list[Any], minute: str) -> _Keys:
    tpm: dict[str, int] = {}
    rpm: dict[str, int] = {}
    for row in rows:
        deployment_id = row.get("model_info", {}).get("id")
        model = row["litellm_params"].get("model")
        if deployment_id is None or model is None:
            continue
        for counts, kind in ((tpm, enum.TPM), (rpm, enum.RPM)):
            key = kind.value.format(id=deployment_id, model=model, current_minute=minute)
            counts[key] = counts.get(key, 0) + 1
    return _Keys(minute, rows, tpm, rpm)


class _Unusual(Exception):  # noqa: N818  # a signal, not an error
    """Something that LiteLLM's own method has to read."""


def _sum(memory: Any, keys: dict[str, int], now: float) -> int | None:
    """The sum of the whole numbers under ``keys``, None if there is none.

    Raises:
        _Unusual: A value is text or has expired: reading it decodes or removes it.
    """
    items = memory.cache_dict
    expiries = memory.ttl_dict
    total: int | None = None
    hits = [key for key in items if key in keys] if len(items) < len(keys) else [key for key in keys if key in items]
    for key in hits:
        value = items[key]
        if now > expiries.get(key, now) or isinstance(value, (str, bytes, bytearray)):
            raise _Unusual
        if isinstance(value, int):
            total = (total or 0) + value * keys[key]
    return total


def _install(patches: PatchSet, parts: Parts) -> bool:
    usage, remaining = parts.at("get_model_group_usage"), parts.at("get_remaining_model_group_usage")
    patches.replace(usage.owner, usage.name, lambda original: _usage(original, parts))
    patches.replace(remaining.owner, remaining.name, lambda original: _remaining(original, parts.names, parts.prices))
    return True


def _usage(original: Callable[..., Awaitable[Any]], parts: Parts) -> Callable[..., Awaitable[Any]]:
    names, enum, memory_class, utc_now = parts.names, parts.keys, parts.memory, parts.utc_now

    def read(self: Any, group: str) -> tuple[int | None, int | None]:
        cache = getattr(self, names.cache)
        memory = cache.in_memory_cache
        if cache.redis_cache is not None or type(memory) is not memory_class:
            raise _Unusual
        rows = getattr(self, names.get_model_list)(model_name=group)
        minute = utc_now().strftime("%H-%M")
        memo = books_of(self).groups
        known: _Keys | None = memo.get(group)
        if known is None or known.minute != minute or not _same(known.rows, rows):
            known = _build_keys(enum, rows, minute)
            remember_name(self, names, memo, group, known, group)
        # One reading of the clock that the cache itself expires by.
        now = memory._clock() if hasattr(memory, "_clock") else parts.now()
        return _sum(memory, known.tpm, now), _sum(memory, known.rpm, now)

    async def get_model_group_usage(self: Any, model_group: str) -> tuple[int | None, int | None]:
        try:
            return read(self, model_group)
        except Exception:  # noqa: BLE001  # LiteLLM's own method answers, or raises its own error
            answer: tuple[int | None, int | None] = await original(self, model_group)
            return answer

    return get_model_group_usage


def _same(known: list[Any], rows: list[Any]) -> bool:
    # Lists compare identical elements without looking into them; an equal but different dict of an
    # alias (LiteLLM copies those) is looked into, which is right as well.
    return len(known) == len(rows) and known == rows


class _WithInfo:
    """A Router that knows this group's info already."""

    __slots__ = ("_info", "_router")

    def __init__(self, router: Any, info: Any) -> None:
        self._router = router
        self._info = info

    def _cached_get_model_group_info(self, _: str) -> Any:
        return self._info

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)


def _remaining(
    original: Callable[..., Awaitable[Any]], names: Names, prices: PriceClock
) -> Callable[..., Awaitable[Any]]:
    limits = ("tpm", "rpm", "itpm", "otpm")

    async def get_remaining_model_group_usage(self: Any, model_group: str) -> Any:
        try:
            memo = books_of(self).limits
            known = memo.get(model_group)
            if known is None or known[0] != prices.now():
                generation = prices.now()
                info = self._cached_get_model_group_info(model_group)
                known = (generation, info)
                remember_name(self, names, memo, model_group, known, model_group)
            info = known[1]
            if info is None or all(getattr(info, limit, None) is None for limit in limits):
                return {}
            instead: Any = _WithInfo(self, info)
        except Exception:  # noqa: BLE001  # LiteLLM's own method answers, or raises its own error
            instead = self
        return await original(instead, model_group)

    return get_remaining_model_group_usage


FEATURE = Feature(
    "response_headers",
    "two cache keys for every deployment of the group, read one by one",
    "keys once a minute; the sum goes over what the cache really holds",
    _install,
    needs=("get_model_group_usage", "get_remaining_model_group_usage"),
    remembers=True,
)
