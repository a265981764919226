"""LiteLLM 1.110: how a Router is bound, and where its deployments rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.rust_core import limits, rests, strategies_by_name
from fast_router.litellm_plugin.rust_core.binding import RustBinding, binding_of
from fast_router.litellm_plugin.rust_core.redis_handles import RedisHandles

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rests.store import RestStore

__all__ = ["RustKeeper"]


class RustKeeper:
    """As of any band.

    Args:
        band: Whose Routers.
    """

    def __init__(self, band: RustBand) -> None:
        self._band = band
        self._handles = RedisHandles()

    def binding(self, core: Any) -> RustBinding:
        """The binding of a core, made now if it has none, with the deployments as they are."""
        return binding_of(self._band, core)

    def new_binding(self, core: Any) -> RustBinding:
        """As of any band; the deployments are known from the beginning."""
        found = RustBinding(self._band, core)
        found.refresh(core)
        return found

    def rest_store(self, core: Any) -> RestStore | None:
        """As of any band."""
        return rests.NativeRests(core)

    def take_over_rests(self, core: Any) -> None:
        """As of any band."""
        rests.attach(self.binding(core), core)

    def heed_holds(self, patches: PatchSet, alone: Callable[[], bool]) -> None:
        """As of any band: the core is told that they cool down."""
        rests.heed_holds(patches, self._band, alone)

    def shuffle_alone(self, patches: PatchSet, alone: Callable[[], bool]) -> None:
        """As of any band: the core is told so with each request."""
        strategies_by_name.shuffle_alone(patches, self._band, alone)

    def write_behind(self, core: Any) -> None:
        """As of any band: the native stores send commands of their own, and not by way of LiteLLM's Redis cache."""
        self._handles.put_before(core)

    def write_themselves(self) -> None:
        """As of any band."""
        self._handles.take_away()

    def admit_picks(self, patches: PatchSet, install: Callable[[PatchSet], object]) -> None:  # noqa: ARG002 - no such method
        """As of any band, where the core's steps are answered."""
        limits.install_strict(patches, self._band)

    def ask_workers(self, patches: PatchSet, install: Callable[[PatchSet], object]) -> None:  # noqa: ARG002 - no such method
        """As of any band, where the core's steps are answered."""
        # Not before somebody asks for it: it needs Celery.
        from fast_router.litellm_plugin.rust_core import routing_worker  # noqa: PLC0415

        routing_worker.install(patches, self._band)
