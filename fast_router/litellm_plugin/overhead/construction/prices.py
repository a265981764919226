"""When LiteLLM's price map changes: one number that every memo of prices and limits is keyed by.

`litellm.utils._invalidate_model_cost_lowercase_map` runs after every registration and reload. From
1.91 on it counts its own runs; for 1.83 a pass-through around it counts for us.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["PriceClock"]

_starts = count(step=2**40)
_COUNTER = "_model_cost_mutation_generation"


class PriceClock:
    """Reads the generation of `litellm.model_cost`.

    Args:
        utils: The module `litellm.utils`.
    """

    __slots__ = ("_names", "_own", "counts_itself")

    def __init__(self, utils: Any) -> None:
        self._names: dict[str, Any] = vars(utils)
        # A start of its own for every install: what changed in between was not counted.
        self._own = next(_starts)
        self.counts_itself = isinstance(self._names.get(_COUNTER), int)

    def now(self) -> int:
        """The number of changes so far; a different number means that prices may differ."""
        if self.counts_itself:
            generation: int = self._names[_COUNTER]
            return generation
        return self._own

    def watch(self, patches: PatchSet, utils: Any) -> None:
        """Count the invalidations ourselves where LiteLLM does not."""
        if self.counts_itself:
            return

        def make(original: Callable[[], None]) -> Callable[[], None]:
            def _invalidate_model_cost_lowercase_map() -> None:
                original()
                self._own += 1

            return _invalidate_model_cost_lowercase_map

        patches.replace(utils, "_invalidate_model_cost_lowercase_map", make)
