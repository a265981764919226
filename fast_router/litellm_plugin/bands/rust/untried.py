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
    from fast_router.litellm_plugin.bands.rust.self_test import SelfTest
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

# Every walk and every pick outside of one begins here.
_ENTRIES = ("_drive", "_call_sync", "select")


def _first(original: Any, name: str, version: str, test: SelfTest, give_back: Callable[[str], None]) -> Any:
    def entry(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            why = test.why_not_steered(self)
            if why is not None:
                tally.count(tally.delegated, why)
                known = f"LiteLLM {version} is newer than the last one known here (1.110)"
                give_back(f"{known} and routes otherwise: {why}")
        except Exception as error:  # noqa: BLE001 - the request goes on
            tally.failed(error, "the self-test")
            why = "an error of ours"
        # Given back or not: none of our layers below may stand in its way.
        return (original if why is None else innermost(original))(self, *args, **kwargs)

    entry.__name__ = name
    return entry


def install(patches: PatchSet, core: type, version: str, test: SelfTest, give_back: Callable[[str], None]) -> None:
    """Have the first request of each process decide.

    Args:
        patches: Those of this `enable()`.
        core: The class of the cores.
        version: LiteLLM's.
        test: What the core of this process has shown.
        give_back: Takes everything out again, for a reason.
    """
    LOGGER.warning(
        "fast_router: LiteLLM %s is newer than the last one tested (1.110). A self-test at the first request decides "
        "what is on; upgrade fast-router, or pin litellm, to be sure.",
        version,
    )
    for name in _ENTRIES:
        patches.replace(core, name, partial(_first, name=name, version=version, test=test, give_back=give_back))
