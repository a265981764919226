"""The price map's case-insensitive index, extended instead of built anew.

Every registration throws the index away, and the next lookup builds it from all 7,000 and more
names: most of the time that constructing a Router takes, growing with every deployment. A Python
dict keeps the order of insertion, so if the name that was last is still at its place, the names
before it are as they were and only those behind it are new.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "LowercaseIndex"]


class LowercaseIndex:
    """Lower-case name → name, for a dict that mostly grows."""

    __slots__ = ("_count", "_last", "_map", "_source")

    def __init__(self) -> None:
        self._source: Any = None
        self._map: dict[str, str] = {}
        self._count = 0
        self._last: Any = None

    def of(self, source: dict[str, Any]) -> dict[str, str]:
        """``{name.lower(): name for name in source}``; extends its last answer where it may.

        A removal in front of the remembered end moves the end; it is noticed, and everything is built
        anew. (A removal and the re-insertion of the end in one step would not be; LiteLLM itself
        builds anew when a lookup meets such a stale name, and asks for `rebuild`.)
        """
        size = len(source)
        if source is self._source and size >= self._count:
            behind = size - self._count
            fresh = list(islice(reversed(source), behind + 1))
            if self._count == 0 or fresh[behind] == self._last:
                for name in reversed(fresh[:behind]):
                    self._map[name.lower()] = name
                self._note(source, size, fresh[0] if fresh else None)
                return self._map
        return self.rebuild(source)

    def rebuild(self, source: dict[str, Any]) -> dict[str, str]:
        """Build the index from nothing."""
        names = tuple(source)
        self._map = {name.lower(): name for name in names}
        self._note(source, len(names), names[-1] if names else None)
        return self._map

    def _note(self, source: Any, count: int, last: Any) -> None:
        self._source, self._count, self._last = source, count, last


def _install(patches: PatchSet, parts: Parts) -> bool:
    litellm, space = parts.litellm, vars(parts.utils)
    index = LowercaseIndex()

    def make(original: Callable[[], dict[str, str]]) -> Callable[[], dict[str, str]]:
        def _rebuild_model_cost_lowercase_map() -> dict[str, str]:
            try:
                # An index that is still there was found to be stale by the caller.
                stale = space["_model_cost_lowercase_map"] is not None
                source = litellm.model_cost
                made = index.rebuild(source) if stale else index.of(source)
            except Exception:  # noqa: BLE001  # e.g. the map grew meanwhile on another thread
                return original()
            space["_model_cost_lowercase_map"] = made
            return made

        return _rebuild_model_cost_lowercase_map

    patches.replace(parts.utils, "_rebuild_model_cost_lowercase_map", make)
    return True


FEATURE = Feature(
    "price_map",
    "rebuilds an index of every known model's name after every registration",
    "extends it: most of the time of constructing a Router",
    _install,
    needs=("_rebuild_model_cost_lowercase_map",),
    seam=None,
)
