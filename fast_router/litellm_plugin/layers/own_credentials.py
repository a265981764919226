"""A caller's own key or address serves that caller alone.

LiteLLM makes a deployment of what a caller brings along (`api_key`, `api_base`, `base_url`). Up to 1.99 it enters that
into the group, for good: other callers' requests, prompts and all, then go to that address, or fail with that key. From
1.106 on it keeps only the price; so it is done here, wherever LiteLLM enters it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fast_router.litellm_plugin.request import aside, set_aside
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_MAKES: Final = "_handle_clientside_credential"
_ENTERS: Final = "upsert_deployment"


def install(patches: PatchSet, band: Band) -> None:
    """Keep a caller's own deployment out of the model list, where this LiteLLM would enter it."""
    makes, enters = band.slot(_MAKES), band.slot(_ENTERS)
    code = getattr(getattr(band.core, makes, None), "__code__", None)
    if code is None or enters not in code.co_names:
        return
    patches.replace(band.core, makes, _make)
    patches.replace(band.core, enters, _enter)


def _make(original: Any) -> Any:
    def _handle_clientside_credential(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = aside()
        set_aside(outer._replace(enters_own=True))
        try:
            return original(self, *args, **kwargs)
        finally:
            set_aside(outer)

    return _handle_clientside_credential


def _enter(original: Any) -> Any:
    def upsert_deployment(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not aside().enters_own:
            return original(self, *args, **kwargs)
        deployment = kwargs.get("deployment", args[0] if args else None)
        try:
            _keep_price(deployment)
        except Exception as error:  # noqa: BLE001 - the call costs what its model costs, then
            tally.failed(error, "the price of a caller's own deployment")
        return deployment

    return upsert_deployment


def _keep_price(deployment: Any) -> None:
    """Let LiteLLM know what calls with the caller's own key cost, if the operator's deployment has its own prices."""
    import litellm  # noqa: PLC0415 - it is imported: its Router runs
    from litellm.types.utils import CustomPricingLiteLLMParams  # noqa: PLC0415

    info = deployment.model_info.model_dump(exclude_none=True)
    fields = CustomPricingLiteLLMParams.model_fields
    prices = {name: value for name in fields if (value := deployment.litellm_params.get(name)) is not None}
    if prices or not info.keys().isdisjoint(fields):
        litellm.register_model(model_cost={deployment.model_info.id: {**info, **prices}})
