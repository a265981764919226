"""Pre-call checks: each deployment's static facts from memory instead of merged anew per request.

`_pre_call_checks` merges the price map into every candidate's model info, deep copy included, to
read one number; LiteLLM from 1.99 on does it a second time to decide whether tokens need counting.
Both run as they are, with remembered lookups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_known, member
from fast_router.litellm_plugin.overhead.lookups import Lookups, LookupService

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.bands.member_names import Names
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "install"]

FEATURE = "pre_call_checks"


def install(patches: PatchSet, names: Names, service: LookupService) -> list[str]:
    """Run `_pre_call_checks` and its token question with remembered lookups."""
    found = member(names.core, "_pre_call_checks")
    if found is None or not is_known(*found):
        return []

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def with_lookups(self: Any, *args: Any, **kwargs: Any) -> Any:
            return original(Lookups(self, service, names), *args, **kwargs)

        return with_lookups

    patches.replace(names.core, found[0], make)
    question = member(names.core, "_deployment_max_input_tokens")
    if question is not None:
        patches.replace(names.core, question[0], make)
    return [FEATURE]
