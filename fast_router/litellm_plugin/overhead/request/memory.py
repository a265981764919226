"""Reads of LiteLLM's in-memory cache without the work that cannot matter.

`InMemoryCache.get_cache` sends every value through `json.loads` and swallows the TypeError that
numbers and dicts raise; a batch read calls it for keys that are not there at all. Only text is
decoded here, and absent keys cost one lookup. Expiry stays LiteLLM's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_ABSENT = object()
_TEXT = (str, bytes, bytearray)


def _get_cache(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_cache(self: Any, key: Any, **kwargs: Any) -> Any:
        value = self.cache_dict.get(key, _ABSENT)
        if value is _ABSENT:
            return None
        if isinstance(value, _TEXT):
            return original(self, key, **kwargs)
        if self.evict_element_if_expired(key):
            return None
        return value

    return get_cache


def _batch_get_cache(_: Callable[..., Any]) -> Callable[..., Any]:
    def batch_get_cache(self: Any, keys: Any, **kwargs: Any) -> list[Any]:
        cache = self.cache_dict
        if not cache:
            return [None] * len(keys)
        get = self.get_cache
        return [get(key=key, **kwargs) if key in cache else None for key in keys]

    return batch_get_cache


def _async_batch_get_cache(_: Callable[..., Any]) -> Callable[..., Any]:
    async def async_batch_get_cache(self: Any, keys: Any, **kwargs: Any) -> list[Any]:
        cache = self.cache_dict
        if not cache:
            return [None] * len(keys)
        get = self.get_cache
        return [get(key=key, **kwargs) if key in cache else None for key in keys]

    return async_batch_get_cache


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Replace the reads; a subclass with its own `get_cache` keeps it: batches call the method."""
    makers = {
        "get_cache": _get_cache,
        "batch_get_cache": _batch_get_cache,
        "async_batch_get_cache": _async_batch_get_cache,
    }
    for name, make in makers.items():
        patches.replace(parts.memory, name, make)
    return True


FEATURE = Feature(
    "memory_reads",
    "sends every cached number through a JSON decoder that rejects it",
    "only text is decoded; absent keys cost one lookup",
    _install,
    needs=("InMemoryCache.get_cache", "InMemoryCache.batch_get_cache", "InMemoryCache.async_batch_get_cache"),
)
