"""LiteLLM 1.110: whoever decides outside of this process whom a pick takes, asked before we choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.request import Attempt

__all__ = ["Assignment", "Elsewhere", "elsewhere"]


class Assignment(NamedTuple):
    """Whom somebody outside of this process has chosen for a pick.

    Attributes:
        id: The deployment.
        begun: Told once: which attempt was begun with it, None for none.
    """

    id: str
    begun: Callable[[Attempt | None], None]


class Elsewhere(Protocol):
    """Whoever decides outside of this process whom a pick takes, and has it assigned to the walk."""

    async def decide(
        self, band: RustBand, core: Any, step: Mapping[str, Any], request: Any, among: Sequence[str]
    ) -> str | None:
        """Tell whom the pick takes of `among`, which are ids; None to choose here.

        Raises:
            Exception: LiteLLM's own, for the caller: the request is refused.
        """

    def decide_sync(
        self, band: RustBand, core: Any, step: Mapping[str, Any], request: Any, among: Sequence[str]
    ) -> str | None:
        """The same; blocks this thread."""


elsewhere: list[Elsewhere] = []
"""Who is asked before we choose; the last one."""
