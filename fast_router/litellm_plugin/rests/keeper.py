"""Up to LiteLLM 1.109: how a Router is bound, and where its deployments rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.picks.binding import Binding, bind
from fast_router.litellm_plugin.rests.mirror import attach
from fast_router.litellm_plugin.rests.store import CacheRests

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rests.store import RestStore

__all__ = ["MethodsKeeper"]


class MethodsKeeper:
    """As of any band.

    Args:
        band: Whose Routers.
    """

    def __init__(self, band: Band) -> None:
        self._band = band

    def binding(self, core: Any) -> Binding:
        """The binding of a core, made now if it has none."""
        return bind(core, self._band)

    def new_binding(self, core: Any) -> Binding:
        """A binding for a core that has none, which hears of every rest from now on."""
        found = Binding(self._band, core)
        attach(found, core)
        return found

    def rest_store(self, core: Any) -> RestStore | None:
        """Where this LiteLLM keeps a core's cooldowns, None if it has no such place."""
        cache = self._band.read(core, "cooldown_cache")
        return None if cache is None else CacheRests(cache)

    def take_over_rests(self, core: Any) -> None:
        """Have everybody rest in our engine who cools down in LiteLLM's store."""
        attach(self.binding(core), core)

    def heed_holds(self, patches: PatchSet, alone: Callable[[], bool]) -> None:
        """Nothing to do: a filter of LiteLLM's sees to that for all."""

    def shuffle_alone(self, patches: PatchSet, alone: Callable[[], bool]) -> None:
        """Nothing to do: LiteLLM was told simple-shuffle."""

    def write_behind(self, core: Any) -> None:
        """Nothing to do: LiteLLM's Redis cache, by way of which a core writes, is registered."""

    def write_themselves(self) -> None:
        """Nothing to do, as for `write_behind`."""

    def admit_picks(self, patches: PatchSet, install: Callable[[PatchSet], object]) -> None:
        """Have every asynchronous pick admitted by the fleet: `install` puts that into the stack around picks."""
        install(patches)

    def ask_workers(self, patches: PatchSet, install: Callable[[PatchSet], object]) -> None:
        """Have a routing worker asked before every pick: `install` puts that into the stack around picks."""
        install(patches)
