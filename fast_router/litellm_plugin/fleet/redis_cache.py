"""Where LiteLLM's writing (and reading of cooldowns) turns off to `WriteBehind`: methods of its Redis cache.

Only caches that were registered are concerned, and of those only keys about deployments of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fast_router.cluster.shared_state.write_behind import behind_of

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install_behind"]


def install_behind(patches: PatchSet) -> list[str]:
    """Put ourselves before LiteLLM's own writing of counters; only registered caches are concerned."""
    from litellm.caching.redis_cache import RedisCache  # noqa: PLC0415 - LiteLLM is imported

    for name, replacement in (
        ("async_increment_pipeline", _pipeline),
        ("batch_get_cache", _read),
        ("async_batch_get_cache", _async_read),
        ("get_cache", _get),
        ("increment_cache", _increment),
        ("async_increment", _async_increment),
        ("set_cache", _set),
        ("async_set_cache", _async_set),
        # Before 1.106 least-busy kept one dict a group instead of a counter a deployment.
        ("increment_with_floor", _floor),
        ("async_increment_with_floor", _async_floor),
    ):
        if hasattr(RedisCache, name):
            patches.replace(RedisCache, name, replacement)
    return ["counters_behind"]


def _pipeline(original: Any) -> Any:
    async def async_increment_pipeline(self: Any, increment_list: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        behind = behind_of(self)
        if behind is None or not increment_list or not all(behind.takes(op["key"]) for op in increment_list):
            return await original(self, increment_list, *args, **kwargs)
        return [
            behind.add(
                op["key"], self.check_and_fix_namespace(key=op["key"]), op["increment_value"], op.get("ttl") or 60
            )
            for op in increment_list
        ]

    return async_increment_pipeline


def _read(original: Any) -> Any:
    def batch_get_cache(self: Any, key_list: Any, *args: Any, **kwargs: Any) -> Any:
        behind = behind_of(self)
        known = None if behind is None else behind.cooldowns(key_list)
        return original(self, key_list, *args, **kwargs) if known is None else known

    return batch_get_cache


def _async_read(original: Any) -> Any:
    async def async_batch_get_cache(self: Any, key_list: Any, *args: Any, **kwargs: Any) -> Any:
        behind = behind_of(self)
        known = None if behind is None else behind.cooldowns(key_list)
        return await original(self, key_list, *args, **kwargs) if known is None else known

    return async_batch_get_cache


def _get(original: Any) -> Any:
    def get_cache(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        # LiteLLM 1.110 asks at every synchronous call for the client of its SDK, which lives in memory alone.
        if isinstance(key, str) and key.endswith("_client") and behind_of(self) is not None:
            return None
        return original(self, key, *args, **kwargs)

    return get_cache


def _increment(original: Any) -> Any:
    def increment_cache(self: Any, key: Any, value: Any, ttl: Any = None, **kwargs: Any) -> Any:
        behind = behind_of(self)
        if behind is None or not isinstance(key, str):
            return original(self, key, value, ttl, **kwargs)
        if behind.takes(key):
            return int(behind.add(key, self.check_and_fix_namespace(key=key), value, self.get_ttl(ttl=ttl) or 60))
        if behind.away and behind.counts_failures(key):
            # LiteLLM then goes by this process's own count; by itself it finds out after seconds.
            raise ConnectionError("Redis is away")
        return original(self, key, value, ttl, **kwargs)

    return increment_cache


def _async_increment(original: Any) -> Any:
    async def async_increment(self: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        behind = behind_of(self)
        if behind is None or args or kwargs.get("refresh_ttl") or not isinstance(key, str) or not behind.takes(key):
            return await original(self, key, value, *args, **kwargs)
        ttl = self.get_ttl(ttl=kwargs.get("ttl")) or 60
        return behind.add(key, self.check_and_fix_namespace(key=key), value, ttl)

    return async_increment


def _floor(original: Any) -> Any:
    def increment_with_floor(self: Any, key: str, value: int, ttl: int) -> int:
        behind = behind_of(self)
        if behind is None or not behind.takes(key):
            return int(original(self, key, value, ttl))
        return int(max(0.0, behind.add(key, self.check_and_fix_namespace(key=key), value, ttl)))

    return increment_with_floor


def _async_floor(original: Any) -> Any:
    async def async_increment_with_floor(self: Any, key: str, value: int, ttl: int) -> int:
        behind = behind_of(self)
        if behind is None or not behind.takes(key):
            return int(await original(self, key, value, ttl))
        return int(max(0.0, behind.add(key, self.check_and_fix_namespace(key=key), value, ttl)))

    return async_increment_with_floor


def _taken(cache: Any, key: Any, value: Any, options: dict[str, Any]) -> bool:
    behind = behind_of(cache)
    if behind is None or options.get("nx") or not isinstance(key, str):
        return False
    if behind.takes_cooldown(key, value):
        behind.cool(cache.check_and_fix_namespace(key=key), value, cache.get_ttl(**options))
    elif behind.takes_map(key, value):
        behind.put(cache.check_and_fix_namespace(key=key), value, cache.get_ttl(**options))
    else:
        return False
    return True


def _set(original: Any) -> Any:
    def set_cache(self: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        return None if _taken(self, key, value, kwargs) else original(self, key, value, **kwargs)

    return set_cache


def _async_set(original: Any) -> Any:
    async def async_set_cache(self: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        return True if _taken(self, key, value, kwargs) else await original(self, key, value, **kwargs)

    return async_set_cache
