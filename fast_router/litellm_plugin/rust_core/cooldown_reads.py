"""LiteLLM 1.110: the core's question who cools down, answered from the store's memory at once.

Before each pick, and twice after each failure, the core asks about every member of the group; its host parses each of
the keys and has the native store look each id up. Without Redis the store's own list of what cools down now, which is
short, says the same.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["PREFIX", "SUFFIX", "ids_of", "install"]

PREFIX, SUFFIX = "deployment:", ":cooldown"
_BEGIN, _END = len(PREFIX), -len(SUFFIX)


# The question that was read last in this thread: several layers look at each, and most ask about the same group.
_latest = threading.local()


def _keys(step: Mapping[str, Any]) -> list[str] | None:
    """The keys of a step that reads several, None if they are not those of cooldowns."""
    keys = step.get("keys")
    # By maps that call no Python: a group may have ten thousand members.
    try:
        if keys and all(map(str.startswith, keys, repeat(PREFIX))) and all(map(str.endswith, keys, repeat(SUFFIX))):
            return list(keys)
    except TypeError:  # not text
        pass
    return None


def _read(step: Mapping[str, Any]) -> tuple[list[str] | None, list[str] | None]:
    """The keys of such a step and the ids in them."""
    if step.get("op") != "batch_get":
        return None, None
    known = getattr(_latest, "read", None)
    if known is not None:
        if known[0] is step:
            return known[1], known[2]
        if known[1] is not None and known[1] == step.get("keys"):
            _latest.read = (step, known[1], known[2])
            return known[1], known[2]
    keys = _keys(step)
    ids = None if keys is None else [key[_BEGIN:_END] for key in keys]
    _latest.read = (step, keys, ids)
    return keys, ids


def ids_of(step: Mapping[str, Any]) -> list[str] | None:
    """The deployments whose cooldowns a `cache` step reads, None if it is about something else."""
    return _read(step)[1]


def install(patches: PatchSet, band: RustBand) -> None:
    """Answer for LiteLLM where its memory is all that it would look at."""
    core = import_module("litellm.router_rust.core")
    store_class = import_module("litellm.redis.stores.router_cooldowns").RouterCooldownStore
    usage_read = core._USAGE_READ  # a strategy's counters, which are read along with the cooldowns
    plain = core._plain

    def known(self: Any, step: Any) -> list[Any] | None:
        store = self._cooldowns.cooldown_store
        if type(store) is not store_class or store.has_redis or usage_read.get() is not None:
            return None
        keys = _read(step)[0]
        if keys is None:
            return None
        cooling = store.snapshot()
        if not cooling:
            return [None] * len(keys)
        found = plain(dict(cooling))
        return [found.get(key) for key in keys]

    def make(original: Any) -> Any:
        async def _answer_cache(self: Any, step: Any) -> Any:
            answer = known(self, step)
            return await original(self, step) if answer is None else answer

        return _answer_cache

    def make_sync(original: Any) -> Any:
        def _answer_cache_sync(self: Any, step: Any) -> Any:
            answer = known(self, step)
            return original(self, step) if answer is None else answer

        return _answer_cache_sync

    patches.replace(band.core, "_answer_cache", make)
    patches.replace(band.core, "_answer_cache_sync", make_sync)
