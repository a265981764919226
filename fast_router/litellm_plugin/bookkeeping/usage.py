"""Usage tracking: the verdict "no limit anywhere, nothing to count" reached once, not per request.

LiteLLM 1.106 calls `_increment_deployment_usage` twice per request; each call builds the deployment
anew and deep-copies its model info, in most fleets only to find that there is no limit. LiteLLM
1.109 remembers the verdict itself, up to 1.99 the success callback holds the code; both are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bookkeeping.lookups import Lookups, LookupService
from fast_router.litellm_plugin.bookkeeping.shapes import is_known, member

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.bookkeeping.names import Names
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "install"]

FEATURE = "usage_verdict"


def install(patches: PatchSet, names: Names, service: LookupService) -> list[str]:
    """Put the remembered verdict in front of `_increment_deployment_usage`."""
    found = member(names.core, "_increment_deployment_usage")
    if found is None or not is_known(*found):
        return []

    def make(original: Callable[..., Awaitable[str | None]]) -> Callable[..., Awaitable[str | None]]:
        async def _increment_deployment_usage(
            self: Any, *, deployment_id: str, model_group: str, **more: Any
        ) -> str | None:
            try:
                if service.untracked(self, deployment_id, model_group):
                    return None
                instead: Any = Lookups(self, service, names)
            except Exception:  # noqa: BLE001  # an error of ours must not reach the request
                instead = self
            return await original(instead, deployment_id=deployment_id, model_group=model_group, **more)

        return _increment_deployment_usage

    patches.replace(names.core, found[0], make)
    return [FEATURE]
