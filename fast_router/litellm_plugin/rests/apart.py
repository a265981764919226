"""While a rollout runs, two stores of cooldowns: LiteLLM's own for its arm, and one of this process for ours.

What one arm has found out does not help or hinder the other. Ours begins empty, since the engine knows who rests; when
it ends, what LiteLLM's store holds is taken over again.
"""

from __future__ import annotations

import copy
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fast_router.litellm_plugin.bands.methods import Band

__all__ = ["begin", "end", "keep", "kept", "kept_apart", "ours"]


class _Apart:
    """Whether there are two."""

    on = False


# A `CooldownCache` of LiteLLM's → ours beside it.
_caches: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
# A native store of LiteLLM's → id → (cooldown, Unix seconds until which it holds).
_natives: weakref.WeakKeyDictionary[Any, dict[str, tuple[Any, float]]] = weakref.WeakKeyDictionary()


def begin() -> None:
    """Keep them apart from now on."""
    _Apart.on = True


def end(cores: Iterable[Any], band: Band) -> None:
    """One store is for all again."""
    _Apart.on = False
    _caches.clear()
    _natives.clear()
    for core in cores:
        band.keeper.take_over_rests(core)


def kept_apart() -> bool:
    """Whether there are two."""
    return _Apart.on


def ours(cache: Any) -> Any:
    """The `CooldownCache` of our arm beside one of LiteLLM's: in this process's memory alone."""
    found = _caches.get(cache)
    if found is None:
        from litellm.caching.caching import DualCache  # noqa: PLC0415 - LiteLLM is imported
        from litellm.caching.in_memory_cache import InMemoryCache  # noqa: PLC0415

        found = copy.copy(cache)
        memory = InMemoryCache()
        found.cache = DualCache(in_memory_cache=memory)
        for name in ("in_memory_cache", "_cooldown_store"):
            if name in vars(found):
                vars(found)[name] = memory if name == "in_memory_cache" else found.cache
        found = _caches.setdefault(cache, found)
    return found


def keep(store: Any, deployment_id: str, value: Any, seconds: float) -> None:
    """Note a cooldown of our arm beside a native store."""
    _natives.setdefault(store, {})[deployment_id] = (value, time.time() + seconds)


def kept(store: Any, ids: Sequence[str]) -> list[Any]:
    """The cooldowns of our arm, aligned with `ids`; None for whoever has none."""
    known, now = _natives.get(store, {}), time.time()
    return [found[0] if (found := known.get(id_)) is not None and found[1] > now else None for id_ in ids]
