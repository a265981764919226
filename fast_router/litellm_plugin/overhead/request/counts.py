"""A deployment's requests and successes of the minute, counted where they lie.

LiteLLM keeps both in its two-tier cache, for itself alone (`local_only`): a read and a write through both tiers each
time, with two log lines made for nobody and the size of a number measured as text. A count that is there and has not
expired is raised in place; the rest, and every other kind of cache, is LiteLLM's.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_NO_LOCK = nullcontext()
_SUCCESSES = "increment_deployment_successes_for_current_minute"


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Replace the two ways in which the Router counts."""
    memory, cache_name = parts.memory, parts.names.cache
    # Up to 1.101 the cache has no clock of its own; from 1.108 on its writes hold a lock beside that of its counts.
    example = memory()
    clocked, locked = hasattr(example, "_clock"), hasattr(example, "_write_lock")

    def raised(cache: Any, key: Any) -> int | None:
        """The count under `key`, one more than before; None where LiteLLM has to begin it."""
        kept = cache.in_memory_cache
        if type(kept) is not memory or not kept.max_size_in_memory:
            return None
        with kept._increment_lock, kept._write_lock if locked else _NO_LOCK:
            count = kept.cache_dict.get(key)
            ends = kept.ttl_dict.get(key)
            if (
                type(count) is not int
                or ends is None
                or ends <= (kept._clock() if clocked else parts.now()) + 1  # so near that it could pass on the way
                or len(kept.cache_dict) >= kept.max_size_in_memory  # its own write would throw somebody out
            ):
                return None
            kept.evict_cache()  # as before each of its writes
            kept.cache_dict[key] = count + 1
        return count + 1

    def make_usage(original: Callable[..., int]) -> Callable[..., int]:
        def _update_usage(self: Any, deployment_id: Any, parent_otel_span: Any) -> int:
            try:
                count = raised(getattr(self, cache_name), deployment_id)
            except Exception:  # noqa: BLE001  # LiteLLM's own method counts, or raises its own error
                count = None
            return original(self, deployment_id, parent_otel_span) if count is None else count

        return _update_usage

    def make_successes(original: Callable[..., str]) -> Callable[..., str]:
        def increment_deployment_successes_for_current_minute(litellm_router_instance: Any, deployment_id: Any) -> str:
            key = f"{deployment_id}:successes"
            try:
                count = raised(getattr(litellm_router_instance, cache_name), key)
            except Exception:  # noqa: BLE001  # LiteLLM's own function counts, or raises its own error
                count = None
            if count is None:
                return original(litellm_router_instance=litellm_router_instance, deployment_id=deployment_id)
            return key

        return increment_deployment_successes_for_current_minute

    patches.replace(parts.core, parts.at("_update_usage").name, make_usage)
    patches.replace(parts.module, _SUCCESSES, make_successes)
    return True


FEATURE = Feature(
    "minute_counts",
    "counts requests and successes through a two-tier cache",
    "raises the count where it lies",
    _install,
    needs=(
        "_update_usage",
        _SUCCESSES,
        "InMemoryCache.set_cache",
        "InMemoryCache.evict_cache",
        "InMemoryCache.increment_cache",
        "InMemoryCache.allow_ttl_override",
    ),
)
