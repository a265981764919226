"""LiteLLM's cooldowns, mirrored: who cools down there rests here.

A cooldown that this process sets reaches us when it is set. With Redis, those of other processes are read by
LiteLLM's own reader, in the background, at most once a second (LiteLLM's own interval) and only while there is
traffic; a pick never waits for it. That reader asks Redis again about a key that was not there after ten seconds only;
the shared state, which is on by default where there is Redis, does not wait for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from fast_router.cluster import state_of
from fast_router.litellm_plugin.picks.binding import on_compile
from fast_router.litellm_plugin.rests.store import BOUND, memory_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["attach", "install", "refresh"]

REFRESH_EVERY = 1.0
"""Seconds between two looks at the cooldowns of other processes."""
_tasks: set[asyncio.Task[None]] = set()


def attach(binding: Binding, core: Any) -> None:
    """Take over what cools down in `core` now, and hear of what will."""
    binding.look = refresh
    cache = binding.band.read(core, "cooldown_cache")
    if cache is None:
        return
    vars(cache)[BOUND] = weakref.ref(binding)
    watch_redis(binding, core)
    _take_over(binding, core, cache)


def watch_redis(binding: Binding, core: Any) -> None:
    """Look at Redis from now on if the Router has one; it may get it after it was made."""
    shared = binding.band.read(core, "cache")
    if getattr(shared, "redis_cache", None) is None:
        binding.redis_due = float("inf")
    elif binding.redis_due == float("inf"):
        binding.redis_due = 0.0


def _take_over(binding: Binding, core: Any, cache: Any) -> None:
    """What this process's memory knows; deployments are made as plans are compiled, so ids are kept for then."""
    ids = list(vars(core).get("model_id_to_deployment_index_map") or ())
    key_of = getattr(type(cache), "get_cooldown_cache_key", None)
    # A store of its own since 1.106, the Router's cache before.
    stores = [getattr(owner, "in_memory_cache", None) for owner in (cache, getattr(cache, "cache", None))]
    if key_of is None:
        return
    now = time.time()
    for id_ in ids:
        for store in stores:
            value = store.get_cache(key_of(id_)) if store is not None else None
            if isinstance(value, dict):
                _rest(binding, core, id_, float(value["timestamp"]) + float(value["cooldown_time"]) - now)


def _rest(binding: Binding, core: Any, id_: str, seconds: float) -> None:
    if seconds <= 0:
        return
    engine = binding.engine
    if id_ not in engine.deployments:
        # Not compiled yet: it must exist to rest.
        at = (vars(core).get("model_id_to_deployment_index_map") or {}).get(id_)
        model_list = binding.band.read(core, "model_list") or []
        if not isinstance(at, int) or at >= len(model_list):
            return
        with binding.lock:
            binding.deployment(model_list[at], "simple_shuffle")
    deployment = engine.deployments.get(id_)
    if deployment is not None:
        engine.rest(deployment, seconds)


def _add(original: Any) -> Any:
    def add_deployment_to_cooldown(self: Any, *args: Any, **kwargs: Any) -> Any:
        id_ = kwargs.get("model_id", args[0] if args else None)
        reference = vars(self).get(BOUND)
        binding = reference() if reference is not None else None
        result = None
        if binding is not None and binding.engine.untold(str(id_)):
            _add_here(self, *args, **kwargs)
        else:
            result = original(self, *args, **kwargs)
        try:
            if binding is not None:
                seconds = kwargs.get("cooldown_time", args[3] if len(args) > 3 else None)
                if seconds is None:
                    seconds = self.default_cooldown_time
                core = binding.core()
                if core is not None:
                    _rest(binding, core, str(id_), float(seconds))
        except Exception as error:  # noqa: BLE001 - LiteLLM's own cooldown stands
            tally.failed(error, "a cooldown")
        return result

    return add_deployment_to_cooldown


def _add_here(
    cache: Any, model_id: str, original_exception: Any, exception_status: int, cooldown_time: float | None
) -> None:
    """Do the same for this process alone: others need not suffer from what one caller says here."""
    seconds = cache.default_cooldown_time if cooldown_time is None else cooldown_time
    key, value = cache._common_add_cooldown_logic(
        model_id=model_id,
        original_exception=original_exception,
        exception_status=exception_status,
        cooldown_time=seconds,
    )
    memory_of(cache).set_cache(key=key, value=value, ttl=seconds)


# -- other processes' cooldowns, by way of Redis -----------------------------------------------------------


def refresh(binding: Binding, core: Any) -> None:
    """Start a look at Redis in the background; called by a pick when one is due."""
    binding.redis_due = binding.engine.clock() + REFRESH_EVERY
    state = state_of(binding.router)
    if state is not None and state.reads_cooldowns:
        # The shared state reads the same keys in its own thread, and says at most once a minute that it cannot.
        return
    cache = binding.band.read(core, "cooldown_cache")
    ids = list(vars(core).get("model_id_to_deployment_index_map") or binding.engine.deployments)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        threading.Thread(
            target=_look, args=(binding, core, cache, ids), name="fast_router-cooldowns", daemon=True
        ).start()
        return
    task = loop.create_task(_look_async(binding, core, cache, ids))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _look_async(binding: Binding, core: Any, cache: Any, ids: list[str]) -> None:
    try:
        found = await cache.async_get_active_cooldowns(model_ids=ids, parent_otel_span=None)
        _mirror(binding, core, found)
    except Exception as error:  # noqa: BLE001 - Redis may be gone; what we know stands
        tally.failed(error, "reading cooldowns")


def _look(binding: Binding, core: Any, cache: Any, ids: list[str]) -> None:
    try:
        _mirror(binding, core, cache.get_active_cooldowns(model_ids=ids, parent_otel_span=None))
    except Exception as error:  # noqa: BLE001 - Redis may be gone; what we know stands
        tally.failed(error, "reading cooldowns")


def _mirror(binding: Binding, core: Any, found: Any) -> None:
    now = time.time()
    for id_, value in found or ():
        _rest(binding, core, id_, float(value["timestamp"]) + float(value["cooldown_time"]) - now)


def install(patches: PatchSet, band: Band) -> list[str]:
    """Hear of every cooldown that LiteLLM sets."""
    from litellm.router_utils.cooldown_cache import CooldownCache  # noqa: PLC0415 - LiteLLM is imported

    del band
    on_compile.append(watch_redis)
    patches.on_restore(lambda: on_compile.remove(watch_redis))
    patches.replace(CooldownCache, "add_deployment_to_cooldown", _add)
    return ["cooldowns"]
