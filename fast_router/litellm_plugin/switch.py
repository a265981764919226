"""The switch's state: what is wanted, what is patched, and what is not and why."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["WATCHED", "Switch", "switch"]


WATCHED = "litellm.router"


class Switch:
    """The state behind `enable`, `disable` and `status`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.wanted = False
        self.watching = False
        self.enabled = False
        self.band: Band | None = None
        self.patches: PatchSet | None = None
        self.features: list[str] = []
        self.skipped: dict[str, str] = {}
        self.stuck: list[str] = []
        self.warned = False
        # While off: whether names that LiteLLM lacks may be translated, and what does it.
        self.names_wanted = True
        self.names: PatchSet | None = None


switch = Switch()
