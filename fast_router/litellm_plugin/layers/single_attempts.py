"""Endpoints of a Router of which LiteLLM makes one attempt, retried on other deployments as all the rest.

LiteLLM picks a deployment for a moderation or a synchronous generic call (`responses`, `ocr`, `generate_content`, …)
and calls it, outside of its loops of retries and fallbacks: all that is left is what a provider's client repeats at the
same server. Here they go through those loops: a moderation as a generic call, like `aocr`; the synchronous ones as
`Router.completion` does, on a loop of their own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_MODERATION = "_pass_through_moderation_endpoint_factory"
_GENERIC = "_ageneric_api_call_with_fallbacks"
_SYNC_GENERIC = "_generic_api_call_with_fallbacks"
_LOOPS = "function_with_fallbacks"
_PREPARE = "_update_kwargs_before_fallbacks"


def install(patches: PatchSet, band: Band) -> None:
    """Let calls of listed models go through the Router's loops, where this LiteLLM has all that they need."""
    for name, needed, make in (
        (_MODERATION, (_GENERIC,), _moderation),
        (_SYNC_GENERIC, (_LOOPS, _PREPARE), _generic),
    ):
        if all(map(band.has, (name, *needed))):
            patches.replace(band.core, band.slot(name), partial(make, band=band))


def _listed(core: Any, band: Band, model: Any) -> bool:
    return isinstance(model, str) and bool(band.call(core, "get_model_list", model_name=model))


def _moderation(original: Any, band: Band) -> Any:
    async def _pass_through_moderation_endpoint_factory(self: Any, original_function: Any, **kwargs: Any) -> Any:
        if not _listed(self, band, kwargs.get("model")):
            return await original(self, original_function, **kwargs)
        given = {key: value for key, value in kwargs.items() if value is not None}
        return await band.call(self, _GENERIC, original_function=original_function, **given)

    return _pass_through_moderation_endpoint_factory


def _generic(original: Any, band: Band) -> Any:
    def _generic_api_call_with_fallbacks(self: Any, model: Any, original_function: Any, **kwargs: Any) -> Any:
        if not _listed(self, band, model):
            return original(self, model, original_function, **kwargs)

        def attempt(original_generic_function: Any, **request: Any) -> Any:
            return original(self, original_function=original_generic_function, **request)

        # By this LiteLLM knows where to keep its metadata: a provider has some of its own.
        attempt.__name__ = _SYNC_GENERIC
        band.call(self, _PREPARE, model=model, kwargs=kwargs, metadata_variable_name="litellm_metadata")
        request = {"model": model, "original_function": attempt, "original_generic_function": original_function}
        return band.call(self, _LOOPS, **{**kwargs, **request})

    return _generic_api_call_with_fallbacks
