"""A share of the traffic for us, the rest for LiteLLM's own code in the same process; or all of it, and we watch.
Or all of it for us, a share of it by another strategy.

Nothing but this module is loaded until `rollout` or `experiment` is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.settings.rollout import EVERYTHING

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rollout.trial import Lifecycle

__all__ = ["install", "report"]

_standing: list[Lifecycle] = []


def install(patches: PatchSet, band: Band) -> None:
    """Follow the settings `rollout` and `experiment` for as long as `patches` are on."""
    made: list[Lifecycle] = []

    def follow(options: settings.Settings) -> None:
        if not made:
            if options.rollout == EVERYTHING and not options.experiment:
                return
            from fast_router.litellm_plugin.rollout.trial import Lifecycle  # noqa: PLC0415 - most never need it

            made.append(Lifecycle(patches, band))
            _standing.append(made[0])
        made[0].apply(options)

    stop = settings.on_change(follow)

    def undo() -> None:
        stop()
        for lifecycle in made:
            lifecycle.end()
            _standing.remove(lifecycle)

    patches.on_restore(undo)
    follow(settings.current())


def report() -> dict[str, Any]:
    """What is under way by its name, `rollout` or `experiment`; empty if nothing is."""
    return _standing[-1].report() if _standing else {}
