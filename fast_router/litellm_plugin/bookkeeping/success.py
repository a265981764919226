"""The success callback: its lookups remembered, also for Routers that exist already.

`Router.__init__` hands LiteLLM bound methods, so a patch of the class does not reach a Router built
before it. The entries of the callback lists are therefore exchanged for ones bound to the new
function, and exchanged back when the patches are restored.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bookkeeping.lookups import Lookups, LookupService
from fast_router.litellm_plugin.bookkeeping.shapes import is_known, member

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.bookkeeping.names import Names
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "exchange", "install"]

FEATURE = "success_callback"
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


def install(patches: PatchSet, litellm: Any, names: Names, service: LookupService) -> list[str]:
    """Run `deployment_callback_on_success` with remembered lookups."""
    found = member(names.core, "deployment_callback_on_success")
    if found is None or not is_known(*found):
        return []

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def deployment_callback_on_success(
            self: Any, kwargs: Any, completion_response: Any, start_time: Any, end_time: Any
        ) -> Any:
            return await original(Lookups(self, service, names), kwargs, completion_response, start_time, end_time)

        return deployment_callback_on_success

    name, original = found
    patches.replace(names.core, name, make)
    replacement = vars(names.core)[name]
    patches.on_restore(functools.partial(_exchange_back, litellm, replacement, original))
    exchange(litellm, original, replacement)
    return [FEATURE]
