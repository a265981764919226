"""The proxy's start-up objects, which every full garbage collection walks through again.

They are some 800,000, nearly all of them for ever: modules, functions, pydantic's schemas, the deployments. A full
collection stops the proxy for a third of a second to find that out, once in some thousand requests, and whatever is
under way then is late by as much. After the first one in a proxy that serves, what has survived it is set aside
(`gc.freeze`): full collections look only at what came later. Nothing is freed later for that but a cycle among these
objects, say the Router of the start if another configuration replaces it.

Only in the proxy, which has its process to itself. In a program of somebody else's it is not ours to do.
"""

from __future__ import annotations

import contextlib
import gc
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "install"]

FEATURE = "startup_heap"
_FULL = 2


def install(patches: PatchSet) -> list[str]:
    """Watch the collections of the proxy, once it is there.

    Returns:
        Nothing: what is on later is told by `patches.late`.
    """
    patches.when_imported("litellm.proxy.proxy_server", partial(_watch, patches))
    return []


def _watch(patches: PatchSet, proxy: ModuleType) -> list[str]:
    frozen = False

    def collected(phase: str, info: dict[str, Any]) -> None:
        nonlocal frozen
        if phase == "stop" and info.get("generation") == _FULL and proxy.llm_router is not None:
            gc.callbacks.remove(collected)
            if not gc.get_freeze_count():  # else somebody has thought of it
                gc.freeze()
                frozen = True

    def undo() -> None:
        if frozen:
            gc.unfreeze()
        else:
            with contextlib.suppress(ValueError):
                gc.callbacks.remove(collected)

    gc.callbacks.append(collected)
    patches.on_restore(undo)
    return [FEATURE]
