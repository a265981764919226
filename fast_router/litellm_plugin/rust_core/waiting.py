"""LiteLLM 1.110: waiting for a deployment to come back, and outlasting an outage, with `max_wait`.

The Rust core asks who cools down before each pick; where all do, our answer comes when the first of them is back. A
request that everybody has failed is made again as a whole (`_drive`, `_call_sync`), with the same ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin.layers.outage import blocking_turn
from fast_router.litellm_plugin.layers.wait import Turns, outlasting, waiting_of
from fast_router.litellm_plugin.rust_core import cooldown_reads, steps
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine.failover.waiting import Ticket
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.steps import Walk

__all__ = ["install"]


# -- before a pick -------------------------------------------------------------------------------------------


def _take_events(original: Any) -> Any:
    def take_events(self: Any, events: Any) -> Any:
        walking = steps.current_walk()
        if walking is not None and events and settings.current().max_wait:
            for event in events:
                if event.get("kind") == "pick_started":
                    # The next question about cooldowns is this pick's.
                    walking.picks_for = self._request
        return original(self, events)

    return take_events


def _answer_cache(original: Any, band: RustBand) -> Any:
    async def _answer_cache(self: Any, step: Any) -> Any:
        waits = _waits(band, self, step)
        if waits is not None:
            walking, coroutine = waits
            try:
                walking.hold(*await coroutine)
            except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
                tally.failed(error, "waiting for a deployment")
        return await original(self, step)

    return _answer_cache


def _answer_cache_sync(original: Any, band: RustBand) -> Any:
    def _answer_cache_sync(self: Any, step: Any) -> Any:
        waits = _waits(band, self, step)
        if waits is not None:
            walking, coroutine = waits
            try:
                # In a loop of its own, in this thread.
                walking.hold(*asyncio.run(coroutine))
            except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
                tally.failed(error, "waiting for a deployment")
        return original(self, step)

    return _answer_cache_sync


def _waits(
    band: RustBand, core: Any, step: Mapping[str, Any]
) -> tuple[Walk, Coroutine[Any, Any, tuple[Any, Ticket | None]]] | None:
    """What to wait for before this step is answered: for the deployments that a pick is about to be made from."""
    walking = steps.current_walk()
    if walking is None or walking.picks_for is None or not walking.ledger.may_wait:
        return None
    ids = cooldown_reads.ids_of(step)
    if not ids:
        return None
    request, walking.picks_for = walking.picks_for, None
    try:
        binding = binding_of(band, core)
        first = binding.engine.deployments.get(ids[0])
        group = None if first is None else binding.router.groups.get(first.name)
        waiting = waiting_of(core)
        if group is None or waiting is None or not set(ids) <= {member.id for member in group.members}:
            return None
        queue = waiting.queue(group)
        seconds = waiting.left(request, settings.current().max_wait)

        async def wait() -> tuple[Any, Ticket | None]:
            return Turns(waiting, queue), await waiting.wait(group, queue, seconds, request)

    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
        tally.failed(error, "waiting for a deployment")
        return None
    return walking, wait()


# -- the whole request ---------------------------------------------------------------------------------------


def _drive(original: Any) -> Any:
    async def _drive(self: Any, plan: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if not settings.current().max_wait or kwargs.get("passthrough") is not None:
            return await original(self, plan, request, *args, **kwargs)
        ledger = steps.new_ledger(self, request)

        async def call(again: Mapping[str, Any]) -> Any:
            with steps.carrying(ledger):
                return await original(self, plan, again, *args, **kwargs)

        return await outlasting(self, call, dict(request), ledger)

    return _drive


def _call_sync(original: Any) -> Any:
    def _call_sync(self: Any, plan: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if not settings.current().max_wait or steps.on_a_loop():
            return original(self, plan, request, *args, **kwargs)
        ledger = steps.new_ledger(self, request)

        async def call(again: Mapping[str, Any]) -> Any:
            with steps.carrying(ledger):
                return original(self, plan, again, *args, **kwargs)

        return _without_a_loop(outlasting(self, call, dict(request), ledger, blocking_turn))

    return _call_sync


def _without_a_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that blocks instead of suspending."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    coroutine.close()
    msg = "a synchronous request was suspended"
    raise RuntimeError(msg)


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Let picks wait where `max_wait` asks for it, and requests outlast an outage."""
    patches.replace(band.driver, "take_events", _take_events)
    for name, make in (
        ("_answer_cache", partial(_answer_cache, band=band)),
        ("_answer_cache_sync", partial(_answer_cache_sync, band=band)),
        ("_drive", _drive),
        ("_call_sync", _call_sync),
    ):
        patches.replace(band.core, name, make)
    return ["waiting"]
