"""An address or a key that is None is one that the caller has not given.

LiteLLM lets every argument of a request replace the deployment's own, None as well: the call then goes to the
provider's default address, with the deployment's key, or has no key at all. Wrappers that always hand their optional
arguments on mean nothing of the kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.callers import OWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install", "without_none"]

_METHOD = "_update_kwargs_with_deployment"


def install(patches: PatchSet, band: Band) -> None:
    """Leave them out of every attempt, where this LiteLLM prepares a request for its deployment."""
    if band.has(_METHOD):
        patches.replace(band.core, band.slot(_METHOD), without_none)


def without_none(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give the function that prepares an attempt's arguments for its deployment without them."""

    def update_kwargs_with_deployment(owner: Any, deployment: Any, kwargs: Any, *args: Any, **more: Any) -> Any:
        if not OWN.isdisjoint(kwargs):
            for name in OWN & kwargs.keys():
                if kwargs[name] is None:
                    del kwargs[name]
        return original(owner, deployment, kwargs, *args, **more)

    return update_kwargs_with_deployment
