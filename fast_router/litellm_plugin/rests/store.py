"""Where LiteLLM keeps its cooldowns: one place to read, write and clear them, whatever this LiteLLM's is like.

Up to 1.109 a `CooldownCache` over a two-tier cache; from 1.110 on the same class over a native store (see
`rust_core.rests`). Times are Unix seconds, durations seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["BOUND", "CacheRests", "RestStore", "memory_of", "seconds_left"]

BOUND = "_fast_router_binding"
"""Under which a store of LiteLLM's has a weak reference to the binding of its Router."""


class RestStore(Protocol):
    """One Router's cooldowns, as this process knows them."""

    def read(self, deployment_id: str) -> Mapping[str, Any] | None:
        """The cooldown of a deployment, None if there is none: `timestamp`, `cooldown_time`, `status_code`, …."""

    def write(self, deployment_id: str, seconds: float, status: int, reason: str) -> None:
        """Have everybody who reads the store leave a deployment alone for so long."""

    def clear(self, deployment_id: str) -> None:
        """End a cooldown before its time."""


def seconds_left(value: object) -> float | None:
    """Give the seconds for which a cooldown still holds, None for what is none."""
    if not isinstance(value, Mapping):
        return None
    return float(value["timestamp"]) + float(value["cooldown_time"]) - time.time()


class CacheRests:
    """Cooldowns in LiteLLM's `CooldownCache`.

    Args:
        cache: The cache.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def read(self, deployment_id: str) -> Mapping[str, Any] | None:
        """As of the protocol."""
        found = memory_of(self._cache).get_cache(type(self._cache).get_cooldown_cache_key(deployment_id))
        return found if isinstance(found, dict) else None

    def write(self, deployment_id: str, seconds: float, status: int, reason: str) -> None:
        """As of the protocol."""
        self._cache.add_deployment_to_cooldown(
            model_id=deployment_id,
            original_exception=RuntimeError(reason),
            exception_status=status,
            cooldown_time=seconds,
        )

    def clear(self, deployment_id: str) -> None:
        """As of the protocol; both tiers."""
        _store_of(self._cache).delete_cache(type(self._cache).get_cooldown_cache_key(deployment_id))


def _store_of(cache: Any) -> Any:
    """Give the two-tier cache that holds LiteLLM's cooldowns: its own from 1.106 on, before that the Router's."""
    return getattr(cache, "cooldown_store", None) or cache.cache


def memory_of(cache: Any) -> Any:
    """Give this process's tier of it."""
    return _store_of(cache).in_memory_cache
