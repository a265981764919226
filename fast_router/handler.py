"""fast_router as a callback of LiteLLM's proxy.

For whoever can change the proxy's config.yaml and nothing else:

    litellm_settings:
      callbacks: ["fast_router.handler"]

LiteLLM imports the callbacks that it finds there in every worker, and importing this one installs fast_router. The
callback itself does nothing. It also answers to `fast_router.handler.handler`.

LiteLLM before 1.99 looks for callbacks beside config.yaml only, never among installed packages. There, put a file
`fast_router_callback.py` beside it with the line `from fast_router.handler import handler`, and write
`callbacks: ["fast_router_callback.handler"]`; that works with every version.
"""

from __future__ import annotations

import sys
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

import fast_router.auto  # noqa: F401 - importing it is what this module is for

__all__ = ["handler"]


class FastRouterHandler(CustomLogger):  # type: ignore[misc]  # LiteLLM's classes come without types here
    """A callback without any work: naming it in config.yaml installs fast_router."""

    @property
    def handler(self) -> FastRouterHandler:
        """Itself: `fast_router.handler` and `fast_router.handler.handler` are the same."""
        return self


handler = FastRouterHandler()

# LiteLLM takes the last word of "fast_router.handler" from the package, where importing a submodule puts that
# submodule. It accepts objects that are callbacks only, so the object stands in for the module.
_module: Any = handler
sys.modules[__name__] = _module
