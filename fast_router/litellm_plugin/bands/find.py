"""Which band a LiteLLM belongs to."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from fast_router.litellm_plugin.bands import methods

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band

__all__ = ["find_band"]

# From there on nobody has looked: a self-test decides.
_UNTRIED = (1, 111)


def find_band(router_module: ModuleType) -> Band:
    """Look at a LiteLLM.

    Args:
        router_module: `litellm.router`.

    Raises:
        UnknownBandError: Members that the plugin needs are not there.
    """
    version = methods.litellm_version()
    parts = methods.numbers_of(version)
    if parts >= methods.RUST:
        from fast_router.litellm_plugin.bands.rust.band import RustBand  # noqa: PLC0415 - older ones have no such core

        return RustBand(router_module, version, newer=parts >= _UNTRIED)
    return methods.Band(router_module)
