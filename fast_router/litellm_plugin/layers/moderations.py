"""`Router.amoderation` with retries on other deployments.

LiteLLM picks a deployment for a moderation and calls it, outside of its loops of retries and fallbacks: all that is
left is the openai client's retrying of the same server. Here a moderation is a generic call of the Router, like
`aocr`, and goes on elsewhere once the client has given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_FACTORY = "_pass_through_moderation_endpoint_factory"
_GENERIC = "_ageneric_api_call_with_fallbacks"


def install(patches: PatchSet, band: Band) -> None:
    """Let moderations of listed models go through the Router's loops, where this LiteLLM has both functions."""
    if band.has(_FACTORY) and band.has(_GENERIC):
        patches.replace(band.core, band.slot(_FACTORY), lambda original: _moderation(original, band))


def _moderation(original: Any, band: Band) -> Any:
    async def _pass_through_moderation_endpoint_factory(self: Any, original_function: Any, **kwargs: Any) -> Any:
        model = kwargs.get("model")
        if not isinstance(model, str) or not getattr(self, band.slot("get_model_list"))(model_name=model):
            return await original(self, original_function, **kwargs)

        given = {key: value for key, value in kwargs.items() if value is not None and key != "model"}
        return await getattr(self, band.slot(_GENERIC))(model=model, original_function=original_function, **given)

    return _pass_through_moderation_endpoint_factory
