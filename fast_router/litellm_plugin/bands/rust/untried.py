"""A LiteLLM newer than the last one tested: its core is steered if the self-test knows it again, else left alone.

The members that we hold on to are there, or the band would not have been made. What they do is tried by the first
request of each process. A core that walks otherwise is given back, and only the public hook stays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.methods import innermost
from fast_router.litellm_plugin.tally import LOGGER, tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

# Every walk and every pick outside of one begins here.
_ENTRIES = ("_drive", "_call_sync", "select")


def _first(original: Any, name: str, band: RustBand, give_back: Callable[[Any, str], None]) -> Any:
    def entry(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            why = band.self_test.why_not_steered(self)
            if why is not None:
                tally.count(tally.delegated, why)
                known = f"LiteLLM {band.version} is newer than the last one known here (1.110)"
                give_back(band, f"{known} and routes otherwise: {why}")
        except Exception as error:  # noqa: BLE001 - the request goes on
            tally.failed(error, "the self-test")
            why = "an error of ours"
        # Given back or not: none of our layers below may stand in its way.
        return (original if why is None else innermost(original))(self, *args, **kwargs)

    entry.__name__ = name
    return entry


def install(patches: PatchSet, band: RustBand, give_back: Callable[[Any, str], None]) -> None:
    """Have the first request of each process decide."""
    LOGGER.warning(
        "fast_router: LiteLLM %s is newer than the last one tested (1.110). A self-test at the first request decides "
        "what is on; upgrade fast-router, or pin litellm, to be sure.",
        band.version,
    )
    for name in _ENTRIES:
        patches.replace(band.core, name, partial(_first, name=name, band=band, give_back=give_back))
