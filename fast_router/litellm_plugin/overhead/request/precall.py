"""Pre-call checks: each deployment's static facts from memory instead of merged anew per request.

`_pre_call_checks` merges the price map into every candidate's model info, deep copy included, to
read one number; LiteLLM from 1.99 on does it a second time to decide whether tokens need counting.
Both run as they are, with remembered lookups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import member
from fast_router.litellm_plugin.overhead.feature import Feature
from fast_router.litellm_plugin.overhead.lookups import Lookups

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Run `_pre_call_checks` and its token question with remembered lookups."""
    names, service = parts.names, parts.service

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def with_lookups(self: Any, *args: Any, **kwargs: Any) -> Any:
            return original(Lookups(self, service, names), *args, **kwargs)

        return with_lookups

    patches.replace(names.core, parts.at("_pre_call_checks").name, make)
    question = member(names.core, "_deployment_max_input_tokens")
    if question is not None:
        patches.replace(names.core, question[0], make)
    return True


FEATURE = Feature(
    "pre_call_checks",
    "merges every candidate's model info anew, twice",
    "remembered",
    _install,
    needs=("_pre_call_checks",),
    remembers=True,
)
