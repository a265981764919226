"""The success callback: its lookups remembered, also for Routers that exist already.

For a deployment that nothing limits all that is left of it is to count the success; that is done at once.

`Router.__init__` hands LiteLLM bound methods, so a patch of the class does not reach a Router built
before it. The entries of the callback lists are therefore exchanged for ones bound to the new
function, and exchanged back when the patches are restored.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature
from fast_router.litellm_plugin.overhead.lookups import Lookups

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "exchange"]

_SESSIONS = ("_aresponses_websocket", "_arealtime")
_SUCCESSES = "increment_deployment_successes_for_current_minute"
_LISTS = ("_async_success_callback", "success_callback", "callbacks")


def exchange(litellm: Any, old: Any, new: Any) -> int:
    """Swap every registered method of function ``old`` for the same object's method of ``new``.

    Returns:
        The number of entries exchanged.
    """
    count = 0
    for name in _LISTS:
        entries = getattr(litellm, name, None)
        if not isinstance(entries, list):
            continue
        for place, entry in enumerate(entries):
            if isinstance(entry, types.MethodType) and entry.__func__ is old:
                entries[place] = types.MethodType(new, entry.__self__)
                count += 1
    return count


def _exchange_back(litellm: Any, replacement: Any, original: Any) -> None:
    exchange(litellm, replacement, original)


def _install(patches: PatchSet, parts: Parts) -> bool:
    litellm, names, service, core = parts.litellm, parts.names, parts.service, parts.core
    space = vars(parts.module)
    # Up to 1.99 the callback does the counting itself; from 1.109 on LiteLLM remembers the verdict.
    shortens = parts.knows("_increment_deployment_usage")
    counts_no_batches = space.get("is_batch_retrieve_call_type")  # from 1.104 on

    def only_counts(self: Any, kwargs: Any) -> Any:
        """The id of the deployment if nothing but its success is to be counted, else None."""
        if not shortens or type(self) is not core or kwargs.get("standard_logging_object") is None:
            return None
        kind = kwargs.get("call_type")
        if kind in _SESSIONS or (counts_no_batches is not None and counts_no_batches(kind)):
            return None
        params = kwargs["litellm_params"]
        group = params["metadata"]["model_group"]
        deployment_id = params["model_info"]["id"]
        if type(deployment_id) is str and group is not None and service.untracked(self, deployment_id, group):
            return deployment_id
        return None

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def deployment_callback_on_success(
            self: Any, kwargs: Any, completion_response: Any, start_time: Any, end_time: Any
        ) -> Any:
            try:
                deployment_id = only_counts(self, kwargs)
            except Exception:  # noqa: BLE001  # LiteLLM's own function knows what to do with it
                deployment_id = None
            if deployment_id is not None:
                space[_SUCCESSES](litellm_router_instance=self, deployment_id=deployment_id)
                return None
            return await original(Lookups(self, service, names), kwargs, completion_response, start_time, end_time)

        return deployment_callback_on_success

    _, name, original = parts.at("deployment_callback_on_success")
    patches.replace(core, name, make)
    replacement = vars(core)[name]
    patches.on_restore(functools.partial(_exchange_back, litellm, replacement, original))
    exchange(litellm, original, replacement)
    return True


FEATURE = Feature(
    "success_callback",
    "looks up again, for its counters, what it knew before the answer",
    "remembered, also for Routers that exist already",
    _install,
    needs=("deployment_callback_on_success",),
    remembers=True,
)
