"""LiteLLM 1.110: requests without the walk of its core, wherever the walk would do nothing out of the ordinary."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.rust.band import OPS
from fast_router.litellm_plugin.rust_core.binding import lane_tellers
from fast_router.litellm_plugin.rust_core.lane import replay, select, straight, streams
from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
from fast_router.litellm_plugin.rust_core.lane.lane import Lane
from fast_router.litellm_plugin.rust_core.lane.parts import Parts
from fast_router.litellm_plugin.rust_core.lane.told import told

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]


def _asynchronous(original: Any, lane: Lane, endpoint: Endpoint) -> Any:
    op = endpoint.op

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args:
            kwargs = dict(lane.parts.request_from_call(op, args, kwargs))
        entered = lane.enter(self, endpoint, kwargs)
        if entered is None:
            return await original(self, **kwargs)
        return await lane.run(original, self, endpoint, entered)

    call.__name__ = op
    return call


def _synchronous(original: Any, lane: Lane, endpoint: Endpoint) -> Any:
    op = endpoint.op

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args:
            kwargs = dict(lane.parts.request_from_call(op, args, kwargs))
        entered = lane.enter(self, endpoint, kwargs)
        if entered is None:
            return original(self, **kwargs)
        return lane.run_sync(original, self, endpoint, entered)

    call.__name__ = op
    return call


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Serve ordinary requests of every Router in the lane."""
    parts = Parts()
    lane = Lane(band, parts)
    replay.install(patches, parts)
    straight.install(patches, lane)
    streams.install(patches, parts, lane.stream_attempt)
    endpoints = {op: Endpoint(op, parts.endpoints) for op in OPS}
    for op, endpoint in endpoints.items():
        make = _synchronous if endpoint.sync else _asynchronous
        patches.replace(band.core, op, partial(make, lane=lane, endpoint=endpoint))
    select.install(patches, lane, endpoints["acompletion"], endpoints["completion"])
    tell = partial(told, lane)
    lane_tellers.append(tell)
    patches.on_restore(partial(lane_tellers.remove, tell))
    return ["lane"]
