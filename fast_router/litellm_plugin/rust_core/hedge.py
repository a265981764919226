"""LiteLLM 1.110: a second attempt beside a slow first one, within one `attempt` step.

The Rust core has picked one deployment; the second attempt is made by a driver of its own, a copy that shares nothing
it writes to, with a deployment that we pick. Whoever answers first leaves its answer in the request's driver.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin import request as running_request
from fast_router.litellm_plugin.answers import is_cache_hit
from fast_router.litellm_plugin.layers import rescue, threads
from fast_router.litellm_plugin.layers.beside import Beside, beside, take_metadata
from fast_router.litellm_plugin.layers.hedge import raced
from fast_router.litellm_plugin.request import RequestLedger
from fast_router.litellm_plugin.rust_core import standing, steps
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

# What a driver says about its latest attempt.
_LEFT = ("_attempt_started", "_attempts", "_last_response", "_latest_call", "_served")
_LEFT_SYNC = ("_last_error", "_reading_first_chunk")
# What it writes about all of them: each copy has its own.
_BOOKS = ("_hop_first", "_level_errors", "_level_picks", "_pending_stamps", "_recorded_blocked")


class _Failed(Exception):  # noqa: N818 - an outcome on its way through the race
    def __init__(self, outcome: Mapping[str, Any]) -> None:
        super().__init__()
        self.outcome = outcome


class _Attempts:
    """The attempts of one `attempt` step.

    Args:
        band: This LiteLLM.
        make: Makes one, with a driver and a step, and gives its outcome.
        driver: That of the walk.
        step: What the core asks for.
        walk: Its walk.
    """

    def __init__(
        self,
        band: RustBand,
        make: Callable[[Any, Mapping[str, Any]], Awaitable[Any]],
        driver: Any,
        step: Mapping[str, Any],
        walk: steps.Walk,
    ) -> None:
        self._band = band
        self._make = make
        self._driver = driver
        self._step = step
        self._walk = walk
        self._copy: Any = None
        self._taken: str | None = None
        self.won: str | None = None

    @property
    def endpoint(self) -> str:
        return str(self._driver._plan.endpoint)

    @property
    def request(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._driver._request
        return found

    async def first(self) -> Any:
        return _answered(await self._make(self._driver, self._step))

    async def second(self) -> Any:
        fork = running_request.ledger.get()
        assert isinstance(fork, RequestLedger)
        walk = steps.Walk(self._walk.core, fork)
        running_request.set_aside(running_request.aside()._replace(walk=walk))
        try:
            taken = await steps.take_other(self._band, walk, self._step, self._driver._request, self._walk.kept)
            if taken is None:
                raise LookupError(self._step.get("model"))
            self._taken = taken.id
            deployment = self._driver._core._handle.deployment(taken.id)
            self._copy = _beside(self._driver)
            step = {**self._step, "deployment_id": taken.id, "deployment": deployment}
            return _answered(await self._make(self._copy, step))
        finally:
            walk.over()

    def is_cached(self, answer: Any) -> bool:  # noqa: ARG002 - the answer itself is with the driver
        return is_cache_hit(self._driver._last_response)

    def second_won(self) -> None:
        for name in _LEFT:
            setattr(self._driver, name, getattr(self._copy, name))
        take_metadata(self._driver._request, self._copy._request)
        self.won = self._taken


def _answered(outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    if outcome.get("ok") is not True:
        raise _Failed(outcome)
    return outcome


async def _booked(core: Any, outcome: Mapping[str, Any], id_: str) -> Mapping[str, Any]:
    """Have the success counted where the answer came from: the core would count it where it had sent the request."""
    if outcome.get("deferred"):
        return outcome  # a stream, which reports its own end
    try:
        await core._drive_cache_steps(core._handle.count_success(id_))
    except Exception as error:  # noqa: BLE001 - the answer is there: it must reach the caller
        tally.failed(error, "a hedge")
        return outcome
    return {**outcome, "deferred": True}


def _booked_sync(core: Any, outcome: Mapping[str, Any], id_: str) -> Mapping[str, Any]:
    """As `_booked`, through the synchronous cache."""
    if outcome.get("deferred"):
        return outcome
    try:
        core._drive_sync_steps(core._handle.count_success(id_))
    except Exception as error:  # noqa: BLE001 - the answer is there: it must reach the caller
        tally.failed(error, "a rescue")
        return outcome
    return {**outcome, "deferred": True}


def _beside(driver: Any) -> Any:
    copied = copy.copy(driver)
    copied._request = beside(driver._request)
    for name in _BOOKS:
        setattr(copied, name, copy.copy(getattr(driver, name)))
    walk = copied._walk = copy.copy(driver._walk)
    walk._request = copied._request
    walk._scopes = {
        key: type(scope)(dict(scope.metadata), dict(scope.kwargs)) for key, scope in driver._walk._scopes.items()
    }
    return copied


def _walk_to_race(core: Any) -> steps.Walk | None:
    """The walk that is running, if a second attempt may be made beside its next one."""
    walk = steps.current_walk()
    if walk is None or walk.kept is None or walk.ledger.hedge or walk.ledger.failover is None or steps.filters(core):
        return None
    return walk


def _attempt(original: Any, band: RustBand) -> Any:
    async def attempt(self: Any, step: Any) -> Any:
        options = settings.current()
        walk = _walk_to_race(self._core) if options.hedge_percent > 0 or options.rescue else None
        if walk is None:
            return await original(self, step)
        hedges = options.hedge_percent > 0 and not walk.ledger.attempts
        if not (hedges or options.rescue):
            return await original(self, step)
        made = _Attempts(band, original, self, step, walk)
        pair = walk.beside = Beside(made, walk.ledger, str(step.get("model")))
        try:
            first = made.first()
            stream = bool(self._request.get("stream"))
            if hedges:
                outcome = await raced(pair, first, stream=stream, is_cached=made.is_cached)
            else:
                outcome = await pair.run(first)
        except _Failed as failed:
            return failed.outcome
        finally:
            walk.beside = None
        return outcome if made.won is None else await _booked(self._core, outcome, made.won)

    return attempt


class _InThreads(_Attempts):
    """The attempts of one `attempt` step of a synchronous walk: one that is left behind writes into a copy."""

    async def first(self) -> Any:
        driver, copied = self._driver, copy.copy(self._driver)
        try:
            return _answered(await self._make(copied, self._step))
        finally:
            if not isinstance(sys.exc_info()[1], asyncio.CancelledError):
                for name in (*_LEFT, *_LEFT_SYNC):
                    setattr(driver, name, getattr(copied, name))


def _attempt_sync(original: Any, band: RustBand) -> Any:
    async def make(driver: Any, step: Mapping[str, Any]) -> Any:
        if not threads.room.acquire(blocking=False):
            raise threads.NoRoomError
        return await threads.elsewhere(lambda: original(driver, step))

    def attempt_sync(self: Any, step: Any) -> Any:
        walk = _walk_to_race(self._core) if threads.wanted() else None
        if walk is None:
            return original(self, step)
        made = _InThreads(band, make, self, step, walk)
        if not rescue.worth_twice(made):
            return original(self, step)

        async def race() -> Any:
            pair = walk.beside = Beside(made, walk.ledger, str(step.get("model")))
            try:
                return await pair.run(made.first())
            finally:
                walk.beside = None

        try:
            outcome = threads.waited(race())
        except threads.NoRoomError:
            return original(self, step)
        except _Failed as failed:
            return failed.outcome
        return outcome if made.won is None else _booked_sync(self._core, outcome, made.won)

    return attempt_sync


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Let first attempts be hedged where the options ask for it."""
    patches.replace(band.driver, "attempt", partial(_attempt, band=band))
    patches.replace(band.driver, "attempt_sync", partial(_attempt_sync, band=band))

    def adopt(changed: settings.Settings) -> None:
        standing.keep("hedging", "hedging" if changed.hedge_percent else None)

    rescue.install(patches)
    patches.on_restore(settings.on_change(adopt))
    patches.on_restore(lambda: standing.keep("hedging", None))
    adopt(settings.current())
    return ["hedging"]
