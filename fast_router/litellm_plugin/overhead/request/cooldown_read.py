"""Which deployments rest now, read without a probe for every deployment of the Router.

LiteLLM builds a key for each deployment of the whole Router and looks each of them up, on every
request. Without Redis all that can be found is in one dict of at most a few hundred items: so only
ids that occur in it are asked for, and none when it is empty. Expiry, correction and order of what
is found stay LiteLLM's own.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "resting_candidates"]

_HEAD, _TAIL = "deployment:", ":cooldown"
_log = logging.getLogger("LiteLLM Router")


class _Fewer:
    """A Router that names only the deployments that may be resting."""

    __slots__ = ("_ids", "_router")

    def __init__(self, router: Any, ids: list[str]) -> None:
        self._router = router
        self._ids = ids

    def get_model_ids(self) -> list[str]:
        """The ids to look up, in the Router's own order."""
        return self._ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)


def _memory(cooldowns: Any, memory_class: Any) -> Any:
    """The in-memory items that hold the cooldowns; None where Redis or another cache has a say."""
    store = getattr(cooldowns, "cooldown_store", None) or cooldowns.cache
    memory = store.in_memory_cache
    if store.redis_cache is not None or type(memory) is not memory_class:
        return None
    return memory.cache_dict


def resting_candidates(items: Any, known: Any) -> list[str] | None:
    """The ids of ``known`` for which ``items`` may hold a cooldown, in the order of ``known``.

    Returns:
        None where asking for every id is not more work.
    """
    if len(items) >= len(known):
        return None
    head, tail = len(_HEAD), -len(_TAIL)
    ids = {key[head:tail] for key in items if key.startswith(_HEAD) and key.endswith(_TAIL)}
    return [model_id for model_id in known if model_id in ids] if ids else []


def _ids(args: tuple[Any, ...], kwargs: dict[str, Any], memory_class: type) -> tuple[str, Any, list[str]] | None:
    """Argument name, Router and ids to read; None where LiteLLM's own reading has to do."""
    if args or _log.isEnabledFor(logging.DEBUG):
        return None
    router = kwargs.get("litellm_router_instance")
    if router is not None:
        items = _memory(router.cooldown_cache, memory_class)
        if items is None:
            return None
        if not items:
            return "litellm_router_instance", router, []
        found = resting_candidates(items, router.model_id_to_deployment_index_map)
        return None if found is None else ("litellm_router_instance", router, found)
    context = kwargs["ctx"]
    items = _memory(context.health().cooldowns, memory_class)
    return ("ctx", context, []) if items is not None and not items else None


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Replace the two readers under the names that the Router's module calls them by."""
    sites: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("async_get_cooldown_deployments", _asynchronous),
        ("get_cooldown_deployments", _synchronous),
    )
    for name, make in sites:
        if parts.knows(name):
            patches.replace(parts.module, parts.at(name).name, partial(make, memory_class=parts.memory))
    return True


def _asynchronous(
    original: Callable[..., Awaitable[list[str]]], memory_class: type
) -> Callable[..., Awaitable[list[str]]]:
    async def async_get_cooldown_deployments(*args: Any, **kwargs: Any) -> list[str]:
        try:
            found = _ids(args, kwargs, memory_class)
        except Exception:  # noqa: BLE001  # LiteLLM's own reading answers
            found = None
        if found is None:
            return await original(*args, **kwargs)
        name, router, ids = found
        if not ids:
            return []
        return await original(**{**kwargs, name: _Fewer(router, ids)})

    return async_get_cooldown_deployments


def _synchronous(original: Callable[..., list[str]], memory_class: type) -> Callable[..., list[str]]:
    def get_cooldown_deployments(*args: Any, **kwargs: Any) -> list[str]:
        try:
            found = _ids(args, kwargs, memory_class)
        except Exception:  # noqa: BLE001  # LiteLLM's own reading answers
            found = None
        if found is None:
            return original(*args, **kwargs)
        name, router, ids = found
        if not ids:
            return []
        return original(**{**kwargs, name: _Fewer(router, ids)})

    return get_cooldown_deployments


FEATURE = Feature(
    "cooldown_read",
    "a key and a probe for every deployment of the Router",
    "only for deployments that may rest (without Redis)",
    _install,
    any_of=("async_get_cooldown_deployments", "get_cooldown_deployments"),
)
