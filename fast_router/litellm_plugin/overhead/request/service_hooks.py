"""No task for a service hook that nobody listens to.

The Router reports its own timing to LiteLLM's service logger twice a request, each time as a task of its own, which
finds an empty list of service callbacks. The call stands in the middle of LiteLLM's functions, so it is met at the
name they call: `asyncio`, as the Router's module sees it, is one whose `create_task` knows that hook.
"""

from __future__ import annotations

import asyncio
from types import CoroutineType, ModuleType
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_HOOK = "async_service_success_hook"


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Skip the tasks of the Router's module."""
    litellm, module = parts.litellm, parts.module
    if vars(module).get("asyncio") is not asyncio:
        return False
    code = parts.at(_HOOK).function.__code__
    done: asyncio.Future[None] | None = None

    class Asyncio(ModuleType):
        """`asyncio`, but for `create_task`."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        @staticmethod
        def create_task(coroutine: Any, **options: Any) -> Any:
            """`asyncio.create_task`, or a finished future for a hook without listeners."""
            if type(coroutine) is CoroutineType and coroutine.cr_code is code and not litellm.service_callback:
                frame = coroutine.cr_frame
                # `mock_testing` counts the calls.
                if frame is not None and not frame.f_locals["self"].mock_testing:
                    nonlocal done
                    coroutine.close()
                    loop = asyncio.get_running_loop()
                    finished = done
                    if finished is None or finished.get_loop() is not loop:
                        finished = done = loop.create_future()
                        finished.set_result(None)
                    return finished
            return asyncio.create_task(coroutine, **options)

    patches.replace(module, "asyncio", lambda _: Asyncio("asyncio", asyncio.__doc__))
    return True


FEATURE = Feature(
    "service_hooks",
    "starts two tasks to report its own timing to nobody",
    "no task unless `litellm.service_callback` has somebody",
    _install,
    needs=(_HOOK,),
)
