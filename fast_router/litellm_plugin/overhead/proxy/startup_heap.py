"""The start-up objects of a proxy, which every full garbage collection walks through again.

They are some 800,000, nearly all of them for ever: modules, functions, pydantic's schemas, the deployments. A full
collection stops the proxy for a third of a second to find that out, once in some thousand requests, and whatever is
under way then is late by as much. After the first one in a process that serves, what has survived it is set aside
(`gc.freeze`): full collections look only at what came later. Nothing is freed later for that but a cycle among these
objects, say the Router of the start if another configuration replaces it.

In the proxy, which has its process to itself. A program of somebody else's says so with the option `freeze_heap`.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin.overhead.feature import Feature
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_NAME = "startup_heap"
_FULL = 2


def _install(patches: PatchSet, _parts: Parts) -> bool:
    """Watch the collections of the proxy, once it is there, or of a program that asks for it."""
    heap = _Heap()

    def proxy(module: ModuleType) -> list[str]:
        heap.watch(lambda: module.llm_router is not None)
        return [_NAME]

    def program(options: settings.Settings) -> None:
        if options.freeze_heap:
            heap.watch(lambda: tally.fast > 0)
            patches.late.add(_NAME)

    patches.on_restore(heap.close)
    patches.on_restore(settings.on_change(program))
    patches.when_imported("litellm.proxy.proxy_server", proxy)
    program(settings.current())
    return False


def _never() -> bool:
    return False


class _Heap:
    """Sets the objects aside that survive the first full collection of a process that serves."""

    def __init__(self) -> None:
        self._serves: Callable[[], bool] | None = None
        self._frozen = False

    def watch(self, serves: Callable[[], bool]) -> None:
        """Wait for that collection; `serves` tells whether the process has come so far."""
        if self._serves is None:
            self._serves = serves
            gc.callbacks.append(self._collected)

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "stop" and info.get("generation") == _FULL and self._serves is not None and self._serves():
            # It stays in the list: whoever comes after us there would not be called for this one.
            self._serves = _never
            if not gc.get_freeze_count():  # else somebody has thought of it
                gc.freeze()
                self._frozen = True

    def close(self) -> None:
        """Watch no longer; give back what was set aside."""
        if self._frozen:
            gc.unfreeze()
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(self._collected)


FEATURE = Feature(
    _NAME,
    "full garbage collections walk through the 800,000 objects of the proxy's start: it stands still for 0.4 s",
    "the first one sets them aside (`gc.freeze`): 16 ms each; in the proxy, and with `freeze_heap`",
    _install,
    waits=True,
)
