"""The gates of a rollout: around everything that steers a request, a question whose it is.

Every replacement of ours that changes where a request goes, how often it is tried or who rests gets a gate in front of
it: requests of LiteLLM's arm go to what was there before us. Replacements that only make LiteLLM cheaper, without a
difference that anyone could see, stay for both arms, but for those that spare LiteLLM's strategies their records: an
arm of LiteLLM's chooses by them, so they must know of all requests.

Gates stand only while a rollout is set: without one there is nothing in front of anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from fast_router.litellm_plugin.layers.wait import ON_A_LOOP
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.litellm_plugin.picks.replaced_selectors import all_replaced, before_choice
from fast_router.litellm_plugin.rests import apart
from fast_router.litellm_plugin.rollout.request import Request, alone, run, running
from fast_router.litellm_plugin.rollout.streams import observed
from fast_router.litellm_plugin.rollout.watching import Watching
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band

__all__ = ["Begin", "count", "install"]

Begin: TypeAlias = Callable[[Mapping[str, Any]], Request | None]
"""Gives the request that keyword arguments make, None while there is no rollout."""

_PLUGIN = "fast_router.litellm_plugin."
_STEERING = tuple(f"{_PLUGIN}{floor}." for floor in ("bands", "picks", "rests", "layers", "rust_core"))
# Names of strategies are for both arms, and what an operator holds is held for both.
_FOR_BOTH = (f"{_PLUGIN}picks.strategies_by_name", f"{_PLUGIN}rust_core.strategies_by_name", f"{_PLUGIN}picks.watch",
             f"{_PLUGIN}rests.by_operator")  # fmt: skip
_SPARING = f"{_PLUGIN}overhead.strategies.strategy_state"
# Construction and settings are not a request's; a synchronous request is told apart on LiteLLM's own loop.
_NEVER = frozenset({"__init__", "__setattr__", "__delattr__", "update_settings", "function_with_fallbacks"})


def install(patches: PatchSet, band: Band, begin: Begin) -> PatchSet:
    """Put the gates in front of what `patches` have replaced.

    Returns:
        The gates; `restore` takes them away.
    """
    gates = PatchSet()
    watching = Watching(patches, band)
    try:
        for selector in all_replaced():
            for hook in before_choice:
                hook(selector)  # what we know and it was spared, from before
        _separate_rests(gates, band)
        for owner, name, modules, original in patches.replaced():
            if name.removeprefix("_core_") in _NEVER or not inspect.isfunction(original):
                continue
            if any(module == _SPARING for module in modules):
                gates.replace(owner, name, partial(_always, original))
            elif any(module.startswith(_STEERING) and module not in _FOR_BOTH for module in modules):
                gates.replace(owner, name, partial(_gate, original))
        band.keeper.heed_holds(gates, alone)
        band.keeper.shuffle_alone(gates, alone)
        band.around_picks(gates, partial(_pick, begin, watching), partial(_pick_sync, begin, watching))
        band.around_own_attempts(gates, partial(_attempt, watching), partial(_attempt_sync, watching))
        band.around_whole_request(gates, partial(_request, begin), partial(_request_sync, begin))
    except BaseException:
        gates.restore()
        raise
    return gates


def count(band: Band, begin: Begin) -> PatchSet:
    """Put the gates around whole requests alone: each is told apart and counted, and nothing else about it changes.

    Returns:
        As `install`.
    """
    gates = PatchSet()
    try:
        band.around_whole_request(gates, partial(_request, begin), partial(_request_sync, begin))
    except BaseException:
        gates.restore()
        raise
    return gates


def _always(original: Any, _ours: Any) -> Any:
    """LiteLLM's own, whosever the request is."""
    if inspect.iscoroutinefunction(original):

        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            return await original(*args, **kwargs)

        return asynchronous

    def synchronous(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return synchronous


def _gate(original: Any, ours: Any) -> Any:
    """LiteLLM's own for its arm, ours for ours."""
    if inspect.iscoroutinefunction(original):

        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            return await (original if alone() else ours)(*args, **kwargs)

        return asynchronous

    def synchronous(*args: Any, **kwargs: Any) -> Any:
        return (original if alone() else ours)(*args, **kwargs)

    return synchronous


# -- who cools down ------------------------------------------------------------------------------------------


def _separate_rests(gates: PatchSet, band: Band) -> None:
    from litellm.router_utils.cooldown_cache import CooldownCache  # noqa: PLC0415 - LiteLLM is imported

    if band.has_cooldown_cache:
        for name in (
            "add_deployment_to_cooldown",
            "async_get_active_cooldowns",
            "get_active_cooldowns",
            "get_min_cooldown",
        ):
            if name in vars(CooldownCache):
                gates.replace(CooldownCache, name, _apart)


def _apart(ours: Any) -> Any:
    if inspect.iscoroutinefunction(ours):

        async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
            return await ours(self if alone() else apart.ours(self), *args, **kwargs)

        return asynchronous

    def synchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self if alone() else apart.ours(self), *args, **kwargs)

    return synchronous


# -- a whole request -----------------------------------------------------------------------------------------


@contextmanager
def _within(request: Request, failed: Callable[[BaseException], None] | None = None) -> Iterator[None]:
    """Let `request` be the one that runs, and tell `failed` of what is raised meanwhile."""
    outer = running()
    run(request)
    try:
        yield
    except BaseException as error:
        if failed is not None:
            failed(error)
        raise
    finally:
        run(outer)


def _begun(begin: Begin, arguments: Mapping[str, Any]) -> Request | None:
    """The request that begins here, None for what belongs to one that is running."""
    if running() is not None:
        return None
    try:
        return begin(arguments)
    except Exception as error:  # noqa: BLE001 - it is made as without a rollout
        tally.failed(error, "a rollout")
        return None


def _ended(request: Request, response: Any) -> Any:
    try:
        return observed(response, request)
    except Exception as error:  # noqa: BLE001 - the answer is there: it must reach the caller
        tally.failed(error, "the end of a request of a rollout")
        return response


def _request(begin: Begin, ours: Any) -> Any:
    async def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _begun(begin, _arguments(args, kwargs))
        if begun is None:
            return await ours(self, *args, **kwargs)
        if begun.alone:
            kwargs.pop(ON_A_LOOP, None)
        with _within(begun, begun.broken):
            response = await ours(self, *args, **kwargs)
        return _ended(begun, response)

    return request


def _request_sync(begin: Begin, ours: Any) -> Any:
    def request(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _begun(begin, _arguments(args, kwargs))
        if begun is None:
            return ours(self, *args, **kwargs)
        with _within(begun, begun.broken):
            response = ours(self, *args, **kwargs)
        return _ended(begun, response)

    return request


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request's keyword arguments, wherever a method gets them."""
    found = (each for each in (kwargs, *args) if isinstance(each, Mapping) and "model" in each)
    return next(found, kwargs)


# -- LiteLLM's own picks and attempts ------------------------------------------------------------------------


def _own(begin: Begin, watching: Watching, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request | None:
    """The request of LiteLLM's arm that a pick is for, None for ours.

    A pick outside any request is in an arm as well; nobody will tell how it goes, so it is not counted.
    """
    request = running() or _begun(begin, watching.request_of(args, kwargs))
    return request if request is not None and request.alone else None


def _pick(begin: Begin, watching: Watching, original: Any, ours: Any) -> Any:
    async def pick(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = _own(begin, watching, args, kwargs)
        if request is None:
            return await ours(self, *args, **kwargs)
        with _within(request):
            picked = await original(self, *args, **kwargs)
        if running() is request:
            watching.picked(self, request, picked, args, kwargs)
        return picked

    return pick


def _pick_sync(begin: Begin, watching: Watching, original: Any, ours: Any) -> Any:
    def pick(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = _own(begin, watching, args, kwargs)
        if request is None:
            return ours(self, *args, **kwargs)
        with _within(request):
            picked = original(self, *args, **kwargs)
        if running() is request:
            watching.picked(self, request, picked, args, kwargs)
        return picked

    return pick


def _attempt(watching: Watching, ours: Any) -> Any:
    async def attempt(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = running()
        if request is None or not request.alone:
            return await ours(self, *args, **kwargs)
        watching.begins(self, request, args)
        with _within(request, request.failed):
            answer = await ours(self, *args, **kwargs)
        watching.answered(self, request, answer)
        return answer

    return attempt


def _attempt_sync(watching: Watching, ours: Any) -> Any:
    def attempt(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = running()
        if request is None or not request.alone:
            return ours(self, *args, **kwargs)
        watching.begins(self, request, args)
        with _within(request, request.failed):
            answer = ours(self, *args, **kwargs)
        watching.answered(self, request, answer)
        return answer

    return attempt
