"""Usage tracking: the verdict "no limit anywhere, nothing to count" reached once, not per request.

LiteLLM 1.106 calls `_increment_deployment_usage` twice per request; each call builds the deployment
anew and deep-copies its model info, in most fleets only to find that there is no limit. LiteLLM
1.109 remembers the verdict itself, up to 1.99 the success callback holds the code; both are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature
from fast_router.litellm_plugin.overhead.lookups import Lookups, LookupService

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Put the remembered verdict in front of `_increment_deployment_usage`, and of what asks it before an answer."""
    names, service, asking = parts.names, parts.service, "increment_deployment_usage_for_response"
    if parts.knows(asking):
        name = parts.at(asking).name
        patches.replace(names.core, name, lambda original: _for_response(original, names.core, service, parts.module))

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

    patches.replace(names.core, parts.at("_increment_deployment_usage").name, make)
    return True


def _for_response(original: Any, core: type, service: LookupService, module: ModuleType) -> Any:
    space = vars(module)
    mark = space["ROUTER_USAGE_COUNTED_TOKENS_METADATA_KEY"]

    def noted(router: Any, response: Any, request_kwargs: Any) -> bool:
        """Whether the answer's tokens only had to be noted in the request, which is done then."""
        if type(router) is not core or response is None:
            return False
        marks = space["find_deployment_metadata"](request_kwargs)
        group = request_kwargs.get("model")
        deployment_id = marks["model_info"]["id"]
        if type(deployment_id) is not str or type(group) is not str:
            return False
        if not service.untracked(router, deployment_id, group):
            return False
        marks[mark] = space["response_total_token_count"](response)
        return True

    async def increment_deployment_usage_for_response(self: Any, response: Any, request_kwargs: Any) -> None:
        try:
            if noted(self, response, request_kwargs):
                return
        except Exception:  # noqa: BLE001  # LiteLLM's own method knows what to do with it
            pass
        await original(self, response, request_kwargs)

    return increment_deployment_usage_for_response


FEATURE = Feature(
    "usage_verdict",
    "builds the deployment anew and deep-copies its model info, twice, to find that nothing limits it",
    "remembered; checked against the live entry and the price map's generation",
    _install,
    needs=("_increment_deployment_usage",),
    remembers=True,
)
