"""Deep copies of deployments, made by hand: a deployment is dicts, lists and plain values.

LiteLLM deep-copies every deployment of a wildcard group on each request, and every deployment that
it may mention in a log line whether or not anybody reads the log. The copies stay (callers change
them); `copy.deepcopy` is spared its detours by entries that know how to copy themselves.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_known, member

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["PRINT", "WILDCARDS", "SelfCopying", "install_print", "install_wildcards", "plain_copy"]

PRINT = "print_deployment"
WILDCARDS = "wildcards"

_ATOMS = frozenset({str, int, float, bool, type(None), bytes})


def plain_copy(value: Any, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy(value, memo)` returns, in a quarter of the time for plain data.

    Something that occurs twice is copied once, as there; anything but dicts, lists and atoms is left
    to `copy.deepcopy`.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict:
        known = memo.get(id(value))
        if known is not None:
            return known
        made: dict[Any, Any] = {}
        memo[id(value)] = made
        for key, item in value.items():
            made[key if type(key) in _ATOMS else copy.deepcopy(key, memo)] = (
                item if type(item) in _ATOMS else plain_copy(item, memo)
            )
        return made
    if kind is list:
        known = memo.get(id(value))
        if known is not None:
            return known
        items: list[Any] = []
        memo[id(value)] = items
        for item in value:
            items.append(item if type(item) in _ATOMS else plain_copy(item, memo))  # noqa: PERF401  # cycles
        return items
    return copy.deepcopy(value, memo)


class SelfCopying(dict):  # type: ignore[type-arg]
    """A deployment whose deep copy is a plain dict, made by `plain_copy`."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        """Called by `copy.deepcopy`."""
        made: dict[Any, Any] = {}
        for key, value in self.items():
            made[key] = plain_copy(value, memo)
        return made


def install_print(patches: PatchSet, core: type) -> list[str]:
    """Let `print_deployment` copy quickly."""
    found = member(core, "print_deployment")
    if found is None or not is_known(*found):
        return []

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def print_deployment(self: Any, deployment: Any) -> Any:
            return original(self, SelfCopying(deployment) if type(deployment) is dict else deployment)

        return print_deployment

    patches.replace(core, found[0], make)
    return [PRINT]


def install_wildcards(patches: PatchSet, pattern_router: type) -> list[str]:
    """Let a wildcard group's deployments be copied quickly.

    Args:
        patches: Where to register the replacement.
        pattern_router: LiteLLM's `PatternMatchRouter`.
    """
    found = member(pattern_router, "_return_pattern_matched_deployments")
    if found is None or not is_known(*found):
        return []

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _return_pattern_matched_deployments(self: Any, matched_pattern: Any, deployments: Any) -> Any:
            return original(
                self,
                matched_pattern,
                [SelfCopying(one) if type(one) is dict else one for one in deployments],
            )

        return _return_pattern_matched_deployments

    patches.replace(pattern_router, found[0], make)
    return [WILDCARDS]
